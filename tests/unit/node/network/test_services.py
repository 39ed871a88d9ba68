"""Which addresses lead to which endpoints: the rules of Services, and the loop that follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.node.bpf.call import BpfError
from havre.node.network import services as module
from havre.node.network.addresses import HostPort, Target
from havre.node.network.frontends import Backend, Backends, Frontend
from havre.node.network.services import SERVICE, SLICE, Read, frontends, host_frontends, run
from havre.testing import FakeApi, eventually

NODES = ("192.0.2.1", "127.0.0.1")
A, B = Backend("10.42.0.2", 8080), Backend("10.42.0.3", 8080)
HTTP = {"name": "http", "port": 80, "protocol": "TCP"}


def service(name: str = "web", *, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Obj:
    meta = {"name": name, "namespace": "default", "creationTimestamp": created, "labels": spec.pop("labels", {})}
    status = spec.pop("status", {})
    spec = {"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [HTTP]} | spec
    spec.setdefault("clusterIPs", [spec["clusterIP"]] if spec["clusterIP"] else [])
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec, "status": status}


def endpoint(ip: str, **conditions: bool) -> Obj:
    return {"addresses": [ip], "conditions": conditions, "nodeName": "here"}


def slice_of(*endpoints: Obj, of: str = "web", name: str = "web-1", **more: Any) -> Obj:
    meta = {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": of}}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [*endpoints],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    } | more


def led(services: list[Obj], *slices: Obj) -> dict[str, tuple[Backend, ...]]:
    """Where each address leads, in short."""
    found = frontends(services, slices, NODES)
    return {f"{f.ip}:{f.port}/{f.protocol}": backends.addresses for f, backends in found.items()}


READY = slice_of(endpoint(A.ip, ready=True), endpoint(B.ip, ready=True))


def test_a_cluster_ip_leads_to_the_ready_endpoints() -> None:
    assert led([service()], READY) == {"10.96.0.1:80/TCP": (A, B)}


def test_a_service_without_endpoints_has_an_address_that_refuses() -> None:
    assert led([service()]) == {"10.96.0.1:80/TCP": ()}


def test_unknown_readiness_counts_as_ready() -> None:
    assert led([service()], slice_of(endpoint(A.ip))) == {"10.96.0.1:80/TCP": (A,)}


def test_what_is_not_ready_is_left_out() -> None:
    slices = slice_of(endpoint(A.ip, ready=False, serving=False), endpoint(B.ip, ready=True))
    assert led([service()], slices) == {"10.96.0.1:80/TCP": (B,)}


def test_ending_endpoints_serve_only_while_none_is_ready() -> None:
    ending = endpoint(A.ip, ready=False, serving=True, terminating=True)
    assert led([service()], slice_of(ending, endpoint(B.ip, ready=True))) == {"10.96.0.1:80/TCP": (B,)}
    assert led([service()], slice_of(ending)) == {"10.96.0.1:80/TCP": (A,)}
    ended = endpoint(A.ip, ready=False, serving=False, terminating=True)
    assert led([service()], slice_of(ended)) == {"10.96.0.1:80/TCP": ()}


def test_several_slices_and_endpoints_that_come_twice_are_one_list() -> None:
    slices = slice_of(endpoint(B.ip)), slice_of(endpoint(A.ip), endpoint(B.ip), name="web-2")
    assert led([service()], *slices) == {"10.96.0.1:80/TCP": (A, B)}


def test_ports_go_by_name_and_protocol_and_may_differ_between_slices() -> None:
    ports = [HTTP, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    one = slice_of(
        endpoint(A.ip), ports=[{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]
    )
    two = slice_of(endpoint(B.ip), name="web-2", ports=[{"name": "http", "port": 9090}])
    assert led([service(ports=ports)], one, two) == {
        "10.96.0.1:80/TCP": (A, Backend(B.ip, 9090)),
        "10.96.0.1:53/UDP": (Backend(A.ip, 5353),),
        "10.96.0.1:53/TCP": (),
    }


def test_a_port_without_a_name_meets_one_without_a_name() -> None:
    slices = slice_of(endpoint(A.ip), ports=[{"port": 8080, "name": ""}])
    assert led([service(ports=[{"port": 80}])], slices) == {"10.96.0.1:80/TCP": (A,)}


@pytest.mark.parametrize(
    "other",
    [
        service(clusterIP="None"),
        service(type="ExternalName", clusterIP="", externalName="example.org"),
        service(clusterIP=""),
        service(labels={"service.kubernetes.io/service-proxy-name": "mesh"}),
        service(labels={"service.kubernetes.io/headless": ""}),
        service(ports=[{"name": "sctp", "port": 80, "protocol": "SCTP"}]),
        service(clusterIP="fd00::1"),
    ],
)
def test_what_has_no_address_of_ours_leads_nowhere(other: Obj) -> None:
    assert led([other], READY) == {}


def test_a_node_port_is_at_every_address_of_the_node_and_reached_from_outside() -> None:
    found = frontends([service(type="NodePort", ports=[HTTP | {"nodePort": 30080}])], [READY], NODES)
    assert {f: b.external for f, b in found.items()} == {
        Frontend("10.96.0.1", 80): False,
        Frontend("192.0.2.1", 30080): True,
        Frontend("127.0.0.1", 30080): True,
    }
    assert {b.addresses for b in found.values()} == {(A, B)}


def test_external_and_load_balancer_addresses_lead_to_the_endpoints() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}, {"ip": "198.51.100.9", "ipMode": "Proxy"}]}}
    one = service(type="LoadBalancer", externalIPs=["198.51.100.7"], status=status)
    assert led([one], READY) == {
        "10.96.0.1:80/TCP": (A, B),
        "198.51.100.7:80/TCP": (A, B),
        "198.51.100.8:80/TCP": (A, B),
    }


def test_source_ranges_hold_at_the_load_balancers_address_alone() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}]}}
    given = ["198.51.100.9/24", " 203.0.113.7/32 ", "fd00::/8"]
    one = service(type="LoadBalancer", externalIPs=["198.51.100.7"], status=status, loadBalancerSourceRanges=given)
    found = frontends([one], [READY], NODES)
    assert {f.ip: b.ranges for f, b in found.items()} == {
        "10.96.0.1": None,
        "198.51.100.7": None,
        "198.51.100.8": ("198.51.100.9/24", "203.0.113.7/32"),
    }


def test_a_load_balancer_at_the_nodes_address_leaves_the_port_alone_while_nobody_serves() -> None:
    one = service(type="LoadBalancer", status={"loadBalancer": {"ingress": [{"ip": NODES[0]}]}})
    assert led([one]) == {"10.96.0.1:80/TCP": ()}
    assert led([one], READY)["192.0.2.1:80/TCP"] == (A, B)


def test_local_policies_leave_endpoints_that_are_on_no_node() -> None:
    far = {"addresses": ["203.0.113.5"], "conditions": {"ready": True}}
    slices = slice_of(endpoint(A.ip), far)
    ports = [HTTP | {"nodePort": 30080}]
    near = service(type="NodePort", ports=ports, externalTrafficPolicy="Local")
    assert led([near], slices)["192.0.2.1:30080/TCP"] == (A,)
    assert led([near], slices)["10.96.0.1:80/TCP"] == (A, Backend("203.0.113.5", 8080))
    assert led([service(internalTrafficPolicy="Local")], slices) == {"10.96.0.1:80/TCP": (A,)}


def test_affinity_is_for_all_addresses_of_a_port() -> None:
    one = service(
        type="NodePort",
        ports=[HTTP | {"nodePort": 30080}],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
    )
    found = frontends([one], [READY], NODES)
    assert {(b.affinity, b.service) for b in found.values()} == {(600, "default/web:80/TCP")}
    assert frontends([service(sessionAffinity="ClientIP")], [], ())[Frontend("10.96.0.1", 80)].affinity == 10800


def test_nobody_takes_a_cluster_ip_over_and_of_two_the_older_keeps_the_address() -> None:
    thief = service(
        "a-thief", clusterIP="10.96.0.2", externalIPs=["10.96.0.1", "198.51.100.7"], created="2026-01-02T00:00:00Z"
    )
    owner = service("web", externalIPs=["198.51.100.7"])
    found = frontends([thief, owner], [READY], NODES)
    assert found[Frontend("10.96.0.1", 80)].service == "default/web:80/TCP"
    assert found[Frontend("198.51.100.7", 80)].service == "default/web:80/TCP"


def test_host_ports_are_at_their_address_or_at_all() -> None:
    ports = {
        HostPort("TCP", "0.0.0.0", 8080): Target("10.42.0.2", 80),  # noqa: S104
        HostPort("UDP", "192.0.2.1", 53): Target("10.42.0.3", 5353),
        HostPort("SCTP", "0.0.0.0", 9): Target("10.42.0.3", 9),  # noqa: S104
    }
    assert host_frontends(ports, NODES) == {
        Frontend("192.0.2.1", 8080): Backends((Backend("10.42.0.2", 80),), external=True),
        Frontend("127.0.0.1", 8080): Backends((Backend("10.42.0.2", 80),), external=True),
        Frontend("192.0.2.1", 53, "UDP"): Backends((Backend("10.42.0.3", 5353),), external=True),
    }


@pytest.mark.parametrize("ip", ["10.96.0.1", "10.42.0.9", "198.51.100.7"])
def test_a_host_port_is_never_on_an_address_that_is_not_the_machines(ip: str) -> None:
    assert host_frontends({HostPort("TCP", ip, 443): Target("10.42.0.2", 80)}, NODES) == {}


def test_an_object_is_read_once_a_revision() -> None:
    seen: list[str] = []

    def read(obj: Obj) -> str:
        seen.append(obj["metadata"]["name"] + obj["metadata"].get("resourceVersion", "-"))
        return seen[-1]

    def obj(name: str, revision: str) -> Obj:
        return {
            "metadata": {"name": name, "namespace": "default"} | ({"resourceVersion": revision} if revision else {})
        }

    reads = Read(read)
    assert reads.all([obj("a", "1"), obj("b", "2")]) == ["a1", "b2"]
    assert reads.all([obj("a", "1"), obj("b", "3"), obj("c", "")]) == ["a1", "b3", "c-"]
    assert reads.all([obj("c", "")]) == ["c-"]
    assert reads.all([obj("a", "1")]) == ["a1"]
    assert seen == ["a1", "b2", "b3", "c-", "c-", "a1"]


# the loop


class Recorder:
    """A datapath that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[Frontend, Backends]] = []
        self.refusals = 0

    def set_frontends(self, wanted: Mapping[Frontend, Backends]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BpfError(7, "update a map")
        self.told.append(dict(wanted))

    def last(self) -> dict[Frontend, tuple[Backend, ...]]:
        return {frontend: backends.addresses for frontend, backends in self.told[-1].items()} if self.told else {}


class Ports:
    """A pod network with host ports."""

    def __init__(self) -> None:
        self.ports: dict[HostPort, Target] = {}
        self.changed: list[Callable[[], None]] = []

    def host_ports(self) -> Mapping[HostPort, Target]:
        return self.ports

    def subscribe(self, changed: Callable[[], None]) -> None:
        self.changed.append(changed)


def stored(name: str, ip: str) -> Obj:
    made = service(name, clusterIP=ip, clusterIPs=[ip], selector={"app": name})
    del made["status"], made["metadata"]["creationTimestamp"]
    return made


@pytest.fixture
async def datapath() -> Recorder:
    return Recorder()


async def test_the_datapath_follows_services_slices_and_host_ports(datapath: Recorder) -> None:
    api, ports = FakeApi(stored("web", "10.96.0.1")), Ports()
    task = asyncio.ensure_future(run(api, datapath, ["192.0.2.1"], ports))
    try:
        await eventually(lambda: datapath.last() == {Frontend("10.96.0.1", 80): ()})
        await api.create(slice_of(endpoint(A.ip, ready=True)))
        await eventually(lambda: datapath.last() == {Frontend("10.96.0.1", 80): (A,)})
        ports.ports[HostPort("TCP", "192.0.2.1", 8080)] = Target(B.ip, 80)
        ports.changed[0]()
        await eventually(lambda: Frontend("192.0.2.1", 8080) in datapath.last())
        await api.delete(Ref(SERVICE, "default", "web"))
        await api.delete(Ref(SLICE, "default", "web-1"))
        await eventually(lambda: datapath.last() == {Frontend("192.0.2.1", 8080): (Backend(B.ip, 80),)})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nobody_stands_in_for_the_machines_own_servers_or_for_a_service(datapath: Recorder) -> None:
    thief = stored("thief", "10.96.0.9")
    thief["spec"] |= {"externalIPs": ["192.0.2.1"], "ports": [HTTP | {"port": 6443}, HTTP | {"name": "b", "port": 81}]}
    both = [{"name": name, "port": 8080, "protocol": "TCP"} for name in ("http", "b")]
    behind = slice_of(endpoint(A.ip, ready=True), of="thief", ports=both)
    api, ports = FakeApi(stored("web", "10.96.0.1"), thief, behind), Ports()
    ports.ports = {
        HostPort("TCP", "0.0.0.0", 10250): Target(B.ip, 80),  # noqa: S104
        HostPort("TCP", "192.0.2.1", 81): Target(B.ip, 80),
        HostPort("TCP", "0.0.0.0", 8080): Target(B.ip, 80),  # noqa: S104
    }
    task = asyncio.ensure_future(run(api, datapath, ["192.0.2.1"], ports, own=(6443, 10250)))
    try:
        await eventually(lambda: Frontend("192.0.2.1", 8080) in datapath.last())
        found = datapath.last()
        taken = {front for front in found if front.port in (6443, 10250)}
        assert taken == {Frontend("10.96.0.9", 6443)}  # its own address is its own
        assert Frontend("127.0.0.1", 8080) in found
        assert found[Frontend("192.0.2.1", 81)] == (A,)  # the Service's, not the pod's
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_the_kernel_refuses_is_tried_again(datapath: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)
    datapath.refusals = 2
    task = asyncio.ensure_future(run(FakeApi(stored("web", "10.96.0.1")), datapath, []))
    try:
        await eventually(lambda: datapath.last() == {Frontend("10.96.0.1", 80): ()})
        assert datapath.refusals == 0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
