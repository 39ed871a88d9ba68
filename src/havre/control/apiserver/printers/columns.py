"""The columns of the built-in kinds, and a table as the joint of columns and cells.

`columns.json` lists them by `group/Kind` as kube-apiserver 1.34 announces them; a text stands for one of the columns
that nearly every kind shares. It is data: type "string", format "" and priority 0 (shown without `-o wide`) are left
out.

Source: the answers of kube-apiserver to `Accept: application/json;as=Table;v=v1;g=meta.k8s.io`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from havre.api.meta import Obj

Cells = Callable[[Obj], list[object]]

# What reading a field of the wrong type raises; stored objects are checked, so this is for those put there otherwise.
_MALFORMED = (AttributeError, TypeError, KeyError, IndexError, ValueError, OverflowError)

_DATA: dict[str, Any] = orjson.loads(Path(__file__).with_name("columns.json").read_bytes())


@dataclass(frozen=True, slots=True, eq=False)
class KindTable:
    """What `kubectl get` shows of one kind. Two tables are the same only if they are one object."""

    columns: list[Obj]
    print: Cells

    def cells(self, obj: Obj) -> list[object]:
        """At least one cell per column. An object that does not fit its kind shows its name and nothing else."""
        try:
            return self.print(obj)
        except _MALFORMED:
            return [_name(obj) if column["name"] == "Name" else None for column in self.columns]


def _name(obj: Obj) -> str | None:
    meta = obj.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else None


def column(name: str, type_: str = "string", *, format_: str = "", description: str = "", priority: int = 0) -> Obj:
    return {"name": name, "type": type_, "format": format_, "description": description, "priority": priority}


def _declared(row: str | Obj) -> Obj:
    said: Obj = _DATA["shared"][row] if isinstance(row, str) else row
    return column(
        said["name"],
        said.get("type", "string"),
        format_=said.get("format", ""),
        description=said.get("description", ""),
        priority=said.get("priority", 0),
    )


def columns_of(kind: str) -> list[Obj]:
    """The columns of `group/Kind`; one without its own shows name and creation time."""
    return [_declared(row) for row in _DATA["kinds"].get(kind, ("Name", "Created At"))]


NAME, AGE = _declared("Name"), _declared("Age")
