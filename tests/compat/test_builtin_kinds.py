"""The recorded requests, replayed as dry runs on the API server that KUBECONFIG names; skipped without one.

Whoever answers, the verdict and the words are those of the recording; admission that a server adds may go further.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data/builtin"
NAMESPACE = "builtin-kinds"
CASES: list[dict[str, Any]] = [
    case for file in sorted(DATA.glob("*.json")) for case in json.loads(file.read_text()) if "body" in case
]
pytestmark = pytest.mark.skipif(
    not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None, reason="needs KUBECONFIG and kubectl"
)


def kubectl(*args: str, body: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *args], input=body, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Any:
    kubectl("create", "namespace", NAMESPACE)
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=20s")
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_server_gives_the_recorded_verdict(case: dict[str, Any]) -> None:
    path = case["path"].replace("/namespaces/ns/", f"/namespaces/{NAMESPACE}/")
    body = json.dumps(case["body"]).replace('"namespace": "ns"', f'"namespace": "{NAMESPACE}"')
    done = kubectl("create", "--raw", f"{path}?dryRun=All", "-f", "-", body=body)
    assert (done.returncode == 0) is (case["code"] < 300), done.stderr
    for cause in (case.get("error") or {}).get("causes") or ():
        if "UID" not in cause["message"]:
            assert cause["message"].replace("\n", "") in done.stderr.replace("\n", "")
