"""Several layers at once: an unpacking program for each processor takes the next layer when it is done.

A program takes some 60 ms to start, so small layers share one. It is killed when it takes too long, when this side
gives up, and by the kernel when this side dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import havre
from havre.node.runtime.unpack import Done, Job

WITHIN: Final = 1800.0  # seconds for one layer: 64 GiB at 36 MB/s, a slow disk
ANSWER: Final = 256 << 20  # bytes of one answer: 1 M implicit directories; a full one is refused as a bad layer
WORTH: Final = 4 << 20  # compressed bytes that are worth the start of another program


class BadLayer(ValueError):
    """A layer is damaged, hostile, or not what the image says. Trying again will not help."""


class UnpackFailed(RuntimeError):
    """The machine could not: disk full, memory, killed, too slow."""


async def unpack_all(jobs: Sequence[Job], directory: Path) -> list[Done]:
    """Unpacks all `jobs`, whose targets lie below `directory`; answers in their order.

    Raises BadLayer, UnpackFailed, FileNotFoundError for a blob that is not there."""
    sizes = {job: os.stat(job.blob).st_size for job in jobs}  # noqa: PTH116 - the name is text
    waiting = sorted(jobs, key=lambda job: sizes[job])  # taken from the end: the largest first
    count = min(len(jobs), len(os.sched_getaffinity(0)), 1 + sum(sizes.values()) // WORTH)
    done: dict[Job, Done] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(_work(waiting, done, directory))
    except* (BadLayer, UnpackFailed) as e:
        raise e.exceptions[0] from None
    return [done[job] for job in jobs]


async def _work(waiting: list[Job], done: dict[Job, Done], directory: Path) -> None:
    process = await _start(directory)
    try:
        while waiting:
            job = waiting.pop()
            async with asyncio.timeout(WITHIN):
                done[job] = await _ask(process, job)
    except TimeoutError:
        raise UnpackFailed(
            f"unpacking {job.diff_id} took longer than {WITHIN:.0f} s; see whether the disk is well"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _start(directory: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "havre.node.runtime.unpack",
        str(directory),
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=ANSWER,
        env={"PYTHONPATH": str(Path(havre.__file__).parents[1]), "PATH": os.defpath},
    )


async def _ask(process: Process, job: Job) -> Done:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    try:
        await process.stdin.drain()
        line = await process.stdout.readline()
    except ConnectionError:
        line = b""
    except ValueError as e:
        raise BadLayer(f"layer {job.diff_id}: too many directories without an entry") from e
    if not line:
        raise UnpackFailed(f"unpacking {job.diff_id}: the program ended with {await process.wait()}, see its messages")
    return _done(json.loads(line), job)


def _done(answer: dict[str, Any], job: Job) -> Done:
    if "error" in answer:
        raise (BadLayer if answer["bad"] else UnpackFailed)(f"layer {job.diff_id}: {answer['error']}")
    return Done(**{**answer, "implicit": tuple(answer["implicit"])})
