"""Small files that survive a crash whole: written aside, flushed, renamed; read with a limit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from havre.lang import json
from havre.node.runtime.errors import Failed

__all__ = ["read_json", "write", "write_json"]

LIMIT = 4 * 1024 * 1024  # bytes; a container's record holds its configuration, at most a gRPC message


def write(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path`; readers see the old or the new content. Not `durable`: perhaps the old after a power cut."""
    aside = path.with_name(f".{path.name}.new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(fd)
    aside.rename(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """`write` of compact JSON."""
    write(path, json.dumps(value), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None when there is no such file. Raises Failed when it is not one."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data) if len(data) <= LIMIT else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Failed(f"read {path}: not an object of JSON, or larger than {LIMIT} bytes")
    return value
