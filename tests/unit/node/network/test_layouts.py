"""The structs of the maps: Python and the compiled programs see the same bytes at the same places."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from havre.node.bpf.maps import Layout
from havre.node.network import layouts

NETWORK = Path(layouts.__file__).parent
Member = tuple[str, int, int]  # name, offset and size in bytes


@cache
def types(name: str) -> dict[int, Any]:
    """The BTF of an object, by type number."""
    if shutil.which("bpftool") is None:
        pytest.skip("needs bpftool")
    shown = subprocess.check_output(["bpftool", "-j", "btf", "dump", "file", NETWORK / f"{name}.bpf.o"], timeout=10)
    return {one["id"]: one for one in json.loads(shown)["types"]}


def size(known: dict[int, Any], number: int) -> int:
    one = known[number]
    if one["kind"] == "ARRAY":
        return int(one["nr_elems"]) * size(known, one["type_id"])
    if one["kind"] in {"TYPEDEF", "CONST", "VOLATILE"}:
        return size(known, one["type_id"])
    return int(one["size"])


def struct_in_c(name: str) -> tuple[int, list[Member]]:
    """Its size and its members but padding."""
    for known in (types("services"), types("datapath")):
        for one in known.values():
            if one["kind"] == "STRUCT" and one["name"] == name:
                members = [(m["name"], m["bits_offset"] // 8, size(known, m["type_id"])) for m in one["members"]]
                return one["size"], [m for m in members if not m[0].startswith("pad")]
    raise LookupError(f"no object has struct {name}")


def struct_in_python(layout: Layout[Any]) -> tuple[int, list[Member]]:
    return layout.size, [*_members(layout)]


def _members(layout: Layout[Any]) -> Iterator[Member]:
    names, at = iter(layout.make._fields), 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        parts = [f"={count}{kind}"] if kind in "sx" else [f"={kind}"] * int(count or 1)
        for part in parts:
            if kind != "x":
                yield next(names), at, struct.calcsize(part)
            at += struct.calcsize(part)


STRUCTS = [
    layouts.POD_LAYOUT,
    layouts.FRONTEND_KEY,
    layouts.FRONTEND,
    layouts.SLOT_KEY,
    layouts.ENDPOINT,
    layouts.MEMBER_KEY,
    layouts.RANGE_KEY,
    layouts.DROPS,
]


@pytest.mark.parametrize("layout", STRUCTS, ids=lambda layout: layout.name)
def test_a_struct_is_the_same_in_c_and_in_python(layout: Layout[Any]) -> None:
    assert struct_in_python(layout) == struct_in_c(layout.name)


def test_the_reasons_of_drops_are_those_of_the_program() -> None:
    [names] = re.findall(r"^enum reason \{ (.*) \};", (NETWORK / "datapath.bpf.c").read_text(), re.MULTILINE)
    assert names.lower().split(", ") == [*layouts.REASONS, "reasons"]


def constants(*files: str) -> dict[str, int]:
    text = "".join((NETWORK / file).read_text() for file in files)
    return {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", text, re.MULTILINE)}


def test_constants_are_the_same_in_c_and_in_python() -> None:
    in_c = constants("maps.h", "datapath.bpf.c")
    names = ("HOST", "POD", "EXTERNAL", "RANGED", "POLICY", "DELIVER")
    assert {name: in_c[name] for name in names} == {name: getattr(layouts, name) for name in names}


def test_a_layout_packs_and_unpacks_what_it_shows() -> None:
    pod = layouts.Pod(7, 3, b"\x0a\x58\x0a\x2a\x00\x02")
    packed = layouts.POD_LAYOUT.pack(pod)
    assert len(packed) == 24
    assert layouts.POD_LAYOUT.unpack(packed) == pod
    assert [*layouts.POD_LAYOUT.unpack_all(bytes(layouts.POD_LAYOUT.pack_all([pod, pod])))] == [pod, pod]
