from __future__ import annotations

import pytest
from tests.unit.wire.streaming.far import request

from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.negotiate import negotiate, negotiate_port_forward
from havre.wire.streaming.remotecommand import Streams

SPDY = {"connection": "Upgrade", "upgrade": "SPDY/3.1"}
WEBSOCKET = {
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
OUTPUT = Streams(stdout=True)


@pytest.mark.parametrize(
    ("headers", "protocol"),
    [
        ({**SPDY, "x-stream-protocol-version": "v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io"},
         "v4.channel.k8s.io"),
        ({**SPDY, "x-stream-protocol-version": "v2.channel.k8s.io"}, "v2.channel.k8s.io"),
        (SPDY, ""),
        ({**WEBSOCKET, "sec-websocket-protocol": "v5.channel.k8s.io, v4.channel.k8s.io"}, "v5.channel.k8s.io"),
        ({**WEBSOCKET, "sec-websocket-protocol": "other, v4.base64.channel.k8s.io"}, "v4.base64.channel.k8s.io"),
        (WEBSOCKET, ""),
    ],
)  # fmt: skip
def test_the_first_protocol_that_both_speak_is_taken(headers: dict[str, str], protocol: str) -> None:
    assert negotiate(request(headers), OUTPUT).protocol == protocol


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ({}, 400, "missing upgrade headers"),
        ({"connection": "Upgrade", "upgrade": "h2c"}, 400, "missing upgrade headers"),
        ({"upgrade": "SPDY/3.1"}, 400, "missing upgrade headers"),
        ({**SPDY, "x-stream-protocol-version": "v9.channel.k8s.io"}, 403, "client supports ['v9.channel.k8s.io']"),
        ({**WEBSOCKET, "sec-websocket-version": "8"}, 400, "only version 13"),
        ({**WEBSOCKET, "sec-websocket-key": "short"}, 400, "16 bytes in base64"),
        ({**WEBSOCKET, "sec-websocket-protocol": "chat"}, 403, "none of the subprotocols ['chat'] is spoken"),
    ],
)
def test_what_cannot_be_spoken_is_refused(headers: dict[str, str], status: int, why: str) -> None:
    with pytest.raises(StreamingError) as caught:
        negotiate(request(headers), OUTPUT)
    assert caught.value.status == status
    assert why in str(caught.value)


def test_a_refused_client_is_told_what_is_spoken() -> None:
    with pytest.raises(StreamingError) as caught:
        negotiate(request({**SPDY, "x-stream-protocol-version": "nope"}), OUTPUT)
    answer = caught.value.answer()
    assert answer.status == 403
    assert [v for k, v in answer.headers if k == "x-accepted-stream-protocol-versions"] == [
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ]


def test_a_websocket_begins_with_get() -> None:
    with pytest.raises(StreamingError, match="begins with GET"):
        negotiate(request(WEBSOCKET, method="POST"), OUTPUT)


@pytest.mark.parametrize(
    ("query", "ports"), [("port=80", (80,)), ("port=80&port=443", (80, 443)), ("ports=80,443&x=1", (80, 443))]
)
def test_the_old_protocol_names_its_ports_in_the_query(query: str, ports: tuple[int, ...]) -> None:
    assert negotiate_port_forward(request(WEBSOCKET, query=query)).ports == ports


@pytest.mark.parametrize(
    "query", ["", "port=", "port=0", "port=65536", "port=-1", "port=a", "port=" + "1," * 128 + "1"]
)
def test_broken_ports_are_refused(query: str) -> None:
    with pytest.raises(StreamingError) as caught:
        negotiate_port_forward(request(WEBSOCKET, query=query))
    assert caught.value.status == 400


def test_the_new_protocol_names_no_ports() -> None:
    offered = {**WEBSOCKET, "sec-websocket-protocol": "SPDY/3.1+portforward.k8s.io"}
    assert negotiate_port_forward(request(offered)).protocol == "SPDY/3.1+portforward.k8s.io"
