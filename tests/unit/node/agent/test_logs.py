from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.node.agent import logs
from havre.node.agent.logs import Filter, LogError, Options, container_id, nanoseconds, read, start_of_tail

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SHOWN = b"one\ntwo\nthree\n\n"
FILE = (
    b"2026-01-01T10:00:00.5Z stdout F one\n"
    b"2026-01-01T10:00:01.000000001Z stderr F two\n"
    b"2026-01-01T10:00:02+00:00 stdout P thr\n"
    b"2026-01-01T10:00:02.1Z stdout F ee\n"
    b"2026-01-01T10:00:03Z stdout F \n"
)


def options(query: str) -> Options:
    return Options.of(parse_qs(query, keep_blank_values=True), NOW)


async def shown(path: Path, query: str = "") -> bytes:
    async def over() -> bool:
        return False

    return b"".join([piece async for piece in read(path, options(query), over)])


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def rotate(path: Path, last: bytes, first: bytes) -> None:
    """As a runtime does: the old file is written until the new one is there."""
    with path.open("ab") as old:
        path.rename(path.with_suffix(".log.20260101-100000"))
        old.write(last)
    write(path, first)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    write(path, FILE)
    return path


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", b"one\ntwo\nthree\n\n"),
        ("tailLines=1", b"\n"),
        ("tailLines=3", b"three\n\n"),
        ("tailLines=0", b""),
        ("tailLines=99", b"one\ntwo\nthree\n\n"),
        ("tail=all", b"one\ntwo\nthree\n\n"),
        ("limitBytes=6", b"one\ntw"),
        ("stream=Stderr", b"two\n"),
        ("stream=Stdout&limitBytes=5", b"one\nt"),
        ("sinceTime=2026-01-01T10:00:02Z", b"three\n\n"),
        ("sinceSeconds=7197", b"\n"),
        ("timestamps=true&tailLines=4",
         b"2026-01-01T10:00:01.000000001Z two\n2026-01-01T10:00:02.000000000Z three\n"
         b"2026-01-01T10:00:03.000000000Z \n"),
    ],
)  # fmt: skip
async def test_a_log_is_cut_and_filtered(log: Path, query: str, expected: bytes) -> None:
    assert await shown(log, query) == expected


async def test_an_unfinished_last_line_is_shown(log: Path) -> None:
    write(log, b"2026-01-01T10:00:00Z stdout F whole\n2026-01-01T10:00:01Z stdout F half")
    assert await shown(log) == b"whole\nhalf"
    assert await shown(log, "tailLines=1") == b"half"


async def test_what_is_no_line_is_left_out(log: Path) -> None:
    write(log, b"garbage\n\n\x00\x00\n2026-01-01T10:00:00Z other F x\n2026-01-01 stdout F x\n" + FILE)
    assert await shown(log) == b"one\ntwo\nthree\n\n"


def test_a_line_without_end_is_not_kept() -> None:
    long = Filter(options(""))
    for _ in range(10):
        assert long.feed(bytes(300_000)) == b""
    assert len(long._rest) <= logs.LINE
    assert long.feed(b"\n2026-01-01T10:00:00Z stdout F next\n") == b"next\n"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("tailLines=-1", 422),
        ("limitBytes=0", 422),
        ("sinceSeconds=0", 422),
        ("sinceSeconds=1&sinceTime=2026-01-01T10:00:00Z", 422),
        ("stream=Other", 422),
        ("stream=Stdout&tailLines=1", 422),
        ("tailLines=x", 400),
        ("limitBytes=" + "9" * 30, 400),
        ("sinceTime=yesterday", 400),
    ],
)
def test_wrong_options_are_refused(query: str, status: int) -> None:
    with pytest.raises(LogError) as caught:
        options(query)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (b"2026-01-01T10:00:00Z", b"2026-01-01T10:00:00.000000000Z"),
        (b"2026-01-01T10:00:00.12345678912+00:00", b"2026-01-01T10:00:00.123456789Z"),
        (b"2026-01-01T10:00:00.5+02:00", b"2026-01-01T10:00:00.500000000+02:00"),
    ],
)
def test_times_are_shown_with_nine_digits(stamp: bytes, expected: bytes) -> None:
    assert nanoseconds(stamp) == expected


@given(st.lists(st.sampled_from([b"a", b"", b"\n", b"bb\n", b"\n\n"]), max_size=30), st.integers(1, 20))
def test_the_tail_begins_where_its_lines_begin(parts: list[bytes], lines: int) -> None:
    data = b"".join(parts)
    file = os.memfd_create("log")
    try:
        os.write(file, data)
        expected = b"".join(data.splitlines(keepends=True)[-lines:])
        assert data[start_of_tail(file, lines) :] == expected
    finally:
        os.close(file)


def test_the_tail_is_found_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PIECE", 7)
    file = os.memfd_create("log")
    os.write(file, b"".join(b"line %d\n" % i for i in range(100)))
    assert os.pread(file, 99, start_of_tail(file, 2)) == b"line 98\nline 99\n"
    os.close(file)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_shown_or_left_out(parts: list[bytes]) -> None:
    found = Filter(options("timestamps=1"))
    for part in parts:
        found.feed(part)
    found.end()


class Follower:
    """Reads a log that is followed, in a task."""

    def __init__(self, path: Path, query: str = "follow=true") -> None:
        self.got = b""
        self.running = True
        self._pieces = read(path, options(query), self._still)
        self.task = asyncio.create_task(self._read())

    async def _still(self) -> bool:
        return self.running

    async def _read(self) -> None:
        async for piece in self._pieces:
            self.got += piece

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(5):
            while self.got != text:  # noqa: ASYNC110 - turns of the loop; a thread reads the file
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        await self._pieces.aclose()

    async def ended(self) -> bytes:
        await asyncio.wait_for(self.task, 5)
        return self.got


@asynccontextmanager
async def following(path: Path) -> AsyncGenerator[Follower]:
    follower = Follower(path)
    yield follower
    await follower.close()


async def test_a_log_is_followed_until_its_container_ends(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK", 0.01)
    follower = Follower(log, "follow=true&tailLines=1")
    await follower.until(b"\n")
    append(log, b"2026-01-01T10:00:04Z stdout F more\n2026-01-01T10:00:05Z stdout F ha")
    await follower.until(b"\nmore\n")
    append(log, b"lf\n")
    await follower.until(b"\nmore\nhalf\n")
    append(log, b"2026-01-01T10:00:06Z stdout F last\n")
    follower.running = False
    assert await follower.ended() == b"\nmore\nhalf\nlast\n"


async def test_a_log_is_followed_across_rotation(log: Path) -> None:
    async with following(log) as follower:
        await follower.until(SHOWN)
        rotate(log, b"2026-01-01T10:00:04Z stdout F old\n", b"2026-01-01T10:00:05Z stdout F new\n")
        await follower.until(SHOWN + b"old\nnew\n")


async def test_a_log_that_is_truncated_begins_anew(log: Path) -> None:
    async with following(log) as follower:
        await follower.until(SHOWN)
        write(log, b"2026-01-01T10:00:05Z stdout F new\n")
        await follower.until(SHOWN + b"new\n")


class NoInotify:
    def inotify_init1(self, flags: int) -> int:
        return -1


async def test_without_inotify_a_log_is_looked_at(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK", 0.01)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoInotify())
    async with following(log) as follower:
        append(log, b"2026-01-01T10:00:04Z stdout F more\n")
        await follower.until(SHOWN + b"more\n")


async def test_a_limit_ends_a_log_that_is_followed(log: Path) -> None:
    assert await Follower(log, "follow=true&limitBytes=3").ended() == b"one"


async def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await shown(tmp_path / "0.log")


def pod(state: dict[str, Any], last: dict[str, Any] | None = None, kind: str = "containers") -> dict[str, Any]:
    kinds = {"containers": "containerStatuses", "initContainers": "initContainerStatuses"}
    status = {"name": "c", "containerID": "containerd://now", "state": state, "lastState": last or {}}
    return {"metadata": {"name": "p"}, "spec": {kind: [{"name": "c"}]}, "status": {kinds[kind]: [status]}}


ENDED = {"terminated": {"containerID": "containerd://before"}}


@pytest.mark.parametrize(
    ("found", "previous", "id"),
    [
        (pod({"running": {}}), False, "now"),
        (pod({"running": {}}, kind="initContainers"), False, "now"),
        (pod({"running": {}}, ENDED), True, "before"),
        (pod(ENDED), False, "before"),
        (pod({"terminated": {}}, ENDED), False, "before"),
        (pod({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED), False, "before"),
    ],
)
def test_the_container_whose_log_is_meant(found: dict[str, Any], previous: bool, id: str) -> None:
    assert container_id(found, "c", previous=previous) == id


@pytest.mark.parametrize(
    ("found", "name", "previous", "status", "message"),
    [
        (pod({"running": {}}), "x", False, 404, 'container "x" not found in pod "p"'),
        ({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}, "c", False, 400,
         'container "c" in pod "p" is not available'),
        (pod({"running": {}}), "c", True, 400, 'previous terminated container "c" in pod "p" not found'),
        (pod({"terminated": {}}), "c", False, 400, 'container "c" in pod "p" is terminated'),
        (pod({"waiting": {"reason": "ContainerCreating"}}), "c", False, 400,
         'container "c" in pod "p" is waiting to start: ContainerCreating'),
        (pod({"waiting": {"reason": "ErrImagePull"}}), "c", False, 400,
         'container "c" in pod "p" is waiting to start: image can\'t be pulled'),
        (pod({"waiting": {"reason": "ImagePullBackOff"}}), "c", False, 400,
         'container "c" in pod "p" is waiting to start: trying and failing to pull image'),
        (pod({}), "c", False, 400, 'container "c" in pod "p" is waiting to start - no logs yet'),
    ],
)  # fmt: skip
def test_why_there_is_no_log(found: dict[str, Any], name: str, previous: bool, status: int, message: str) -> None:
    with pytest.raises(LogError) as caught:
        container_id(found, name, previous=previous)
    assert (caught.value.status, str(caught.value)) == (status, message)
