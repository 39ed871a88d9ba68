"""The last words of containers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.unit.node.agent.pods import container, instance

from havre.node.agent import names
from havre.node.agent.cri import ContainerStatus, State
from havre.node.agent.messages import with_message

INSIDE = "/dev/termination-log"


def ended(path: Path, *, code: int = 1, policy: str = "File", log: Path | None = None) -> ContainerStatus:
    found = instance(container("a"), State.EXITED, code=code)
    annotations = {**found.annotations, names.MESSAGE_PATH: INSIDE, names.MESSAGE_POLICY: policy}
    return replace(found, annotations=annotations, mounts=((str(path), INSIDE),), log_path=str(log or ""))


def test_message_is_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("x" * 5000 + "end")
    message = with_message(ended(path)).message
    assert len(message) == 4096
    assert message.endswith("end")


def test_message_follows_what_the_runtime_says(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("mine")
    assert with_message(replace(ended(path), message="its")).message == "its: mine"


def test_log_stands_in_only_on_error_and_only_when_asked(tmp_path: Path) -> None:
    path, log = tmp_path / "m", tmp_path / "0.log"
    path.write_text("")
    log.write_text("2026-01-01T00:00:00Z stdout P half \n2026-01-01T00:00:00Z stdout F line\n")
    asked = "FallbackToLogsOnError"
    assert with_message(ended(path, policy=asked, log=log)).message == "half line\n"
    assert with_message(ended(path, policy=asked, log=log, code=0)).message == ""
    assert with_message(ended(path, log=log)).message == ""


def test_log_is_cut_to_eighty_lines_and_two_kibibytes(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("".join(f"2026-01-01T00:00:00Z stdout F {n}\n" for n in range(200)))
    lines = with_message(ended(tmp_path / "none", policy="FallbackToLogsOnError", log=log)).message.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("120", "199", 80)
    log.write_text(f"2026-01-01T00:00:00Z stdout F {'y' * 9000}\n")
    assert len(with_message(ended(tmp_path / "none", policy="FallbackToLogsOnError", log=log)).message) == 2048


def test_link_and_pipe_in_place_of_the_file_are_not_followed(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("/etc/hostname")
    os.mkfifo(pipe)
    assert with_message(ended(link)).message.startswith("Error on reading termination log")
    assert with_message(ended(pipe)).message.startswith("Error on reading termination log")


def test_running_container_has_not_spoken(tmp_path: Path) -> None:
    running = instance(container("a"))
    assert with_message(running) is running
