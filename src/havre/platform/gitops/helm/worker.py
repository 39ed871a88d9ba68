"""The renderer: Helm's own library in a process that may be killed at any moment.

    python -m havre.platform.gitops.helm.worker LIBRARY     (LIBRARY: libhelm_c.so)

Frames go both ways over standard input and output: `<u32 length of JSON><u32 length of bytes><JSON><bytes>`. A question
names what it wants, an answer is a result or `{"code", "error"}`. A chart is loaded anew for every question: a handle
remembers a subchart that was disabled once. The Go runtime cannot be forked after its first use and ends the process
when memory ends, hence exec and limits; templates cannot reach the network, for the process has none where the kernel
lets us take it away.

Source: github.com/shivamkumar99/helm-c-sdk, include/helm_c.h (v0.2.2, Helm v4.2.3).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

FRAME: Final = struct.Struct(">II")
DATA_BYTES = 768 << 20  # writable memory: kube-prometheus-stack needs 114 MB, the Go runtime maps what it uses
SPACE_BYTES = 4 << 30  # address space: Go reserves 1.7 GB before it does anything
CPU_SECONDS = 60  # of one question; the largest chart known takes 0.3 s
FILE_BYTES = 64 << 20  # of one file that a chart is packed into
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
_HANDLE = ctypes.c_uint64
_OUT = ctypes.POINTER(ctypes.c_void_p)
_STRING = ctypes.c_char_p


class HelmError(Exception):
    """What Helm says is wrong."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Library:
    """The functions of the shared library that we use; every call copies and frees what the library returns."""

    def __init__(self, path: str) -> None:
        self._lib = ctypes.CDLL(path)
        bytes_in = [ctypes.c_char_p, ctypes.c_uint64]
        self._load = self._declare("helm_chart_load_archive", [*bytes_in, ctypes.POINTER(_HANDLE), _OUT])
        self._load_path = self._declare("helm_chart_load", [_STRING, ctypes.POINTER(_HANDLE), _OUT])
        self._free = self._declare("helm_chart_free", [_HANDLE, _OUT])
        self._save = self._declare("helm_chart_save", [_HANDLE, _STRING, _OUT, _OUT])
        self._render = self._declare("helm_render", [_HANDLE, _STRING, _STRING, _OUT, _OUT])
        self._facts = {
            name: self._declare(f"helm_chart_{name}", [_HANDLE, _OUT, _OUT])
            for name in ("metadata", "values", "crds", "dependencies")
        }
        self._lib.helm_free_string.argtypes = [ctypes.c_void_p]
        self._lib.helm_free_string.restype = None

    def _declare(self, name: str, argtypes: list[Any]) -> Callable[..., int]:
        function = getattr(self._lib, name)
        function.restype, function.argtypes = ctypes.c_int32, argtypes
        declared: Callable[..., int] = function
        return declared

    def _take(self, pointer: ctypes.c_void_p) -> str:
        if not pointer.value:
            return ""
        try:
            return ctypes.string_at(pointer.value).decode("utf-8", "replace")
        finally:
            self._lib.helm_free_string(pointer)

    def _string(self, function: Callable[..., int], *args: object) -> str:
        out, error = ctypes.c_void_p(), ctypes.c_void_p()
        code = function(*args, ctypes.byref(out), ctypes.byref(error))
        why, text = self._take(error), self._take(out)
        if code:
            raise HelmError(code, why)
        return text

    def load(self, chart: bytes) -> int:
        """A handle of a packed chart."""
        return self._loaded(self._load, chart, len(chart))

    def load_path(self, path: str) -> int:
        """A handle of the chart in a directory or file."""
        return self._loaded(self._load_path, path.encode())

    def _loaded(self, function: Callable[..., int], *args: object) -> int:
        handle, error = _HANDLE(), ctypes.c_void_p()
        code = function(*args, ctypes.byref(handle), ctypes.byref(error))
        why = self._take(error)
        if code:
            raise HelmError(code, why)
        return handle.value

    def free(self, handle: int) -> None:
        self._free(handle, ctypes.byref(ctypes.c_void_p()))

    def fact(self, name: str, handle: int) -> Any:
        return json.loads(self._string(self._facts[name], handle))

    def save(self, handle: int, directory: str) -> str:
        return self._string(self._save, handle, directory.encode())

    def render(self, handle: int, values: object, options: object) -> dict[str, str]:
        """Path in the chart → text, NOTES.txt and partials included."""
        rendered: dict[str, str] = json.loads(
            self._string(self._render, handle, json.dumps(values).encode(), json.dumps(options).encode())
        )
        return rendered


def render(library: Library, question: dict[str, Any], chart: bytes) -> tuple[dict[str, Any], bytes]:
    """Everything a release is made of, of one packed chart."""
    handle = library.load(chart)
    try:
        facts = {name: library.fact(name, handle) for name in ("metadata", "values", "crds")}  # rendering changes them
        return {**facts, "files": library.render(handle, question["values"], question["options"])}, b""
    finally:
        library.free(handle)


def describe(library: Library, question: dict[str, Any], chart: bytes) -> tuple[dict[str, Any], bytes]:
    """Chart.yaml of a chart, as Helm reads it, and the names of the subcharts that it has."""
    handle = library.load(chart) if chart else library.load_path(question["path"])
    try:
        metadata = library.fact("metadata", handle)
        return {"metadata": metadata, "dependencies": library.fact("dependencies", handle)}, b""
    finally:
        library.free(handle)


def pack(library: Library, question: dict[str, Any], _chart: bytes) -> tuple[dict[str, Any], bytes]:
    """The packed chart of a directory, `.helmignore` obeyed; times in it are those of now."""
    handle = library.load_path(question["path"])
    try:
        metadata = library.fact("metadata", handle)
        names = [each["name"] for each in library.fact("dependencies", handle)]
        with tempfile.TemporaryDirectory() as directory:
            packed = Path(library.save(handle, directory)).read_bytes()
    finally:
        library.free(handle)
    return {"metadata": metadata, "dependencies": names}, packed


OPERATIONS: Final = {"render": render, "describe": describe, "pack": pack}


def confine() -> None:
    """Give up what a template must not have. What the kernel refuses stays: the limits do not depend on it."""
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (SPACE_BYTES, SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return


def allow_seconds(seconds: int) -> None:
    """From now on so much processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds, hard))


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    size, extra = FRAME.unpack(head)
    return json.loads(stream.read(size)), stream.read(extra)


def write(stream: BinaryIO, answer: dict[str, Any], extra: bytes = b"") -> None:
    body = json.dumps(answer).encode()
    stream.write(FRAME.pack(len(body), len(extra)) + body + extra)
    stream.flush()


def serve(library: Library, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the other side closes."""
    while (frame := read(questions)) is not None:
        question, extra = frame
        allow_seconds(CPU_SECONDS)
        try:
            write(answers, *OPERATIONS[question["op"]](library, question, extra))
        except HelmError as error:
            write(answers, {"code": error.code, "error": str(error)})
        except OSError as error:
            write(answers, {"code": 0, "error": str(error)})


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")  # what the library prints goes to standard error
    os.dup2(2, 1)
    confine()
    library = Library(sys.argv[1])
    write(answers, {"ready": True})
    serve(library, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
