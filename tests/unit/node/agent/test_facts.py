"""Small facts about pods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.node.agent.pods import NOW, container, instance, pod

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.facts import go_duration, older, overdue, restored


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s")])
def test_durations_read_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_revisions_are_compared_as_numbers() -> None:
    def at(revision: str) -> Obj:
        return {"metadata": {"resourceVersion": revision}}

    assert older(at("9"), at("10"))
    assert not older(at("10"), at("10"))
    assert not older(at("x"), at("10"))


def test_pod_is_overdue_after_its_deadline_and_not_after_its_end() -> None:
    began = {"startTime": "2023-11-14T22:13:10Z"}
    assert overdue(pod(activeDeadlineSeconds=10, status=began), NOW) is not None
    assert overdue(pod(activeDeadlineSeconds=11, status=began), NOW) is None
    assert overdue(pod(activeDeadlineSeconds=1, status={**began, "phase": "Failed"}), NOW) is None
    assert overdue(pod(status=began), NOW) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "x" * 100])
def test_hook_that_cannot_be_read_is_left_out(text: str) -> None:
    found = instance(container("a"))
    broken = replace(found, annotations={**found.annotations, names.PRE_STOP: text})
    assert restored(broken) == {"name": "a"}
