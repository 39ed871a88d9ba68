from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from havre.control.apiserver.cache import Ages, Cache, Entry, Event, History, Moved, TooOld
from havre.control.store.errors import WriteFailed
from havre.control.store.log import Page, Row, Store

A, B = "core/pods/default/a", "core/pods/default/b"


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[Cache]:
    cache = Cache(Store.open(tmp_path / "store.db"))
    await cache.start()
    yield cache
    await cache.close()


def encoder(name: str, size: int = 0, app: str = "x") -> Callable[[int], bytes]:
    def encode(revision: int) -> bytes:
        meta = {"name": name, "labels": {"app": app}, "resourceVersion": str(revision)}
        return orjson.dumps({"metadata": meta, "data": "x" * size})

    return encode


async def put(cache: Cache, key: str, app: str = "x") -> Entry:
    return await cache.put(key, cache.get(key), encoder(key.rsplit("/", 1)[1], app=app))


async def remove(cache: Cache, key: str) -> Entry:
    entry = cache.get(key)
    assert entry is not None
    return await cache.remove(key, entry, encoder(key.rsplit("/", 1)[1]))


def keys(found: tuple[Sequence[Entry], bool]) -> list[str]:
    return [entry.key for entry in found[0]]


def told(events: Sequence[Event]) -> list[tuple[str, str, int]]:
    return [(event.type, event.entry.key, event.revision) for event in events]


# reads and writes


async def test_a_written_object_can_be_read_with_its_revision_inside(cache: Cache) -> None:
    entry = await put(cache, A, app="web")
    assert cache.get(A) is entry
    assert (entry.revision, entry.created, entry.labels) == (1, 1, {"app": "web"})
    assert entry.decode()["metadata"]["resourceVersion"] == "1"
    assert cache.revision == 1


async def test_an_update_keeps_the_revision_of_creation(cache: Cache) -> None:
    await put(cache, A)
    entry = await put(cache, A)
    assert (entry.revision, entry.created) == (2, 1)


async def test_nothing_can_be_read_before_it_is_on_the_disk(cache: Cache) -> None:
    task = asyncio.create_task(put(cache, A))
    await asyncio.sleep(0)
    assert cache.get(A) is None
    assert await cache.settled(A) is await task


async def test_a_removed_object_is_gone_and_its_last_state_is_returned(cache: Cache) -> None:
    await put(cache, A)
    last = await remove(cache, A)
    assert cache.get(A) is None
    assert (last.revision, last.created, last.decode()["metadata"]["resourceVersion"]) == (2, 1, "2")


async def test_of_two_writers_that_read_the_same_entry_one_must_read_again(cache: Cache) -> None:
    entry = await put(cache, A)
    first = asyncio.create_task(cache.put(A, entry, encoder("a")))
    await asyncio.sleep(0)
    with pytest.raises(Moved):  # while the first is on its way
        await cache.put(A, entry, encoder("a"))
    await first
    with pytest.raises(Moved):  # and after it
        await cache.remove(A, entry, encoder("a"))


async def test_creating_what_exists_is_refused(cache: Cache) -> None:
    await put(cache, A)
    with pytest.raises(Moved):
        await cache.put(A, None, encoder("a"))


async def test_a_hundred_writers_of_one_object_all_succeed_by_waiting(cache: Cache) -> None:
    async def add_one() -> None:
        while True:
            entry = await cache.settled(A)
            value = orjson.dumps({"count": entry.decode()["count"] + 1 if entry else 1})
            try:
                await cache.put(A, entry, partial(lambda value, revision: value, value))
            except Moved:
                continue
            return

    await asyncio.gather(*[add_one() for _ in range(30)])
    entry = cache.get(A)
    assert entry is not None
    assert entry.decode() == {"count": 30}


async def test_a_failed_write_leaves_the_old_state_and_lets_others_write(cache: Cache) -> None:
    entry = await put(cache, A)
    writer = cache._store._file.writer
    writer.pragma("max_page_count", writer.pragma("page_count"))
    failing = asyncio.create_task(cache.put(A, entry, encoder("a", 50_000)))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cache.settled(A))
    with pytest.raises(WriteFailed):
        await failing
    assert await waiting is entry
    writer.pragma("max_page_count", 1 << 30)
    assert (await cache.put(A, entry, encoder("a"))).revision == 3


async def test_a_cancelled_writer_does_not_block_the_key(cache: Cache) -> None:
    task = asyncio.create_task(put(cache, A))
    await asyncio.sleep(0)
    task.cancel()
    entry = await cache.settled(A)
    assert entry is not None
    assert (await cache.put(A, entry, encoder("a"))).revision == 2


async def test_labels_given_by_the_writer_are_not_decoded_again(cache: Cache) -> None:
    entry = await cache.put(A, None, lambda _: b"not JSON", {"app": "web"})
    assert entry.labels == {"app": "web"}


async def test_an_object_without_labels_has_an_empty_dict() -> None:
    assert Entry(A, 1, 1, b'{"metadata":{"name":"a"}}').labels == {}
    assert Entry(A, 1, 1, b'{"metadata":{"labels":null}}').labels == {}


# lists


async def test_a_list_is_in_the_order_of_keys_and_within_its_prefix(cache: Cache) -> None:
    for key in ("core/pods/b/x", "core/pods/a/y", "core/pods/a-b/x", "core/podtemplates/a/x", "core/pods/a/x"):
        await put(cache, key)
    assert keys(cache.range("core/pods/")) == ["core/pods/a-b/x", "core/pods/a/x", "core/pods/a/y", "core/pods/b/x"]
    assert keys(cache.range("core/pods/a/")) == ["core/pods/a/x", "core/pods/a/y"]
    assert keys(cache.range("core/pods/a/x")) == ["core/pods/a/x"]
    assert cache.range("core/nodes/") == ([], False)
    assert [cache.count(p) for p in ("core/pods/", "core/pods/a/", "core/nodes/")] == [4, 2, 0]


async def test_pages_follow_each_other_without_gap(cache: Cache) -> None:
    for name in "abcde":
        await put(cache, f"core/pods/n/{name}")
    first, more = cache.range("core/pods/", limit=2)
    assert (keys((first, more)), more) == (["core/pods/n/a", "core/pods/n/b"], True)
    rest, more = cache.range("core/pods/", after=first[-1].key, limit=3)
    assert (keys((rest, more)), more) == (["core/pods/n/c", "core/pods/n/d", "core/pods/n/e"], False)


async def test_a_list_of_an_older_revision_undoes_what_came_later(cache: Cache) -> None:
    first = await put(cache, A)
    await put(cache, B)
    await put(cache, A)
    await remove(cache, B)
    assert cache.range("core/pods/", at=1) == ([first], False)
    assert keys(cache.range("core/pods/", at=3)) == [A, B]
    assert cache.range("core/pods/", at=3, limit=1) == ([cache.get(A)], True)
    assert keys(cache.range("core/pods/", at=3, after=A)) == [B]
    assert keys(cache.range("core/pods/")) == [A]


async def test_pages_of_an_older_revision_are_full_though_much_came_before_them(cache: Cache) -> None:
    for name in ("x", "y", "z", "a", "b", "c", "d"):
        await put(cache, f"core/pods/n/{name}")
    first, more = cache.range("core/pods/", limit=2, at=3)
    assert (keys((first, more)), more) == (["core/pods/n/x", "core/pods/n/y"], True)
    last, more = cache.range("core/pods/", limit=2, at=3, after="core/pods/n/y")
    assert (keys((last, more)), more) == (["core/pods/n/z"], False)


async def test_a_list_of_a_forgotten_revision_is_too_old(cache: Cache) -> None:
    await put(cache, A)
    await put(cache, A)
    cache._history.forget(1)
    with pytest.raises(TooOld, match="revision 0 is too old, the oldest kept is 1; list again"):
        cache.range("core/pods/", at=0)
    with pytest.raises(ValueError, match="the newest is 2"):
        cache.range("core/pods/", at=3)


# watches


async def test_a_watch_sees_what_happens_from_now_on(cache: Cache) -> None:
    await put(cache, A)
    seen: list[Event] = []
    cache.watch("core/pods/", None, seen.extend)
    await put(cache, A)
    await put(cache, B)
    await remove(cache, A)
    assert told(seen) == [("MODIFIED", A, 2), ("ADDED", B, 3), ("DELETED", A, 4)]
    assert [event.prev and event.prev.revision for event in seen] == [1, None, 2]


async def test_the_line_of_an_event_is_made_once(cache: Cache) -> None:
    seen: list[Event] = []
    cache.watch("core/pods/", None, seen.extend)
    await cache.put(A, None, lambda revision: b'{"v":%d}' % revision)
    assert seen[0].line == b'{"type":"ADDED","object":{"v":1}}\n'
    assert seen[0].line is seen[0].line


@pytest.mark.parametrize(
    ("prefix", "seen_keys"),
    [
        ("core/pods/", ["core/pods/n/a", "core/pods/n/ab", "core/pods/m/a"]),
        ("core/pods/n/", ["core/pods/n/a", "core/pods/n/ab"]),
        ("core/pods/n/a", ["core/pods/n/a"]),
    ],
)
@pytest.mark.parametrize("since", [None, 0])
async def test_a_watch_sees_only_its_prefix(cache: Cache, prefix: str, seen_keys: list[str], since: int | None) -> None:
    seen: list[Event] = []
    if since is None:
        cache.watch(prefix, None, seen.extend)
    for key in ("core/pods/n/a", "core/pods/n/ab", "core/secrets/n/a", "core/pods/m/a"):
        await put(cache, key)
    if since is not None:
        cache.watch(prefix, since, seen.extend)
    assert [event.entry.key for event in seen] == seen_keys


async def test_a_watch_replays_what_happened_since_before_it_returns(cache: Cache) -> None:
    for _ in range(3):
        await put(cache, A)
    seen: list[Event] = []
    cache.watch("core/pods/", 1, seen.extend)
    assert told(seen) == [("MODIFIED", A, 2), ("MODIFIED", A, 3)]


async def test_a_watch_from_a_future_revision_waits_for_it(cache: Cache) -> None:
    seen: list[Event] = []
    cache.watch("core/pods/", 2, seen.extend)
    for _ in range(3):
        await put(cache, A)
    assert [event.revision for event in seen] == [3]


async def test_a_watch_that_is_too_old_is_refused(cache: Cache) -> None:
    for _ in range(3):
        await put(cache, A)
    cache._history.forget(2)
    await cache.compact(2)
    assert cache.oldest == 2
    with pytest.raises(TooOld):
        cache.watch("core/pods/", 1, lambda events: None)


async def test_a_watch_older_than_the_memory_is_replayed_from_the_log(cache: Cache) -> None:
    for _ in range(4):
        await put(cache, A)
    cache._history.forget(3)
    seen: list[Event] = []
    done = asyncio.Event()

    def deliver(events: Sequence[Event]) -> None:
        seen.extend(events)
        if seen[-1].revision >= 6:
            done.set()

    cache.watch("core/pods/", 1, deliver)
    assert seen == []
    await put(cache, A)
    await put(cache, A)
    await done.wait()
    assert told(seen) == [("MODIFIED", A, revision) for revision in (2, 3, 4, 5, 6)]
    assert [event.prev and event.prev.revision for event in seen] == [1, 2, 3, 4, 5]


async def test_the_log_is_not_cut_from_under_a_watch_that_reads_it(cache: Cache) -> None:
    for _ in range(4):
        await put(cache, A)
    cache._history.forget(4)
    seen: list[Event] = []
    watch = cache.watch("core/pods/", 2, seen.extend)
    assert await cache.compact(4) <= 2
    await asyncio.gather(*cache._replays)
    assert [event.revision for event in seen] == [3, 4]
    assert watch.active


async def test_a_cancelled_watch_gets_nothing_more_even_within_a_batch(cache: Cache) -> None:
    seen: list[str] = []

    def end_the_second(_: Sequence[Event]) -> None:
        seen.append("first")
        second.cancel()

    first = cache.watch("core/pods/", None, end_the_second)
    second = cache.watch("core/pods/", None, lambda _: seen.append("second"))
    await put(cache, A)
    first.cancel()
    await put(cache, A)
    assert seen == ["first"]
    assert cache._watches == {}


async def test_a_watch_opened_by_a_consumer_begins_after_that_batch(cache: Cache) -> None:
    seen: list[Event] = []

    def open_another(_: Sequence[Event]) -> None:
        cache.watch("core/pods/", None, seen.extend)

    outer = cache.watch("core/pods/default/", None, open_another)
    await put(cache, A)
    outer.cancel()
    assert seen == []
    await put(cache, A)
    assert [event.revision for event in seen] == [2]


async def test_a_consumer_that_raises_loses_its_watch_and_nobody_else(cache: Cache) -> None:
    errors: list[Exception] = []
    seen: list[Event] = []
    broken = cache.watch("core/pods/", None, lambda events: print(1 // 0), errors.append)  # noqa: T201
    cache.watch("core/pods/", None, seen.extend)
    await put(cache, A)
    await put(cache, A)
    assert not broken.active
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert [event.revision for event in seen] == [1, 2]


async def test_watches_opened_at_any_moment_of_a_busy_time_have_no_gap_and_no_duplicate(cache: Cache) -> None:
    logs: list[tuple[int, list[Event]]] = []

    async def write(writer: int) -> None:
        for i in range(20):
            await put(cache, f"core/pods/n/{writer}-{i % 3}")
            if i % 4 == writer % 4:
                seen: list[Event] = []
                since = max(0, cache.revision - 7 * writer)
                logs.append((since, seen))
                cache.watch("core/pods/", since, seen.extend)

    await asyncio.gather(*map(write, range(8)))
    assert len(logs) == 40
    for since, seen in logs:
        assert [event.revision for event in seen] == list(range(since + 1, 161))


# start, history, age


async def test_after_a_restart_everything_is_there_and_a_watch_resumes(tmp_path: Path) -> None:
    cache = Cache(Store.open(tmp_path / "store.db"))
    await cache.start()
    for key in (A, B, A):
        await put(cache, key)
    await remove(cache, B)
    await cache.close()
    cache = Cache(Store.open(tmp_path / "store.db"))
    await cache.start()
    seen: list[Event] = []
    cache.watch("core/pods/", 1, seen.extend)
    assert told(seen) == [("ADDED", B, 2), ("MODIFIED", A, 3), ("DELETED", B, 4)]
    assert keys(cache.range("core/pods/")) == [A]
    assert keys(cache.range("core/pods/", at=2)) == [A, B]
    assert cache.revision == 4
    await cache.close()


async def test_the_history_is_bounded_in_bytes(tmp_path: Path) -> None:
    cache = Cache(Store.open(tmp_path / "store.db"), window_bytes=10_000)
    await cache.start()
    for _ in range(10):
        await cache.put(A, cache.get(A), encoder("a", 1000))
    assert cache._history.floor == 7  # each takes 2 × 1060 + 400 = 2520 bytes: three fit
    await cache.close()


def test_ages_know_which_revision_is_how_old() -> None:
    ages = Ages()
    for time, revision in ((10.0, 5), (20.0, 5), (30.0, 9)):
        ages.mark(time, revision)
    assert [ages.revision(time) for time in (9.9, 10.0, 29.9, 30.0, 99.0)] == [0, 5, 5, 9, 9]
    ages.forget(25.0)
    assert [ages.revision(time) for time in (15.0, 25.0, 30.0)] == [0, 5, 9]


class FakeStore:
    """Remembers what it was asked to compact."""

    revision = 7
    compacted = 0

    def __init__(self) -> None:
        self.asked: list[int] = []

    def live(self, at: int) -> Iterator[Row]:
        return iter(())

    def horizon(self, limit: int) -> int:
        return 7

    def after(self, revision: int, **_: Any) -> Page:
        return Page([], 7)

    def start(self, *_: Any) -> None: ...

    async def compact(self, revision: int) -> int:
        self.asked.append(revision)
        return revision

    async def close(self) -> None: ...


@pytest.mark.looptime
async def test_the_log_is_cut_at_what_is_older_than_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "_load", lambda _: None)  # no thread under a virtual clock
    store: Any = FakeStore()
    cache = Cache(store, keep=300, compact_every=300)
    await cache.start()
    await asyncio.sleep(100)
    cache.revision = 8
    await asyncio.sleep(205)
    assert store.asked == [7]  # revision 7 was the newest five minutes ago
    cache.revision = 9
    await asyncio.sleep(300)
    assert store.asked == [7, 8]
    await cache.close()


# laws


def test_history_of_one_resource_is_found_by_prefix() -> None:
    history = History(1 << 20)
    for revision, key in enumerate(["g/r/n/a", "g/s/n/a", "g/r/n/ab", "g/r/m/a"], 1):
        history.add(key[:4], Event("ADDED", Entry(key, revision, revision, b""), None))
    assert [e.revision for e in history.after("g/r/", 0)] == [1, 3, 4]
    assert [e.revision for e in history.after("g/r/n/", 1)] == [3]
    assert [e.revision for e in history.after("g/r/n/a", 0)] == [1]


class Model(RuleBasedStateMachine):
    """Cache and store against a list of snapshots, one a revision, through compactions and restarts."""

    place = st.sampled_from([f"core/{r}/{ns}/{n}" for r in ("pods", "nodes") for ns in ("a", "a-b") for n in "xy"])
    prefixes = st.sampled_from(["core/pods/", "core/nodes/", "core/pods/a/", "core/pods/a/x"])

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.states: list[dict[str, int]] = [{}]  # key → revision, by revision

    @initialize(path=st.just(None))
    def begin(self, path: None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.open()

    def open(self) -> None:
        store = Store.open(Path(self.folder.name) / "store.db")
        self.cache = Cache(store, window_bytes=4000)  # some seven events, so that the log is read too
        self.loop.run_until_complete(self.cache.start())

    def teardown(self) -> None:
        self.loop.run_until_complete(self.cache.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    @rule(chosen=st.sets(place, min_size=1, max_size=5))
    def put_some(self, chosen: set[str]) -> None:
        async def all_at_once() -> list[Entry]:
            return await asyncio.gather(*[put(self.cache, key) for key in sorted(chosen)])

        for entry in self.loop.run_until_complete(all_at_once()):
            assert entry.revision == len(self.states)
            self.states.append({**self.states[-1], entry.key: entry.revision})

    @rule(key=place)
    def remove_one(self, key: str) -> None:
        if key in self.states[-1]:
            self.loop.run_until_complete(remove(self.cache, key))
            self.states.append({k: v for k, v in self.states[-1].items() if k != key})

    @rule(back=st.integers(0, 8))
    def compact(self, back: int) -> None:
        self.loop.run_until_complete(self.cache.compact(max(0, self.cache.revision - back)))

    @rule()
    def reopen(self) -> None:
        self.loop.run_until_complete(self.cache.close())
        self.open()

    @rule(back=st.integers(0, 8), prefix=prefixes, limit=st.integers(1, 3))
    def list_the_past(self, back: int, prefix: str, limit: int) -> None:
        at = max(0, self.cache.revision - back)
        found: list[tuple[str, int]] = []
        after, more = "", True
        try:
            while more:
                entries, more = self.cache.range(prefix, after=after, limit=limit, at=at)
                found += [(entry.key, entry.revision) for entry in entries]
                after = entries[-1].key if entries else after
        except TooOld:
            assert at < self.cache._history.floor
            return
        assert found == sorted((k, v) for k, v in self.states[at].items() if _under(prefix, k))

    @rule(back=st.integers(0, 12), prefix=prefixes)
    def watch_the_past(self, back: int, prefix: str) -> None:
        since = max(0, self.cache.revision - back)
        seen: list[Event] = []
        try:
            self.loop.run_until_complete(self.watch_once(prefix, since, seen))
        except TooOld:
            assert since < self.cache.oldest
            return
        assert told(seen) == [
            step for r in range(since + 1, len(self.states)) for step in [self._step(r)] if _under(prefix, step[1])
        ]
        assert [event.prev.revision if event.prev else None for event in seen] == [
            self.states[event.revision - 1].get(event.entry.key) for event in seen
        ]

    async def watch_once(self, prefix: str, since: int, seen: list[Event]) -> None:
        watch = self.cache.watch(prefix, since, seen.extend)
        await asyncio.gather(*self.cache._replays)
        watch.cancel()

    def _step(self, revision: int) -> tuple[str, str, int]:
        """What made the state at `revision` out of the one before."""
        before, now = self.states[revision - 1], self.states[revision]
        for key, at in now.items():
            if at == revision:
                return ("MODIFIED" if key in before else "ADDED", key, revision)
        (key,) = before.keys() - now.keys()
        return ("DELETED", key, revision)

    @invariant()
    def the_present_is_the_last_state(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.cache.revision == len(self.states) - 1
        found = {e.key: e.revision for p in ("core/pods/", "core/nodes/") for e in self.cache.range(p)[0]}
        assert found == self.states[-1]
        assert all(self.cache.get(key) is not None for key in found)


def _under(prefix: str, key: str) -> bool:
    return key == prefix or (prefix.endswith("/") and key.startswith(prefix))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)
