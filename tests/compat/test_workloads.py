"""The workload controllers beside the real ones: the same objects, the same pods played, the same outcome.

The cluster of $HAVRE_REFERENCE_KUBECONFIG must have its controller manager and scheduler, and no node; pods are run by
patching their status. Whole objects are compared, but for what differs by nature: uids, times, generated names.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.compat.conftest import Client

from havre.api.meta import Obj

pytestmark = pytest.mark.timeout(240)

WITHIN = 40.0  # seconds for both sides to come to rest
_VOLATILE = frozenset(
    {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "managedFields", "generation"}
    | {"lastTransitionTime", "lastUpdateTime", "startTime", "completionTime", "lastProbeTime", "observedGeneration"}
)
_ANNOTATIONS = frozenset({"endpoints.kubernetes.io/last-change-trigger-time"})
_WORDS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}"), "UID"),
    (re.compile(r"\b[bcdfghjklmnpqrstvwxz2456789]{6,10}\b"), "HASH"),
    (re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b"), "-RANDOM"),
)
CORE, APPS, BATCH = "/api/v1", "/apis/apps/v1", "/apis/batch/v1"
PATHS = {
    "Pod": f"{CORE}/namespaces/{{}}/pods",
    "Service": f"{CORE}/namespaces/{{}}/services",
    "Endpoints": f"{CORE}/namespaces/{{}}/endpoints",
    "ReplicationController": f"{CORE}/namespaces/{{}}/replicationcontrollers",
    "PersistentVolumeClaim": f"{CORE}/namespaces/{{}}/persistentvolumeclaims",
    "ResourceQuota": f"{CORE}/namespaces/{{}}/resourcequotas",
    "Deployment": f"{APPS}/namespaces/{{}}/deployments",
    "ReplicaSet": f"{APPS}/namespaces/{{}}/replicasets",
    "DaemonSet": f"{APPS}/namespaces/{{}}/daemonsets",
    "StatefulSet": f"{APPS}/namespaces/{{}}/statefulsets",
    "ControllerRevision": f"{APPS}/namespaces/{{}}/controllerrevisions",
    "Job": f"{BATCH}/namespaces/{{}}/jobs",
    "CronJob": f"{BATCH}/namespaces/{{}}/cronjobs",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}
TEMPLATE: Obj = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
SELECTOR = {"matchLabels": {"app": "web"}}


@dataclass(slots=True)
class Cluster:
    """One of the two, and a namespace of the test in it."""

    client: Client
    namespace: str

    def call(self, method: str, path: str, body: Any = None, media: str = "application/json") -> Obj:
        data = None if body is None else json.dumps(body).encode()
        reply = self.client.send(method, path, {"content-type": media}, data)
        answer: Obj = json.loads(reply.body)
        assert reply.status < 300 or reply.status == 404, answer
        return answer

    def create(self, kind: str, obj: Obj) -> None:
        self.call("POST", PATHS[kind].format(self.namespace), {**obj, "kind": kind, "apiVersion": _version(kind)})

    def patch(self, kind: str, name: str, body: Obj, part: str = "") -> None:
        path = f"{PATHS[kind].format(self.namespace)}/{name}{part}"
        self.call("PATCH", path, body, "application/merge-patch+json")

    def all(self, kind: str) -> list[Obj]:
        found: list[Obj] = self.call("GET", PATHS[kind].format(self.namespace)).get("items") or []
        return sorted(found, key=lambda obj: str(obj["metadata"]["name"]))

    def play(self, state: Callable[[Obj], Obj | None]) -> None:
        """Be the agent of a node: what `state` says of a pod becomes its status; a leaving pod ends."""
        for pod in self.all("Pod"):
            name, path = pod["metadata"]["name"], f"{PATHS['Pod'].format(self.namespace)}/{pod['metadata']['name']}"
            if pod["metadata"].get("deletionTimestamp"):
                self.call("DELETE", path, {"gracePeriodSeconds": 0})
            elif pod["status"].get("phase") == "Pending" and (status := state(pod)):
                self.patch("Pod", name, {"status": status}, "/status")


def _version(kind: str) -> str:
    return PATHS[kind].split("/namespaces")[0].removeprefix("/apis/").removeprefix("/api/")


def running(pod: Obj) -> Obj:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ip = f"10.42.7.{7 + len(pod['metadata']['name']) % 7}"
    return {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}


@dataclass(slots=True)
class Both:
    """The same is done to both; what they come to is the same."""

    ours: Cluster
    real: Cluster

    def create(self, kind: str, name: str, **obj: Any) -> None:
        for each in (self.ours, self.real):
            each.create(kind, {"metadata": {"name": name}, **obj})

    def patch(self, kind: str, name: str, body: Obj) -> None:
        for each in (self.ours, self.real):
            each.patch(kind, name, body)

    def settle(self, *kinds: str, state: Callable[[Obj], Obj | None] = lambda _pod: None) -> None:
        """Play until both show the same twice in a row. Raises AssertionError with the difference."""
        end, same = time.monotonic() + WITHIN, 0
        while same < 2:
            for each in (self.ours, self.real):
                each.play(state)
            time.sleep(0.5)
            found, wanted = (shown(each, kinds) for each in (self.ours, self.real))
            same = same + 1 if found == wanted else 0
            assert time.monotonic() < end, difference(found, wanted)


def shown(cluster: Cluster, kinds: tuple[str, ...]) -> dict[str, list[str]]:
    return {
        kind: sorted(json.dumps(plain(obj, cluster.namespace, kind), sort_keys=True) for obj in cluster.all(kind))
        for kind in kinds
    }


def plain(value: Any, namespace: str, kind: str = "") -> Any:
    if isinstance(value, dict):
        ignored = _VOLATILE | _ANNOTATIONS | ({"status"} if kind == "Pod" else frozenset())
        kept = {key: plain(each, namespace) for key, each in value.items() if key not in ignored}
        return {key: each for key, each in kept.items() if each not in ({}, None)}
    if isinstance(value, list):
        found = [plain(each, namespace) for each in value]
        return sorted(found, key=str) if all(isinstance(each, dict) for each in found) else found
    if isinstance(value, str):
        for pattern, word in _WORDS:
            value = pattern.sub(word, value)
    return value


def difference(found: dict[str, list[str]], wanted: dict[str, list[str]]) -> str:
    ours, real = (
        json.dumps([json.loads(text) for texts in each.values() for text in texts], indent=1).split("\n")
        for each in (found, wanted)
    )
    return "\n".join(difflib.unified_diff(ours, real, "havre", "real", lineterm=""))


@pytest.fixture
def both(ours: Client, reference: Client, request: pytest.FixtureRequest) -> Iterator[Both]:
    name = "work-" + re.sub(r"[^a-z]+", "-", request.node.name)[5:40].strip("-") + f"-{int(time.time()) % 10000}"
    clusters = [Cluster(client, name) for client in (ours, reference)]
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for each in clusters:
        each.call("POST", "/api/v1/namespaces", space)
        account, end = f"/api/v1/namespaces/{name}/serviceaccounts/default", time.monotonic() + 10
        while each.call("GET", account).get("kind") != "ServiceAccount":
            if time.monotonic() > end:
                pytest.skip("the cluster to compare with has no controller manager")
            time.sleep(0.1)
    yield Both(*clusters)
    for each in clusters:
        each.call("DELETE", f"/api/v1/namespaces/{name}")


def test_deployment_rolls_out_and_back(both: Both) -> None:
    both.create("Deployment", "web", spec={"replicas": 4, "selector": SELECTOR, "template": TEMPLATE})
    both.settle("Deployment", "ReplicaSet", "Pod", state=running)
    both.patch("Deployment", "web", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}})
    both.settle("Deployment", "ReplicaSet", "Pod", state=running)
    both.patch("Deployment", "web", {"spec": {"template": TEMPLATE, "replicas": 2, "revisionHistoryLimit": 0}})
    both.settle("Deployment", "ReplicaSet", "Pod", state=running)


def test_deployment_that_recreates_or_pauses(both: Both) -> None:
    spec = {"replicas": 2, "selector": SELECTOR, "template": TEMPLATE, "strategy": {"type": "Recreate"}}
    both.create("Deployment", "web", spec=spec)
    both.settle("Deployment", "ReplicaSet", state=running)
    both.patch("Deployment", "web", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}})
    both.settle("Deployment", "ReplicaSet", "Pod", state=running)
    both.patch("Deployment", "web", {"spec": {"paused": True, "replicas": 5}})
    both.settle("Deployment", "ReplicaSet", state=running)


def test_replication_controller_meets_a_quota(both: Both) -> None:
    both.create("ResourceQuota", "q", spec={"hard": {"pods": "1"}})
    both.settle("ResourceQuota")  # it limits nothing before somebody has counted
    both.create("ReplicationController", "web", spec={"replicas": 2, "selector": {"app": "web"}, "template": TEMPLATE})
    both.settle("Pod", state=running)
    both.patch("ReplicationController", "web", {"spec": {"replicas": 1}})
    both.settle("ReplicationController", "Pod", state=running)


def job(**spec: Any) -> Obj:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    return {"template": {"spec": pod}, **spec}


JOBS: dict[str, tuple[Obj, Callable[[int], int]]] = {  # name → spec, exit code by index
    "plain": (job(completions=3, parallelism=2), lambda _: 0),
    "indexed": (job(completions=3, parallelism=3, completionMode="Indexed"), lambda _: 0),
    "bad": (job(backoffLimit=0), lambda _: 1),
    "enough": (
        job(
            completions=3,
            parallelism=3,
            completionMode="Indexed",
            successPolicy={"rules": [{"succeededIndexes": "0"}]},
        ),
        lambda index: -1 if index else 0,
    ),
    "policy": (
        job(
            podFailurePolicy={
                "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}],
            }
        ),
        lambda _: 42,
    ),
    "perindex": (
        job(completions=2, parallelism=2, completionMode="Indexed", backoffLimitPerIndex=0),
        lambda index: 0 if index else 1,
    ),
    "late": (job(activeDeadlineSeconds=3), lambda _: -1),
    "suspended": (job(suspend=True), lambda _: 0),
}


def ended(pod: Obj) -> Obj | None:
    """As the exit code of its Job says; -1 runs on."""
    labels, meta = pod["metadata"]["labels"], pod["metadata"]
    name, index = labels["batch.kubernetes.io/job-name"], int(labels.get("batch.kubernetes.io/job-completion-index", 0))
    code = JOBS[name][1](index)
    if code < 0:
        return None
    done = {"exitCode": code, "finishedAt": meta["creationTimestamp"], "startedAt": meta["creationTimestamp"]}
    container = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": done}}],
    }


@pytest.mark.parametrize("name", sorted(JOBS))
def test_job(both: Both, name: str) -> None:
    both.create("Job", name, spec=JOBS[name][0])
    both.settle("Job", "Pod", state=ended)
    if name == "suspended":
        both.patch("Job", name, {"spec": {"suspend": False}})
        both.settle("Job", "Pod", state=ended)


def test_stateful_set_keeps_order_and_claims(both: Both) -> None:
    claims = [
        {
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    ]
    keep = {"whenScaled": "Delete", "whenDeleted": "Delete"}
    spec = {"replicas": 3, "serviceName": "web", "selector": SELECTOR, "template": TEMPLATE}
    more = {"volumeClaimTemplates": claims, "persistentVolumeClaimRetentionPolicy": keep}
    both.create("StatefulSet", "web", spec={**spec, **more})
    both.settle("StatefulSet", "ControllerRevision", "PersistentVolumeClaim", state=running)
    change = {"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}}
    both.patch("StatefulSet", "web", change)
    both.settle("StatefulSet", "ControllerRevision", "PersistentVolumeClaim", state=running)


def test_daemon_set_without_nodes_remembers_its_templates(both: Both) -> None:
    both.create("DaemonSet", "web", spec={"selector": SELECTOR, "template": TEMPLATE})
    both.settle("DaemonSet", "ControllerRevision")
    for image in "ji":
        change = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}
        both.patch("DaemonSet", "web", change)
        both.settle("DaemonSet", "ControllerRevision")


def test_services_have_slices_and_endpoints(both: Both) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "alt", "port": 81, "targetPort": 8081}]
    both.create("Service", "web", spec={"selector": {"app": "web"}, "ports": ports})
    both.create("Service", "headless", spec={"selector": {"app": "web"}, "clusterIP": "None"})
    both.create("Service", "nobody", spec={"selector": {"app": "nobody"}, "ports": [{"port": 80}]})
    both.create("Service", "hand", spec={"ports": [{"port": 80}]})
    subset = {"addresses": [{"ip": "1.2.3.4"}], "notReadyAddresses": [{"ip": "1.2.3.5"}], "ports": [{"port": 8080}]}
    both.create("Endpoints", "hand", subsets=[subset])
    both.settle("EndpointSlice", "Endpoints")


def test_budgets_count(both: Both) -> None:
    both.create("ReplicationController", "web", spec={"replicas": 3, "selector": {"app": "web"}, "template": TEMPLATE})
    both.settle("Pod", state=running)
    both.create("PodDisruptionBudget", "b", spec={"maxUnavailable": "50%", "selector": SELECTOR})
    both.settle("PodDisruptionBudget", state=running)


def test_pod_without_a_node_says_why(both: Both) -> None:
    """There may be a node of somebody else: only the words that do not count nodes are compared."""
    both.create("Pod", "p", spec={"nodeSelector": {"no": "node"}, "containers": [{"name": "c", "image": "i"}]})
    end = time.monotonic() + WITHIN
    while True:
        found = [_why(each) for each in (both.ours, both.real)]
        if all(found) or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert found[0] == found[1] != ()


def _why(cluster: Cluster) -> tuple[str, ...]:
    held = cluster.all("Pod")[0]["status"].get("conditions") or ()
    return tuple(f"{c['type']} {c['status']} {c.get('reason')} {c.get('message')}" for c in held)
