"""The walk that sets defaults and the canonical form, beyond what recorded answers show."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.defaults import apply_defaults
from havre.api.defaults.core import pull_policy


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("reg.io:5000/a/b", "Always"),
        ("reg.io:5000/a/b:v1", "IfNotPresent"),
        ("a@sha256:" + "a" * 64, "IfNotPresent"),
        ("a:latest@sha256:" + "a" * 64, "Always"),
        ("Upper/Case", "IfNotPresent"),
        ("", "IfNotPresent"),
    ],
)
def test_image_is_pulled_always_when_its_tag_is_latest(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_custom_kinds_are_left_alone() -> None:
    obj = {"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"labels": {}}, "spec": {"env": []}}
    before = copy.deepcopy(obj)
    apply_defaults(obj)
    assert obj == before


def test_times_are_stored_in_utc_and_whole_seconds() -> None:
    obj: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "firstTimestamp": "2026-01-01T10:00:00.5+02:00",
        "eventTime": "2026-01-01T10:00:00Z",
    }
    apply_defaults(obj)
    assert obj["firstTimestamp"] == "2026-01-01T08:00:00Z"
    assert obj["eventTime"] == "2026-01-01T10:00:00.000000Z"
    assert obj["lastTimestamp"] is None


def test_unknown_fields_survive_for_others_to_judge() -> None:
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "nope": []}
    apply_defaults(obj)
    assert obj["nope"] == []


_CONTAINERS = st.fixed_dictionaries(
    {"name": st.text("abc", max_size=3)},
    optional={
        "image": st.sampled_from(["", "nginx", "nginx:1", "X"]),
        "env": st.lists(st.fixed_dictionaries({"name": st.text("AB", max_size=2), "value": st.text("x", max_size=1)})),
        "resources": st.fixed_dictionaries({}, optional={"limits": st.dictionaries(st.just("cpu"), st.just("1000m"))}),
        "livenessProbe": st.fixed_dictionaries({}, optional={"httpGet": st.fixed_dictionaries({"port": st.just(1)})}),
        "ports": st.lists(st.fixed_dictionaries({"containerPort": st.integers(0, 9)}), max_size=2),
    },
)


@given(st.lists(_CONTAINERS, max_size=3), st.booleans(), st.sampled_from(["Pod", "PodTemplate"]))
@settings(max_examples=50)
def test_second_walk_changes_nothing(containers: list[Any], host_network: bool, kind: str) -> None:
    spec = {"containers": containers, "hostNetwork": host_network}
    body: dict[str, Any] = {"spec": spec} if kind == "Pod" else {"template": {"spec": spec}}
    obj = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, **body}
    apply_defaults(obj)
    once = copy.deepcopy(obj)
    apply_defaults(obj)
    assert obj == once


def test_null_elements_of_lists_are_empty_structures() -> None:
    containers = [None, {"name": "c", "ports": [None]}]
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"hostNetwork": True, "containers": containers}}
    apply_defaults(obj)
    first, second = obj["spec"]["containers"]
    assert (first["name"], first["terminationMessagePolicy"]) == ("", "File")
    assert second["ports"] == [{"containerPort": 0, "protocol": "TCP"}]
