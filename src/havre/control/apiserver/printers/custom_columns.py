"""Tables of custom resources: the columns that a CustomResourceDefinition declares.

Source: k8s.io/apiextensions-apiserver, pkg/registry/customresource/tableconvertor (tableconvertor.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from havre.api.meta import Obj
from havre.control.apiserver.printers.columns import AGE, NAME, KindTable, column
from havre.control.apiserver.printers.reading import when
from havre.control.apiserver.table import Since
from havre.lang import jsonpath
from havre.lang.jsonpath import JSONPathError

_Cell = Callable[[Obj], object]

# Used when a definition declares no columns.
_DEFAULT = (
    {"name": "Age", "type": "date", "description": AGE["description"], "jsonPath": ".metadata.creationTimestamp"},
)

_NO_VALUE = "<no value>"  # how Go's templates print null

_is_rfc3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII).fullmatch
_printed = jsonpath.Template.parse("{@}").render


def table(declared: Sequence[Obj]) -> KindTable:
    """The table of `additionalPrinterColumns`; it ends before the first column whose path cannot be read."""
    columns, cells = [NAME], list[_Cell]()
    for said in declared or _DEFAULT:
        path, type_ = said.get("jsonPath", ""), said.get("type", "")
        try:
            find = jsonpath.compile(path)
        except JSONPathError:
            break
        columns.append(
            column(
                said.get("name", ""),
                type_,
                format_=said.get("format", ""),
                description=said.get("description")
                or f"Custom resource definition column (in JSONPath format): {path}",
                priority=said.get("priority", 0),
            )
        )
        cells.append(_cell(find, _CONVERSIONS.get(type_, _nothing)))

    def print_(obj: Obj) -> list[object]:
        return [obj["metadata"]["name"], *[cell(obj) for cell in cells]]

    return KindTable(columns, print_)


def _cell(find: Callable[[Any], list[Any]], convert: Callable[[Any], object]) -> _Cell:
    """The first value at the path; None where there is none, or not one that the path can walk."""

    def cell(obj: Obj) -> object:
        try:
            found = find(obj)
        except JSONPathError:
            return None
        return convert(found[0]) if found else None

    return cell


def _string(value: Any) -> object:
    if isinstance(value, str):
        return value
    return _NO_VALUE if value is None else _printed(value)


def _integer(value: Any) -> object:
    if isinstance(value, float):
        return int(value) if abs(value) < 2**63 else -(2**63)  # as amd64 converts what does not fit
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> object:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> object:
    return value if isinstance(value, bool) else None


def _date(value: Any) -> object:
    if not isinstance(value, str):
        return None
    if value in ("", "null"):
        return Since(None)
    return Since(when(value)) if _is_rfc3339(value) else "<invalid>"


def _nothing(_: Any) -> object:
    return None


_CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
}
