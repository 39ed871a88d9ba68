"""The suite against a machine that is up, each test in a process of its own: run.py DIRECTORY [REGEX].

    python -m tools.conformance.run results '\\[sig-node\\]' --kubeconfig admin.kubeconfig

Tests marked [Serial] run alone, after the others. What comes out is DIRECTORY/results.json (name → state, seconds,
message), a log for each test, and a table. `--state failed` runs again what failed, `--state new` what never ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PEERS = Path(os.environ.get("PEERS") or Path(tempfile.gettempdir()) / "peers/bin")
FLAGS = (
    "--provider=skeleton",
    "--num-nodes=1",
    "--dump-logs-on-failure=false",
    "--ginkgo.no-color",
    "--ginkgo.v",
    "--ginkgo.grace-period=10s",
)
_SIG = re.compile(r"\[(sig-[a-z-]+)\]").match


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test ended."""

    state: str  # passed, failed, timedout, skipped …; killed when the process had to be ended
    seconds: float
    message: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("regex", nargs="?", default=".")
    parser.add_argument("--exclude", default="$.")
    parser.add_argument("--kubeconfig", type=Path, default=os.environ.get("KUBECONFIG"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=180, help="of each test")
    parser.add_argument("--state", choices=["all", "new", "failed"], default="all")
    options = parser.parse_intermixed_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    record = options.directory / "results.json"
    results: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    wanted = [
        name
        for name in names(options.directory)
        if re.search(options.regex, name)
        and not re.search(options.exclude, name)
        and _due(results, name, options.state)
    ]
    for alone in (False, True):
        chosen = [name for name in wanted if ("[Serial]" in name) == alone]
        with ThreadPoolExecutor(1 if alone else options.jobs) as pool:
            running = {pool.submit(run, name, options): name for name in chosen}
            for done in as_completed(running):
                results[running[done]] = asdict(done.result())
                record.write_text(json.dumps(results, indent=1, sort_keys=True))
    print(table(results))


def _due(results: dict[str, Any], name: str, state: str) -> bool:
    if state == "all":
        return True
    return name not in results if state == "new" else results.get(name, {"state": "passed"})["state"] != "passed"


def names(directory: Path) -> list[str]:
    """Every conformance test of the program."""
    report = directory / "names.json"
    if not report.exists():
        command = [str(PEERS / "e2e.test"), "--provider=skeleton", "--ginkgo.dry-run"]
        command += [r"--ginkgo.focus=\[Conformance\]", f"--ginkgo.json-report={report.absolute()}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    found = _specs(report)
    return sorted(name for name, spec in found.items() if spec["State"] != "skipped")


def _specs(report: Path) -> dict[str, Any]:
    suites = json.loads(report.read_text())
    specs = [spec for suite in suites for spec in suite["SpecReports"] or ()]
    return {
        " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]]): spec
        for spec in specs
        if spec["LeafNodeType"] == "It"
    }


def run(name: str, options: argparse.Namespace) -> Outcome:
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:150]
    report = (options.directory / f"{slug}.json").absolute()
    report.unlink(missing_ok=True)
    command = [str(PEERS / "e2e.test"), *FLAGS, f"--kubeconfig={options.kubeconfig}"]
    command += [f"--ginkgo.focus={re.escape(name)}".replace("\\ ", " "), f"--ginkgo.timeout={options.seconds}s"]
    command += [f"--ginkgo.json-report={report}"]
    began = time.monotonic()
    with (options.directory / f"{slug}.log").open("w") as log:
        try:
            subprocess.run(command, stdout=log, stderr=log, timeout=options.seconds + 40, check=False)
        except subprocess.TimeoutExpired:
            return _told(name, Outcome("killed", time.monotonic() - began))
    spec = _specs(report).get(name) if report.exists() else None
    if spec is None:
        return _told(name, Outcome("absent", time.monotonic() - began, "the report does not name it"))
    message = (spec.get("Failure") or {}).get("Message", "")
    return _told(name, Outcome(spec["State"], round(spec["RunTime"] / 1e9, 1), message[:2000]))


def _told(name: str, outcome: Outcome) -> Outcome:
    line = "" if outcome.state == "passed" else "\n    " + " / ".join(outcome.message.splitlines())[:600]
    print(f"{time.strftime('%H:%M:%S')} {outcome.state:8} {outcome.seconds:6.1f} s  {name}{line}", flush=True)
    return outcome


def table(results: dict[str, Any]) -> str:
    """Counts by group."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, outcome in results.items():
        found = _SIG(name)
        counts[found[1] if found else "?"][outcome["state"]] += 1
    rows = [(sig, counted["passed"], _others(counted.items())) for sig, counted in sorted(counts.items())]
    rows.append(("all", sum(row[1] for row in rows), ""))
    return "\n".join(f"{sig:22} {passed:4} passed  {others}" for sig, passed, others in rows)


def _others(counted: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counted if state != "passed")


if __name__ == "__main__":
    main()
