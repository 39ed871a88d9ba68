"""The machine as the runtime uses it: its programs, its cgroups, what our privileges allow, and threads to block in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from havre.node.removal import remove_tree
from havre.node.runtime import capabilities
from havre.node.runtime.cgroups import ROOT, Cgroups
from havre.node.runtime.config import Config
from havre.node.runtime.monitor import Monitor
from havre.node.runtime.oci_runtime import OciRuntime, choose, installed
from havre.node.runtime.spec import Machine

__all__ = ["Host"]

THREADS = 16  # creations, starts and removals at once; each is mostly a wait for a program of 10–40 ms
_RECURSIVE_READ_ONLY = (5, 12)

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Host:
    """What containers and sandboxes share."""

    config: Config
    cgroups: Cgroups
    machine: Machine
    oci: OciRuntime  # for new containers
    runtimes: tuple[OciRuntime, ...]  # all that may have made containers which still run
    monitor: Monitor
    threads: ThreadPoolExecutor

    @classmethod
    def survey(cls, config: Config) -> Host:
        """Look around and choose the programs. Blocks for 50–200 ms. Raises Unsupported when one is missing."""
        remove_tree(config.execs)  # of commands that an earlier process ran
        for directory in (
            config.run,
            config.execs,
            config.containers,
            config.sandboxes,
            config.netns,
            config.namespaces,
            config.shm,
        ):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        cgroups = Cgroups.detect()
        oci = choose(config, cgroups)
        monitor = Monitor.find(config, oci, cgroups)
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="runtime")
        runtimes = tuple(installed(config, cgroups, oci))
        return cls(config, cgroups, _machine(cgroups), oci, runtimes, monitor, threads)

    def runtime_of(self, container: str) -> OciRuntime:
        """The runtime that made a container; the current one if none did."""
        return next((runtime for runtime in self.runtimes if runtime.knows(container)), self.oci)

    async def blocking(self, act: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `act` in one of our threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, lambda: act(*args, **kwargs))


def _machine(cgroups: Cgroups) -> Machine:
    own = capabilities.own()
    adjustment = int(Path("/proc/self/oom_score_adj").read_text())
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return Machine(
        architecture=os.uname().machine,
        capabilities=own,
        oom_score_floor=-1000 if "CAP_SYS_RESOURCE" in own else adjustment,
        unified=cgroups.unified,
        swap=_swap(cgroups),
        apparmor=Path("/sys/kernel/security/apparmor").is_dir(),
        recursive_read_only=release >= _RECURSIVE_READ_ONLY,
    )


def _swap(cgroups: Cgroups) -> bool:
    """Whether a limit on swap can be set."""
    if cgroups.unified:
        return any(ROOT.glob("*/memory.swap.max"))
    return "memory" in cgroups.v1 and (cgroups.v1["memory"] / "memory.memsw.limit_in_bytes").exists()
