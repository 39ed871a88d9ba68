"""A volume given to a group while somebody else is at work in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from havre.node.agent.volumes import ownership

GROUP = os.getgid()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_everything_below_is_given(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "a" / "b").mkdir(parents=True)
    (volume / "a" / "b" / "file").touch(mode=0o600)
    ownership.give(volume, GROUP, readonly=False)
    assert (mode(volume) & 0o2070, mode(volume / "a" / "b") & 0o2070) == (0o2070, 0o2070)
    assert mode(volume / "a" / "b" / "file") == 0o660


def test_a_volume_that_is_a_file_is_given(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o600)
    ownership.give(tmp_path / "file", GROUP, readonly=True)
    assert mode(tmp_path / "file") == 0o640


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir(mode=0o700)
    (tmp_path / "outside" / "secret").touch(mode=0o600)
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "out").symlink_to(tmp_path / "outside")
    ownership.give(tmp_path / "volume", GROUP, readonly=False)
    assert (mode(tmp_path / "outside"), mode(tmp_path / "outside" / "secret")) == (0o700, 0o600)


def test_a_directory_that_becomes_a_link_during_the_walk_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container that shares the volume would do it, at the worst moment: after the look, before the descent."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    (outside / "in").mkdir(parents=True, mode=0o700)
    (outside / "in" / "secret").touch(mode=0o600)
    (volume / "a" / "in").mkdir(parents=True)
    real = os.scandir

    def scandir(where: str | int) -> object:
        if (volume / "a" / "in").exists() and not (volume / "a").is_symlink() and _is(where, volume / "a"):
            (volume / "a").rename(volume / "was")
            (volume / "a").symlink_to(outside)
        return real(where)

    monkeypatch.setattr(os, "scandir", scandir)
    ownership.give(volume, GROUP, readonly=False)
    assert (volume / "a").is_symlink()
    assert (mode(outside / "in"), mode(outside / "in" / "secret")) == (0o755 & mode(outside / "in"), 0o600)
    assert not mode(outside / "in") & stat.S_ISGID


def _is(where: str | int, path: Path) -> bool:
    found = os.fstat(where) if isinstance(where, int) else Path(where).stat()
    return (found.st_dev, found.st_ino) == (path.stat().st_dev, path.stat().st_ino)
