from __future__ import annotations

import pytest

from havre.node.runtime.capabilities import ALL, DEFAULT, granted, named, own
from havre.node.runtime.errors import Invalid, Unsupported

EVERY = frozenset(ALL)


def test_a_container_has_the_fourteen_of_docker() -> None:
    assert set(granted((), (), EVERY)) == DEFAULT
    assert len(DEFAULT) == 14


@pytest.mark.parametrize("name", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN"])
def test_names_are_written_in_many_ways(name: str) -> None:
    assert named(name) == "CAP_NET_ADMIN"


def test_dropping_all_leaves_what_is_added_by_name() -> None:
    assert granted(["NET_BIND_SERVICE", "CHOWN"], ["ALL"], EVERY) == ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]


def test_adding_all_gives_what_we_have_less_what_is_dropped() -> None:
    available = frozenset({"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_KILL"})
    assert granted(["ALL"], ["KILL"], available) == ["CAP_CHOWN", "CAP_SYS_ADMIN"]


def test_what_we_do_not_hold_cannot_be_given() -> None:
    with pytest.raises(Unsupported, match="CAP_SYS_RESOURCE"):
        granted(["SYS_RESOURCE"], (), EVERY - {"CAP_SYS_RESOURCE"})


def test_a_default_that_we_do_not_hold_is_left_out() -> None:
    assert "CAP_MKNOD" not in granted((), (), EVERY - {"CAP_MKNOD"})


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(Invalid, match="'FLY' does not exist"):
        granted(["FLY"], (), EVERY)


def test_the_bounding_set_is_read_bit_by_bit() -> None:
    assert own("Name:\tx\nCapBnd:\t0000000000000401\n") == {"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
