from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from havre.node.runtime.errors import Failed
from havre.node.runtime.monitor import Exit, _read_line, exited, left_behind, resize
from havre.node.runtime.processes import Process


def test_the_exit_file_holds_the_code_and_its_time_is_the_end(tmp_path: Path) -> None:
    assert exited(tmp_path, "c") is None
    (tmp_path / "exit").mkdir()
    (tmp_path / "exit" / "c").write_text("137")
    os.utime(tmp_path / "exit" / "c", ns=(0, 1795480485309279413))
    assert exited(tmp_path, "c") == Exit(137, 1795480485309279413)


def test_an_exit_file_without_a_number_is_an_unknown_code(tmp_path: Path) -> None:
    (tmp_path / "exit").mkdir()
    (tmp_path / "exit" / "c").write_text("")
    found = exited(tmp_path, "c")
    assert found is not None
    assert found.code == 255


def test_an_answer_is_read_to_its_line_feed_though_the_pipe_stays_open() -> None:
    ours, theirs = os.pipe()
    try:
        os.write(theirs, b'{"data": 5}\n')
        assert _read_line(ours, time.monotonic() + 5) == b'{"data": 5}\n'
        with pytest.raises(Failed, match="no answer"):
            _read_line(ours, time.monotonic())
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_old_process_id_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "pidfile").write_text(str(os.getpid()))
    (tmp_path / "monitor.pid").write_text("nonsense")
    assert left_behind(tmp_path) == []


def test_a_monitor_that_is_gone_cannot_be_told_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ctl")
    with pytest.raises(Failed, match="its monitor is gone"):
        resize(tmp_path, 80, 24)


def test_a_process_is_itself_only_with_its_start_time() -> None:
    me = Process.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert not Process(me.pid, me.started + 1).alive()
    assert Process(me.pid, me.started + 1).open() is None
    assert not Process(0, 0).signal(9)
    assert Process.of(2**22 + 1) is None
