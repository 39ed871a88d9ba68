"""A writer in its own process, stopped by force: what it acknowledged must be there."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

from havre.control.store.log import Store

WRITER = """
import asyncio, sys
from pathlib import Path
from havre.control.store import checkpoint
from havre.control.store.log import PUT, Store

checkpoint.SOFT, checkpoint.HARD = 16, 64  # so that checkpoints happen all the time

async def main():
    store = Store.open(Path(sys.argv[1]))
    newest = {row.key: row for row in store.live()}
    store.start(lambda rows: None)

    async def write(writer):
        n = 0
        while True:
            n += 1
            key = f"g/r/n/{writer}-{n % 5}"
            prev = newest.get(key)
            row = await store.append(key, PUT, prev.created if prev else 0, prev.revision if prev else 0,
                lambda revision: f"{key}@{revision};".encode() * 40)
            newest[key] = row
            print(row.revision, row.key, flush=True)
            if n % 7 == 0:
                await store.compact(row.revision - 20)

    await asyncio.gather(*map(write, range(8)))

asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    last: dict[str, int] = {}
    highest = 0
    for lines in (1, 100 + secrets.randbelow(100), 400 + secrets.randbelow(400)):
        acknowledged = _write_and_kill(path, lines)
        assert all(revision > highest for revision, _ in acknowledged)  # no revision is seen twice
        last.update({key: revision for revision, key in acknowledged})
        store = Store.open(path)
        live = {row.key: row for row in store.live()}
        for key, revision in last.items():
            assert live[key].revision >= revision
        for row in live.values():
            assert row.value == f"{row.key}@{row.revision};".encode() * 40
        highest = store.revision
        assert highest >= max(last.values())
        await store.close()


def _write_and_kill(path: Path, lines: int) -> list[tuple[int, str]]:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        head = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        rest = writer.stdout.read().splitlines(keepends=True)
    whole = [line.split() for line in head + rest if line.endswith("\n")]
    assert len(whole) >= lines
    return [(int(revision), key) for revision, key in whole]


FULL = """
import asyncio, json, resource, sys
from pathlib import Path
from havre.control.store.errors import WriteFailed
from havre.control.store.log import PUT, Store

async def main():
    store = Store.open(Path(sys.argv[1]))
    store.start(lambda rows: None)
    put = lambda i: store.append(f"g/r/n/{i}", PUT, 0, 0, lambda revision: b"x" * 10_000)
    written, failures = [], []
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    for start in range(0, 100, 4):
        for row in await asyncio.gather(*map(put, range(start, start + 4)), return_exceptions=True):
            if isinstance(row, WriteFailed):
                failures.append(str(row))
            else:
                written.append(row.key)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    written.append((await put("later")).key)
    await store.close()
    print(json.dumps([written, failures]))

asyncio.run(main())
"""


def _write_beyond_the_limit(path: Path) -> list[list[str]]:
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    result: list[list[str]] = json.loads(done.stdout)
    return result


async def test_the_file_size_limit_fails_writes_cleanly_and_space_heals(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    written, failures = _write_beyond_the_limit(path)
    store = Store.open(path)
    assert sorted(row.key for row in store.live()) == sorted(written)
    await store.close()
    assert "g/r/n/later" in written
    assert len(failures) > 10
    assert "nothing was written" in failures[0]
