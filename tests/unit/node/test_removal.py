"""Trees that do not want to go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from havre.node.removal import remove_tree


def test_a_tree_deeper_than_a_path_is_long_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    at = os.open(top, os.O_PATH)
    for _ in range(25):  # × 200 characters > PATH_MAX
        os.mkdir("deep" * 50, dir_fd=at)
        below = os.open("deep" * 50, os.O_PATH, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    remove_tree(top)
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "top/in").mkdir(parents=True)
    (tmp_path / "top/in/link").symlink_to(outside)
    (tmp_path / "top/in/file").touch()
    remove_tree(tmp_path / "top")
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


@pytest.mark.parametrize("what", ["link", "file", "nothing"])
def test_what_is_no_directory_goes_too(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    (tmp_path / "dir").mkdir()
    if what == "link":
        path.symlink_to(tmp_path / "dir")
    elif what == "file":
        path.touch()
    remove_tree(path)
    assert [p.name for p in tmp_path.iterdir()] == ["dir"]
