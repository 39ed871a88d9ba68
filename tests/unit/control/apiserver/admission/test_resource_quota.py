"""ResourceQuota: what objects cost, and that two writers never spend the same rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from havre.api import amounts
from havre.api import quota as quota_usage
from havre.api.errors import Conflict, Forbidden
from havre.control.apiserver.admission.resource_quota import ResourceQuota
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
NOW = 1_800_000_000.0


class Store:
    """Quotas under compare-and-swap; `lose` races are lost first, each to somebody who took one pod."""

    def __init__(self, objects: Any, lose: int = 0) -> None:
        self.objects, self.lose, self.writes = objects, lose, 0

    async def charge(self, quota: Any, used: Mapping[str, str]) -> bool:
        await asyncio.sleep(0)
        live = self.objects.get("", "resourcequotas", "default", quota["metadata"]["name"])
        if self.lose:
            self.lose -= 1
            self._write(live, {**live["status"]["used"], "pods": str(int(live["status"]["used"]["pods"]) + 1)})
        if self.objects.get("", "resourcequotas", "default", quota["metadata"]["name"]) is not quota:
            return False
        self._write(live, used)
        return True

    def _write(self, live: Any, used: Mapping[str, str]) -> None:
        self.writes += 1
        self.objects.add("resourcequotas", {**live, "status": {**live["status"], "used": dict(used)}})


def add(objects: Any, name: str, hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> None:
    taken = dict.fromkeys(hard, "0") if used is None else used
    metadata = {"name": name, "namespace": "default"}
    status = {"hard": hard, "used": taken}
    objects.add("resourcequotas", {"metadata": metadata, "spec": {"hard": hard, **spec}, "status": status})


def used(objects: Any, name: str) -> dict[str, str]:
    found: dict[str, str] = objects.get("", "resourcequotas", "default", name)["status"]["used"]
    return found


def plug(objects: Any, lose: int = 0) -> ResourceQuota:
    return ResourceQuota(objects, Store(objects, lose).charge, lambda: NOW)


async def test_a_pod_is_charged_to_every_quota_it_falls_under(objects: Any, ask: Any, pod: Any) -> None:
    add(
        objects,
        "q",
        {"pods": "2", "requests.cpu": "1", "secrets": "5"},
        {"pods": "1", "requests.cpu": "0", "secrets": "3"},
    )
    add(objects, "best", {"pods": "1"}, scopes=["BestEffort"])
    await plug(objects).validate(ask(CREATE, "pods", pod(resources={"requests": {"cpu": "250m"}})))
    assert used(objects, "q") == {"pods": "2", "requests.cpu": "250m", "secrets": "3"}
    assert used(objects, "best") == {"pods": "0"}


async def test_what_exceeds_a_quota_is_refused_and_nothing_is_charged(objects: Any, ask: Any, pod: Any) -> None:
    add(objects, "a", {"pods": "9"})
    add(objects, "q", {"pods": "2", "cpu": "1"}, {"pods": "2", "cpu": "500m"})
    with pytest.raises(Forbidden) as refused:
        await plug(objects).validate(ask(CREATE, "pods", pod(resources={"requests": {"cpu": "1"}})))
    assert refused.value.message == (
        'pods "web" is forbidden: exceeded quota: q, requested: cpu=1,pods=1, used: cpu=500m,pods=2, '
        "limited: cpu=1,pods=2"
    )
    assert used(objects, "a") == {"pods": "0"}


async def test_a_quota_on_compute_makes_containers_say_what_they_want(objects: Any, ask: Any, pod: Any) -> None:
    add(objects, "q", {"requests.cpu": "1", "limits.memory": "1Gi"})
    with pytest.raises(Forbidden) as refused:
        await plug(objects).validate(ask(CREATE, "pods", pod()))
    assert refused.value.message == (
        'pods "web" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c'
    )


async def test_a_quota_that_was_never_counted_lets_nothing_in(objects: Any, ask: Any) -> None:
    add(objects, "q", {"configmaps": "1"}, {})
    with pytest.raises(Forbidden, match="status unknown for quota: q, resources: configmaps"):
        await plug(objects).validate(ask(CREATE, "configmaps", {"metadata": {"name": "web"}}))


async def test_of_many_writers_at_once_only_as_many_get_in_as_there_is_room(objects: Any, ask: Any) -> None:
    add(objects, "q", {"configmaps": "3"})
    quota = plug(objects)
    requests = [ask(CREATE, "configmaps", {"metadata": {"name": f"c{n}"}}) for n in range(8)]
    results = await asyncio.gather(*map(quota.validate, requests), return_exceptions=True)
    assert [type(r) for r in results].count(Forbidden) == 5
    assert used(objects, "q") == {"configmaps": "3"}


async def test_a_lost_race_is_run_again_on_what_the_winner_left(objects: Any, ask: Any, pod: Any) -> None:
    add(objects, "q", {"pods": "9"})
    await plug(objects, lose=2).validate(ask(CREATE, "pods", pod()))
    assert used(objects, "q") == {"pods": "3"}
    with pytest.raises(Conflict, match="the object has been modified"):
        await plug(objects, lose=5).validate(ask(CREATE, "pods", pod()))


async def test_a_dry_run_is_checked_and_not_charged(objects: Any, ask: Any) -> None:
    add(objects, "q", {"configmaps": "1"})
    await plug(objects).validate(ask(CREATE, "configmaps", {"metadata": {"name": "a"}}, dry_run=True))
    assert used(objects, "q") == {"configmaps": "0"}


async def test_an_update_costs_only_what_is_more_than_before(objects: Any, ask: Any) -> None:
    def claim(size: str) -> dict[str, Any]:
        spec = {"resources": {"requests": {"storage": size}}, "storageClassName": "fast"}
        return {"metadata": {"name": "data"}, "spec": spec}

    fast = "fast.storageclass.storage.k8s.io/requests.storage"
    taken = {"requests.storage": "1Gi", fast: "1Gi", "persistentvolumeclaims": "1"}
    add(objects, "q", {"requests.storage": "3Gi", fast: "3Gi", "persistentvolumeclaims": "1"}, taken)
    quota = plug(objects)
    await quota.validate(ask(UPDATE, "persistentvolumeclaims", claim("2Gi"), claim("1Gi")))
    assert used(objects, "q") == {"requests.storage": "2Gi", fast: "2Gi", "persistentvolumeclaims": "1"}
    with pytest.raises(Forbidden, match=f"requested: {fast}=2Gi,requests.storage=2Gi"):
        await quota.validate(ask(UPDATE, "persistentvolumeclaims", claim("4Gi"), claim("2Gi")))


async def test_reviews_events_and_namespaces_cost_nothing(objects: Any, ask: Any) -> None:
    add(objects, "q", {"count/events": "0", "count/namespaces": "0"})
    await plug(objects).validate(ask(CREATE, "events", {"metadata": {"name": "e"}}))
    await plug(objects).validate(ask(CREATE, "namespaces", {"metadata": {"name": "n"}}))


@pytest.mark.parametrize(
    ("resource", "obj", "expected"),
    [
        ("configmaps", {"metadata": {}}, {"count/configmaps": "1", "configmaps": "1"}),
        ("deployments", {"metadata": {}}, {"count/deployments.apps": "1"}),
        (
            "services",
            {"metadata": {}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}},
            {"services": "1", "count/services": "1", "services.nodeports": "2", "services.loadbalancers": "1"},
        ),
        (
            "services",
            {
                "metadata": {},
                "spec": {
                    "type": "LoadBalancer",
                    "allocateLoadBalancerNodePorts": False,
                    "ports": [{"port": 1, "nodePort": 30000}, {"port": 2}],
                },
            },
            {"services": "1", "count/services": "1", "services.nodeports": "1", "services.loadbalancers": "1"},
        ),
        ("pods", {"metadata": {}, "status": {"phase": "Failed"}}, {"count/pods": "1"}),
        (
            "pods",
            {
                "metadata": {},
                "spec": {
                    "overhead": {"cpu": "10m"},
                    "initContainers": [
                        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                        {"name": "init", "resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}},
                    ],
                    "containers": [
                        {"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}}
                    ],
                },
            },
            {
                "count/pods": "1",
                "pods": "1",
                "cpu": "1060m",
                "requests.cpu": "1060m",
                "limits.cpu": "210m",
                "requests.example.com/gpu": "1",
            },
        ),
    ],
)
def test_what_objects_cost(resource: str, obj: Any, expected: dict[str, str]) -> None:
    group = "apps" if resource == "deployments" else ""
    assert amounts.write(quota_usage.usage(group, resource, obj, NOW)) == expected


@pytest.mark.parametrize(
    ("quota", "spec", "expected"),
    [
        ({"scopes": ["Terminating"]}, {"activeDeadlineSeconds": 0}, True),
        ({"scopes": ["Terminating"]}, {}, False),
        ({"scopes": ["NotTerminating", "BestEffort"]}, {}, True),
        ({"scopes": ["NotBestEffort"]}, {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}, True),
        ({"scopes": ["BestEffort"]}, {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}, False),
        ({"scopes": ["PriorityClass"]}, {"priorityClassName": "high"}, True),
        ({"scopes": ["PriorityClass"]}, {}, False),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "NotIn", "values": ["x"]}]
                }
            },
            {"priorityClassName": "high"},
            True,
        ),
        (
            {"scopes": ["CrossNamespacePodAffinity"]},
            {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["a"]}]}}},
            True,
        ),
    ],
)
def test_scopes_choose_pods(quota: Any, spec: Any, expected: bool) -> None:
    assert quota_usage.in_scope({"spec": quota}, "pods", {"spec": spec}) is expected
