"""The forwarder over resolvers that answer, fail, lie, forget and ask back; no sockets, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from havre.node.network.forwarder import Cache, Entry, Forwarder, nameservers
from havre.wire.dns import names
from havre.wire.dns.answer import UNLIMITED, Answer, reply, ttl_of
from havre.wire.dns.message import (
    CNAME,
    DNSSEC_OK,
    HINFO,
    IN,
    NXDOMAIN,
    RECURSION_DESIRED,
    RESPONSE,
    SERVFAIL,
    SOA,
    TRUNCATED,
    A,
    Edns,
    Message,
    Query,
    Question,
    Record,
)

IP = bytes([192, 0, 2, 1])
SOA_DATA = names.name("ns") + names.name("x") + bytes(16) + (60).to_bytes(4, "big")
Behaviour = Callable[[Message], Message]


def asking(text: str = "example.com", edns: Edns | None = None) -> Query:
    wire = names.name(text)
    return Query(9, RECURSION_DESIRED, wire.lower(), A, IN, Question(wire, A).encode(), edns)


def good(asked: Message, ttl: int = 60) -> Message:
    question = asked.questions[0]
    return Message(asked.id, RESPONSE, asked.questions, [Record(question.name, A, ttl, IP)])


def no(asked: Message) -> Message:
    soa = Record(names.name("com"), SOA, 900, SOA_DATA)
    return Message(asked.id, RESPONSE | NXDOMAIN, asked.questions, [], [soa])


def failing(asked: Message) -> Message:
    return Message(asked.id, RESPONSE | SERVFAIL, asked.questions)


class World:
    """Resolvers by address, and a clock."""

    def __init__(self, tmp_path: Path, **resolvers: Behaviour) -> None:
        self.now = 1000.0
        self.resolvers: dict[str, Behaviour | Exception] = {f"192.0.2.{n[1:]}": b for n, b in resolvers.items()}
        self.asked: list[tuple[str, str]] = []
        self.path = tmp_path / "resolv.conf"
        self.path.write_text("".join(f"nameserver {ip}\n" for ip in self.resolvers))
        self.queries: list[Message] = []
        self.forwarder = Forwarder(self.path, ["10.96.0.10"], udp=self.udp, tcp=self.tcp, clock=lambda: self.now)

    async def udp(self, server: tuple[str, int], data: bytes, patience: float) -> bytes:
        return self._exchange("udp", server, data)

    async def tcp(self, server: tuple[str, int], data: bytes, patience: float) -> bytes:
        return self._exchange("tcp", server, data)

    def _exchange(self, how: str, server: tuple[str, int], data: bytes) -> bytes:
        message = Message.parse(data)
        if message.questions[0].kind == HINFO:  # the check for loops
            raise TimeoutError
        self.asked.append((how, server[0]))
        self.queries.append(message)
        behaviour = self.resolvers[server[0]]
        if isinstance(behaviour, Exception):
            raise behaviour
        return behaviour(message).encode()

    async def answer(self, query: Query) -> Answer:
        known = self.forwarder.known(query)
        return known if known is not None else await self.forwarder.answer(query)


def ttls(answer: Answer) -> list[int]:
    return [ttl_of(record) for record in (*answer.answers, *answer.authority)]


async def test_an_answer_is_kept_as_long_as_it_says_and_grows_old(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    assert ttls(await world.answer(asking())) == [60]
    world.now += 20
    assert ttls(await world.answer(asking("EXAMPLE.com"))) == [40]
    world.now += 41
    assert ttls(await world.answer(asking())) == [60]
    assert len(world.asked) == 2


async def test_the_client_gets_its_own_letters_and_the_resolver_sees_them(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    query = asking("ExAmPlE.cOm")
    message = Message.parse(reply(query, await world.answer(query), limit=UNLIMITED))
    assert message.questions == [Question(names.name("ExAmPlE.cOm"), A)]
    assert world.queries[0].questions == message.questions
    assert world.queries[0].edns == Edns(1232)


async def test_a_no_is_kept_for_as_long_as_the_zone_says(tmp_path: Path) -> None:
    world = World(tmp_path, n1=no)
    answer = await world.answer(asking())
    assert (answer.rcode, len(answer.authority)) == (NXDOMAIN, 1)
    world.now += 59
    await world.answer(asking())
    assert len(world.asked) == 1
    world.now += 2
    await world.answer(asking())
    assert len(world.asked) == 2


async def test_the_next_resolver_answers_for_one_that_fails_which_then_is_asked_last(tmp_path: Path) -> None:
    world = World(tmp_path, n1=failing, n2=good)
    assert (await world.answer(asking())).rcode == 0
    await world.answer(asking("other.example.com"))
    assert [ip for _, ip in world.asked] == ["192.0.2.1", "192.0.2.2", "192.0.2.2"]
    world.now += 11
    await world.answer(asking("third.example.com"))
    assert world.asked[-2:] == [("udp", "192.0.2.1"), ("udp", "192.0.2.2")]


async def test_every_resolver_is_asked_twice_before_it_fails_and_then_not_at_once_again(tmp_path: Path) -> None:
    world = World(tmp_path, n1=failing, n2=failing)
    world.resolvers["192.0.2.2"] = TimeoutError()
    assert (await world.answer(asking())).rcode == SERVFAIL
    assert len(world.asked) == 4
    assert (await world.answer(asking())).rcode == SERVFAIL
    assert len(world.asked) == 4
    world.now += 2
    await world.answer(asking())
    assert len(world.asked) == 8


async def test_a_long_answer_is_fetched_over_tcp(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)

    def short(asked: Message) -> Message:
        return good(asked) if len(world.asked) > 1 else Message(asked.id, RESPONSE | TRUNCATED, asked.questions)

    world.resolvers["192.0.2.1"] = short
    assert len((await world.answer(asking())).answers) == 1
    assert world.asked == [("udp", "192.0.2.1"), ("tcp", "192.0.2.1")]


@pytest.mark.parametrize(
    "lie",
    [
        lambda asked: Message(asked.id ^ 1, RESPONSE, asked.questions, good(asked).answers),
        lambda asked: Message(asked.id, RESPONSE, [Question(names.name("evil.com"), A)], good(asked).answers),
        lambda asked: Message(asked.id, 0, asked.questions, good(asked).answers),
    ],
)
async def test_what_does_not_answer_the_question_is_not_taken(tmp_path: Path, lie: Behaviour) -> None:
    world = World(tmp_path, n1=lie)
    assert (await world.answer(asking())).rcode == SERVFAIL


async def test_those_who_ask_the_same_at_the_same_moment_share_one_question(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    answers = await asyncio.gather(*(world.forwarder.answer(asking()) for _ in range(20)))
    assert len(world.asked) == 1
    assert len({id(answer) for answer in answers}) == 1


async def test_what_expired_lately_is_better_than_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    await world.answer(asking())
    world.resolvers["192.0.2.1"] = TimeoutError()
    world.now += 100
    assert ttls(await world.answer(asking())) == [30]
    world.now += 4000
    assert (await world.answer(asking())).rcode == SERVFAIL


async def test_time_to_live_is_bounded(tmp_path: Path) -> None:
    world = World(tmp_path, n1=lambda asked: good(asked, 1 << 30))
    assert ttls(await world.answer(asking())) == [3600]
    world.resolvers["192.0.2.1"] = lambda asked: good(asked, 1 << 31)
    assert ttls(await world.answer(asking("other.com"))) == [0]


async def test_signatures_are_asked_for_and_kept_apart(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    await world.answer(asking())
    await world.answer(asking(edns=Edns(1232, DNSSEC_OK)))
    assert [query.edns for query in world.queries] == [Edns(1232), Edns(1232, DNSSEC_OK)]


async def test_records_at_the_end_of_an_alias(tmp_path: Path) -> None:
    end = names.name("end.example.com")

    def alias(asked: Message) -> Message:
        own = asked.questions[0].name
        return Message(asked.id, RESPONSE, asked.questions, [Record(own, CNAME, 9, end), Record(end, A, 9, IP)])

    world = World(tmp_path, n1=alias)
    rcode, records = await world.forwarder.records(names.name("example.com"), A)
    assert (rcode, [(r.kind, r.data) for r in records]) == (0, [(CNAME, end), (A, IP)])


async def test_a_resolver_that_asks_us_again_is_left_out(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good, n2=good)
    probes: list[bytes] = []
    ordinary = world.forwarder._udp

    async def udp(server: tuple[str, int], data: bytes, patience: float) -> bytes:
        question = Message.parse(data).questions[0]
        if question.kind == HINFO and server[0] == "192.0.2.1":
            probes.append(question.name)
            query = Query(1, 0, question.name, HINFO, IN, question.encode(), None)
            assert world.forwarder.is_probe(query)
        return await ordinary(server, data, patience)

    world.forwarder._udp = udp
    await world.answer(asking())
    await asyncio.sleep(0)
    assert len(probes) == 1
    assert world.forwarder.servers() == [("192.0.2.2", 53)]
    assert not world.forwarder.is_probe(asking())
    await world.forwarder.close()


async def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    world = World(tmp_path, n1=good)
    assert world.forwarder.servers() == [("192.0.2.1", 53)]
    world.path.write_text("nameserver 10.96.0.10\nnameserver 192.0.2.77\n")
    assert world.forwarder.servers() == [("192.0.2.1", 53)]
    world.now += 6
    assert world.forwarder.servers() == [("192.0.2.77", 53)]
    world.path.unlink()
    world.now += 6
    assert world.forwarder.servers() == [("192.0.2.77", 53)]
    await world.forwarder.close()


async def test_without_a_resolver_the_answer_is_a_failure(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert (await world.answer(asking())).rcode == SERVFAIL


def test_nameservers_are_read_as_the_resolver_does() -> None:
    text = "# x\nsearch a\nnameserver 1.1.1.1 # one\nnameserver ::1\n"
    text += "nameserver 1.1.1.1\nnameserver x\n nameserver 9.9.9.9\n"
    assert nameservers(text) == ["1.1.1.1", "::1", "9.9.9.9"]
    assert len(nameservers("".join(f"nameserver 192.0.2.{n}\n" for n in range(9)))) == 4


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = Cache(most_entries=3, most_bytes=100)
    keys = [(bytes([n]), A, IN, False, False) for n in range(4)]

    def entry(size: int) -> Entry:
        return Entry(Answer(), (), 0.0, 1.0, size)

    for key in keys[:3]:
        cache.put(key, entry(10))
    cache.get(keys[0])
    cache.put(keys[3], entry(10))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    cache.put(keys[1], entry(95))
    assert (len(cache), cache.size) == (1, 95)
    cache.put(keys[1], entry(5))
    assert cache.size == 5
