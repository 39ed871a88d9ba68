"""Files that change all at once."""

from __future__ import annotations

import stat
from pathlib import Path

from havre.node.agent.volumes.atomic import write
from havre.node.agent.volumes.payloads import File


def nobody(_: Path) -> None:
    """Leaves the owners."""


def names(volume: Path) -> list[str]:
    return sorted(p.name for p in volume.iterdir() if not p.name.startswith(".."))


def hidden(volume: Path) -> int:
    return len([p for p in volume.iterdir() if p.name.startswith("..")])


def test_files_are_links_into_the_data(tmp_path: Path) -> None:
    assert write(tmp_path, {"a": File(b"1", 0o640), "d/e/f": File(b"2")}, nobody)
    assert (str((tmp_path / "a").readlink()), str((tmp_path / "d").readlink())) == ("..data/a", "..data/d")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "d/e/f").read_bytes()) == (b"1", b"2")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d/e").stat().st_mode) == 0o755


def test_a_change_replaces_everything_by_one_rename(tmp_path: Path) -> None:
    write(tmp_path, {"a": File(b"1"), "b": File(b"1"), "d/x": File(b"")}, nobody)
    before = (tmp_path / "..data").readlink()
    assert write(tmp_path, {"a": File(b"2"), "c": File(b"2")}, nobody)
    assert names(tmp_path) == ["a", "c"]
    assert (tmp_path / "a").read_bytes() == b"2"
    assert not (tmp_path / before).exists()
    assert hidden(tmp_path) == 2


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"a": File(b"1"), "d/x": File(b"2", 0o400)}, nobody)
    before = (tmp_path / "..data").readlink()
    assert not write(tmp_path, {"a": File(b"1"), "d/x": File(b"2", 0o400)}, nobody)
    assert (tmp_path / "..data").readlink() == before


def test_a_changed_mode_is_a_change(tmp_path: Path) -> None:
    write(tmp_path, {"a": File(b"1", 0o644)}, nobody)
    assert write(tmp_path, {"a": File(b"1", 0o600)}, nobody)


def test_an_empty_volume_has_data_too(tmp_path: Path) -> None:
    write(tmp_path, {}, nobody)
    assert (tmp_path / "..data").is_dir()
    assert names(tmp_path) == []


def test_what_a_crash_left_is_removed_and_finished(tmp_path: Path) -> None:
    write(tmp_path, {"a": File(b"1"), "b": File(b"1")}, nobody)
    (tmp_path / "..2026_01_01_00_00_00.000000001" / "half").mkdir(parents=True)
    (tmp_path / "..data_tmp").symlink_to("nowhere")
    (tmp_path / "b").unlink()
    write(tmp_path, {"a": File(b"2"), "b": File(b"1")}, nobody)
    assert (names(tmp_path), hidden(tmp_path)) == (["a", "b"], 2)


def test_owners_are_set_before_anybody_sees_the_files(tmp_path: Path) -> None:
    seen: list[bool] = []
    write(
        tmp_path,
        {"a": File(b"1")},
        lambda new: seen.append((new / "a").exists() and not (tmp_path / "..data").exists()),
    )
    assert seen == [True]
