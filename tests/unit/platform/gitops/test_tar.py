from __future__ import annotations

import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.platform.gitops import tar
from havre.platform.gitops.tar import File, Limits, TarError, unpack, write_files


def made(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_tree_goes_in_and_comes_out_without_links(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "x").mkdir(parents=True)
    (source / "x" / "run.sh").write_text("#!")
    (source / "x" / "run.sh").chmod(0o755)
    (source / "y.yaml").write_text("a: 1")
    (source / "out").symlink_to("/etc/passwd")
    packed = io.BytesIO()
    write_files(tar.tree(source), packed)
    packed.seek(0)
    target.mkdir()
    unpack(packed, target)
    assert tree(target) == {"x/run.sh": b"#!", "y.yaml": b"a: 1"}
    assert (target / "x" / "run.sh").stat().st_mode & 0o111
    assert not (target / "out").is_symlink()


def test_equal_content_gives_equal_bytes_whatever_the_times_and_owners(tmp_path: Path) -> None:
    packed = []
    for name, order in (("a", "12"), ("b", "21")):
        for number in order:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / number).write_text(number)
            os.utime(tmp_path / name / number, (int(number), 7 if name == "a" else 9))
        out = io.BytesIO()
        write_files(tar.tree(tmp_path / name), out)
        packed.append(out.getvalue())
    assert packed[0] == packed[1]


def test_files_and_a_tree_of_the_same_content_are_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "t" / "d" / "e").mkdir(parents=True)
    (tmp_path / "t" / "d" / "e" / "f").write_bytes(b"1")
    (tmp_path / "t" / "d.x").write_bytes(b"2")
    of_tree, of_files = io.BytesIO(), io.BytesIO()
    write_files(tar.tree(tmp_path / "t"), of_tree)
    write_files(
        {"d.x": File(1, False, lambda: io.BytesIO(b"2")), "d/e/f": File(1, False, lambda: io.BytesIO(b"1"))}, of_files
    )
    assert of_tree.getvalue() == of_files.getvalue()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_of_every_format_are_read(tmp_path: Path, format: int) -> None:
    name = "/".join(["d" * 60] * 3 + ["f"])
    unpack(made((member(name), b"1"), format=format), tmp_path)
    assert tree(tmp_path) == {name: b"1"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a/..", "n" * 256])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TarError):
        unpack(made((member("a/b"), b""), (member(name), b"1"), format=tarfile.PAX_FORMAT), tmp_path / "in")
    assert not (tmp_path / "x").exists()


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    hostile = made(
        (member("out", tarfile.SYMTYPE, "/"), b""),
        (member("hard", tarfile.LNKTYPE, "/etc/passwd"), b""),
        (member("null", tarfile.CHRTYPE), b""),
        (member("out/f"), b"1"),
    )
    unpack(hostile, tmp_path)
    assert tree(tmp_path) == {"out/f": b"1"}


def test_limits_are_kept(tmp_path: Path) -> None:
    def archive() -> io.BytesIO:
        return made((member("a/b/c"), b"12345"), (member("d"), b"1"))

    for limits in (Limits(size=5), Limits(entries=1), Limits(depth=2)):
        with pytest.raises(TarError):
            unpack(archive(), tmp_path, limits=limits)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_bytes(b"123456")
    with pytest.raises(TarError, match="more than"):
        write_files(tar.tree(tmp_path / "t"), io.BytesIO(), limits=Limits(size=5))


def test_the_later_of_two_files_counts_and_a_file_is_no_directory(tmp_path: Path) -> None:
    unpack(made((member("f"), b"1"), (member("f"), b"2")), tmp_path)
    assert tree(tmp_path) == {"f": b"2"}
    with pytest.raises(TarError, match="twice"):
        unpack(made((member("g"), b"1"), (member("g/h"), b"2")), tmp_path)


SAMPLE = made((member("dir/" + "n" * 120), b"x" * 700), (member("b"), b"y")).getvalue()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_damaged_archive_only_raises_tar_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(SAMPLE[: data.draw(st.integers(0, 6 * 512))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 6 * 512), st.integers(0, 255)), max_size=4)):
        if at < len(raw):
            raw[at] = value
    for block in range(0, len(raw) - 511, 512):  # most damage would only break the checksum
        head = raw[block : block + 512]
        checksum = sum(head[:148]) + 256 + sum(head[156:])
        if data.draw(st.booleans()):
            raw[block + 148 : block + 156] = b"%06o\0 " % checksum
    into = tmp_path_factory.mktemp("fuzz")
    with suppress(TarError):
        unpack(io.BytesIO(bytes(raw)), into, limits=Limits(size=10_000, entries=20))
