"""Deletion: what is marked, what holds an object, how long a pod gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api import deletion
from havre.api.errors import BadRequest, Conflict, Invalid
from havre.api.meta import Obj

AT, NOW = 1_700_000_000.0, "2023-11-14T22:13:20Z"


def config_map(**meta: Any) -> Obj:
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "c", "uid": "u", "resourceVersion": "7", **meta},
    }


def pod(phase: str = "Running", node: str = "n1", **meta: Any) -> Obj:
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 30}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "p", **meta},
        "spec": spec,
        "status": {"phase": phase},
    }


def mark(obj: Obj, after: float = 0, **body: Any) -> tuple[Any, Any]:
    new = deletion.mark(obj, body, NOW, AT + after)["metadata"]
    return new.get("deletionTimestamp"), new.get("deletionGracePeriodSeconds")


# what is held


def test_an_object_that_nothing_holds_is_removed_as_it_was() -> None:
    obj = config_map()
    assert deletion.mark(obj, {}, NOW, AT) == config_map()
    assert not deletion.held(obj)


def test_a_finalizer_keeps_the_object_marked() -> None:
    obj = config_map(finalizers=["a/b"], generation=3)
    assert mark(obj) == (NOW, 0)
    assert (deletion.marked(obj), deletion.held(obj), obj["metadata"]["generation"]) == (True, True, 4)
    assert not deletion.held(deletion.remove_finalizer(obj, "a/b"))


def test_removing_one_finalizer_leaves_the_others() -> None:
    obj = deletion.remove_finalizer(config_map(finalizers=["a/b", "c/d"]), "a/b")
    assert obj["metadata"]["finalizers"] == ["c/d"]


def test_a_namespace_is_held_by_the_finalizers_of_its_spec() -> None:
    obj: Obj = {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": "n"},
        "spec": {"finalizers": ["kubernetes"]},
    }
    assert mark(obj) == (NOW, 0)
    assert obj["status"] == {"phase": "Terminating"}
    assert deletion.held(obj)
    obj["spec"]["finalizers"] = []
    assert not deletion.held(obj)


@pytest.mark.parametrize(
    ("body", "finalizers"),
    [
        ({"propagationPolicy": "Foreground"}, ["x/y", "foregroundDeletion"]),
        ({"propagationPolicy": "Orphan"}, ["x/y", "orphan"]),
        ({"propagationPolicy": "Background"}, ["x/y"]),
        ({"orphanDependents": True}, ["x/y", "orphan"]),
        ({"orphanDependents": False}, ["x/y"]),
        ({}, ["x/y", "orphan"]),
    ],
)
def test_the_propagation_policy_decides_the_finalizers_of_the_collector(body: Obj, finalizers: list[str]) -> None:
    obj = config_map(finalizers=["x/y", "orphan"])
    deletion.mark(obj, body, NOW, AT)
    assert obj["metadata"]["finalizers"] == finalizers


def test_a_background_deletion_takes_the_last_finalizer_of_the_collector_away() -> None:
    obj = config_map(finalizers=["orphan"])
    deletion.mark(obj, {"propagationPolicy": "Background"}, NOW, AT)
    assert "finalizers" not in obj["metadata"]
    assert not deletion.held(obj)


# pods


@pytest.mark.parametrize(
    ("obj", "body", "expected"),
    [
        (pod(), {}, ("2023-11-14T22:13:50Z", 30)),
        (pod(), {"gracePeriodSeconds": 5}, ("2023-11-14T22:13:25Z", 5)),
        (pod(), {"gracePeriodSeconds": -1}, ("2023-11-14T22:13:21Z", 1)),
        (pod(), {"gracePeriodSeconds": 0}, (NOW, 0)),
        (pod(node=""), {}, (NOW, 0)),
        (pod("Succeeded"), {}, (NOW, 0)),
        (pod("Failed"), {"gracePeriodSeconds": 60}, (NOW, 0)),
    ],
)  # fmt: skip
def test_a_pod_gets_the_time_that_was_asked_if_a_node_runs_it(obj: Obj, body: Obj, expected: tuple[str, int]) -> None:
    assert mark(obj, **body) == expected


# (seconds later, asked) → what a real server 1.34 answered to a second deletion of a pod marked for 60 s
@pytest.mark.parametrize(
    ("after", "asked", "expected"),
    [
        (1, None, ("2023-11-14T22:14:20Z", 60)),
        (1, 90, ("2023-11-14T22:14:20Z", 60)),
        (1, 20, ("2023-11-14T22:13:40Z", 20)),
        (3, -5, ("2023-11-14T22:13:23Z", 1)),
        (3, 2, ("2023-11-14T22:13:23Z", 1)),
        (3, 0, ("2023-11-14T22:13:23Z", 0)),
    ],
)
def test_a_second_deletion_may_only_shorten_the_time(
    after: float, asked: int | None, expected: tuple[str, int]
) -> None:
    obj = pod()
    mark(obj, gracePeriodSeconds=60)
    obj["status"]["phase"] = "Succeeded"
    assert mark(obj, after, **({} if asked is None else {"gracePeriodSeconds": asked})) == expected


@given(st.lists(st.tuples(st.integers(0, 100), st.none() | st.integers(-3, 100)), max_size=6))
def test_the_grace_period_never_grows(deletions: list[tuple[int, int | None]]) -> None:
    obj, at, graces = pod(), 0, [10**6]
    for wait, asked in deletions:
        at += wait
        graces.append(mark(obj, at, **({} if asked is None else {"gracePeriodSeconds": asked}))[1])
    assert graces == sorted(graces, reverse=True)


# options


@pytest.mark.parametrize(
    "body",
    [
        {"preconditions": "x"},
        {"dryRun": 5},
        {"dryRun": "All"},
        {"gracePeriodSeconds": "5"},
        {"gracePeriodSeconds": True},
        {"orphanDependents": "yes"},
        {"propagationPolicy": ["Orphan"]},
    ],
)
def test_an_option_of_a_wrong_type_is_refused(body: Obj) -> None:
    with pytest.raises(BadRequest, match=f"DeleteOptions.{next(iter(body))}: .* is not of type"):
        deletion.validate_options(body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"propagationPolicy": "Sideways"}, "propagationPolicy"),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, "propagationPolicy"),
        ({"dryRun": ["Some"]}, "dryRun"),
    ],
)
def test_contradictions_and_unknown_words_are_invalid(body: Obj, field: str) -> None:
    with pytest.raises(Invalid) as e:
        deletion.validate_options(body)
    assert e.value.details is not None
    assert [cause["field"] for cause in e.value.details["causes"]] == [field]


def test_good_options_pass() -> None:
    deletion.validate_options({"propagationPolicy": "Foreground", "dryRun": ["All"], "gracePeriodSeconds": 0})
    deletion.validate_options({})


@given(
    st.dictionaries(
        st.sampled_from(["preconditions", "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.lists(st.text())
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_options_from_outside_are_taken_or_refused_and_never_break_the_marking(body: Obj) -> None:
    try:
        deletion.validate_options(body)
    except (BadRequest, Invalid):
        return
    deletion.mark(pod(finalizers=["a/b"]), body, NOW, AT)


def test_preconditions_name_the_object_that_is_meant() -> None:
    deletion.check_preconditions(config_map(), {"preconditions": {"uid": "u", "resourceVersion": "7"}})
    with pytest.raises(Conflict, match=r"the UID in the precondition \(z\) does not match the UID in record \(u\)"):
        deletion.check_preconditions(config_map(), {"preconditions": {"uid": "z"}})
    with pytest.raises(Conflict, match="the ResourceVersion in the precondition"):
        deletion.check_preconditions(config_map(), {"preconditions": {"resourceVersion": "6"}})


def test_a_marked_object_takes_no_new_finalizers() -> None:
    old, new = config_map(deletionTimestamp=NOW, finalizers=["a/b"]), config_map(finalizers=["a/b", "c/d"])
    assert [str(e.path) for e in deletion.keep_marked_rules(new, old)] == ["metadata.finalizers"]
    assert deletion.keep_marked_rules(new, config_map()) == []
    assert deletion.keep_marked_rules(config_map(), old) == []
