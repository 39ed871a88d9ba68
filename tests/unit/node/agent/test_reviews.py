from __future__ import annotations

from typing import Any, cast

import pytest

from havre.machinery.api import Api
from havre.node.agent.endpoint import User
from havre.node.agent.reviews import Reviews


class Answering:
    """An API that answers every review with this status."""

    def __init__(self, status: dict[str, Any] | None) -> None:
        self.status = status
        self.asked: list[dict[str, Any]] = []

    async def create(self, obj: dict[str, Any], *, manager: str, dry_run: bool = False) -> dict[str, Any]:
        self.asked.append(obj)
        return {**obj, "status": self.status} if self.status is not None else obj


def reviews(api: Answering) -> Reviews:
    return Reviews(cast("Api", api), "harbour")


async def test_a_right_is_asked_for_on_the_subresource_of_the_node() -> None:
    api = Answering({"allowed": True})
    assert await reviews(api).authorize(User("a", ("g",)), "get", "metrics") is True
    attributes = {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "harbour"}
    assert api.asked == [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "a", "groups": ["g"], "resourceAttributes": attributes},
        }
    ]


@pytest.mark.parametrize("status", [None, {}, {"allowed": False}, {"allowed": False, "denied": True}])
async def test_what_is_not_allowed_is_refused(status: dict[str, Any] | None) -> None:
    assert await reviews(Answering(status)).authorize(User("a"), "get", "proxy") is False


async def test_a_token_names_its_user() -> None:
    user = {"username": "system:serviceaccount:a:b", "groups": ["system:serviceaccounts"]}
    api = Answering({"authenticated": True, "user": user})
    assert await reviews(api).authenticate("t") == User("system:serviceaccount:a:b", ("system:serviceaccounts",))
    assert api.asked == [{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "t"}}]


@pytest.mark.parametrize("status", [None, {}, {"authenticated": False}, {"error": "expired"}])
async def test_a_token_that_is_not_good_names_nobody(status: dict[str, Any] | None) -> None:
    assert await reviews(Answering(status)).authenticate("t") is None
