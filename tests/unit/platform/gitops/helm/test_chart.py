"""Packed charts."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.platform.gitops.helm import chart
from havre.platform.gitops.helm.chart import ChartError

FILES = {
    "Chart.yaml": b"name: shop\nversion: 1.0.0\n",
    "Chart.lock": b"digest: x\n",
    "values.yaml": b"a: 1\n",
    "templates/a.yaml": b"kind: Secret\n",
    "charts/sub/Chart.yaml": b"name: sub\n",
    "README.md": b"\xff",
}


def pack(files: dict[str, bytes], *, time: int = 0, folder: str = "shop/") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(folder + name)
            entry.size, entry.mtime = len(data), time
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_equal_files_are_equal_bytes_whenever_they_were_packed() -> None:
    first, second = (chart.repacked(pack(FILES, time=time)) for time in (1, 2))
    assert first == second
    assert chart.files(first) == FILES


def test_the_record_has_templates_and_files_but_no_subcharts() -> None:
    record = chart.for_record(pack(FILES), {"name": "shop"}, {"a": 1})
    assert record == {
        "metadata": {"name": "shop"},
        "lock": {"digest": "x"},
        "templates": [{"name": "templates/a.yaml", "data": base64.b64encode(b"kind: Secret\n").decode()}],
        "values": {"a": 1},
        "schema": None,
        "files": [{"name": "README.md", "data": "/w=="}],
    }


@pytest.mark.parametrize("name", ["../../etc/passwd", "templates/../../x"])
def test_a_path_that_leaves_the_chart_is_refused(name: str) -> None:
    with pytest.raises(ChartError, match="points outside"):
        chart.files(pack({name: b""}))


def test_a_chart_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "UNPACKED_BYTES", 10)
    with pytest.raises(ChartError, match="too large"):
        chart.files(pack(FILES))


def test_links_are_left_out() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("shop/a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert chart.files(out.getvalue()) == {}


def test_a_template_that_calls_lookup_is_noticed_also_in_a_subchart() -> None:
    call = b'{{- $old := (lookup "v1" "Secret" .Release.Namespace "a") }}'
    assert chart.looks_up(pack({**FILES, "charts/sub/templates/a.yaml": call}))
    assert not chart.looks_up(pack({**FILES, "templates/b.yaml": b"a: lookup x", "README.md": call}))


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for packed in (data, gzip.compress(data)):
        with suppress(ChartError):
            chart.files(packed)
