"""The record of an instance: who runs, who only left a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from havre.app import background
from havre.app.config import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def record(config: Config, text: Any) -> None:
    (config.data_dir / "havre.json").write_text(text if isinstance(text, str) else json.dumps(text))


def test_a_process_finds_itself(config: Config) -> None:
    background.write_record(config)
    found = background.running(config)
    assert found is not None
    assert found.pid == os.getpid()


def test_without_a_record_nothing_runs(config: Config) -> None:
    assert background.running(config) is None
    assert background.stop(config) is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        {"pid": 1},
        {"pid": "x", "born": 0},
        {"pid": 0, "born": 0},
        {"pid": 2**30, "born": 0},  # no such process, and no birth
        {"pid": os.getpid(), "born": 1},  # the number was given to another process
        {"pid": 1, "born": 1, "more": 2},
    ],
)
def test_a_stale_or_broken_record_names_nobody(config: Config, text: Any) -> None:
    record(config, text)
    assert background.running(config) is None


def test_a_process_that_is_dead_but_not_reaped_does_not_run(config: Config) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record(config, {"pid": process.pid, "born": background._born(process.pid)})
    assert background.running(config) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert background.running(config) is None
    process.communicate()


def test_stop_ends_the_recorded_process(config: Config) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record(config, {"pid": process.pid, "born": background._born(process.pid)})
    assert background.stop(config) is True
    assert process.wait(5) == -15
    process.communicate()
    assert background.stop(config) is False


def test_an_instance_that_ends_at_once_shows_its_log(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(background.CannotStart, match="No such option '--nonsense'"):
        background.start(config, ["--nonsense"], said.append)
    assert said == []


def test_an_instance_that_is_never_ready_is_stopped(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "START_SECONDS", 0.2)
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    monkeypatch.setattr(background, "_MODULE", ("-c", "exec sleep 60 #"))
    with pytest.raises(background.CannotStart, match=r"it was not ready within 0.2 seconds and has been stopped"):
        background.start(config, [], print)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(background.CannotStart, match=r"open .*file/data: Not a directory; choose another --data-dir"):
        background.start(Config(tmp_path / "file" / "data"), [], print)
