#!/usr/bin/env bash
# `make up`: start Havre in the background and, where containers run, deliver the example from Git. Both can be repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
havre up --detach
[[ $(id -u) == 0 ]] || exit 0
KUBECONFIG=$(havre kubeconfig --path)
export KUBECONFIG
echo
echo "the example, examples/hello:"
python examples/hello/run.py --repository "$(dirname "$(dirname "$KUBECONFIG")")/examples/hello"
echo
kubectl get nodes,gitrepositories,kustomizations,helmreleases,pods -A
