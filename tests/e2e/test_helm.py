"""Charts by real Helm, version 3 and 4: made, installed, upgraded, rolled back and removed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest


class Answer(Protocol):
    code: int
    out: str
    err: str

    def ok(self) -> str: ...
    def failed(self) -> str: ...


class Tool(Protocol):
    path: Path
    cwd: Path

    def __call__(self, *arguments: str, stdin: str = "") -> Answer: ...


Make = Callable[[str], Tool]

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: VERSIONs.helm.example.org}
spec:
  group: helm.example.org
  scope: Namespaced
  names: {plural: VERSIONs, singular: VERSION, kind: KIND}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
HOOK = """
apiVersion: batch/v1
kind: Job
metadata:
  name: before
  annotations: {"helm.sh/hook": "pre-install"}
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}}
"""


@pytest.fixture(params=["helm-3", "helm-4"])
def helm(request: pytest.FixtureRequest, tool: Make) -> Tool:
    return tool(request.param)


@pytest.fixture
def kubectl(tool: Make) -> Tool:
    return tool("kubectl")


@pytest.fixture
def ns(helm: Tool, kubectl: Tool, request: pytest.FixtureRequest) -> str:
    name = f"{helm.path.name}-{zlib.crc32(request.node.name.encode()):x}"
    kubectl("create", "namespace", name).ok()
    return name


@pytest.fixture
def chart(helm: Tool) -> str:
    helm("create", "shop").ok()
    return str(helm.cwd / "shop")


def revisions(helm: Tool, ns: str) -> list[tuple[int, str]]:
    history = json.loads(helm("history", "web", "-n", ns, "-o", "json").ok())
    return [(entry["revision"], entry["status"]) for entry in history]


def test_a_release_lives_through_its_whole_life(helm: Tool, kubectl: Tool, ns: str, chart: str) -> None:
    assert "STATUS: deployed\nREVISION: 1\n" in helm("install", "web", chart, "-n", ns).ok()
    releases = json.loads(helm("list", "-n", ns, "-o", "json").ok())
    assert [(r["name"], r["revision"], r["status"], r["chart"]) for r in releases] == [
        ("web", "1", "deployed", "shop-0.1.0")
    ]
    assert "kind: Deployment" in helm("get", "manifest", "web", "-n", ns).ok()
    replicas = ("get", "deploy", "web-shop", "-n", ns, "-o", "jsonpath={.spec.replicas}")
    assert kubectl(*replicas).ok() == "1"

    assert "REVISION: 2\n" in helm("upgrade", "web", chart, "-n", ns, "--set", "replicaCount=3").ok()
    assert kubectl(*replicas).ok() == "3"
    assert helm("get", "values", "web", "-n", ns, "-o", "json").ok() == '{"replicaCount":3}\n'

    assert helm("rollback", "web", "1", "-n", ns).ok() == "Rollback was a success! Happy Helming!\n"
    assert kubectl(*replicas).ok() == "1"
    assert revisions(helm, ns) == [(1, "superseded"), (2, "superseded"), (3, "deployed")]

    assert helm("uninstall", "web", "-n", ns).ok() == 'release "web" uninstalled\n'
    left = kubectl("get", "deploy,svc,sa,secret", "-n", ns, "-l", "app.kubernetes.io/instance=web", "-o", "name")
    assert left.ok() == ""


def test_a_name_in_use_is_refused(helm: Tool, ns: str, chart: str) -> None:
    helm("install", "web", chart, "-n", ns).ok()
    assert "cannot" in helm("install", "web", chart, "-n", ns).failed()
    assert revisions(helm, ns) == [(1, "deployed")]


def test_a_manifest_that_the_api_refuses_fails_the_release(helm: Tool, ns: str, chart: str) -> None:
    bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n"
    Path(chart, "templates/bad.yaml").write_text(bad)
    assert "spec.ports[0].port: Invalid value: 99999" in helm("install", "web", chart, "-n", ns).failed()
    assert revisions(helm, ns) == [(1, "failed")]


def test_definitions_of_a_chart_come_before_its_objects(helm: Tool, kubectl: Tool, ns: str, chart: str) -> None:
    kind = helm.path.name.replace("-", "").capitalize()  # Helm3, Helm4: one server sees both
    crds = Path(chart, "crds")
    crds.mkdir()
    (crds / "crd.yaml").write_text(CRD.replace("VERSION", kind.lower()).replace("KIND", kind))
    thing = f"apiVersion: helm.example.org/v1\nkind: {kind}\nmetadata: {{name: mine}}\nspec: {{a: 1}}\n"
    Path(chart, "templates/thing.yaml").write_text(thing)
    helm("install", "web", chart, "-n", ns).ok()
    assert kubectl("get", kind.lower(), "mine", "-n", ns, "-o", "jsonpath={.spec.a}").ok() == "1"


def test_hooks_can_be_left_out(helm: Tool, kubectl: Tool, ns: str, chart: str) -> None:
    Path(chart, "templates/hook.yaml").write_text(HOOK)
    helm("install", "web", chart, "-n", ns, "--no-hooks").ok()
    assert kubectl("get", "jobs", "-n", ns, "-o", "name").ok() == ""
    assert "kind: Job" in helm("get", "hooks", "web", "-n", ns).ok()
