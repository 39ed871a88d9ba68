"""How a plug refuses: `pods "web" is forbidden: WHY`, as k8s.io/apiserver pkg/admission/errors.go builds it."""

from __future__ import annotations

from havre.api.errors import Forbidden
from havre.machinery.admission import AdmissionRequest


def forbidden(req: AdmissionRequest, why: str) -> Forbidden:
    return Forbidden.of(req.attributes.resource, req.attributes.group, name_in(req), why)


def name_in(req: AdmissionRequest) -> str:
    """The name of the object, or what stands for it before a name is generated."""
    if req.attributes.name:
        return req.attributes.name
    metadata = (req.obj or {}).get("metadata") or {}
    return str(metadata.get("name") or metadata.get("generateName") or "Unknown")
