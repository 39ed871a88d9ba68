"""ExecSync, and what a client sees at the URLs of Exec, Attach and PortForward."""

# ruff: noqa: ASYNC110 - a test may look at files, and at what others do, until a time limit

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.kernel.runtime.node import SECONDS, Node, cri, needs_runtime

from havre.node.runtime.exec import OUTPUT_LIMIT
from havre.wire.grpc.errors import GrpcError, Status

websocket = pytest.importorskip("websocket", reason="websocket-client speaks the client's side")

pytestmark = needs_runtime

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that Havre runs on: descriptors and processes are not the same business in every loop."""
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class Client:
    """The client of a URL: numbered channels in WebSocket messages."""

    def __init__(self, url: str, protocol: str) -> None:
        self._socket = websocket.create_connection(
            url.replace("http://", "ws://"), subprotocols=[protocol], timeout=SECONDS
        )
        self.got: dict[int, bytearray] = {}

    async def send(self, channel: int, data: bytes) -> None:
        await asyncio.to_thread(self._socket.send_binary, bytes([channel]) + data)

    async def read(self) -> bool:
        """One more message; False at the end."""
        opcode, data = await asyncio.to_thread(self._socket.recv_data)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return False
        self.got.setdefault(data[0], bytearray()).extend(data[1:])
        return True

    async def until(self, channel: int, text: bytes) -> None:
        while text not in self.got.get(channel, b""):
            assert await self.read(), f"ended before {text!r}; got {self.got}"

    async def end(self) -> Any:
        """The Status at the end of a command."""
        while await self.read():
            pass
        return json.loads(self.got[ERROR])

    async def close(self) -> None:
        raw = self._socket.sock  # its own close forgets it when the server was first
        await asyncio.to_thread(self._socket.close)
        if raw is not None:
            raw.close()


@asynccontextmanager
async def client(url: str, protocol: str = "v5.channel.k8s.io") -> AsyncIterator[Client]:
    made = await asyncio.to_thread(Client, url, protocol)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def container(node: Node) -> str:
    return await node.run(await node.sandbox(), node.container("sleep", "300"))


async def exec_url(node: Node, container: str, *command: str, **streams: bool) -> str:
    streams = streams or {"stdin": True, "stdout": True, "stderr": True}
    request = cri.ExecRequest(container_id=container, cmd=command, **streams)
    return str((await node.call("Exec", request)).url)


# ExecSync


async def test_exec_sync_answers_output_and_code(node: Node, container: str) -> None:
    reply = await node.exec(container, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (reply.stdout, reply.stderr, reply.exit_code) == (b"out\n", b"err\n", 5)


async def test_exec_sync_is_the_user_of_the_container(node: Node) -> None:
    config = node.container("sleep", "300")
    config.linux.security_context.run_as_user.value = 1000
    container = await node.run(await node.sandbox(), config)
    reply = await node.exec(container, "sh", "-c", "id -u; echo x > /dev/stdout")
    assert reply.stdout == b"1000\nx\n"


async def test_exec_sync_out_of_time_is_killed_with_its_children(node: Node, container: str) -> None:
    with pytest.raises(GrpcError) as ended:
        await node.exec(container, "sh", "-c", "sleep 77 & sleep 78", timeout=1)
    assert ended.value.status is Status.DEADLINE_EXCEEDED
    left = (await node.exec(container, "ps", "-o", "args")).stdout.decode()
    assert "sleep 7" not in left


async def test_exec_sync_keeps_a_bounded_part_of_endless_output(node: Node, container: str) -> None:
    reply = await node.exec(container, "sh", "-c", "yes | head -c 40000000; echo done >&2")
    assert len(reply.stdout) + len(reply.stderr) == OUTPUT_LIMIT
    assert reply.exit_code == 0


async def test_exec_sync_does_not_wait_for_what_it_left_behind(node: Node, container: str) -> None:
    if node.runtime.containers._host.oci.name == "runc":
        pytest.skip("runc copies the output itself, and waits for whoever holds it")
    begun = time.monotonic()
    reply = await node.exec(container, "sh", "-c", "sleep 100 & echo started")
    assert reply.stdout == b"started\n"
    assert time.monotonic() - begun < 10


async def test_exec_sync_of_a_command_that_is_not_there_says_so(node: Node, container: str) -> None:
    with pytest.raises(GrpcError, match="no-such-command"):
        await node.exec(container, "no-such-command")


async def test_exec_in_a_container_that_ended_is_refused(node: Node) -> None:
    container = await node.run(await node.sandbox(), node.container("true"))
    await node.ended(container)
    with pytest.raises(GrpcError) as refused:
        await node.exec(container, "true")
    assert refused.value.status is Status.FAILED_PRECONDITION


async def test_nothing_is_left_of_an_exec(node: Node, container: str) -> None:
    await node.exec(container, "true")
    assert list(node.config.execs.iterdir()) == []


# Exec


async def test_exec_streams_both_ways_and_tells_the_code(node: Node, container: str) -> None:
    url = await exec_url(node, container, "sh", "-c", "read a; echo got $a; echo err >&2; exit 4")
    async with client(url) as remote:
        await remote.send(STDIN, b"hello\n")
        status = await remote.end()
    assert (bytes(remote.got[STDOUT]), bytes(remote.got[STDERR])) == (b"got hello\n", b"err\n")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "4"}]


async def test_the_end_of_input_reaches_the_command(node: Node, container: str) -> None:
    async with client(await exec_url(node, container, "wc", "-c")) as remote:
        await remote.send(STDIN, b"x" * 100_000)
        await remote.send(CLOSE, bytes([STDIN]))
        assert (await remote.end())["status"] == "Success"
    assert bytes(remote.got[STDOUT]).strip() == b"100000"


async def test_a_terminal_has_the_clients_size(node: Node, container: str) -> None:
    url = await exec_url(node, container, "sh", stdin=True, stdout=True, tty=True)
    async with client(url) as remote:
        await remote.send(RESIZE, b'{"Width":123,"Height":45}')
        await remote.send(STDIN, b"echo ready$((1+1))\n")
        await remote.until(STDOUT, b"ready2")
        async with asyncio.timeout(SECONDS):
            while b"45 123" not in remote.got[STDOUT]:
                await remote.send(STDIN, b"/bin/busybox stty size\n")
                await remote.read()
        await remote.send(STDIN, b"tty; exit 6\n")
        status = await remote.end()
    assert b"/dev/pts/" in remote.got[STDOUT]
    assert status["details"]["causes"][0]["message"] == "6"


async def test_a_command_dies_with_its_client(node: Node, container: str) -> None:
    async with client(await exec_url(node, container, "sh", "-c", "echo up; sleep 79")) as remote:
        await remote.until(STDOUT, b"up")
    async with asyncio.timeout(SECONDS):
        while b"sleep 79" in (await node.exec(container, "ps", "-o", "args")).stdout:
            await asyncio.sleep(0.05)


async def test_a_url_is_good_once(node: Node, container: str) -> None:
    url = await exec_url(node, container, "true")
    async with client(url) as remote:
        await remote.end()
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        await asyncio.to_thread(Client, url, "v5.channel.k8s.io")


async def test_a_command_that_cannot_start_is_an_error_with_the_reason(node: Node, container: str) -> None:
    async with client(await exec_url(node, container, "no-such-command")) as remote:
        status = await remote.end()
    assert status["status"] == "Failure"
    assert "no-such-command" in status["message"]


# Attach


async def attach_url(node: Node, container: str, **streams: bool) -> str:
    return str((await node.call("Attach", cri.AttachRequest(container_id=container, **streams))).url)


async def test_attach_sees_output_and_gives_input(node: Node) -> None:
    config = node.container("sh", "-c", "while read a; do echo got $a; echo err >&2; done; echo end", stdin=True)
    config.stdin_once = True
    container = await node.run(await node.sandbox(), config)
    async with client(await attach_url(node, container, stdin=True, stdout=True, stderr=True)) as remote:
        await remote.send(STDIN, b"one\n")
        await remote.until(STDOUT, b"got one\n")
        await remote.until(STDERR, b"err\n")
    assert (await node.ended(container)).exit_code == 0  # stdin_once: it ended with the client
    assert node.log(container)[-1] == "end"


async def test_input_stays_open_for_the_next_client(node: Node) -> None:
    config = node.container("sh", "-c", "while read a; do echo got $a; done", stdin=True)
    container = await node.run(await node.sandbox(), config)
    for word in (b"one", b"two"):
        async with client(await attach_url(node, container, stdin=True, stdout=True)) as remote:
            await remote.send(STDIN, word + b"\n")
            await remote.until(STDOUT, b"got " + word)
    assert node.runtime.containers.get(container).running


async def test_attach_ends_with_the_container(node: Node) -> None:
    config = node.container("sh", "-c", "read a; echo bye; exit 3", stdin=True)
    container = await node.run(await node.sandbox(), config)
    async with client(await attach_url(node, container, stdin=True, stdout=True)) as remote:
        await remote.send(STDIN, b"\n")
        assert (await remote.end())["status"] == "Success"
    assert bytes(remote.got[STDOUT]) == b"bye\n"


async def test_attach_to_a_terminal_resizes_it(node: Node) -> None:
    config = node.container("sh", stdin=True, tty=True)
    container = await node.run(await node.sandbox(), config)
    async with client(await attach_url(node, container, stdin=True, stdout=True, tty=True)) as remote:
        await remote.send(RESIZE, b'{"Width":99,"Height":33}')
        async with asyncio.timeout(SECONDS):
            while b"33 99" not in remote.got.get(STDOUT, b""):
                await remote.send(STDIN, b"/bin/busybox stty size\n")
                await remote.read()


# PortForward


async def test_a_port_of_the_pod_is_forwarded_from_its_own_network(node: Node) -> None:
    sandbox = await node.sandbox()
    serve = "while :; do echo answer | nc -l -p 8080; done"
    container = await node.run(sandbox, node.container("sh", "-c", serve))
    async with asyncio.timeout(SECONDS):
        while b":1F90" not in (await node.exec(container, "cat", "/proc/net/tcp", "/proc/net/tcp6")).stdout:
            await asyncio.sleep(0.02)
    url = (await node.call("PortForward", cri.PortForwardRequest(pod_sandbox_id=sandbox, port=[8080]))).url
    async with client(f"{url}?port=8080", "v4.channel.k8s.io") as remote:
        await remote.until(0, b"answer\n")
    assert bytes(remote.got[0][:2]) == (8080).to_bytes(2, "little")


async def test_a_port_that_nobody_listens_on_is_an_error_of_that_connection(node: Node) -> None:
    sandbox = await node.sandbox()
    url = (await node.call("PortForward", cri.PortForwardRequest(pod_sandbox_id=sandbox))).url
    async with client(f"{url}?port=81", "v4.channel.k8s.io") as remote:
        await remote.until(1, b"connect to localhost:81 inside the pod: Connection refused")


async def test_urls_lead_to_the_loopback_interface(node: Node, container: str) -> None:
    url = await exec_url(node, container, "true")
    assert url.startswith("http://127.0.0.1:")
    assert len(Path(url).name) >= 22
