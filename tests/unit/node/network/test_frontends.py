"""How the maps of Services get from one state to another: no moment without backends, no foreign ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.node.network.frontends import (
    Backend,
    Backends,
    Change,
    Frontend,
    Seen,
    after,
    endpoints_of,
    frontend_of,
    key_of,
    plan,
    seen,
    service_number,
    slots_of,
)
from havre.node.network.layouts import Endpoint, FrontendKey, FrontendValue, RangeKey, SlotKey

WEB, DNS = key_of(Frontend("10.96.0.1", 80)), key_of(Frontend("10.96.0.10", 53, "UDP"))
A, B = Backend("10.42.0.2", 8080), Backend("10.42.0.3", 8080)


def wanted(**backends: tuple[Backend, ...]) -> dict[FrontendKey, Backends]:
    keys = {"web": WEB, "dns": DNS}
    return {keys[name]: Backends(each) for name, each in backends.items()}


def slots(*backends: Backend) -> dict[int, Endpoint]:
    return dict(enumerate(endpoints_of(backends)))


def test_a_key_is_the_address_and_port_as_packets_have_them() -> None:
    assert key_of(Frontend("10.96.0.10", 53, "UDP")) == FrontendKey(b"\x0a\x60\x00\x0a", b"\x00\x35", 17)
    assert frontend_of(DNS) == Frontend("10.96.0.10", 53, "UDP")


@pytest.mark.parametrize("ip", ["::1", "10.96.0", "10.96.0.1.1", "", "localhost"])
def test_what_is_not_ipv4_has_no_key(ip: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        key_of(Frontend(ip, 80))


def test_the_first_frontend_gets_a_set_of_its_own() -> None:
    change = plan(Seen(), wanted(web=(A, B)))
    assert change.create == {
        1: {0: Endpoint(b"\x0a\x2a\x00\x02", b"\x1f\x90"), 1: Endpoint(b"\x0a\x2a\x00\x03", b"\x1f\x90")}
    }
    assert change.move == {WEB: FrontendValue(1, 2, 0, 0, service_number("0a600001:0050:6"))}
    assert (change.remove, change.forget) == ((), {})


def test_what_is_as_wanted_needs_no_change() -> None:
    now = after(Seen(), plan(Seen(), wanted(web=(A,), dns=())))
    assert not plan(now, wanted(web=(A,), dns=()))


def test_frontends_with_the_same_backends_share_a_set() -> None:
    change = plan(Seen(), wanted(web=(A, B), dns=(A, B)))
    assert len(change.create) == 1
    assert change.move[WEB].set == change.move[DNS].set == 1


def test_a_frontend_without_backends_has_no_set() -> None:
    change = plan(Seen(), wanted(web=()))
    assert change.create == {}
    assert change.move[WEB][:2] == (0, 0)


def test_a_moved_frontend_gets_a_new_set_and_the_old_one_goes() -> None:
    now = after(Seen(), plan(Seen(), wanted(web=(A,))))
    change = plan(now, wanted(web=(B,)))
    assert change.create == {2: slots(B)}
    assert change.move[WEB].set == 2
    assert change.forget == {1: slots(A)}


def test_a_number_is_never_given_twice() -> None:
    now = after(Seen(), plan(Seen(), wanted(web=(A,))))
    now = after(now, plan(now, {}))
    assert now.sets == {}
    assert list(plan(now, wanted(web=(B,))).create) == [2]


def test_external_and_affinity_are_in_the_value() -> None:
    change = plan(Seen(), {WEB: Backends((A,), affinity=600, external=True, service="default/web:80/TCP")})
    assert change.move[WEB] == FrontendValue(1, 1, 1, 600, service_number("default/web:80/TCP"))


def test_ranges_are_behind_the_number_of_their_service_and_go_with_it() -> None:
    ranged = {WEB: Backends((A,), external=True, service="default/web:80/TCP", ranges=("198.51.100.0/24", "0.0.0.0/0"))}
    change = plan(Seen(), ranged)
    number = service_number("default/web:80/TCP").to_bytes(8, sys.byteorder)
    keys = {RangeKey(88, number, b"\xc6\x33\x64\x00"), RangeKey(64, number, bytes(4))}
    assert change.allow == keys
    assert change.move[WEB].flags == 3
    now = after(Seen(), change)
    assert not plan(now, ranged)
    change = plan(now, {WEB: replace(ranged[WEB], ranges=())})
    assert change.forbid == keys
    assert not change.allow
    assert after(now, change).ranges == frozenset()
    assert plan(now, {WEB: replace(ranged[WEB], ranges=None)}).move[WEB].flags == 1


def test_the_number_of_a_service_is_the_same_in_every_run() -> None:
    assert service_number("default/web:80/TCP") == 6249346063702322042


def test_what_a_crash_has_left_is_forgotten_and_not_used() -> None:
    whole = after(Seen(), plan(Seen(), wanted(web=(A, B))))
    left = [*slots_of({1: slots(A, B), 7: slots(B)})]  # set 7 was begun, no frontend points at it
    now = seen(whole.frontends.items(), left)
    assert now.free == 8
    change = plan(now, wanted(web=(A, B), dns=(B,)))
    assert change.create == {8: slots(B)}
    assert change.forget == {7: slots(B)}


# A law: whoever looks, at whatever moment, finds a backend of the frontend.

backends = st.lists(st.sampled_from([Backend(f"10.42.0.{n}", 80) for n in range(2, 6)]), unique=True, max_size=3)
states = st.dictionaries(
    st.sampled_from([key_of(Frontend(f"10.96.0.{n}", 80)) for n in range(1, 5)]),
    backends.map(lambda each: Backends(tuple(each))),
)
NOTHING = Change(frozenset(), {}, {}, (), {}, frozenset())
Maps = tuple[dict[FrontendKey, FrontendValue], dict[SlotKey, Endpoint]]


def moments(now: Seen, change: Change) -> Iterator[Maps]:
    """What the maps hold before, between and after all single writes."""
    frontends = dict(now.frontends)
    slots = {SlotKey(number, slot): e for number, each in now.sets.items() for slot, e in each.items()}
    yield dict(frontends), dict(slots)
    for slot, endpoint in slots_of(change.create):
        slots[slot] = endpoint
        yield dict(frontends), dict(slots)
    for key, value in change.move.items():
        frontends[key] = value
        yield dict(frontends), dict(slots)
    for key in change.remove:
        del frontends[key]
        yield dict(frontends), dict(slots)
    for slot, _ in slots_of(change.forget):
        del slots[slot]
        yield dict(frontends), dict(slots)


@given(states, states)
def test_moving_backends_never_leave_a_service_empty(
    before: Mapping[FrontendKey, Backends], then: Mapping[FrontendKey, Backends]
) -> None:
    now = after(Seen(), plan(Seen(), before))
    change = plan(now, then)
    history = [*moments(now, change)]
    for frontends, slots in history:
        for key, value in frontends.items():
            found = [slots[SlotKey(value.set, slot)] for slot in range(value.size)]
            told = [state[key].addresses for state in (before, then) if key in state]
            assert tuple(found) in [endpoints_of(each) for each in told]
        assert before.keys() & then.keys() <= frontends.keys()
    assert history[-1] == next(iter(moments(after(now, change), NOTHING)))


@given(st.lists(states, min_size=2, max_size=4))
def test_a_program_between_its_two_lookups_finds_the_right_backend_or_looks_again(
    steps: list[Mapping[FrontendKey, Backends]],
) -> None:
    now, history = Seen(), [*moments(Seen(), NOTHING)]
    for step in steps:
        change = plan(now, step)
        history += moments(now, change)
        now = after(now, change)
    meant: dict[SlotKey, Endpoint] = {}
    for _, slots in history:
        for slot, endpoint in slots.items():
            assert meant.setdefault(slot, endpoint) == endpoint, "a slot that exists never becomes another backend"


@given(states, states, st.integers(0, 40))
def test_after_a_crash_between_any_two_writes_the_next_start_gets_there(
    before: Mapping[FrontendKey, Backends], then: Mapping[FrontendKey, Backends], at: int
) -> None:
    now = after(Seen(), plan(Seen(), before))
    history = [*moments(now, plan(now, then))]
    frontends, slots = history[at % len(history)]
    left = seen(frontends.items(), slots.items())
    change = plan(left, then)
    ends = [*moments(left, change)][-1]
    for key, value in ends[0].items():
        found = tuple(ends[1][SlotKey(value.set, slot)] for slot in range(value.size))
        assert found == endpoints_of(then[key].addresses)
    assert ends[0].keys() == then.keys()
    assert {slot.set for slot in ends[1]} == {value.set for value in ends[0].values()} - {0}
