"""Entries into a directory, as far as that needs no root."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import MTIME, Member, char, directory, fifo, file, link, symlink

from havre.node.runtime.extract import Extractor, LayerError, clean
from havre.node.runtime.tar import Source, TarError, entries


def extract(root: Path, *members: Member) -> Extractor:
    root.mkdir(exist_ok=True)
    extractor = Extractor(root)
    try:
        source = Source([archives.tar(*members)])
        for entry in entries(source):
            extractor.add(entry, source)
        extractor.finish()
    finally:
        extractor.close()
    return extractor


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        (b"a/b", b"a/b"),
        (b"./a/./b/", b"a/b"),
        (b"/a//b", b"a/b"),
        (b"../../a", b"a"),
        (b"a/../../b", b"b"),
        (b"a/b/..", b"a"),
        (b".", b""),
        (b"/", b""),
        (b"..", b""),
        (b"a/.hidden", b"a/.hidden"),
        (b"a/...", b"a/..."),
    ],
)
def test_a_name_is_a_path_under_the_root(name: bytes, cleaned: bytes) -> None:
    assert clean(name) == cleaned


def test_files_have_their_mode_time_and_content(tmp_path: Path) -> None:
    extract(tmp_path / "r", file("d/run", b"#!", mode=0o4750), fifo("pipe", mode=0o622))
    run = tmp_path / "r/d/run"
    assert run.read_bytes() == b"#!"
    assert stat.S_IMODE(run.stat().st_mode) == 0o4750
    assert run.stat().st_mtime == MTIME
    assert stat.S_IMODE((tmp_path / "r/pipe").stat().st_mode) == 0o622


def test_a_directory_keeps_its_time_and_a_mode_that_forbids_writing(tmp_path: Path) -> None:
    extract(tmp_path / "r", directory("d", mode=0o555), file("d/late"))
    assert (tmp_path / "r/d").stat().st_mtime == MTIME
    assert stat.S_IMODE((tmp_path / "r/d").stat().st_mode) == 0o555


def test_the_root_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o755)
    extract(tmp_path / "r", directory("./", mode=0o700), directory("/", mode=0o700))
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o755


def test_the_last_entry_of_a_name_wins(tmp_path: Path) -> None:
    extract(
        tmp_path / "r",
        file("a", b"old"), file("a", b"new"),
        directory("b"), file("b/c"), file("b", b"file"),
        file("d"), directory("d"), file("d/e", b"in"),
        symlink("/etc", "f"), directory("f"), file("f/g"),
    )  # fmt: skip
    root = tmp_path / "r"
    assert ((root / "a").read_bytes(), (root / "b").read_bytes(), (root / "d/e").read_bytes()) == (
        b"new",
        b"file",
        b"in",
    )
    assert not (root / "f").is_symlink()
    assert (root / "f/g").exists()


def test_a_link_may_be_replaced_in_a_directory_that_is_open(tmp_path: Path) -> None:
    extract(tmp_path / "r", symlink("x", "d/a"), symlink("y", "d/a"), file("d/b", b"in"))
    assert (str((tmp_path / "r/d/a").readlink()), (tmp_path / "r/d/b").read_bytes()) == ("y", b"in")


def test_a_parent_that_became_a_link_leads_to_another_place(tmp_path: Path) -> None:
    extract(tmp_path / "r", directory("x"), file("d/a"), symlink("x", "d"), file("d/b"))
    assert [p.name for p in (tmp_path / "r/x").iterdir()] == ["b"]


def test_a_directory_replaced_by_a_link_gives_the_link_s_target_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    extract(tmp_path / "r", directory("d", mode=0o777), symlink(str(outside), "d"))
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def test_parents_that_the_archive_leaves_out_are_reported(tmp_path: Path) -> None:
    made = extract(tmp_path / "r", file("a/b/c"), directory("a"))
    assert list(made.implicit) == [b"a/b"]
    assert stat.S_IMODE((tmp_path / "r/a/b").stat().st_mode) == 0o755


def test_a_hard_link_to_itself_is_the_file(tmp_path: Path) -> None:
    extract(tmp_path / "r", file("a", b"x"), link("a", "./a"))
    assert (tmp_path / "r/a").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ((char("gone", 0, 0),), "0:0"),
        ((file(".wh."),), "hides no name"),
        ((file("a/.wh..."),), "hides no name"),
        ((link("missing", "a"),), "does not have"),
        ((link("/", "a"),), "hard link to the root"),
        ((file(".wh.a"), link("a", "b")), "hard link to a whiteout"),
        ((file("a"), file("a/b")), "is a file"),
        ((symlink("b", "a"), symlink("a", "b"), file("a/x")), "cannot be made|links"),
        ((file("x" * 300),), "name too long"),
        ((file("/".join("d" * 300)),), "256 directories"),
        ((directory("d"), link("d", "e")), "cannot be made"),
    ],
)
def test_what_no_layer_may_have_is_refused(tmp_path: Path, members: tuple[Member, ...], says: str) -> None:
    with pytest.raises(LayerError, match=f"(?i){says}"):
        extract(tmp_path / "r", *members)


def test_attributes_of_users_are_set_and_those_of_overlayfs_are_not(tmp_path: Path) -> None:
    pax = {
        "SCHILY.xattr.user.a": "b",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
    }
    extract(tmp_path / "r", file("a", pax=pax))
    found = os.listxattr(tmp_path / "r/a")
    assert [name for name in found if name != "security.selinux"] in (["user.a"], [])  # [] where tmpfs has none


def test_whiteouts_hide_names_below_and_nothing_beside(tmp_path: Path) -> None:
    extract(tmp_path / "r", file("d/.wh.a"), file("d/b"), file("d/.wh.b"), file("d/.wh..wh.aufs"))
    hidden = (tmp_path / "r/d/a").lstat()
    assert (stat.S_ISCHR(hidden.st_mode), hidden.st_rdev) == (True, 0)
    assert sorted(p.name for p in (tmp_path / "r/d").iterdir()) == ["a", "b"]
    assert (tmp_path / "r/d/b").is_file()


def test_a_whiteout_below_a_file_hides_nothing_more(tmp_path: Path) -> None:
    extract(tmp_path / "r", file("a", b"was a directory"), file("a/.wh.b"), file("a/c/.wh..wh..opq"))
    assert (tmp_path / "r/a").read_bytes() == b"was a directory"


def test_an_entry_after_its_whiteout_takes_the_name(tmp_path: Path) -> None:
    extract(tmp_path / "r", file(".wh.a"), file("a", b"new"))
    assert (tmp_path / "r/a").read_bytes() == b"new"


PARTS = st.sampled_from([".", "..", "a", "b", "l", "", ".wh.a", ".wh..wh..opq", "/"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
MEMBERS = st.one_of(
    st.builds(file, NAMES, st.just(b"x")),
    st.builds(directory, NAMES),
    st.builds(symlink, NAMES, NAMES),
    st.builds(link, NAMES, NAMES),
)


@given(st.lists(MEMBERS, max_size=12))
def test_nothing_is_ever_made_outside_the_root(tmp_path_factory: pytest.TempPathFactory, members: list[Member]) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    root = place / "x" / "r"
    root.parent.mkdir()
    with suppress(LayerError, TarError, PermissionError):  # trusted.overlay.opaque is root's
        extract(root, *members)
    assert [p.name for p in place.iterdir()] == ["x"]
    assert [p.name for p in root.parent.iterdir()] == ["r"]
