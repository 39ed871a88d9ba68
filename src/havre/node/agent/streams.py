"""Exec, attach and port-forward: the runtime names a URL of its own, and the client's connection is passed on to it.

The bytes are not looked at: what client and runtime agreed on, SPDY or WebSocket, is between them.

Source: k8s.io/kubernetes, pkg/kubelet/server/server.go (proxyStream); k8s.io/cri-api, Exec, Attach, PortForward.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from havre.node.agent.cri import QUICK, RuntimeFault
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.errors import GrpcError
from havre.wire.grpc.messages import messages
from havre.wire.http.client import Client
from havre.wire.http.errors import UpgradeRefused
from havre.wire.http.message import Answer, Request, Response, Tunnel, Upgrade
from havre.wire.http.tunnel import splice

log = logging.getLogger(__name__)

OPEN_SECONDS: Final = 30.0  # for the runtime to take the connection
_RUNTIME: Final = "runtime.v1.RuntimeService"
_NOT_PASSED: Final = frozenset({"host", "authorization", "content-length", "connection"})
_NEGOTIATED: Final = ("sec-websocket-", "x-stream-")
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The streams of an exec or attach."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


class Streams(Protocol):
    """Where the runtime serves a stream. Everything raises RuntimeFault."""

    async def exec_url(self, container: str, command: Sequence[str], wanted: Wanted) -> str: ...

    async def attach_url(self, container: str, wanted: Wanted) -> str: ...

    async def port_forward_url(self, sandbox: str, ports: Sequence[int]) -> str: ...


class CriStreams:
    """Implements `Streams` over CRI."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._m: Any = messages("runtime.v1")

    async def exec_url(self, container: str, command: Sequence[str], wanted: Wanted) -> str:
        return await self._url(
            "Exec",
            self._m.ExecRequest(
                container_id=container,
                cmd=[*command],
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr and not wanted.tty,
                tty=wanted.tty,
            ),
        )

    async def attach_url(self, container: str, wanted: Wanted) -> str:
        return await self._url(
            "Attach",
            self._m.AttachRequest(
                container_id=container,
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr and not wanted.tty,
                tty=wanted.tty,
            ),
        )

    async def port_forward_url(self, sandbox: str, ports: Sequence[int]) -> str:
        return await self._url("PortForward", self._m.PortForwardRequest(pod_sandbox_id=sandbox, port=[*ports]))

    async def _url(self, method: str, request: Any) -> str:
        try:
            return str((await self._channel.unary(_RUNTIME, method, request, timeout=QUICK)).url)
        except GrpcError as error:
            raise RuntimeFault(error.status.name, error.message) from error


async def passed_on(request: Request, url: str) -> Answer:
    """The answer of whoever serves `url`, an upgraded connection most of all. Raises HttpError."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    client = Client(f"{parts.scheme}://{parts.netloc}", timeout=OPEN_SECONDS)
    headers = {k: v for k, v in request.headers.items() if k not in _NOT_PASSED}
    try:
        inner = await client.upgrade(request.method, target, headers=headers)
    except UpgradeRefused as error:
        await client.close()
        kept = [(k, v) for k, v in error.headers.items() if k not in _HOP_BY_HOP]
        return Response(error.status, kept, error.body)
    except BaseException:  # also when the client leaves at this moment
        await client.close()
        raise

    async def run(outer: Tunnel) -> None:
        try:
            await splice(outer, inner)
        finally:
            await client.close()

    chosen = [(k, v) for k, v in inner.headers.items() if k == "upgrade" or k.startswith(_NEGOTIATED)]
    return Upgrade(chosen, run)
