"""What people type: real kubectl against a real server, and what it prints."""

from __future__ import annotations

import json
import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: "nginx:1.25"}
"""


class Answer(Protocol):
    code: int
    out: str
    err: str

    def ok(self) -> str: ...
    def failed(self) -> str: ...


class Tool(Protocol):
    path: Path
    env: dict[str, str]
    cwd: Path

    def __call__(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Answer: ...


Make = Callable[[str], Tool]


@pytest.fixture
def kubectl(tool: Make) -> Tool:
    return tool("kubectl")


@pytest.fixture
def ns(kubectl: Tool, request: pytest.FixtureRequest) -> str:
    """A namespace of this test, made the current one of this kubeconfig's every call by `-n`."""
    words, number = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()), zlib.crc32(request.node.name.encode())
    name = f"{words[5:40].strip('-')}-{number:x}"
    kubectl("create", "namespace", name).ok()
    return name


@pytest.fixture
def gardens(kubectl: Tool) -> None:
    """The CRD of examples/crd."""
    kubectl("apply", "-f", str(EXAMPLES / "crd/crd.yaml")).ok()
    kubectl("wait", "--for=condition=Established", "crd/gardens.example.havre.dev", "--timeout=20s").ok()


def test_create_get_and_delete_say_what_they_did(kubectl: Tool, ns: str) -> None:
    assert kubectl("create", "secret", "generic", "a", "--from-literal=k=v", "-n", ns).ok() == "secret/a created\n"
    assert kubectl("get", "secret", "a", "-n", ns, "-o", "jsonpath={.data.k}").ok() == "dg=="
    assert kubectl("get", "secret", "-n", ns, "-o", "name").ok() == "secret/a\n"
    assert kubectl("delete", "secret", "a", "-n", ns).ok() == f'secret "a" deleted from {ns} namespace\n'
    assert kubectl("get", "secret", "-n", ns).err == f"No resources found in {ns} namespace.\n"


@pytest.mark.parametrize("version", ["kubectl", "kubectl-1.31", "kubectl-1.33"])
def test_every_supported_client_can_do_the_daily_work(tool: Make, version: str, ns: str) -> None:
    kubectl = tool(version)
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT).ok() == "deployment.apps/web created\n"
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT).ok() == "deployment.apps/web unchanged\n"
    assert kubectl("scale", "-n", ns, "deploy/web", "--replicas=3").ok() == "deployment.apps/web scaled\n"
    assert kubectl("get", "-n", ns, "deploy", "web", "-o", "jsonpath={.spec.replicas}").ok() == "3"
    assert kubectl("label", "-n", ns, "deploy", "web", "tier=front").ok() == "deployment.apps/web labeled\n"
    table = kubectl("get", "-n", ns, "deploy").ok().splitlines()
    assert table[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert table[1].split()[:2] == ["web", "0/3"]
    described = kubectl("describe", "-n", ns, "deploy", "web").ok()
    assert "Image:         nginx:1.25" in described
    assert kubectl("explain", "deploy.spec.replicas").ok().splitlines()[:3] == [
        "GROUP:      apps",
        "KIND:       Deployment",
        "VERSION:    v1",
    ]
    assert kubectl("delete", "-n", ns, "deploy", "web").ok().startswith('deployment.apps "web" deleted')


def test_client_side_apply_changes_and_removes_fields(kubectl: Tool, ns: str) -> None:
    first = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, gone: soon}\n"
    second = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: w}\n"
    kubectl("apply", "-n", ns, "-f", "-", stdin=first).ok()
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=second).ok() == "configmap/a configured\n"
    assert json.loads(kubectl("get", "-n", ns, "cm", "a", "-o", "json").ok())["data"] == {"k": "w"}


def test_server_side_apply_reports_who_owns_the_field(kubectl: Tool, ns: str) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: %s}\n"
    apply = ("apply", "-n", ns, "--server-side", "-f", "-")
    assert kubectl(*apply, "--field-manager=one", stdin=text % "v").ok() == "configmap/a serverside-applied\n"
    said = kubectl(*apply, "--field-manager=two", stdin=text % "w").failed()
    assert said.startswith('error: Apply failed with 1 conflict: conflict with "one": .data.k\n')
    assert (
        kubectl(*apply, "--field-manager=two", "--force-conflicts", stdin=text % "w").ok()
        == "configmap/a serverside-applied\n"
    )


def test_diff_shows_what_apply_would_change(kubectl: Tool, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT).ok()
    assert kubectl("diff", "-n", ns, "-f", "-", stdin=DEPLOYMENT).out == ""
    changed = kubectl("diff", "-n", ns, "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 5"))
    assert changed.code == 1
    assert "-  replicas: 2\n+  replicas: 5\n" in changed.out


def test_edit_saves_what_the_editor_left(kubectl: Tool, ns: str) -> None:
    kubectl("create", "configmap", "a", "--from-literal=k=v", "-n", ns).ok()
    editor = {"KUBE_EDITOR": "sed -i 's/k: v/k: edited/'"}
    assert kubectl("edit", "cm", "a", "-n", ns, env=editor).ok() == "configmap/a edited\n"
    assert kubectl("get", "cm", "a", "-n", ns, "-o", "jsonpath={.data}").ok() == '{"k":"edited"}'


def test_edit_keeps_a_refused_change(kubectl: Tool, ns: str) -> None:
    kubectl("create", "service", "clusterip", "a", "--tcp=80", "-n", ns).ok()
    said = kubectl("edit", "svc", "a", "-n", ns, env={"KUBE_EDITOR": "sed -i 's/port: 80/port: 99999/'"}).failed()
    assert '"a" is invalid' in said


def test_labels_and_annotations_come_and_go(kubectl: Tool, ns: str) -> None:
    kubectl("create", "configmap", "a", "-n", ns).ok()
    assert kubectl("label", "cm", "a", "x=1", "-n", ns).ok() == "configmap/a labeled\n"
    assert (
        kubectl("label", "cm", "a", "x=2", "-n", ns).failed()
        == "error: 'x' already has a value (1), and --overwrite is false\n"
    )
    assert kubectl("label", "cm", "a", "x=2", "--overwrite", "-n", ns).ok() == "configmap/a labeled\n"
    assert kubectl("get", "cm", "-l", "x=2", "-n", ns, "-o", "name").ok() == "configmap/a\n"
    assert kubectl("label", "cm", "a", "x-", "-n", ns).ok() == "configmap/a unlabeled\n"
    assert kubectl("annotate", "cm", "a", "n=hello", "-n", ns).ok() == "configmap/a annotated\n"
    assert kubectl("get", "cm", "a", "-n", ns, "-o", "jsonpath={.metadata.annotations}").ok() == '{"n":"hello"}'


def test_set_image_and_restart_change_the_template(kubectl: Tool, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT).ok()
    assert (
        kubectl("set", "image", "-n", ns, "deploy/web", "main=nginx:1.27").ok() == "deployment.apps/web image updated\n"
    )
    assert kubectl("set", "env", "-n", ns, "deploy/web", "A=b").ok() == "deployment.apps/web env updated\n"
    assert kubectl("rollout", "restart", "-n", ns, "deploy/web").ok() == "deployment.apps/web restarted\n"
    template = json.loads(kubectl("get", "-n", ns, "deploy", "web", "-o", "json").ok())["spec"]["template"]
    assert list(template["metadata"]["annotations"]) == ["kubectl.kubernetes.io/restartedAt"]
    assert template["spec"]["containers"][0]["image"] == "nginx:1.27"
    assert kubectl("rollout", "pause", "-n", ns, "deploy/web").ok() == "deployment.apps/web paused\n"
    assert (
        kubectl("rollout", "pause", "-n", ns, "deploy/web").failed()
        == 'error: deployments.apps "web" is already paused\n'
    )


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("merge", '{"data":{"k":"patched"}}'),
        ("strategic", '{"data":{"k":"patched"}}'),
        ("json", '[{"op":"replace","path":"/data/k","value":"patched"}]'),
    ],
)
def test_every_patch_type_works(kubectl: Tool, ns: str, kind: str, patch: str) -> None:
    kubectl("create", "configmap", "a", "--from-literal=k=v", "-n", ns).ok()
    assert kubectl("patch", "cm", "a", "-n", ns, "--type", kind, "-p", patch).ok() == "configmap/a patched\n"
    assert (
        kubectl("patch", "cm", "a", "-n", ns, "--type", kind, "-p", patch).ok() == "configmap/a patched (no change)\n"
    )
    assert kubectl("get", "cm", "a", "-n", ns, "-o", "jsonpath={.data.k}").ok() == "patched"


def test_a_part_can_be_patched(kubectl: Tool, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT).ok()
    patch = ("patch", "-n", ns, "deploy", "web", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":7}}')
    assert kubectl(*patch).ok() == "scale.autoscaling/web patched\n"
    assert kubectl("get", "-n", ns, "deploy", "web", "-o", "jsonpath={.spec.replicas}").ok() == "7"


def test_wait_returns_when_the_object_is_gone_or_as_wished(kubectl: Tool, ns: str) -> None:
    kubectl("create", "configmap", "a", "--from-literal=k=v", "-n", ns).ok()
    assert (
        kubectl("wait", "cm/a", "--for=jsonpath={.data.k}=v", "-n", ns, "--timeout=5s").ok()
        == "configmap/a condition met\n"
    )
    late = kubectl("wait", "cm/a", "--for=delete", "-n", ns, "--timeout=1s")
    assert late.failed() == "error: timed out waiting for the condition on configmaps/a\n"
    waiting = subprocess.Popen(
        [str(kubectl.path), "wait", "cm/a", "--for=delete", "-n", ns, "--timeout=20s"],
        env=dict(kubectl.env), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    kubectl("delete", "cm", "a", "-n", ns).ok()
    assert waiting.communicate(timeout=20)[0] in ("configmap/a condition met\n", "")
    assert waiting.returncode == 0


def test_watch_prints_what_happens(kubectl: Tool, ns: str) -> None:
    watching = subprocess.Popen(
        [str(kubectl.path), "get", "secret", "-n", ns, "-w", "--output-watch-events"],
        env=dict(kubectl.env), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout
    try:
        kubectl("create", "secret", "generic", "a", "-n", ns).ok()
        assert watching.stdout.readline().split() == ["EVENT", "NAME", "TYPE", "DATA", "AGE"]
        assert watching.stdout.readline().split()[:4] == ["ADDED", "a", "Opaque", "0"]
        kubectl("label", "secret", "a", "x=1", "-n", ns).ok()
        assert watching.stdout.readline().split()[:2] == ["MODIFIED", "a"]
        kubectl("delete", "secret", "a", "-n", ns).ok()
        assert watching.stdout.readline().split()[:2] == ["DELETED", "a"]
    finally:
        watching.kill()
        watching.communicate()


def test_selectors_sorting_and_columns(kubectl: Tool, ns: str) -> None:
    for name, size in (("a", "3"), ("b", "1"), ("c", "2")):
        kubectl("create", "configmap", name, f"--from-literal=size={size}", "-n", ns).ok()
        kubectl("label", "configmap", name, "mine=yes", "-n", ns).ok()
    names = ("get", "cm", "-l", "mine", "-n", ns, "-o", "jsonpath={.items[*].metadata.name}")
    assert kubectl(*names, "--sort-by={.data.size}").ok() == "b c a"
    assert kubectl(*names, "--field-selector", "metadata.name!=b").ok() == "a c"
    assert kubectl(*names, "--chunk-size=1").ok() == "a b c"
    columns = kubectl("get", "cm", "-l", "mine", "-n", ns, "-o", "custom-columns=N:.metadata.name,S:.data.size").ok()
    assert [line.split() for line in columns.splitlines()] == [["N", "S"], ["a", "3"], ["b", "1"], ["c", "2"]]
    wide = kubectl("get", "cm", "a", "-n", ns, "-o", "wide", "--show-labels").ok().splitlines()
    assert wide[0].split() == ["NAME", "DATA", "AGE", "LABELS"]
    assert wide[1].split()[0:2] == ["a", "1"]
    assert (
        kubectl("get", "cm", "a", "-n", ns, "-o", "yaml")
        .ok()
        .startswith('apiVersion: v1\ndata:\n  size: "3"\nkind: ConfigMap\n')
    )


def test_raw_requests_and_replace(kubectl: Tool, ns: str) -> None:
    assert kubectl("get", "--raw", "/healthz").ok() == "ok"
    assert json.loads(kubectl("get", "--raw", f"/api/v1/namespaces/{ns}/secrets").ok())["items"] == []
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: %s}\ndata: {k: %s}\n"
    kubectl("create", "-f", "-", stdin=text % (ns, "v")).ok()
    assert kubectl("replace", "-f", "-", stdin=text % (ns, "w")).ok() == "configmap/a replaced\n"
    assert (
        kubectl("replace", "--force", "-f", "-", stdin=text % (ns, "w")).ok().splitlines()[-1] == "configmap/a replaced"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "error converting YAML to JSON"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}\n",
            'The ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b"',
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nsize: 3\n",
            'strict decoding error: unknown field "size"',
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: [x]\n", "cannot unmarshal array"),
        ("apiVersion: v9\nkind: ConfigMap\nmetadata: {name: a}\n", 'no matches for kind "ConfigMap" in version "v9"'),
        ("kind: ConfigMap\n", "apiVersion not set"),
    ],
    ids=["syntax", "name", "unknown-field", "type", "version", "no-version"],
)
def test_a_bad_manifest_is_explained(kubectl: Tool, ns: str, text: str, said: str) -> None:
    assert said in kubectl("create", "-n", ns, "-f", "-", stdin=text).failed()


def test_a_dry_run_stores_nothing(kubectl: Tool, ns: str) -> None:
    said = kubectl("create", "configmap", "a", "-n", ns, "--dry-run=server").ok()
    assert said == "configmap/a created (server dry run)\n"
    assert kubectl("get", "cm", "a", "-n", ns).failed() == 'Error from server (NotFound): configmaps "a" not found\n'


def test_api_resources_and_versions_are_listed(kubectl: Tool) -> None:
    lines = {line.split()[0]: line.split()[1:] for line in kubectl("api-resources").ok().splitlines()}
    assert lines["deployments"] == ["deploy", "apps/v1", "true", "Deployment"]
    assert lines["nodes"] == ["no", "v1", "false", "Node"]
    versions = kubectl("api-versions").ok().splitlines()
    assert {"v1", "apps/v1", "batch/v1", "apiextensions.k8s.io/v1", "rbac.authorization.k8s.io/v1"} <= set(versions)


def test_explain_reads_the_schema(kubectl: Tool) -> None:
    said = kubectl("explain", "pod.spec.restartPolicy").ok()
    assert "FIELD: restartPolicy <string>" in said
    assert "ENUM:\n    Always\n    Never\n    OnFailure\n" in said


def test_access_can_be_asked(kubectl: Tool, ns: str) -> None:
    assert (
        kubectl("auth", "can-i", "delete", "nodes").ok() == "yes\n"
        or "Warning" in kubectl("auth", "can-i", "delete", "nodes").err
    )
    denied = kubectl("auth", "can-i", "get", "secrets", "-n", ns, "--as=jane")
    assert (denied.code, denied.out) == (1, "no\n")
    kubectl("create", "role", "reader", "--verb=get", "--resource=secrets", "-n", ns).ok()
    kubectl("create", "rolebinding", "reader", "--role=reader", "--user=jane", "-n", ns).ok()
    assert kubectl("auth", "can-i", "get", "secrets", "-n", ns, "--as=jane").ok() == "yes\n"
    who = json.loads(kubectl("auth", "whoami", "-o", "json", "--as=jane", "--as-group=dev").ok())["status"]["userInfo"]
    assert (who["username"], who["groups"]) == ("jane", ["dev", "system:authenticated"])


def test_a_token_of_a_service_account_works(kubectl: Tool, ns: str, server: object) -> None:
    kubectl("create", "serviceaccount", "robot", "-n", ns).ok()
    token = kubectl("create", "token", "robot", "-n", ns, "--duration=10m").ok().strip()
    assert token.count(".") == 2
    config = kubectl.cwd / "token.kubeconfig"
    raw = json.loads(kubectl("config", "view", "--raw", "-o", "json").ok())
    raw["users"] = [{"name": raw["users"][0]["name"], "user": {"token": token}}]
    config.write_text(json.dumps(raw))
    who = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", env={"KUBECONFIG": str(config)}).ok()
    assert who == f"system:serviceaccount:{ns}:robot"
    said = kubectl("get", "pods", "-n", ns, env={"KUBECONFIG": str(config)}).failed()
    assert said == (
        f'Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:{ns}:robot" cannot list '
        f'resource "pods" in API group "" in the namespace "{ns}"\n'
    )


@pytest.mark.usefixtures("gardens")
def test_custom_resources_are_like_the_others(kubectl: Tool, ns: str) -> None:
    garden = (EXAMPLES / "crd/garden.yaml").read_text().replace("namespace: default", f"namespace: {ns}")
    assert kubectl("apply", "-f", "-", stdin=garden).ok() == "garden.example.havre.dev/roof created\n"
    assert kubectl("apply", "-f", "-", stdin=garden).ok() == "garden.example.havre.dev/roof unchanged\n"
    table = [line.split() for line in kubectl("get", "gd", "-n", ns).ok().splitlines()]
    assert table[0] == ["NAME", "BEDS", "SOIL", "AGE"]
    assert table[1][:3] == ["roof", "2", "loam"]
    assert (
        kubectl("patch", "gd", "roof", "-n", ns, "--type=merge", "-p", '{"spec":{"beds":3}}').ok()
        == "garden.example.havre.dev/roof patched\n"
    )
    assert "Plants:\n    thyme\n    sage\n    mint\n" in kubectl("describe", "garden", "roof", "-n", ns).ok()
    assert "FIELD: beds <integer>" in kubectl("explain", "garden.spec.beds").ok()
    assert (
        kubectl("apply", "-f", "-", "--server-side", "--force-conflicts", stdin=garden).ok()
        == "garden.example.havre.dev/roof serverside-applied\n"
    )
    said = kubectl("patch", "gd", "roof", "-n", ns, "--type=merge", "-p", '{"spec":{"beds":99}}').failed()
    assert said == (
        'The Garden "roof" is invalid: spec.beds: Invalid value: 99: spec.beds in body should be less than '
        "or equal to 20\n"
    )
    assert (
        kubectl("delete", "gd", "--all", "-n", ns).ok()
        == f'garden.example.havre.dev "roof" deleted from {ns} namespace\n'
    )


@pytest.mark.usefixtures("gardens")
def test_a_rule_of_a_custom_resource_is_told(kubectl: Tool, ns: str) -> None:
    plants = ", ".join(f"p{n}" for n in range(6))
    head = "apiVersion: example.havre.dev/v1\nkind: Garden\nmetadata: {name: g}\n"
    text = f"{head}spec: {{beds: 1, plants: [{plants}]}}\n"
    said = kubectl("create", "-n", ns, "-f", "-", stdin=text).failed()
    assert "five plants per bed at most" in said
