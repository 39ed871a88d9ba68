"""Whom the DNS server answers: pods and this machine, nobody who routes to it from outside."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

import pytest

from havre.node.network.dns import MOST_KNOWN, Config, Server
from havre.wire.dns import names
from havre.wire.dns.message import A, Message, Question

CONFIG = Config(IPv4Address("10.42.0.1"), IPv4Network("10.42.0.0/24"), IPv4Network("10.96.0.0/16"))
QUESTION = Message(7, 0, [Question(names.name("web.shop.svc.cluster.local"), A)]).encode()


class Datagrams:
    """What arrives, then nothing; and what is sent."""

    def __init__(self, *senders: str) -> None:
        self.waiting = [(QUESTION, (sender, 5353)) for sender in senders]
        self.sent: list[str] = []

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0)

    def sendto(self, data: bytes, to: tuple[str, int]) -> None:
        self.sent.append(to[0])


@pytest.mark.parametrize(
    ("sender", "answered"),
    [("10.42.0.7", True), ("10.42.0.1", True), ("127.0.0.1", True), ("192.0.2.9", False), ("10.96.0.10", False)],
)
def test_only_pods_and_this_machine_are_answered(sender: str, answered: bool) -> None:
    server, udp = Server(CONFIG), Datagrams(sender, sender)
    server._udp = cast("Any", udp)
    server._read()
    assert udp.sent == ([sender] * 2 if answered else [])


def test_what_is_remembered_of_clients_is_bounded() -> None:
    server = Server(CONFIG)
    for number in range(MOST_KNOWN + 10):
        server._is_ours(str(IPv4Address("10.0.0.0") + number))
    assert len(server._known) <= MOST_KNOWN
