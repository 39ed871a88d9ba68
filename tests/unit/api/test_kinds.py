from __future__ import annotations

import pytest

from havre.api.kinds import GROUPS, KINDS, by_gvk, by_gvr
from havre.api.meta import GVK, GVR


def test_a_deployment_is_found_by_kind_and_by_place() -> None:
    deployment = by_gvk(GVK("apps", "v1", "Deployment"))
    assert deployment is not None
    assert by_gvr(GVR("apps", "v1", "deployments")) is deployment
    assert deployment.singular == "deployment"
    assert deployment.short_names == ("deploy",)
    assert deployment.categories == ("all",)
    assert deployment.namespaced
    assert deployment.verbs == ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
    assert [sub.name for sub in deployment.subresources] == ["scale", "status"]
    assert deployment.schema == "io.k8s.api.apps.v1.Deployment"
    assert deployment.list_kind == "DeploymentList"


def test_the_body_of_a_subresource_may_be_of_another_group() -> None:
    pods = by_gvr(GVR("", "v1", "pods"))
    assert pods is not None
    eviction = pods.subresource("eviction")
    assert eviction is not None
    assert eviction.kind == GVK("policy", "v1", "Eviction")
    assert eviction.verbs == ("create",)
    assert pods.subresource("nonsense") is None


@pytest.mark.parametrize(
    ("gvk", "stored_as"),
    [
        (GVK("events.k8s.io", "v1", "Event"), GVK("", "v1", "Event")),
        (GVK("", "v1", "Event"), GVK("", "v1", "Event")),
        (GVK("autoscaling", "v1", "HorizontalPodAutoscaler"), GVK("autoscaling", "v2", "HorizontalPodAutoscaler")),
        (GVK("apps", "v1", "ReplicaSet"), GVK("apps", "v1", "ReplicaSet")),
    ],
)
def test_two_views_of_the_same_objects_are_stored_as_one(gvk: GVK, stored_as: GVK) -> None:
    kind = by_gvk(gvk)
    assert kind is not None
    assert kind.stored_as == stored_as


@pytest.mark.parametrize(
    ("gvr", "stored"),
    [
        (GVR("", "v1", "bindings"), False),
        (GVR("", "v1", "componentstatuses"), False),
        (GVR("authentication.k8s.io", "v1", "tokenreviews"), False),
        (GVR("authorization.k8s.io", "v1", "subjectaccessreviews"), False),
        (GVR("", "v1", "namespaces"), True),
    ],
)
def test_virtual_kinds_are_listed_but_not_stored(gvr: GVR, stored: bool) -> None:
    kind = by_gvr(gvr)
    assert kind is not None
    assert kind.stored is stored


def test_namespaces_cannot_be_deleted_as_a_collection() -> None:
    kind = by_gvk(GVK("", "v1", "Namespace"))
    assert kind is not None
    assert "deletecollection" not in kind.verbs


def test_groups_come_in_the_order_of_discovery_with_the_preferred_version_first() -> None:
    assert list(GROUPS)[:4] == ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]
    assert GROUPS["autoscaling"] == ("v2", "v1")
    assert {(kind.group, kind.version) for kind in KINDS} == {
        (g, v) for g, versions in GROUPS.items() for v in versions
    }


def test_no_alpha_or_beta_is_served() -> None:
    assert all(version.removeprefix("v").isdigit() for versions in GROUPS.values() for version in versions)


def test_every_place_and_every_kind_is_listed_once() -> None:
    assert len({kind.gvr for kind in KINDS}) == len({kind.gvk for kind in KINDS}) == len(KINDS) == 66
