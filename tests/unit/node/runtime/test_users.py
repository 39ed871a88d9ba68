from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.node.runtime.errors import Invalid
from havre.node.runtime.users import FILE_LIMIT, MAX_ID, User, resolve

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\n# no:x:1:1::/:\nbroken:x:abc:1\n"
GROUP = b"root:x:0:\nwww:x:33:\nlog:x:50:root,www\nwww2:x:51:other\n"


def test_without_a_word_it_is_root() -> None:
    assert resolve("", PASSWD, GROUP) == User(0, 0, (0, 50), "root", "/root")


@pytest.mark.parametrize(
    ("image", "uid", "gid", "groups"),
    [
        ("www", 33, 33, (33, 50)),
        ("33", 33, 33, (33, 50)),
        ("1002", 1002, 0, (0,)),
        ("www:log", 33, 50, (50,)),
        ("1003:33", 1003, 33, (33,)),
        (":log", 0, 50, (50,)),
    ],
)
def test_the_user_of_the_image(image: str, uid: int, gid: int, groups: tuple[int, ...]) -> None:
    found = resolve(image, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups) == (uid, gid, groups)


def test_the_pod_wins_over_the_image_and_its_group() -> None:
    assert resolve("www:log", PASSWD, GROUP, uid=7).gid == 0
    assert resolve("www", PASSWD, GROUP, uid=7, gid=8, supplemental=[9, 8]).groups == (8, 9)
    assert resolve("root", PASSWD, GROUP, username="www").uid == 33


def test_strict_groups_are_only_the_pods() -> None:
    assert resolve("www", PASSWD, GROUP, supplemental=[9], strict=True).groups == (9, 33)


@pytest.mark.parametrize("user", ["2147483648", "4294967296", "-1", "99999999999999999999999", "0:4294967296"])
def test_a_number_that_does_not_fit_is_never_a_name(user: str) -> None:
    passwd = PASSWD + f"{user}:x:0:0::/:\n".encode()
    with pytest.raises(Invalid, match="outside 0 to 2147483647"):
        resolve(user, passwd, GROUP)


@pytest.mark.parametrize(("user", "words"), [("nobody", "'nobody' is not in"), ("www:none", "'none' is not in")])
def test_an_unknown_name_is_refused(user: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        resolve(user, PASSWD, GROUP)


def test_a_group_needs_a_user() -> None:
    with pytest.raises(Invalid, match="run_as_group needs"):
        resolve("", PASSWD, GROUP, gid=5)


def test_only_the_beginning_of_a_huge_file_is_read() -> None:
    with pytest.raises(Invalid, match="is not in"):
        resolve("late", b"x" * FILE_LIMIT + b"\nlate:x:5:5::/:\n", b"")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.binary(max_size=300), st.binary(max_size=300))
def test_no_file_and_no_name_breaks_it(user: str, passwd: bytes, group: bytes) -> None:
    try:
        found = resolve(user, passwd, group)
    except Invalid:
        return
    assert 0 <= found.uid <= MAX_ID
    assert 0 <= found.gid <= MAX_ID
