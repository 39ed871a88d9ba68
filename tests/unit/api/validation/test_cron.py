"""Schedules of CronJobs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.validation.cron import schedule_problem


@pytest.mark.parametrize(
    "schedule",
    ["* * * * *", "*/5 0-23/2 1,15 jan-DEC ?", "0 0 * * sun", "@daily", "@every 1h30m", "1,2, 3 4 5 6"],
)
def test_schedule_is_accepted(schedule: str) -> None:
    assert schedule_problem(schedule) == ""


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("* * 32 * *", "end of range (32) above maximum (31): 32"),
        ("@every x", 'failed to parse duration @every x: time: invalid duration "x"'),
    ],
)
def test_schedule_is_refused_with_the_reason(schedule: str, problem: str) -> None:
    assert schedule_problem(schedule) == problem


@given(st.text(st.sampled_from("0159*/-,?@ janx+\t٣"), max_size=40))
@settings(max_examples=50)
def test_any_text_gets_a_verdict(text: str) -> None:
    assert isinstance(schedule_problem(text), str)
