"""The collector at work on a small world whose events arrive late."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.errors import ApiError
from havre.api.kinds import KINDS, Kind
from havre.api.meta import GVK, Obj
from havre.control.workloads.garbage_collector import GarbageCollector, misplaced
from havre.control.workloads.graph import Node, Owner
from havre.control.workloads.monitors import Monitors
from havre.machinery.api import Ref

MAP = GVK("", "v1", "ConfigMap")
SECRET = GVK("", "v1", "Secret")
NODE = GVK("", "v1", "Node")
FOLLOWED = (MAP, SECRET, NODE)
BY_GVK: dict[GVK, Kind] = {kind.gvk: kind for kind in KINDS}


class Pending:
    """The queue, emptied by hand."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def add(self, key: str, after: float = 0.0) -> None:
        self.keys.add(key)


class Run:
    """A collector over a world; events are delivered one by one."""

    def __init__(self, world: Any) -> None:
        async def discover() -> tuple[Kind, ...]:
            return KINDS

        self.world = world
        monitors = Monitors(world, discover)
        monitors.kinds = BY_GVK
        self.collector = GarbageCollector(world, monitors)
        self.pending = Pending()
        self.collector.queue = self.pending  # type: ignore[assignment]
        self.delivered: dict[GVK, int] = {}

    def deliver(self, gvk: GVK = MAP) -> bool:
        """The next event of one kind; kinds know nothing of each other's order. False: there is none."""
        waiting = [(event, obj) for event, obj in self.world.events if GVK.of(obj) == gvk]
        at = self.delivered.get(gvk, 0)
        if at == len(waiting):
            return False
        self.delivered[gvk] = at + 1
        event, obj = waiting[at]
        kind, node = BY_GVK[gvk], Node.of(obj)
        if event == "DELETED":
            self.collector.gone(kind, node)
        else:
            self.collector.seen(kind, obj, node, None)
        return True

    async def look(self, uid: str) -> None:
        self.pending.keys.discard(uid)
        try:
            settled = await self.collector.look(uid)
        except ApiError:
            settled = False
        if not settled:
            self.pending.add(uid)

    async def settle(self) -> None:
        """Everything delivered, everything looked at, until nothing happens any more."""
        for _ in range(200):
            while sum(map(self.deliver, FOLLOWED)):
                pass
            before = len(self.world.events), sorted(self.pending.keys)
            for uid in sorted(self.pending.keys):
                await self.look(uid)
            if (len(self.world.events), sorted(self.pending.keys)) == before:
                return
        raise AssertionError("the collector does not come to rest")


def thing(name: str, *owners: Obj, namespace: str = "a", gvk: GVK = MAP, **meta: object) -> Obj:
    spaced = {"namespace": namespace} if namespace else {}
    owned = {"ownerReferences": list(owners)} if owners else {}
    full = {"name": name, "uid": f"u-{name}", **spaced, **owned, **meta}
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": full}


def by(name: str, *, blocks: bool = False, gvk: GVK = MAP) -> Obj:
    ref = {"apiVersion": gvk.api_version, "kind": gvk.kind, "name": name, "uid": f"u-{name}"}
    return {**ref, "blockOwnerDeletion": True} if blocks else ref


def names(world: Any) -> list[str]:
    return sorted(ref.name for ref in world.objects if ref.gvk.kind != "Event")


async def test_dependents_go_down_the_line_after_their_owner(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o"), thing("x", by("o")), thing("y", by("x")), thing("free")))
    await run.settle()
    await run.world.delete(Ref(MAP, "a", "o"))
    await run.settle()
    assert names(run.world) == ["free"]


async def test_dependent_of_an_owner_that_never_was_goes(world: Callable[..., Any]) -> None:
    run = Run(world(thing("x", by("nobody"))))
    await run.settle()
    assert names(run.world) == []


async def test_dependent_stays_with_its_last_owner_and_loses_the_other_reference(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o"), thing("p"), thing("x", by("o"), by("p"))))
    await run.world.delete(Ref(MAP, "a", "o"))
    await run.settle()
    assert run.world.objects[Ref(MAP, "a", "x")]["metadata"]["ownerReferences"] == [by("p")]


async def test_successor_of_the_same_name_is_no_owner(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o", uid="second"), thing("x", by("o"))))
    await run.settle()
    assert names(run.world) == ["o"]


async def test_foreground_owner_outlives_those_who_block_it(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o"), thing("x", by("o", blocks=True), finalizers=["test/hold"]), thing("y", by("o"))))
    await run.world.delete(Ref(MAP, "a", "o"), propagation="Foreground")
    await run.settle()
    assert names(run.world) == ["o", "x"]
    await run.world.patch(Ref(MAP, "a", "x"), {"metadata": {"finalizers": None}}, kind="merge", manager="t")
    await run.settle()
    assert names(run.world) == []


async def test_foreground_deletion_of_a_cycle_ends(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o", by("x", blocks=True)), thing("x", by("o", blocks=True))))
    await run.world.delete(Ref(MAP, "a", "o"), propagation="Foreground")
    await run.settle()
    assert names(run.world) == []


async def test_orphans_lose_the_reference_and_live(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o"), thing("x", by("o")), thing("y", by("o"))))
    await run.world.delete(Ref(MAP, "a", "o"), propagation="Orphan")
    await run.settle()
    assert names(run.world) == ["x", "y"]
    assert "ownerReferences" not in run.world.objects[Ref(MAP, "a", "x")]["metadata"]


async def test_owner_in_another_namespace_is_told_and_does_not_count(world: Callable[..., Any]) -> None:
    run = Run(world(thing("o", namespace="b"), thing("x", by("o"))))
    await run.settle()
    assert names(run.world) == ["o"]
    events = [obj for ref, obj in run.world.objects.items() if ref.gvk.kind == "Event"]
    assert [event["reason"] for event in events] == ["OwnerRefInvalidNamespace"]


async def test_cluster_wide_object_of_a_namespaced_owner_is_left_alone(world: Callable[..., Any]) -> None:
    run = Run(world(thing("x", by("gone"), namespace="", gvk=NODE)))
    await run.settle()
    assert names(run.world) == ["x"]


async def test_owner_of_a_kind_that_is_not_served_proves_nothing(world: Callable[..., Any]) -> None:
    run = Run(world(thing("x", by("w", gvk=GVK("example.com", "v1", "Widget")))))
    await run.settle()
    assert names(run.world) == ["x"]
    assert run.pending.keys == {"u-x"}


async def test_owner_that_no_watch_has_shown_is_asked_for_again(world: Callable[..., Any]) -> None:
    """It could go while its watch is broken: then no event would ever tell."""
    run = Run(world(thing("x", by("o"))))
    run.deliver()
    run.world.add(thing("o"))
    await run.look("u-x")
    assert run.pending.keys == {"u-x"}
    run.deliver()
    await run.look("u-x")
    assert run.pending.keys == set()


def test_event_says_where_the_owner_was_looked_for() -> None:
    node = Node("u", Ref(MAP, "wl-probe", "crossed"))
    note = misplaced(node, Owner("5d81", GVK("", "v1", "ServiceAccount"), "default", False))
    assert note.message == (
        "ownerRef [v1/ServiceAccount, namespace: wl-probe, name: default, uid: 5d81] "
        'does not exist in namespace "wl-probe"'
    )


# laws

NAMES = "pqrstu"
POLICIES = ("Background", "Foreground", "Orphan")


def kind_of(name: str) -> GVK:
    return MAP if name < "s" else SECRET


def is_owned(world: Any, obj: Obj) -> bool:
    """By what is true now: does a solid owner of it live?"""
    space = obj["metadata"].get("namespace", "")
    for ref in obj["metadata"].get("ownerReferences", ()):
        live = world.objects.get(Ref(kind_of(ref["name"]), space, ref["name"]))
        if live and live["metadata"]["uid"] == ref["uid"] and not Node.of(live).waits:
            return True
    return False


def some_owners(world: Any, chance: random.Random) -> list[Obj]:
    """References to objects that live, or did, or live elsewhere."""
    known = {obj["metadata"]["uid"]: obj for _, obj in world.events if GVK.of(obj) in FOLLOWED}
    return [
        {"apiVersion": "v1", "kind": obj["kind"], "name": obj["metadata"]["name"], "uid": uid}
        | {"blockOwnerDeletion": chance.random() < 0.5}
        for uid, obj in chance.sample(sorted(known.items()), min(len(known), chance.randrange(3)))
    ]


async def act(run: Run, chance: random.Random) -> None:
    """Something happens to the world, or to an event on its way."""
    world, name = run.world, chance.choice(NAMES)
    ref = Ref(kind_of(name), chance.choice("ab"), name)
    match chance.randrange(5):
        case 0 if ref not in world.objects:
            owners, uid = some_owners(world, chance), f"{name}-{len(world.events)}"
            world.add(thing(name, *owners, namespace=ref.namespace, gvk=ref.gvk, uid=uid))
        case 1 if ref in world.objects:
            await world.delete(ref, propagation=chance.choice(POLICIES))
        case 2 if ref in world.objects and chance.random() < 0.3:
            await world.patch(ref, {"metadata": {"ownerReferences": None}}, kind="merge", manager="t")
        case _:
            run.deliver(chance.choice(FOLLOWED))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 80))
async def test_nothing_owned_goes_and_nothing_unowned_stays(world: Callable[..., Any], seed: int, steps: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a walk that can be repeated
    run, wronged = Run(world()), list[Obj]()

    def judge(obj: Obj) -> None:
        if is_owned(run.world, obj):
            wronged.append(obj)

    for _ in range(steps):
        if run.pending.keys and chance.random() < 0.5:
            run.world.before_delete = judge
            await run.look(chance.choice(sorted(run.pending.keys)))
        else:
            run.world.before_delete = lambda _obj: None
            await act(run, chance)
    run.world.before_delete = judge
    await run.settle()
    assert wronged == []
    for obj in (obj for ref, obj in run.world.objects.items() if ref.gvk in FOLLOWED):
        assert is_owned(run.world, obj) or not obj["metadata"].get("ownerReferences"), obj
        assert not obj["metadata"].get("deletionTimestamp"), obj


@pytest.mark.parametrize("cut", range(0, 12, 3))
async def test_collector_that_starts_again_finishes_what_another_began(world: Callable[..., Any], cut: int) -> None:
    first = Run(world(thing("o"), *(thing(f"x{i}", by("o", blocks=i % 2 == 0)) for i in range(6))))
    await first.world.delete(Ref(MAP, "a", "o"), propagation="Foreground")
    while first.deliver():
        pass
    for uid in sorted(first.pending.keys)[:cut]:
        await first.look(uid)
    second = Run(first.world)
    second.delivered = {MAP: len(first.world.events)}
    for obj in [*first.world.objects.values()]:
        second.collector.seen(BY_GVK[GVK.of(obj)], obj, Node.of(obj), None)
    await second.settle()
    assert names(second.world) == []
