"""The program that unpacks layers: `python -m havre.node.runtime.unpack DIRECTORY PARENT`, a process of its own.

A layer is somebody else's data, decompressed and taken apart by code that may have bugs, with root's rights. So it
happens in a process that can be killed, that may write only below DIRECTORY (Landlock, where the kernel has it), whose
memory is limited, and that ends with its parent. A crash leaves files below DIRECTORY and nothing else. It also keeps
the work off the interpreter lock of the node's event loop. The start costs some 60 ms, a small part of any pull.

stdin: one JSON object per line, a `Job`; stdout: one per line, a `Done` or {"error": …, "bad": true if the layer is to
blame}. End of stdin ends the program.

Within a layer two threads work: one reads, decompresses and hashes (which the libraries do without the interpreter's
lock), the other makes files.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from havre.node.runtime.compression import CompressionError, Limits, decompressed
from havre.node.runtime.confinement import write_only_below
from havre.node.runtime.extract import Extractor, LayerError
from havre.node.runtime.tar import Source, TarError, entries

AHEAD: Final = 8  # chunks of 1 MiB decompressed but not yet written
MEMORY: Final = 2 << 30  # bytes of address space: 1 M entries at some 600 bytes, a zstd window, chunks, libraries
FILES: Final = 256  # descriptors: the extractor holds 64 directories

BAD: Final = (LayerError, TarError, CompressionError)


@dataclass(frozen=True, slots=True)
class Job:
    """One layer: where its blob is, what comes out, and where to put that: an empty directory."""

    blob: str
    diff_id: str  # sha256:… of the archive; "" accepts any
    target: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Done:
    """What came out."""

    diff_id: str
    size: int  # bytes of the archive
    files: int
    opaque: bool  # hides all layers below
    implicit: tuple[str, ...]  # directories the archive does not describe


def unpack(job: Job) -> Done:
    """Makes the files. Raises one of BAD for a bad layer; OSError, MemoryError for the machine."""
    with open(job.blob, "rb") as file:  # noqa: PTH123 - the name comes as text
        pipe = _Pipe(decompressed(file, os.fstat(file.fileno()).st_size, job.limits))
        extractor = Extractor(Path(job.target))
        try:
            source = Source(pipe.chunks())
            for entry in entries(source):
                extractor.add(entry, source)
            extractor.finish()
            source.drain()
        finally:
            pipe.stop()
            extractor.close()
    found = f"sha256:{pipe.digest.hexdigest()}"
    if job.diff_id and found != job.diff_id:
        raise LayerError(f"the unpacked layer is {found}, but the image says {job.diff_id}: it was changed on its way")
    implicit = tuple(os.fsdecode(path) for path in extractor.implicit)
    return Done(found, source.position, extractor.files, extractor.opaque, implicit)


class _Pipe:
    """Takes chunks in a thread and hashes them there; `chunks` gives them out in order."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._input = chunks
        self._ready: queue.Queue[bytes | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for chunk in self._input:
                if self._stopped:
                    return
                self.digest.update(chunk)
                self._ready.put(chunk)
        except (CompressionError, OSError, MemoryError) as e:
            self._ready.put(e)
        else:
            self._ready.put(None)

    def chunks(self) -> Iterator[bytes]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """Ends the thread, whatever it is at."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)


# the program


def main() -> None:
    _confine(Path(sys.argv[1]))
    if os.getppid() != int(sys.argv[2]):  # it died before we asked to be told
        return
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)  # noqa: T201 - the protocol


def _answer(request: dict[str, object]) -> dict[str, object]:
    limits = Limits(**request.pop("limits"))  # type: ignore[arg-type]
    try:
        return asdict(unpack(Job(**request, limits=limits)))  # type: ignore[arg-type]
    except BAD as e:
        return {"error": str(e), "bad": True}
    except (OSError, MemoryError) as e:
        return {"error": str(e) or type(e).__name__, "bad": False}


_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def _confine(directory: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    os.umask(0)
    write_only_below(directory)


if __name__ == "__main__":
    main()
