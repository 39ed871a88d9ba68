from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.meta import GVK, Obj
from havre.control.apiserver import printers, table
from havre.control.apiserver.builtin import resources
from havre.control.apiserver.cache import Entry
from havre.control.apiserver.resources import Resource
from havre.control.apiserver.table import Completed, Since, age

NOON = 1_800_000_000.0
CONFIG_MAP = {
    "kind": "ConfigMap",
    "apiVersion": "v1",
    "metadata": {"name": "x", "creationTimestamp": "2027-01-15T07:59:50Z"},  # ten seconds before NOON
    "data": {"a": "1"},
}


class _Cells:
    """A table that shows these cells of every object."""

    def __init__(self, cells: list[object]) -> None:
        self.columns: list[Obj] = []
        self._cells = cells
        self.calls = 0

    def cells(self, obj: Obj) -> list[object]:
        self.calls += 1
        return self._cells


def _resource(gvk: GVK, shown: _Cells | None = None) -> Resource:
    found = next(resource for resource in resources() if resource.gvk == gvk)
    if shown is not None:
        found.table = shown
    return found


def _entry(obj: Obj) -> Entry:
    return Entry("key", 7, 7, orjson.dumps(obj))


def _row(cells: list[object], include: str = "None", now: float = NOON) -> dict[str, Any]:
    resource = _resource(GVK("", "v1", "ConfigMap"), _Cells(cells))
    rendered = table.row(resource, _entry(CONFIG_MAP), None, include).render(now)
    found: dict[str, Any] = orjson.loads(rendered)
    return found


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (25500, "7h5m"),
        (28800, "8h"),
        (172799, "47h"),
        (172800, "2d"),
        (180000, "2d2h"),
        (691200, "8d"),
        (63071999, "729d"),
        (63072000, "2y"),
        (64022400, "2y11d"),
        (252288000, "8y"),
        (1e12, "292y"),
    ],
)
def test_an_age_is_told_in_at_most_two_units(seconds: float, shown: str) -> None:
    assert age(seconds).decode() == shown


def test_an_age_goes_on_while_the_row_is_kept() -> None:
    resource, entry = _resource(GVK("", "v1", "ConfigMap")), _entry(CONFIG_MAP)
    kept = table.row(resource, entry, None, "None")
    assert orjson.loads(kept.render(NOON))["cells"] == ["x", 1, "10s"]
    assert table.row(resource, entry, None, "None") is kept
    assert orjson.loads(kept.render(NOON + 290))["cells"] == ["x", 1, "5m"]


def test_a_row_of_another_table_is_made_anew() -> None:
    entry = _entry(CONFIG_MAP)
    first, second = _Cells(["one"]), _Cells(["two"])
    resource = _resource(GVK("", "v1", "ConfigMap"), first)
    table.row(resource, entry, None, "None")
    table.row(resource, entry, None, "None")
    resource.table = second
    assert orjson.loads(table.row(resource, entry, None, "None").render(NOON))["cells"] == ["two"]
    assert (first.calls, second.calls) == (1, 1)


def test_text_stands_around_an_age() -> None:
    cells = ["x", Since(NOON - 300, '3" (', " ago)"), Since(None), Since(None, "a", "b"), 5]
    assert _row(cells)["cells"] == ["x", '3" (5m ago)', "<unknown>", "a<unknown>b", 5]


def test_the_cells_of_completed_work_say_so() -> None:
    row = _row(Completed(["x", Since(NOON)], "Failed", "The pod failed."))
    assert row["cells"] == ["x", "0s"]
    assert row["conditions"] == [
        {"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}
    ]
    assert "conditions" not in _row(["x"])


def test_a_row_carries_what_was_asked_for() -> None:
    assert _row(["x"], "None")["object"] is None
    assert _row(["x"], "Object")["object"] == CONFIG_MAP
    assert _row(["x"], "Metadata")["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": CONFIG_MAP["metadata"],
    }


def test_an_autoscaler_of_the_old_version_shows_all_metrics() -> None:
    gvk = GVK("autoscaling", "v1", "HorizontalPodAutoscaler")
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    memory = {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}
    metrics = [{"type": "Resource", "resource": memory}, {"type": "Resource", "resource": cpu}]
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3, "metrics": metrics}
    stored = {"kind": gvk.kind, "apiVersion": "autoscaling/v2", "metadata": {"name": "x"}, "spec": spec}
    resource, entry = _resource(gvk), _entry(stored)
    assert resource.decode is not None  # stored as v2
    cells = orjson.loads(table.row(resource, entry, resource.decode(entry.decode()), "None").render(NOON))["cells"]
    assert cells[:3] == ["x", "Deployment/web", "memory: <unknown>/1Gi, cpu: <unknown>/50%"]


def test_a_document_has_columns_and_rows() -> None:
    resource = _resource(GVK("", "v1", "ConfigMap"))
    rows = [table.row(resource, _entry(CONFIG_MAP), None, "None").render(NOON)]
    found = orjson.loads(table.document(resource, rows, b'{"resourceVersion":"7"}', version="v1", columns=True))
    assert (found["kind"], found["apiVersion"], found["metadata"]) == (
        "Table",
        "meta.k8s.io/v1",
        {"resourceVersion": "7"},
    )
    assert found["columnDefinitions"] == printers.table_of(resource.gvk).columns
    assert found["rows"] == [{"cells": ["x", 1, "10s"], "object": None}]
    later = orjson.loads(table.document(resource, rows, b"{}", version="v1beta1", columns=False))
    assert (later["apiVersion"], later["columnDefinitions"]) == ("meta.k8s.io/v1beta1", None)


_CELLS = st.one_of(
    st.none(),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.builds(Since, st.none(), st.text(st.characters(exclude_categories=["Cs"])), st.just(" ago)")),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(_CELLS, max_size=5))
def test_no_text_in_a_cell_breaks_its_row(cells: list[object]) -> None:
    shown = [f"{c.prefix}<unknown>{c.suffix}" if isinstance(c, Since) else c for c in cells]
    parts, stamps = table._split(cells)
    assert orjson.loads(table.Row((*parts[:-1], parts[-1] + b"}"), tuple(stamps)).render(NOON))["cells"] == shown
