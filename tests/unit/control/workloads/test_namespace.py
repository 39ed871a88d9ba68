"""A namespace that is being deleted: emptied, its state told in upstream's words, then let go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.api.kinds import KINDS, Kind
from havre.api.meta import GVK, Obj
from havre.control.workloads import namespace
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.namespace import NAMESPACE, Ending, Seen
from havre.control.workloads.served import DiscoveryFailed
from havre.machinery.api import Ref

MAP = GVK("", "v1", "ConfigMap")
POD = GVK("", "v1", "Pod")
SECRET = GVK("", "v1", "Secret")
KIND = {kind.gvk: kind for kind in KINDS}
NOW = "2026-11-23T22:03:29Z"
HERE = Ref(NAMESPACE, "", "a")


def ending(*finalizers: str, **status: object) -> Obj:
    meta = {"name": "a", "uid": "n", "deletionTimestamp": "2026-11-23T22:00:00Z"}
    spec = {"finalizers": list(finalizers or ("kubernetes",))}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "spec": spec, "status": status}


def config_map(name: str, *finalizers: str, gvk: GVK = MAP) -> Obj:
    meta = {"name": name, "namespace": "a"} | ({"finalizers": list(finalizers)} if finalizers else {})
    return {"apiVersion": "v1", "kind": gvk.kind, "metadata": meta}


async def discover() -> tuple[Kind, ...]:
    return KINDS


async def once(world: Any, ask: Any = discover) -> float | None:
    return await namespace.reconcile(HERE, world, discover=ask, now=lambda: 1795471409.0)


def told(conditions: list[Obj]) -> dict[str, tuple[str, str, str]]:
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions}


def test_conditions_of_an_empty_namespace_say_that_all_went_well() -> None:
    verdict = namespace.plan(ending(), Seen(), NOW)
    assert verdict.finished
    assert verdict.conditions is not None
    assert told(verdict.conditions) == {
        "NamespaceDeletionDiscoveryFailure": (
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        "NamespaceDeletionGroupVersionParsingFailure": (
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        "NamespaceDeletionContentFailure": (
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        "NamespaceContentRemaining": ("False", "ContentRemoved", "All content successfully removed"),
        "NamespaceFinalizersRemaining": (
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    }


def test_what_remains_is_counted_by_kind_and_by_finalizer() -> None:
    seen = Seen(
        Counter({("replicasets", "apps"): 1, ("configmaps", ""): 1}),
        Counter({"example.com/two": 1, "example.com/hold": 2}),
    )
    verdict = namespace.plan(ending(), seen, NOW)
    assert not verdict.finished
    words = told(verdict.conditions or [])
    assert words["NamespaceContentRemaining"] == (
        "True",
        "SomeResourcesRemain",
        "Some resources are remaining: configmaps. has 1 resource instances, replicasets.apps has 1 resource instances",
    )
    assert words["NamespaceFinalizersRemaining"] == (
        "True",
        "SomeFinalizersRemain",
        "Some content in the namespace has finalizers remaining: "
        "example.com/hold in 2 resource instances, example.com/two in 1 resource instances",
    )


def test_failures_are_told_and_keep_the_namespace() -> None:
    seen = Seen(errors=["pods is forbidden", "no route"], undiscovered="Discovery failed for some groups, 1 failing")
    verdict = namespace.plan(ending(), seen, NOW)
    words = told(verdict.conditions or [])
    assert words["NamespaceDeletionContentFailure"] == (
        "True",
        "ContentDeletionFailed",
        "Failed to delete all resource types, 2 remaining: no route, pods is forbidden",
    )
    assert words["NamespaceDeletionDiscoveryFailure"][1] == "DiscoveryFailed"
    assert not verdict.finished


def test_conditions_that_are_right_are_not_written_and_those_of_others_stay() -> None:
    mine: Obj = {"type": "Mine", "status": "True"}
    first = namespace.plan(ending(conditions=[mine]), Seen(), NOW).conditions
    assert first is not None
    assert first[0] == mine
    assert namespace.plan(ending(conditions=first), Seen(), "2026-11-23T23:00:00Z").conditions is None


async def test_everything_goes_and_then_the_namespace(world: Callable[..., Any]) -> None:
    here = world(ending(), config_map("x"), config_map("y"), config_map("p", gvk=POD))
    assert await once(here) == 0.0
    assert await once(here) is None
    assert here.objects == {}


async def test_what_arrives_while_the_last_objects_go_is_found_before_the_namespace_goes(
    world: Callable[..., Any],
) -> None:
    here = world(ending(), config_map("x"))
    here.before_delete = lambda obj: (
        here.add(config_map("late", gvk=SECRET)) if obj["metadata"]["name"] == "x" else None
    )
    while await once(here) is not None:
        pass
    assert here.objects == {}


async def test_namespace_that_lives_is_left_alone(world: Callable[..., Any]) -> None:
    alive = ending()
    del alive["metadata"]["deletionTimestamp"]
    here = world(alive, config_map("x"))
    assert await once(here) is None
    assert (here.writes, len(here.objects)) == (0, 2)


async def test_finalizers_of_others_are_waited_for_and_the_second_pass_writes_nothing(
    world: Callable[..., Any],
) -> None:
    here = world(ending(phase="Terminating"), config_map("x", "example.com/hold"), config_map("y"))
    assert await once(here) == 15.0
    words = told(here.objects[HERE]["status"]["conditions"])
    assert words["NamespaceContentRemaining"][0] == "True"
    before = here.writes
    assert await once(here) == 15.0
    assert here.writes == before


async def test_pods_go_first_and_nothing_else_while_one_is_left(world: Callable[..., Any]) -> None:
    here = world(ending(), config_map("x"), config_map("p", "example.com/hold", gvk=POD))
    await once(here)
    assert [ref.name for ref, _ in here.deleted] == ["p"]


async def test_other_finalizers_of_the_namespace_stay(world: Callable[..., Any]) -> None:
    here = world(ending("kubernetes", "example.com/mine"))
    await once(here)
    assert here.objects[HERE]["spec"]["finalizers"] == ["example.com/mine"]


async def test_refused_deletion_is_told_and_the_rest_goes_on(world: Callable[..., Any]) -> None:
    def refuse(obj: Obj) -> None:
        if obj["kind"] == "ConfigMap":
            raise Forbidden("no")

    here = world(ending(), config_map("x"), config_map("s", gvk=SECRET))
    here.before_delete = refuse
    assert await once(here) == 15.0
    assert told(here.objects[HERE]["status"]["conditions"])["NamespaceDeletionContentFailure"][2] == (
        "Failed to delete all resource types, 1 remaining: no"
    )
    assert Ref(SECRET, "a", "s") not in here.objects


async def test_kinds_that_cannot_be_discovered_keep_the_namespace(world: Callable[..., Any]) -> None:
    async def partly() -> tuple[Kind, ...]:
        raise DiscoveryFailed("Discovery failed for some groups, 1 failing", KINDS)

    here = world(ending(), config_map("x"))
    assert await once(here, partly) == 15.0
    assert [ref.name for ref in here.objects] == ["a"]


def change(obj: Obj, *, gone: bool = False, old: Node | None = None) -> Change:
    return Change(KIND[GVK.of(obj)], Node.of(obj), None if gone else obj, old)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_object_of_a_namespace_that_ends_wakes_it(gone: bool) -> None:
    wakes, inside = Ending(), config_map("x")
    inside["metadata"]["uid"] = "u"
    assert list(wakes(change(inside, gone=gone))) == []
    assert list(wakes(change(ending()))) == [HERE]
    assert list(wakes(change(ending()))) == []
    assert list(wakes(change(inside, gone=gone))) == [HERE]
    list(wakes(change(ending(), gone=True)))
    assert list(wakes(change(inside, gone=gone))) == []
