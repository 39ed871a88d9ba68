"""libbpf.so.1 by ctypes: only what opening, loading and the older tc attachment need.

The library is loaded when it is first used, so that importing this costs nothing where eBPF is never used.
Source: bpf/libbpf.h of libbpf 1.1 (Debian 12).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

LIBRARY: Final = "libbpf.so.1"
LINE = 64 << 10  # bytes: the verifier's whole log may come as one message; its end is what matters
KEPT = 20  # lines of that end which go into the error

_pointer, _text, _int = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_size, _u32 = ctypes.c_size_t, ctypes.c_uint32

_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "bpf_object__open_mem": (_pointer, (_pointer, _size, _pointer)),
    "bpf_object__load": (_int, (_pointer,)),
    "bpf_object__close": (None, (_pointer,)),
    "bpf_object__next_program": (_pointer, (_pointer, _pointer)),
    "bpf_object__next_map": (_pointer, (_pointer, _pointer)),
    "bpf_program__name": (_text, (_pointer,)),
    "bpf_program__fd": (_int, (_pointer,)),
    "bpf_map__name": (_text, (_pointer,)),
    "bpf_map__fd": (_int, (_pointer,)),
    "bpf_map__type": (_u32, (_pointer,)),
    "bpf_map__key_size": (_u32, (_pointer,)),
    "bpf_map__value_size": (_u32, (_pointer,)),
    "bpf_map__max_entries": (_u32, (_pointer,)),
    "bpf_map__map_flags": (_u32, (_pointer,)),
    "bpf_map__is_internal": (ctypes.c_bool, (_pointer,)),
    "bpf_map__reuse_fd": (_int, (_pointer, _int)),
    "bpf_tc_hook_create": (_int, (_pointer,)),
    "bpf_tc_attach": (_int, (_pointer, _pointer)),
    "bpf_tc_detach": (_int, (_pointer, _pointer)),
    "libbpf_find_vmlinux_btf_id": (_int, (_text, _int)),
}

_PRINT = ctypes.CFUNCTYPE(_int, _int, _pointer, _pointer)
_DEBUG = 2  # LIBBPF_DEBUG; warnings are 0, information 1
_libc = ctypes.CDLL(None, use_errno=True)
_said: list[str] = []
_speaking = threading.Lock()


class LibbpfMissing(ImportError):
    """There is no libbpf on this machine."""


@cache
def library() -> Any:
    """libbpf, with the signatures of what we call. HAVRE_LIBBPF names another file than the system's."""
    name = os.environ.get("HAVRE_LIBBPF", LIBRARY)
    try:
        loaded = ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        raise LibbpfMissing(f"load {name}: {error}; install Debian's package libbpf1 (apt install libbpf1)") from error
    for function, (result, arguments) in _SIGNATURES.items():
        entry = getattr(loaded, function)
        entry.restype, entry.argtypes = result, arguments
    loaded.libbpf_set_print.argtypes = (_PRINT,)
    loaded.libbpf_set_print.restype = _pointer
    loaded.libbpf_set_print(_PRINTER)
    return loaded


def _print(level: int, form: int, arguments: int) -> int:
    if level < _DEBUG:
        line = ctypes.create_string_buffer(LINE)
        _libc.vsnprintf(line, ctypes.c_size_t(LINE), ctypes.c_void_p(form), ctypes.c_void_p(arguments))
        _said.append(line.value.decode(errors="replace"))
    return 0


_PRINTER = _PRINT(_print)  # libbpf keeps it, so it must live as long as the process


@contextmanager
def listening() -> Iterator[list[str]]:
    """What libbpf says until the end of the block; one block at a time in the process."""
    with _speaking:
        _said.clear()
        yield _said


def tail(said: list[str]) -> str:
    """The last lines of what libbpf said: there the verifier says why."""
    lines = [line for line in "".join(said).splitlines() if line.strip() and "-- END" not in line]
    return "\n".join(lines[-KEPT:])


class TcHook(ctypes.Structure):
    """struct bpf_tc_hook: an interface and a direction (1 ingress, 2 egress)."""

    _fields_ = (("sz", _size), ("ifindex", _int), ("attach_point", _int), ("parent", _u32), ("_pad", _u32))


class TcOptions(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", _size),
        ("prog_fd", _int),
        ("flags", _u32),
        ("prog_id", _u32),
        ("handle", _u32),
        ("priority", _u32),
        ("_pad", _u32),
    )
