"""What objects cost a quota."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api import amounts, quota
from havre.api.meta import Obj


def limits(*scopes: Obj, **hard: str) -> Obj:
    named = {name.replace("_", ".").replace("..", "/"): value for name, value in hard.items()}
    return {"metadata": {"name": "q"}, "spec": {"hard": named, "scopeSelector": {"matchExpressions": [*scopes]}}}


def pod(cpu: str = "100m", priority: str = "", phase: str = "Running") -> Obj:
    spec: Obj = {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
    if priority:
        spec["priorityClassName"] = priority
    return {"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}


def test_what_is_limited_and_absent_is_counted_as_zero() -> None:
    assert amounts.write(quota.counted(limits(pods="3", cpu="1", secrets="2"), "", "pods", [], 0.0)) == {
        "pods": "0",
        "cpu": "0",
    }


def test_finished_pods_cost_only_their_object() -> None:
    live = limits(pods="3", cpu="1", count__pods="9")
    cost = quota.counted(live, "", "pods", [pod(), pod("1500m"), pod(phase="Succeeded")], 0.0)
    assert amounts.write(cost) == {"pods": "2", "cpu": "1600m", "count/pods": "3"}


@pytest.mark.parametrize(
    ("operator", "values", "count"),
    [
        ("In", ["high"], "1"),
        ("NotIn", ["high"], "2"),
        ("Exists", None, "2"),
        ("DoesNotExist", None, "1"),
    ],
)
def test_priority_scope_chooses_pods(operator: str, values: list[str] | None, count: str) -> None:
    scope = {"scopeName": "PriorityClass", "operator": operator, "values": values}
    pods = [pod(priority="high"), pod(priority="low"), pod()]
    assert amounts.write(quota.counted(limits(scope, pods="9"), "", "pods", pods, 0.0)) == {"pods": count}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5000), max_size=6), st.randoms())
def test_cost_is_the_sum_of_the_parts_in_any_order(millis: list[int], chance: object) -> None:
    pods = [pod(f"{milli}m") for milli in millis]
    chance.shuffle(pods)  # type: ignore[attr-defined]
    total = quota.counted(limits(cpu="9"), "", "pods", pods, 0.0)["cpu"]
    assert total.milli_value() == sum(millis)
