"""Resource lists: sums, bounds and texts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api import amounts
from havre.kit.quantity import Quantity


def test_lists_add_and_compare_by_name() -> None:
    one, two = amounts.read({"cpu": "1", "memory": "1Gi"}), amounts.read({"cpu": "500m", "pods": 2})
    assert amounts.write(amounts.add(one, two)) == {"cpu": "1500m", "memory": "1Gi", "pods": "2"}
    assert amounts.write(amounts.largest(one, two)) == {"cpu": "1", "memory": "1Gi", "pods": "2"}
    assert amounts.write(amounts.mask(one, ("memory", "pods"))) == {"memory": "1Gi"}
    assert amounts.shown(amounts.add(two, one)) == "cpu=1500m,memory=1Gi,pods=2"


lists = st.dictionaries(st.sampled_from("abc"), st.integers(-99, 99).map(Quantity.of))


@given(lists, lists)
@settings(max_examples=50)
def test_order_of_adding_and_comparing_does_not_matter(one: dict[str, Quantity], two: dict[str, Quantity]) -> None:
    assert amounts.add(one, two) == amounts.add(two, one)
    assert amounts.largest(one, two) == amounts.largest(two, one)
