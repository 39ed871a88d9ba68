"""Processes of an instance: in order, restarted, stopped in reverse, adopted when the supervisor is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os, sys
from contextlib import asynccontextmanager
from pathlib import Path
from havre.app.config import Config
from havre.app.errors import StartFailed
from havre.app.parts import Part
from havre.app.supervisor import Process, Supervisor

def part(name):
    @asynccontextmanager
    async def run(config):
        if os.environ.get("FAILS") == name:
            raise StartFailed(f"start {name}: no")
        yield str(os.getpid())
        print("stopped", name, flush=True)
    return Part(name, "", run)

again = [sys.executable, "-c", os.environ["PROGRAM"]]
config = Config(Path(os.environ["DATA"]))
processes = [Process(name, (part(name),)) for name in ("first", "second")]
try:
    Supervisor(processes, config, again).run(lambda line: print(line, flush=True), lambda: print("ready", flush=True))
except StartFailed as e:
    print("failed", e, flush=True)
    sys.exit(1)
"""


class Running:
    """A supervisor in a process of its own, and what it says."""

    def __init__(self, data: Path, **env: str) -> None:
        program = textwrap.dedent(PROGRAM)
        whole_lines = {"PYTHONUNBUFFERED": ""}  # several processes write to the pipe
        places = {"PYTHONPATH": str(ROOT / "src"), "DATA": str(data), "PROGRAM": program}
        settings = {**os.environ, **whole_lines, **places, **env}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=settings
        )

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def pid(self, name: str) -> int:
        said, _, number = self.line().partition(": ")
        assert said == name
        return int(number)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    started: list[Running] = []

    def start(**env: str) -> Running:
        started.append(Running(tmp_path, **env))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        assert running.process.stdout
        running.process.stdout.close()
        running.process.wait()


def test_processes_start_in_order_and_stop_in_reverse(start: Any) -> None:
    running = start()
    first, second = running.pid("first"), running.pid("second")
    assert running.line() == "ready"
    assert len({first, second, running.process.pid}) == 3
    running.process.send_signal(signal.SIGTERM)
    assert [running.line() for _ in range(3)] == ["stopping", "stopped second", "stopped first"]
    assert running.process.wait(10) == 0


def test_a_process_that_is_killed_is_started_again(start: Any) -> None:
    running = start()
    running.pid("first")
    killed = running.pid("second")
    assert running.line() == "ready"
    os.kill(killed, signal.SIGKILL)
    assert running.pid("second") != killed
    running.process.terminate()
    assert running.line() == "stopping"
    assert running.process.wait(10) == 0


def test_a_part_that_cannot_start_ends_the_start_with_its_reason(start: Any) -> None:
    running = start(FAILS="second")
    running.pid("first")
    assert running.line() == "stopped first"
    assert running.line() == "failed start second: no"
    assert running.process.wait(10) == 1


def test_a_process_that_waits_for_its_turn_ends_with_a_start_that_fails(start: Any) -> None:
    running = start(FAILS="first")
    assert running.line() == "failed start first: no"
    assert running.line() == ""  # the end of everything that held the pipe
    assert running.process.wait(10) == 1


def test_the_first_child_takes_the_place_of_a_killed_supervisor(start: Any) -> None:
    running = start()
    first, second = running.pid("first"), running.pid("second")
    assert running.line() == "ready"
    running.process.kill()
    assert sorted(running.line() for _ in range(2)) == ["stopped first", "stopped second"]
    assert running.pid("first") not in (first, second)
    assert running.pid("second") not in (first, second)
    assert running.line() == "ready"
    os.kill(first, signal.SIGTERM)  # the process that was the first child supervises now
    assert running.line() == "stopping"
    assert sorted(running.line() for _ in range(2)) == ["stopped first", "stopped second"]
    assert running.line() == ""  # the end of everything that held the pipe
