"""The loop: what it does around a `reconcile`, one pass at a time and running, on a virtual clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.meta import GVK, Obj
from havre.lang import mergepatch
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import Condition
from havre.machinery.controller import (
    Controller,
    Counters,
    Outcome,
    Plan,
    Stalled,
    Waiting,
    difference,
    run,
)
from havre.machinery.events import Note
from havre.machinery.owners import OWNER_LABEL, by_controller
from havre.testing import FakeApi, custom_kind, eventually, settle

pytestmark = pytest.mark.looptime

BOX = GVK("test.example", "v1", "Box")
MAP = GVK("", "v1", "ConfigMap")
EVENT = GVK("", "v1", "Event")
REF = Ref(BOX, "default", "b")


def box(**spec: Any) -> Obj:
    meta = {"name": "b", "namespace": "default", "generation": 3}
    return {"apiVersion": "test.example/v1", "kind": "Box", "metadata": meta, "spec": spec}


def config_map(name: str, namespace: str = "default", **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


async def fill(obj: Obj, _api: Api) -> Plan:
    """A map per name in the spec."""
    return Plan(apply=tuple(config_map(name) for name in obj["spec"].get("maps", ())), status={"size": 1})


def controller(reconcile: Any = fill, **options: Any) -> Controller:
    return Controller(BOX, reconcile, owns=(MAP,), **options)


def status(api: FakeApi) -> Obj:
    found: Obj = (api.now(REF) or {})["status"]
    return found


def said(api: FakeApi) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status(api)["conditions"]}


def maps(api: FakeApi) -> list[str]:
    return [o["metadata"]["name"] for o in api.all(MAP)]


def raising(error: Exception) -> Callable[[Obj, Api], Any]:
    async def reconcile(_obj: Obj, _api: Api) -> Plan:
        raise error

    return reconcile


# one pass


async def test_a_plan_is_applied_reported_and_pruned() -> None:
    api = FakeApi(box(maps=["x", "y"]), config_map("foreign"))
    assert await controller().once(REF, api) == Outcome(None)
    assert maps(api) == ["foreign", "x", "y"]
    assert (status(api)["observedGeneration"], status(api)["size"]) == (3, 1)
    assert said(api) == {"Ready": ("True", "Succeeded")}
    owner = api.all(MAP)[1]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Box", "b", True)

    await api.patch(REF, {"spec": {"maps": ["y"]}})
    await controller().once(REF, api)
    assert maps(api) == ["foreign", "y"]


async def test_a_second_pass_changes_nothing() -> None:
    api = FakeApi(box(maps=["x"]))
    await controller().once(REF, api)
    before = api.revision
    await controller().once(REF, api)
    assert api.revision == before


async def test_an_object_that_is_gone_is_forgotten() -> None:
    assert await controller().once(REF, FakeApi(custom_kind(BOX))) == Outcome(None)


async def test_stalled_is_said_and_not_retried() -> None:
    api = FakeApi(box())
    assert await controller(raising(Stalled("NoOwner", "nobody"))).once(REF, api) == Outcome(None)
    assert said(api) == {"Ready": ("False", "NoOwner"), "Stalled": ("True", "NoOwner")}
    await controller().once(REF, api)
    assert said(api) == {"Ready": ("True", "Succeeded")}


async def test_a_condition_of_ones_own_can_be_there_only_while_it_is_said() -> None:
    plans = iter([(Condition("Fetched", False, "No"), Condition("Kept", True, "Yes")), ()])

    async def reconcile(_obj: Obj, _api: Api) -> Plan:
        return Plan(conditions=next(plans))

    api, made = FakeApi(box()), Controller(BOX, reconcile, transient=("Fetched",))
    await made.once(REF, api)
    assert set(said(api)) == {"Fetched", "Kept", "Ready"}
    await made.once(REF, api)
    assert set(said(api)) == {"Kept", "Ready"}


async def test_waiting_names_its_own_delay() -> None:
    api = FakeApi(box())
    assert await controller(raising(Waiting("NotFetched", "git", 30))).once(REF, api) == Outcome(30)
    assert said(api) == {"Ready": ("Unknown", "NotFetched"), "Reconciling": ("True", "NotFetched")}


async def test_a_bug_is_a_failure_of_this_object_alone() -> None:
    api = FakeApi(box())
    assert await controller(raising(KeyError("nope"))).once(REF, api) == Outcome(None, failed=True)
    assert said(api) == {"Ready": ("False", "Failed"), "Reconciling": ("True", "ProgressingWithRetry")}
    assert status(api)["conditions"][0]["message"] == "'nope'"


async def test_a_refused_child_is_a_failure_with_the_words_of_the_server() -> None:
    async def wrong(_obj: Obj, _api: Api) -> Plan:
        return Plan(apply=(config_map("UPPER"),))

    api = FakeApi(box())
    assert (await controller(wrong).once(REF, api)).failed
    assert 'ConfigMap "UPPER" is invalid' in status(api)["conditions"][0]["message"]


async def test_a_pass_has_a_deadline() -> None:
    async def hangs(_obj: Obj, _api: Api) -> Plan:
        await asyncio.sleep(1e6)
        return Plan()

    api = FakeApi(box())
    assert (await controller(hangs, deadline=60).once(REF, api)).failed
    assert status(api)["conditions"][0]["message"] == "no end after 60 s"


async def test_a_plan_may_say_itself_that_it_is_not_ready() -> None:
    async def half(_obj: Obj, _api: Api) -> Plan:
        return Plan(conditions=(Condition("Ready", False, "Half"), Condition("Fine", True, "Yes")), again=5)

    api = FakeApi(box())
    assert await controller(half).once(REF, api) == Outcome(5)
    assert said(api) == {"Ready": ("False", "Half"), "Fine": ("True", "Yes")}


async def test_events_tell_the_change_of_ready_once() -> None:
    api = FakeApi(box())
    for _ in range(2):
        await controller(raising(Stalled("NoOwner", "nobody"))).once(REF, api)
    await controller().once(REF, api)
    told = sorted((e["type"], e["reason"], e["message"], e["count"]) for e in api.all(EVENT))
    assert told == [("Normal", "Succeeded", "Reconciliation finished", 1), ("Warning", "NoOwner", "nobody", 1)]


async def test_a_suspended_object_is_left_alone() -> None:
    api = FakeApi(box(suspend=True, maps=["x"]))
    before = api.revision
    assert await controller().once(REF, api) == Outcome(None)
    assert api.revision == before
    await controller(suspendable=False).once(REF, api)
    assert maps(api) == ["x"]


async def test_a_kind_without_conditions_gets_only_what_is_planned() -> None:
    async def plan(_obj: Obj, _api: Api) -> Plan:
        return Plan(apply=(config_map("x"),), notes=(Note("Made", "x"),))

    api = FakeApi(box())
    await controller(plan, words=None).once(REF, api)
    assert (maps(api), "status" in (api.now(REF) or {})) == (["x"], False)
    assert [e["reason"] for e in api.all(EVENT)] == ["Made"]
    await controller(words=None).once(REF, api)
    assert status(api) == {"size": 1}


async def test_planned_deletions_happen_and_a_missing_object_is_fine() -> None:
    async def plan(_obj: Obj, _api: Api) -> Plan:
        return Plan(delete=(Ref(MAP, "default", "old"), Ref(MAP, "default", "never")))

    api = FakeApi(box(), config_map("old"))
    assert await controller(plan).once(REF, api) == Outcome(None)
    assert maps(api) == []


async def test_children_elsewhere_are_owned_by_label() -> None:
    async def plan(obj: Obj, _api: Api) -> Plan:
        return Plan(apply=tuple(config_map("x", where) for where in obj["spec"]["where"]))

    async def nothing(_obj: Obj, _api: Api) -> None: ...

    api = FakeApi(box(where=["kube-system", "default"]))
    subject = controller(plan, finalize=nothing)
    await subject.once(REF, api)
    uid = (api.now(REF) or {})["metadata"]["uid"]
    (far,) = [o for o in api.all(MAP) if o["metadata"]["namespace"] == "kube-system"]
    assert far["metadata"]["labels"] == {OWNER_LABEL: uid}
    assert "ownerReferences" not in far["metadata"]
    await api.delete(REF)
    await subject.once(REF, api)
    assert api.now(REF) is None
    assert [o["metadata"]["namespace"] for o in api.all(MAP)] == ["default"]  # the garbage collector's


async def test_finalize_runs_before_the_object_goes() -> None:
    asked = 0

    async def finalize(_obj: Obj, _api: Api) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Waiting("Draining", "one left", 10)

    api = FakeApi(box())
    subject = controller(finalize=finalize)
    await subject.once(REF, api)
    assert (api.now(REF) or {})["metadata"]["finalizers"] == ["havre.dev/havre-box"]
    await api.delete(REF)
    assert await subject.once(REF, api) == Outcome(10)
    assert said(api)["Ready"] == ("Unknown", "Draining")
    assert await subject.once(REF, api) == Outcome(None)
    assert (asked, api.now(REF)) == (2, None)


async def test_a_dying_object_of_others_is_left_to_them() -> None:
    held = box(maps=["x"])
    held["metadata"]["finalizers"] = ["other.example/hold"]
    api = FakeApi(held)
    await api.delete(REF)
    assert await controller().once(REF, api) == Outcome(None)
    assert maps(api) == []


async def test_a_lost_race_is_no_failure() -> None:
    async def racing(_obj: Obj, api: Api) -> Plan:
        await api.patch(REF, {"metadata": {"labels": {"x": "y"}}}, kind="merge", manager="other")
        return Plan()

    assert await controller(racing).once(REF, FakeApi(box())) == Outcome(1.0)


async def test_a_preview_writes_nothing() -> None:
    async def eager(obj: Obj, api: Api) -> Plan:
        await api.create(config_map("now"), manager="m")
        return await fill(obj, api)

    api = FakeApi(box(maps=["x"]))
    before = api.revision
    plan = await controller(eager).preview(REF, api)
    assert plan is not None
    assert [o["metadata"]["name"] for o in plan.apply] == ["x"]
    assert api.revision == before


# running


@asynccontextmanager
async def running(api: FakeApi, *controllers: Controller) -> AsyncIterator[dict[str, Counters]]:
    counters: dict[str, Counters] = {}
    ready = asyncio.Event()
    task = asyncio.ensure_future(run(controllers, api, counters=counters, ready=ready))
    await asyncio.wait([task, asyncio.ensure_future(ready.wait())], return_when="FIRST_COMPLETED")
    try:
        await settle(200)
        yield counters
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_keeps_what_it_owns_true() -> None:
    api = FakeApi(box(maps=["x"]))
    async with running(api, controller()):
        await eventually(lambda: maps(api) == ["x"])
        await api.delete(Ref(MAP, "default", "x"))
        await eventually(lambda: maps(api) == ["x"])
        await api.patch(Ref(MAP, "default", "x"), {"data": {"spoiled": "1"}})
        await api.patch(REF, {"spec": {"maps": ["y"]}})
        await eventually(lambda: maps(api) == ["y"])


async def test_at_rest_it_writes_nothing_and_sends_no_apply_twice() -> None:
    api = FakeApi(box(maps=["x", "y"]))
    async with running(api, controller()) as counters:
        await eventually(lambda: maps(api) == ["x", "y"])
        await asyncio.sleep(600)
        before, mine = api.revision, counters["havre-box"]
        assert (mine.applied, mine.reports) == (2, 1)
        await api.patch(REF, {"metadata": {"labels": {"wake": "up"}}})
        await asyncio.sleep(600)
        assert (mine.applied, api.revision) == (2, before + 1)
        assert mine.passes <= 5


async def test_failures_back_off_and_settle() -> None:
    """1+2+4 seconds pass on the virtual clock, and our own status does not cut them short."""
    at: list[float] = []

    async def flaky(_obj: Obj, _api: Api) -> Plan:
        at.append(asyncio.get_running_loop().time())
        if len(at) < 4:
            raise OSError(f"no route, try {len(at)}")
        return Plan()

    api = FakeApi(box())
    async with running(api, controller(flaky)):
        await asyncio.sleep(60)
        assert [round(b - a) for a, b in itertools.pairwise(at)] == [1, 2, 4]
        assert said(api) == {"Ready": ("True", "Succeeded")}


async def test_a_change_of_another_kind_wakes_whom_it_concerns() -> None:
    seen: list[int] = []

    async def count(_obj: Obj, api: Api) -> Plan:
        seen.append(len((await api.list(MAP, labels="box=b")).items))
        return Plan()

    def wake(obj: Obj) -> Iterable[Ref]:
        if name := (obj["metadata"].get("labels") or {})["box"]:  # a bug for maps without the label
            yield Ref(BOX, obj["metadata"]["namespace"], name)

    api = FakeApi(box())
    async with running(api, Controller(BOX, count, wakes={MAP: wake}, cached=True)):
        labelled = config_map("x")
        labelled["metadata"]["labels"] = {"box": "b"}
        await api.create(config_map("buggy"))
        await api.create(labelled)
        await eventually(lambda: seen[-1] == 1)
        await api.delete(Ref(MAP, "default", "x"))
        await eventually(lambda: seen[-1] == 0)


async def test_a_plan_names_when_to_come_back() -> None:
    at: list[float] = []

    async def tick(_obj: Obj, _api: Api) -> Plan:
        at.append(asyncio.get_running_loop().time())
        return Plan(again=60)

    async with running(FakeApi(box()), controller(tick)):
        await asyncio.sleep(200)
    assert [round(b - a) for a, b in itertools.pairwise(at)] == [60, 60, 60]


async def test_controllers_share_what_they_see() -> None:
    api = FakeApi(box(maps=["x"]), config_map("foreign"))
    labelled: list[str] = []

    async def look(obj: Obj, _api: Api) -> Plan:
        labelled.append(obj["metadata"]["name"])
        return Plan()

    other = Controller(MAP, look, words=None)
    async with running(api, controller(), other) as counters:
        await eventually(lambda: sorted(set(labelled)) == ["foreign", "x"])
        assert set(counters) == {"havre-box", "havre-configmap"}


# pure pieces


def test_the_owner_that_controls_is_woken() -> None:
    owned = config_map("x")
    references = [{"apiVersion": "test.example/v1", "kind": "Box", "name": "b", "uid": "u", "controller": True}]
    owned["metadata"]["ownerReferences"] = references
    assert [*by_controller(BOX)(owned)] == [REF]
    assert [*by_controller(BOX, namespaced=False)(owned)] == [Ref(BOX, "", "b")]
    assert [*by_controller(MAP)(owned)] == []
    assert [*by_controller(BOX)(config_map("x"))] == []


JSON = st.recursive(
    st.booleans() | st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@settings(max_examples=50)
@given(OBJECTS, OBJECTS)
def test_the_difference_leads_from_old_to_new(old: Obj, new: Obj) -> None:
    patch = difference(old, new)
    assert mergepatch.apply(old, patch) == new
    assert (patch == {}) is (old == new)
