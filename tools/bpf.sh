#!/usr/bin/env bash
# Compile every *.bpf.c of the package to the *.bpf.o beside it (they are committed, so that users need no compiler).
#
#   tools/bpf.sh            compile all
#   tools/bpf.sh --check    compile to a temporary folder and compare with what is committed
#
# Needs Debian's clang-14, llvm-14, libbpf-dev and linux-libc-dev. The objects carry BTF; they use only the kernel's
# stable headers, so they run on every kernel that has the helpers, and the same compiler makes the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
clang=${CLANG:-clang-14} strip=${STRIP:-llvm-strip-14}
headers=/usr/include/$(gcc -print-multiarch 2>/dev/null || echo "$(uname -m)-linux-gnu")

compile() { # source target
  "$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -fdebug-prefix-map="$PWD=." -I"$headers" -c "$1" -o "$2"
  "$strip" --strip-debug "$2" # the debugger's sections go, BTF stays
}

status=0
while read -r source; do
  target=${source%.c}.o
  if [[ ${1:-} == --check ]]; then
    made=$(mktemp)
    compile "$source" "$made"
    cmp -s "$made" "$target" || { echo "$target is not what $source makes: run tools/bpf.sh" >&2; status=1; }
    rm -f "$made"
  else
    compile "$source" "$target"
    echo "$target $(stat -c %s "$target") bytes"
  fi
done < <(find src -name '*.bpf.c' | sort)
exit $status
