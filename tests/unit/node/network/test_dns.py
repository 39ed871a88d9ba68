"""The DNS server without its sockets: who answers what, before and after the zone is known; and the Service."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.errors import Unavailable
from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.machinery.informer import SharedInformers
from havre.node.network import dns
from havre.node.network.dns import Config, Publisher, Responder, covers, follow
from havre.node.network.forwarder import Forwarder
from havre.node.network.records import Zone
from havre.testing import FakeApi, eventually, namespace
from havre.wire.dns import names
from havre.wire.dns.message import (
    AXFR,
    CHAOS,
    CNAME,
    FORMERR,
    IN,
    NOTIMP,
    NXDOMAIN,
    RECURSION_DESIRED,
    REFUSED,
    RESPONSE,
    SERVFAIL,
    A,
    Edns,
    Message,
    Query,
    Question,
    Record,
)

CONFIG = Config(IPv4Address("10.42.0.1"), IPv4Network("10.42.0.0/24"), IPv4Network("10.96.0.0/16"))
SERVICE = Ref(dns.SERVICE, "kube-system", "kube-dns")
SLICE = Ref(dns.SLICE, "kube-system", "kube-dns")


def service(name: str, **spec: object) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


async def upstream(server: tuple[str, int], data: bytes, patience: float) -> bytes:
    asked = Message.parse(data)
    own = asked.questions[0].name
    if own.lower() == names.name("missing.example.com"):
        return Message(asked.id, RESPONSE | NXDOMAIN, asked.questions).encode()
    return Message(asked.id, RESPONSE, asked.questions, [Record(own, A, 60, bytes([192, 0, 2, 1]))]).encode()


@pytest.fixture
def responder(tmp_path: Path) -> Responder:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\n")
    zone = Zone(networks=(CONFIG.pods, CONFIG.services))
    made = Responder(zone, Forwarder(resolv, udp=upstream, tcp=upstream))
    made.ready = True
    zone.put_namespace({"metadata": {"name": "shop"}})
    zone.put_service(service("web", clusterIP="10.96.0.5", ports=[]))
    return made


def asking(
    text: str, kind: int = A, *, klass: int = IN, flags: int = RECURSION_DESIRED, edns: Edns | None = None
) -> bytes:
    return Message(7, flags, [Question(names.name(text), kind, klass)], edns=edns).encode()


async def answered(responder: Responder, data: bytes) -> Message:
    answer = responder.over_udp(data)
    if isinstance(answer, Query):
        answer = await responder.forwarded(answer, 1232)
    assert answer is not None
    return Message.parse(answer)


async def test_names_of_the_cluster_are_answered_at_once(responder: Responder) -> None:
    answer = responder.over_udp(asking("web.shop.svc.cluster.local"))
    assert isinstance(answer, bytes)
    assert [record.data for record in Message.parse(answer).answers] == [bytes([10, 96, 0, 5])]


async def test_other_names_are_forwarded_and_then_known(responder: Responder) -> None:
    first = await answered(responder, asking("example.com"))
    again = responder.over_udp(asking("example.com"))
    assert isinstance(again, bytes)
    assert (
        Message.parse(again).answers
        == first.answers
        == [Record(names.name("example.com"), A, 60, bytes([192, 0, 2, 1]))]
    )
    assert (responder.counts.forwarded, responder.counts.cached) == (1, 1)
    await responder.forwarder.close()


async def test_before_the_zone_is_known_the_cluster_fails_and_the_world_works(responder: Responder) -> None:
    responder.ready = False
    assert (await answered(responder, asking("web.shop.svc.cluster.local"))).rcode == SERVFAIL
    assert (await answered(responder, asking("nothing.shop.svc.cluster.local"))).rcode == SERVFAIL
    assert (await answered(responder, asking("example.com"))).rcode == 0
    await responder.forwarder.close()


async def test_an_external_name_is_followed_into_the_world(responder: Responder) -> None:
    for name in ("out", "missing"):
        responder.zone.put_service(service(name, type="ExternalName", externalName=f"{name}.example.com"))
    message = await answered(responder, asking("out.shop.svc.cluster.local"))
    own, end = names.name("out.shop.svc.cluster.local"), names.name("out.example.com")
    assert message.answers == [Record(own, CNAME, 5, end), Record(end, A, 60, bytes([192, 0, 2, 1]))]
    missing = await answered(responder, asking("missing.shop.svc.cluster.local"))
    assert (missing.rcode, [record.kind for record in missing.answers]) == (NXDOMAIN, [CNAME])
    await responder.forwarder.close()


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (asking("web.shop.svc.cluster.local", klass=CHAOS), REFUSED),
        (asking("cluster.local", AXFR), REFUSED),
        (asking("web.shop.svc.cluster.local", flags=0x2800), NOTIMP),
        (b"\0\7\1\0\0\2" + bytes(6), FORMERR),
        (asking("web.shop.svc.cluster.local")[:-3], FORMERR),
    ],
)
async def test_what_is_not_for_us_is_refused_with_the_reason(responder: Responder, data: bytes, rcode: int) -> None:
    assert (await answered(responder, data)).rcode == rcode


async def test_a_newer_edns_is_answered_with_ours(responder: Responder) -> None:
    message = await answered(responder, asking("web.shop.svc.cluster.local", edns=Edns(1232, 0, 1)))
    assert message.edns == Edns(1232)
    assert message.answers == []


async def test_an_answer_gets_no_answer(responder: Responder) -> None:
    assert responder.over_udp(asking("web.shop.svc.cluster.local", flags=RESPONSE)) is None


async def test_too_many_questions_at_once_fail_instead_of_filling_the_memory(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "MOST_WAITING", 1)
    queries = [Query.parse(asking(f"{name}.example.com")) for name in "abc"]
    answers = await asyncio.gather(*(responder.forwarded(query, 512) for query in queries))
    assert [Message.parse(answer).rcode for answer in answers] == [0, SERVFAIL, SERVFAIL]
    await responder.forwarder.close()


@given(st.binary(max_size=80))
def test_noise_is_answered_or_ignored(noise: bytes) -> None:
    made = Responder(Zone(), Forwarder(Path("/nonexistent"), udp=upstream, tcp=upstream))
    made.over_udp(noise)
    made.over_tcp(asking("web.shop.svc.cluster.local")[:12] + noise)


@pytest.mark.looptime
async def test_the_zone_follows_the_api(responder: Responder) -> None:
    api = FakeApi(namespace("shop"))
    zone = responder.zone
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        follow(responder, informers)
        await informers.synced()
        name = names.name("new.shop.svc.cluster.local")
        made = await api.create(service("new", clusterIP="10.96.0.9", ports=[{"port": 80}]), manager="test")
        await eventually(lambda: zone.answer(name, A).answers)  # type: ignore[union-attr]
        await api.delete(Ref.of(made))
        await eventually(lambda: zone.answer(name, A).rcode == NXDOMAIN)  # type: ignore[union-attr]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


# the Service


@pytest.mark.looptime
async def test_the_service_and_its_slice_are_written_and_repaired() -> None:
    api = FakeApi(namespace("kube-system"))
    publisher = Publisher(api, CONFIG)
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        publisher.follow(informers.of(dns.SERVICE), informers.of(dns.SLICE))
        await informers.synced()
        group.create_task(publisher.run())
        await eventually(lambda: api.now(SERVICE) is not None and api.now(SLICE) is not None)
        live, slice_ = api.now(SERVICE), api.now(SLICE)
        assert live is not None
        assert slice_ is not None
        assert live["spec"]["clusterIP"] == "10.96.0.10"
        assert [(p["name"], p["protocol"], p["port"], p["targetPort"]) for p in live["spec"]["ports"]] == [
            ("dns", "UDP", 53, 10053),
            ("dns-tcp", "TCP", 53, 10053),
        ]
        assert slice_["endpoints"] == [{"addresses": ["10.42.0.1"], "conditions": {"ready": True}}]
        await api.delete(SLICE)
        await eventually(lambda: api.now(SLICE) is not None)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


async def test_a_second_look_writes_nothing() -> None:
    api = FakeApi(namespace("kube-system"))
    await Publisher(api, CONFIG).once()
    before = api.now(SERVICE), api.now(SLICE)
    await Publisher(api, CONFIG).once()
    assert (api.now(SERVICE), api.now(SLICE)) == before
    live = api.now(SERVICE)
    assert covers(live, dns.service(CONFIG))
    assert not covers(live, dns.service(Config(CONFIG.gateway, CONFIG.pods, CONFIG.services, port=1053)))


@pytest.mark.looptime
async def test_an_api_that_fails_is_asked_again() -> None:
    class Failing(FakeApi):
        left = 3

        async def apply(self, obj: Obj, **options: object) -> Obj:
            if self.left:
                self.left -= 1
                raise Unavailable("down")
            return await super().apply(obj, **options)  # type: ignore[arg-type]

    api = Failing(namespace("kube-system"))
    running = asyncio.create_task(Publisher(api, CONFIG).run())
    await eventually(lambda: api.now(SLICE) is not None)
    running.cancel()
    assert api.left == 0
