"""NamespaceLifecycle: nothing new in a namespace that is missing or going away; some namespaces stay.

Source: k8s.io/apiserver pkg/admission/plugin/namespace/lifecycle.
"""

from __future__ import annotations

from dataclasses import dataclass

from havre.api.errors import Forbidden, NotFound
from havre.control.apiserver.admission.refusal import forbidden
from havre.machinery.admission import AdmissionRequest, Lister, Operation

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})


@dataclass(frozen=True, slots=True)
class NamespaceLifecycle:
    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        a = req.attributes
        if (a.group, a.resource) == ("", "namespaces"):
            if req.operation == Operation.DELETE and not a.subresource and a.name in IMMORTAL:
                raise Forbidden.of("namespaces", "", a.name, "this namespace may not be deleted")
            return
        if not a.namespace or req.operation in (Operation.DELETE, Operation.CONNECT):
            return
        if a.resource == "localsubjectaccessreviews":
            return  # the answer would tell which namespaces exist
        namespace = self.lister.get("", "namespaces", "", a.namespace)
        if namespace is None:
            raise NotFound.of("namespaces", "", a.namespace)
        terminating = (namespace.get("status") or {}).get("phase") == "Terminating"
        if req.operation == Operation.CREATE and terminating:
            raise _ending(req)


def _ending(req: AdmissionRequest) -> Forbidden:
    name = req.attributes.namespace
    error = forbidden(req, f"unable to create new content in namespace {name} because it is being terminated")
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {name} is being terminated",
        "field": "metadata.namespace",
    }
    error.details = {**(error.details or {}), "causes": [cause]}
    return error
