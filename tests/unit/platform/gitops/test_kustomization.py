"""The Kustomization controller on the API in memory, with sources that are dicts of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from havre.api.meta import GVK, Obj
from havre.machinery.api import Ref
from havre.machinery.conditions import find
from havre.machinery.controller import Controller, Loop, Outcome
from havre.platform.gitops.artifacts import ArtifactError, ArtifactGone
from havre.platform.gitops.kustomization import KUSTOMIZATION, SOURCES, controller
from havre.testing import FakeApi, custom_kind, namespace

GIT = SOURCES["GitRepository"]
CONFIG_MAP = GVK("", "v1", "ConfigMap")
SECRET = GVK("", "v1", "Secret")
DEPLOYMENT = GVK("apps", "v1", "Deployment")
EVENT = GVK("", "v1", "Event")
APPS = Ref(KUSTOMIZATION, "flux", "apps")
NOW = 1_800_000_000.0


class World:
    """A controller with its API, a clock, and the trees that sources have."""

    def __init__(self, path: Path, trees: Mapping[str, Mapping[str, str]], *objects: Obj) -> None:
        self.trees = dict(trees)
        self.fetched: list[str] = []
        self.now = NOW
        kinds = [custom_kind(gvk) for gvk in (KUSTOMIZATION, *SOURCES.values())]
        sources = [git("src", "main@sha1:1", next(iter(trees), "1"))]
        self.api = FakeApi(*kinds, namespace("flux"), namespace("app"), *sources, *objects)
        self.controller: Controller = controller(path, fetch=self._fetch, clock=lambda: self.now)
        self.loop = Loop(self.controller, self.api, clock=lambda: self.now)

    async def _fetch(self, artifact: Mapping[str, Any], into: Path) -> None:
        self.fetched.append(artifact["digest"])
        if artifact["digest"] not in self.trees:
            raise ArtifactGone(f"GET {artifact['url']}: 404")
        for name, text in self.trees[artifact["digest"]].items():
            file = into / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    async def once(self, ref: Ref = APPS) -> Outcome:
        return await self.loop.once(ref)

    async def publish(self, revision: str, digest: str, tree: Mapping[str, str]) -> None:
        self.trees[digest] = tree
        status = git("src", revision, digest)["status"]
        await self.api.patch(Ref(GIT, "flux", "src"), {"status": status}, subresource="status")

    def ready(self, ref: Ref = APPS) -> tuple[str, str, str]:
        found = find(self.status(ref)["conditions"], "Ready")
        assert found is not None
        return found["status"], found["reason"], found["message"]

    def status(self, ref: Ref = APPS) -> Obj:
        obj = self.api.now(ref)
        assert obj is not None
        status: Obj = obj["status"]
        return status

    def config_map(self, name: str, space: str = "app") -> Obj | None:
        return self.api.now(Ref(CONFIG_MAP, space, name))

    def ids(self) -> list[str]:
        return [entry["id"] for entry in self.status()["inventory"]["entries"]]


def git(name: str, revision: str, digest: str) -> Obj:
    artifact = {"url": f"http://artifacts.example/{digest}", "revision": revision, "digest": digest, "path": digest}
    return {
        "apiVersion": GIT.api_version,
        "kind": GIT.kind,
        "metadata": {"name": name, "namespace": "flux"},
        "spec": {"url": "https://git.example/x", "interval": "1m"},
        "status": {"artifact": artifact},
    }


def kustomization(name: str = "apps", **spec: Any) -> Obj:
    return {
        "apiVersion": KUSTOMIZATION.api_version,
        "kind": KUSTOMIZATION.kind,
        "metadata": {"name": name, "namespace": "flux", "generation": 1},
        "spec": {
            "interval": "10m",
            "retryInterval": "2m",
            "prune": True,
            "sourceRef": {"kind": "GitRepository", "name": "src"},
            **spec,
        },
    }


def config_map(name: str, space: str = "app", **data: str) -> str:
    values = "".join(f"\n  {key}: {value}" for key, value in data.items())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: {space}\ndata:{values or ' {}'}\n"


DEPLOYED = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: app}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "x"}]}}
"""


async def test_what_is_in_the_path_is_applied_and_said(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v")}}, kustomization())
    assert await world.once() == Outcome(600.0)
    applied = world.config_map("one")
    assert applied is not None
    assert applied["data"] == {"k": "v"}
    assert applied["metadata"]["labels"] == {
        "kustomize.toolkit.fluxcd.io/name": "apps",
        "kustomize.toolkit.fluxcd.io/namespace": "flux",
    }
    assert [entry["manager"] for entry in applied["metadata"]["managedFields"]] == ["kustomize-controller"]
    assert world.ready() == ("True", "ReconciliationSucceeded", "Applied revision: main@sha1:1")
    status = world.status()
    assert status["lastAppliedRevision"] == status["lastAttemptedRevision"] == "main@sha1:1"
    assert status["inventory"] == {"entries": [{"id": "app_one__ConfigMap", "v": "v1"}]}
    assert status["history"][0]["totalReconciliations"] == 1
    assert [*Path.iterdir(tmp_path)] == []


async def test_a_pass_that_changes_nothing_writes_nothing_and_fetches_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v")}}, kustomization())
    await world.once()
    await world.once()
    revision = world.api.revision
    world.now += 600
    await world.once()
    assert world.api.revision == revision
    assert world.fetched == ["1"]


async def test_drift_is_put_right(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v")}}, kustomization())
    await world.once()
    await world.api.patch(Ref(CONFIG_MAP, "app", "one"), {"data": {"k": "other"}}, manager="someone")
    await world.once()
    assert (world.config_map("one") or {})["data"] == {"k": "v"}


async def test_what_left_the_source_is_deleted_and_what_others_own_stays(tmp_path: Path) -> None:
    files = {"a.yaml": config_map("one"), "b.yaml": config_map("two"), "c.yaml": config_map("three")}
    world = World(tmp_path, {"1": files}, kustomization())
    await world.once()
    labels = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "somebody"}}}
    await world.api.patch(Ref(CONFIG_MAP, "app", "three"), labels)
    await world.publish("main@sha1:2", "2", {"a.yaml": config_map("one")})
    await world.once()
    assert world.config_map("two") is None
    assert world.config_map("three") is not None
    assert world.ids() == ["app_one__ConfigMap"]
    assert world.status()["lastAppliedRevision"] == "main@sha1:2"


async def test_without_prune_nothing_is_deleted(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization(prune=False))
    await world.once()
    await world.publish("main@sha1:2", "2", {"b.yaml": config_map("two")})
    await world.once()
    assert world.config_map("one") is not None


async def test_an_object_that_says_so_is_not_pruned(tmp_path: Path) -> None:
    text = config_map("one").replace("  namespace: app", "  namespace: app\n  annotations: {%s: Disabled}")
    files = {"a.yaml": text % "kustomize.toolkit.fluxcd.io/prune"}
    world = World(tmp_path, {"1": files}, kustomization())
    await world.once()
    await world.publish("main@sha1:2", "2", {"b.yaml": config_map("two")})
    await world.once()
    assert world.config_map("one") is not None
    assert world.ids() == ["app_two__ConfigMap"]


async def test_a_bad_build_leaves_the_last_good_state(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v")}}, kustomization())
    await world.once()
    await world.publish("main@sha1:2", "2", {"kustomization.yaml": "resources: [nope.yaml]\n"})
    assert await world.once() == Outcome(120.0)
    status, reason, message = world.ready()
    assert (status, reason) == ("False", "BuildFailed")
    assert message == "kustomize build failed: kustomization.yaml: resources[0]: 'nope.yaml': no such file or directory"
    assert world.config_map("one") is not None
    assert world.status()["lastAppliedRevision"] == "main@sha1:1"
    assert world.status()["lastAttemptedRevision"] == "main@sha1:2"


async def test_every_fault_of_a_rehearsal_is_told_and_nothing_is_applied(tmp_path: Path) -> None:
    bad = config_map("Bad_Name")
    files = {"a.yaml": config_map("good"), "b.yaml": bad, "c.yaml": bad.replace("Bad_Name", "Worse_Name")}
    world = World(tmp_path, {"1": files}, kustomization())
    await world.once()
    status, reason, message = world.ready()
    assert (status, reason) == ("False", "ReconciliationFailed")
    assert "ConfigMap/app/Bad_Name dry-run failed (Invalid)" in message
    assert "ConfigMap/app/Worse_Name dry-run failed (Invalid)" in message
    assert world.config_map("good") is None


async def test_a_missing_source_and_a_missing_artifact(tmp_path: Path) -> None:
    bare = git("bare", "", "")
    del bare["status"]
    lost = git("lost", "main@sha1:9", "9")
    world = World(
        tmp_path,
        {},
        kustomization(sourceRef={"kind": "GitRepository", "name": "nope"}),
        kustomization("bare", sourceRef={"kind": "GitRepository", "name": "bare"}),
        kustomization("lost", sourceRef={"kind": "GitRepository", "name": "lost"}),
        bare,
        lost,
    )
    assert await world.once() == Outcome(120.0)
    assert world.ready() == ("False", "ArtifactFailed", "Source 'GitRepository/flux/nope' not found")
    ref = Ref(KUSTOMIZATION, "flux", "bare")
    assert await world.once(ref) == Outcome(30.0)
    assert world.ready(ref) == ("False", "ArtifactFailed", "Source artifact not found, retrying in 30s")
    ref = Ref(KUSTOMIZATION, "flux", "lost")
    assert await world.once(ref) == Outcome(30.0)
    assert world.ready(ref)[1] == "ArtifactFailed"


async def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization(path="./prod"))
    await world.once()
    assert world.ready()[1:] == (
        "ArtifactFailed",
        "kustomization path not found: ./prod: no such file or directory",
    )


async def test_an_artifact_that_cannot_be_fetched(tmp_path: Path) -> None:
    async def fail(artifact: Mapping[str, Any], into: Path) -> None:
        raise ArtifactError("GET http://artifacts.example/1: connection refused")

    world = World(tmp_path, {"1": {}}, kustomization())
    world.loop = Loop(controller(tmp_path, fetch=fail), world.api)
    await world.once()
    assert world.ready()[1:] == ("ArtifactFailed", "GET http://artifacts.example/1: connection refused")


async def test_dependencies_are_waited_for(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        {"1": {"infra/a.yaml": config_map("one"), "apps/b.yaml": config_map("two")}},
        kustomization(path="apps", dependsOn=[{"name": "infra"}]),
        kustomization("infra", path="infra"),
    )
    assert await world.once() == Outcome(30.0)
    assert world.ready() == ("False", "DependencyNotReady", "dependency 'flux/infra' is not ready")
    assert world.config_map("two") is None
    await world.once(Ref(KUSTOMIZATION, "flux", "infra"))
    await world.once()
    assert world.ready()[1] == "ReconciliationSucceeded"
    await world.publish("main@sha1:2", "2", world.trees["1"])
    await world.once()
    assert world.ready()[2] == "dependency 'flux/infra' revision is not up to date"


async def test_variables_come_from_the_spec_over_secrets_over_config_maps(tmp_path: Path) -> None:
    values = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vars", "namespace": "flux"}}
    secret = {**values, "kind": "Secret", "data": {"b": "c2VjcmV0", "c": "Yw=="}}
    post = {
        "substitute": {"c": "inline"},
        "substituteFrom": [
            {"kind": "ConfigMap", "name": "vars"},
            {"kind": "Secret", "name": "vars"},
            {"kind": "Secret", "name": "none", "optional": True},
        ],
    }
    text = config_map("one", a='"${a}"', b="${b}", c="${c}", d="${d:=default}", e='"$${e}"')
    world = World(
        tmp_path,
        {"1": {"a.yaml": text}},
        {**values, "data": {"a": "word", "b": "x"}},
        secret,
        kustomization(postBuild=post),
    )
    await world.once()
    assert (world.config_map("one") or {})["data"] == {
        "a": "word",
        "b": "secret",
        "c": "inline",
        "d": "default",
        "e": "${e}",
    }


async def test_a_variable_without_a_value_is_a_failed_build(tmp_path: Path) -> None:
    world = World(
        tmp_path, {"1": {"a.yaml": config_map("one", a="${none}")}}, kustomization(postBuild={"substitute": {"x": "y"}})
    )
    await world.once()
    assert world.ready()[1] == "BuildFailed"
    assert world.ready()[2] == (
        "post build failed for 'ConfigMap/one': envsubst error: variable substitution failed: "
        'variable not set (strict mode): "none"'
    )


async def test_health_is_waited_for_without_blocking(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"d.yaml": DEPLOYED}}, kustomization(wait=True, timeout="1m"))
    assert await world.once() == Outcome(2.0)
    assert world.ready() == ("Unknown", "Progressing", "Reconciliation in progress")
    assert "lastAppliedRevision" not in world.status()
    said = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1}
    conditions = [{"type": "Available", "status": "True", "reason": "x", "message": ""}]
    patch = {"status": {**said, "conditions": conditions}}
    await world.api.patch(Ref(DEPLOYMENT, "app", "web"), patch, subresource="status")
    world.now += 2
    assert await world.once() == Outcome(600.0)
    assert world.ready()[1] == "ReconciliationSucceeded"
    healthy = find(world.status()["conditions"], "Healthy")
    assert healthy is not None
    assert (healthy["status"], healthy["message"]) == ("True", "Health check passed in 2s")
    assert find(world.status()["conditions"], "Reconciling") is None


async def test_what_does_not_become_healthy_in_time_has_failed(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"d.yaml": DEPLOYED}}, kustomization(wait=True, timeout="1m"))
    await world.once()
    world.now += 61
    assert await world.once() == Outcome(120.0)
    assert world.ready() == (
        "False",
        "HealthCheckFailed",
        "health check failed after 1m1s: timeout waiting for: [Deployment/app/web status: 'InProgress']",
    )


async def test_the_end_of_a_kustomization_is_the_end_of_its_objects(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization())
    await world.once()
    assert (world.api.now(APPS) or {})["metadata"]["finalizers"] == ["finalizers.fluxcd.io"]
    await world.api.delete(APPS)
    await world.once()
    assert world.api.now(APPS) is None
    assert world.config_map("one") is None


@pytest.mark.parametrize("spec", [{"deletionPolicy": "Orphan"}, {"prune": False}, {"suspend": True}])
async def test_an_orphaned_or_suspended_one_leaves_its_objects(tmp_path: Path, spec: Obj) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization())
    await world.once()
    await world.api.patch(APPS, {"spec": spec})
    await world.api.delete(APPS)
    await world.once()
    assert world.api.now(APPS) is None
    assert world.config_map("one") is not None


async def test_a_requested_reconciliation_is_answered(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization())
    await world.once()
    await world.api.patch(APPS, {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}})
    await world.once()
    assert world.status()["lastHandledReconcileAt"] == "now"
    assert world.status()["history"][0]["totalReconciliations"] == 2


async def test_the_spec_overrides_the_kustomization(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        {"1": {"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": config_map("one", k="v")}},
        kustomization(
            targetNamespace="flux",
            namePrefix="p-",
            commonMetadata={"labels": {"team": "x"}, "annotations": {"n": "m"}},
            patches=[{"patch": "- {op: add, path: /data/new, value: yes}", "target": {"kind": "ConfigMap"}}],
        ),
    )
    await world.once()
    made = world.config_map("p-one", "flux")
    assert made is not None
    assert made["data"] == {"k": "v", "new": "yes"}
    assert made["metadata"]["labels"]["team"] == "x"
    assert made["metadata"]["annotations"] == {"n": "m"}


async def test_definitions_come_first(tmp_path: Path) -> None:
    thing = GVK("x.example", "v1", "Thing")
    files = {
        "a.yaml": "apiVersion: x.example/v1\nkind: Thing\nmetadata: {name: t, namespace: new}\n",
        "b.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n",
    }
    world = World(tmp_path, {"1": files}, kustomization())
    definition = custom_kind(thing)
    await world.publish("main@sha1:1", "1", {**files, "c.yaml": json.dumps(definition)})
    await world.once()
    assert world.ready()[1] == "ReconciliationSucceeded", world.ready()
    assert world.api.now(Ref(thing, "new", "t")) is not None
    assert world.ids()[0] == "_things.x.example_apiextensions.k8s.io_CustomResourceDefinition"


async def test_an_encrypted_secret_is_never_applied(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: app}\nstringData: {a: ENC}\nsops: {mac: x}\n"
    world = World(tmp_path, {"1": {"a.yaml": text}}, kustomization())
    await world.once()
    assert world.ready()[1:] == (
        "ReconciliationFailed",
        "Secret/app/s is SOPS encrypted, configuring decryption is required for this secret to be reconciled",
    )
    assert world.api.now(Ref(SECRET, "app", "s")) is None


async def test_what_kubectl_applied_becomes_ours(tmp_path: Path) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v")}}, kustomization())
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "one", "namespace": "app"},
        "data": {"old": "x"},
    }
    await world.api.create(theirs, manager="kubectl-client-side-apply")
    await world.once()
    assert (world.config_map("one") or {})["data"] == {"k": "v"}


async def test_force_makes_anew_what_cannot_change(tmp_path: Path) -> None:
    text = config_map("one", k="v") + "immutable: true\n"
    world = World(tmp_path, {"1": {"a.yaml": text}}, kustomization())
    await world.once()
    uid = (world.config_map("one") or {})["metadata"]["uid"]
    await world.publish("main@sha1:2", "2", {"a.yaml": text.replace("k: v", "k: w")})
    await world.once()
    assert world.ready()[1] == "ReconciliationFailed"
    await world.api.patch(APPS, {"spec": {"force": True}})
    await world.once()
    made = world.config_map("one") or {}
    assert made["data"] == {"k": "w"}
    assert made["metadata"]["uid"] != uid


async def test_an_object_may_keep_out_of_it(tmp_path: Path) -> None:
    def said(name: str, value: str) -> str:
        note = f"  annotations: {{kustomize.toolkit.fluxcd.io/ssa: {value}}}"
        return config_map(name, k="v").replace("  namespace: app", f"  namespace: app\n{note}")

    files = {"a.yaml": said("ignored", "Ignore"), "b.yaml": said("once", "IfNotPresent")}
    world = World(tmp_path, {"1": files}, kustomization())
    await world.once()
    assert world.config_map("ignored") is None
    await world.api.patch(Ref(CONFIG_MAP, "app", "once"), {"data": {"k": "mine"}})
    await world.once()
    assert (world.config_map("once") or {})["data"] == {"k": "mine"}


async def test_an_expression_may_say_when_a_dependency_is_ready(tmp_path: Path) -> None:
    ready = "dep.metadata.labels.stage == self.spec.path && dep.status.lastAppliedRevision.startsWith('main')"
    infra = kustomization("infra", path="infra")
    infra["metadata"]["labels"] = {"stage": "apps"}
    world = World(
        tmp_path,
        {"1": {"infra/a.yaml": config_map("one"), "apps/b.yaml": config_map("two")}},
        kustomization(path="apps", dependsOn=[{"name": "infra", "readyExpr": ready}]),
        infra,
    )
    await world.once()
    assert world.ready()[1] == "DependencyNotReady"
    await world.once(Ref(KUSTOMIZATION, "flux", "infra"))
    await world.once()
    assert world.ready()[1] == "ReconciliationSucceeded"


@pytest.mark.parametrize(
    "spec",
    [
        {"dependsOn": [{"name": "apps", "readyExpr": "dep.("}]},
        {"wait": True, "healthCheckExprs": [{"apiVersion": "v1", "kind": "ConfigMap", "current": "nobody == 1"}]},
    ],
)
async def test_an_expression_that_is_none_stalls(tmp_path: Path, spec: Obj) -> None:
    world = World(tmp_path, {"1": {"a.yaml": config_map("one")}}, kustomization(**spec))
    assert await world.once() == Outcome()
    assert world.ready()[:2] == ("False", "InvalidCELExpression")
    assert world.ready()[2].startswith("Reconciliation failed terminally due to configuration error: ")


async def test_expressions_say_when_an_object_is_healthy(tmp_path: Path) -> None:
    checks = [{"apiVersion": "v1", "kind": "ConfigMap", "failed": "data.k == 'bad'", "current": "data.k == 'good'"}]
    world = World(
        tmp_path, {"1": {"a.yaml": config_map("one", k="so")}}, kustomization(wait=True, healthCheckExprs=checks)
    )
    assert await world.once() == Outcome(2.0)
    await world.publish("main@sha1:2", "2", {"a.yaml": config_map("one", k="good")})
    await world.once()
    assert world.ready()[1] == "ReconciliationSucceeded"
    await world.publish("main@sha1:3", "3", {"a.yaml": config_map("one", k="bad")})
    await world.once()
    assert world.ready()[1:] == (
        "HealthCheckFailed",
        "health check failed after 0s: failed early due to stalled resources: [ConfigMap/app/one status: 'Failed']",
    )


async def test_ignored_fields_are_left_to_others(tmp_path: Path) -> None:
    rules = [{"paths": ["/data/k"], "target": {"kind": "ConfigMap"}}]
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="v", q="w")}}, kustomization(ignore=rules))
    await world.once()
    await world.api.patch(Ref(CONFIG_MAP, "app", "one"), {"data": {"k": "theirs", "q": "theirs"}})
    await world.once()
    assert (world.config_map("one") or {})["data"] == {"k": "theirs", "q": "w"}
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "one", "namespace": "app"},
        "data": {"k": "applied"},
    }
    await world.api.apply(theirs, manager="other", force=True)
    await world.once()
    revision = world.api.revision
    await world.once()
    assert (world.config_map("one") or {})["data"] == {"k": "applied", "q": "w"}
    assert world.api.revision == revision


async def test_an_object_without_a_namespace_is_told(tmp_path: Path) -> None:
    text = config_map("one").replace("  namespace: app\n", "")
    world = World(tmp_path, {"1": {"a.yaml": text}}, kustomization())
    await world.once()
    assert world.ready()[2].startswith("ConfigMap/one namespace not specified: ")


async def test_a_namespace_of_a_cluster_wide_object_does_not_matter(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new, namespace: app}\n"
    world = World(tmp_path, {"1": {"a.yaml": text}}, kustomization())
    await world.once()
    assert world.ids() == ["_new__Namespace"]
