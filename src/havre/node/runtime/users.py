"""Which user, group and supplementary groups a container runs as. Pure: the files of the image are passed in.

What a pod asks for wins over the image's USER (`name`, `uid`, `name:group`, `uid:gid`). Names are looked up in the
image's own /etc/passwd and /etc/group. A number is never looked up as a name, and a number that does not fit is an
error: treated as a name that is not found, it once became root (CVE-2024-40635, CVE-2026-46680).

Source: CRI LinuxContainerSecurityContext; passwd(5), group(5); the image specification, `config.User`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from havre.node.runtime.errors import Invalid

__all__ = ["FILE_LIMIT", "MAX_ID", "User", "resolve"]

FILE_LIMIT = 1024 * 1024  # bytes of passwd or group that are looked at; 10,000 users take 600 KiB
MAX_ID = 2**31 - 1  # larger ids are negative for programs that keep them in an int
MAX_GROUPS = 65536  # NGROUPS_MAX of the kernel


@dataclass(frozen=True, slots=True)
class User:
    """As whom the first process starts."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary, sorted, without the primary one unless asked for
    name: str = ""  # as in passwd, "" if unknown
    home: str = ""


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _rows(text: bytes, fields: int) -> Iterator[list[str]]:
    for line in text[:FILE_LIMIT].split(b"\n"):
        parts = line.decode("utf-8", "replace").split(":")
        if len(parts) >= fields and parts[0] and not parts[0].startswith("#"):
            yield parts


def _accounts(passwd: bytes) -> Iterator[_Account]:
    for row in _rows(passwd, 4):
        uid, gid = _number(row[2]), _number(row[3])
        if uid is not None and gid is not None:
            yield _Account(row[0], uid, gid, row[5] if len(row) > 5 else "")


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for row in _rows(group, 3):
        gid = _number(row[2])
        if gid is not None:
            yield row[0], gid, row[3].split(",") if len(row) > 3 else []


def _bounded(text: str, what: str) -> int | None:
    """The id when `text` is a number. Raises Invalid when it is one that does not fit."""
    digits = text.lstrip("+-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(text) if len(digits) <= 20 else MAX_ID + 1
    if not 0 <= value <= MAX_ID:
        raise Invalid(f"{what} {text}: outside 0 to {MAX_ID}")
    return value


def _account(user: str, passwd: bytes) -> _Account:
    uid = _bounded(user, "user")
    for account in _accounts(passwd):
        if account.name == user if uid is None else account.uid == uid:
            return account
    if uid is None:
        raise Invalid(f"user {user!r} is not in the image's /etc/passwd")
    return _Account("", uid, 0, "")


def _gid(group: str, file: bytes) -> int:
    gid = _bounded(group, "group")
    if gid is not None:
        return gid
    for name, number, _ in _groups(file):
        if name == group:
            return number
    raise Invalid(f"group {group!r} is not in the image's /etc/group")


def _asked(image_user: str, uid: int | None, name: str, gid: int | None) -> tuple[str, str]:
    """The user and group to look up; "" for a group that follows from the user."""
    if gid is not None and uid is None and not name:
        raise Invalid("run_as_group needs run_as_user or run_as_username")
    user, _, group = image_user.partition(":")
    if uid is not None or name:
        user, group = (str(uid) if uid is not None else name), ""
    return user or "0", str(gid) if gid is not None else group


def resolve(
    image_user: str,
    passwd: bytes,
    group_file: bytes,
    *,
    uid: int | None = None,
    username: str = "",
    gid: int | None = None,
    supplemental: Iterable[int] = (),
    strict: bool = False,
) -> User:
    """`strict` is the policy that ignores the groups the image's /etc/group puts the user into. Raises Invalid."""
    user, group = _asked(image_user, uid, username, gid)
    account = _account(user, passwd)
    primary = _gid(group, group_file) if group else account.gid
    extra = tuple(supplemental)
    for number in (account.uid, primary, *extra):
        if not 0 <= number <= MAX_ID:
            raise Invalid(f"id {number}: outside 0 to {MAX_ID}")
    member = () if strict else _memberships(account.name, group_file)
    # The primary group is a supplementary one too, as login programs make it: files of it stay reachable after setgid.
    groups = sorted({primary, *member, *extra})
    if len(groups) > MAX_GROUPS:
        raise Invalid(f"{len(groups)} supplementary groups: the kernel takes {MAX_GROUPS}")
    return User(account.uid, primary, tuple(groups), account.name, account.home)


def _memberships(name: str, group_file: bytes) -> Sequence[int]:
    if not name:
        return []
    return [gid for group, gid, members in _groups(group_file) if name in members and group != name]
