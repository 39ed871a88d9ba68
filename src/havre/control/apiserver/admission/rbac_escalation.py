"""Nobody grants rights that they do not have: checks writes of roles and of bindings to them.

Upstream does this in the storage of RBAC kinds; here it is one more validator, with the same texts.

Source: k8s.io/kubernetes, pkg/registry/rbac/{role,rolebinding,clusterrole,clusterrolebinding}/policybased.
"""

from __future__ import annotations

from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import AdmissionRequest, Operation

GROUP = "rbac.authorization.k8s.io"
_ROLES = frozenset({"roles", "clusterroles"})
_BINDINGS = frozenset({"rolebindings", "clusterrolebindings"})


class RoleEscalation:
    """Raises Forbidden with the list of rights that the user does not have."""

    concerns = frozenset((GROUP, plural) for plural in _ROLES | _BINDINGS)

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def validate(self, req: AdmissionRequest) -> None:
        asked = req.attributes
        if asked.group != GROUP or req.operation is Operation.DELETE or req.obj is None or asked.subresource:
            return
        if asked.resource in _ROLES:
            self._authorizer.check_role(asked, req.obj, req.old)
        elif asked.resource in _BINDINGS:
            self._authorizer.check_binding(asked, req.obj, req.old)
