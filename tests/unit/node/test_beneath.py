"""The kernel's walk inside a root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from havre.node.beneath import BENEATH, NO_SYMLINKS, openat2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc/passwd").write_text("inside")
    (inside / "absolute").symlink_to("/etc/passwd")
    (inside / "up").symlink_to("../../../../etc/passwd")
    (tmp_path / "secret").write_text("outside")
    directory = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield directory
    os.close(directory)


@pytest.mark.parametrize("path", [b"etc/passwd", b"/etc/passwd", b"absolute", b"up", b"../../etc/passwd"])
def test_every_way_leads_inside(root: int, path: bytes) -> None:
    with os.fdopen(openat2(root, path, os.O_RDONLY)) as file:
        assert file.read() == "inside"


def test_a_path_outside_does_not_exist(root: int) -> None:
    with pytest.raises(FileNotFoundError):
        openat2(root, b"../secret", os.O_RDONLY)


@pytest.mark.parametrize(("path", "resolve"), [(b"absolute", NO_SYMLINKS), (b"../secret", BENEATH)])
def test_a_way_that_is_not_allowed_is_refused(root: int, path: bytes, resolve: int) -> None:
    with pytest.raises(OSError, match=r"Too many levels|Invalid cross-device"):
        openat2(root, path, os.O_RDONLY, resolve=resolve)


def test_the_descriptor_closes_on_exec(root: int) -> None:
    file = openat2(root, b"etc", os.O_PATH)
    assert not os.get_inheritable(file)
    os.close(file)
