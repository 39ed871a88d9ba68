"""LimitRanger: defaults, and the texts of every bound."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.control.apiserver.admission.limit_ranger import LimitRanger
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE


@pytest.fixture
def plug(objects: Any) -> LimitRanger:
    limits = [
        {
            "type": "Container",
            "default": {"cpu": "500m", "memory": "256Mi"},
            "defaultRequest": {"cpu": "100m"},
            "max": {"cpu": "1", "memory": "1Gi"},
            "min": {"cpu": "50m"},
            "maxLimitRequestRatio": {"cpu": "6"},
        },
        {"type": "Pod", "max": {"memory": "1Gi"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}},
    ]
    objects.add("limitranges", {"metadata": {"name": "lr", "namespace": "default"}, "spec": {"limits": limits}})
    return LimitRanger(objects)


def claim(storage: str) -> dict[str, Any]:
    return {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": storage}}}}


async def test_containers_get_defaults_and_the_pod_says_so(plug: LimitRanger, ask: Any, pod: Any) -> None:
    req = ask(CREATE, "pods", pod({"initContainers": [{"name": "i", "resources": {"limits": {"cpu": "1"}}}]}))
    await plug.admit(req)
    spec = req.obj["spec"]
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "100m"},
        "limits": {"cpu": "500m", "memory": "256Mi"},
    }
    assert spec["initContainers"][0]["resources"] == {
        "requests": {"cpu": "100m"},
        "limits": {"cpu": "1", "memory": "256Mi"},
    }
    assert req.obj["metadata"]["annotations"] == {
        "kubernetes.io/limit-ranger": "LimitRanger plugin set: cpu request for container c; cpu, memory limit for "
        "container c; cpu request for init container i; memory limit for init container i"
    }


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        (({"cpu": "10m"}, {"cpu": "50m"}), "minimum cpu usage per Container is 50m, but request is 10m"),
        (({}, {"cpu": "500m"}), "minimum cpu usage per Container is 50m.  No request is specified"),
        (({"cpu": "1"}, {}), "maximum cpu usage per Container is 1.  No limit is specified"),
        (({"cpu": "500m"}, {"cpu": "1100m"}), "maximum cpu usage per Container is 1, but limit is 1100m"),
        (
            ({"cpu": "100m"}, {"cpu": "900m"}),
            "cpu max limit to request ratio per Container is 6, but provided ratio is 9.000000",
        ),
        (
            ({"cpu": "100m"}, {"cpu": "200m", "memory": "1025Mi"}),
            "[maximum memory usage per Container is 1Gi, but limit is 1025Mi, "
            "maximum memory usage per Pod is 1Gi, but limit is 1025Mi]",
        ),
    ],
)
async def test_what_is_out_of_bounds_is_refused(
    plug: LimitRanger, ask: Any, pod: Any, resources: tuple[dict[str, str], dict[str, str]], why: str
) -> None:
    requests, limits = resources
    asked = {"requests": requests, "limits": {"memory": "1Mi", **limits}}
    with pytest.raises(Forbidden) as refused:
        await plug.validate(ask(CREATE, "pods", pod(resources=asked)))
    assert refused.value.message.startswith('pods "web" is forbidden: ')
    assert why in refused.value.message


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ("512Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"),
        ("6Gi", "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi"),
    ],
)
async def test_claims_have_bounds_too(plug: LimitRanger, ask: Any, size: str, why: str) -> None:
    with pytest.raises(Forbidden) as refused:
        await plug.validate(ask(CREATE, "persistentvolumeclaims", claim(size), name="data"))
    assert refused.value.message == f'persistentvolumeclaims "data" is forbidden: {why}'
    await plug.validate(ask(CREATE, "persistentvolumeclaims", claim("2Gi")))


async def test_updates_of_pods_and_objects_being_deleted_are_left_alone(plug: LimitRanger, ask: Any, pod: Any) -> None:
    await plug.validate(ask(UPDATE, "pods", pod(), pod()))
    old = {**claim("2Gi"), "metadata": {"name": "data", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    await plug.validate(ask(UPDATE, "persistentvolumeclaims", claim("9Gi"), old))
