from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from havre.control.store.errors import (
    Closed,
    Compacted,
    Corrupt,
    Incompatible,
    InUse,
    NotWritable,
    Overloaded,
    WriteFailed,
)
from havre.control.store.log import DELETE, PUT, Row, Store

Put = Callable[..., Awaitable[Row]]


def size(path: Path) -> int:
    return path.stat().st_size


def modes(folder: Path) -> list[tuple[str, int]]:
    return [(file.name, file.stat().st_mode) for file in folder.iterdir()]


async def test_revisions_count_from_one_and_are_inside_the_value(store: Store, put: Put) -> None:
    first, second = await asyncio.gather(put(store, "g/r/n/a", size=1), put(store, "g/r/n/b", size=1))
    assert first == Row(1, "g/r/n/a", PUT, 1, 0, b"1:x")
    assert second == Row(2, "g/r/n/b", PUT, 2, 0, b"2:x")
    assert store.revision == 2


async def test_a_batch_is_published_in_order_before_any_of_its_futures_resolves(path: Path) -> None:
    store = Store.open(path)
    seen: list[int] = []
    futures: list[asyncio.Future[Row]] = []

    def publish(rows: Sequence[Row]) -> None:
        assert not any(future.done() for future in futures[rows[0].revision - 1 :])
        seen.extend(row.revision for row in rows)

    store.start(publish)
    futures += [store.append(f"g/r/n/{i}", PUT, 0, 0, lambda _: b"{}") for i in range(1000)]
    rows = await asyncio.gather(*futures)
    assert seen == list(range(1, 1001))
    assert [row.revision for row in rows] == seen
    await store.close()


async def test_what_was_written_is_live_after_reopening(store: Store, put: Put, path: Path) -> None:
    old = await put(store, "g/r/n/a")
    gone = await put(store, "g/r/n/b")
    new = await put(store, "g/r/n/a", old)
    await store.append("g/r/n/b", DELETE, gone.created, gone.revision, lambda _: b"last")
    await store.close()
    again = Store.open(path)
    assert list(again.live()) == [new]
    assert again.revision == 4
    assert again.instance == store.instance
    await again.close()


async def test_a_key_created_again_is_live_though_its_former_life_was_deleted(store: Store, put: Put) -> None:
    gone = await put(store, "g/r/n/a")
    await store.append("g/r/n/a", DELETE, gone.created, gone.revision, lambda _: b"last")
    new = await put(store, "g/r/n/a")
    assert list(store.live()) == [new]
    assert new.created == 3


async def test_the_past_can_be_read(store: Store, put: Put) -> None:
    one = await put(store, "g/r/n/a")
    two = await put(store, "g/r/n/a", one)
    assert list(store.live(1)) == [one]
    assert list(store.live(2)) == [two]
    assert list(store.live(0)) == []


async def test_after_tells_what_each_change_superseded(store: Store, put: Put) -> None:
    one = await put(store, "g/r/n/a")
    two = await put(store, "g/r/n/a", one)
    assert store.after(1).changes == [(two, one)]
    assert store.after(0).changes == [(one, None), (two, one)]
    assert store.after(2) == ([], 2)


async def test_after_goes_on_page_by_page(store: Store, put: Put) -> None:
    rows = [await put(store, f"g/r/n/{i}", size=100) for i in range(5)]
    page = store.after(0, limit=150)
    assert page == ([(rows[0], None), (rows[1], None)], 2)
    assert store.after(2, limit=1000) == ([(row, None) for row in rows[2:]], 5)


@pytest.mark.parametrize(("prefix", "keys"), [("g/r/n/", ["g/r/n/a", "g/r/n/ab"]), ("g/r/n/a", ["g/r/n/a"])])
async def test_after_keeps_to_a_prefix_or_one_key(store: Store, put: Put, prefix: str, keys: list[str]) -> None:
    for key in ("g/r/n/a", "g/r/n/ab", "g/r/nn/a", "g/rr/n/a"):
        await put(store, key)
    assert [change.row.key for change in store.after(0, prefix=prefix).changes] == keys


async def test_compaction_forgets_what_was_superseded_and_what_was_deleted(store: Store, put: Put) -> None:
    one = await put(store, "g/r/n/a")
    two = await put(store, "g/r/n/a", one)
    gone = await put(store, "g/r/n/b")
    await store.append("g/r/n/b", DELETE, 3, gone.revision, lambda _: b"last")
    three = await put(store, "g/r/n/a", two)
    assert await store.compact(4) == 4
    assert store.compacted == 4
    assert store._reader._connection.execute("SELECT revision FROM log ORDER BY 1").fetchall() == [(2,), (5,)]
    assert list(store.live(4)) == [two]
    assert store.after(4).changes == [(three, two)]
    assert store._file.writer.pragma("synchronous") == 2  # FULL again, as the steps went without


async def test_a_compacted_revision_is_refused(store: Store, put: Put) -> None:
    one = await put(store, "g/r/n/a")
    await put(store, "g/r/n/a", one)
    await store.compact(2)
    with pytest.raises(Compacted, match="read revision 1: compacted, the oldest kept is 2"):
        store.after(1)
    with pytest.raises(Compacted):
        next(store.live(1))


async def test_compaction_of_the_future_stops_at_the_newest_revision(store: Store, put: Put) -> None:
    await put(store, "g/r/n/a")
    assert await store.compact(99) == 1
    assert await store.compact(1) == 1


async def test_revisions_go_on_though_compaction_deleted_the_newest_row(store: Store, put: Put, path: Path) -> None:
    gone = await put(store, "g/r/n/a")
    await store.append("g/r/n/a", DELETE, 1, gone.revision, lambda _: b"last")
    await store.compact(2)
    await store.close()
    again = Store.open(path)
    again.start(lambda rows: None)
    assert list(again.live()) == []
    assert (await put(again, "g/r/n/a")).revision == 3
    await again.close()


async def test_compaction_in_many_steps_gives_pages_back(
    store: Store, put: Put, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("havre.control.store.committer.SLACK", 10)
    monkeypatch.setattr("havre.control.store.committer.WINDOW", 8)
    row = await put(store, "g/r/n/a", size=40_000)
    for _ in range(40):
        row = await put(store, "g/r/n/a", row, size=40_000)
    assert await store.compact(store.revision) == 41
    for _ in range(20):  # each commit is followed by one step of giving back
        row = await put(store, "g/r/n/a", row)
    assert list(store.live()) == [row]
    await store.close()
    assert size(path) < 400_000


async def test_the_write_ahead_log_stays_short(
    store: Store, put: Put, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("havre.control.store.checkpoint.SOFT", 32)
    monkeypatch.setattr("havre.control.store.checkpoint.HARD", 128)
    for i in range(40):
        await asyncio.gather(*[put(store, f"g/r/n/{i}-{k}", size=4000) for k in range(16)])
    wal = path.with_name("store.db-wal")
    assert size(path) > 1_000_000
    assert size(wal) < 3 * 128 * 4096  # 2.6 MB were written


async def test_a_full_disk_fails_the_batch_and_later_writes_succeed(store: Store, put: Put) -> None:
    kept = await put(store, "g/r/n/a")
    pages = store._file.writer.pragma("page_count")
    store._file.writer.pragma("max_page_count", pages)
    failed = await asyncio.gather(*[put(store, f"g/r/n/{i}", size=20_000) for i in range(4)], return_exceptions=True)
    assert [type(error) for error in failed] == [WriteFailed] * 4
    assert "store.db: " in str(failed[0])
    assert "nothing was written: free space on that disk" in str(failed[0])
    store._file.writer.pragma("max_page_count", 1_000_000)
    later = await put(store, "g/r/n/b")
    assert later.revision == 6
    assert list(store.live()) == [later, kept]


async def test_abandoned_rows_are_told_before_their_futures_fail(path: Path, put: Put) -> None:
    store = Store.open(path)
    told: list[int] = []
    store.start(lambda rows: None, lambda rows, error: told.extend(row.revision for row in rows))
    store._file.writer.pragma("max_page_count", store._file.writer.pragma("page_count"))
    with pytest.raises(WriteFailed):
        await put(store, "g/r/n/a", size=20_000)
    assert told == [1]
    await store.close()


async def test_too_many_bytes_waiting_are_refused_and_cost_no_revision(path: Path, put: Put) -> None:
    store = Store.open(path, pending_bytes=1000)
    store.start(lambda rows: None)
    first = store.append("g/r/n/a", PUT, 0, 0, lambda _: b"x" * 1001)
    with pytest.raises(Overloaded, match=r"write g/r/n/b to .*wait for the disk"):
        store.append("g/r/n/b", PUT, 0, 0, lambda _: b"x")
    await first
    assert (await put(store, "g/r/n/b")).revision == 2
    await store.close()


async def test_a_cancelled_future_does_not_take_the_write_back(store: Store, put: Put) -> None:
    future = store.append("g/r/n/a", PUT, 0, 0, lambda _: b"x")
    future.cancel()
    await put(store, "g/r/n/b")
    assert [row.key for row in store.live()] == ["g/r/n/b", "g/r/n/a"]


async def test_a_value_that_cannot_be_encoded_costs_no_revision(store: Store, put: Put) -> None:
    with pytest.raises(ZeroDivisionError):
        store.append("g/r/n/a", PUT, 0, 0, lambda revision: b"x" * (1 // 0))
    assert (await put(store, "g/r/n/a")).revision == 1


async def test_closing_commits_what_is_queued_and_then_refuses(store: Store) -> None:
    futures = [store.append(f"g/r/n/{i}", PUT, 0, 0, lambda _: b"x") for i in range(600)]
    await store.close()
    assert all(future.done() and not future.exception() for future in futures)
    with pytest.raises(Closed):
        store.append("g/r/n/x", PUT, 0, 0, lambda _: b"x")
    await store.close()


async def test_closing_answers_those_who_wait_for_a_compaction(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("havre.control.store.committer.WINDOW", 4)
    await asyncio.gather(*[put(store, f"g/r/n/{i}") for i in range(10)])
    compaction = store.compact(10)
    await store.close()
    assert await compaction in (4, 8, 10)  # whole steps


async def test_an_unfinished_read_of_the_past_hinders_neither_writes_nor_closing(store: Store, put: Put) -> None:
    first = await put(store, "g/r/n/a")
    second = await put(store, "g/r/n/b")
    reading = store.live()
    assert next(reading) == second
    await put(store, "g/r/n/a", first)
    assert store.after(2).upto == 3
    assert list(reading) == [first]


async def test_only_the_owner_can_read_the_files(store: Store, put: Put, path: Path) -> None:
    await put(store, "g/r/n/a")
    assert sorted((name, mode & 0o777) for name, mode in modes(path.parent)) == [
        ("store.db", 0o600),
        ("store.db-shm", 0o600),
        ("store.db-wal", 0o600),
        ("store.db.lock", 0o600),
    ]


async def test_a_publisher_that_raises_does_not_keep_writers_waiting(path: Path, put: Put) -> None:
    store = Store.open(path)
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    store.start(lambda rows: print(rows[99]))  # noqa: T201
    assert (await put(store, "g/r/n/a")).revision == 1
    assert [type(error) for error in errors] == [IndexError]
    await store.close()


async def test_the_second_opener_learns_who_holds_the_store(store: Store, path: Path) -> None:
    words = f"open store {path}: in use by process {os.getpid()}; stop it or choose another --data-dir"
    with pytest.raises(InUse) as caught:
        Store.open(path)
    assert str(caught.value) == words


async def test_another_process_cannot_open_it_and_the_lock_ends_with_the_holder(path: Path) -> None:
    script = "import sys; from pathlib import Path; from havre.control.store.log import Store\n"
    script += "store = Store.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    _refused_while_held([sys.executable, "-c", script, str(path)], path)
    await Store.open(path).close()


def _refused_while_held(command: list[str], path: Path) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(InUse, match=f"process {holder.pid};"):
            Store.open(path)
        holder.kill()
        holder.wait()


def test_a_file_that_is_not_a_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(Corrupt, match="restore a backup, or move it away"):
        Store.open(path)
    assert path.read_bytes() == b"hello" * 1000


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t(x)")
    other.close()
    with pytest.raises(Incompatible, match="not a Havre store"):
        Store.open(path)


async def test_another_schema_version_is_refused(path: Path) -> None:
    await Store.open(path).close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
    other.close()
    with pytest.raises(Incompatible, match="its schema is 99, this Havre reads 1"):
        Store.open(path)


async def test_a_damaged_page_is_reported_with_the_file(store: Store, put: Put, path: Path) -> None:
    for i in range(50):
        await put(store, f"g/r/n/{i}", size=3000)
    await store.close()
    with path.open("r+b") as file:
        file.seek(25 * 4096)  # some leaf in the middle
        file.write(b"\xff" * 4096)
    again = Store.open(path)
    with pytest.raises(Corrupt, match=r"store\.db: .*the file is damaged"):
        list(again.live())
    await again.close()


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable, match="give this user write access"):
        Store.open(tmp_path / "file" / "store.db")


def test_a_refused_file_is_not_kept_locked(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)
    for _ in range(2):
        with pytest.raises(Corrupt):
            Store.open(path)


async def test_the_horizon_is_where_the_newest_bytes_end(store: Store, put: Put) -> None:
    for i in range(4):
        await put(store, f"g/r/n/{i}", size=98)  # "1:" and 98 make 100
    assert store.horizon(250) == 2
    assert store.horizon(400) == 0
    await store.compact(3)
    assert store.horizon(400) == 3
