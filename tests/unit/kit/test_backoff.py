"""Back-off: it grows, it stops growing, and only chance makes it differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.kit.backoff import Backoff, delay, jittered


def test_waits_double_up_to_the_cap() -> None:
    policy = Backoff(1.0, cap=300.0)
    assert [policy.delay(attempt) for attempt in (0, 1, 2, 8, 9, 1_000_000)] == [1, 2, 4, 256, 300, 300]


def test_a_factor_of_one_waits_always_the_same() -> None:
    assert [delay(attempt, 0.5, 1.0, 10.0) for attempt in (0, 7, 5000)] == [0.5, 0.5, 0.5]


def test_jitter_adds_a_share_of_the_wait() -> None:
    policy = Backoff(10.0, cap=100.0, jitter=0.5)
    assert policy.delay(0, lambda: 0.0) == 10.0
    assert policy.delay(1, lambda: 0.5) == 25.0
    assert policy.delay(1) == 20.0
    assert jittered(8.0, 0.25, lambda: 1.0) == 10.0


@pytest.mark.parametrize(
    "policy", [(-1.0, 2.0, 3.0, 0.0), (1.0, 0.5, 3.0, 0.0), (5.0, 2.0, 3.0, 0.0), (1.0, 2.0, 3.0, -1.0)]
)
def test_a_policy_that_makes_no_sense_is_refused(policy: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Backoff(*policy)


def test_attempts_are_counted_from_zero() -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        Backoff(1.0).delay(-1)


@settings(max_examples=50)
@given(
    st.integers(0, 10_000),
    st.floats(0.001, 10),
    st.floats(1, 10),
    st.floats(10, 1000),
    st.floats(0, 1, exclude_max=True),
)
def test_a_wait_never_shrinks_and_stays_within_cap_and_jitter(
    attempt: int, base: float, factor: float, cap: float, chance: float
) -> None:
    policy = Backoff(base, factor, cap, jitter=0.2)
    seconds = policy.delay(attempt)
    assert base <= seconds <= policy.delay(attempt + 1) <= cap
    assert seconds <= policy.delay(attempt, lambda: chance) <= seconds * 1.2
