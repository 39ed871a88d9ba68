"""What every implementation of `machinery.api.Api` does, on every server: see conftest for the four of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from havre.api.errors import AlreadyExists, ApiError, BadRequest, Conflict, Expired, Forbidden, Invalid, NotFound
from havre.api.meta import GVK, Obj
from havre.machinery import client
from havre.machinery.api import Api, Ref, WatchEvent
from havre.testing import custom_kind, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

ME = "contract"
CONFIG_MAP = GVK("", "v1", "ConfigMap")
SECRET = GVK("", "v1", "Secret")
POD = GVK("", "v1", "Pod")
SERVICE = GVK("", "v1", "Service")
NAMESPACE = GVK("", "v1", "Namespace")
DEPLOYMENT = GVK("apps", "v1", "Deployment")
CLUSTER_ROLE = GVK("rbac.authorization.k8s.io", "v1", "ClusterRole")
CRD = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")


def config_map(ns: str, name: str = "a", *, data: Obj | None = None, **meta: Any) -> Obj:
    metadata = {"name": name, "namespace": ns, **meta}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {"k": "1"}}


def pod(ns: str, name: str = "p", **meta: Any) -> Obj:
    spec = {"schedulerName": "nobody", "containers": [{"name": "main", "image": "busybox"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": ns, **meta}, "spec": spec}


def secret(ns: str) -> Obj:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": ns}}


def deployment(ns: str, replicas: int = 1) -> Obj:
    labels = {"app": "d"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": ns},
        "spec": {"replicas": replicas, "paused": True, "selector": {"matchLabels": labels}, "template": template},
    }


async def stored(api: Api, ref: Ref) -> Obj:
    obj = await api.get(ref)
    assert obj is not None, f"{ref} is gone"
    return obj


def names(objects: list[Obj]) -> list[str]:
    return [obj["metadata"]["name"] for obj in objects]


def managers(obj: Obj) -> set[tuple[str, str, str]]:
    entries = obj["metadata"]["managedFields"]
    return {(entry["manager"], entry["operation"], entry.get("subresource", "")) for entry in entries}


# create and get


async def test_create_answers_with_what_the_server_has_set(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    meta = made["metadata"]
    assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {"k": "1"})
    assert len(meta["uid"]) == 36
    assert int(meta["resourceVersion"]) > 0
    assert meta["creationTimestamp"].endswith("Z")
    assert managers(made) == {(ME, "Update", "")}


async def test_get_gives_what_create_answered(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    assert await api.get(Ref(CONFIG_MAP, ns, "a")) == made


async def test_what_was_given_and_got_belongs_to_the_caller(api: Api, ns: str) -> None:
    mine = config_map(ns)
    before = repr(mine)
    made = await api.create(mine, manager=ME)
    assert repr(mine) == before
    made["data"]["k"] = "scribbled"
    (await stored(api, Ref.of(mine)))["data"]["k"] = "scribbled"
    (await api.list(CONFIG_MAP, ns, fields="metadata.name=a")).items[0]["data"]["k"] = "scribbled"
    assert (await stored(api, Ref.of(mine)))["data"] == {"k": "1"}


async def test_a_missing_object_is_none(api: Api, ns: str) -> None:
    assert await api.get(Ref(CONFIG_MAP, ns, "nothing")) is None
    assert await api.get(Ref(CLUSTER_ROLE, "", f"nothing-{ns}")) is None


async def test_creating_twice_is_already_exists(api: Api, ns: str) -> None:
    await api.create(config_map(ns), manager=ME)
    with pytest.raises(AlreadyExists) as failure:
        await api.create(config_map(ns), manager=ME)
    assert str(failure.value) == 'configmaps "a" already exists'
    assert failure.value.details == {"name": "a", "kind": "configmaps"}


async def test_creating_in_a_missing_namespace_is_not_found(api: Api, ns: str) -> None:
    with pytest.raises(NotFound, match=f'namespaces "{ns}-x" not found'):
        await api.create(config_map(f"{ns}-x"), manager=ME)


async def test_an_invalid_object_names_its_fields(api: Api, ns: str) -> None:
    with pytest.raises(Invalid) as failure:
        await api.create(config_map(ns, "UPPER"), manager=ME)
    assert failure.value.details is not None
    causes = failure.value.details["causes"]
    assert [(c["reason"], c["field"]) for c in causes] == [("FieldValueInvalid", "metadata.name")]


async def test_a_wrong_type_is_a_bad_request(api: Api, ns: str) -> None:
    with pytest.raises(BadRequest):
        await api.create(config_map(ns, data={"k": 1}), manager=ME)


async def test_generate_name_makes_different_names(api: Api, ns: str) -> None:
    wish = config_map(ns, generateName="gen-")
    del wish["metadata"]["name"]
    first, second = [(await api.create(wish, manager=ME))["metadata"]["name"] for _ in range(2)]
    assert first != second
    assert first.startswith("gen-")
    assert len(first) == len("gen-") + 5


async def test_an_object_to_be_created_has_no_resource_version(api: Api, ns: str) -> None:
    with pytest.raises(ApiError, match="resourceVersion should not be set on objects to be created"):
        await api.create(config_map(ns, resourceVersion="1"), manager=ME)


async def test_unknown_fields_are_dropped(api: Api, ns: str) -> None:
    made = await api.create({**config_map(ns), "nonsense": 1}, manager=ME)
    assert "nonsense" not in made


async def test_defaults_are_filled_in(api: Api, ns: str) -> None:
    made = await api.create(deployment(ns), manager=ME)
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": "25%", "maxSurge": "25%"}
    ports = {"ports": [{"port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": ns}, "spec": ports}
    spec = (await api.create(service, manager=ME))["spec"]
    assert (spec["type"], spec["ports"][0]["protocol"]) == ("ClusterIP", "TCP")
    assert spec["clusterIP"].startswith("10.96.")


async def test_a_secret_takes_plain_strings(api: Api, ns: str) -> None:
    made = await api.create({**secret(ns), "stringData": {"k": "v"}}, manager=ME)
    assert (made["data"], made["type"], "stringData" in made) == ({"k": "dg=="}, "Opaque", False)


async def test_a_kind_that_nobody_serves_is_not_found(api: Api, ns: str) -> None:
    nobody = GVK("nobody.example", "v1", "Nothing")
    obj = {"apiVersion": "nobody.example/v1", "kind": "Nothing", "metadata": {"name": "x", "namespace": ns}}
    with pytest.raises(NotFound):
        await api.list(nobody)
    with pytest.raises(NotFound):
        await api.get(Ref(nobody, ns, "x"))
    with pytest.raises(NotFound):
        await api.create(obj, manager=ME)


async def test_a_namespaced_object_needs_its_namespace(api: Api) -> None:
    with pytest.raises((BadRequest, Invalid), match="namespace"):
        await api.create(config_map(""), manager=ME)


async def test_a_cluster_wide_object_has_no_namespace(api: Api, ns: str) -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ns}, "rules": []}
    made = await api.create(role, manager=ME)
    try:
        assert "namespace" not in made["metadata"]
        assert names((await api.list(CLUSTER_ROLE, fields=f"metadata.name={ns}")).items) == [ns]
    finally:
        await api.delete(Ref(CLUSTER_ROLE, "", ns))


# list


async def test_a_list_is_sorted_and_its_items_say_what_they_are(api: Api, ns: str) -> None:
    for name in ("b", "c", "a"):
        await api.create({**pod(ns, name)}, manager=ME)
    listing = await api.list(POD, ns)
    assert names(listing.items) == ["a", "b", "c"]
    assert {(o["apiVersion"], o["kind"]) for o in listing.items} == {("v1", "Pod")}
    newest = max(int(o["metadata"]["resourceVersion"]) for o in listing.items)
    assert int(listing.revision) >= newest


async def test_an_empty_list_has_a_revision(api: Api, ns: str) -> None:
    listing = await api.list(POD, ns)
    assert (listing.items, int(listing.revision) > 0) == ([], True)


async def test_without_a_namespace_a_list_spans_all(api: Api, ns: str) -> None:
    await api.create(config_map(ns, labels={"suite": ns}), manager=ME)
    await api.create(config_map("default", ns, labels={"suite": ns}), manager=ME)
    try:
        found = (await api.list(CONFIG_MAP, labels=f"suite={ns}")).items
        assert {o["metadata"]["namespace"] for o in found} == {ns, "default"}
    finally:
        await api.delete(Ref(CONFIG_MAP, "default", ns))


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("app=web", ["a", "b"]),
        ("app=web,tier!=db", ["a"]),
        ("app in (web, dns)", ["a", "b", "c"]),
        ("app notin (web)", ["c", "d"]),
        ("tier", ["b"]),
        ("app,!tier", ["a", "c"]),
        ("app=nobody", []),
    ],
)
async def test_label_selectors(api: Api, ns: str, selector: str, found: list[str]) -> None:
    every: dict[str, Obj] = {"a": {"app": "web"}, "b": {"app": "web", "tier": "db"}, "c": {"app": "dns"}, "d": {}}
    for name, labels in every.items():
        await api.create(pod(ns, name, labels=labels), manager=ME)
    assert names((await api.list(POD, ns, labels=selector)).items) == found


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.name!=a", ["b"]),
        ("status.phase=Pending", ["a", "b"]),
        ("status.phase=Pending,metadata.name=b", ["b"]),
        ("spec.nodeName=n1", []),
    ],
)
async def test_field_selectors(api: Api, ns: str, selector: str, found: list[str]) -> None:
    for name in "ab":
        await api.create(pod(ns, name), manager=ME)
    assert names((await api.list(POD, ns, fields=selector)).items) == found


@pytest.mark.parametrize("bad", [{"labels": "a=(b"}, {"fields": "spec.nonsense=1"}])
async def test_a_selector_that_cannot_be_read_is_a_bad_request(api: Api, ns: str, bad: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        await api.list(POD, ns, **bad)


async def test_a_long_list_is_complete(api: Api, ns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    for name in "abcde":
        await api.create(pod(ns, name), manager=ME)
    assert names((await api.list(POD, ns)).items) == ["a", "b", "c", "d", "e"]


# update


async def test_an_update_replaces_the_object(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns, data={"k": "1", "gone": "x"}), manager=ME)
    changed = await api.update({**made, "data": {"k": "2"}}, manager=ME)
    assert changed["data"] == {"k": "2"}
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_an_update_of_an_old_revision_is_a_conflict(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    await api.update({**made, "data": {"k": "2"}}, manager=ME)
    with pytest.raises(Conflict, match="the object has been modified"):
        await api.update({**made, "data": {"k": "3"}}, manager=ME)


async def test_an_update_without_a_revision_wins(api: Api, ns: str) -> None:
    await api.create(config_map(ns), manager=ME)
    assert (await api.update(config_map(ns, data={"k": "2"}), manager=ME))["data"] == {"k": "2"}


async def test_an_update_of_another_life_is_a_conflict(api: Api, ns: str) -> None:
    await api.create(config_map(ns), manager=ME)
    with pytest.raises(Conflict, match="UID in precondition"):
        await api.update(config_map(ns, uid="00000000-0000-0000-0000-000000000000"), manager=ME)


async def test_an_update_of_nothing_is_not_found(api: Api, ns: str) -> None:
    with pytest.raises(NotFound):
        await api.update(config_map(ns), manager=ME)


async def test_an_update_that_changes_nothing_makes_no_revision(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    assert await api.update(made, manager=ME) == made


async def test_the_generation_counts_changes_of_the_spec(api: Api, ns: str) -> None:
    made = await api.create(deployment(ns), manager=ME)
    labelled = await api.patch(Ref.of(made), {"metadata": {"labels": {"x": "y"}}}, kind="merge", manager=ME)
    scaled = await api.patch(Ref.of(made), {"spec": {"replicas": 2}}, kind="merge", manager=ME)
    assert [o["metadata"]["generation"] for o in (made, labelled, scaled)] == [1, 1, 2]


async def test_an_immutable_field_stays(api: Api, ns: str) -> None:
    made = await api.create(deployment(ns), manager=ME)
    selector = {"spec": {"selector": {"matchLabels": {"app": "other"}}}}
    with pytest.raises(Invalid, match=r"spec\.selector"):
        await api.patch(Ref.of(made), selector, kind="merge", manager=ME)


# status


async def test_status_and_spec_are_written_apart(api: Api, ns: str) -> None:
    made = await api.create({**pod(ns), "status": {"phase": "Running"}}, manager=ME)
    assert made["status"]["phase"] == "Pending"
    made["status"]["message"] = "told"
    made["spec"]["containers"][0]["image"] = "ignored"
    told = await api.update(made, manager=ME, subresource="status")
    assert (told["status"]["message"], told["spec"]["containers"][0]["image"]) == ("told", "busybox")
    told["status"]["message"] = "ignored"
    told["spec"]["containers"][0]["image"] = "new"
    changed = await api.update(told, manager=ME)
    assert (changed["status"]["message"], changed["spec"]["containers"][0]["image"]) == ("told", "new")
    assert managers(changed) == {(ME, "Update", ""), (ME, "Update", "status")}


async def test_a_status_patch_leaves_the_spec(api: Api, ns: str) -> None:
    made = await api.create(deployment(ns), manager=ME)
    patch = {"spec": {"replicas": 7}, "status": {"replicas": 1, "readyReplicas": 1}}
    told = await api.patch(Ref.of(made), patch, kind="merge", manager=ME, subresource="status")
    assert (told["spec"]["replicas"], told["status"]["readyReplicas"], told["metadata"]["generation"]) == (1, 1, 1)


async def test_an_applied_status_has_its_own_owner(api: Api, ns: str) -> None:
    await api.apply(pod(ns), manager="spec")
    wish = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": ns}, "status": {"message": "hi"}}
    told = await api.apply(wish, manager="told", subresource="status")
    assert told["status"]["message"] == "hi"
    assert managers(told) == {("spec", "Apply", ""), ("told", "Apply", "status")}


# patch


async def test_a_merge_patch_sets_and_removes(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns, data={"a": "1", "b": "2"}), manager=ME)
    patched = await api.patch(Ref.of(made), {"data": {"a": None, "c": "3"}}, kind="merge", manager=ME)
    assert patched["data"] == {"b": "2", "c": "3"}


async def test_a_json_patch_runs_in_order_or_not_at_all(api: Api, ns: str) -> None:
    ref = Ref.of(await api.create(config_map(ns), manager=ME))
    steps = [{"op": "test", "path": "/data/k", "value": "1"}, {"op": "replace", "path": "/data/k", "value": "2"}]
    assert (await api.patch(ref, steps, kind="json", manager=ME))["data"] == {"k": "2"}
    with pytest.raises(Invalid):
        await api.patch(ref, steps, kind="json", manager=ME)


async def test_a_strategic_patch_merges_lists_by_key(api: Api, ns: str) -> None:
    ref = Ref.of(await api.create(deployment(ns), manager=ME))
    containers = [{"name": "side", "image": "side"}, {"name": "main", "image": "new"}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    patched = await api.patch(ref, patch, kind="strategic", manager=ME)
    found = {c["name"]: c["image"] for c in patched["spec"]["template"]["spec"]["containers"]}
    assert found == {"main": "new", "side": "side"}


async def test_a_patch_can_demand_a_revision(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    old = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    await api.patch(Ref.of(made), {**old, "data": {"k": "2"}}, kind="merge", manager=ME)
    with pytest.raises(Conflict):
        await api.patch(Ref.of(made), {**old, "data": {"k": "3"}}, kind="merge", manager=ME)


async def test_a_patch_that_changes_nothing_makes_no_revision(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    assert await api.patch(Ref.of(made), {"data": {"k": "1"}}, kind="merge", manager=ME) == made


async def test_a_patch_of_nothing_is_not_found(api: Api, ns: str) -> None:
    with pytest.raises(NotFound):
        await api.patch(Ref(CONFIG_MAP, ns, "nothing"), {"data": {}}, kind="merge", manager=ME)


# apply


async def test_apply_creates_and_owns(api: Api, ns: str) -> None:
    made = await api.apply(config_map(ns), manager=ME)
    assert made["data"] == {"k": "1"}
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["fieldsV1"]) == (ME, "Apply", {"f:data": {"f:k": {}}})


async def test_applying_the_same_again_changes_nothing(api: Api, ns: str) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": ns}}
    for wish in (config_map(ns), pod(ns), {**service, "spec": {"ports": [{"port": 80}]}}):
        made = await api.apply(wish, manager=ME)
        assert await api.apply(wish, manager=ME) == made


async def test_what_is_no_longer_applied_goes(api: Api, ns: str) -> None:
    await api.apply(config_map(ns, data={"a": "1", "b": "2"}), manager=ME)
    assert (await api.apply(config_map(ns, data={"a": "1"}), manager=ME))["data"] == {"a": "1"}


async def test_two_managers_keep_their_own_fields(api: Api, ns: str) -> None:
    await api.apply(config_map(ns, data={"a": "1"}), manager="one")
    await api.apply(config_map(ns, data={"b": "2"}), manager="two")
    assert (await api.apply(config_map(ns, data={"a": "3"}), manager="one"))["data"] == {"a": "3", "b": "2"}


async def test_a_field_of_another_is_a_conflict_unless_forced(api: Api, ns: str) -> None:
    await api.apply(config_map(ns, data={"a": "1"}), manager="one")
    with pytest.raises(Conflict) as failure:
        await api.apply(config_map(ns, data={"a": "2"}), manager="two", force=False)
    assert failure.value.details is not None
    cause = failure.value.details["causes"][0]
    assert cause == {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
    taken = await api.apply(config_map(ns, data={"a": "2"}), manager="two")
    assert (taken["data"], managers(taken)) == ({"a": "2"}, {("two", "Apply", "")})


async def test_agreeing_with_another_is_no_conflict(api: Api, ns: str) -> None:
    await api.apply(config_map(ns, data={"a": "1"}), manager="one")
    shared = await api.apply(config_map(ns, data={"a": "1"}), manager="two", force=False)
    assert managers(shared) == {("one", "Apply", ""), ("two", "Apply", "")}


async def test_apply_with_an_old_revision_is_a_conflict(api: Api, ns: str) -> None:
    made = await api.apply(config_map(ns), manager=ME)
    await api.apply(config_map(ns, data={"k": "2"}), manager=ME)
    with pytest.raises(Conflict):
        await api.apply(config_map(ns, resourceVersion=made["metadata"]["resourceVersion"]), manager=ME)


async def test_apply_in_a_missing_namespace_is_not_found(api: Api, ns: str) -> None:
    with pytest.raises(NotFound):
        await api.apply(config_map(f"{ns}-x"), manager=ME)


async def test_apply_to_the_status_of_nothing_is_not_found(api: Api, ns: str) -> None:
    with pytest.raises(NotFound):
        await api.apply({**pod(ns), "status": {"message": "hi"}}, manager=ME, subresource="status")


# delete


async def test_a_deleted_object_is_gone(api: Api, ns: str) -> None:
    ref = Ref.of(await api.create(config_map(ns), manager=ME))
    await api.delete(ref)
    assert await api.get(ref) is None
    with pytest.raises(NotFound):
        await api.delete(ref)


async def test_deletion_protects_a_successor(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    with pytest.raises(Conflict):
        await api.delete(Ref.of(made), uid="00000000-0000-0000-0000-000000000000")
    await api.delete(Ref.of(made), uid=made["metadata"]["uid"])
    assert await api.get(Ref.of(made)) is None


async def test_deletion_protects_a_newer_state(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns), manager=ME)
    ref = Ref.of(made)
    changed = await api.patch(ref, {"data": {"new": "x"}}, kind="merge", manager=ME)
    with pytest.raises(Conflict):
        await api.delete(ref, revision=made["metadata"]["resourceVersion"])
    await api.delete(ref, revision=changed["metadata"]["resourceVersion"])
    assert await api.get(ref) is None


async def test_a_finalizer_holds_what_is_deleted(api: Api, ns: str) -> None:
    made = await api.create(config_map(ns, finalizers=["example.com/hold"]), manager=ME)
    ref = Ref.of(made)
    await api.delete(ref)
    marked = await stored(api, ref)
    assert marked["metadata"]["deletionTimestamp"].endswith("Z")
    await api.delete(ref)
    assert (await stored(api, ref))["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    await api.patch(ref, {"metadata": {"finalizers": None}}, kind="merge", manager=ME)
    assert await api.get(ref) is None


async def test_no_finalizer_joins_a_dying_object(api: Api, ns: str) -> None:
    ref = Ref.of(await api.create(config_map(ns, finalizers=["example.com/hold"]), manager=ME))
    await api.delete(ref)
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
    with pytest.raises(Invalid, match="no new finalizers can be added if the object is being deleted"):
        await api.patch(ref, more, kind="merge", manager=ME)
    await api.patch(ref, {"metadata": {"finalizers": []}}, kind="merge", manager=ME)


@pytest.mark.parametrize(("how", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
async def test_dependents_are_waited_for_by_a_finalizer(api: Api, ns: str, how: Any, finalizer: str) -> None:
    ref = Ref.of(await api.create(config_map(ns, finalizers=["example.com/hold"]), manager=ME))
    await api.delete(ref, propagation=how)
    marked = await stored(api, ref)
    assert finalizer in marked["metadata"]["finalizers"]
    await api.patch(ref, {"metadata": {"finalizers": []}}, kind="merge", manager=ME)


async def test_a_pod_on_no_node_is_gone_at_once(api: Api, ns: str) -> None:
    ref = Ref.of(await api.create(pod(ns), manager=ME))
    await api.delete(ref)
    assert await api.get(ref) is None


async def test_a_pod_on_a_node_gets_its_grace(api: Api, ns: str) -> None:
    bound = pod(ns)
    bound["spec"]["nodeName"] = "nowhere"
    ref = Ref.of(await api.create(bound, manager=ME))
    await api.delete(ref, grace=20)
    assert (await stored(api, ref))["metadata"]["deletionGracePeriodSeconds"] == 20
    await api.delete(ref, grace=0)
    assert await api.get(ref) is None


# dry run


async def test_a_dry_run_answers_and_stores_nothing(api: Api, ns: str) -> None:
    rehearsed = await api.create(config_map(ns), manager=ME, dry_run=True)
    assert rehearsed["metadata"]["uid"]
    ref = Ref.of(rehearsed)
    assert await api.get(ref) is None
    made = await api.create(config_map(ns), manager=ME)
    wish = config_map(ns, data={"k": "2"})
    assert (await api.update(wish, manager=ME, dry_run=True))["data"] == {"k": "2"}
    assert (await api.patch(ref, {"data": {"k": "3"}}, kind="merge", manager=ME, dry_run=True))["data"] == {"k": "3"}
    assert (await api.apply(wish, manager="other", dry_run=True))["data"] == {"k": "2"}
    await api.delete(ref, dry_run=True)
    assert await api.get(ref) == made


async def test_a_dry_run_refuses_like_the_real_thing(api: Api, ns: str) -> None:
    with pytest.raises(Invalid):
        await api.create(config_map(ns, "UPPER"), manager=ME, dry_run=True)
    await api.create(config_map(ns), manager=ME)
    with pytest.raises(AlreadyExists):
        await api.create(config_map(ns), manager=ME, dry_run=True)


# watch


@asynccontextmanager
async def watching(api: Api, gvk: GVK, ns: str, **options: str) -> AsyncIterator[Callable[[], Awaitable[WatchEvent]]]:
    """The next change, bookmarks left out; fails instead of waiting for ever."""
    stream = api.watch(gvk, ns, **options)
    assert isinstance(stream, AsyncGenerator)

    async def next_change() -> WatchEvent:
        async with asyncio.timeout(10):
            while True:
                event: WatchEvent = await anext(stream)
                if event.type != "BOOKMARK":
                    return event

    async with aclosing(stream):
        yield next_change


def shown(event: WatchEvent) -> tuple[str, str]:
    return event.type, event.object["metadata"]["name"]


async def now(api: Api, ns: str, gvk: GVK = POD) -> str:
    return (await api.list(gvk, ns)).revision


async def test_a_watch_sees_every_change_in_order(api: Api, ns: str) -> None:
    since = await now(api, ns, SECRET)
    made = await api.create(secret(ns), manager=ME)
    changed = await api.patch(Ref.of(made), {"metadata": {"labels": {"x": "y"}}}, kind="merge", manager=ME)
    await api.delete(Ref.of(made))
    async with watching(api, SECRET, ns, since=since) as change:
        events = [await change() for _ in range(3)]
    assert [e.type for e in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert [events[0].object, events[1].object] == [made, changed]
    versions = [int(e.object["metadata"]["resourceVersion"]) for e in events]
    assert versions == sorted(set(versions))
    assert events[2].object["metadata"]["labels"] == {"x": "y"}


async def test_a_deleted_pod_says_when_and_with_which_grace(api: Api, ns: str) -> None:
    made = await api.create(pod(ns), manager=ME)
    await api.delete(Ref.of(made))
    async with watching(api, POD, ns, since=made["metadata"]["resourceVersion"]) as change:
        event = await change()
        if event.type == "MODIFIED":  # a kube-apiserver marks it first, in a revision of its own
            event = await change()
    assert shown(event) == ("DELETED", "p")
    assert event.object["metadata"]["deletionGracePeriodSeconds"] == 0
    assert event.object["metadata"]["deletionTimestamp"].endswith("Z")


async def test_a_watch_goes_on_with_what_happens_later(api: Api, ns: str) -> None:
    async with watching(api, POD, ns, since=await now(api, ns)) as change:
        first = asyncio.ensure_future(change())
        await asyncio.sleep(0.02)
        await api.create(pod(ns, "later"), manager=ME)
        assert shown(await first) == ("ADDED", "later")


async def test_a_watch_resumes_after_the_revision_it_names(api: Api, ns: str) -> None:
    made = [await api.create(pod(ns, name), manager=ME) for name in "abc"]
    async with watching(api, POD, ns, since=made[0]["metadata"]["resourceVersion"]) as change:
        assert [shown(await change()) for _ in range(2)] == [("ADDED", "b"), ("ADDED", "c")]


async def test_a_watch_of_a_namespace_sees_no_other(api: Api, ns: str) -> None:
    since = await now(api, ns, CONFIG_MAP)
    await api.create(config_map("default", ns), manager=ME)
    try:
        await api.create(config_map(ns), manager=ME)
        async with watching(api, CONFIG_MAP, ns, since=since, fields="metadata.name!=kube-root-ca.crt") as change:
            assert (await change()).object["metadata"]["namespace"] == ns
    finally:
        await api.delete(Ref(CONFIG_MAP, "default", ns))


async def test_an_object_enters_and_leaves_a_watch_by_its_labels(api: Api, ns: str) -> None:
    since = await now(api, ns)
    ref = Ref.of(await api.create(pod(ns), manager=ME))
    labelled = await api.patch(ref, {"metadata": {"labels": {"x": "y"}}}, kind="merge", manager=ME)
    left = await api.patch(ref, {"metadata": {"labels": None}}, kind="merge", manager=ME)
    async with watching(api, POD, ns, since=since, labels="x=y") as change:
        entering, leaving = await change(), await change()
    assert (entering.type, entering.object) == ("ADDED", labelled)
    assert leaving.type == "DELETED"
    assert leaving.object["metadata"]["labels"] == {"x": "y"}
    assert leaving.object["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_a_watch_by_field_sees_one_object(api: Api, ns: str) -> None:
    since = await now(api, ns)
    for name in "ab":
        await api.create(pod(ns, name), manager=ME)
    async with watching(api, POD, ns, since=since, fields="metadata.name=b") as change:
        assert shown(await change()) == ("ADDED", "b")


async def test_a_no_op_wakes_no_watch(api: Api, ns: str) -> None:
    made = await api.create(pod(ns, "a"), manager=ME)
    await api.update(made, manager=ME)
    await api.create(pod(ns, "b"), manager=ME)
    async with watching(api, POD, ns, since=made["metadata"]["resourceVersion"]) as change:
        assert shown(await change()) == ("ADDED", "b")


async def test_a_forgotten_revision_is_expired(api: Api, ns: str, expire: Callable[[], Awaitable[str]]) -> None:
    await api.create(pod(ns), manager=ME)
    since = await expire()
    with pytest.raises(Expired):
        async with watching(api, POD, ns, since=since) as change:
            await change()


async def test_events_of_both_groups_are_the_same_objects(api: Api, ns: str) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": ns},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": ns},
        "reason": "Tested",
        "message": "hello",
    }
    await api.create(event, manager=ME)
    new = await stored(api, Ref(GVK("events.k8s.io", "v1", "Event"), ns, "e"))
    assert (new["note"], new["regarding"]["name"]) == ("hello", "p")


# admission


async def test_a_pod_gets_its_service_account_and_tolerations(api: Api, ns: str) -> None:
    spec = (await api.create(pod(ns), manager=ME))["spec"]
    assert spec["serviceAccountName"] == "default"
    assert {t["key"] for t in spec["tolerations"]} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }


async def test_a_quota_refuses_what_exceeds_it(api: Api, ns: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": ns}}
    made = await api.create({**quota, "spec": {"hard": {"pods": "0"}}}, manager=ME)
    made["status"] = {"hard": {"pods": "0"}, "used": {"pods": "0"}}
    await api.patch(Ref.of(made), {"status": made["status"]}, kind="merge", manager=ME, subresource="status")

    async def refused() -> bool:  # a kube-apiserver looks at quotas through a cache
        try:
            await api.create(pod(ns, f"p-{secrets.token_hex(3)}"), manager=ME)
        except Forbidden as error:
            return "exceeded quota: q" in str(error)
        return False

    await eventually(refused, within=10)


async def test_nothing_is_created_in_a_dying_namespace(api: Api, ns: str) -> None:
    name = f"{ns}-dying"
    spec = {"finalizers": ["kubernetes"]}
    hold = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "finalizers": ["example.com/hold"]}}
    ref = Ref.of(await api.create({**hold, "spec": spec}, manager=ME))
    await api.delete(ref)
    assert (await stored(api, ref))["status"]["phase"] == "Terminating"
    with pytest.raises(Forbidden, match="because it is being terminated"):
        await api.create(config_map(name), manager=ME)
    await api.patch(ref, {"metadata": {"finalizers": None}}, kind="merge", manager=ME)


# custom kinds

SCHEMA: Obj = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "colour": {"type": "string", "default": "blue"},
            },
        },
        "status": {"type": "object", "properties": {"seen": {"type": "boolean"}}},
    },
}


@asynccontextmanager
async def served(api: Api) -> AsyncIterator[GVK]:
    """A custom kind of its own, ready for use."""
    gvk = GVK(f"g{secrets.token_hex(4)}.example", "v1", "Box")
    crd = await api.create(custom_kind(gvk, schema=SCHEMA), manager=ME)

    async def ready() -> bool:
        try:
            await api.list(gvk)
        except NotFound:
            return False
        return True

    try:
        await eventually(ready, within=20)
        yield gvk
    finally:
        await api.delete(Ref.of(crd))


def box(gvk: GVK, ns: str, **spec: object) -> Obj:
    return {
        "apiVersion": gvk.api_version,
        "kind": gvk.kind,
        "metadata": {"name": "b", "namespace": ns},
        "spec": spec,
    }


async def test_a_custom_kind_is_served_like_any_other(api: Api, ns: str) -> None:
    async with served(api) as gvk:
        since = (await api.list(gvk, ns)).revision
        made = await api.create({**box(gvk, ns, size=1, junk=1), "status": {"seen": True}}, manager=ME)
        assert made["spec"] == {"size": 1, "colour": "blue"}
        assert ("status" in made, made["metadata"]["generation"]) == (False, 1)
        told = await api.patch(Ref.of(made), {"status": {"seen": True}}, kind="merge", manager=ME, subresource="status")
        assert (told["status"], told["metadata"]["generation"]) == ({"seen": True}, 1)
        grown = await api.apply(box(gvk, ns, size=2), manager="other")
        assert (grown["spec"]["size"], grown["metadata"]["generation"]) == (2, 2)
        assert names((await api.list(gvk)).items) == ["b"]
        async with watching(api, gvk, ns, since=since) as change:
            assert [(await change()).type for _ in range(3)] == ["ADDED", "MODIFIED", "MODIFIED"]
        await api.delete(Ref.of(made))
        assert await api.get(Ref.of(made)) is None


async def test_a_custom_object_obeys_its_schema(api: Api, ns: str) -> None:
    async with served(api) as gvk:
        with pytest.raises(Invalid, match=r"spec\.size: Invalid value: 0"):
            await api.create(box(gvk, ns, size=0), manager=ME)
        with pytest.raises(Invalid, match=r"spec\.size: Required value"):
            await api.create(box(gvk, ns), manager=ME)


async def test_a_custom_kind_takes_no_strategic_patch(api: Api, ns: str) -> None:
    async with served(api) as gvk:
        made = await api.create(box(gvk, ns, size=1), manager=ME)
        with pytest.raises(ApiError) as failure:
            await api.patch(Ref.of(made), {"spec": {"size": 2}}, kind="strategic", manager=ME)
        assert failure.value.status_code == 415


async def test_a_custom_kind_goes_with_its_definition(api: Api, ns: str) -> None:
    async with served(api) as gvk:
        made = await api.create(box(gvk, ns, size=1), manager=ME)

    async def gone() -> bool:
        try:
            return await api.get(Ref.of(made)) is None
        except NotFound:
            return True

    await eventually(gone, within=20)
