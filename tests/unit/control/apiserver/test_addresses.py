"""Addresses and node ports: given once, given back, never twice."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from havre.api.errors import InternalError, Invalid
from havre.api.meta import Obj
from havre.control.apiserver.addresses import Addresses
from havre.control.apiserver.cache import DELETED, MODIFIED, Entry, Event


def service(kind: str = "ClusterIP", ports: Any = ((80, "TCP"),), name: str = "s", **spec: Any) -> Obj:
    listed = [{"port": p[0], "protocol": p[1], **({"nodePort": p[2]} if len(p) > 2 else {})} for p in ports]
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"type": kind, "ports": listed, **spec},
    }


def entry(obj: Obj) -> Entry:
    return Entry(f"core/services/x/{obj['metadata']['name']}", 1, 1, orjson.dumps(obj))


def store(addresses: Addresses, obj: Obj) -> Obj:
    """Assign and commit, in the order of the server: the cache tells first, then the hold ends."""
    release = addresses.assign(obj, None)
    addresses.deliver([Event(MODIFIED, entry(obj), None)])
    release()
    return obj


@pytest.fixture
def addresses() -> Addresses:
    return Addresses("10.96.0.0/24", range(30000, 30003))


def test_a_service_gets_an_address_of_the_network(addresses: Addresses) -> None:
    spec = store(addresses, service())["spec"]
    assert spec["clusterIP"].startswith("10.96.0.")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert "nodePort" not in spec["ports"][0]


def test_an_address_is_given_from_the_upper_part_first(addresses: Addresses) -> None:
    given = {int(store(addresses, service(name=f"s{i}"))["spec"]["clusterIP"].rsplit(".", 1)[1]) for i in range(60)}
    assert len(given) == 60
    assert min(given) > 16  # the lower 16 are for those who choose


@pytest.mark.parametrize("bits", [30, 28, 27])
def test_every_address_but_the_first_and_the_last_is_given(bits: int) -> None:
    small, size = Addresses(f"10.0.0.0/{bits}"), 2 ** (32 - bits) - 2
    given = {store(small, service(name=f"s{n}"))["spec"]["clusterIP"] for n in range(size)}
    assert given == {f"10.0.0.{n}" for n in range(1, size + 1)}
    with pytest.raises(Invalid, match=f"no address is free in 10.0.0.0/{bits}"):
        small.assign(service(), None)


def test_headless_and_external_services_take_nothing(addresses: Addresses) -> None:
    assert store(addresses, service(clusterIP="None"))["spec"]["clusterIPs"] == ["None"]
    assert "clusterIP" not in store(addresses, service("ExternalName"))["spec"]
    assert addresses._taken == {}


def test_a_chosen_address_that_somebody_has_is_refused(addresses: Addresses) -> None:
    store(addresses, service(clusterIP="10.96.0.9"))
    with pytest.raises(Invalid, match=r"failed to allocate IP 10.96.0.9: provided IP is already allocated"):
        addresses.assign(service(clusterIP="10.96.0.9"), None)


@pytest.mark.parametrize("ip", ["10.97.0.1", "10.96.0.0", "10.96.0.255"])
def test_a_chosen_address_must_be_of_the_network(addresses: Addresses, ip: str) -> None:
    with pytest.raises(
        Invalid, match=f"failed to allocate IP {ip}: the provided network does not match the current range"
    ):
        addresses.assign(service(clusterIP=ip), None)


def test_an_update_keeps_what_the_service_has(addresses: Addresses) -> None:
    old = store(addresses, service("NodePort"))
    new = service("NodePort")
    addresses.assign(new, old)()
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    assert new["spec"]["ports"] == old["spec"]["ports"]


# node ports; the answers are those of a real server 1.34


def test_ports_of_one_number_share_a_node_port(addresses: Addresses) -> None:
    first, second, third = store(addresses, service("NodePort", [(53, "TCP"), (53, "UDP"), (54, "TCP")]))["spec"][
        "ports"
    ]
    assert first["nodePort"] == second["nodePort"] != third["nodePort"]


def test_a_node_port_belongs_to_one_service_whatever_the_protocol(addresses: Addresses) -> None:
    store(addresses, service("NodePort", [(53, "TCP", 30001)]))
    with pytest.raises(
        Invalid, match=r"spec.ports\[0\].nodePort: Invalid value: 30001: provided port is already allocated"
    ):
        addresses.assign(service("NodePort", [(53, "UDP", 30001)], "b"), None)


def test_a_node_port_must_be_in_the_range(addresses: Addresses) -> None:
    with pytest.raises(
        Invalid, match=r"provided port is not in the valid range. The range of valid ports is 30000-30002"
    ):
        addresses.assign(service("NodePort", [(80, "TCP", 80)]), None)


def test_a_balancer_without_node_ports_gets_none_but_may_choose(addresses: Addresses) -> None:
    spec = store(
        addresses, service("LoadBalancer", [(80, "TCP"), (81, "TCP", 30000)], allocateLoadBalancerNodePorts=False)
    )["spec"]
    assert [p.get("nodePort") for p in spec["ports"]] == [None, 30000]
    with pytest.raises(Invalid, match="already allocated"):
        addresses.assign(service("LoadBalancer", [(80, "TCP", 30000)], allocateLoadBalancerNodePorts=False), None)


def test_a_local_balancer_gets_a_port_for_health_checks(addresses: Addresses) -> None:
    local: Any = {"externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": False}
    spec = store(addresses, service("LoadBalancer", **local))["spec"]
    assert spec["healthCheckNodePort"] in range(30000, 30003)
    taken = spec["healthCheckNodePort"]
    with pytest.raises(
        InternalError,
        match=f"failed to allocate requested HealthCheck NodePort {taken}: provided port is already allocated",
    ):
        addresses.assign(service("LoadBalancer", healthCheckNodePort=taken, **local), None)


def test_when_no_node_port_is_free_nothing_stays_held(addresses: Addresses) -> None:
    with pytest.raises(Invalid, match="no node port is free"):
        addresses.assign(service("NodePort", [(n, "TCP") for n in range(4)]), None)
    assert addresses._taken == {}


# holds


def test_what_is_held_by_a_write_on_its_way_is_not_given_again(addresses: Addresses) -> None:
    release = addresses.assign(service(clusterIP="10.96.0.9"), None)
    with pytest.raises(Invalid, match="already allocated"):
        addresses.assign(service(clusterIP="10.96.0.9"), None)
    release()
    release()  # the second call does nothing
    addresses.assign(service(clusterIP="10.96.0.9"), None)()


def test_a_deleted_service_gives_everything_back(addresses: Addresses) -> None:
    obj = store(addresses, service("NodePort"))
    addresses.deliver([Event(DELETED, entry(obj), entry(obj))])
    assert addresses._taken == {}
    assert addresses._used == {}


def test_what_is_stored_already_is_taken_at_start() -> None:
    fresh = Addresses("10.96.0.0/24")
    fresh.load([entry(service("NodePort", [(80, "TCP", 30500)], clusterIP="10.96.0.7", clusterIPs=["10.96.0.7"]))])
    with pytest.raises(Invalid, match=r"10.96.0.7: provided IP is already allocated"):
        fresh.assign(service(clusterIP="10.96.0.7"), None)
    with pytest.raises(Invalid, match="30500: provided port is already allocated"):
        fresh.assign(service("NodePort", [(80, "TCP", 30500)]), None)


class Allocation(RuleBasedStateMachine):
    """Writes that land, fail and overlap, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses = Addresses("10.0.0.0/28", range(30000, 30006))
        self.stored: dict[str, Obj] = {}
        self.writing: dict[str, tuple[Obj, Any]] = {}

    @rule(
        name=st.sampled_from("abcde"),
        kind=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        ip=st.sampled_from(["", "", "None", "10.0.0.3", "10.0.0.4"]),
        ports=st.lists(
            st.tuples(st.integers(1, 3), st.sampled_from(["TCP", "UDP"]), st.sampled_from([0, 0, 30001, 30002])),
            max_size=3,
        ),
        local=st.booleans(),
    )
    def begin(self, name: str, kind: str, ip: str, ports: list[Any], local: bool) -> None:
        if name in self.writing:
            return
        extra = {"clusterIP": ip} if ip and kind != "ExternalName" else {}
        if kind in ("ClusterIP", "ExternalName"):
            ports = [port[:2] for port in ports]  # validation refuses the rest
        new = service(kind, ports, name, **extra, **({"externalTrafficPolicy": "Local"} if local else {}))
        try:
            self.writing[name] = new, self.addresses.assign(new, self.stored.get(name))
        except (Invalid, InternalError):
            return

    @rule(name=st.sampled_from("abcde"), lands=st.booleans())
    def end(self, name: str, lands: bool) -> None:
        new, release = self.writing.pop(name, (None, None))
        if new is None or release is None:
            return
        if lands:
            self.stored[name] = new
            self.addresses.deliver([Event(MODIFIED, entry(new), None)])
        release()

    @rule(name=st.sampled_from("abcde"))
    def delete(self, name: str) -> None:
        if name in self.stored and name not in self.writing:
            old = self.stored.pop(name)
            self.addresses.deliver([Event(DELETED, entry(old), entry(old))])

    @invariant()
    def nothing_is_given_twice(self) -> None:
        owners: dict[str, set[str]] = {}
        for name, obj in [*self.stored.items(), *((n, w[0]) for n, w in self.writing.items())]:
            spec = obj["spec"]
            numbers = [p["nodePort"] for p in spec["ports"] if p.get("nodePort")]
            for item in (spec.get("clusterIP"), *numbers, spec.get("healthCheckNodePort")):
                if item and item != "None":
                    owners.setdefault(str(item), set()).add(name)
        assert [item for item, names in owners.items() if len(names) > 1] == []

    @invariant()
    def nothing_leaks(self) -> None:
        if not self.writing and not self.stored:
            assert self.addresses._taken == {}


Allocation.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_no_two_services_ever_share_an_address_or_a_port = Allocation.TestCase
