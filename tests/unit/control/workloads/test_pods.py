"""Which pods count, and which of many goes first."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.meta import Obj, rfc3339
from havre.control.workloads.pods import available_at, first_to_go, is_active, is_available, next_available

NOW = 1_800_000_000.0


def pod(name: str, *, node: str = "n", phase: str = "Running", ready: float | None = 1000.0, **more: Any) -> Obj:
    """`ready`: seconds ago; None is not ready."""
    meta = {"name": name, "uid": name, "creationTimestamp": rfc3339(NOW - more.pop("age", 5000.0)), **more}
    conditions = []
    if ready is not None:
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW - ready)}]
    return {"metadata": meta, "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": conditions}}


def names(pods: list[Obj]) -> list[str]:
    return [each["metadata"]["name"] for each in pods]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pod("z", node=""), pod("a", phase="Pending")),
        (pod("z", phase="Pending"), pod("a")),
        (pod("z", ready=None), pod("a")),
        (pod("z", annotations={"controller.kubernetes.io/pod-deletion-cost": "-1"}), pod("a")),
        (pod("z", ready=10.0), pod("a", ready=100_000.0)),
        (pod("z", age=10.0), pod("a", age=100_000.0)),
    ],
    ids=["no node", "pending", "not ready", "cheap", "young in readiness", "young"],
)
def test_scale_down_takes_first(first: Obj, second: Obj) -> None:
    assert names(first_to_go([second, first], (), NOW)) == names([first, second])


def test_crowded_node_gives_first() -> None:
    lonely, one, two = pod("a", node="x"), pod("y", node="y"), pod("z", node="y")
    assert names(first_to_go([lonely, one], [lonely, one, two], NOW)) == ["y", "a"]


def test_many_restarts_go_before_few() -> None:
    calm, restless = pod("a"), pod("z")
    restless["status"]["containerStatuses"] = [{"name": "c", "restartCount": 7}]
    assert names(first_to_go([calm, restless], (), NOW)) == ["z", "a"]


def test_similar_ages_are_decided_by_uid_and_not_by_the_newest() -> None:
    assert names(first_to_go([pod("b", ready=1000.0), pod("a", ready=1010.0)], (), NOW)) == ["a", "b"]


def test_availability_comes_with_time() -> None:
    young = pod("a", ready=4.0)
    assert not is_available(young, 10, NOW)
    assert is_available(young, 4, NOW)
    assert next_available([young], 10, NOW) == pytest.approx(6.0)
    assert available_at(pod("b", ready=None), 0) is None


def test_finished_and_leaving_pods_are_not_active() -> None:
    assert is_active(pod("a"))
    assert not is_active(pod("a", phase="Failed"))
    assert not is_active(pod("a", deletionTimestamp=rfc3339(NOW)))
