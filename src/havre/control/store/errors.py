"""How the store fails.

StoreError
├── CannotOpen            the store did not start
│   ├── InUse                 another process holds it
│   ├── Incompatible          written by another version, or not a store at all
│   ├── Corrupt               the file is damaged
│   └── NotWritable           directory or file cannot be written
├── ReadFailed            the disk did not give back what was written
├── WriteFailed           this write is not in the store; later ones may succeed
├── Overloaded            too many bytes wait for the disk; this write was not queued
├── Compacted             the revision asked for is no longer kept
└── Closed                the store was closed
"""

from __future__ import annotations


class StoreError(Exception):
    """Anything the store raises."""


class CannotOpen(StoreError):
    """The store did not start."""


class InUse(CannotOpen):
    """Another process has the store open."""


class Incompatible(CannotOpen):
    """The file was written by another version of Havre, or by something else."""


class Corrupt(CannotOpen):
    """The file is damaged."""


class NotWritable(CannotOpen):
    """The directory or the file cannot be written."""


class ReadFailed(StoreError):
    """The disk did not give back what was written."""


class WriteFailed(StoreError):
    """The write is not in the store, not even in part."""


class Overloaded(StoreError):
    """Too many bytes wait for the disk; the write was not queued."""


class Compacted(StoreError):
    """The revision asked for is older than what is kept; `compacted` is the oldest one that can be asked for."""

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(
            f"read revision {revision}: compacted, the oldest kept is {compacted}; list again and start from there"
        )
        self.revision = revision
        self.compacted = compacted


class Closed(StoreError):
    """The store was closed."""
