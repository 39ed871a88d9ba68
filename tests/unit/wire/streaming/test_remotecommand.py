from __future__ import annotations

import asyncio
import base64
import json

import pytest
from tests.unit.wire.streaming.far import Far, SpdyClient, closed, masked, messages, request, talking, until

from havre.wire.streaming import remotecommand, spdy
from havre.wire.streaming.negotiate import negotiate
from havre.wire.streaming.remotecommand import RemoteCommand, Run, Streams, sizes_of
from havre.wire.streaming.spdy_frames import Data, GoAway, RstStream
from havre.wire.streaming.websocket_frames import Opcode

ALL = Streams(stdin=True, stdout=True, stderr=True)
TERMINAL = Streams(stdin=True, stdout=True, stderr=True, tty=True)
EXIT_3 = {
    "metadata": {},
    "status": "Failure",
    "message": "command terminated with non-zero exit code: exit status 3",
    "reason": "NonZeroExitCode",
    "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
}


def spdy_request(*protocols: str) -> dict[str, str]:
    return {"connection": "Upgrade", "upgrade": "SPDY/3.1", "x-stream-protocol-version": ", ".join(protocols)}


def websocket_request(*protocols: str) -> dict[str, str]:
    return {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol": ", ".join(protocols),
    }


async def echo(command: RemoteCommand) -> None:
    """stdin to stdout, its length to stderr, and the exit code 3."""
    assert command.stdin
    assert command.stdout
    assert command.stderr
    received = b""
    while data := await command.stdin.read():
        received += data
    await command.stdout.write(received)
    await command.stderr.write(b"%d" % len(received))
    await command.exit(3)


async def open_all(client: SpdyClient, *names: str) -> dict[str, int]:
    streams = {name: client.open({"streamType": name}) for name in names}
    await until(lambda: len(client.got()) >= len(names))
    return streams


async def test_over_spdy_every_stream_ends_before_the_session() -> None:
    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io"), method="POST"), ALL).upgrade(echo)
    assert upgrade.headers == [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")]
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        streams = await open_all(client, "error", "stdin", "stdout", "stderr")
        client.send(streams["stdin"], b"abc")
        client.send(streams["stdin"], b"", fin=True)
        await until(lambda: GoAway(7, 0) in client.got())
        assert client.data(streams["stdout"]) == b"abc"
        assert client.data(streams["stderr"]) == b"3"
        assert json.loads(client.data(streams["error"])) == EXIT_3
        assert [client.ended(streams[name]) for name in ("stdout", "stderr", "error")] == [True] * 3


@pytest.mark.parametrize(
    ("protocol", "code", "result"),
    [
        ("v4.channel.k8s.io", 0, b'{"metadata":{},"status":"Success"}'),
        ("v3.channel.k8s.io", 0, b""),
        ("v2.channel.k8s.io", 7, b"command terminated with non-zero exit code: exit status 7"),
        ("channel.k8s.io", 7, b"command terminated with non-zero exit code: exit status 7"),
    ],
)
async def test_the_result_is_said_as_the_version_wants_it(protocol: str, code: int, result: bytes) -> None:
    async def run(command: RemoteCommand) -> None:
        await command.exit(code)
        await command.exit(99)  # too late

    upgrade = negotiate(request(spdy_request(protocol)), Streams(stdout=True)).upgrade(run)
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        streams = await open_all(client, "error", "stdout")
        await until(lambda: client.ended(streams["error"]))
        assert client.data(streams["error"]) == result


async def test_stdin_that_is_still_open_is_reset_at_the_end() -> None:
    async def run(command: RemoteCommand) -> None:
        await command.exit(0)

    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), Streams(stdin=True)).upgrade(run)
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        streams = await open_all(client, "error", "stdin")
        await until(lambda: RstStream(streams["stdin"], 5) in client.got())


async def test_a_terminal_has_no_stderr_and_tells_its_sizes() -> None:
    sizes = []

    async def run(command: RemoteCommand) -> None:
        assert (command.tty, command.stderr) == (True, None)
        sizes.extend([await command.resizes.get() for _ in range(2)])
        await command.exit(0)

    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), TERMINAL).upgrade(run)
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        streams = await open_all(client, "error", "stdin", "stdout", "resize")
        client.send(streams["resize"], b'{"Width":80,"Height":24}\n{"Wid')
        client.send(streams["resize"], b'th":100,"Height":30}\n')
        await until(lambda: client.ended(streams["error"]))
    assert sizes == [(80, 24), (100, 30)]


async def test_streams_that_nobody_asked_for_are_refused() -> None:
    async def run(command: RemoteCommand) -> None:
        await command.closed.wait()

    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), Streams(stdout=True)).upgrade(run)
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        for name in ("error", "stdout", "stdout", "stdin", ""):
            client.open({"streamType": name})
        await until(lambda: len(client.got()) == 5)
        assert client.got()[2:] == [RstStream(5, 3), RstStream(7, 3), RstStream(9, 3)]


async def test_a_client_that_opens_too_few_streams_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(command: RemoteCommand) -> None:
        raise AssertionError("there is nothing to run it with")

    monkeypatch.setattr(remotecommand, "OPEN_SECONDS", 0.01)
    monkeypatch.setattr(spdy, "LINGER", 0.01)
    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), ALL).upgrade(run)
    async with talking(upgrade) as (far, task):
        client = SpdyClient(far)
        client.open({"streamType": "error"})
        await asyncio.wait_for(asyncio.shield(task), 5)
        assert client.got()[-1] == GoAway(1, 0)


async def test_a_command_that_fails_is_told_and_raises() -> None:
    async def run(command: RemoteCommand) -> None:
        raise ValueError("a bug")

    far = Far()
    client = SpdyClient(far)
    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), Streams(stdout=True)).upgrade(run)
    streams = {name: client.open({"streamType": name}) for name in ("error", "stdout")}
    with pytest.raises(ValueError, match="a bug"):
        await upgrade.run(far.tunnel)
    assert json.loads(client.data(streams["error"]))["reason"] == "InternalError"


async def test_a_client_that_leaves_is_seen_by_the_command() -> None:
    seen = []

    async def run(command: RemoteCommand) -> None:
        assert command.stdin
        assert command.stdout
        seen.append(await command.stdin.read())
        await command.closed.wait()
        await command.stdout.write(b"x")

    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), Streams(stdin=True, stdout=True)).upgrade(run)
    async with talking(upgrade) as (far, _):
        await open_all(SpdyClient(far), "error", "stdin", "stdout")
    assert seen == [b""]


async def test_over_websocket_v5_stdin_ends_by_a_message() -> None:
    upgrade = negotiate(request(websocket_request("v5.channel.k8s.io", "v4.channel.k8s.io")), ALL).upgrade(echo)
    assert upgrade.headers == [
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ]
    async with talking(upgrade) as (far, _):
        far.say(masked(Opcode.BINARY, b"\0ab"), masked(Opcode.BINARY, b"\0", final=False))
        far.say(masked(Opcode.PING, b"?"), masked(Opcode.CONTINUATION, b"c"), masked(Opcode.BINARY, b"\xff\0"))
        await until(lambda: closed(far.heard))
        shown = messages(far.heard)
        assert shown[0] == (Opcode.BINARY, b"\x01")
        assert shown[1:4] == [(Opcode.PONG, b"?"), (Opcode.BINARY, b"\x01abc"), (Opcode.BINARY, b"\x023")]
        assert (shown[4][1][:1], json.loads(shown[4][1][1:])) == (b"\3", EXIT_3)
        assert shown[5] == (Opcode.CLOSE, b"\x03\xe8")


async def test_over_websocket_in_base64_everything_is_text() -> None:
    async def run(command: RemoteCommand) -> None:
        assert command.stdin
        assert command.stdout
        await command.stdout.write(await command.stdin.read())
        await command.exit(0)

    upgrade = negotiate(request(websocket_request("base64.channel.k8s.io")), Streams(stdin=True, stdout=True)).upgrade(
        run
    )
    async with talking(upgrade) as (far, _):
        far.say(masked(Opcode.TEXT, b"0" + base64.b64encode(b"hello")))
        await until(lambda: closed(far.heard))
        assert messages(far.heard)[:-1] == [(Opcode.TEXT, b"1"), (Opcode.TEXT, b"1aGVsbG8=")]


@pytest.mark.parametrize("sent", [b"xaGVsbG8=", b"0aGVsbG8", b"0****"])
async def test_what_is_not_base64_closes_the_websocket(sent: bytes) -> None:
    async def run(command: RemoteCommand) -> None:
        await command.closed.wait()

    upgrade = negotiate(request(websocket_request("v4.base64.channel.k8s.io")), Streams(stdin=True)).upgrade(run)
    async with talking(upgrade) as (far, _):
        far.say(masked(Opcode.TEXT, sent))
        await until(lambda: closed(far.heard))
        assert messages(far.heard)[-1][1][:2] == (1007).to_bytes(2, "big")


async def test_sizes_over_websocket_come_in_every_version() -> None:
    async def run(command: RemoteCommand) -> None:
        assert command.stdout
        await command.stdout.write(str(await command.resizes.get()).encode())
        await command.exit(0)

    upgrade = negotiate(request(websocket_request("channel.k8s.io")), TERMINAL).upgrade(run)
    async with talking(upgrade) as (far, _):
        far.say(masked(Opcode.BINARY, b'\x04{"Width":80,"Height":24}'))
        await until(lambda: (Opcode.BINARY, b"\x01(80, 24)") in messages(far.heard))


async def test_only_the_last_sizes_are_kept() -> None:
    async def run(command: RemoteCommand) -> None:
        for width in range(20):
            command.resized(width, 1)
        assert [command.resizes.get_nowait()[0] for _ in range(8)] == list(range(12, 20))
        await command.exit(0)

    upgrade = negotiate(request(websocket_request("v4.channel.k8s.io")), TERMINAL).upgrade(run)
    async with talking(upgrade) as (far, _):
        await until(lambda: closed(far.heard))


@pytest.mark.parametrize(
    ("text", "sizes", "rest"),
    [
        ('{"Width":1,"Height":2}', [(1, 2)], ""),
        (' {"Width":1,"Height":2}\n{"Width":3,', [(1, 2)], '{"Width":3,'),
        ('{"Width":-1,"Height":2} 7 {"Width":"a"} {"Height":99999,"Width":1}', [], ""),
        ("nonsense", [], "nonsense"),
        ("[" * 5000, [], "[" * 5000),
    ],
)
def test_sizes_are_read_one_after_another(text: str, sizes: list[tuple[int, int]], rest: str) -> None:
    assert sizes_of(text) == (sizes, rest)


async def test_output_waits_for_a_slow_client() -> None:
    written = []

    async def run(command: RemoteCommand) -> None:
        assert command.stdout
        for _ in range(3):
            await command.stdout.write(bytes(10))
            written.append(1)
        await command.exit(0)

    runs: Run = run
    upgrade = negotiate(request(spdy_request("v4.channel.k8s.io")), Streams(stdout=True)).upgrade(runs)
    async with talking(upgrade) as (far, _):
        client = SpdyClient(far)
        far.slow.clear()
        client.open({"streamType": "error"})
        client.open({"streamType": "stdout"})
        for _ in range(20):
            await asyncio.sleep(0)
        assert written == []
        far.slow.set()
        await until(lambda: Data(3, b"", fin=True) in client.got())
        assert len(written) == 3
