"""Which processes `havre up` makes of the parts: one per promise, all forked from one parent."""

from __future__ import annotations

from havre.app import run
from havre.app.config import Config
from havre.app.supervisor import Process

_COMMON = ("asyncio", "orjson", "uvloop", "havre.machinery.controller", "havre.machinery.client", "havre.api.schemas")


def processes(config: Config) -> tuple[Process, ...]:
    """The truth everywhere; the machine where we may touch it."""
    control = Process("control", tuple(run.find(["control"])), _COMMON)
    if not config.with_node:
        return (control,)
    return control, Process("node", tuple(run.find(["node"])), _COMMON)
