"""Objects: a compiled `.bpf.o` becomes programs and maps in the kernel.

    with Object.load(code("havre.node.network", "services"), pins) as services:
        services.programs["connect4"]   # a descriptor
        services.maps["frontends"]      # a descriptor

Every map is pinned under its name. A map that is pinned already is used as it is, so that what an earlier run put into
it stays; one whose shape has changed since is replaced, and what it held is lost. Two objects that declare the same
map share it by its pin. Programs are always loaded anew: whoever attaches them replaces the old ones.

Objects carry BTF and use only fields of the kernel's stable headers, so one compiled object runs on every kernel.
Source: libbpf.h; kernel Documentation/bpf/libbpf/libbpf_overview.rst.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import TracebackType

from havre.node.bpf.call import BpfError, buffer_of
from havre.node.bpf.libbpf import library, listening, tail
from havre.node.bpf.maps import MapInfo, map_info
from havre.node.bpf.pins import Pins

log = logging.getLogger(__name__)


class LoadFailed(BpfError):
    """The kernel refused a program or a map; the message ends with the verifier's last lines."""


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled object: its name for messages, its bytes."""

    name: str
    elf: bytes


def code(package: str, name: str) -> Code:
    """The object `name`.bpf.o that is packaged beside the modules of `package`."""
    return Code(name, (files(package) / f"{name}.bpf.o").read_bytes())


def code_at(path: Path) -> Code:
    return Code(path.name.removesuffix(".bpf.o"), path.read_bytes())


@dataclass(slots=True)
class Object:
    """Programs and maps of a loaded object, as descriptors that it owns."""

    programs: dict[str, int] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, code: Code, pins: Pins | None = None) -> Object:
        """Blocks for 10–50 ms: the verifier. Raises LoadFailed, LibbpfMissing."""
        lib = library()
        with listening() as said:
            elf = buffer_of(code.elf)
            opened = lib.bpf_object__open_mem(elf, len(code.elf), None)
            if not opened:
                raise LoadFailed(errno.ENOEXEC, f"open {code.name}.bpf.o", tail(said))
            try:
                return cls._loaded(opened, code, pins, said)
            finally:
                lib.bpf_object__close(opened)

    @classmethod
    def _loaded(cls, opened: int, code: Code, pins: Pins | None, said: list[str]) -> Object:
        lib = library()
        shared = [m for m in _each("map", opened) if not lib.bpf_map__is_internal(m)] if pins else []
        fresh = [m for m in shared if pins and not _reuse(m, pins)]
        result = lib.bpf_object__load(opened)
        if result:
            raise LoadFailed(-result, f"load {code.name}.bpf.o", "the verifier says:\n" + tail(said))
        for each in fresh:
            if pins:
                pins.pin(_name("map", each), lib.bpf_map__fd(each))
        return cls(
            {_name("program", p): os.dup(lib.bpf_program__fd(p)) for p in _each("program", opened)},
            {_name("map", m): os.dup(lib.bpf_map__fd(m)) for m in _each("map", opened)},
        )

    def close(self) -> None:
        """Let go; what is attached or pinned lives on."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs.clear()
        self.maps.clear()

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _each(what: str, opened: int) -> list[int]:
    following = getattr(library(), f"bpf_object__next_{what}")
    found, one = [], following(opened, None)
    while one:
        found.append(one)
        one = following(opened, one)
    return found


def _name(what: str, one: int) -> str:
    name: bytes = getattr(library(), f"bpf_{what}__name")(one)
    return name.decode()


def _reuse(declared: int, pins: Pins) -> bool:
    """Let a declared map stand for the pinned one of its name; False if there is none of its shape."""
    lib, name = library(), _name("map", declared)
    fd = pins.get(name)
    if fd is None:
        return False
    try:
        if not _same(map_info(fd), declared):
            log.warning("a map has a new shape; what it held is lost", extra={"map": name, "pins": str(pins.folder)})
            pins.drop(name)
            return False
        result = lib.bpf_map__reuse_fd(declared, fd)
        if result:
            raise BpfError(-result, f"take over the pinned map {pins.folder / name}")
        return True
    finally:
        os.close(fd)


def _same(pinned: MapInfo, declared: int) -> bool:
    lib = library()
    return (pinned.type, pinned.key_size, pinned.value_size, pinned.max_entries, pinned.flags) == (
        lib.bpf_map__type(declared),
        lib.bpf_map__key_size(declared),
        lib.bpf_map__value_size(declared),
        lib.bpf_map__max_entries(declared),
        lib.bpf_map__map_flags(declared),
    )
