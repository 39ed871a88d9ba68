"""Which processes `havre up` makes of the parts: one per promise, all forked from one parent."""

from __future__ import annotations

import os

from havre.app import run
from havre.app.supervisor import Process

_COMMON = ("asyncio", "orjson", "uvloop", "havre.machinery.controller", "havre.machinery.client", "havre.api.schemas")


def processes() -> tuple[Process, ...]:
    """The truth everywhere; the machine where we may touch it."""
    control = Process("control", tuple(run.find(["control"])), _COMMON)
    if os.geteuid() != 0:
        return (control,)
    return control, Process("node", tuple(run.find(["node"])), _COMMON)
