from __future__ import annotations

from typing import Any

import pytest

from havre.api.kinds import KINDS
from havre.api.meta import GVK
from havre.api.schemas import definitions, described, schema_name

PREFIX = "#/components/schemas/"


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_a_definition_has_types_defaults_and_merge_keys_but_no_prose() -> None:
    spec = definitions()["io.k8s.api.apps.v1.DeploymentSpec"]
    assert spec["required"] == ["selector", "template"]
    assert spec["properties"]["replicas"] == {"format": "int32", "type": "integer"}
    assert spec["properties"]["strategy"] == {
        "allOf": [{"$ref": f"{PREFIX}io.k8s.api.apps.v1.DeploymentStrategy"}],
        "default": {},
        "x-kubernetes-patch-strategy": "retainKeys",
    }


def test_enumerations_of_the_go_source_are_there() -> None:
    container = definitions()["io.k8s.api.core.v1.Container"]["properties"]
    assert container["imagePullPolicy"]["enum"] == ["Always", "IfNotPresent", "Never"]
    modes = definitions()["io.k8s.api.core.v1.PersistentVolumeSpec"]["properties"]["accessModes"]
    assert modes["items"]["enum"] == ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]


def test_a_field_called_description_is_not_taken_for_prose() -> None:
    assert definitions()["io.k8s.api.scheduling.v1.PriorityClass"]["properties"]["description"] == {"type": "string"}


@pytest.mark.parametrize(
    ("gvk", "name"),
    [
        (GVK("apps", "v1", "Deployment"), "io.k8s.api.apps.v1.Deployment"),
        (GVK("", "v1", "PodList"), "io.k8s.api.core.v1.PodList"),
        (GVK("autoscaling", "v1", "Scale"), "io.k8s.api.autoscaling.v1.Scale"),
        (GVK("policy", "v1", "Eviction"), "io.k8s.api.policy.v1.Eviction"),
        (GVK("batch", "v1", "DeleteOptions"), "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
    ],
)
def test_kinds_lists_and_options_have_definitions(gvk: GVK, name: str) -> None:
    assert schema_name(gvk) == name


def test_an_unknown_kind_has_no_definition() -> None:
    with pytest.raises(KeyError):
        schema_name(GVK("example.com", "v1", "Widget"))


def test_every_kind_and_every_reference_leads_to_a_definition() -> None:
    known = definitions()
    assert {kind.schema for kind in KINDS} <= known.keys()
    assert {reference.removeprefix(PREFIX) for reference in references(dict(known))} <= known.keys()


def test_a_described_definition_is_the_same_with_prose() -> None:
    lease = described("io.k8s.api.coordination.v1.LeaseSpec")
    assert lease["description"] == "LeaseSpec is a specification of a Lease."
    texts = {name: field.pop("description") for name, field in lease["properties"].items()}
    assert texts["leaseTransitions"] == "leaseTransitions is the number of transitions of a lease between holders."
    assert lease["properties"] == definitions()["io.k8s.api.coordination.v1.LeaseSpec"]["properties"]
