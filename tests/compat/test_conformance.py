"""Kubernetes' own conformance suite as referee: the quick tests that pass without a node, on a server of their own.

tests/data/conformance.txt holds their names, a line each. The suite is one large program, `e2e.test`, which
docs/reference/conformance.md tells how to build; it is looked for in $PEERS (peers/bin in the temporary directory).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compat.conftest import havre

NAMES = (Path(__file__).parent.parent / "data/conformance.txt").read_text().splitlines()
BIN = Path(os.environ.get("PEERS") or Path(tempfile.gettempdir()) / "peers/bin")
SECONDS = 240  # of the whole run: about 60 on an idle machine with two cores
FLAGS = (
    "--provider=skeleton",
    "--num-nodes=0",
    "--allowed-not-ready-nodes=-1",  # does not wait for nodes
    "--node-schedulable-timeout=1s",
    "--system-pods-startup-timeout=1s",
    "--dump-logs-on-failure=false",
    "--ginkgo.no-color",
)
Report = dict[str, tuple[str, str]]  # name → state, and why

pytestmark = pytest.mark.timeout(SECONDS + 60)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """One run of all tests; starting the suite alone takes three seconds."""
    program = BIN / "e2e.test"
    if not program.exists():
        pytest.skip(f"{program} is missing; docs/reference/conformance.md tells how to build it")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which some of the tests call, is not on the PATH")
    directory = tmp_path_factory.mktemp("conformance")
    with havre(directory / "data") as kubeconfig, (directory / "e2e.log").open("w") as log:
        focus = "|".join(re.escape(name).replace("\\ ", " ") for name in NAMES)
        command = [str(program), *FLAGS, f"--kubeconfig={kubeconfig}", f"--ginkgo.focus={focus}"]
        command += [f"--ginkgo.json-report={directory}/report.json", f"--ginkgo.timeout={SECONDS}s"]
        subprocess.run(command, stdout=log, stderr=log, cwd=directory, timeout=SECONDS + 30, check=False)
        yield _outcomes(json.loads((directory / "report.json").read_text()))


def _outcomes(suites: list[dict[str, Any]]) -> Report:
    found: Report = {}
    for spec in (spec for suite in suites for spec in suite["SpecReports"] or ()):
        if spec["LeafNodeType"] == "It" and spec["State"] != "skipped":
            name = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
            found[name] = spec["State"], (spec.get("Failure") or {}).get("Message", "")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_conformance(report: Report, name: str) -> None:
    assert report.get(name, ("did not run", "")) == ("passed", "")
