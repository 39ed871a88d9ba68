"""Who may ask the agent's endpoint: the API server is asked, as a kubelet asks it.

    reviews = Reviews(api, node_name)
    Endpoint(…, authorize=reviews.authorize, authenticate=reviews.authenticate)

Writes (creates, nothing is stored): SubjectAccessReview, TokenReview.

Source: k8s.io/kubernetes, pkg/kubelet/server/auth.go; k8s.io/apiserver, plugin/pkg/{authorizer,authenticator}/webhook.
"""

from __future__ import annotations

from dataclasses import dataclass

from havre.api.meta import Obj
from havre.machinery.api import Api
from havre.node.agent.endpoint import User

MANAGER = "kubelet"


@dataclass(frozen=True, slots=True)
class Reviews:
    """Rights on the subresources of one Node, and the users behind tokens. Everything raises ApiError."""

    api: Api
    node: str

    async def authorize(self, user: User, verb: str, subresource: str) -> bool:
        asked = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node}
        spec = {"user": user.name, "groups": [*user.groups], "resourceAttributes": asked}
        review = await self._create("authorization.k8s.io/v1", "SubjectAccessReview", spec)
        return bool((review.get("status") or {}).get("allowed"))

    async def authenticate(self, token: str) -> User | None:
        review = await self._create("authentication.k8s.io/v1", "TokenReview", {"token": token})
        status = review.get("status") or {}
        if not status.get("authenticated"):
            return None
        found = status.get("user") or {}
        return User(str(found.get("username", "")), tuple(found.get("groups") or ()))

    async def _create(self, version: str, kind: str, spec: Obj) -> Obj:
        return await self.api.create({"apiVersion": version, "kind": kind, "spec": spec}, manager=MANAGER)
