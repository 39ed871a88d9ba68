"""Container logs stay small: at 10 MiB a log is put aside and begun anew, five files are kept, old ones compressed.

    0.log   0.log.20261124-070000   0.log.20261123-191500.gz

The runtime opens its log again when told; when it cannot be told, the log goes back to its place, so no line is lost.

Source: k8s.io/kubernetes pkg/kubelet/logs/container_log_manager.go.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
import time
from pathlib import Path
from typing import Final

from havre.node.agent.cri import Runtime, RuntimeFault, State

log = logging.getLogger(__name__)

SIZE: Final = 10 << 20  # bytes at which a log is put aside
FILES: Final = 5  # of one log, the current one among them
EVERY: Final = 10.0  # seconds between looks
_STAMP: Final = "%Y%m%d-%H%M%S"


async def rotate_all(runtime: Runtime, *, size: int = SIZE, files: int = FILES) -> int:
    """Look at the logs of all running containers; how many were put aside. Raises RuntimeFault."""
    rotated = 0
    for container in await runtime.containers():
        if container.state is not State.RUNNING:
            continue
        try:
            path = (await runtime.container_status(container.id)).log_path
            large = await asyncio.to_thread(_is_large, Path(path), size) if path else False
            if large:
                await _rotate(runtime, container.id, Path(path), files)
                rotated += 1
        except (RuntimeFault, OSError) as error:
            log.warning("could not rotate a log", extra={"container": container.id, "error": str(error)})
    return rotated


def _is_large(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size >= size
    except FileNotFoundError:
        return False


async def _rotate(runtime: Runtime, id: str, path: Path, files: int) -> None:
    await asyncio.to_thread(_make_room, path, files)
    aside = path.with_name(f"{path.name}.{time.strftime(_STAMP, time.gmtime())}")
    if aside.exists():  # twice in a second: the next look will do
        return
    await asyncio.to_thread(path.rename, aside)
    try:
        await runtime.reopen_log(id)
    except RuntimeFault:
        await asyncio.to_thread(aside.rename, path)
        raise


def _make_room(path: Path, files: int) -> None:
    """Remove the oldest and compress the others: with the new one and the current there will be `files`."""
    old = sorted(p for p in path.parent.glob(f"{path.name}.*") if p.suffix != ".tmp")
    for unfinished in path.parent.glob(f"{path.name}.*.tmp"):
        unfinished.unlink(missing_ok=True)
    excess = max(0, len(old) - (files - 2))
    for gone in old[:excess]:
        gone.unlink(missing_ok=True)
    for kept in old[excess:]:
        if kept.suffix != ".gz":
            _compress(kept)


def _compress(path: Path) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    with path.open("rb") as source, gzip.open(unfinished, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    unfinished.replace(path.with_name(f"{path.name}.gz"))
    path.unlink()
