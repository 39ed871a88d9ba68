"""A packed chart: what of it goes into the record of a release. Pure.

Source: helm.sh/helm v4, pkg/chart/v2 (chart.go), pkg/chart/v2/loader; the fields are those that Helm's JSON has.
"""

from __future__ import annotations

import base64
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang import yaml
from havre.lang.yaml import YAMLError

UNPACKED_BYTES = 100 << 20  # Helm's own limit of a decompressed chart
FILE_BYTES = 5 << 20  # Helm's own limit of one file
FILES = 20_000
_LOOKUP = re.compile(rb"\{\{[^}]*\blookup\s")
_APART: Final = frozenset({"Chart.yaml", "values.yaml", "values.schema.json", "Chart.lock", "requirements.yaml"})


class ChartError(ValueError):
    """An archive that is no chart."""


def files(packed: bytes) -> dict[str, bytes]:
    """The files of a packed chart by their path in it, without its own directory. Raises ChartError."""
    try:
        return dict(_files(packed))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ChartError(f"read a packed chart: {error}") from error


def _files(packed: bytes) -> Iterator[tuple[str, bytes]]:
    total = 0
    # Helm writes an extra field into gzip's header that the tarfile module itself cannot read
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
        for count, entry in enumerate(archive):
            total += max(entry.size, 0)
            if count >= FILES or total > UNPACKED_BYTES or entry.size > FILE_BYTES:
                raise ChartError(f"read a packed chart: more than {FILES} files, or too large at {entry.name}")
            pieces = entry.name.removeprefix("./").split("/")
            if not entry.isfile() or len(pieces) < 2:
                continue
            if ".." in pieces:
                raise ChartError(f"read a packed chart: {entry.name!r} points outside of it")
            stream = archive.extractfile(entry)
            assert stream is not None
            yield "/".join(pieces[1:]), stream.read()


def looks_up(packed: bytes) -> bool:
    """A template of the chart or its subcharts calls the function `lookup`. Raises ChartError."""
    return any("templates/" in path and _LOOKUP.search(data) is not None for path, data in files(packed).items())


def repacked(packed: bytes) -> bytes:
    """The same chart with equal bytes for equal files: no times, no owners. Raises ChartError."""
    content = files(packed)
    name = _metadata(content).get("name", "chart")
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, out, mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w|") as archive:
        for path in sorted(content, key=lambda path: (path != "Chart.yaml", path)):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(content[path]), 0o644
            archive.addfile(entry, io.BytesIO(content[path]))
    return out.getvalue()


def _metadata(content: Mapping[str, bytes]) -> Obj:
    try:
        found = yaml.load(content.get("Chart.yaml", b""))
    except YAMLError as error:
        raise ChartError(f"cannot load Chart.yaml: {error}") from error
    if not isinstance(found, dict):
        raise ChartError("Chart.yaml file is missing")
    return found


def for_record(packed: bytes, metadata: Mapping[str, Any], values: Mapping[str, Any]) -> Obj:
    """The chart as a release's JSON has it: subcharts are left out, their output is in the manifest."""
    content = files(packed)
    lock = content.get("Chart.lock")
    return {
        "metadata": dict(metadata),
        "lock": yaml.load(lock) if lock else None,
        "templates": [_file(path, data) for path, data in content.items() if path.startswith("templates/")],
        "values": dict(values),
        "schema": _text(content["values.schema.json"]) if "values.schema.json" in content else None,
        "files": [_file(path, data) for path, data in content.items() if _extra(path)],
    }


def _extra(path: str) -> bool:
    return path not in _APART and not path.startswith(("templates/", "charts/"))


def _file(path: str, data: bytes) -> Obj:
    return {"name": path, "data": _text(data)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
