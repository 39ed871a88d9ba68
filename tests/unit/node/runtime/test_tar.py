"""The tar reader: what writers write, what it refuses, and that it reads nothing it was not given."""

from __future__ import annotations

import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import MTIME, Member, char, directory, fifo, file, link, symlink

from havre.node.runtime import tar as reader
from havre.node.runtime.tar import Entry, Kind, Source, TarError, entries, pax_records

LONG = "long/" * 30 + "name"


def read(data: bytes, chunk: int = 0) -> list[tuple[Entry, bytes]]:
    size = chunk or len(data) or 1
    source = Source(data[i : i + size] for i in range(0, len(data), size))
    return [(entry, b"".join(source.pieces(entry.size))) for entry in entries(source)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("chunk", [0, 100, 513])
def test_every_format_gives_the_same_entries(form: int, chunk: int) -> None:
    data = archives.tar(
        directory("etc/", mode=0o750),
        file("etc/passwd", b"root", mode=0o4755),
        symlink("/etc", "local"),
        link("etc/passwd", "copy"),
        char("null", 1, 3, mode=0o666),
        fifo("pipe"),
        form=form,
    )
    found = read(data, chunk)
    assert [(e.name, e.kind, e.target, content) for e, content in found] == [
        (b"etc/", Kind.DIRECTORY, b"", b""),
        (b"etc/passwd", Kind.FILE, b"", b"root"),
        (b"local", Kind.SYMLINK, b"/etc", b""),
        (b"copy", Kind.LINK, b"etc/passwd", b""),
        (b"null", Kind.CHAR, b"", b""),
        (b"pipe", Kind.FIFO, b"", b""),
    ]
    assert (found[1][0].mode, found[1][0].mtime, found[4][0].device) == (0o4755, MTIME * 10**9, (1, 3))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_come_whole(form: int) -> None:
    assert [e.name.decode() for e, _ in read(archives.tar(file(LONG), form=form))] == [LONG]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_targets_come_whole(form: int) -> None:
    assert read(archives.tar(symlink(LONG, "a"), form=form))[0][0].target.decode() == LONG


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_owners_beyond_seven_digits_are_read(form: int) -> None:
    found = read(archives.tar(Member("a", uid=3_000_000_000, gid=4_000_000), form=form))
    assert (found[0][0].uid, found[0][0].gid) == (3_000_000_000, 4_000_000)


def test_pax_records_give_attributes_sizes_and_fractions_of_seconds() -> None:
    found = read(
        archives.tar(file("a", b"xy", pax={"SCHILY.xattr.user.a": "b", "mtime": "1600000000.25", "size": "2"}))
    )
    assert found[0][0].xattrs == {b"user.a": b"b"}
    assert found[0][0].mtime == 1_600_000_000_250_000_000
    assert found[0][1] == b"xy"


def test_a_time_before_the_epoch_is_the_epoch() -> None:
    assert read(archives.tar(file("a", pax={"mtime": "-5.5"})))[0][0].mtime == 0


def test_what_nobody_reads_is_skipped() -> None:
    data = archives.tar(file("a", b"x" * 1000), file("b", b"y"))
    assert [e.name for e in entries(Source([data]))] == [b"a", b"b"]


def test_the_end_of_the_archive_ends_it_and_the_rest_is_still_there_to_hash() -> None:
    source = Source([archives.tar(file("a")) + b"more"])
    list(entries(source))
    source.drain()
    assert source.position == tarfile.RECORDSIZE + 4


def test_global_records_change_nothing() -> None:
    data = bytearray(archives.tar(file("a", pax={"path": "b"})))
    data[156:157] = b"g"
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 256)
    assert [e.name for e, _ in read(bytes(data))] == [b"a"]


def header(**changes: bytes) -> bytes:
    """One header with some fields replaced and its checksum right."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "time": 136, "kind": 156, "magic": 257, "major": 329}
    raw = bytearray(archives.tar(file("a"), form=tarfile.USTAR_FORMAT)[:512])
    for field, value in changes.items():
        raw[places[field] : places[field] + len(value)] = value
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 256)
    return bytes(raw)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x01" * 512, "checksum"),
        (header()[:300], "inside a header"),
        (header(size=b"00000000010\0") + b"x", "before the end"),
        (header(size=b"0000000001x\0"), "no number"),
        (header(size=b"00000000009\0"), "no number"),
        (header(size=b"\xff" * 12), "size of -1"),
        (header(size=b"\x80\xff" + b"\xff" * 10), "a size of"),
        (header(uid=b"\xff" * 8), "out of range"),
        (header(kind=b"S"), "sparse"),
        (header(kind=b"M"), "several volumes"),
        (header(kind=b"Z"), "unknown"),
        (header(kind=b"3", major=b"7777777\0"), "does not exist"),
        (header(kind=b"x", size=b"00004000001\0"), "bytes long"),
        (header(kind=b"L", size=b"00000010002\0"), "bytes long"),
        (header(kind=b"x", size=b"00000000010\0") + b"x" * 3, "inside a header"),
        (archives.tar(file("a", pax={"GNU.sparse.major": "1"})), "sparse"),
        (archives.tar(file("a", pax={"uid": "-1"})), "no number"),
        (archives.tar(file("a", pax={"mtime": "soon"})), "no time"),
    ],
)
def test_what_is_damaged_or_not_read_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(TarError, match=says):
        read(data)


def test_a_name_longer_than_a_path_is_refused() -> None:
    with pytest.raises(TarError, match="longer than 4096"):
        read(archives.tar(file("x" * 5000)))


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "ENTRIES", 3)
    data = archives.tar(*(file(str(i)) for i in range(4)), form=tarfile.USTAR_FORMAT)
    with pytest.raises(TarError, match="more than 3"):
        read(data)


@pytest.mark.parametrize(
    "records", [b"5 a=b", b"x", b"6 a=b\n\n", b"99 a=b\n", b"4 a\n", b"6 =bc\n", b"8 pa\0=b\n", b"0 a=b\n"]
)
def test_damaged_pax_records_are_refused(records: bytes) -> None:
    with pytest.raises(TarError):
        pax_records(records)


def test_pax_records_may_hold_line_ends_and_equals_signs() -> None:
    assert pax_records(b"9 a=b\nc=\n6 d=e\n") == {b"a": b"b\nc=", b"d": b"e"}


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(TarError):
        read(data, 100)


@given(st.integers(0, 511), st.binary(min_size=1, max_size=30), st.sampled_from([b"0", b"x", b"L", b"5", b"3"]))
def test_a_header_with_a_right_checksum_and_wrong_fields_is_read_or_refused(at: int, junk: bytes, kind: bytes) -> None:
    raw = bytearray(header(kind=kind) + b"12 path=abc\n".ljust(512, b"\0"))
    raw[at : at + len(junk)] = junk
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 256)
    with suppress(TarError):
        read(bytes(raw[:1024]))
