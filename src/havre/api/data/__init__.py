"""The generated tables, and how they are read; nothing here is written by hand but this file.

`make generate` writes them from the Go modules of the Kubernetes release that Havre follows; each table says so in its
field `generated`. Why and how: docs/adr/0007-generated-tables.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import zstandard

_FOLDER: Final = Path(__file__).parent


def read(name: str) -> bytes:
    """The content of `<name>.zst`, unpacked."""
    return zstandard.decompress((_FOLDER / f"{name}.zst").read_bytes())


def table(name: str) -> dict[str, Any]:
    """The JSON table `<name>.json.zst`."""
    loaded: dict[str, Any] = orjson.loads(read(f"{name}.json"))
    return loaded


def piece(name: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on of the file `name`, which is kept as it is."""
    with (_FOLDER / name).open("rb") as file:
        file.seek(offset)
        return file.read(length)
