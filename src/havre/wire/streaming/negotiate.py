"""Decide what a client and we speak, and answer 101; or say, as a StreamingError, why not.

    negotiated = negotiate(request, Streams(stdin=True, stdout=True, tty=True))
    return negotiated.upgrade(run)              run(command: RemoteCommand)

    negotiated = negotiate_port_forward(request)
    return negotiated.upgrade(run)              run(session: PortForward)

The client lists what it speaks, best first, in `X-Stream-Protocol-Version` (SPDY) or `Sec-WebSocket-Protocol`; the
first that we speak too is taken. One that lists nothing gets the oldest.

Source: k8s.io/apimachinery, pkg/util/httpstream (Handshake), wsstream; RFC 6455, 4.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from havre.wire.http.message import Headers, Request, Tunnel, Upgrade
from havre.wire.streaming import portforward, remotecommand
from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.remotecommand import Streams
from havre.wire.streaming.websocket import Bytes, Socket
from havre.wire.streaming.websocket_frames import accept_key

SPDY = "SPDY/3.1"
PORT_FORWARD = "portforward.k8s.io"
TUNNELED = f"{SPDY}+{PORT_FORWARD}"  # SPDY in WebSocket messages: kubectl from 1.31 on
# Version by the name of the protocol; "" is a client that names none.
COMMAND_SPDY = {f"v{n}.channel.k8s.io": n for n in (4, 3, 2)} | {"channel.k8s.io": 1, "": 1}
_BINARY = {"v5.channel.k8s.io": 5, "v4.channel.k8s.io": 4, "channel.k8s.io": 1, "": 1}
_TEXT = {"v4.base64.channel.k8s.io": 4, "base64.channel.k8s.io": 1}
COMMAND_WEBSOCKET = _BINARY | _TEXT
PORTS_WEBSOCKET = (TUNNELED, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "")

_OFFERED_SPDY = "x-stream-protocol-version"
_OFFERED_WEBSOCKET = "sec-websocket-protocol"


@dataclass(frozen=True, slots=True)
class Command:
    """An exec or attach whose protocol is settled."""

    protocol: str
    websocket: bool
    headers: tuple[tuple[str, str], ...]
    streams: Streams

    def upgrade(self, run: remotecommand.Run) -> Upgrade:
        async def talk(tunnel: Tunnel) -> None:
            if self.websocket:
                version, text = COMMAND_WEBSOCKET[self.protocol], self.protocol in _TEXT
                await remotecommand.serve_websocket(tunnel, self.streams, version, run, text=text)
            else:
                await remotecommand.serve_spdy(tunnel, self.streams, COMMAND_SPDY[self.protocol], run)

        return Upgrade(list(self.headers), talk)


@dataclass(frozen=True, slots=True)
class Ports:
    """A port-forward whose protocol is settled."""

    protocol: str
    websocket: bool
    headers: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]  # only those of the old WebSocket protocol are known before

    def upgrade(self, run: portforward.Run) -> Upgrade:
        async def talk(tunnel: Tunnel) -> None:
            if not self.websocket:
                await portforward.serve_spdy(tunnel, run)
            elif self.protocol == TUNNELED:
                await portforward.serve_spdy(Bytes(Socket(tunnel)), run)
            else:
                await portforward.serve_websocket(tunnel, self.ports, run, text="base64" in self.protocol)

        return Upgrade(list(self.headers), talk)


def negotiate(request: Request, streams: Streams) -> Command:
    """For exec and attach. Raises StreamingError."""
    if _is_websocket(request):
        protocol, headers = websocket(request, COMMAND_WEBSOCKET)
        return Command(protocol, True, headers, streams)
    protocol, headers = _spdy(request, COMMAND_SPDY)
    return Command(protocol, False, headers, streams)


def negotiate_port_forward(request: Request) -> Ports:
    """Raises StreamingError."""
    if not _is_websocket(request):
        protocol, headers = _spdy(request, (PORT_FORWARD, ""))
        return Ports(protocol, False, headers, ())
    protocol, headers = websocket(request, PORTS_WEBSOCKET)
    ports = () if protocol == TUNNELED else _ports(request)
    return Ports(protocol, True, headers, ports)


def _is_websocket(request: Request) -> bool:
    """Raises StreamingError when it is neither a request for WebSocket nor for SPDY."""
    upgrade = request.headers.get("upgrade", "")
    if "upgrade" in _listed(request.headers.get("connection", "").lower()):
        if upgrade.lower() == "websocket":
            return True
        if upgrade.lower() == SPDY.lower():
            return False
    raise StreamingError(400, f"unable to upgrade: missing upgrade headers in request: upgrade to {SPDY} or websocket")


def _spdy(request: Request, ours: Iterable[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    offered = _listed(request.headers.get(_OFFERED_SPDY, ""))
    chosen = _chosen(offered, ours)
    if chosen is None:
        known = [name for name in ours if name]
        why = f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {known}"
        raise StreamingError(403, why, [("x-accepted-stream-protocol-versions", name) for name in known])
    headers: Headers = [("upgrade", SPDY)]
    if chosen:
        headers.append((_OFFERED_SPDY, chosen))
    return chosen, tuple(headers)


def websocket(request: Request, ours: Iterable[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The subprotocol and the headers of the answer. `ours` has "" first. Raises StreamingError."""
    if request.method != "GET" or request.protocol != "HTTP/1.1":
        raise StreamingError(405, "a WebSocket begins with GET over HTTP/1.1", [("allow", "GET")])
    if request.headers.get("sec-websocket-version") != "13":
        raise StreamingError(400, "only version 13 of WebSocket is spoken", [("sec-websocket-version", "13")])
    key = request.headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise StreamingError(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    offered = _listed(request.headers.get(_OFFERED_WEBSOCKET, ""))
    chosen = _chosen(offered, ours)
    if chosen is None:
        raise StreamingError(403, f"none of the subprotocols {offered} is spoken; offer one of {sorted(ours)[1:]}")
    headers: Headers = [("upgrade", "websocket"), ("sec-websocket-accept", accept_key(key))]
    if chosen:
        headers.append((_OFFERED_WEBSOCKET, chosen))
    return chosen, tuple(headers)


def _chosen(offered: list[str], ours: Iterable[str]) -> str | None:
    known = set(ours)
    return next((name for name in offered if name in known), None) if offered else ""


def _listed(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := part.strip())]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _ports(request: Request) -> tuple[int, ...]:
    """Of the query: `port=80&port=443`, or `ports=80,443` as the API server is asked. Raises StreamingError."""
    query = parse_qs(request.query)
    named = [port for value in (*query.get("port", ()), *query.get("ports", ())) for port in value.split(",")]
    if not named:
        raise StreamingError(400, 'query parameter "port" is required')
    if len(named) > portforward.PORTS:
        raise StreamingError(400, f"{len(named)} ports: at most {portforward.PORTS}")
    for port in named:
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            raise StreamingError(400, f"unable to parse {port!r} as a port: it must be from 1 to 65535")
    return tuple(int(port) for port in named)
