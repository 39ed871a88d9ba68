"""Which instance a run directory belongs to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from havre.app.node import claimed
from havre.node.runtime.errors import Precondition


def test_a_run_directory_has_one_process_at_a_time(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    lock = claimed(run, data)
    assert run.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Precondition, match="is served by another process"):
        claimed(run, data)
    with pytest.raises(Precondition, match="is served by another process"):
        claimed(run, tmp_path / "other")
    os.close(lock)
    os.close(claimed(run, data))


def test_what_another_instance_has_left_running_is_not_taken_over(tmp_path: Path) -> None:
    os.close(claimed(tmp_path / "run", tmp_path / "data"))
    with pytest.raises(Precondition, match=r"holds what the instance of .*/data has made"):
        claimed(tmp_path / "run", tmp_path / "other")
    os.close(claimed(tmp_path / "run", tmp_path / "data"))
