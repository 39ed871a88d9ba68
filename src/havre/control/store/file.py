"""The SQLite file of the store: lock, tables, connections, and the statements that read it.

    log(revision PK, key, op, created, prev, value)     one row a write; prev is the revision it supersedes, 0 if none
    meta(name PK, value)                                schema, instance, compacted

There is no index beside the primary key: the live state is in memory, and every read here goes along the revisions.
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from havre.control.store.errors import CannotOpen, Compacted, Corrupt, Incompatible, InUse, NotWritable, ReadFailed

SCHEMA = 1
APPLICATION = 0x48415652  # "HAVR", the application id in the SQLite header

PUT = 1
DELETE = 2

_BUSY = 10_000  # ms; only a foreign sqlite3 shell ever holds the write lock longer than one of our transactions

_TABLES = """
CREATE TABLE log(
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, op INTEGER NOT NULL,
    created INTEGER NOT NULL, prev INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE meta(name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """One write, as it stands in the log."""

    revision: int
    key: str
    op: int  # PUT or DELETE
    created: int  # revision at which this life of the key began
    prev: int  # revision that this one supersedes, 0 for the first of a life
    value: bytes  # of a DELETE: the object as it was deleted


class Change(NamedTuple):
    """A row and the row that it superseded."""

    row: Row
    before: Row | None


class Page(NamedTuple):
    """A stretch of the log: every change of the asked prefix up to and including revision `upto`."""

    changes: list[Change]
    upto: int


def prefix_end(prefix: str) -> str:
    """The first key behind those under `prefix`, which ends in "/", or is empty, or is one whole key."""
    return prefix + "\U0010ffff" if prefix.endswith("/") or not prefix else prefix + "\0"


class StoreFile:
    """An opened, locked, checked file; gives out connections. Raises CannotOpen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _take_lock(path)
        try:
            self.writer = self._prepare()
        except BaseException:
            os.close(self._lock)
            raise

    def _prepare(self) -> apsw.Connection:
        try:
            writer = self.connect()
            if not writer.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                _create(writer)
            self._check(writer)
            # After a crash the write-ahead log may be long; start with an empty one.
            writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.instance = str(_meta(writer, "instance"))  # changes when the store starts anew
            self.compacted = _compacted(writer)
            self.newest = _newest(writer)
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise self.damaged(error) from error
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            raise NotWritable(
                f"open store {self.path}: {error}; give this user write access to {self.path.parent} and its files"
            ) from error
        except apsw.Error as error:
            raise CannotOpen(f"open store {self.path}: {error}; free space and check the disk") from error
        return writer

    def _check(self, connection: apsw.Connection) -> None:
        if connection.pragma("application_id") != APPLICATION:
            raise Incompatible(f"open store {self.path}: not a Havre store; choose another --data-dir")
        schema = _meta(connection, "schema")
        if schema != SCHEMA:
            raise Incompatible(
                f"open store {self.path}: its schema is {schema}, this Havre reads {SCHEMA}; "
                "start the version that wrote it, or restore a backup"
            )

    def damaged(self, error: Exception) -> Corrupt:
        return Corrupt(
            f"open store {self.path}: {error}; the file is damaged or not SQLite: restore a backup, "
            "or move it away to start empty"
        )

    def connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(_BUSY)
        connection.pragma("auto_vacuum", "INCREMENTAL")  # takes effect before the first table only
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.wal_autocheckpoint(0)  # checkpoint.py does it
        return connection

    def reader(self) -> Reader:
        return Reader(self)

    def close(self) -> None:
        """Copy the write-ahead log back and let another process open the store; other connections must be closed."""
        self.writer.close()
        os.close(self._lock)


def _take_lock(path: Path) -> int:
    """A descriptor that holds `path`.lock; the kernel drops the lock when the process dies, however it dies."""
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        path.touch(mode=0o600)  # it will hold Secrets; SQLite gives its other files the same mode
    except OSError as error:
        raise NotWritable(
            f"open store {path}: {error}; give this user write access to {path.parent} or choose another --data-dir"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise InUse(f"open store {path}: in use by process {holder}; stop it or choose another --data-dir") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _create(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_TABLES)
    rows = [("schema", SCHEMA), ("instance", str(uuid.uuid4())), ("compacted", 0)]
    connection.executemany("INSERT INTO meta VALUES(?, ?)", rows)
    connection.pragma("application_id", APPLICATION)
    connection.execute("COMMIT")


def _meta(connection: apsw.Connection, name: str) -> Any:
    try:
        rows = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
    except apsw.SQLError:  # no such table
        rows = []
    return rows[0][0] if rows else "unknown"


def _compacted(connection: apsw.Connection) -> int:
    return int(_meta(connection, "compacted"))


def _newest(connection: apsw.Connection) -> int:
    """The newest revision ever committed: compaction may have deleted the row itself."""
    revision: Any = connection.execute("SELECT coalesce(max(revision), 0) FROM log").get
    return max(int(revision), _compacted(connection))


_COLUMNS = "revision, key, op, created, prev, value"
_LIVE = f"SELECT {_COLUMNS} FROM log WHERE revision <= ? ORDER BY revision DESC"  # noqa: S608
_SIZES = "SELECT revision, length(value) FROM log WHERE revision > ? ORDER BY revision DESC"
_AFTER = """
SELECT l.revision, l.key, l.op, l.created, l.prev, l.value, p.created, p.prev, p.value
FROM log AS l LEFT JOIN log AS p ON p.revision = l.prev
WHERE l.revision > ? AND l.revision <= ? AND l.key >= ? AND l.key < ? ORDER BY l.revision
"""


class Reader:
    """Reads, from any thread; each read sees one moment."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._connection = file.connect()
        self._lock = threading.Lock()  # one short read at a time on that connection

    def live(self, at: int) -> Iterator[Row]:
        """The rows that were live at revision `at`, newest first, in one pass. Raises Compacted, Corrupt.

        Backwards, every row is met after the row that supersedes it. The iterator has its own connection, as its
        consumer may take its time; while it is unfinished, the write-ahead log cannot be started again.
        """
        connection = self._file.connect()
        superseded: set[int] = set()
        try:
            with self._moment(connection):
                _ensure_kept(connection, at)
                for row in map(Row._make, connection.execute(_LIVE, (at,))):
                    if row.prev:
                        superseded.add(row.prev)
                    if row.revision in superseded:
                        superseded.discard(row.revision)
                    elif row.op == PUT:
                        yield row
        finally:
            connection.close()

    def after(self, revision: int, until: int, prefix: str, limit: int) -> Page:
        """Changes under `prefix` in (revision, until], oldest first, about `limit` bytes of values at most."""
        size = 0
        changes: list[Change] = []
        with self._lock, self._moment(self._connection):
            _ensure_kept(self._connection, revision)
            for found in self._connection.execute(_AFTER, (revision, until, prefix, prefix_end(prefix))):
                row = Row._make(found[:6])
                before = Row(row.prev, row.key, PUT, found[6], found[7], found[8]) if found[8] is not None else None
                changes.append(Change(row, before))
                size += len(row.value)
                if size >= limit:
                    return Page(changes, row.revision)
        return Page(changes, until)

    def horizon(self, limit: int) -> int:
        """The oldest revision such that all rows after it hold at most `limit` bytes of values."""
        size = 0
        with self._lock, self._moment(self._connection):
            oldest = _compacted(self._connection)
            for revision, length in self._connection.execute(_SIZES, (oldest,)):
                size += length
                if size > limit:
                    return int(revision)
        return oldest

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _moment(self, connection: apsw.Connection) -> Iterator[None]:
        """A read transaction, so that what is compacted and what is read belong together."""
        connection.execute("BEGIN")
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise self._file.damaged(error) from error
        except apsw.Error as error:
            raise ReadFailed(f"read {self._file.path}: {error}; check that disk") from error
        finally:
            connection.execute("ROLLBACK")


def _ensure_kept(connection: apsw.Connection, revision: int) -> None:
    oldest = _compacted(connection)
    if revision < oldest:
        raise Compacted(revision, oldest)
