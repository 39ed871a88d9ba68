"""Cells of who may do what and how requests are served: RBAC, certificates, admission, priority and fairness.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go); k8s.io/kube-aggregator,
pkg/registry/apiservice/etcd (etcd.go).
"""

from __future__ import annotations

from havre.api.meta import Obj
from havre.control.apiserver.printers.reading import (
    EMPTY,
    NONE,
    UNSET,
    condition,
    count,
    created,
    spec_of,
    status_of,
)
from havre.control.apiserver.table import age


def role_binding(obj: Obj) -> list[object]:
    """RoleBinding and ClusterRoleBinding."""
    meta, role = obj["metadata"], obj.get("roleRef") or EMPTY
    subjects = obj.get("subjects") or ()
    accounts = [f"{s.get('namespace', '')}/{s.get('name', '')}" for s in subjects if s.get("kind") == "ServiceAccount"]
    return [
        meta["name"],
        f"{role.get('kind', '')}/{role.get('name', '')}",
        created(meta),
        ", ".join([s.get("name", "") for s in subjects if s.get("kind") == "User"]),
        ", ".join([s.get("name", "") for s in subjects if s.get("kind") == "Group"]),
        ", ".join(accounts),
    ]


def signing_request(obj: Obj) -> list[object]:
    """CertificateSigningRequest."""
    meta, spec = obj["metadata"], spec_of(obj)
    asked = spec.get("expirationSeconds")
    return [
        meta["name"],
        created(meta),
        spec.get("signerName") or NONE,
        spec.get("username", ""),
        NONE if asked is None else age(asked).decode(),
        _signing_state(status_of(obj)),
    ]


def _signing_state(status: Obj) -> str:
    said = {found.get("type") for found in status.get("conditions") or ()}
    state = "Denied" if "Denied" in said else "Approved" if "Approved" in said else "Pending"
    return f"{state}{',Failed' if 'Failed' in said else ''}{',Issued' if status.get('certificate') else ''}"


def webhooks(obj: Obj) -> list[object]:
    """MutatingWebhookConfiguration and ValidatingWebhookConfiguration."""
    meta = obj["metadata"]
    return [meta["name"], count(obj.get("webhooks")), created(meta)]


def admission_policy(obj: Obj) -> list[object]:
    """ValidatingAdmissionPolicy."""
    meta, spec = obj["metadata"], spec_of(obj)
    kind = spec.get("paramKind")
    shown = UNSET if kind is None else f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}"
    return [meta["name"], count(spec.get("validations")), shown, created(meta)]


def admission_binding(obj: Obj) -> list[object]:
    """ValidatingAdmissionPolicyBinding."""
    meta, spec = obj["metadata"], spec_of(obj)
    return [meta["name"], spec.get("policyName", ""), _param(spec.get("paramRef") or EMPTY), created(meta)]


def _param(ref: Obj) -> str:
    if name := ref.get("name"):
        return f"{ref.get('namespace') or '*'}/{name}"
    chosen = ref.get("selector")
    return UNSET if chosen is None else _go_selector(chosen)


def _go_selector(chosen: Obj) -> str:
    """As Go prints the structure; upstream shows that to people, so clients may look for it."""
    pairs = chosen.get("matchLabels") or EMPTY
    labels = "".join([f"{key}: {pairs[key]}," for key in sorted(pairs)])
    terms = "".join(
        [
            f"LabelSelectorRequirement{{Key:{term.get('key', '')},Operator:{term.get('operator', '')},"
            f"Values:[{' '.join(term.get('values') or ())}],}},"
            for term in chosen.get("matchExpressions") or ()
        ]
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )


def flow_schema(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    method = spec.get("distinguisherMethod")
    dangling = condition(status_of(obj).get("conditions"), "Dangling")
    return [
        meta["name"],
        (spec.get("priorityLevelConfiguration") or EMPTY).get("name", ""),
        spec.get("matchingPrecedence") or 0,
        NONE if method is None else method.get("type", ""),
        created(meta),
        "?" if dangling is None else dangling.get("status", ""),
    ]


def priority_level(obj: Obj) -> list[object]:
    """PriorityLevelConfiguration."""
    meta, spec = obj["metadata"], spec_of(obj)
    limited = spec.get("limited")
    queuing = None if limited is None else (limited.get("limitResponse") or EMPTY).get("queuing")
    return [
        meta["name"],
        spec.get("type", ""),
        _number(limited, "nominalConcurrencyShares"),
        *(_number(queuing, key) for key in ("queues", "handSize", "queueLengthLimit")),
        created(meta),
    ]


def _number(limits: Obj | None, key: str) -> object:
    return NONE if limits is None else limits.get(key) or 0


def api_service(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    where = spec.get("service")
    shown = "Local" if where is None else f"{where.get('namespace', '')}/{where.get('name', '')}"
    return [meta["name"], shown, _available(status_of(obj)), created(meta)]


def _available(status: Obj) -> str:
    found = condition(status.get("conditions"), "Available")
    if found is None:
        return "Unknown"
    state, reason = found.get("status", ""), found.get("reason")
    return f"{state} ({reason})" if reason and state != "True" else state
