"""The cluster's zone: what each object adds, what goes with it, and the difference between nothing and no such name."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.node.network.records import Zone
from havre.wire.dns import names
from havre.wire.dns.answer import UNLIMITED, reply
from havre.wire.dns.message import AAAA, ANY, CNAME, IN, NS, PTR, SOA, SRV, TXT, TYPES, A, Message, Query, Question

NETWORKS = (IPv4Network("10.42.0.0/24"), IPv4Network("10.96.0.0/16"))


def service(name: str, namespace: str = "shop", **spec: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def endpoint(*addresses: str, hostname: str = "", ready: bool | None = True) -> Obj:
    return {"addresses": [*addresses], "hostname": hostname, "conditions": {"ready": ready}}


def part(of: str, *endpoints: Obj, name: str = "", ports: Iterable[Obj] = (), **fields: Any) -> Obj:
    meta = {"name": name or f"{of}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": of}}
    return {"metadata": meta, "endpoints": [*endpoints], "ports": [*ports], **fields}


def made(*objects: Obj) -> Zone:
    zone = Zone(networks=NETWORKS)
    zone.put_namespace({"metadata": {"name": "shop"}})
    for obj in objects:
        zone.put_slice(obj) if "endpoints" in obj else zone.put_service(obj)
    return zone


def asked(zone: Zone, name: str, kind: int = A) -> Message | None:
    wire = names.name(name.lower())
    answer = zone.answer(wire, kind)
    if answer is None:
        return None
    return Message.parse(
        reply(Query(1, 0, wire, kind, IN, Question(wire, kind).encode(), None), answer, limit=UNLIMITED)
    )


def shown(zone: Zone, name: str, kind: int = A) -> list[str]:
    """What `dig +short` would print, or NODATA, or NXDOMAIN; "elsewhere" for names of others."""
    message = asked(zone, name, kind)
    if message is None:
        return ["elsewhere"]
    if message.rcode:
        return ["NXDOMAIN"]
    return sorted(_shown(record.kind, record.data) for record in message.answers) or ["NODATA"]


def _shown(kind: int, data: bytes) -> str:
    if kind in {A, AAAA}:
        return str(ipaddress.ip_address(data))
    if kind == SRV:
        priority, weight, port = (int.from_bytes(data[at : at + 2], "big") for at in (0, 2, 4))
        return f"{priority} {weight} {port} {names.text(data[6:])}"
    if kind in {CNAME, PTR, NS}:
        return names.text(data)
    return data[1:].decode() if kind == TXT else TYPES[kind]


WEB = service("web", clusterIP="10.96.0.5", clusterIPs=["10.96.0.5", "fd00::5"], ports=[
    {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9},
])  # fmt: skip
DB = service("db", clusterIP="None", ports=[{"name": "pg", "port": 5432}])
DB_PART = part(
    "db",
    endpoint("10.42.0.8", hostname="db-0"),
    endpoint("10.42.0.9"),
    endpoint("10.42.0.10", ready=False),
    endpoint("10.42.0.11", ready=None),
    ports=[{"name": "pg", "port": 5432, "protocol": "TCP"}],
)


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("web.shop.svc.cluster.local", A, ["10.96.0.5"]),
        ("WEB.Shop.svc.cluster.local.", A, ["10.96.0.5"]),
        ("web.shop.svc.cluster.local", AAAA, ["fd00::5"]),
        ("web.shop.svc.cluster.local", TXT, ["NODATA"]),
        ("web.shop.svc.cluster.local", ANY, ["10.96.0.5", "fd00::5"]),
        ("_http._tcp.web.shop.svc.cluster.local", SRV, ["0 100 80 web.shop.svc.cluster.local"]),
        ("_dns._udp.web.shop.svc.cluster.local", SRV, ["0 100 53 web.shop.svc.cluster.local"]),
        ("_http._tcp.web.shop.svc.cluster.local", A, ["NODATA"]),
        ("_tcp.web.shop.svc.cluster.local", SRV, ["NODATA"]),
        ("_http._udp.web.shop.svc.cluster.local", SRV, ["NXDOMAIN"]),
        ("5.0.96.10.in-addr.arpa", PTR, ["web.shop.svc.cluster.local"]),
        ("6.0.96.10.in-addr.arpa", PTR, ["NXDOMAIN"]),
        ("9.9.9.9.in-addr.arpa", PTR, ["elsewhere"]),
        ("db.shop.svc.cluster.local", A, ["10.42.0.11", "10.42.0.8", "10.42.0.9"]),
        ("db-0.db.shop.svc.cluster.local", A, ["10.42.0.8"]),
        ("10-42-0-9.db.shop.svc.cluster.local", A, ["10.42.0.9"]),
        ("10-42-0-10.db.shop.svc.cluster.local", A, ["NXDOMAIN"]),
        (
            "_pg._tcp.db.shop.svc.cluster.local",
            SRV,
            [
                "0 33 5432 10-42-0-11.db.shop.svc.cluster.local",
                "0 33 5432 10-42-0-9.db.shop.svc.cluster.local",
                "0 33 5432 db-0.db.shop.svc.cluster.local",
            ],
        ),
        ("8.0.42.10.in-addr.arpa", PTR, ["db-0.db.shop.svc.cluster.local"]),
        ("10.0.42.10.in-addr.arpa", PTR, ["NXDOMAIN"]),
        ("10-1-2-3.shop.pod.cluster.local", A, ["10.1.2.3"]),
        ("fd00--1.shop.pod.cluster.local", AAAA, ["fd00::1"]),
        ("10-1-2-3.shop.pod.cluster.local", AAAA, ["NODATA"]),
        ("10-1-2-3.none.pod.cluster.local", A, ["NXDOMAIN"]),
        ("10-1-2.shop.pod.cluster.local", A, ["NXDOMAIN"]),
        ("x.10-1-2-3.shop.pod.cluster.local", A, ["NXDOMAIN"]),
        ("shop.pod.cluster.local", A, ["NODATA"]),
        ("shop.svc.cluster.local", A, ["NODATA"]),
        ("svc.cluster.local", A, ["NODATA"]),
        ("none.svc.cluster.local", A, ["NXDOMAIN"]),
        ("nothing.shop.svc.cluster.local", A, ["NXDOMAIN"]),
        ("x.web.shop.svc.cluster.local", A, ["NXDOMAIN"]),
        ("example.com.shop.svc.cluster.local", A, ["NXDOMAIN"]),
        ("example.com.svc.cluster.local", A, ["NXDOMAIN"]),
        ("example.com.cluster.local", A, ["NXDOMAIN"]),
        ("dns-version.cluster.local", TXT, ["1.1.0"]),
        ("cluster.local", SOA, ["SOA"]),
        ("cluster.local", NS, ["ns.dns.cluster.local"]),
        ("cluster.local", A, ["NODATA"]),
        ("ns.dns.cluster.local", A, ["10.96.0.10"]),
        ("96.10.in-addr.arpa", NS, ["ns.dns.cluster.local"]),
        ("local", A, ["elsewhere"]),
        ("example.com", A, ["elsewhere"]),
        ("xcluster.local", A, ["elsewhere"]),
        (".", NS, ["elsewhere"]),
    ],
)  # fmt: skip
def test_names_and_their_answers(name: str, kind: int, answers: list[str]) -> None:
    assert shown(made(WEB, DB, DB_PART), name, kind) == answers


def test_no_and_nothing_come_with_the_soa_of_their_zone_and_five_seconds() -> None:
    zone = made(WEB)
    for name, apex in (
        ("nothing.shop.svc.cluster.local", "cluster.local"),
        ("shop.svc.cluster.local", "cluster.local"),
        ("9.9.96.10.in-addr.arpa", "96.10.in-addr.arpa"),
        ("9.0.42.10.in-addr.arpa", "0.42.10.in-addr.arpa"),
    ):
        message = asked(zone, name)
        assert message is not None
        assert [(names.text(r.name), r.kind, r.ttl) for r in message.authority] == [(apex, SOA, 5)]
        assert message.authority[0].data[-4:] == (5).to_bytes(4, "big")


def test_hosts_of_srv_records_come_with_their_addresses() -> None:
    message = asked(made(DB, DB_PART), "_pg._tcp.db.shop.svc.cluster.local", SRV)
    assert message is not None
    assert {names.text(r.name): str(ipaddress.ip_address(r.data)) for r in message.additional} == {
        "db-0.db.shop.svc.cluster.local": "10.42.0.8",
        "10-42-0-9.db.shop.svc.cluster.local": "10.42.0.9",
        "10-42-0-11.db.shop.svc.cluster.local": "10.42.0.11",
    }


def test_a_headless_service_without_ready_endpoints_does_not_exist() -> None:
    assert shown(made(DB), "db.shop.svc.cluster.local") == ["NXDOMAIN"]
    unready = part("db", endpoint("10.42.0.8", ready=False))
    assert shown(made(DB, unready), "db.shop.svc.cluster.local") == ["NXDOMAIN"]
    published = service("db", clusterIP="None", publishNotReadyAddresses=True)
    assert shown(made(published, unready), "db.shop.svc.cluster.local") == ["10.42.0.8"]


def test_an_external_name_is_an_alias() -> None:
    zone = made(WEB, service("in", type="ExternalName", externalName="Web.shop.svc.cluster.local"))
    zone.put_service(service("out", type="ExternalName", externalName="example.org."))
    assert shown(zone, "in.shop.svc.cluster.local") == ["10.96.0.5", "web.shop.svc.cluster.local"]
    assert shown(zone, "in.shop.svc.cluster.local", CNAME) == ["web.shop.svc.cluster.local"]
    answer = zone.answer(names.name("out.shop.svc.cluster.local"), A)
    assert answer is not None
    assert answer.chase == names.name("example.org")


def test_an_alias_to_nowhere_and_aliases_in_a_circle_end() -> None:
    zone = made(
        service("a", type="ExternalName", externalName="b.shop.svc.cluster.local"),
        service("b", type="ExternalName", externalName="a.shop.svc.cluster.local"),
        service("c", type="ExternalName", externalName="nothing.shop.svc.cluster.local"),
    )
    circle, nowhere = (asked(zone, f"{name}.shop.svc.cluster.local") for name in "ac")
    assert circle is not None
    assert nowhere is not None
    assert len(circle.answers) == 8
    assert (nowhere.rcode, len(nowhere.answers)) == (3, 1)


def test_slices_of_a_service_add_up_and_go_one_by_one() -> None:
    more = part("db", endpoint("10.42.0.20"), endpoint("10.42.0.9"), name="db-2")
    zone = made(DB, DB_PART, more)
    assert len(shown(zone, "db.shop.svc.cluster.local")) == 4
    zone.drop_slice(DB_PART)
    assert shown(zone, "db.shop.svc.cluster.local") == ["10.42.0.20", "10.42.0.9"]
    zone.put_slice(part("other", endpoint("10.42.0.20"), name="db-2"))  # it changed its service
    assert shown(zone, "db.shop.svc.cluster.local") == ["NXDOMAIN"]


def test_an_address_of_two_services_keeps_the_name_of_the_one_that_stays() -> None:
    zone = made(DB, DB_PART, service("db2", clusterIP="None"))
    second = part("db2", endpoint("10.42.0.8", hostname="db-0"))
    zone.put_slice(second)
    pointer = "8.0.42.10.in-addr.arpa"
    assert shown(zone, pointer, PTR) == ["db-0.db.shop.svc.cluster.local", "db-0.db2.shop.svc.cluster.local"]
    zone.drop_service(DB)
    assert shown(zone, pointer, PTR) == ["db-0.db2.shop.svc.cluster.local"]


def test_a_service_that_changes_its_type_leaves_nothing_behind() -> None:
    zone = made(WEB)
    zone.put_service(service("web", type="ExternalName", externalName="example.org"))
    assert shown(zone, "5.0.96.10.in-addr.arpa", PTR) == ["NXDOMAIN"]
    assert shown(zone, "_http._tcp.web.shop.svc.cluster.local", SRV) == ["NXDOMAIN"]


def test_what_dns_cannot_hold_is_left_out_and_the_rest_stays() -> None:
    zone = made(DB, part("db", endpoint("10.42.0.8", hostname="x" * 64), endpoint("10.42.0.9"), endpoint("nonsense")))
    assert shown(zone, "db.shop.svc.cluster.local") == ["10.42.0.9"]


def test_every_change_is_told_and_nothing_else() -> None:
    told: list[int] = []
    zone = Zone(changed=lambda: told.append(1))
    zone.put_service(WEB)
    zone.put_service(WEB)
    zone.put_slice(part("web", endpoint("10.42.0.8")))  # it has an address of its own
    assert len(told) == 1
    zone.drop_service(WEB)
    zone.drop_service(WEB)
    assert len(told) == 2


NAMES = st.sampled_from(["a", "b"])
Step = tuple[str, Obj]


def with_address(name: str, ip: int) -> Step:
    return "put_service", service(name, clusterIP=f"10.96.0.{ip}", ports=[{"name": "p", "port": 1}])


def with_slice(of: str, name: str, ips: list[int]) -> Step:
    return "put_slice", part(of, *(endpoint(f"10.42.0.{ip}") for ip in ips), name=name)


STEPS = st.lists(
    st.one_of(
        st.builds(with_address, NAMES, st.integers(1, 3)),
        st.builds(lambda name: ("put_service", service(name, clusterIP="None")), NAMES),
        st.builds(lambda name: ("drop_service", service(name)), NAMES),
        st.builds(with_slice, NAMES, NAMES, st.lists(st.integers(2, 4), max_size=3)),
        st.builds(lambda name: ("drop_slice", part("a", name=name)), NAMES),
    ),
    max_size=12,
)


@given(STEPS)
def test_the_order_of_changes_leaves_no_trace(steps: list[Step]) -> None:
    zone = Zone(networks=NETWORKS)
    last: dict[tuple[str, str], Step] = {}
    for verb, obj in steps:
        getattr(zone, verb)(obj)
        last[verb.partition("_")[2], obj["metadata"]["name"]] = verb, obj
    fresh = Zone(networks=NETWORKS)
    for verb, obj in last.values():
        getattr(fresh, verb)(obj)
    assert (zone._names, dict(zone._below)) == (fresh._names, dict(fresh._below))
