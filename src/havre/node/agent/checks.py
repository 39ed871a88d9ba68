"""One check of a container: a command in it, an HTTP request (of a hook too), a connection, a gRPC health call.

The words of a failure are kubelet's where people know them (`HTTP probe failed with statuscode: 500`).

Source: k8s.io/kubernetes pkg/probe, pkg/kubelet/prober/prober.go.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, urljoin, urlsplit

from havre.api.meta import Obj
from havre.node.agent.configs import expanded
from havre.node.agent.cri import Runtime, RuntimeFault
from havre.node.agent.grpc_health import serving
from havre.node.agent.specs import port_number
from havre.wire import tls
from havre.wire.http.client import Client, Reply
from havre.wire.http.errors import ConnectFailed, HttpError, ReplyTooLarge

USER_AGENT: Final = "kube-{}/1.34"  # what servers have learned to leave out of their logs
REDIRECTS: Final = 10
BODY: Final = 1 << 20  # bytes read of an answer, of which the first 10 KiB are shown
SHOWN: Final = 10 << 10
OUTPUT: Final = 10 << 10  # bytes kept of a command's output
_UNSAFE = re.compile(r"[\r\n\0]")

Outcome = Literal["success", "warning", "failure", "error"]


@dataclass(frozen=True, slots=True)
class Checked:
    """How a check went; `error`: it could not be made, which says nothing about the container."""

    outcome: Outcome
    text: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked: a running instance of a container."""

    id: str
    container: Obj
    ip: str


async def check(runtime: Runtime, probe: Obj, target: Target) -> Checked:
    """One check, ended at the probe's timeout."""
    timeout = float(probe.get("timeoutSeconds") or 1)
    if probe.get("exec"):
        return await check_command(runtime, target, probe["exec"].get("command") or [], timeout)
    if probe.get("httpGet"):
        return await check_http(target, probe["httpGet"], timeout)
    if probe.get("tcpSocket"):
        return await _check_tcp(target, probe["tcpSocket"], timeout)
    if probe.get("grpc"):
        return await _check_grpc(target, probe["grpc"], timeout)
    return Checked("error", f"missing probe handler for {target.container['name']}")


# a command


async def check_command(runtime: Runtime, target: Target, command: Sequence[str], timeout: float) -> Checked:
    known = {e["name"]: e.get("value") or "" for e in target.container.get("env") or () if "valueFrom" not in e}
    words = [expanded(word, known) for word in command]
    try:
        done = await runtime.execute(target.id, words, timeout)
    except RuntimeFault as fault:
        if fault.code == "DEADLINE_EXCEEDED":
            return Checked("failure", f'command timed out: "{" ".join(words)}" timed out after {timeout:g}s')
        return Checked("error", str(fault))
    output = (done.stdout + done.stderr)[:OUTPUT].decode(errors="replace")
    return Checked("success" if done.exit_code == 0 else "failure", output)


# HTTP


@dataclass(frozen=True, slots=True)
class Request:
    """A GET as a probe or hook asks for it."""

    scheme: str
    host: str
    port: int
    path: str
    headers: Mapping[str, str]

    @property
    def base(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        return self.base + self.path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def request_of(action: Obj, target: Target, purpose: str) -> Request:
    """Raises ValueError when it names a port that is not there."""
    port = port_number(action.get("port"), target.container)
    if port is None or not 0 < port < 65536:
        raise ValueError(f"couldn't find port: {action.get('port')} in container {target.container['name']}")
    headers = {"user-agent": USER_AGENT.format(purpose), "accept": "*/*", "connection": "close"}
    for header in action.get("httpHeaders") or ():
        headers[str(header["name"]).lower()] = _UNSAFE.sub(" ", str(header.get("value") or ""))
    if not headers["accept"]:
        del headers["accept"]
    path = quote(action.get("path") or "/", safe="/?&=%:@!$'()*+,;~#-._[]").partition("#")[0]
    scheme = str(action.get("scheme") or "HTTP").lower()
    host = str(action.get("host") or target.ip)
    return Request(scheme, host, port, path if path.startswith("/") else f"/{path}", headers)


async def get(request: Request, timeout: float) -> Reply:
    """The answer; certificates are not verified, as probes have always done. Raises HttpError, ValueError."""
    context = tls.client_context(verify=False) if request.scheme == "https" else None
    async with Client(request.base, ssl=context, timeout=timeout) as client:
        return await client.request("GET", request.path, headers=request.headers, limit=BODY)


async def check_http(target: Target, action: Obj, timeout: float) -> Checked:
    try:
        request = request_of(action, target, "probe")
    except ValueError as error:
        return Checked("error", str(error))
    try:
        async with asyncio.timeout(timeout):
            return await _follow(request, timeout)
    except TimeoutError:
        reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    except ConnectFailed as error:
        reason = str(error)
    except (HttpError, ValueError) as error:
        reason = str(error)
    return Checked("failure", f'Get "{request.url}": {reason}')


async def _follow(request: Request, timeout: float) -> Checked:
    """Redirects to the same host are followed; one to another is success with a warning, and not followed."""
    first = request.host
    for _ in range(REDIRECTS):
        try:
            reply = await get(request, timeout)
        except ReplyTooLarge:  # a long body is an answer too, and its status was not an error
            return Checked("success")
        body = reply.body[:SHOWN].decode(errors="replace")
        if 200 <= reply.status < 300:
            return Checked("success", body)
        if not 300 <= reply.status < 400:
            return Checked("failure", f"HTTP probe failed with statuscode: {reply.status}")
        place = urlsplit(urljoin(request.url, reply.headers.get("location", "")))
        if "location" not in reply.headers or place.hostname != first or place.scheme not in ("http", "https"):
            return Checked("warning", f"Probe terminated redirects, Response body: {body}")
        request = _redirected(request, place.scheme, place.port, place.path, place.query)
    return Checked("failure", f'Get "{request.url}": stopped after {REDIRECTS} redirects')


def _redirected(old: Request, scheme: str, port: int | None, path: str, query: str) -> Request:
    target = f"{path or '/'}?{query}" if query else path or "/"
    return Request(scheme, old.host, port or (443 if scheme == "https" else 80), target, old.headers)


# connections


async def _check_tcp(target: Target, action: Obj, timeout: float) -> Checked:
    port = port_number(action.get("port"), target.container)
    if port is None:
        return Checked("error", f"couldn't find port: {action.get('port')}")
    host = str(action.get("host") or target.ip)
    where = f"dial tcp {_bracketed(host)}:{port}"
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Checked("failure", f"{where}: i/o timeout")
    except OSError as error:
        return Checked("failure", f"{where}: connect: {_reason(error)}")
    writer.transport.abort()
    return Checked("success")


def _reason(error: OSError) -> str:
    """The kernel's words; those of asyncio only repeat the address."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)


async def _check_grpc(target: Target, action: Obj, timeout: float) -> Checked:
    where = f"{_bracketed(target.ip)}:{action['port']}"
    try:
        async with asyncio.timeout(timeout):
            healthy, text = await serving(target.ip, int(action["port"]), action.get("service") or "")
    except TimeoutError:
        return Checked("failure", f'timeout: failed to connect service "{where}" within {timeout:g}s')
    except OSError as error:
        return Checked("failure", f'error: failed to connect service at "{where}": {_reason(error)}')
    return Checked("success" if healthy else "failure", text)
