#!/usr/bin/env bash
# All tiers of tests, cheapest first, with one closing line `N passed, N failed, N skipped`.
#
#   tools/test.sh [TIER…]     unit contract kernel compat e2e; a tier without tests is passed over
#
# Referees that are not installed (a real kube-apiserver) make their tests skip, with the reason in the report.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/clients.d:$PATH"
tiers=("$@")
((${#tiers[@]})) || tiers=(unit contract kernel compat e2e)

passed=0 failed=0 skipped=0 broken=0
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
for tier in "${tiers[@]}"; do
  compgen -G "tests/$tier/**/test_*.py" >/dev/null || find "tests/$tier" -name 'test_*.py' 2>/dev/null | grep -q . || continue
  echo "== $tier"
  parallel=(-n 2 --dist loadfile)
  [[ $tier == kernel || $tier == e2e ]] && parallel=(-n 0)
  [[ $tier == e2e ]] && parallel+=(-p no:randomly) # the tests of one machine tell a story, in their order
  .venv/bin/pytest "tests/$tier" -q "${parallel[@]}" --junitxml="$reports/$tier.xml"
  status=$?
  ((status == 0 || status == 5)) || broken=1
done
read -r passed failed skipped < <(.venv/bin/python - "$reports" <<'PY'
import sys, pathlib, xml.etree.ElementTree as tree
total = [0, 0, 0]
for report in pathlib.Path(sys.argv[1]).glob("*.xml"):
    for suite in tree.parse(report).iter("testsuite"):
        tests, bad, skips = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors")), int(suite.get("skipped"))
        total = [total[0] + tests - bad - skips, total[1] + bad, total[2] + skips]
print(*total)
PY
)
if ((broken && failed == 0)); then
  failed=1 # a tier that ended without a verdict has failed
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
