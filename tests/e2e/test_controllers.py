"""The controllers that need no node, on a real API server in this process: what kubectl users rely on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from havre.api.errors import Forbidden
from havre.api.kinds import Kind
from havre.api.meta import GVK, Obj
from havre.control import workloads
from havre.control.apiserver.control_plane import ISSUER, CacheLister, Config, ControlPlane
from havre.control.apiserver.service_account_tokens import Tokens
from havre.machinery.api import Api, Ref

NAMESPACE = GVK("", "v1", "Namespace")
MAP = GVK("", "v1", "ConfigMap")
SECRET = GVK("", "v1", "Secret")
ACCOUNT = GVK("", "v1", "ServiceAccount")
QUOTA = GVK("", "v1", "ResourceQuota")
ROLE = GVK("rbac.authorization.k8s.io", "v1", "ClusterRole")
DEFINITION = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
WIDGET = GVK("example.com", "v1", "Widget")
PATIENCE = 20.0  # seconds; everything here takes milliseconds on an idle machine


@asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[Api]:
    async def discover() -> list[Kind]:
        return [resource.kind for resource in plane.registry]

    tokens = Tokens(ISSUER, plane.pki.signing_key, CacheLister(plane.cache).lookup)
    config = workloads.Config(discover, plane.pki.authority.certificate.decode(), tokens.legacy)
    ready = asyncio.Event()
    task = asyncio.create_task(workloads.run(plane.local, config, ready=ready))
    try:
        await asyncio.wait_for(ready.wait(), PATIENCE)
        yield plane.local
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane(Config(tmp_path, port=0))
    await plane.start()
    try:
        yield plane
    finally:
        await plane.close(grace=0.1)


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    async with running(plane) as api:
        yield api


async def until(holds: Callable[[], Awaitable[object]]) -> float:
    """Wait for something to become true; the seconds it took."""
    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - asks as a user would
            await asyncio.sleep(0.005)
    return time.perf_counter() - began


def obj(gvk: GVK, name: str, namespace: str = "a", **fields: object) -> Obj:
    meta = fields.pop("meta", {})
    assert isinstance(meta, dict)
    spaced = {"namespace": namespace} if namespace else {}
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": name, **spaced, **meta}, **fields}


async def make(api: Api, *objects: Obj) -> list[Obj]:
    return [await api.create(each, manager="test") for each in objects]


def owned_by(owner: Obj, *, blocks: bool = False) -> dict[str, object]:
    ref = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {"ownerReferences": [{**ref, "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks}]}


def gone(api: Api, *refs: Ref) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return not any([await api.get(ref) for ref in refs])

    return holds


def present(api: Api, *refs: Ref) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return all([await api.get(ref) for ref in refs])

    return holds


async def space(api: Api, name: str = "a") -> None:
    await make(api, obj(NAMESPACE, name, ""))
    await until(present(api, Ref(ACCOUNT, name, "default"), Ref(MAP, name, "kube-root-ca.crt")))


async def test_namespace_gets_its_account_and_certificate_and_gets_them_back(api: Api, plane: ControlPlane) -> None:
    await space(api)
    account, certificate = Ref(ACCOUNT, "a", "default"), Ref(MAP, "a", "kube-root-ca.crt")
    for ref in (account, certificate):
        await api.delete(ref)
    await until(present(api, account, certificate))
    await api.patch(certificate, {"data": {"ca.crt": "broken", "x": "y"}}, kind="merge", manager="test")

    async def repaired() -> bool:
        return bool((await api.get(certificate) or {})["data"] == {"ca.crt": plane.pki.authority.certificate.decode()})

    await until(repaired)


async def test_empty_namespace_goes_at_once_and_a_full_one_soon(api: Api) -> None:
    await space(api)
    await api.delete(Ref(NAMESPACE, "", "a"))
    assert await until(gone(api, Ref(NAMESPACE, "", "a"))) < 1
    await space(api)
    await asyncio.gather(*(make(api, obj(MAP, f"x{i}")) for i in range(1000)))
    await api.delete(Ref(NAMESPACE, "", "a"))
    assert await until(gone(api, Ref(NAMESPACE, "", "a"))) < 5


async def test_namespace_tells_whom_it_waits_for_and_goes_when_they_let_go(api: Api) -> None:
    await space(api)
    await make(api, obj(MAP, "held", meta={"finalizers": ["example.com/hold"]}))
    await api.delete(Ref(NAMESPACE, "", "a"))

    async def told() -> bool:
        conditions = (await api.get(Ref(NAMESPACE, "", "a")) or {})["status"].get("conditions", [])
        return any(
            c["reason"] == "SomeFinalizersRemain" and "example.com/hold in 1" in c["message"] for c in conditions
        )

    await until(told)
    with pytest.raises(Forbidden, match="being terminated"):
        await make(api, obj(MAP, "late"))
    await api.patch(Ref(MAP, "a", "held"), {"metadata": {"finalizers": None}}, kind="merge", manager="test")
    assert await until(gone(api, Ref(NAMESPACE, "", "a"))) < 5  # woken; the next look would come after 15 s


async def test_background_foreground_and_orphan_each_end_as_asked(api: Api) -> None:
    await space(api)
    back, front, free = await make(api, obj(MAP, "back"), obj(MAP, "front"), obj(MAP, "free"))
    await make(
        api,
        obj(MAP, "back-1", meta=owned_by(back)),
        obj(SECRET, "front-1", meta={**owned_by(front, blocks=True), "finalizers": ["example.com/hold"]}),
        obj(MAP, "free-1", meta=owned_by(free)),
    )
    await api.delete(Ref(MAP, "a", "back"), propagation="Background")
    await api.delete(Ref(MAP, "a", "front"), propagation="Foreground")
    await api.delete(Ref(MAP, "a", "free"), propagation="Orphan")
    await until(gone(api, Ref(MAP, "a", "back-1"), Ref(MAP, "a", "free")))

    async def ending() -> bool:
        return "deletionTimestamp" in (await api.get(Ref(SECRET, "a", "front-1")) or {})["metadata"]

    await until(ending)
    assert await api.get(Ref(MAP, "a", "front"))
    assert "ownerReferences" not in (await api.get(Ref(MAP, "a", "free-1")) or {})["metadata"]
    await api.patch(Ref(SECRET, "a", "front-1"), {"metadata": {"finalizers": None}}, kind="merge", manager="test")
    await until(gone(api, Ref(MAP, "a", "front"), Ref(SECRET, "a", "front-1")))


async def test_owner_in_another_namespace_is_no_owner_and_an_event_says_so(api: Api) -> None:
    await space(api)
    await space(api, "b")
    (owner,) = await make(api, obj(MAP, "owner", "b"))
    await make(api, obj(MAP, "crossed", meta=owned_by(owner)))
    await until(gone(api, Ref(MAP, "a", "crossed")))
    events = (await api.list(GVK("", "v1", "Event"), "a")).items
    assert [event["reason"] for event in events] == ["OwnerRefInvalidNamespace"]


def definition() -> Obj:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    return obj(DEFINITION, "widgets.example.com", "", spec=spec)


async def test_custom_resources_own_are_owned_and_go_with_their_namespace(api: Api) -> None:
    await space(api)
    await make(api, definition())

    async def established() -> bool:
        conditions = (await api.get(Ref(DEFINITION, "", "widgets.example.com")) or {}).get("status", {})
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions["conditions"] or ())

    await until(established)
    (owner,) = await make(api, obj(WIDGET, "w"))
    await make(api, obj(MAP, "owned", meta=owned_by(owner)), obj(WIDGET, "other"))
    await api.delete(Ref(WIDGET, "a", "w"))
    await until(gone(api, Ref(MAP, "a", "owned")))
    await api.delete(Ref(NAMESPACE, "", "a"))
    await until(gone(api, Ref(NAMESPACE, "", "a")))
    assert (await api.list(WIDGET)).items == []


async def test_quota_is_counted_and_what_goes_is_given_back(api: Api) -> None:
    await space(api)
    await make(api, obj(MAP, "x"), obj(QUOTA, "q", spec={"hard": {"configmaps": "3", "pods": "1"}}))

    def used(count: str) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            status = (await api.get(Ref(QUOTA, "a", "q")) or {}).get("status") or {}
            return (status.get("used") or {}).get("configmaps") == count

        return holds

    await until(used("2"))
    await make(api, obj(MAP, "y"))
    with pytest.raises(Forbidden, match="exceeded quota: q"):
        await make(api, obj(MAP, "z"))
    await api.delete(Ref(MAP, "a", "x"))
    await until(used("2"))
    await make(api, obj(MAP, "z"))


async def test_token_secret_is_filled_in_and_goes_with_its_account(api: Api) -> None:
    await space(api)
    name = {"kubernetes.io/service-account.name": "bot"}
    await make(
        api,
        obj(ACCOUNT, "bot"),
        obj(SECRET, "tok", type="kubernetes.io/service-account-token", meta={"annotations": name}),
    )

    async def filled() -> bool:
        return {"token", "ca.crt", "namespace"} <= (
            (await api.get(Ref(SECRET, "a", "tok")) or {}).get("data") or {}
        ).keys()

    await until(filled)
    await api.delete(Ref(ACCOUNT, "a", "bot"))
    await until(gone(api, Ref(SECRET, "a", "tok")))


async def test_cluster_role_gathers_the_rules_of_those_it_selects(api: Api) -> None:
    rule = {"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}
    label = {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}
    await make(api, obj(ROLE, "widgets-view", "", rules=[rule], meta=label))

    async def gathered() -> bool:
        return rule in ((await api.get(Ref(ROLE, "", "view")) or {}).get("rules") or [])

    await until(gathered)
    await api.delete(Ref(ROLE, "", "widgets-view"))

    async def dropped() -> bool:
        return not await gathered()

    await until(dropped)


async def test_work_that_was_cut_off_is_finished_by_the_next_start(plane: ControlPlane) -> None:
    async with running(plane) as api:
        await space(api)
        (owner,) = await make(api, obj(MAP, "owner"))
        await asyncio.gather(*(make(api, obj(MAP, f"x{i}", meta=owned_by(owner))) for i in range(200)))
        await api.delete(Ref(MAP, "a", "owner"))
        await make(api, obj(NAMESPACE, "b", ""))
        await api.delete(Ref(NAMESPACE, "", "b"))
    async with running(plane) as api:
        await until(gone(api, *(Ref(MAP, "a", f"x{i}") for i in range(200)), Ref(NAMESPACE, "", "b")))
