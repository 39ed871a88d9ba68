"""Layers as root unpacks them: the same tree as GNU tar's, and no way out of it.

The breakouts are the cases that containerd's TestBreakouts names, in our words: what was there before is a layer below,
as it is for an overlay, and what comes out is looked at through the merged mount.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import Member, directory, file, link, symlink

from havre.node import mounts
from havre.node.runtime import overlay
from havre.node.runtime.compression import Limits
from havre.node.runtime.extract import LayerError
from havre.node.runtime.overlay import Overlay
from havre.node.runtime.unpack import Done, Job, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, owners and mounts: needs root")


def unpacked(blob: Path, target: Path) -> Done:
    target.mkdir(parents=True)
    return unpack(Job(str(blob), "", str(target), Limits()))


# the referee

State = dict[str, tuple[object, ...]]


def state(root: Path) -> State:
    """Everything that can be seen of a tree, but the root itself."""
    found: State = {}
    links: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        first = links.setdefault(info.st_ino, name) if not path.is_dir() or path.is_symlink() else name
        found[name] = (
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_mtime_ns,
            first,
            str(path.readlink()) if path.is_symlink() else "",
            path.read_bytes() if stat.S_ISREG(info.st_mode) else b"",
            sorted((n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False)),
        )
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything a root file system has."""
    root = tmp_path / "tree"
    for place in ("usr/bin", "var/local", "tmp", f"{'long' * 20}/{'name' * 30}"):
        (root / place).mkdir(parents=True)
    su = root / "usr/bin/su"
    su.write_bytes(os.urandom(300_000))
    os.chown(su, 0, 8)
    su.chmod(0o6755)
    os.setxattr(su, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(su, "user.note", b"\x00binary\n")
    (root / "usr/bin/sudo").hardlink_to(su)
    (root / "usr/bin/empty").touch()
    (root / "bin").symlink_to("usr/bin")
    os.chown(root / "bin", 1000, 1000, follow_symlinks=False)
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    os.mkfifo(root / "pipe", 0o622)
    (root / f"{'long' * 20}/{'name' * 30}" / ("file" * 50)).write_text("deep")
    os.chown(root / "var/local", 0, 50)
    (root / "var/local").chmod(0o2775)
    (root / "var/local/of-root").touch()
    (root / "tmp").chmod(0o1777)
    (root / os.fsdecode(b"latin-\xe9")).touch()
    os.chown(root / "usr/bin/empty", 2_000_000, 3_000_000)
    return root


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_tree_comes_out_as_gnu_tar_brings_it_out(tmp_path: Path, tree: Path, form: str, compression: str) -> None:
    if form == "ustar":  # has no room for these
        (tree / "usr/bin/empty").unlink()
        shutil.rmtree(tree / ("long" * 20))
    keep = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    blob = tmp_path / "layer"
    pack: list[str | Path] = ["tar", "-C", tree, f"--format={form}", "--sort=name", *keep, "-cf", blob, "."]
    subprocess.run(pack, check=True, timeout=60)
    reference = tmp_path / "reference"
    reference.mkdir()
    subprocess.run(["tar", "-C", reference, *keep, "-xpf", blob], check=True, timeout=60)
    if compression:
        subprocess.run(["gzip", blob], check=True, timeout=60)
        blob = blob.with_suffix(".gz")
    unpacked(blob, tmp_path / "ours")
    assert state(tmp_path / "ours") == state(reference)


# breakouts


@pytest.fixture
def merge(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Layers, the lowest first, merged by overlayfs."""
    target = tmp_path / "merged"
    target.mkdir()

    def merged(*layers: list[Member]) -> Path:
        places = []
        for i, members in enumerate(layers):
            blob = tmp_path / f"blob{i}"
            blob.write_bytes(archives.tar(*members))
            unpacked(blob, tmp_path / f"layer{i}")
            places.append(tmp_path / f"layer{i}")
        (tmp_path / "empty").mkdir()  # overlayfs wants two
        overlay.mount(Overlay("test", [*places[::-1], tmp_path / "empty"]), target)
        return target

    yield merged
    mounts.unmount(target)


PASSWD = [directory("etc"), file("/etc/passwd", b"inside")]


@dataclass(frozen=True, slots=True)
class Case:
    """`reads` are paths and what a process in the merged root finds there, None for nothing; `same` name one file."""

    name: str
    layer: list[Member]
    below: list[Member] | None = None
    reads: tuple[tuple[str, bytes | None], ...] = ()
    same: tuple[str, str] | None = None


BREAKOUTS = [
    Case("SymlinkAbsolute", [directory("etc"), symlink("/etc", "le"), file("/le/x", b"in")], reads=(("etc/x", b"in"),)),
    Case(
        "SymlinkUpAndOut",
        [directory("etc"), directory("dummy"), symlink("/dummy/../etc", "le"), file("/le/x", b"in")],
        reads=(("etc/x", b"in"),),
    ),
    Case(
        "SymlinkMultipleAbsolute",
        [directory("etc"), directory("d"), symlink("/etc", "/d/etc"), symlink("/d/etc", "le"), file("/d/etc/x", b"in")],
        reads=(("etc/x", b"in"),),
    ),
    Case(
        "SymlinkMultipleRelative",
        [
            directory("etc"),
            directory("d"),
            symlink("/etc", "/d/etc"),
            symlink("./d/etc", "le"),
            file("/d/etc/x", b"in"),
        ],
        reads=(("etc/x", b"in"),),
    ),
    Case(
        "SymlinkEmptyFile",
        [directory("etc"), file("etc/emptied", b"full"), symlink("/etc", "le"), file("/le/emptied")],
        reads=(("etc/emptied", b""),),
    ),
    Case(
        "HardlinkRelative",
        [*PASSWD, directory("b"), symlink("../../etc", "b/d1"), link("/b/d1/passwd", "b/mine")],
        same=("b/mine", "etc/passwd"),
    ),
    Case(
        "HardlinkDownAndOut",
        [
            *PASSWD,
            directory("b"),
            directory("down"),
            symlink("../down/../../etc", "b/d1"),
            link("/b/d1/passwd", "b/mine"),
        ],
        same=("b/mine", "etc/passwd"),
    ),
    Case("HardlinkAbsolute", [*PASSWD, symlink("/etc", "le"), link("/le/passwd", "mine")], same=("mine", "etc/passwd")),
    Case(
        "HardlinkRelativeLong",
        [*PASSWD, symlink("../../../../../../../etc", "le"), link("/le/passwd", "mine")],
        same=("mine", "etc/passwd"),
    ),
    Case(
        "HardlinkRelativeUpAndOut",
        [*PASSWD, directory("up"), symlink("up/../../../etc", "le"), link("/le/passwd", "mine")],
        same=("mine", "etc/passwd"),
    ),
    Case("HardlinkDirectRelative", [*PASSWD, link("../../../../../etc/passwd", "mine")], same=("mine", "etc/passwd")),
    Case("HardlinkDirectAbsolute", [*PASSWD, link("/etc/passwd", "mine")], same=("mine", "etc/passwd")),
    Case(
        "SymlinkParentDirectory",
        [*PASSWD, symlink("/etc/", ".."), link("/etc/passwd", "mine")],
        same=("mine", "etc/passwd"),
    ),
    Case(
        "SymlinkEmptyFilename",
        [*PASSWD, symlink("/etc/", ""), link("/etc/passwd", "mine")],
        same=("mine", "etc/passwd"),
    ),
    Case(
        "SymlinkParentRelative",
        [*PASSWD, symlink("/etc/", "le/sub/.."), link("/etc/passwd", "/le/mine")],
        same=("etc/mine", "etc/passwd"),
    ),
    Case(
        "SymlinkSlashEnded",
        [*PASSWD, directory("le/"), link("/etc/passwd", "/le/mine")],
        same=("le/mine", "etc/passwd"),
    ),
    Case(
        "SymlinkOverrideDirectory",
        [*PASSWD, directory("le"), symlink("/etc", "le"), link("/etc/passwd", "/le/mine")],
        same=("etc/mine", "etc/passwd"),
    ),
    Case(
        "SymlinkOverrideDirectoryRelative",
        [*PASSWD, directory("le"), symlink("../../etc", "le"), link("/etc/passwd", "/le/mine")],
        same=("etc/mine", "etc/passwd"),
    ),
    Case(
        "DirectoryOverrideSymlink",
        [*PASSWD, symlink("/etc", "le"), directory("/le/"), link("/etc/passwd", "/le/mine")],
        same=("le/mine", "etc/passwd"),
    ),
    Case(
        "DirectoryOverrideSymlinkAndHardlink",
        [directory("/le/"), file("/le/mine", b"different")],
        below=[*PASSWD, symlink("etc", "le"), link("/etc/passwd", "/le/mine")],
        reads=(("le/mine", b"different"), ("etc/passwd", b"inside"), ("etc/mine", b"inside")),
    ),
    Case(
        "WhiteoutSymlink",
        [file(".wh.le")],
        below=[*PASSWD, symlink("/etc", "le")],
        reads=(("le", None), ("etc/passwd", b"inside")),
    ),
    Case(  # a link of a lower layer leads nowhere for an upper one: overlays merge by name
        "WhiteoutSymlinkPath",
        [file("le/.wh.gone")],
        below=[*PASSWD, file("etc/gone"), symlink("/etc", "le")],
        reads=(("le/gone", None), ("etc/passwd", b"inside")),
    ),
    Case(
        "WhiteoutDirectoryName",
        [file(".wh.etc/somefile", b"plain")],
        below=[*PASSWD],
        reads=(("etc/passwd", b"inside"), (".wh.etc/somefile", b"plain")),
    ),
    Case(
        "WhiteoutDeadSymlinkParent",
        [file("le/.wh.etc")],
        below=[*PASSWD, symlink("/dne", "le")],
        reads=(("etc/passwd", b"inside"),),
    ),
    Case(
        "WhiteoutRelativePath",
        [file("dne/../.wh.etc")],
        below=[*PASSWD, symlink("/dne", "le")],
        reads=(("etc/passwd", None), ("etc", None)),
    ),
    Case(
        "HardlinkSymlinkBeforeCreateTarget",
        [directory("etc"), symlink("/etc/passwd", "mine"), link("mine", "dup"), file("/etc/passwd", b"after")],
        reads=(("dup", b"after"),),
    ),
    Case(
        "HardlinkSymlinkRelative",
        [*PASSWD, symlink("../../../../../etc/passwd", "pl"), link("/pl", "mine")],
        reads=(("mine", b"inside"),),
    ),
    Case(
        "HardlinkSymlinkAbsolute",
        [*PASSWD, symlink("/etc/passwd", "pl"), link("/pl", "mine")],
        reads=(("mine", b"inside"),),
    ),
]


def seen_inside(root: Path, path: str) -> bytes | None:
    """What a process whose root is `root` reads at `path`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chroot(root)
            os.write(write, b"+" + Path("/", path).read_bytes())
        except OSError:
            pass
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer[1:] if answer else None


@pytest.mark.parametrize("case", BREAKOUTS, ids=lambda case: case.name)
def test_a_layer_that_tries_to_break_out_stays_inside(case: Case, merge: Callable[..., Path]) -> None:
    root = merge(*([case.below] if case.below else []), case.layer)
    for path, content in case.reads:
        assert seen_inside(root, path) == content, path
    if case.same:
        assert len({(root / name).lstat().st_ino for name in case.same}) == 1


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("WhiteoutRootParent", [file(".wh...")]),
        ("WhiteoutParent", [file("etc/.wh...")]),
        ("WhiteoutRoot", [file(".wh..")]),
        ("WhiteoutCurrentDirectory", [file("etc/.wh..")]),
    ],
)
def test_a_whiteout_of_a_directory_s_own_name_is_refused(name: str, layer: list[Member], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(archives.tar(*layer))
    with pytest.raises(LayerError, match="hides no name"):
        unpacked(tmp_path / name, tmp_path / "out")


def test_hardlink_symlink_chmod_leaves_the_file_outside_as_it_was(tmp_path: Path) -> None:
    secret, existing = tmp_path / "perm400", tmp_path / "also-outside"
    secret.write_text("…")
    secret.chmod(0o400)
    existing.touch(mode=0o640)
    blob = tmp_path / "blob"
    blob.write_bytes(archives.tar(symlink(str(secret), str(existing)), link(str(existing), "sketchy")))
    unpacked(blob, tmp_path / "out")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o400
    assert (tmp_path / "out/sketchy").is_symlink()


# whiteouts in overlay form


def test_an_opaque_directory_hides_what_is_below_and_keeps_what_is_beside(merge: Callable[..., Path]) -> None:
    below = [file("d/old"), file("e/old")]
    root = merge(below, [file("d/before"), file("d/.wh..wh..opq"), file("d/after")])
    assert sorted(p.name for p in (root / "d").iterdir()) == ["after", "before"]
    assert [p.name for p in (root / "e").iterdir()] == ["old"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_directory_beside_its_whiteout_is_new(merge: Callable[..., Path], order: list[int]) -> None:
    entries = [file(".wh.d"), file("d/new")]
    root = merge([file("d/old")], [entries[i] for i in order])
    assert [p.name for p in (root / "d").iterdir()] == ["new"]


def test_an_opaque_root_is_told_to_whoever_stacks_the_layers(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(archives.tar(file(".wh..wh..opq"), file("a")))
    assert unpacked(blob, tmp_path / "out").opaque
