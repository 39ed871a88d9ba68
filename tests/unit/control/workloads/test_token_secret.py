"""Secrets that hold a token of an account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.api.kinds import KINDS
from havre.api.meta import Obj
from havre.control.workloads import token_secret
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.service_account import SERVICE_ACCOUNT
from havre.control.workloads.token_secret import Drop, Fill
from havre.machinery.api import Ref

KIND = {kind.gvk: kind for kind in KINDS}
TYPE = "kubernetes.io/service-account-token"
ACCOUNT: Obj = {
    "apiVersion": "v1",
    "kind": "ServiceAccount",
    "metadata": {"name": "bot", "namespace": "a", "uid": "bot-1"},
}
FULL = {"ca.crt": "UEVN", "namespace": "YQ==", "token": "Ym90OnRvaw=="}  # PEM, a, bot:tok


def secret(uid: str = "", **data: str) -> Obj:
    annotations = {"kubernetes.io/service-account.name": "bot"}
    annotations |= {"kubernetes.io/service-account.uid": uid} if uid else {}
    meta = {"name": "tok", "namespace": "a", "uid": "s", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": meta, "data": data}


def issue(account: Obj, asked: Obj) -> str:
    return f"{account['metadata']['name']}:{asked['metadata']['name']}"


def test_empty_secret_is_filled_in() -> None:
    assert token_secret.plan(secret(), ACCOUNT, "PEM", issue) == Fill(secret("bot-1", **FULL))


def test_full_secret_is_left_alone_and_a_stale_certificate_renewed() -> None:
    assert token_secret.plan(secret("bot-1", **FULL), ACCOUNT, "PEM", issue) is None
    stale = secret("bot-1", **{**FULL, "ca.crt": "T0xE", "token": "a2VlcA=="})
    assert token_secret.plan(stale, ACCOUNT, "PEM", issue) == Fill(secret("bot-1", **{**FULL, "token": "a2VlcA=="}))


def test_secret_of_an_account_that_is_gone_or_was_made_again_goes() -> None:
    assert token_secret.plan(secret(), None, "PEM", issue) == Drop()
    assert token_secret.plan(secret("bot-0", **FULL), ACCOUNT, "PEM", issue) == Drop()


async def test_secret_is_filled_in_once_and_goes_with_its_account(world: Callable[..., Any]) -> None:
    here = world(ACCOUNT, secret())
    for _ in range(2):
        await token_secret.reconcile(Ref.of(secret()), here, certificate="PEM", issue=issue)
    assert here.objects[Ref.of(secret())]["data"] == FULL
    assert here.writes == 1
    await here.delete(Ref.of(ACCOUNT))
    await token_secret.reconcile(Ref(SERVICE_ACCOUNT, "a", "bot"), here, certificate="PEM", issue=issue)
    assert here.objects == {}


async def test_secrets_of_other_types_are_not_ours(world: Callable[..., Any]) -> None:
    here = world({**secret(), "type": "Opaque"})
    await token_secret.reconcile(Ref.of(secret()), here, certificate="PEM", issue=issue)
    assert here.writes == 0


def test_account_wakes_its_secrets_when_it_comes_and_goes() -> None:
    node = Node("u", Ref.of(ACCOUNT))
    kind = KIND[SERVICE_ACCOUNT]
    assert list(token_secret.wakes(Change(kind, node, None))) == [node.ref]
    assert list(token_secret.wakes(Change(kind, node, ACCOUNT))) == [node.ref]
    assert list(token_secret.wakes(Change(kind, node, ACCOUNT, node))) == []
