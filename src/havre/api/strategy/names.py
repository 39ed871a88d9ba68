"""What may be the name of an object of each built-in kind.

Source: k8s.io/kubernetes, pkg/apis/*/validation/validation.go (Validate…Name); apimachinery,
pkg/api/validation/name.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from havre.api.meta import GVK
from havre.kit import names
from havre.kit.names import Check

_RBAC: Final = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_CHECKS: Final[Mapping[tuple[str, str], tuple[Check, Check]]] = {
    ("", "Namespace"): (names.dns1123_label, names.dns1123_label_prefix),
    ("", "Event"): (names.path_segment, names.path_segment_prefix),
    ("apps", "StatefulSet"): (names.dns1123_label, names.dns1123_label_prefix),
    ("certificates.k8s.io", "CertificateSigningRequest"): (names.path_segment, names.path_segment_prefix),
    ("", "Service"): (names.dns1035_label, names.dns1035_label_prefix),
    ("networking.k8s.io", "IPAddress"): (names.strict_ip, names.strict_ip),
    **{("rbac.authorization.k8s.io", kind): (names.path_segment, names.path_segment_prefix) for kind in _RBAC},
}
_USUAL: Final = (names.dns1123_subdomain, names.dns1123_subdomain_prefix)


def name_validator(gvk: GVK) -> Check:
    """Complaints about `metadata.name` of that kind; most names are DNS subdomains."""
    return _CHECKS.get((gvk.group, gvk.kind), _USUAL)[0]


def prefix_validator(gvk: GVK) -> Check:
    """Complaints about `metadata.generateName` of that kind."""
    return _CHECKS.get((gvk.group, gvk.kind), _USUAL)[1]
