"""Kinds that are answered and not stored."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUTHZ = "/apis/authorization.k8s.io/v1"
ASKED = {"resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "default"}}


@pytest.mark.parametrize(("user", "allowed"), [("root", True), ("bob", False)])
async def test_a_user_can_ask_what_she_may(plane: Any, user: str, allowed: bool) -> None:
    headers = {"impersonate-user": "root", "impersonate-group": "system:masters"} if allowed else {}
    reply = await plane.ask(
        "POST",
        f"{AUTHZ}/subjectaccessreviews",
        {"spec": {**ASKED, "user": user, "groups": ["system:masters"] if allowed else []}},
        headers=headers,
    )
    assert (reply.status, reply.json()["status"]["allowed"]) == (201, allowed)


async def test_nothing_of_a_review_is_stored(plane: Any) -> None:
    before = plane.cache.revision
    await plane.ask("POST", f"{AUTHZ}/selfsubjectaccessreviews", {"spec": ASKED})
    assert plane.cache.revision == before
    assert (await plane.ask("GET", f"{AUTHZ}/selfsubjectaccessreviews")).status == 405


async def test_a_review_of_another_kind_is_refused(plane: Any) -> None:
    reply = await plane.ask("POST", f"{AUTHZ}/selfsubjectaccessreviews", {"kind": "Pod", "spec": ASKED})
    assert reply.status == 400


async def test_component_statuses_are_still_listed(plane: Any) -> None:
    listed = await plane.ask("GET", "/api/v1/componentstatuses")
    assert [i["metadata"]["name"] for i in listed.json()["items"]] == ["controller-manager", "etcd-0", "scheduler"]
    assert listed.headers["warning"] == '299 - "v1 ComponentStatus is deprecated in v1.19+"'
    assert (await plane.ask("GET", "/api/v1/componentstatuses/etcd-0")).json()["conditions"][0]["status"] == "True"
    assert (await plane.ask("POST", "/api/v1/componentstatuses", {})).status == 405
