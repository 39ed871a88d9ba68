"""How long things wait that failed."""

from __future__ import annotations

from havre.node.agent.back_off import Attempts


def test_attempts_double_up_to_five_minutes() -> None:
    attempts = Attempts()
    now, waits = 0.0, []
    for _ in range(7):
        waits.append(attempts.failed("k", now))
        now += waits[-1]
    assert waits == [10, 20, 40, 80, 160, 300, 300]


def test_attempts_of_different_keys_are_apart() -> None:
    attempts = Attempts()
    attempts.failed("a", 0)
    assert (attempts.left("a", 4), attempts.left("b", 4)) == (6, 0)


def test_attempt_after_ten_quiet_minutes_begins_anew() -> None:
    attempts = Attempts()
    for now in (0, 10, 30):
        attempts.failed("k", now)
    assert attempts.failed("k", 30 + 601) == 10


def test_success_forgets() -> None:
    attempts = Attempts()
    attempts.failed("k", 0)
    attempts.forget("k")
    assert attempts.left("k", 1) == 0
