"""Tar archives for tests, member by member, with whatever names and links a test wants."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass, field

MTIME = 1_600_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """What goes into an archive; owners are whoever runs the test, so that it needs no root."""

    name: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    mode: int = 0o644
    target: str = ""
    device: tuple[int, int] = (0, 0)
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    pax: dict[str, str] = field(default_factory=dict)


def file(name: str, content: bytes = b"", *, mode: int = 0o644, pax: dict[str, str] | None = None) -> Member:
    return Member(name, content=content, mode=mode, pax=pax or {})


def directory(name: str, *, mode: int = 0o755) -> Member:
    return Member(name, tarfile.DIRTYPE, mode=mode)


def symlink(target: str, name: str) -> Member:
    return Member(name, tarfile.SYMTYPE, target=target, mode=0o777)


def link(target: str, name: str) -> Member:
    return Member(name, tarfile.LNKTYPE, target=target)


def char(name: str, major: int, minor: int, *, mode: int = 0o600) -> Member:
    return Member(name, tarfile.CHRTYPE, device=(major, minor), mode=mode)


def fifo(name: str, *, mode: int = 0o600) -> Member:
    return Member(name, tarfile.FIFOTYPE, mode=mode)


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive as Python's own writer makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.mode = member.kind, len(member.content), member.mode
            info.linkname, info.mtime = member.target, MTIME
            info.uid, info.gid = member.uid, member.gid
            info.devmajor, info.devminor = member.device
            info.pax_headers = member.pax
            archive.addfile(info, io.BytesIO(member.content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
