"""Every object once, as bytes, in memory: the one place through which the verbs read and write.

    put, remove → store → committed batch → entries, history → watches            get, range, count: memory only

Reads see only what is on the disk. A write names the entry that it replaces, so two writers never overwrite each
other: the second gets `Moved`, reads again and decides again. Each commit becomes events; they stay in memory for some
minutes, for two uses: a watch that starts at an older revision replays them, and a list at an older revision undoes
them. What is no longer in memory but still in the log is replayed from there.

Keys are `group/resource/namespace/name` (namespace empty for cluster-wide kinds). A prefix is `group/resource/`,
`group/resource/namespace/` or a whole key.

Source of the idea: k8s.io/apiserver, pkg/storage/cacher (watch cache, snapshots). Measured in docs/adr/0002-store.md.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import orjson

from havre.api.meta import Obj
from havre.control.apiserver.shelf import Shelf
from havre.control.store.errors import StoreError, WriteFailed
from havre.control.store.log import DELETE, PUT, Change, Page, Row, Store, prefix_end

log = logging.getLogger(__name__)

MINUTES = 60.0  # seconds
WINDOW = (
    5 * MINUTES
)  # how long events stay in memory: as long as upstream keeps its list snapshots and etcd its history
WINDOW_BYTES = 64 << 20  # and how much of them: 5 minutes at 100 writes/s of 2 kB
KEEP = 5 * MINUTES  # how long the log keeps what was superseded; longer lets the past be read from the disk
COMPACT_EVERY = 5 * MINUTES
TICKS = 10  # per COMPACT_EVERY: how exactly ages are known
OVERHEAD = 400  # bytes of an event and its entry beside the value, measured

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


class Moved(Exception):
    """The entry that a write was to replace is not the newest, or another write is on its way: read again."""


class TooOld(Exception):
    """The revision is no longer kept; `oldest` is the oldest that can be asked for."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} is too old, the oldest kept is {oldest}; list again")
        self.revision = revision
        self.oldest = oldest


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labeled(msgspec.Struct):
    metadata: _Metadata


_decode_labels = msgspec.json.Decoder(_Labeled).decode  # skips the rest: a fifth of the time of a whole decoding


class Entry:
    """One object at one revision; never changes."""

    __slots__ = ("_labels", "created", "key", "memo", "revision", "value")

    def __init__(
        self, key: str, revision: int, created: int, value: bytes, labels: dict[str, str] | None = None
    ) -> None:
        self.key = key
        self.revision = revision
        self.created = created
        self.value = value
        self._labels = labels
        self.memo: dict[Any, Any] | None = None  # derived bytes (table rows, protobuf); they go when the entry goes

    def decode(self) -> Obj:
        """A fresh copy of the object, the caller's to change."""
        obj: Obj = orjson.loads(self.value)
        return obj

    @property
    def labels(self) -> dict[str, str]:
        """metadata.labels, shared: do not change."""
        if self._labels is None:
            self._labels = _decode_labels(self.value).metadata.labels or {}
        return self._labels

    def __repr__(self) -> str:
        return f"Entry({self.key!r}, {self.revision})"


class Event:
    """One change; never changes."""

    __slots__ = ("_line", "entry", "prev", "revision", "type")

    def __init__(self, type: str, entry: Entry, prev: Entry | None) -> None:
        self.type = type
        self.entry = entry  # of DELETED: the final object, at the revision of its deletion
        self.prev = prev
        self.revision = entry.revision
        self._line: bytes | None = None

    @property
    def line(self) -> bytes:
        """The event as a watch stream carries it; made once for all watchers."""
        if self._line is None:
            self._line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.entry.value)
        return self._line

    def __repr__(self) -> str:
        return f"Event({self.type}, {self.entry!r})"


Deliver: TypeAlias = Callable[[Sequence[Event]], None]


class Watch:
    """A running watch; `cancel` ends it, also from within `deliver`."""

    __slots__ = ("_deliver", "_end", "_fail", "active", "prefix", "since")

    def __init__(
        self,
        prefix: str,
        since: int,
        deliver: Deliver,
        *,
        fail: Callable[[Exception], None],
        end: Callable[[Watch], None],
    ) -> None:
        self.prefix = prefix
        self.since = since  # it has been told everything up to this revision, or wants nothing before it
        self.active = True
        self._deliver = deliver
        self._fail = fail
        self._end = end

    def cancel(self) -> None:
        """No event is delivered after this."""
        if self.active:
            self.active = False
            self._end(self)

    def deliver(self, events: Sequence[Event]) -> None:
        """Hand over what is new; a consumer that raises loses its watch and nobody else's."""
        if events and events[0].revision <= self.since:
            events = [event for event in events if event.revision > self.since]
        if not events or not self.active:
            return
        self.since = events[-1].revision
        try:
            self._deliver(events)
        except Exception as error:  # the other watches, and the writers, must not suffer from this one
            log.exception("watch consumer failed", extra={"prefix": self.prefix})
            self.fail(error)

    def fail(self, error: Exception) -> None:
        self.cancel()
        self._fail(error)


@dataclass(slots=True)
class _Pending:
    """A write on its way to the disk, and who waits for its end."""

    labels: dict[str, str] | None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


class Cache:
    """See the module. Everything belongs to the thread of the event loop.

    window, window_bytes   age (seconds) and size of the history in memory
    keep, compact_every    seconds: age of the history in the log, and how often it is cut
    """

    def __init__(
        self,
        store: Store,
        *,
        window: float = WINDOW,
        window_bytes: int = WINDOW_BYTES,
        keep: float = KEEP,
        compact_every: float = COMPACT_EVERY,
    ) -> None:
        self.revision = store.revision
        self._store = store
        self._entries: dict[str, Entry] = {}
        self._shelves: dict[str, Shelf[Entry]] = {}  # by resource prefix
        self._history = History(window_bytes)
        self._pending: dict[str, _Pending] = {}
        self._watches: dict[str, dict[Watch, None]] = {}  # by prefix; a dict is a set that keeps the order
        self._replays: dict[asyncio.Task[None], Watch] = {}
        self._ages = Ages()
        self._window, self._keep, self._compact_every = window, keep, compact_every
        self._aging: asyncio.Task[None] | None = None

    @property
    def oldest(self) -> int:
        """The oldest revision that a watch can start from."""
        return min(self._history.floor, self._store.compacted)

    async def start(self) -> None:
        """Read everything from the store, then open for writes."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._load)
        self._ages.mark(loop.time(), self.revision)
        self._store.start(self._committed, self._abandoned)
        self._aging = loop.create_task(self._age())

    async def close(self) -> None:
        """Finish the writes that are queued, end every watch without a word, close the store."""
        tasks = [task for task in (self._aging, *self._replays) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()
        for watches in [*self._watches.values()]:
            for watch in [*watches]:
                watch.cancel()

    # reads

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def count(self, prefix: str, *, after: str = "", at: int | None = None) -> int:
        """How many entries `range` would give. Raises as `range`."""
        resource = _resource(prefix)
        shelf = self._shelves.get(resource)
        found = shelf.count(prefix, after) if shelf else 0
        if at is None or at == self.revision:
            return found
        undone = self._history.undone(resource, at)
        past = ((key, entry) for key, entry in undone.items() if key.startswith(prefix) and key > after)
        return found + sum((entry is not None) - (key in self._entries) for key, entry in past)

    def range(
        self, prefix: str, *, after: str = "", limit: int | None = None, at: int | None = None
    ) -> tuple[Sequence[Entry], bool]:
        """Entries under `prefix` in the order of keys, beginning behind the key `after`, and whether there are more.

        `at` gives them as of an older revision. Raises TooOld; ValueError for a revision that does not exist yet.
        """
        resource = _resource(prefix)
        shelf = self._shelves.get(resource) or _NOTHING
        if at is None or at == self.revision:
            return shelf.range(prefix, after, limit)
        if at > self.revision:
            raise ValueError(f"list {prefix} at revision {at}: the newest is {self.revision}")
        undone = self._history.undone(resource, at)
        return _merge(shelf, undone, prefix, after, limit) if undone else shelf.range(prefix, after, limit)

    async def settled(self, key: str) -> Entry | None:
        """The entry when no write on `key` is on its way; may be written to without a race before the next await."""
        while pending := self._pending.get(key):
            waiter = asyncio.get_running_loop().create_future()
            pending.waiters.append(waiter)
            await waiter
        return self._entries.get(key)

    # writes

    async def put(
        self, key: str, prev: Entry | None, encode: Callable[[int], bytes], labels: dict[str, str] | None = None
    ) -> Entry:
        """Create (`prev` None) or replace; returns when it is on the disk and the watches have it.

        `encode` gets the revision, for metadata.resourceVersion; `labels`, if the caller has them, saves decoding.
        Raises Moved, WriteFailed, Overloaded. A cancelled caller does not take the write back.
        """
        created = prev.created if prev else 0
        return await self._write(key, PUT, created, prev, encode=encode, labels=labels)

    async def remove(self, key: str, prev: Entry, encode: Callable[[int], bytes]) -> Entry:
        """Delete; the entry returned is the final object, at the revision of its deletion. Raises as `put`."""
        return await self._write(key, DELETE, prev.created, prev, encode=encode, labels=None)

    async def _write(
        self,
        key: str,
        op: int,
        created: int,
        prev: Entry | None,
        *,
        encode: Callable[[int], bytes],
        labels: dict[str, str] | None,
    ) -> Entry:
        if key in self._pending or self._entries.get(key) is not prev:
            raise Moved(key)
        future = self._store.append(key, op, created, prev.revision if prev else 0, encode)
        self._pending[key] = _Pending(labels)
        row = await future
        entry = self._entries.get(key)
        return entry if entry is not None and entry.revision == row.revision else _entry(row, labels)

    # watches

    def watch(
        self, prefix: str, since: int | None, deliver: Deliver, fail: Callable[[Exception], None] = lambda _error: None
    ) -> Watch:
        """Call `deliver` with every change under `prefix` after revision `since` (None: from now), in order, each once.

        A revision of the future is waited for. One call a batch; it must not block. What is in memory is delivered
        before this returns; what is only in the log comes later, and `fail` is called if it cannot be read (or if
        `deliver` raised). Raises TooOld.
        """
        since = self.revision if since is None else since
        if since < self.oldest:
            raise TooOld(since, self.oldest)
        watch = Watch(prefix, since, deliver, fail=fail, end=self._unwatch)
        if since >= self._history.floor:
            self._join(watch)
            return watch
        task = asyncio.get_running_loop().create_task(self._replay(watch))
        self._replays[task] = watch
        task.add_done_callback(self._replays.pop)
        return watch

    def _join(self, watch: Watch) -> None:
        self._watches.setdefault(watch.prefix, {})[watch] = None
        if watch.since < self.revision:
            watch.deliver(self._history.after(watch.prefix, watch.since))

    async def _replay(self, watch: Watch) -> None:
        """Deliver from the log page by page until the history in memory takes over."""
        loop = asyncio.get_running_loop()
        try:
            while watch.active and watch.since < self._history.floor:
                page = await loop.run_in_executor(None, self._read, watch.prefix, watch.since, self.revision)
                watch.deliver([_event(change) for change in page.changes])
                watch.since = page.upto
            if watch.active:
                self._join(watch)
        except StoreError as error:
            watch.fail(error)

    def _read(self, prefix: str, since: int, until: int) -> Page:
        return self._store.after(since, until=until, prefix=prefix)

    def _unwatch(self, watch: Watch) -> None:
        watches = self._watches.get(watch.prefix)
        if watches is None or watch not in watches:
            return
        del watches[watch]
        if not watches:
            del self._watches[watch.prefix]

    # what the store tells

    def _committed(self, rows: Sequence[Row]) -> None:
        events: dict[str, list[Event]] = {}  # by prefix that somebody watches
        done: list[_Pending] = []
        for row in rows:
            pending = self._pending.pop(row.key, None)
            labels = None
            if pending is not None:
                labels = pending.labels
                done.append(pending)
            event = self._apply(row, labels)
            resource = _resource(row.key)
            self._history.add(resource, event)
            for prefix in (resource, row.key[: row.key.rindex("/") + 1], row.key):
                if prefix in self._watches:
                    events.setdefault(prefix, []).append(event)
        self.revision = rows[-1].revision
        # Who watches is settled before anyone is called: a watch opened by a consumer begins after this batch.
        calls = [(tuple(self._watches[prefix]), tuple(batch)) for prefix, batch in events.items()]
        for watches, batch in calls:
            for watch in watches:
                watch.deliver(batch)
        _wake(done)

    def _abandoned(self, rows: Sequence[Row], _error: WriteFailed) -> None:
        _wake([self._pending.pop(row.key) for row in rows if row.key in self._pending])

    def _apply(self, row: Row, labels: dict[str, str] | None) -> Event:
        prev = self._entries.get(row.key)
        entry = _entry(row, labels)
        resource = _resource(row.key)
        if row.op == DELETE:
            self._entries.pop(row.key, None)
            left = self._shelves[resource]
            left.remove(row.key)
            if not left:  # perhaps of a custom kind that is gone for good
                del self._shelves[resource]
            return Event(DELETED, entry, prev)
        self._entries[row.key] = entry
        shelf = self._shelves.get(resource)
        if shelf is None:
            shelf = self._shelves[resource] = Shelf()
        shelf.put(entry)
        return Event(MODIFIED if prev else ADDED, entry, prev)

    # start and age

    def _load(self) -> None:
        """Fill from the store: the state at the beginning of the history, then the history; runs in a thread."""
        floor = self._store.horizon(self._history.limit // 2)
        groups: dict[str, list[Entry]] = {}
        for row in self._store.live(floor):
            entry = self._entries[row.key] = _entry(row, None)
            groups.setdefault(_resource(row.key), []).append(entry)
        for resource, entries in groups.items():
            self._shelves[resource] = Shelf(sorted(entries, key=_KEY))
        self._history.floor = floor
        while floor < self.revision:
            page = self._store.after(floor, until=self.revision)
            for row, _ in page.changes:
                self._history.add(_resource(row.key), self._apply(row, None))
            floor = page.upto

    async def _age(self) -> None:
        """Forget what is older than `window` here and older than `keep` in the log, for as long as the cache lives."""
        loop = asyncio.get_running_loop()
        ticks = 0
        while True:
            await asyncio.sleep(self._compact_every / TICKS)
            now = loop.time()
            self._history.forget(self._ages.revision(now - self._window))
            ticks += 1
            if ticks % TICKS == 0:
                await self.compact(self._ages.revision(now - self._keep))
            self._ages.mark(now, self.revision)
            self._ages.forget(now - max(self._window, self._keep))

    async def compact(self, revision: int) -> int:
        """Cut the log at `revision`, but not from under a watch that still reads it; the revision reached."""
        replaying = [watch.since for watch in self._replays.values() if watch.active]
        return await self._store.compact(min([revision, *replaying]))


_KEY = attrgetter("key")
_REVISION = attrgetter("revision")


def _resource(key: str) -> str:
    """`group/resource/` of a key or a prefix. Raises ValueError."""
    return key[: key.index("/", key.index("/") + 1) + 1]


def _entry(row: Row, labels: dict[str, str] | None) -> Entry:
    return Entry(row.key, row.revision, row.created, row.value, labels)


def _event(change: Change) -> Event:
    before = _entry(change.before, None) if change.before else None
    kind = DELETED if change.row.op == DELETE else MODIFIED if before else ADDED
    return Event(kind, _entry(change.row, None), before)


def _wake(done: Iterable[_Pending]) -> None:
    for pending in done:
        for waiter in pending.waiters:
            if not waiter.done():
                waiter.set_result(None)


def _merge(
    shelf: Shelf[Entry], undone: dict[str, Entry | None], prefix: str, after: str, limit: int | None
) -> tuple[Sequence[Entry], bool]:
    """A range of the shelf with some keys put back to what they were (None: absent)."""
    end = prefix_end(prefix)
    extra = [e for key, e in undone.items() if e is not None and key > after and prefix <= key < end]
    want = None if limit is None else limit + 1 + len(undone)  # enough even if every undone key is dropped
    now, more = shelf.range(prefix, after, want)
    merged = sorted([e for e in now if e.key not in undone] + _up_to(extra, now[-1].key if more else None), key=_KEY)
    if limit is None or len(merged) <= limit:
        return merged, more
    return merged[:limit], True


def _up_to(entries: list[Entry], last: str | None) -> list[Entry]:
    """Those that do not lie behind what the shelf gave."""
    return entries if last is None else [e for e in entries if e.key <= last]


_NOTHING: Shelf[Entry] = Shelf()


class History:
    """The newest events, by age and size: all that happened after `floor`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.floor = 0
        self._size = 0
        self._all: deque[Event] = deque()
        self._of: dict[str, deque[Event]] = {}  # the same events by resource prefix

    def add(self, resource: str, event: Event) -> None:
        self._all.append(event)
        self._of.setdefault(resource, deque()).append(event)
        self._size += _size(event)
        while self._size > self.limit:
            self._drop()

    def forget(self, revision: int) -> None:
        """Drop everything up to and including `revision`."""
        while self._all and self._all[0].revision <= revision:
            self._drop()
        self.floor = max(self.floor, revision)

    def _drop(self) -> None:
        event = self._all.popleft()
        resource = _resource(event.entry.key)
        of = self._of[resource]
        of.popleft()
        if not of:
            del self._of[resource]
        self._size -= _size(event)
        self.floor = event.revision

    def after(self, prefix: str, revision: int) -> list[Event]:
        """Events under `prefix` newer than `revision`, oldest first. Raises TooOld."""
        if revision < self.floor:
            raise TooOld(revision, self.floor)
        of: Sequence[Event] = self._of.get(_resource(prefix), ())
        found = []
        end = prefix_end(prefix)
        for event in reversed(of):
            if event.revision <= revision:
                break
            if prefix <= event.entry.key < end:
                found.append(event)
        found.reverse()
        return found

    def undone(self, resource: str, at: int) -> dict[str, Entry | None]:
        """What each key changed after `at` was at that revision. Raises TooOld."""
        return {event.entry.key: event.prev for event in reversed(self.after(resource, at))}


def _size(event: Event) -> int:
    """Bytes of the value, once more for the line that watchers may share, and of what is around them."""
    return 2 * len(event.entry.value) + OVERHEAD


class Ages:
    """Which revision was the newest at which time."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._revisions: deque[int] = deque()

    def mark(self, time: float, revision: int) -> None:
        self._times.append(time)
        self._revisions.append(revision)

    def revision(self, time: float) -> int:
        """The newest revision that is known to be as old as `time`; 0 if none is."""
        place = bisect_right(self._times, time)
        return self._revisions[place - 1] if place else 0

    def forget(self, time: float) -> None:
        """Drop marks that no question about `time` or later needs."""
        while len(self._times) > 1 and self._times[1] <= time:
            self._times.popleft()
            self._revisions.popleft()
