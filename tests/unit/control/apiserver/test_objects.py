"""The pipeline of writes: what is stored, what is refused, who wins a race."""

from __future__ import annotations

import asyncio
import secrets
import tracemalloc
from typing import Any

import pytest

from havre.api.errors import AlreadyExists, ApiError, BadRequest, Conflict, Forbidden, Invalid, NotFound
from havre.api.meta import Obj
from havre.control.apiserver import objects as module
from havre.control.apiserver.cache import Entry
from havre.control.apiserver.objects import Options
from havre.control.apiserver.resources import Resource
from havre.control.store.errors import WriteFailed
from havre.machinery.admission import SUPERUSERS, AdmissionRequest, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = User("root", (SUPERUSERS,))


def options(**more: Any) -> Options:
    return Options(ROOT, "tester", **more)


def config_map(name: str = "c", /, data: Any = None, **meta: Any) -> Obj:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, **meta}, "data": data or {"a": "1"}}


def pod(name: str = "p", /, **meta: Any) -> Obj:
    spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n1", "terminationGracePeriodSeconds": 30}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, **meta}, "spec": spec}


@pytest.fixture
def maps(plane: Any) -> Resource:
    found: Resource = plane.registry.find("", "v1", "configmaps")
    return found


@pytest.fixture
def pods(plane: Any) -> Resource:
    found: Resource = plane.registry.find("", "v1", "pods")
    return found


def setting(key: str, value: str, **meta: Any) -> Any:
    """A change that sets one key of a ConfigMap's data."""

    def change(live: Entry) -> Obj:
        obj = live.decode()
        obj["data"][key] = value
        obj["metadata"].update(meta)
        return obj

    return change


# create


async def test_what_is_stored_takes_no_more_memory_than_it_has_bytes(
    plane: Any, namespace: str, maps: Resource
) -> None:
    tracemalloc.start()
    try:
        kept = [plane.objects._stored(maps, config_map(f"c{i}", {"a": "x" * 2000})) for i in range(50)]
        assert tracemalloc.get_traced_memory()[0] < sum(map(len, kept)) + 50 * 300
    finally:
        tracemalloc.stop()


async def test_a_created_object_gets_identity_and_an_owner_of_its_fields(
    plane: Any, namespace: str, maps: Resource
) -> None:
    meta = (await plane.objects.create(maps, namespace, config_map(uid="mine", selfLink="x"), options())).decode()[
        "metadata"
    ]
    assert (meta["name"], meta["namespace"]) == ("c", namespace)
    assert len(meta["uid"]) == 36
    assert meta["resourceVersion"] == str(plane.cache.revision)
    assert "selfLink" not in meta
    (owner,) = meta["managedFields"]
    assert (owner["manager"], owner["operation"], owner["fieldsV1"]) == (
        "tester",
        "Update",
        {"f:data": {".": {}, "f:a": {}}},
    )


async def test_an_object_that_exists_is_not_created_again(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    with pytest.raises(AlreadyExists, match='configmaps "c" already exists'):
        await plane.objects.create(maps, namespace, config_map(), options())


async def test_of_two_concurrent_creations_one_wins(plane: Any, namespace: str, maps: Resource) -> None:
    tries = [plane.objects.create(maps, namespace, config_map(), options()) for _ in range(4)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["AlreadyExists"] * 3 + ["Entry"]


async def test_an_object_with_a_resource_version_cannot_be_created(plane: Any, namespace: str, maps: Resource) -> None:
    with pytest.raises(BadRequest, match="resourceVersion should not be set on objects to be created"):
        await plane.objects.create(maps, namespace, config_map(resourceVersion="1"), options())


async def test_an_invalid_object_is_refused_and_nothing_is_stored(plane: Any, namespace: str, maps: Resource) -> None:
    before = plane.cache.revision
    with pytest.raises(Invalid, match=r"metadata.name: Invalid value"):
        await plane.objects.create(maps, namespace, config_map("Not_Valid"), options())
    assert plane.cache.revision == before


async def test_a_namespace_that_is_not_there_refuses(plane: Any, maps: Resource) -> None:
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        await plane.objects.create(maps, "nowhere", config_map(), options())


async def test_a_generated_name_that_is_taken_is_generated_again(
    plane: Any, namespace: str, maps: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = iter("bbbbb" + "bbbbb" + "ccccc")
    monkeypatch.setattr(secrets, "choice", lambda _alphabet: next(letters))
    made = config_map(generateName="web-")
    del made["metadata"]["name"]
    first = await plane.objects.create(maps, namespace, {**made, "metadata": {**made["metadata"]}}, options())
    second = await plane.objects.create(maps, namespace, {**made, "metadata": {**made["metadata"]}}, options())
    assert [e.decode()["metadata"]["name"] for e in (first, second)] == ["web-bbbbb", "web-ccccc"]
    assert len(second.decode()["metadata"]["managedFields"]) == 1


async def test_a_generated_name_gives_up_when_all_are_taken(
    plane: Any, namespace: str, maps: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "choice", lambda _alphabet: "x")
    await plane.objects.create(maps, namespace, config_map("web-xxxxx"), options())
    made = config_map(generateName="web-")
    del made["metadata"]["name"]
    with pytest.raises(AlreadyExists, match='"web-xxxxx" already exists'):
        await plane.objects.create(maps, namespace, made, options())


async def test_a_long_prefix_of_a_generated_name_is_cut(plane: Any, namespace: str, maps: Resource) -> None:
    made = config_map(generateName="a" * 80)
    del made["metadata"]["name"]
    name = (await plane.objects.create(maps, namespace, made, options())).decode()["metadata"]["name"]
    assert (len(name), name[:58]) == (63, "a" * 58)


# update


async def test_an_update_replaces_and_counts_on(plane: Any, namespace: str, maps: Resource) -> None:
    old = (await plane.objects.create(maps, namespace, config_map(), options())).decode()
    entry, created = await plane.objects.update(maps, namespace, "c", setting("b", "2"), options())
    new = entry.decode()
    assert (created, new["data"]) == (False, {"a": "1", "b": "2"})
    assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])
    assert new["metadata"]["uid"] == old["metadata"]["uid"]


async def test_an_update_without_identity_keeps_the_identity_of_the_object(
    plane: Any, namespace: str, maps: Resource
) -> None:
    old = (await plane.objects.create(maps, namespace, config_map(), options())).decode()["metadata"]
    entry, _ = await plane.objects.update(maps, namespace, "c", lambda _: config_map(data={"z": "9"}), options())
    new = entry.decode()["metadata"]
    assert [new[k] for k in ("uid", "creationTimestamp", "namespace")] == [
        old[k] for k in ("uid", "creationTimestamp", "namespace")
    ]


async def test_an_update_that_changes_nothing_writes_nothing(plane: Any, namespace: str, maps: Resource) -> None:
    first = await plane.objects.create(maps, namespace, config_map(), options())
    seen: list[Any] = []
    watch = plane.cache.watch(maps.scope(namespace), None, seen.extend)
    before = plane.cache.revision
    entry, _ = await plane.objects.update(maps, namespace, "c", lambda live: live.decode(), options())
    again, _ = await plane.objects.update(maps, namespace, "c", lambda live: config_map(), options())
    assert entry is first
    assert again is first
    assert (plane.cache.revision, seen) == (before, [])
    watch.cancel()


async def test_concurrent_updates_without_a_version_all_land(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    await asyncio.gather(
        *(plane.objects.update(maps, namespace, "c", setting(f"k{i}", "x"), options()) for i in range(8))
    )
    entry = plane.cache.get(maps.key(namespace, "c"))
    assert sorted(entry.decode()["data"]) == ["a", *(f"k{i}" for i in range(8))]


async def test_of_two_concurrent_updates_of_one_version_one_wins(plane: Any, namespace: str, maps: Resource) -> None:
    version = (await plane.objects.create(maps, namespace, config_map(), options())).decode()["metadata"][
        "resourceVersion"
    ]
    changes = [setting("k", str(i), resourceVersion=version) for i in range(2)]
    results = await asyncio.gather(
        *(plane.objects.update(maps, namespace, "c", c, options()) for c in changes), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["Conflict", "tuple"]
    conflict = next(r for r in results if isinstance(r, Conflict))
    assert str(conflict) == (
        'Operation cannot be fulfilled on configmaps "c": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


async def test_a_writer_that_always_loses_gets_a_conflict(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    others: list[Any] = []

    def change(live: Entry) -> Obj:
        others.append(asyncio.ensure_future(plane.cache.put(live.key, live, lambda _r: live.value)))
        changed: Obj = setting("mine", "1")(live)
        return changed

    real, plane.objects.admission = plane.objects.admission, _Yielding()
    try:
        with pytest.raises(Conflict):
            await plane.objects.update(maps, namespace, "c", change, options())
    finally:
        plane.objects.admission = real
    assert len(others) == module.RETRIES
    await asyncio.gather(*others)


class _Yielding:
    """Admission that gives way to others, so that they write first."""

    async def admit(self, req: AdmissionRequest) -> None:
        await asyncio.sleep(0)

    async def validate(self, req: AdmissionRequest) -> None:
        await asyncio.sleep(0)


async def test_an_update_of_another_uid_is_a_conflict(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    with pytest.raises(Conflict, match="Precondition failed: UID in precondition: other, UID in object meta: "):
        await plane.objects.update(maps, namespace, "c", setting("a", "2", uid="other"), options())


async def test_an_absent_object_cannot_be_updated(plane: Any, namespace: str, maps: Resource) -> None:
    with pytest.raises(NotFound, match='configmaps "c" not found'):
        await plane.objects.update(maps, namespace, "c", setting("a", "2"), options())


async def test_an_update_cannot_mark_or_unmark(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(finalizers=["a/b"]), options())
    marking = setting("a", "2", deletionTimestamp="2020-01-01T00:00:00Z")
    with pytest.raises(Invalid, match=r"metadata.deletionTimestamp: .*field is immutable"):
        await plane.objects.update(maps, namespace, "c", marking, options())
    await plane.objects.delete(maps, namespace, "c", {}, options())
    entry, _ = await plane.objects.update(maps, namespace, "c", lambda _: config_map(finalizers=["a/b"]), options())
    assert entry.decode()["metadata"]["deletionTimestamp"]


# delete


async def test_a_deleted_object_is_gone_and_its_last_state_is_returned(
    plane: Any, namespace: str, maps: Resource
) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    last, gone = await plane.objects.delete(maps, namespace, "c", {}, options())
    assert gone
    assert last.decode()["data"] == {"a": "1"}
    assert plane.cache.get(maps.key(namespace, "c")) is None
    with pytest.raises(NotFound):
        await plane.objects.delete(maps, namespace, "c", {}, options())


async def test_a_finalizer_holds_an_object_until_it_is_taken_away(plane: Any, namespace: str, maps: Resource) -> None:
    await plane.objects.create(maps, namespace, config_map(finalizers=["a/b"]), options())
    marked, gone = await plane.objects.delete(maps, namespace, "c", {}, options())
    assert (gone, marked.decode()["metadata"]["deletionGracePeriodSeconds"]) == (False, 0)
    again, gone = await plane.objects.delete(maps, namespace, "c", {}, options())
    assert (again, gone) == (marked, False)  # a second deletion changes nothing and writes nothing
    await plane.objects.update(maps, namespace, "c", setting("a", "1", finalizers=[]), options())
    assert plane.cache.get(maps.key(namespace, "c")) is None


async def test_a_pod_is_marked_first_and_removed_by_its_node(plane: Any, namespace: str, pods: Resource) -> None:
    await plane.objects.create(pods, namespace, pod(), options())
    marked, gone = await plane.objects.delete(pods, namespace, "p", {}, options())
    assert (gone, marked.decode()["metadata"]["deletionGracePeriodSeconds"]) == (False, 30)
    last, gone = await plane.objects.delete(pods, namespace, "p", {"gracePeriodSeconds": 0}, options())
    assert (gone, last.decode()["metadata"]["deletionGracePeriodSeconds"]) == (True, 0)
    assert plane.cache.get(pods.key(namespace, "p")) is None


async def test_a_deletion_of_another_object_of_that_name_is_a_conflict(
    plane: Any, namespace: str, maps: Resource
) -> None:
    await plane.objects.create(maps, namespace, config_map(), options())
    with pytest.raises(Conflict):
        await plane.objects.delete(maps, namespace, "c", {"preconditions": {"uid": "other"}}, options())
    assert plane.cache.get(maps.key(namespace, "c")) is not None


# dry run


async def test_a_dry_run_answers_as_if_and_stores_nothing(plane: Any, namespace: str, maps: Resource) -> None:
    dry = options(dry_run=True)
    before = plane.cache.revision
    made = await plane.objects.create(maps, namespace, config_map("dry"), dry)
    assert made.decode()["metadata"]["uid"]
    assert plane.cache.get(maps.key(namespace, "dry")) is None
    assert plane.cache.revision == before
    await plane.objects.create(maps, namespace, config_map(), options())
    before = plane.cache.revision
    changed, _ = await plane.objects.update(maps, namespace, "c", setting("b", "2"), dry)
    _, gone = await plane.objects.delete(maps, namespace, "c", {}, dry)
    assert (changed.decode()["data"], gone) == ({"a": "1", "b": "2"}, True)
    assert plane.cache.get(maps.key(namespace, "c")).decode()["data"] == {"a": "1"}
    assert plane.cache.revision == before


# what is unique in the cluster


def service(name: str, **spec: Any) -> Obj:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], **spec},
    }


async def test_addresses_come_back_from_what_fails_dries_or_is_deleted(plane: Any, namespace: str) -> None:
    services = plane.registry.find("", "v1", "services")
    before = dict(plane.addresses._taken)
    await plane.objects.create(services, namespace, service("dry", type="NodePort"), options(dry_run=True))
    with pytest.raises(Invalid):
        await plane.objects.create(services, namespace, service("Bad_Name"), options())
    assert plane.addresses._taken == before
    await plane.objects.create(services, namespace, service("s", type="NodePort"), options())
    assert sum(plane.addresses._taken.values()) == sum(before.values()) + 2
    await plane.objects.update(
        services,
        namespace,
        "s",
        lambda live: {**live.decode(), "spec": {"type": "ExternalName", "externalName": "x.example"}},
        options(),
    )
    assert plane.addresses._taken == before
    await plane.objects.delete(services, namespace, "s", {}, options())
    assert plane.addresses._taken == before


async def test_an_address_stays_held_by_a_write_whose_caller_is_gone(plane: Any, namespace: str) -> None:
    services = plane.registry.find("", "v1", "services")
    before = dict(plane.addresses._taken)
    task = asyncio.ensure_future(
        plane.objects.create(services, namespace, service("s", clusterIP="10.96.0.77"), options())
    )
    while not plane.cache._pending:  # until the write is on its way  # noqa: ASYNC110 - what happens inside the server has no event of its own
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Invalid, match=r"10.96.0.77: provided IP is already allocated"):
        await plane.objects.create(services, namespace, service("t", clusterIP="10.96.0.77"), options())
    await plane.cache.settled(services.key(namespace, "s"))
    assert plane.cache.get(services.key(namespace, "s")) is not None
    await plane.objects.delete(services, namespace, "s", {}, options())
    assert plane.addresses._taken == before


# failures


async def test_a_write_that_the_disk_refuses_leaves_nothing(
    plane: Any, namespace: str, maps: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise WriteFailed("write x: disk full; free space")

    monkeypatch.setattr(plane.cache._store, "append", refuse)
    with pytest.raises(WriteFailed, match="disk full"):
        await plane.objects.create(maps, namespace, config_map(), options())
    assert plane.cache.get(maps.key(namespace, "c")) is None
    monkeypatch.undo()
    await plane.objects.create(maps, namespace, config_map(), options())


async def test_what_admission_refuses_is_not_stored(plane: Any, namespace: str, maps: Resource) -> None:
    class Refusing(_Yielding):
        async def validate(self, req: AdmissionRequest) -> None:
            raise Forbidden.of("configmaps", "", "c", "no")

    real, plane.objects.admission = plane.objects.admission, Refusing()
    try:
        with pytest.raises(ApiError, match='configmaps "c" is forbidden: no'):
            await plane.objects.create(maps, namespace, config_map(), options())
    finally:
        plane.objects.admission = real
    assert plane.cache.get(maps.key(namespace, "c")) is None
