"""Our answer to each recorded request is the one that kube-apiserver 1.34 gave, but for what other parts of it add.

The recordings are free of what allocators, admission and the clock contribute: addresses, tolerations, uids, times.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from havre.api.defaults import apply_defaults
from havre.api.errors import Invalid
from havre.api.meta import GVK
from havre.api.strategy import (
    hpa_v1_to_v2,
    hpa_v2_to_v1,
    prepare_create,
    prepare_subresource_update,
    prepare_update,
    warnings,
)
from havre.api.validation import validate_create, validate_status_update, validate_update

DATA = Path(__file__).parents[3] / "data/builtin"
Case = dict[str, Any]
CASES: list[Case] = [case for file in sorted(DATA.glob("*.json")) for case in json.loads(file.read_text())]


def created(case: Case) -> dict[str, Any]:
    """What a create leads to: the object, or the Status of its errors."""
    obj = copy.deepcopy(case["body"])
    metadata = obj.setdefault("metadata", {})
    metadata |= {"uid": "UID", "creationTimestamp": "2026-01-31T07:00:00Z"}
    if "/namespaces/" in case["path"]:
        metadata["namespace"] = "ns"
    apply_defaults(obj)
    old_view = (obj["apiVersion"], obj["kind"]) == ("autoscaling/v1", "HorizontalPodAutoscaler")
    if old_view:
        obj = hpa_v1_to_v2(obj)
        apply_defaults(obj)
    prepare_create(obj)
    if errors := validate_create(obj):
        return _status(obj, errors)
    return hpa_v2_to_v1(obj) if old_view else obj


def updated(case: Case) -> dict[str, Any]:
    new, old = copy.deepcopy(case["new"]), copy.deepcopy(case["old"])
    apply_defaults(new)
    subresource = case.get("subresource", "")
    if subresource:
        prepare_subresource_update(subresource, new, old, now="2026-01-31T08:00:00Z")
        errors = validate_status_update(new, old)
    else:
        prepare_update(new, old)
        errors = validate_update(new, old)
    return _status(new, errors) if errors else new


def _status(obj: dict[str, Any], errors: list[Any]) -> dict[str, Any]:
    gvk = GVK.of(obj)
    group = "" if gvk.kind == "Event" else gvk.group  # both views of an event name the core kind
    return Invalid.of(group, gvk.kind, obj["metadata"].get("name", ""), errors).status()


def expected(case: Case) -> Any:
    if "answer" in case:
        return case["answer"]
    return (case["error"]["message"], case["error"]["causes"])


def actual(case: Case) -> Any:
    answer = created(case) if "body" in case else updated(case)
    if answer["kind"] != "Status":
        return answer
    return (answer["message"], answer["details"]["causes"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_answer_is_that_of_the_reference_server(case: Case) -> None:
    assert actual(case) == expected(case)


@pytest.mark.parametrize("case", [c for c in CASES if "answer" in c], ids=lambda case: case["name"])
def test_defaults_of_a_stored_object_change_nothing(case: Case) -> None:
    stored = copy.deepcopy(case["answer"])
    apply_defaults(stored)
    assert stored == case["answer"]


@pytest.mark.parametrize("case", [c for c in CASES if "warnings" in c], ids=lambda case: case["name"])
def test_warnings_are_those_of_the_reference_server(case: Case) -> None:
    obj = copy.deepcopy(case["body"])
    apply_defaults(obj)
    assert sorted(warnings(obj)) == sorted(case["warnings"])
