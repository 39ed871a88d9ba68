"""Quantities as they are stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.defaults.amounts import amount, canonical, largest, rounded_up, total


@pytest.mark.parametrize(
    ("written", "stored"),
    [("1000m", "1"), (0.5, "500m"), (1, "1"), ("1024Mi", "1Gi"), ("nonsense", "nonsense"), (True, True), (None, None)],
    ids=str,
)
def test_quantity_is_stored_in_its_canonical_form(written: Any, stored: Any) -> None:
    assert canonical(written) == stored


def test_amounts_below_a_thousandth_are_rounded_up() -> None:
    assert [rounded_up(text) for text in ("100u", "1500u", "1n", "2m")] == ["1m", "2m", "1m", "2m"]


def test_lists_add_up_by_resource() -> None:
    lists = [{"cpu": "500m", "memory": "1Gi"}, {"cpu": "1"}]
    assert total(lists) == {"cpu": "1500m", "memory": "1Gi"}
    assert largest(lists) == {"cpu": "1", "memory": "1Gi"}


@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "e3"]))
@settings(max_examples=50)
def test_canonical_form_keeps_the_amount_and_is_stable(number: int, suffix: str) -> None:
    written = f"{number}{suffix}"
    stored = canonical(written)
    assert amount(stored) == amount(written)
    assert canonical(stored) == stored
