"""Default classes, growth of claims, and what is held while in use."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.control.apiserver.admission.storage import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
CLAIMS = "persistentvolumeclaims"


def a_class(name: str, made: str, mark: str = "storageclass.kubernetes.io/is-default-class", **more: Any) -> Any:
    annotations = {mark: "true"}
    return {"metadata": {"name": name, "creationTimestamp": made, "annotations": annotations}, **more}


def claim(size: str = "1Gi", **spec: Any) -> dict[str, Any]:
    requests = {"storage": size}
    return {
        "metadata": {"name": "data"},
        "spec": {"resources": {"requests": requests}, **spec},
        "status": {"phase": "Bound"},
    }


async def test_claims_and_volumes_are_held_by_a_finalizer_once(ask: Any) -> None:
    req = ask(CREATE, CLAIMS, claim())
    await StorageObjectInUseProtection().admit(req)
    await StorageObjectInUseProtection().admit(req)
    assert req.obj["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    req = ask(CREATE, "persistentvolumes", {"metadata": {"name": "v", "finalizers": ["mine"]}}, namespace="")
    await StorageObjectInUseProtection().admit(req)
    assert req.obj["metadata"]["finalizers"] == ["mine", "kubernetes.io/pv-protection"]


async def test_a_claim_without_a_class_gets_the_youngest_default(objects: Any, ask: Any) -> None:
    objects.add("storageclasses", a_class("old", "2026-01-01T00:00:00Z"), "storage.k8s.io")
    objects.add("storageclasses", a_class("new", "2026-02-01T00:00:00Z"), "storage.k8s.io")
    for given, expected in (({}, "new"), ({"storageClassName": ""}, ""), ({"storageClassName": "x"}, "x")):
        req = ask(CREATE, CLAIMS, claim(**given))
        await DefaultStorageClass(objects).admit(req)
        assert req.obj["spec"]["storageClassName"] == expected


async def test_an_ingress_without_a_class_gets_the_default(objects: Any, ask: Any) -> None:
    mark = "ingressclass.kubernetes.io/is-default-class"
    objects.add("ingressclasses", a_class("main", "2026-01-01T00:00:00Z", mark), "networking.k8s.io")
    req = ask(CREATE, "ingresses", {"metadata": {"name": "i"}, "spec": {}}, group="networking.k8s.io")
    await DefaultIngressClass(objects).admit(req)
    assert req.obj["spec"] == {"ingressClassName": "main"}


async def test_a_claim_grows_only_where_its_class_lets_it(objects: Any, ask: Any) -> None:
    objects.add("storageclasses", a_class("fixed", "2026-01-01T00:00:00Z"), "storage.k8s.io")
    grows = a_class("grows", "2026-01-01T00:00:00Z", allowVolumeExpansion=True)
    objects.add("storageclasses", grows, "storage.k8s.io")
    plug = PersistentVolumeClaimResize(objects)
    old, new = claim(storageClassName="grows"), claim("2Gi", storageClassName="grows")
    await plug.validate(ask(UPDATE, CLAIMS, new, old))
    with pytest.raises(Forbidden, match="only dynamically provisioned pvc can be resized and the storageclass"):
        await plug.validate(
            ask(UPDATE, CLAIMS, claim("2Gi", storageClassName="fixed"), claim(storageClassName="fixed"))
        )
    with pytest.raises(Forbidden, match="Only bound persistent volume claims can be expanded"):
        await plug.validate(ask(UPDATE, CLAIMS, new, {**old, "status": {"phase": "Pending"}}))
