"""A commit becomes a release becomes pods: the example of `make up`, changed, broken, mended, pruned by Git alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.support.machine import ROOT, Machine, eventually, machine, missing

HELM = importlib.util.find_spec("helm_python")
pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.skipif(not HELM, reason="the Helm library is not installed: requirements/helm.txt"),
    pytest.mark.timeout(240),
]

PAGE = "http://127.0.0.1:30080/"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("delivery")) as host:
        said = host.run(sys.executable, str(ROOT / "examples/hello/run.py"), "--repository", str(host.home / "hello"))
        assert "✓ pods" in said.stdout
        yield host


def change(host: Machine, file: str, old: str, new: str) -> None:
    """One commit that replaces a text."""
    repository = host.home / "hello"
    path = repository / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "-C", str(repository), *identity, "commit", "-qam", f"change {file}"], check=True)


def ready(host: Machine) -> dict[str, str]:
    conditions = host.get("helmrelease", "hello", "-n", "hello")["status"]["conditions"]
    found: dict[str, str] = next(c for c in conditions if c["type"] == "Ready")
    return found


def test_the_page_is_that_of_the_repository(delivered: Machine) -> None:
    assert delivered.curl(PAGE).strip() == "Hello from Git"


def test_a_commit_changes_the_answer(delivered: Machine) -> None:
    change(delivered, "apps/hello.yaml", "Hello from Git", "Another greeting")
    eventually("the page changes", lambda: delivered.curl(PAGE).strip() == "Another greeting", 10)


def test_a_request_is_handled_and_acknowledged(delivered: Machine) -> None:
    delivered.kubectl("annotate", "gitrepository", "hello", "-n", "flux-system", "reconcile.fluxcd.io/requestedAt=now")

    def handled() -> bool:
        status = delivered.get("gitrepository", "hello", "-n", "flux-system")["status"]
        return bool(status.get("lastHandledReconcileAt") == "now")

    eventually("it is acknowledged", handled)


@pytest.mark.parametrize("client", ["helm-3", "helm-4"])
def test_helm_itself_reads_the_release(delivered: Machine, client: str) -> None:
    if not (ROOT / ".venv/clients.d" / client).exists():
        pytest.skip(f"{client} is not there: make .venv/clients")

    def listed() -> bool:
        (release,) = json.loads(
            delivered.run(client, "list", *(["-a"] if client == "helm-3" else []), "-n", "hello", "-o", "json").stdout
        )
        return bool((release["name"], release["status"]) == ("hello", "deployed"))

    eventually("the upgrade is over", listed)
    assert "Another greeting" in delivered.run(client, "get", "values", "hello", "-n", "hello").stdout


def test_a_broken_chart_leaves_the_old_release_serving(delivered: Machine) -> None:
    change(delivered, "charts/hello/templates/web.yaml", ".Values.replicas }}", ".Values.replicas | nosuch }}")
    eventually("it says why", lambda: 'function "nosuch" not defined' in ready(delivered)["message"])
    assert ready(delivered)["status"] == "False"
    assert delivered.curl(PAGE).strip() == "Another greeting"
    change(delivered, "charts/hello/templates/web.yaml", ".Values.replicas | nosuch }}", ".Values.replicas }}")
    eventually("it is mended", lambda: ready(delivered)["status"] == "True")


def test_values_of_the_wrong_type_are_refused_by_the_schema(delivered: Machine) -> None:
    change(delivered, "apps/hello.yaml", "greeting: Another greeting", "greeting: 7")
    eventually(
        "it says why", lambda: "greeting" in ready(delivered)["message"] and ready(delivered)["status"] == "False"
    )
    assert delivered.curl(PAGE).strip() == "Another greeting"
    change(delivered, "apps/hello.yaml", "greeting: 7", "greeting: Mended")
    eventually("it is mended", lambda: delivered.curl(PAGE).strip() == "Mended")


def test_what_leaves_the_repository_is_pruned(delivered: Machine) -> None:
    change(delivered, "apps/kustomization.yaml", "  - hello.yaml\n", "")
    eventually("the release is gone", lambda: not delivered.get("helmreleases", "-A")["items"])
    eventually("its pods are gone", lambda: not delivered.get("pods", "-n", "hello")["items"])
    assert delivered.run("curl", "-sS", "--max-time", "2", PAGE, check=False).returncode != 0
