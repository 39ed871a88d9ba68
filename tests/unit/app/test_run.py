"""Parts start in order, stop in reverse, and a signal ends them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from havre.app import run
from havre.app.config import Config
from havre.app.errors import StartFailed
from havre.app.parts import PARTS, Part

CONFIG = Config(Path("/nowhere"))


def part(name: str, happened: list[str], failure: Exception | None = None) -> Part:
    @asynccontextmanager
    async def up(_config: Config) -> AsyncIterator[str]:
        if failure:
            raise failure
        happened.append(f"+{name}")
        try:
            yield f"{name} answers"
        finally:
            happened.append(f"-{name}")

    return Part(name, "", up)


async def run_until_signal(parts: list[Part], number: int) -> list[str]:
    said: list[str] = []

    def ready() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    await run.run(parts, CONFIG, said.append, ready)
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_parts_in_reverse_order(number: int) -> None:
    happened: list[str] = []
    said = await run_until_signal([part("a", happened), part("b", happened)], number)
    assert happened == ["+a", "+b", "-b", "-a"]
    assert said == ["a: a answers", "b: b answers", "stopping"]


async def test_a_part_that_cannot_start_stops_those_before_it() -> None:
    happened: list[str] = []
    with pytest.raises(StartFailed, match="no disk"):
        await run.run([part("a", happened), part("b", happened, StartFailed("no disk"))], CONFIG, print, print)
    assert happened == ["+a", "-a"]


def test_parts_are_found_by_name_in_their_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = []
    monkeypatch.setattr(run, "PARTS", (part("a", nothing), part("b", nothing)))
    assert [p.name for p in run.find(["b", "a"])] == ["a", "b"]
    with pytest.raises(run.UnknownPart, match="there is no part 'c'; choose from a, b"):
        run.find(["a", "c"])


def test_every_part_has_a_name_of_its_own_and_a_summary() -> None:
    assert len({p.name for p in PARTS}) == len(PARTS)
    assert all(p.summary for p in PARTS)
