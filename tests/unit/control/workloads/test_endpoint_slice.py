"""EndpointSlices, Endpoints and mirrored slices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from havre.api.meta import GVK, Obj
from havre.control.workloads import endpoint_slice, endpoint_slice_mirroring, endpoints
from havre.control.workloads.endpoint_slice import ENDPOINT_SLICE, Seen, Steps, plan
from havre.control.workloads.endpoints import ENDPOINTS
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD, SERVICE = GVK("", "v1", "Pod"), GVK("", "v1", "Service")


def service(**spec: Any) -> Obj:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]
    body = {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "ports": ports, **spec}
    meta = {"name": "s", "namespace": "default", "uid": "s", "labels": {"team": "a"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": body}


def pod(n: int, *, ready: bool = True, port: int = 8080, **more: Any) -> Obj:
    ip = f"10.42.{n // 250}.{n % 250 + 1}"
    meta = {"name": f"p{n}", "namespace": "default", "uid": f"u{n}", "labels": {"app": "web"}, **more}
    ports = [{"name": "web", "containerPort": port, "protocol": "TCP"}]
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": meta,
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": conditions},
    }


def stored(*slices: Obj) -> list[Obj]:
    """As the server would have made them."""
    return [
        {**each, "metadata": {**each["metadata"], "name": f"s-{n}", "uid": f"e{n}"}} for n, each in enumerate(slices)
    ]


def counts(steps: Steps) -> tuple[list[int], list[int], int]:
    created, updated = ([len(each["endpoints"]) for each in group] for group in (steps.create, steps.update))
    return created, updated, len(steps.delete)


def test_slice_says_whose_it_is_and_what_each_pod_is() -> None:
    (made,) = plan(service(), Seen([pod(0), pod(1, ready=False)], [], {"n": "z1"})).create
    assert made["metadata"]["labels"] == {
        "team": "a",
        "kubernetes.io/service-name": "s",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert made["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert made["endpoints"][0] == {
        "addresses": ["10.42.0.1"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "p0", "uid": "u0"},
        "nodeName": "n",
        "zone": "z1",
    }
    assert made["endpoints"][1]["conditions"]["ready"] is False


def test_leaving_pod_still_serves_but_is_not_ready() -> None:
    (made,) = plan(service(), Seen([pod(0, deletionTimestamp="2026-01-01T00:00:00Z")], [])).create
    assert made["endpoints"][0]["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_published_pods_are_ready_whatever_they_say() -> None:
    (made,) = plan(service(publishNotReadyAddresses=True), Seen([pod(0, ready=False)], [])).create
    assert made["endpoints"][0]["conditions"] == {"ready": True, "serving": False, "terminating": False}


def test_port_of_another_number_is_another_slice() -> None:
    steps = plan(service(), Seen([pod(0), pod(1, port=9090)], []))
    assert sorted(each["ports"][0]["port"] for each in steps.create) == [8080, 9090]


def test_hundred_endpoints_are_a_full_slice() -> None:
    assert counts(plan(service(), Seen([pod(n) for n in range(250)], []))) == ([100, 100, 50], [], 0)


def test_newcomer_goes_into_the_slice_with_room_and_nothing_else_changes() -> None:
    held = stored(*plan(service(), Seen([pod(n) for n in range(150)], [])).create)
    steps = plan(service(), Seen([pod(n) for n in range(151)], held))
    assert counts(steps) == ([], [51], 0)
    assert plan(service(), Seen([pod(n) for n in range(150)], held)) == Steps()


def test_service_without_pods_has_one_empty_slice() -> None:
    (made,) = plan(service(), Seen([], [])).create
    assert (made["endpoints"], made["ports"]) == ([], [])
    assert plan(service(), Seen([], stored(made))) == Steps()


def test_last_pod_leaves_an_empty_slice_by_an_update() -> None:
    held = stored(*plan(service(), Seen([pod(0)], [])).create)
    assert counts(plan(service(), Seen([], held))) == ([], [0], 0)


def test_dual_stack_has_a_slice_of_each_family() -> None:
    both = pod(0)
    both["status"]["podIPs"].append({"ip": "fd00::1"})
    steps = plan(service(ipFamilies=["IPv4", "IPv6"]), Seen([both], []))
    assert {each["addressType"]: each["endpoints"][0]["addresses"] for each in steps.create} == {
        "IPv4": ["10.42.0.1"],
        "IPv6": ["fd00::1"],
    }


def test_slice_of_a_service_of_before_goes() -> None:
    held = stored(*plan({**service(), "metadata": {**service()["metadata"], "uid": "old"}}, Seen([pod(0)], [])).create)
    steps = plan(service(), Seen([pod(0)], held))
    assert counts(steps) in (([], [1], 0), ([1], [], 1))


def test_endpoints_join_ports_of_the_same_addresses_and_leave_out_who_leaves() -> None:
    ports = [{"name": n, "port": p, "targetPort": p, "protocol": "TCP"} for n, p in (("a", 80), ("b", 81))]
    leaving = pod(2, deletionTimestamp="2026-01-01T00:00:00Z")
    made = endpoints.plan(service(ports=ports), [pod(0), pod(1, ready=False), leaving], None)
    assert made is not None
    (subset,) = made["subsets"]
    assert [each["ip"] for each in subset["addresses"]] == ["10.42.0.1"]
    assert [each["ip"] for each in subset["notReadyAddresses"]] == ["10.42.0.2"]
    assert [each["port"] for each in subset["ports"]] == [80, 81]
    assert endpoints.plan(service(ports=ports), [pod(0), pod(1, ready=False), leaving], made) is None


def test_more_than_a_thousand_addresses_are_cut() -> None:
    made = endpoints.plan(service(), [pod(n) for n in range(1001)], None)
    assert made is not None
    assert sum(len(each["addresses"]) for each in made["subsets"]) == 1000
    assert made["metadata"]["annotations"] == {"endpoints.kubernetes.io/over-capacity": "truncated"}


def by_hand(**meta: Any) -> Obj:
    subsets = [{"addresses": [{"ip": "1.2.3.4"}], "notReadyAddresses": [{"ip": "fd00::5"}], "ports": [{"port": 80}]}]
    made = {"name": "s", "namespace": "default", "uid": "e", **meta}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": made, "subsets": subsets}


def test_hand_made_endpoints_are_mirrored_by_family() -> None:
    steps = endpoint_slice_mirroring.plan(by_hand(labels={"x": "y"}), service(selector=None), [])
    assert {each["addressType"]: each["endpoints"] for each in steps.create} == {
        "IPv4": [{"addresses": ["1.2.3.4"], "conditions": {"ready": True}}],
        "IPv6": [{"addresses": ["fd00::5"], "conditions": {"ready": False}}],
    }
    held = stored(*steps.create)
    assert endpoint_slice_mirroring.plan(by_hand(labels={"x": "y"}), service(selector=None), held) == Steps()


@pytest.mark.parametrize(
    ("meta", "selector"),
    [({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}, None), ({}, {"app": "web"})],
)
def test_what_is_not_made_by_hand_is_not_mirrored(meta: Obj, selector: Obj | None) -> None:
    held = stored(*endpoint_slice_mirroring.plan(by_hand(), service(selector=None), []).create)
    steps = endpoint_slice_mirroring.plan(by_hand(**meta), service(selector=selector), held)
    assert counts(steps) == ([], [], 2)


async def test_slices_follow_the_pods_and_settle() -> None:
    api = FakeApi()
    kinds = [endpoint_slice, endpoints, endpoint_slice_mirroring]
    task = asyncio.create_task(controller.run([kind.controller() for kind in kinds], api))
    await api.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}}
        | {"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}
    )
    first = pod(0)
    status = first.pop("status")
    del first["metadata"]["uid"]
    await api.create({"apiVersion": "v1", "kind": "Pod", **first})
    await api.patch(Ref(POD, "default", "p0"), {"status": status}, subresource="status")

    def addresses() -> list[str]:
        return [a for each in api.all(ENDPOINT_SLICE) for e in each.get("endpoints") or () for a in e["addresses"]]

    await eventually(lambda: addresses() == ["10.42.0.1"])
    legacy = Ref(ENDPOINTS, "default", "s")
    await eventually(lambda: (api.now(legacy) or {}).get("subsets"))
    await asyncio.sleep(10)
    before = api.revision
    await asyncio.sleep(600)
    assert (api.revision, len(api.all(ENDPOINT_SLICE))) == (before, 1)
    await api.delete(Ref(SERVICE, "default", "s"))
    await endpoints.clean_up(legacy, api)
    assert api.now(legacy) is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
