"""One netlink socket: a batch of requests goes out in one datagram, and every request is answered before it returns.

    with Connection() as kernel:
        kernel.run(route.up(index), route.add_address(index, address, 32))
        for message in kernel.dump(route.links()): ...

The kernel carries out every request of a batch, also after one that failed; `run` raises the first failure after it
has read all answers, so the socket can be used again. A socket is for one thread at a time.

Source: netlink(7); linux/netlink.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from types import TracebackType

from havre.wire.netlink import netns
from havre.wire.netlink.message import (
    ACK,
    DONE,
    DUMP,
    DUMP_INTERRUPTED,
    ERROR,
    NOOP,
    Malformed,
    Message,
    NetlinkError,
    Refused,
    Request,
    messages,
    outcome,
)

ROUTE, NETFILTER = 0, 12  # NETLINK_ROUTE, NETLINK_NETFILTER
SOL_NETLINK, EXTENDED_ACK, CAP_ACK = 270, 11, 10
NETNS_COOKIE = 71

LARGEST_DATAGRAM = 1 << 16  # the kernel cuts dumps to pieces of 32 KiB; one message is shorter
LARGEST_DUMP = 64 << 20  # bytes: 400,000 routes of 160 bytes
MOST_IN_BATCH = 128  # answers of 100–700 bytes each fit the 208 KiB that Debian gives a socket
PATIENCE = 10  # seconds for one answer; the kernel's lock on links may be busy
TRIES = 5  # of a dump that changed under our eyes


class Unanswered(NetlinkError):
    """The kernel did not answer in time, or lost its answers."""


class Connection:
    """A socket to one netlink family; with `inside`, to that of another network namespace (not on the main thread)."""

    def __init__(self, family: int = ROUTE, *, inside: int | None = None) -> None:
        if inside is None:
            self._socket = _socket(family)
        else:
            with netns.inside(inside):
                self._socket = _socket(family)
        self._sequence = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def netns_cookie(self) -> int | None:
        """The number by which BPF programs know this socket's namespace; None before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return None

    def run(self, *requests: Request) -> None:
        """Carry out all of them. Raises Refused for the first that failed, Unanswered."""
        for start in range(0, len(requests), MOST_IN_BATCH):
            self._batch(requests[start : start + MOST_IN_BATCH])

    def exchange(self, datagram: bytes, expected: dict[int, str]) -> None:
        """Send ready-made messages; `expected` are the sequence numbers that get an answer. For transactions."""
        self._socket.send(datagram)
        failure: Refused | None = None
        while expected:
            for message in messages(self._receive(next(iter(expected.values())))):
                if message.kind != ERROR:
                    continue
                number, reason = outcome(message)
                what = expected.pop(message.sequence, "")
                if number and failure is None:
                    failure = Refused(what or "netlink transaction", number, reason)
            if failure is not None:
                self._drain()
                raise failure

    def next_sequence(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def dump(self, request: Request) -> list[Message]:
        """All objects that a GET request names, as one consistent list. Raises Refused, Unanswered."""
        for _ in range(TRIES):
            found = self._dump(request)
            if found is not None:
                return found
        raise Unanswered(f"{request.what}: changed {TRIES} times while it was read")

    def _batch(self, requests: Sequence[Request]) -> None:
        sent = {self.next_sequence(): request for request in requests}
        self._socket.send(b"".join(request.encode(number, ACK) for number, request in sent.items()))
        failure: Refused | None = None
        while sent:
            for message in messages(self._receive(next(iter(sent.values())).what)):
                if message.kind != ERROR or message.sequence not in sent:
                    continue
                request = sent.pop(message.sequence)
                number, reason = outcome(message)
                if number and number not in request.accept and failure is None:
                    failure = Refused(request.what, number, reason)
        if failure is not None:
            raise failure

    def _dump(self, request: Request) -> list[Message] | None:
        number = self.next_sequence()
        self._socket.send(request.encode(number, DUMP))
        found: list[Message] = []
        size, steady = 0, True
        while True:
            data = self._receive(request.what)
            size += len(data)
            if size > LARGEST_DUMP:
                raise Malformed(f"{request.what}: more than {LARGEST_DUMP} bytes")
            for message in messages(data):
                if message.sequence != number or message.kind == NOOP:
                    continue
                steady = steady and not message.flags & DUMP_INTERRUPTED
                if message.kind == DONE:
                    return found if steady else None
                if message.kind == ERROR:
                    raise Refused(request.what, *outcome(message))
                found.append(message)

    def _receive(self, what: str) -> bytes:
        try:
            data, _, flags, _ = self._socket.recvmsg(LARGEST_DATAGRAM)
        except BlockingIOError:
            raise Unanswered(f"{what}: no answer from the kernel in {PATIENCE} seconds") from None
        except OSError as error:  # ENOBUFS: answers were dropped
            raise Unanswered(f"{what}: {error.strerror}") from error
        if flags & socket.MSG_TRUNC:
            raise Malformed(f"{what}: an answer of more than {LARGEST_DATAGRAM} bytes")
        return data

    def _drain(self) -> None:
        """Throw away what is left of a failed transaction, so that it is not taken for the next one's."""
        while True:
            try:
                self._socket.recv(LARGEST_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return


def _socket(family: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    try:
        opened.bind((0, 0))
        opened.setsockopt(SOL_NETLINK, EXTENDED_ACK, 1)
        opened.setsockopt(SOL_NETLINK, CAP_ACK, 1)  # do not send our own request back
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", PATIENCE, 0))
    except OSError:
        opened.close()
        raise
    return opened
