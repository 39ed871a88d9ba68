"""Kinds that are answered and not stored: reviews of access, rights and tokens; bindings; component statuses.

Source: k8s.io/kubernetes, pkg/registry/{authentication,authorization,core/componentstatus}.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from havre.api.errors import BadRequest, NotFound
from havre.api.meta import GVK, GVR, Obj
from havre.control.apiserver import answers, bodies, reviews
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.binding import BINDING
from havre.control.apiserver.handlers import Call, Reply, not_allowed
from havre.control.apiserver.negotiate import negotiate
from havre.control.apiserver.resources import dump
from havre.control.apiserver.subresources import Subresources, bind

_AUTHN, _AUTHZ = "authentication.k8s.io", "authorization.k8s.io"
_OLD = "v1 ComponentStatus is deprecated in v1.19+"
Review = Callable[[Call, Obj], Obj]


class VirtualKinds:
    """Finds the function that answers a POST to a kind without objects."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer, subresources: Subresources) -> None:
        self._subresources = subresources
        who, may = authenticator, authorizer
        posted: dict[GVR, tuple[str, Review]] = {
            GVR(_AUTHN, "v1", "tokenreviews"): ("TokenReview", lambda _call, body: reviews.token(who, body)),
            GVR(_AUTHN, "v1", "selfsubjectreviews"): (
                "SelfSubjectReview",
                lambda call, body: reviews.self_subject(body, call.user, time.time()),
            ),
            GVR(_AUTHZ, "v1", "subjectaccessreviews"): (
                "SubjectAccessReview",
                lambda _call, body: reviews.subject_access(may, body),
            ),
            GVR(_AUTHZ, "v1", "localsubjectaccessreviews"): (
                "LocalSubjectAccessReview",
                lambda call, body: reviews.local_subject_access(may, body, call.target.namespace),
            ),
            GVR(_AUTHZ, "v1", "selfsubjectaccessreviews"): (
                "SelfSubjectAccessReview",
                lambda call, body: reviews.self_subject_access(may, body, call.user),
            ),
            GVR(_AUTHZ, "v1", "selfsubjectrulesreviews"): (
                "SelfSubjectRulesReview",
                lambda call, body: reviews.self_subject_rules(may, body, call.user),
            ),
        }
        self._found: dict[GVR, Callable[[Call], Reply]] = {
            gvr: _poster(gvr, kind, review) for gvr, (kind, review) in posted.items()
        }
        self._found[GVR("", "v1", "bindings")] = self._bind
        self._found[GVR("", "v1", "componentstatuses")] = _component_statuses

    def find(self, gvr: GVR) -> Callable[[Call], Reply] | None:
        return self._found.get(gvr)

    def _bind(self, call: Call) -> Reply:
        """POST bindings: the pod is named in the body."""
        if call.verb != "create":
            raise not_allowed()
        body = bodies.unstored(call.request.body, call.content_type, BINDING)
        name = body["metadata"].get("name")
        if not name:
            raise BadRequest("bind a pod: the body must be a v1 Binding whose metadata.name is the pod")
        pods = self._subresources.registry.find("", "v1", "pods")
        return bind(self._subresources, pods, call, name, body)


def _poster(gvr: GVR, kind: str, review: Review) -> Callable[[Call], Reply]:
    def serve(call: Call) -> Reply:
        if call.verb != "create" or call.target.name:
            raise not_allowed()
        body = bodies.unstored(call.request.body, call.content_type, GVK(gvr.group, gvr.version, kind))
        answer = review(call, body)
        return answers.send(201, dump(answer), media=negotiate(call.accept, protobuf=False, transforms=False))

    return serve


def _component_statuses(call: Call) -> Reply:
    """Deprecated since 1.19 and still listed by `kubectl get cs`: what answers this request is healthy."""
    parts = [_component(name) for name in ("controller-manager", "etcd-0", "scheduler")]
    if call.target.name:
        found = next((p for p in parts if p["metadata"]["name"] == call.target.name), None)
        if call.verb != "get":
            raise not_allowed()
        if found is None:
            raise NotFound.of("componentstatus", "", call.target.name)
        return answers.send(200, dump(found), warnings=[_OLD])
    if call.verb != "list":
        raise not_allowed()
    body: Obj = {"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": parts}
    return answers.send(200, dump(body), warnings=[_OLD])


def _component(name: str) -> Obj:
    healthy = {"type": "Healthy", "status": "True", "message": "ok"}
    return {"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [healthy]}
