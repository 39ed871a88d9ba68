"""All names that are not the cluster's: asked of the machine's own resolvers, remembered as long as they say.

The resolvers are those of /etc/resolv.conf, read again when it changes. Each question goes out from a new port with a
new id, with the client's upper and lower case, and only an answer with the same question, id and sender is taken. A
resolver that does not answer is followed by the next, and asked last for a while. An answer too long for UDP is fetched
over TCP. Clients that ask the same at the same moment share one question.

The cache is bounded in entries and bytes; what is not there (NXDOMAIN, NODATA) is remembered for as long as the zone
says, at most five minutes. When no resolver answers, what expired during the last hour is better than nothing.

A resolver that asks us again would make every question run in a circle; each is sent one question that nobody else
asks, and if that comes back to us, the resolver is left out.

Source: RFC 1035 §7, RFC 2308 §5, RFC 5452 (ids and ports), RFC 8767 (stale answers); resolv.conf(5).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from havre.wire.dns import names
from havre.wire.dns.answer import Answer, aged, prepare, with_ttl
from havre.wire.dns.message import (
    DNSSEC_OK,
    HEADER,
    HINFO,
    IN,
    LONGEST_MESSAGE,
    NOERROR,
    NXDOMAIN,
    RECURSION_DESIRED,
    SERVFAIL,
    SOA,
    TRUNCATED,
    UNCHECKED,
    Edns,
    Malformed,
    Message,
    Query,
    Question,
    Record,
)

log = logging.getLogger(__name__)

PORT = 53
OUR_SIZE = 1232  # of answers over UDP that we can take
MOST_SERVERS = 4
MOST_ENTRIES = 20_000
MOST_BYTES = 16 << 20
OVERHEAD = 400  # bytes of an entry besides its records
LONGEST_TTL = 3600
LONGEST_NO = 300
UNKNOWN_NO = 5  # seconds: "no" without an SOA record that says how long
FAILURE = 1  # seconds: for so long, nobody asks again what failed
STALE = 3600  # seconds after its end at which an answer is still better than none
STALE_TTL = 30
PATIENCE = (0.8, 1.5)  # seconds for each server, in the first round and in the second
ALL_IN_ALL = 4.5  # seconds: a client's resolver gives up after five
REST = 10.0  # seconds: a server that failed is asked last
LOOK_AGAIN = 5.0  # seconds between looks at resolv.conf
LOOP_TOP = names.join(b"loop-check", b"havre")

Key = tuple[bytes, int, int, bool, bool]  # folded name, type, class, unchecked, signatures
Server = tuple[str, int]


class Unanswered(Exception):
    """No resolver gave a usable answer."""


@dataclass(slots=True)
class Entry:
    """An answer in the cache; the records are there for answers that continue at this name."""

    answer: Answer
    records: tuple[Record, ...]
    made: float
    ttl: float
    size: int


@dataclass(slots=True)
class Cache:
    """The answers that were used last, as many as fit."""

    most_entries: int = MOST_ENTRIES
    most_bytes: int = MOST_BYTES
    size: int = 0
    _entries: dict[Key, Entry] = field(default_factory=dict)  # least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        self._drop(key)
        self._entries[key] = entry
        self.size += entry.size
        while len(self._entries) > self.most_entries or self.size > self.most_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size


Exchange = Callable[[Server, bytes, float], Awaitable[bytes]]
"""Sends a query to a server and gives the bytes of its answer; raises OSError or TimeoutError."""


class Forwarder:
    """Answers any question with the help of the resolvers of a resolv.conf."""

    def __init__(
        self,
        resolv_conf: Path,
        ours: Iterable[str] = (),
        *,
        udp: Exchange | None = None,
        tcp: Exchange | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ours` are addresses that lead back to this server."""
        self.cache = Cache()
        self._path = resolv_conf
        self._ours = frozenset(ours)
        self._udp, self._tcp, self._clock = udp or over_udp, tcp or over_tcp, clock
        self._servers: tuple[Server, ...] = ()
        self._seen: tuple[int, int] | None = None  # modification time and size of the file
        self._looked = float("-inf")
        self._failed: dict[Server, float] = {}
        self._loops: set[Server] = set()
        self._probes: dict[bytes, Server] = {}
        self._asking: dict[Key, asyncio.Task[Entry]] = {}
        self._checks: set[asyncio.Task[None]] = set()

    # asking

    def known(self, query: Query) -> Answer | None:
        """The answer, if it is in the cache and has not expired."""
        entry = self.cache.get(_key(query))
        if entry is None:
            return None
        age = self._clock() - entry.made
        return aged(entry.answer, int(age)) if age < entry.ttl else None

    async def answer(self, query: Query) -> Answer:
        """The answer, from whoever has it; SERVFAIL if nobody has."""
        return (await self._entry(query)).answer

    async def records(self, name: bytes, kind: int) -> tuple[int, tuple[Record, ...]]:
        """Result and records at a name, for an answer that continues there."""
        question = Question(name, kind)
        query = Query(0, RECURSION_DESIRED, name.lower(), kind, IN, question.encode(), None)
        entry = await self._entry(query)
        return entry.answer.rcode, entry.records

    async def close(self) -> None:
        tasks = [*self._asking.values(), *self._checks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def is_probe(self, query: Query) -> bool:
        """It is one of our own questions, come back: its server asks us, and is left out from now on."""
        server = self._probes.pop(query.name, None)
        if server is None:
            return query.name.endswith(LOOP_TOP)
        self._loops.add(server)
        log.error(
            "a resolver of this machine asks the cluster's DNS again; it is not used",
            extra={"server": f"{server[0]}:{server[1]}", "file": str(self._path)},
        )
        return True

    def servers(self) -> list[Server]:
        """Whom to ask, in order: those that failed lately come last."""
        self._look()
        now = self._clock()
        usable = [server for server in self._servers if server not in self._loops]
        return sorted(usable, key=lambda server: self._failed.get(server, 0.0) > now)

    # inside

    async def _entry(self, query: Query) -> Entry:
        key = _key(query)
        entry = self.cache.get(key)
        if entry is not None and self._clock() - entry.made < entry.ttl:
            return entry
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, query))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: Key, query: Query) -> Entry:
        try:
            reply = await self._first_reply(query)
        except Unanswered as error:
            log.debug("not answered", extra={"name": names.text(query.name), "error": str(error)})
            return self._instead(key, query)
        return self._keep(key, query, reply)

    def _keep(self, key: Key, query: Query, reply: Message) -> Entry:
        entry = entry_of(query, reply, self._clock())
        self.cache.put(key, entry)
        return entry

    def _instead(self, key: Key, query: Query) -> Entry:
        """What expired not long ago; else a failure, for a moment."""
        now = self._clock()
        old = self.cache.get(key)
        if old is not None and old.answer.rcode != SERVFAIL and now - old.made < old.ttl + STALE:
            return Entry(_with_ttl(old.answer, STALE_TTL), old.records, now, FAILURE, old.size)
        failed = Entry(Answer(SERVFAIL), (), now, FAILURE, OVERHEAD)
        self.cache.put(key, failed)
        return failed

    async def _first_reply(self, query: Query) -> Message:
        """Every server in turn, twice at most, within the time that a client waits."""
        end = self._clock() + ALL_IN_ALL
        problem = f"no usable nameserver in {self._path}"
        for patience in PATIENCE:
            for server in self.servers():
                left = min(patience, end - self._clock())
                if left <= 0:
                    raise Unanswered(problem)
                try:
                    reply = await self._one(server, query, left)
                except (OSError, TimeoutError, Malformed) as error:
                    problem = f"{server[0]}: {error!r}"
                else:
                    if reply.rcode in {NOERROR, NXDOMAIN}:
                        self._failed.pop(server, None)
                        return reply
                    problem = f"{server[0]}: result {reply.rcode}"
                self._failed[server] = self._clock() + REST
        raise Unanswered(problem)

    async def _one(self, server: Server, query: Query, patience: float) -> Message:
        data = outgoing(query)
        reply = understood(data, await self._udp(server, data, patience))
        if reply.flags & TRUNCATED:
            reply = understood(data, await self._tcp(server, data, patience))
        return reply

    # whom to ask

    def _look(self) -> None:
        """Read resolv.conf again if it changed."""
        now = self._clock()
        if now - self._looked < LOOK_AGAIN:
            return
        self._looked = now
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_size
            if seen == self._seen:
                return
            text = self._path.read_text(errors="replace")[: 1 << 16]
        except OSError as error:
            log.warning("resolv.conf is not readable", extra={"file": str(self._path), "error": str(error)})
            return
        self._seen = seen
        self._use(tuple((ip, PORT) for ip in nameservers(text) if ip not in self._ours))

    def _use(self, servers: tuple[Server, ...]) -> None:
        if servers == self._servers:
            return
        if not servers:
            log.warning("no nameserver for names outside the cluster", extra={"file": str(self._path)})
        self._servers = servers
        self._loops.clear()
        self._failed.clear()
        for server in servers:
            task = asyncio.get_running_loop().create_task(self._check_for_loop(server))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)

    async def _check_for_loop(self, server: Server) -> None:
        """Ask what nobody else asks; `is_probe` hears it if it comes back."""
        probe = names.join(secrets.token_hex(8).encode(), under=LOOP_TOP)
        self._probes[probe] = server
        query = Query(0, RECURSION_DESIRED, probe, HINFO, IN, Question(probe, HINFO).encode(), None)
        try:
            await self._udp(server, outgoing(query), PATIENCE[-1])
        except (OSError, TimeoutError) as error:
            log.debug("loop check was not answered", extra={"server": server[0], "error": repr(error)})
        finally:
            self._probes.pop(probe, None)


def nameservers(text: str) -> list[str]:
    """The addresses of the nameserver lines of a resolv.conf; of several equal ones, the first."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) >= 2 and words[0] == "nameserver" and _is_ip(words[1]):
            found[words[1]] = None
    return [*found][:MOST_SERVERS]


def outgoing(query: Query) -> bytes:
    """The question for a resolver, with an id of its own."""
    flags = RECURSION_DESIRED | query.flags & UNCHECKED
    signed = DNSSEC_OK if query.edns is not None and query.edns.flags & DNSSEC_OK else 0
    head = HEADER.pack(secrets.randbits(16), flags, 1, 0, 0, 1)
    return head + query.question + Edns(OUR_SIZE, signed).encode()


def understood(asked: bytes, raw: bytes) -> Message:
    """The answer, if it is one to what was asked. Raises Malformed."""
    if not answers_to(asked, raw):
        raise Malformed("an answer to another question")
    return Message.parse(raw)


def answers_to(asked: bytes, raw: bytes) -> bool:
    """Same id and question, and it is an answer; cheap, for everything that arrives."""
    end = len(asked) - 11  # without our EDNS record
    same = raw[:2] == asked[:2] and raw[12:end].lower() == asked[12:end].lower()
    return same and len(raw) >= end and bool(raw[2] & 0x80) and raw[4:6] == b"\0\1"


def entry_of(query: Query, reply: Message, now: float) -> Entry:
    """The reply as it is kept; records that do not belong to an answer are left out."""
    answers = [_bounded(record) for record in reply.answers]
    signed = _key(query)[-1]
    negative = reply.rcode != NOERROR or not answers
    authority = [_bounded(record) for record in reply.authority if signed or (negative and record.kind == SOA)]
    answer = prepare(query.name, reply.rcode, answers, authority)
    size = OVERHEAD + sum(len(part) for part in (*answer.answers, *answer.authority))
    return Entry(answer, tuple(answers), now, _ttl(reply), size)


def _ttl(reply: Message) -> float:
    positive = [min(record.ttl, LONGEST_TTL) for record in reply.answers]
    soa = next((record for record in reply.authority if record.kind == SOA and len(record.data) >= 22), None)
    if positive and reply.rcode == NOERROR:
        return min(positive)
    no = min(soa.ttl, int.from_bytes(soa.data[-4:], "big"), LONGEST_NO) if soa else UNKNOWN_NO
    return min([no, *positive])


def _bounded(record: Record) -> Record:
    ttl = record.ttl if record.ttl < 1 << 31 else 0  # RFC 2181 §8: the highest bit set means zero
    return Record(record.name, record.kind, min(ttl, LONGEST_TTL), record.data, record.klass)


def _with_ttl(answer: Answer, ttl: int) -> Answer:
    return replace(answer, answers=tuple(with_ttl(record, ttl) for record in answer.answers))


def _key(query: Query) -> Key:
    signed = query.edns is not None and bool(query.edns.flags & DNSSEC_OK)
    return query.name, query.kind, query.klass, bool(query.flags & UNCHECKED), signed


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# transports


async def over_udp(server: Server, data: bytes, patience: float) -> bytes:
    """From a new port; whatever does not answer the question is not heard. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(server)
        answered: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(sock.fileno(), _hear, sock, data, answered)
        try:
            sock.send(data)
            async with asyncio.timeout(patience):
                return await answered
        finally:
            loop.remove_reader(sock.fileno())


def _hear(sock: socket.socket, asked: bytes, answered: asyncio.Future[bytes]) -> None:
    try:
        raw = sock.recv(LONGEST_MESSAGE)
    except BlockingIOError:
        return
    except OSError as error:  # ECONNREFUSED: nobody listens there
        if not answered.done():
            answered.set_exception(error)
        return
    if not answered.done() and answers_to(asked, raw):
        answered.set_result(raw)


async def over_tcp(server: Server, data: bytes, patience: float) -> bytes:
    """Raises OSError, TimeoutError."""
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection(*server)
        try:
            writer.write(len(data).to_bytes(2, "big") + data)
            await writer.drain()
            size = int.from_bytes(await reader.readexactly(2), "big")
            return await reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the answer ended too early") from error
        finally:
            writer.close()
