"""Kernel settings: recorded before they change, put back when asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.network import sysctls
from havre.node.network.errors import NetworkError

FORWARD = "net/ipv4/ip_forward"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "sys"
    (path / "net/ipv4").mkdir(parents=True)
    (path / FORWARD).write_text("0\n")
    return path


def test_what_was_there_comes_back(tmp_path: Path, root: Path) -> None:
    record = tmp_path / "run" / "sysctls.json"
    sysctls.apply(record, {FORWARD: "1"}, root)
    assert (root / FORWARD).read_text() == "1"
    assert sysctls.read_record(record) == {FORWARD: "0"}
    sysctls.restore(record, root=root)
    assert (root / FORWARD).read_text() == "0"
    assert not record.exists()


def test_applying_again_does_not_forget_the_first_value(tmp_path: Path, root: Path) -> None:
    record = tmp_path / "sysctls.json"
    sysctls.apply(record, {FORWARD: "1"}, root)
    sysctls.apply(record, {FORWARD: "1"}, root)
    (root / FORWARD).write_text("2")
    sysctls.apply(record, {FORWARD: "1"}, root)
    assert sysctls.read_record(record) == {FORWARD: "0"}


def test_what_was_right_already_is_not_touched_at_the_end(tmp_path: Path, root: Path) -> None:
    record = tmp_path / "sysctls.json"
    (root / FORWARD).write_text("1\n")
    sysctls.apply(record, {FORWARD: "1"}, root)
    sysctls.restore(record, root=root)
    assert (root / FORWARD).read_text() == "1\n"


def test_settings_to_keep_are_kept(tmp_path: Path, root: Path) -> None:
    record = tmp_path / "sysctls.json"
    sysctls.apply(record, {FORWARD: "1"}, root)
    sysctls.restore(record, frozenset({FORWARD}), root)
    assert (root / FORWARD).read_text() == "1"
    assert not record.exists()


def test_a_kernel_without_the_setting_is_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(NetworkError, match=r"read kernel setting .*net/ipv4/nothing: No such file"):
        sysctls.apply(tmp_path / "sysctls.json", {"net/ipv4/nothing": "1"}, root)


def test_a_record_that_is_not_readable_is_ignored(tmp_path: Path, root: Path) -> None:
    record = tmp_path / "sysctls.json"
    record.write_text("[1")
    assert sysctls.read_record(record) == {}
    record.write_text("[1]")
    assert sysctls.read_record(record) == {}
