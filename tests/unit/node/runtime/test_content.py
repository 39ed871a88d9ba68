from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest

from havre.node.runtime import content as module
from havre.node.runtime.content import Busy, Content, ContentError, Mismatch, Missing
from havre.wire.oci.digest import Digest, digest_of

HELLO = Digest("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")


async def test_a_blob_is_named_by_its_hash(tmp_path: Path) -> None:
    content = Content(tmp_path)
    assert await content.put(b"hello") == HELLO
    assert content.path(HELLO) == tmp_path / "blobs/sha256" / HELLO[7:]
    assert (content.has(HELLO), content.size(HELLO), content.read(HELLO, 5)) == (True, 5, b"hello")
    assert [blob.digest for blob in content.blobs()] == [HELLO]
    assert content.ingests() == []


def test_only_we_may_look_at_the_store(tmp_path: Path) -> None:
    Content(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


async def test_what_is_not_there_or_too_long_is_not_read(tmp_path: Path) -> None:
    content = Content(tmp_path)
    with pytest.raises(Missing):
        content.read(HELLO, 10)
    with pytest.raises(Missing):
        content.size(HELLO)
    await content.put(b"hello")
    with pytest.raises(ContentError, match="longer than 4"):
        content.read(HELLO, 4)


async def test_damage_on_the_disk_is_noticed(tmp_path: Path) -> None:
    content = Content(tmp_path)
    await content.put(b"hello")
    content.path(HELLO).chmod(0o600)
    content.path(HELLO).write_bytes(b"hellO")
    with pytest.raises(Mismatch, match="damaged"):
        content.read(HELLO, 10)


async def test_other_bytes_than_promised_leave_nothing(tmp_path: Path) -> None:
    content = Content(tmp_path)
    with pytest.raises(Mismatch, match="was promised"):
        await content.put(b"hellO", HELLO)
    async with await content.writer("short", size=5) as writer:
        await writer.write(b"hell")
        with pytest.raises(Mismatch, match="4 bytes, 5 were promised"):
            await writer.commit()
    async with await content.writer("long", size=3) as writer:
        with pytest.raises(Mismatch, match="longer than the promised 3"):
            await writer.write(b"hello")
    assert (list(content.blobs()), content.ingests()) == ([], [])


async def test_one_writer_at_a_time_for_a_ref(tmp_path: Path) -> None:
    content = Content(tmp_path)
    async with await content.writer("a"):
        with pytest.raises(Busy):
            await content.writer("a")
        async with await content.writer("b") as other:
            await other.abort()
        with pytest.raises(Busy):
            await content.forget("a")
    async with await content.writer("a"):
        pass
    await content.forget("a")
    assert content.ingests() == []


async def test_a_closed_writer_is_resumed_by_the_next(tmp_path: Path) -> None:
    async with await Content(tmp_path).writer("pull", expected=HELLO, size=5) as writer:
        await writer.write(b"hel")
    content = Content(tmp_path)  # as after a restart
    assert [(i.ref, i.offset, i.busy) for i in content.ingests()] == [("pull", 3, False)]
    async with await content.writer("pull", expected=HELLO, size=5) as writer:
        assert writer.offset == 3
        await writer.write(b"lo")
        assert await writer.commit() == HELLO


async def test_what_a_crash_left_longer_than_promised_starts_again(tmp_path: Path) -> None:
    content = Content(tmp_path)
    async with await content.writer("pull") as writer:
        await writer.write(b"too much")
    async with await content.writer("pull", expected=HELLO, size=5) as writer:
        assert writer.offset == 0
        await writer.write(b"hello")
        assert await writer.commit() == HELLO


async def test_a_killed_process_leaves_only_ingests(tmp_path: Path) -> None:
    writer = await Content(tmp_path).writer("pull")
    await writer.write(bytes(module.BATCH))
    # no close, no commit: the process is gone
    after = Content(tmp_path)
    assert list(after.blobs()) == []
    assert [(i.ref, i.offset) for i in after.ingests()] == [("pull", module.BATCH)]
    await writer.abort()


async def test_what_nobody_can_resume_goes_at_the_start(tmp_path: Path) -> None:
    writer = await Content(tmp_path).writer(f"{module.ONCE}1")
    await writer.write(b"x")
    assert Content(tmp_path).ingests() == []
    await writer.abort()


async def test_an_ingest_that_nobody_resumes_is_removed_after_a_day(tmp_path: Path) -> None:
    content = Content(tmp_path)
    for ref in ("old", "busy"):
        async with await content.writer(ref) as writer:
            await writer.write(b"x")
    async with await content.writer("busy"):
        assert await content.expire(time.time() + 23 * 3600) == 0
        assert await content.expire(time.time() + 25 * 3600) == 1
    assert [ingest.ref for ingest in content.ingests()] == ["busy"]


async def test_the_blob_is_on_the_disk_before_it_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Content(tmp_path)
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"sync {place.name}")
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    await content.put(b"hello")
    assert done == ["sync data", "rename data", "sync sha256"]


async def test_a_commit_may_name_another_algorithm(tmp_path: Path) -> None:
    content = Content(tmp_path)
    wanted = Digest("sha512:" + hashlib.sha512(b"hello").hexdigest())
    async with await content.writer("upload") as writer:
        await writer.write(b"hello")
        assert await writer.commit(wanted) == wanted
    assert content.read(wanted, 5) == b"hello"


async def test_a_deleted_blob_is_gone_at_once(tmp_path: Path) -> None:
    content = Content(tmp_path)
    await content.put(b"hello")
    deleting = asyncio.ensure_future(content.delete(HELLO))
    await asyncio.sleep(0)
    assert not content.has(HELLO)
    await deleting
    await content.delete(HELLO)
    assert list((tmp_path / "trash").iterdir()) == []


async def test_deletions_that_a_crash_interrupted_are_ended(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()
    (tmp_path / "trash/7").write_bytes(b"x")
    Content(tmp_path)
    assert list((tmp_path / "trash").iterdir()) == []


async def test_a_cancelled_write_ends_before_its_file_is_closed(tmp_path: Path) -> None:
    content = Content(tmp_path)
    data = bytes(8 * module.BATCH)
    writer = await content.writer("pull")
    writing = asyncio.ensure_future(writer.write(data))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await writer.close()
    assert content.ingests()[0].offset == len(data)


def test_a_stream_is_stored_from_a_thread(tmp_path: Path) -> None:
    content = Content(tmp_path)
    assert content.store(iter([b"hel", b"lo"])) == (HELLO, 5)

    def broken() -> object:
        yield b"x"
        raise ValueError

    with pytest.raises(ValueError):
        content.store(broken())  # type: ignore[arg-type]
    assert content.ingests() == []


async def test_strangers_in_the_directory_are_not_blobs(tmp_path: Path) -> None:
    content = Content(tmp_path)
    (tmp_path / "blobs/sha256/README").write_text("x")
    assert list(content.blobs()) == []
    assert digest_of(b"hello") == HELLO


@pytest.mark.parametrize("ref", ["", "x" * 1025])
async def test_a_ref_has_a_sensible_length(tmp_path: Path, ref: str) -> None:
    with pytest.raises(ContentError, match="1 to 1024"):
        await Content(tmp_path).writer(ref)
