"""Asks the renderer, which lives in a process of its own and may die there.

    engine = Engine(directory)
    rendered = await engine.render(chart, values, Target("web", "shop", revision=2, upgrade=True), capabilities)

One worker is kept warm between questions: to start one costs 0.2 s and 70 MB, to ask it 3 ms. It answers one question
at a time, is replaced after a number of them, after being idle, after a question that it did not answer in time, and
whenever it dies. A chart that kills it is reported as that chart's error, to whoever asked with it.

Source: ADR 5.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from havre.platform.gitops.helm.worker import FRAME

TIMEOUT = 30.0  # seconds of one question; the slowest chart known takes 0.4
STARTING = 20.0  # seconds until a worker is ready, on a machine that is busy
QUESTIONS = 200  # of one worker: then its memory is given back
IDLE = 60.0  # seconds without a question after which the worker goes
ANSWER_BYTES = 96 << 20  # the largest chart known renders to 1 MB
STDERR_BYTES = 4096  # of the last words of a dying worker
LIBRARY_VARIABLE: Final = "HAVRE_HELM_LIBRARY"
_NAMES = ("libhelm_c.so.0.2.2", "libhelm_c.so.0", "libhelm_c.so")


class EngineError(Exception):
    """A chart cannot be loaded, its values do not fit, or its templates do not render; the message is Helm's."""


class EngineMissing(Exception):
    """Helm's library is not installed."""


class EngineDied(EngineError):
    """The worker ended or was stopped while it worked on this chart."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What templates see as `.Capabilities`: of the cluster, not of Helm's build."""

    kube_version: str = "v1.34.0"
    api_versions: tuple[str, ...] = ()  # "apps/v1", "apps/v1/Deployment"


@dataclass(frozen=True, slots=True)
class Target:
    """What templates see as `.Release`."""

    name: str
    namespace: str
    revision: int = 1
    upgrade: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a chart comes to."""

    metadata: Mapping[str, Any]  # Chart.yaml
    values: Mapping[str, Any]  # values.yaml
    crds: tuple[str, ...]  # texts of the files in crds/, subcharts included
    files: Mapping[str, str]  # path → rendered text; empty ones, partials and NOTES.txt included


@dataclass(frozen=True, slots=True)
class Packed:
    """A chart in one file."""

    metadata: Mapping[str, Any]
    dependencies: tuple[str, ...]  # names of the subcharts that are in it
    data: bytes


def library() -> Path:
    """Where Helm's library is: named by the environment, or in the package helm_python. Raises EngineMissing."""
    named = os.environ.get(LIBRARY_VARIABLE, "")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("helm_python")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for name in _NAMES:
            if (found := Path(place) / "lib" / name).is_file():
                return found
    raise EngineMissing(
        "render a chart: Helm's library is not installed; "
        f"install the package helm-python-sdk, or name the file in {LIBRARY_VARIABLE}"
    )


class _Worker:
    """One process."""

    def __init__(self, process: Process, words: _Tail) -> None:
        self.process = process
        self.asked = 0
        self._words = words

    @classmethod
    async def start(cls, directory: Path) -> _Worker:
        path = library()
        words = _Tail(directory)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "havre.platform.gitops.helm.worker",
            str(path),
            stdin=PIPE,
            stdout=PIPE,
            stderr=words.file,
            cwd=directory,
            env=_environment(directory),
            limit=1 << 20,
            start_new_session=True,
        )
        worker = cls(process, words)
        try:
            await asyncio.wait_for(worker._read(), STARTING)
        except (TimeoutError, EngineDied) as error:
            last = words.text()
            await worker.stop()
            raise EngineMissing(f"start the renderer with {path}: {last or error or 'no sign of life'}") from error
        return worker

    async def ask(self, question: Mapping[str, Any], extra: bytes) -> tuple[dict[str, Any], bytes]:
        """Raises EngineDied."""
        self.asked += 1
        body = orjson.dumps(question)
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(FRAME.pack(len(body), len(extra)) + body + extra)
            await stdin.drain()
        except (ConnectionError, BrokenPipeError):
            await self._explain()
        return await self._read()

    async def _read(self) -> tuple[dict[str, Any], bytes]:
        stdout = self.process.stdout
        assert stdout is not None
        try:
            size, extra = FRAME.unpack(await stdout.readexactly(FRAME.size))
            if size + extra > ANSWER_BYTES:
                raise EngineDied(f"the chart renders to more than {ANSWER_BYTES} bytes")
            answer: dict[str, Any] = orjson.loads(await stdout.readexactly(size))
            return answer, await stdout.readexactly(extra)
        except asyncio.IncompleteReadError:
            await self._explain()
            raise

    async def _explain(self) -> None:
        code = await self.process.wait()
        raise EngineDied(_last_words(code, self._words.text()))

    async def stop(self) -> None:
        """Idempotent."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._words.close()


class _Tail:
    """Where a worker's standard error goes: a file without a name."""

    def __init__(self, directory: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by close()

    def text(self) -> str:
        self.file.seek(0)
        return self.file.read(STDERR_BYTES).decode("utf-8", "replace").strip()

    def close(self) -> None:
        self.file.close()


def _environment(directory: Path) -> dict[str, str]:
    """Nothing of ours, so that no template and no library finds a secret, a proxy or a kubeconfig."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GOMAXPROCS": "2",
        "GOMEMLIMIT": "512MiB",  # below the limit of the kernel: the collector works harder before memory ends
        "GOTRACEBACK": "none",
    }


def _last_words(code: int, words: str) -> str:
    if "out of memory" in words or "cannot allocate memory" in words or "MemoryError" in words:
        return "rendering the chart took too much memory"
    if "stack exceeds" in words or "stack overflow" in words:
        return "rendering the chart recursed too deep"
    if code == -signal.SIGXCPU:
        return "rendering the chart took too much processor time"
    first = words.splitlines()[0] if words else ""
    return f"the renderer ended with {code} while it worked on the chart" + (f": {first}" if first else "")


class Engine:
    """All methods belong to one event loop. `directory` is the worker's own, made if absent."""

    def __init__(self, directory: Path, *, timeout: float = TIMEOUT, idle: float = IDLE) -> None:
        self._directory = directory
        self._timeout = timeout
        self._idle = idle
        self._lock = asyncio.Lock()
        self._worker: _Worker | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def render(
        self, chart: bytes, values: Mapping[str, Any], target: Target, capabilities: Capabilities
    ) -> Rendered:
        """Raises EngineError, EngineMissing."""
        question = {"op": "render", "values": values, "options": _options(target, capabilities)}
        answer, _ = await self._ask(question, chart)
        crds = tuple(each["data"] for each in answer["crds"] or ())
        return Rendered(answer["metadata"], answer["values"] or {}, crds, answer["files"])

    async def pack(self, directory: Path) -> Packed:
        """A packed chart of a directory. Raises EngineError, EngineMissing."""
        answer, data = await self._ask({"op": "pack", "path": str(directory)})
        return Packed(answer["metadata"], tuple(answer["dependencies"]), data)

    async def describe(self, chart: bytes) -> Mapping[str, Any]:
        """Chart.yaml of a packed chart. Raises EngineError, EngineMissing."""
        answer, _ = await self._ask({"op": "describe"}, chart)
        metadata: dict[str, Any] = answer["metadata"]
        return metadata

    async def close(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
        async with self._lock:
            await self._drop()

    async def _ask(self, question: Mapping[str, Any], extra: bytes = b"") -> tuple[dict[str, Any], bytes]:
        async with self._lock:
            worker = await self._ready()
            try:
                answer, data = await asyncio.wait_for(worker.ask(question, extra), self._timeout)
            except TimeoutError:
                await self._drop()
                raise EngineDied(f"rendering the chart took longer than {self._timeout:g} s") from None
            except BaseException:
                await self._drop()
                raise
            if worker.asked >= QUESTIONS:
                await self._drop()
            self._leave_later()
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer, data

    async def _ready(self) -> _Worker:
        if self._worker is not None and self._worker.process.returncode is not None:
            await self._drop()
        if self._worker is None:
            await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
            self._worker = await _Worker.start(self._directory)
        return self._worker

    def _leave_later(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
        self._farewell = asyncio.get_running_loop().call_later(self._idle, self._leave)

    def _leave(self) -> None:
        self._leaving = asyncio.ensure_future(self.close())

    async def _drop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()


def _options(target: Target, capabilities: Capabilities) -> dict[str, Any]:
    return {
        "name": target.name,
        "namespace": target.namespace,
        "revision": target.revision,
        "is_install": not target.upgrade,
        "is_upgrade": target.upgrade,
        "kube_version": capabilities.kube_version,
        "api_versions": list(capabilities.api_versions),
    }
