"""The tables of kube-apiserver 1.34.4, recorded with the objects that they show, are the referee."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.kinds import KINDS, by_gvk
from havre.api.meta import GVK, Obj
from havre.control.apiserver import printers
from havre.control.apiserver.printers.columns import KindTable
from havre.control.apiserver.table import Completed, Since, age

_FOLDER = Path(__file__).parents[4] / "data" / "printers"


@lru_cache
def _recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads((_FOLDER / f"{name}.json").read_bytes())
    return found


def _shown(cells: list[object], now: float) -> list[object]:
    """The cells as a client sees them at that moment."""

    def one(cell: object) -> object:
        if not isinstance(cell, Since):
            return cell
        ago = "<unknown>" if cell.at is None else age(now - cell.at).decode()
        return f"{cell.prefix}{ago}{cell.suffix}"

    return [one(cell) for cell in cells]


def _conditions(cells: list[object]) -> list[Obj]:
    if not isinstance(cells, Completed):
        return []
    return [{"type": "Completed", "status": "True", "reason": cells.reason, "message": cells.message}]


def _kinds() -> list[GVK]:
    return sorted({GVK(*record["gvk"]) for record in _recorded("builtin")})


def _objects(gvk: GVK) -> list[Obj]:
    return [row["object"] for record in _recorded("builtin") if GVK(*record["gvk"]) == gvk for row in record["rows"]]


def _stored(gvk: GVK, obj: Obj) -> Obj:
    """The same object in the version in which it is stored, which was recorded too."""
    kind = by_gvk(gvk)
    if kind is None or kind.stored_as == gvk:
        return obj
    return next(o for o in _objects(kind.stored_as) if o["metadata"]["name"] == obj["metadata"]["name"])


@pytest.mark.parametrize("gvk", _kinds(), ids="/".join)
def test_a_builtin_kind_is_printed_as_kube_apiserver_prints_it(gvk: GVK) -> None:
    table = printers.table_of(gvk)
    for record in _recorded("builtin"):
        if GVK(*record["gvk"]) != gvk:
            continue
        assert table.columns == record["columns"]
        for row in record["rows"]:
            cells = table.print(_stored(gvk, row["object"]))
            assert _shown(cells, record["now"]) == row["cells"]
            assert _conditions(cells) == row.get("conditions", [])


def test_every_stored_kind_is_recorded() -> None:
    assert {kind.gvk for kind in KINDS if kind.stored} <= set(_kinds())
    assert all(_objects(gvk) for gvk in _kinds())


@pytest.mark.parametrize("index", [0, 1])
def test_a_custom_kind_is_printed_as_kube_apiserver_prints_it(index: int) -> None:
    record = _recorded("custom")[index]
    table = printers.custom(tuple(record["declared"]))
    assert table.columns == record["columns"]
    for row in record["rows"]:
        assert _shown(table.print(row["object"]), record["now"]) == row["cells"]


def test_columns_after_one_that_cannot_be_read_are_left_out() -> None:
    declared = [{"name": "A", "type": "string", "jsonPath": ".a"}, {"name": "B", "type": "string", "jsonPath": ".b["}]
    table = printers.custom([*declared, {"name": "C", "type": "string", "jsonPath": ".c"}])
    assert [column["name"] for column in table.columns] == ["Name", "A"]
    assert table.cells({"metadata": {"name": "x"}, "a": "1", "c": "3"}) == ["x", "1"]


def test_an_unknown_kind_shows_when_it_was_made() -> None:
    table = printers.table_of(GVK("example.com", "v1", "Thing"))
    assert [column["name"] for column in table.columns] == ["Name", "Created At"]
    assert table.cells({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}}) == [
        "x",
        "2026-01-01T00:00:00Z",
    ]


def test_a_malformed_object_shows_its_name_only() -> None:
    table = printers.table_of(GVK("", "v1", "Pod"))
    assert table.cells({"metadata": {"name": "x"}, "spec": {"containers": 5}}) == ["x", *[None] * 8]
    assert table.cells({}) == [None] * 9


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=3))
_JUNK = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=2), st.dictionaries(st.text(max_size=2), _SCALARS, max_size=2))


def _places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in items for place in ((*at, key), *_places(child, (*at, key)))]


def _mutated(obj: Obj, data: st.DataObject) -> Obj:
    """A few of its fields dropped or given another type."""
    copy: Obj = orjson.loads(orjson.dumps(obj))
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(copy)
        if not places:
            break
        *parents, last = data.draw(st.sampled_from(places))
        holder: Any = copy
        for key in parents:
            holder = holder[key]
        if data.draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = data.draw(_JUNK)
    return copy


def _fits(table: KindTable, obj: Obj) -> None:
    cells = table.cells(obj)
    assert len(cells) >= len(table.columns)
    for cell in cells:
        if isinstance(cell, Since):
            assert cell.at is None or isinstance(cell.at, float)
            cell = cell.prefix + cell.suffix  # noqa: PLW2901
        orjson.dumps(cell)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_stored_object_stops_a_table(data: st.DataObject) -> None:
    gvk = data.draw(st.sampled_from(_kinds()))
    _fits(printers.table_of(gvk), _mutated(data.draw(st.sampled_from(_objects(gvk))), data))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_custom_object_stops_a_table(data: st.DataObject) -> None:
    record = _recorded("custom")[0]
    obj = data.draw(st.sampled_from(record["rows"]))["object"]
    _fits(_wide(), _mutated(obj, data))


@lru_cache
def _wide() -> KindTable:
    return printers.custom(tuple(_recorded("custom")[0]["declared"]))
