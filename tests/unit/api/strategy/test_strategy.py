"""Steps of writes that recorded answers cannot show: other views, scale, subresources, selectors."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from havre.api.meta import GVK
from havre.api.strategy import (
    allow_create_on_update,
    allow_unconditional_update,
    apply_scale,
    event_core_to_new,
    event_new_to_core,
    field_values,
    has_status,
    hpa_v1_to_v2,
    hpa_v2_to_v1,
    name_validator,
    prepare_status_update,
    prepare_subresource_update,
    prepare_update,
    scale_of,
    semantic_equal,
    set_requester,
    validate_scale,
)
from havre.api.strategy.pods import qos_class

DEPLOYMENT = GVK("apps", "v1", "Deployment")


def test_scale_shows_replicas_and_the_selector_as_a_query() -> None:
    selector = {"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}
    obj = {
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "resourceVersion": "5", "labels": {"a": "b"}},
        "spec": {"replicas": 3, "selector": selector},
        "status": {"replicas": 2},
    }
    assert scale_of(obj) == {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": "d", "namespace": "n", "resourceVersion": "5"},
        "spec": {"replicas": 3},
        "status": {"replicas": 2, "selector": "a in (x,y),b=1"},
    }


def test_scale_to_zero_has_an_empty_spec_and_comes_back_as_zero() -> None:
    obj: dict[str, Any] = {"kind": "ReplicationController", "metadata": {"name": "r"}, "spec": {"selector": {"a": "b"}}}
    scale = scale_of(obj)
    assert (scale["spec"], scale["status"]) == ({}, {"replicas": 0, "selector": "a=b"})
    apply_scale(obj, scale)
    assert obj["spec"]["replicas"] == 0


def test_scale_below_zero_is_refused() -> None:
    errors = validate_scale({"spec": {"replicas": -1}})
    assert [str(e) for e in errors] == ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]


def test_autoscaler_survives_the_way_to_v1_and_back() -> None:
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "minReplicas": 1,
        "maxReplicas": 3,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "5"},
                },
            },
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
            },
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
    }
    status = {"desiredReplicas": 2, "currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}]}
    stored = {"apiVersion": "autoscaling/v2", "kind": "K", "metadata": {"name": "h"}, "spec": spec, "status": status}
    view = hpa_v2_to_v1(copy.deepcopy(stored))
    assert view["spec"]["targetCPUUtilizationPercentage"] == 50
    assert hpa_v1_to_v2(view) == stored


def test_broken_annotations_of_a_v1_autoscaler_count_as_absent() -> None:
    annotations = {"autoscaling.alpha.kubernetes.io/metrics": "{", "autoscaling.alpha.kubernetes.io/behavior": "[1]"}
    obj = {"metadata": {"name": "h", "annotations": annotations}, "spec": {"maxReplicas": 1}}
    converted = hpa_v1_to_v2(obj)
    assert converted["metadata"] == {"name": "h"}
    assert converted["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 80


def test_event_views_are_renamings_of_each_other() -> None:
    core = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {},
        "involvedObject": {"name": "p"},
        "message": "m",
        "count": 2,
    }
    view = event_core_to_new(core)
    assert view == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {},
        "regarding": {"name": "p"},
        "note": "m",
        "deprecatedCount": 2,
    }
    assert event_new_to_core(view) == core


def test_pod_fields_are_texts_and_unset_ones_empty() -> None:
    fields = field_values(GVK("", "v1", "Pod"))
    pod = {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"nodeName": "x"},
        "status": {"podIPs": [{"ip": "::1"}]},
    }
    values = {path: extract(pod) for path, extract in fields.items()}
    assert values["spec.nodeName"] == "x"
    assert values["spec.hostNetwork"] == "false"
    assert (values["status.podIP"], values["status.phase"], values["metadata.namespace"]) == ("::1", "", "n")


@pytest.mark.parametrize(
    ("gvk", "paths"),
    [
        (GVK("", "v1", "ConfigMap"), {"metadata.name", "metadata.namespace"}),
        (GVK("", "v1", "Namespace"), {"metadata.name", "status.phase"}),
        (GVK("batch", "v1", "Job"), {"metadata.name", "metadata.namespace", "status.successful"}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_kinds_can_be_selected_by_their_own_fields_only(gvk: GVK, paths: set[str]) -> None:
    assert set(field_values(gvk)) == paths


def test_update_policies_differ_by_kind() -> None:
    lease, config = GVK("coordination.k8s.io", "v1", "Lease"), GVK("", "v1", "ConfigMap")
    assert (allow_create_on_update(lease), allow_unconditional_update(lease)) == (True, False)
    assert (allow_create_on_update(config), allow_unconditional_update(config)) == (False, True)
    assert (has_status(DEPLOYMENT), has_status(config)) == (True, False)


def test_names_follow_the_rule_of_their_kind() -> None:
    assert name_validator(GVK("", "v1", "Service"))("1a") != []
    assert name_validator(DEPLOYMENT)("1a") == []
    assert name_validator(GVK("rbac.authorization.k8s.io", "v1", "Role"))("system:a") == []


def test_generation_of_the_client_is_ignored_and_rises_with_the_spec() -> None:
    old: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"generation": 4},
        "spec": {"replicas": 1},
    }
    new = copy.deepcopy(old)
    new["metadata"]["generation"] = 99
    prepare_update(new, old)
    assert new["metadata"]["generation"] == 4
    new["spec"]["replicas"] = 2
    prepare_update(new, old)
    assert new["metadata"]["generation"] == 5


def test_deletion_cannot_be_taken_back_by_an_update() -> None:
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"uid": "u", "deletionTimestamp": "t"}}
    new: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}
    prepare_update(new, old)
    assert new["metadata"] == {"uid": "u", "deletionTimestamp": "t"}


def test_status_of_a_strict_kind_leaves_labels_alone() -> None:
    old: dict[str, Any] = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"labels": {"a": "b"}},
        "spec": {"attacher": "x"},
    }
    new = {**old, "metadata": {"annotations": {"c": "d"}}, "spec": {}, "status": {"attached": True}}
    prepare_status_update(new, old)
    assert new == {**old, "status": {"attached": True}}


def test_phase_of_a_volume_carries_the_time_of_its_change() -> None:
    old = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {}, "status": {"phase": "Pending"}}
    new: dict[str, Any] = {**old, "metadata": {}, "status": {"phase": "Bound"}}
    prepare_status_update(new, old, now="2026-01-31T07:00:00Z")
    assert new["status"] == {"phase": "Bound", "lastPhaseTransitionTime": "2026-01-31T07:00:00Z"}


def test_approval_changes_conditions_only() -> None:
    base = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {}}
    old = {**base, "spec": {"username": "u"}, "status": {"certificate": "c"}}
    new: dict[str, Any] = {**base, "metadata": {}, "spec": {}, "status": {"conditions": [{"type": "Approved"}]}}
    prepare_subresource_update("approval", new, old, now="T")
    condition = {"type": "Approved", "lastUpdateTime": "T", "lastTransitionTime": "T"}
    assert new == {**old, "status": {"certificate": "c", "conditions": [condition]}}


def test_requester_is_recorded_without_empty_fields() -> None:
    csr: dict[str, Any] = {"spec": {}}
    set_requester(csr, username="u", uid="", groups=["g"], extra={})
    assert csr == {"spec": {"username": "u", "groups": ["g"]}}


def test_ephemeral_containers_subresource_keeps_the_rest_of_the_pod() -> None:
    base = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generation": 1}}
    old = {**base, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}
    wanted = [{"name": "debug"}]
    new: dict[str, Any] = {**base, "metadata": {"labels": {"a": "b"}}, "spec": {"ephemeralContainers": wanted}}
    prepare_subresource_update("ephemeralcontainers", new, old)
    assert new["spec"] == {"containers": [{"name": "c"}], "ephemeralContainers": wanted}
    assert new["metadata"] == {"generation": 2}


def test_resize_takes_resources_of_the_same_containers() -> None:
    base = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generation": 1}}
    old = {**base, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}}
    new: dict[str, Any] = {
        **base,
        "metadata": {},
        "spec": {"containers": [{"name": "c", "image": "other", "resources": {"requests": {"cpu": "1"}}}]},
    }
    prepare_subresource_update("resize", new, old)
    assert new["spec"]["containers"] == [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]


def test_unknown_subresource_is_an_error_of_the_caller() -> None:
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    with pytest.raises(ValueError, match="no such subresource"):
        prepare_subresource_update("nope", obj, obj)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({"x": []}, {}, True),
        ({"labels": {}}, {}, True),
        ({"emptyDir": {}}, {}, False),
        ({"x": [{"y": None}]}, {"x": [{}]}, True),
        ({"x": [1, 2]}, {"x": [2, 1]}, False),
    ],
    ids=str,
)
def test_absent_and_empty_are_the_same_for_lists_and_labels(a: Any, b: Any, same: bool) -> None:
    assert semantic_equal(a, b) is same


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"limits": {"cpu": "0"}}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}], "Burstable"),
    ],
    ids=str,
)
def test_quality_of_service_follows_requests_and_limits(resources: list[Any], expected: str) -> None:
    assert qos_class({"containers": [{"resources": item} for item in resources]}) == expected
