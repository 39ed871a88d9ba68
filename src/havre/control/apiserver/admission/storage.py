"""DefaultStorageClass, DefaultIngressClass, PersistentVolumeClaimResize, StorageObjectInUseProtection.

Source: k8s.io/kubernetes plugin/pkg/admission/{storage/*,network/defaultingressclass}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from havre.api import amounts
from havre.api.meta import Obj, annotations_of, name_of, parse_time
from havre.control.apiserver.admission.refusal import forbidden
from havre.kit.quantity import ZERO, Quantity
from havre.machinery.admission import AdmissionRequest, Lister, Operation

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
BETA_DEFAULT_CLASS = "storageclass.beta.kubernetes.io/is-default-class"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
INGRESS_DEFAULT = "ingressclass.kubernetes.io/is-default-class"
INGRESS_ANNOTATION = "kubernetes.io/ingress.class"

_PROTECTED = {
    ("", "persistentvolumeclaims"): "kubernetes.io/pvc-protection",
    ("", "persistentvolumes"): "kubernetes.io/pv-protection",
    ("storage.k8s.io", "volumeattributesclasses"): "kubernetes.io/vac-protection",
}


class StorageObjectInUseProtection:
    """A volume or claim in use is not deleted: a finalizer holds it, its controller lets go."""

    concerns: ClassVar = frozenset(_PROTECTED)

    async def admit(self, req: AdmissionRequest) -> None:
        a = req.attributes
        finalizer = _PROTECTED.get((a.group, a.resource))
        if finalizer is None or a.subresource or req.operation != Operation.CREATE or req.obj is None:
            return
        metadata = req.obj["metadata"]
        held = metadata.get("finalizers") or []
        if finalizer not in held:
            metadata["finalizers"] = [*held, finalizer]


@dataclass(frozen=True, slots=True)
class DefaultStorageClass:
    concerns: ClassVar = frozenset({("", "persistentvolumeclaims")})
    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        if not req.targets("", "persistentvolumeclaims") or req.operation != Operation.CREATE or req.obj is None:
            return
        if BETA_CLASS in annotations_of(req.obj) or req.obj["spec"].get("storageClassName") is not None:
            return
        marked = [c for c in self.lister.list("storage.k8s.io", "storageclasses", "") if _is_default(c)]
        if marked:
            req.obj["spec"]["storageClassName"] = name_of(_newest(marked))


@dataclass(frozen=True, slots=True)
class DefaultIngressClass:
    concerns: ClassVar = frozenset({("networking.k8s.io", "ingresses")})
    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        if not req.targets("networking.k8s.io", "ingresses") or req.operation != Operation.CREATE or req.obj is None:
            return
        if INGRESS_ANNOTATION in annotations_of(req.obj) or req.obj["spec"].get("ingressClassName") is not None:
            return
        classes = self.lister.list("networking.k8s.io", "ingressclasses", "")
        marked = [c for c in classes if annotations_of(c).get(INGRESS_DEFAULT) == "true"]
        if marked:
            req.obj["spec"]["ingressClassName"] = name_of(_newest(marked))


@dataclass(frozen=True, slots=True)
class PersistentVolumeClaimResize:
    """A claim grows only where its class can grow volumes."""

    concerns: ClassVar = frozenset({("", "persistentvolumeclaims")})

    lister: Lister

    async def validate(self, req: AdmissionRequest) -> None:
        if not req.targets("", "persistentvolumeclaims") or req.operation != Operation.UPDATE:
            return
        if req.obj is None or req.old is None or _size(req.obj) <= _size(req.old):
            return
        if (req.old.get("status") or {}).get("phase") != "Bound":
            raise forbidden(req, "Only bound persistent volume claims can be expanded")
        name = req.obj["spec"].get("storageClassName") or ""
        found = self.lister.get("storage.k8s.io", "storageclasses", "", name) if name else None
        if found is None or not found.get("allowVolumeExpansion"):
            why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
            raise forbidden(req, why + "support resize")


def _size(claim: Obj) -> Quantity:
    requests = (claim["spec"].get("resources") or {}).get("requests") or {}
    return amounts.read(requests).get("storage", ZERO)


def _is_default(storage_class: Obj) -> bool:
    annotations = annotations_of(storage_class)
    return "true" in (annotations.get(DEFAULT_CLASS), annotations.get(BETA_DEFAULT_CLASS))


def _newest(classes: list[Obj]) -> Obj:
    """Of several defaults the youngest counts, then the first by name."""
    return min(classes, key=lambda c: (-parse_time(c["metadata"]["creationTimestamp"]), name_of(c)))
