"""Connections through an HTTP proxy: `CONNECT host:port`, then TLS with the server itself, which the proxy cannot read.

Which proxy: what the environment says, as every other program on the machine takes it (`HTTPS_PROXY`, `NO_PROXY`).

Source: RFC 9110, 9.3.6; Go's net/http, ProxyFromEnvironment.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import ssl as tls
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from havre.wire.http.errors import ConnectFailed

HEAD = 16 * 1024  # bytes of the proxy's answer

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


def proxy_for(host: str, port: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the proxy for TLS connections to this host; None to go there directly."""
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    if not proxy or host == "localhost" or _is_loopback(host):
        return None
    excluded = (environment.get("NO_PROXY") or environment.get("no_proxy") or "").split(",")
    return None if any(_excludes(rule.strip().lower(), host.lower(), port) for rule in excluded) else proxy


def _excludes(rule: str, host: str, port: int) -> bool:
    """`*`, a name (with all below it), `.name` (only below it), an address or a network; each may end in a port."""
    if rule in ("", "*"):
        return rule == "*"
    if "/" in rule:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, number = rule.rpartition(":")
    if colon and number.isdigit() and ":" not in name.strip("[]"):
        if int(number) != port:
            return False
        rule = name
    bare = rule.removeprefix("*")
    return host == rule or host.endswith(bare if bare.startswith(".") else f".{bare}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Asking(asyncio.Protocol):
    """Waits for the proxy's answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if (b"\r\n\r\n" in self._data or len(self._data) > HEAD) and not self.answer.done():
            self.answer.set_result(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_result(b"")


async def connect(proxy: str, host: str, port: int, context: tls.SSLContext, name: str, protocol: _P) -> _P:
    """A TLS connection to `host` through the proxy. Raises ConnectFailed, OSError."""
    try:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        at, door = url.hostname, url.port or 80
    except ValueError:
        at = None
    if not at or url.scheme != "http":
        raise ConnectFailed(f"proxy {proxy.rpartition('@')[2][:200]!r}: it must look like http://proxy.example:3128")
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_connection(_Asking, at, door)
    try:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
        if url.username:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
            lines.append(f"proxy-authorization: Basic {base64.b64encode(pair).decode()}")
        transport.write("\r\n".join([*lines, "", ""]).encode())
        answer = await asking.answer
        status = answer.partition(b"\r\n")[0].split(b" ")[1:2]
        if status != [b"200"] or not answer.endswith(b"\r\n\r\n"):
            shown = answer.partition(b"\r\n")[0][:100].decode("latin-1") or "closed the connection"
            raise ConnectFailed(f"connect to {target}: the proxy {at}:{door} answered {shown!r}")
        # a protocol with a buffer must not be asked to fill it before it has its transport
        secured = await loop.start_tls(transport, protocol, context, server_hostname=name)
    except BaseException:
        transport.abort()
        raise
    assert secured is not None
    protocol.connection_made(secured)
    return protocol
