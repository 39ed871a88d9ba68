"""The loop that every controller runs in: read, plan, apply, prune, report, come back.

    Controller(TENANT, reconcile, owns=(QUOTA, ROLE_BINDING), wakes={NAMESPACE: tenant_of})

A controller is a function: from an object, and what it reads through the `Api`, to a `Plan`. A key wakes it, never a
difference: it looks at what is, every time, keeps no progress in memory, and may be stopped anywhere. Done here, once
for all: fetch, finalizer, `spec.suspend`, server-side apply under one field manager, pruning of what is owned and no
longer planned, status and conditions, events, back-off, counters.

| `reconcile` …            | Ready            | only while true                    | next pass                |
|--------------------------|------------------|------------------------------------|--------------------------|
| returns a Plan           | True / Succeeded | –                                  | `again` s, or a change   |
| raises Stalled(reason …) | False / reason   | Stalled                            | when the spec changes    |
| raises Waiting(reason …) | Unknown / reason | Reconciling                        | after its seconds        |
| raises anything else     | False / Failed   | Reconciling / ProgressingWithRetry | back-off 1, 2, 4 … 300 s |

A kind without a Ready condition has `words=None`: no conditions, no observedGeneration, and a status only if the plan
has one.

Source: sigs.k8s.io/controller-runtime; fluxcd/pkg, runtime/reconcile; kubernetes-sigs/cli-utils, pkg/kstatus.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from havre.api.errors import ApiError, Conflict, NotFound
from havre.api.meta import GVK, Obj, rfc3339
from havre.lang.json import copied
from havre.machinery import conditions as cond
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import WORDS, Condition, Words
from havre.machinery.events import Note, Recorder
from havre.machinery.informer import CachedReads, DryRun, Handlers, Informer, SharedInformers
from havre.machinery.owners import OWNER_LABEL, Wake, adopted, owners_of
from havre.machinery.queue import BASE, Queue

log = logging.getLogger(__name__)

AFTER_CONFLICT = 1.0  # seconds: the change that made the conflict wakes us too, usually sooner
DEADLINE = 600.0  # seconds of one pass; a longer procedure takes one step per pass
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass wants to be true, as data: a test compares it, a dry run prints it."""

    apply: tuple[Obj, ...] = ()
    delete: tuple[Ref, ...] = ()
    steps: tuple[object, ...] = ()  # effects outside the API, already carried out by `reconcile`
    status: Mapping[str, Any] = field(default_factory=dict)  # these fields of the status; None removes one
    annotations: Mapping[str, str] = field(default_factory=dict)  # set together with the status
    conditions: tuple[Condition, ...] = ()  # one of the type Ready replaces `True / Succeeded`
    again: float | None = None  # seconds; None waits for the next change
    notes: tuple[Note, ...] = ()  # events to tell beside the change of Ready
    failed: Exception | None = None  # what went wrong: everything else here is said, then it is tried again


class Stalled(Exception):
    """The spec cannot work until somebody changes it: say why, do not retry."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Waiting(Exception):
    """Something else is not there yet: not an error, look again after `seconds`."""

    def __init__(self, reason: str, message: str, seconds: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """When to come back: after `again` seconds, or ("failed") after the back-off."""

    again: float | None = None
    failed: bool = False


@dataclass(slots=True)
class Counters:
    """What a controller has done, for metrics."""

    passes: int = 0
    failures: int = 0
    conflicts: int = 0
    applied: int = 0  # applies sent; one that would say again what is there is not sent
    pruned: int = 0
    reports: int = 0  # status writes
    seconds: float = 0.0  # in passes


Reconcile = Callable[[Obj, Api], Awaitable[Plan]]
Finalize = Callable[[Obj, Api], Awaitable[None]]
Selects = Callable[[Obj, Obj], bool]
"""Does a change of the second concern the first, one of ours in the same namespace?"""


@dataclass(frozen=True, slots=True)
class Controller:
    """One kind and what keeps it true. Everything but the first two has a default that suits most."""

    kind: GVK
    reconcile: Reconcile
    owns: tuple[GVK, ...] = ()  # kinds it applies for itself alone; what it no longer plans is deleted
    wakes: Mapping[GVK, Wake] = field(default_factory=dict)  # whose changes concern which of our objects
    selects: Mapping[GVK, Selects] = field(default_factory=dict)  # as `wakes`, where only our object can tell
    narrowed: Mapping[GVK, str] = field(default_factory=dict)  # label selectors of kinds that only wake: few of many
    anywhere: bool = False  # `selects` is asked of our objects in every namespace, not in that of the changed one
    finalize: Finalize | None = None  # before the object goes; raises Waiting to be asked again
    manager: str = ""  # field manager; default: havre-<kind>
    component: str = ""  # who tells the events, and is counted; default: the manager
    finalizer: str = ""  # default: havre.dev/<manager>
    workers: int = WORKERS
    words: Words | None = WORDS  # None: the kind has no conditions
    transient: tuple[str, ...] = ()  # conditions that go when a pass does not name them, beside those of `words`
    suspendable: bool = True  # `spec.suspend: true` means: leave it alone
    cached: bool = False  # its get and list are answered by informers where there are
    base: float = BASE  # seconds before the first retry of a failure
    namespace: str = ""
    labels: str = ""
    fields: str = ""
    deadline: float = DEADLINE

    @property
    def name(self) -> str:
        return self.manager or f"havre-{self.kind.kind.lower()}"

    @property
    def teller(self) -> str:
        return self.component or self.name

    @property
    def finalizer_name(self) -> str:
        return self.finalizer or f"havre.dev/{self.name}"

    async def once(self, ref: Ref, api: Api) -> Outcome:
        """One pass, everything read from `api`: for tests and commands."""
        return await Loop(self, api).once(ref)

    async def preview(self, ref: Ref, api: Api) -> Plan | None:
        """The Plan of a dry run: what `reconcile` writes through its `Api` is not stored. None: no such object."""
        obj = await api.get(ref)
        return None if obj is None else await self.reconcile(obj, DryRun(api))


class View(Protocol):
    """How the loop itself reads; objects are shared."""

    async def get(self, ref: Ref) -> Obj | None: ...
    async def owned(self, gvk: GVK, owner: Obj) -> Iterable[Obj]: ...
    def revision(self, ref: Ref) -> str:
        """resourceVersion of an object as last seen; "" when that is unknown."""
        ...


class Loop:
    """One controller at work."""

    def __init__(
        self,
        controller: Controller,
        api: Api,
        *,
        view: View | None = None,
        reading: Api | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reading` is the Api that `reconcile` gets, if another than the one the loop writes to."""
        self.controller = controller
        self.counters = Counters()
        self._api = api
        self._view = view or _Direct(api)
        self._reading = reading or api
        self._clock = clock
        self._recorder = Recorder(api, controller.teller, clock)
        self._applied: dict[Ref, dict[Ref, tuple[bytes, str]]] = {}  # by owner: what was sent, revision it made
        self._failing: dict[Ref, str] = {}  # last error of a failing object, so that it is told once

    async def once(self, ref: Ref) -> Outcome:
        """One pass. Never raises for anything that is wrong with one object."""
        began = time.perf_counter()
        try:
            outcome = await self._pass(ref)
        except Conflict:
            self.counters.conflicts += 1
            outcome = Outcome(AFTER_CONFLICT)
        except ApiError as error:  # of a read, a finalizer or the status
            outcome = self._failed(ref, error)
        self.counters.passes += 1
        self.counters.seconds += time.perf_counter() - began
        if not outcome.failed:
            self._failing.pop(ref, None)
        return outcome

    async def _pass(self, ref: Ref) -> Outcome:
        seen = await self._view.get(ref)
        if seen is None:
            self._applied.pop(ref, None)
            return Outcome()
        obj, controller = copied(seen), self.controller
        if obj["metadata"].get("deletionTimestamp"):
            return await self._let_go(ref, obj)
        if controller.finalize is not None and controller.finalizer_name not in _finalizers(obj):
            obj = await self._set_finalizers(ref, obj, [*_finalizers(obj), controller.finalizer_name])
        if controller.suspendable and (obj.get("spec") or {}).get("suspend") is True:
            return Outcome()
        work = _Work()
        outcome = await self._attempt(ref, self._converge(obj, work), work)
        await self._report(ref, obj, work)
        return outcome

    async def _converge(self, obj: Obj, work: _Work) -> float | None:
        plan = await self.controller.reconcile(copied(obj), self._reading)
        await self._enforce(obj, plan)
        work.plan = plan
        if plan.failed is not None:
            raise plan.failed
        return plan.again

    async def _attempt(self, ref: Ref, work: Awaitable[float | None], told: _Work) -> Outcome:
        """Runs a step of the controller and puts how it went into the words of its kind."""
        words = self.controller.words or WORDS
        try:
            async with asyncio.timeout(self.controller.deadline):
                again = await work
        except Stalled as stop:
            told.say(Condition(words.ready, False, stop.reason, str(stop)))
            told.say(Condition(words.stalled, True, stop.reason, str(stop)))
            return Outcome()
        except Waiting as wait:
            told.say(Condition(words.ready, None, wait.reason, str(wait)))
            told.say(Condition(words.reconciling, True, wait.reason, str(wait)))
            return Outcome(wait.seconds)
        except Exception as error:  # noqa: BLE001 - the one place that may: a bug in one object must not stop others
            late = f"no end after {self.controller.deadline:g} s" if isinstance(error, TimeoutError) else ""
            why = str(error) or late or type(error).__name__
            told.say(Condition(words.ready, False, words.failed, why))
            told.say(Condition(words.reconciling, True, words.retrying, why))
            return self._failed(ref, error)
        told.say(Condition(words.ready, True, words.succeeded, words.done))
        return Outcome(again)

    def _failed(self, ref: Ref, error: Exception) -> Outcome:
        self.counters.failures += 1
        shown = f"{type(error).__name__}: {error}"
        new = self._failing.get(ref) != shown
        self._failing[ref] = shown
        log.log(
            logging.WARNING if new else logging.DEBUG,
            "reconcile failed; will try again",
            extra={"controller": self.controller.teller, "object": str(ref), "error": shown},
            exc_info=error if new and not isinstance(error, ApiError) else None,
        )
        return Outcome(failed=True)

    # the end of an object

    async def _let_go(self, ref: Ref, obj: Obj) -> Outcome:
        """Run `finalize`, delete what owner references cannot reach, give the object free."""
        controller = self.controller
        if controller.finalize is None or controller.finalizer_name not in _finalizers(obj):
            return Outcome()
        work = _Work()
        outcome = await self._attempt(ref, self._clean_up(obj, controller.finalize), work)
        if outcome.failed or work.ready is not True:
            await self._report(ref, obj, work)
            return outcome
        rest = [name for name in _finalizers(obj) if name != controller.finalizer_name]
        try:
            await self._set_finalizers(ref, obj, rest)
        except NotFound:
            return Outcome()
        return Outcome()

    async def _clean_up(self, obj: Obj, finalize: Finalize) -> None:
        await finalize(copied(obj), self._reading)
        await self._prune(obj, frozenset(), strays=True)

    async def _set_finalizers(self, ref: Ref, obj: Obj, names: list[str]) -> Obj:
        patch = {"metadata": {"finalizers": names, "resourceVersion": obj["metadata"]["resourceVersion"]}}
        return await self._api.patch(ref, patch, kind="merge", manager=self.controller.name)

    # what it owns

    async def _enforce(self, owner: Obj, plan: Plan) -> None:
        wanted = []
        for obj in plan.apply:
            child = adopted(obj, owner) if GVK.of(obj) in self.controller.owns else obj
            wanted.append(Ref.of(child))
            await self._apply(owner, child)
        for ref in plan.delete:
            await self._delete(ref)
        await self._prune(owner, frozenset(wanted))

    async def _apply(self, owner: Obj, child: Obj) -> None:
        """Server-side apply; nothing is sent when it would say again what is there unchanged since we said it."""
        ref, sent = Ref.of(child), orjson.dumps(child, option=orjson.OPT_SORT_KEYS)
        remembered = self._applied.setdefault(Ref.of(owner), {})
        if remembered.get(ref) == (sent, self._view.revision(ref)):
            return
        stored = await self._api.apply(child, manager=self.controller.name)
        self.counters.applied += 1
        remembered[ref] = sent, stored["metadata"].get("resourceVersion", "")

    async def _prune(self, owner: Obj, wanted: frozenset[Ref], *, strays: bool = False) -> None:
        """Delete what is owned and not wanted; `strays`: only what the garbage collector would not find."""
        remembered = self._applied.get(Ref.of(owner), {})
        for gvk in self.controller.owns:
            for child in [*await self._view.owned(gvk, owner)]:
                ref, meta = Ref.of(child), child["metadata"]
                stray = OWNER_LABEL in (meta.get("labels") or {})
                if ref in wanted or meta.get("deletionTimestamp") or (strays and not stray):
                    continue
                await self._delete(ref, meta["uid"])
                remembered.pop(ref, None)
                self.counters.pruned += 1

    async def _delete(self, ref: Ref, uid: str = "") -> None:
        try:
            await self._api.delete(ref, uid=uid, propagation="Background")
        except NotFound:
            return

    # what it says

    async def _report(self, ref: Ref, obj: Obj, work: _Work) -> None:
        """Write the status if it differs, then tell the events. A vanished object needs neither."""
        patch = _parts(metadata=self._annotations(obj, work), status=self._status_patch(obj, work))
        try:
            if patch:
                patch["metadata"] = {**patch.get("metadata", {}), "resourceVersion": obj["metadata"]["resourceVersion"]}
                await self._api.patch(ref, patch, kind="merge", manager=self.controller.name, subresource="status")
                self.counters.reports += 1
        except NotFound:
            return
        for note in (*work.plan.notes, *self._news(obj, work)):
            await self._recorder.record(obj, note)

    def _annotations(self, obj: Obj, work: _Work) -> Obj:
        live = obj["metadata"].get("annotations") or {}
        new = {key: value for key, value in work.plan.annotations.items() if live.get(key) != value}
        return {"annotations": new} if new else {}

    def _status_patch(self, obj: Obj, work: _Work) -> Obj:
        live, generation = obj.get("status") or {}, obj["metadata"].get("generation", 0)
        status = dict(work.plan.status)
        if self.controller.words is not None:
            status["conditions"] = cond.merge(
                live.get("conditions") or (),
                work.said.values(),
                now=rfc3339(self._clock()),
                generation=generation,
                transient=(
                    self.controller.words.stalled,
                    self.controller.words.reconciling,
                    *self.controller.transient,
                ),
            )
            if generation:
                status["observedGeneration"] = generation
        return difference({key: live[key] for key in status if key in live}, status)

    def _news(self, obj: Obj, work: _Work) -> Iterable[Note]:
        """The change of Ready, if it changed its status or reason."""
        words = self.controller.words
        if words is None:
            return
        now = work.said[words.ready]
        before = cond.find((obj.get("status") or {}).get("conditions") or (), words.ready) or {}
        if (before.get("status"), before.get("reason")) != (now.status, now.reason):
            yield Note(now.reason, now.message, "Warning" if now.ok is False else "Normal")


class _Work:
    """What a pass has to say."""

    def __init__(self) -> None:
        self.said: dict[str, Condition] = {}
        self.ready: bool | None = None
        self._plan = Plan()

    @property
    def plan(self) -> Plan:
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._plan = plan
        for condition in plan.conditions:
            self.said[condition.type] = condition

    def say(self, condition: Condition) -> None:
        """What the plan says itself stays. The first word of a step is Ready's."""
        if not self.said:
            self.ready = condition.ok
        self.said.setdefault(condition.type, condition)


def _parts(**parts: Obj) -> Obj:
    return {name: part for name, part in parts.items() if part}


def _uid(obj: Obj) -> str:
    uid: str = obj["metadata"].get("uid", "")
    return uid


def _finalizers(obj: Obj) -> list[str]:
    return obj["metadata"].get("finalizers") or []


# pure pieces


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Obj:
    """The JSON merge patch from `old` to `new`; empty when they are equal. A None in `new` is an absent field."""
    patch: Obj = {key: None for key, value in old.items() if value is not None and new.get(key) is None}
    for key, value in new.items():
        was = old.get(key)
        if value is None or value == was:
            continue
        patch[key] = difference(was, value) if isinstance(value, Mapping) and isinstance(was, Mapping) else value
    return patch


def concerns_spec(new: Obj, old: Obj) -> bool:
    """Something else than the status and the bookkeeping of the server has changed."""
    if any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - {"status", "metadata"}):
        return True
    ours, was = new["metadata"], old["metadata"]
    return any(
        ours.get(key) != was.get(key) for key in (ours.keys() | was.keys()) - {"resourceVersion", "managedFields"}
    )


# reading


@dataclass(frozen=True, slots=True)
class _Direct:
    """Everything from the API."""

    api: Api

    async def get(self, ref: Ref) -> Obj | None:
        return await self.api.get(ref)

    async def owned(self, gvk: GVK, owner: Obj) -> Iterable[Obj]:
        uid = _uid(owner)
        return [child for child in (await self.api.list(gvk)).items if uid in owners_of(child)]

    def revision(self, ref: Ref) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class _Cached:
    """Everything from informers."""

    main: Informer
    owns: Mapping[GVK, Informer]

    async def get(self, ref: Ref) -> Obj | None:
        return self.main.get(ref)

    async def owned(self, gvk: GVK, owner: Obj) -> Iterable[Obj]:
        return self.owns[gvk].by(_OWNERS, _uid(owner))

    def revision(self, ref: Ref) -> str:
        informer = self.owns.get(ref.gvk)
        obj = informer.get(ref) if informer is not None else None
        return "" if obj is None else obj["metadata"].get("resourceVersion", "")


_OWNERS, _UIDS = "owners", "uid"


# running


async def run(
    controllers: Iterable[Controller],
    api: Api,
    *,
    counters: dict[str, Counters] | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Run many controllers for ever; they share informers. `counters` is filled in, by controller name.

    `ready` is set when every controller has seen all its objects and begins to work.
    """
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        running = [Running(controller, api, informers) for controller in controllers]
        for each in running:
            if counters is not None:
                counters[each.loop.controller.teller] = each.loop.counters
            group.create_task(each.run(), name=each.loop.controller.teller)
        await informers.synced()
        if ready is not None:
            ready.set()


class Running:
    """A controller with its queue, fed by informers."""

    def __init__(self, controller: Controller, api: Api, informers: SharedInformers) -> None:
        self.queue: Queue[Ref] = Queue(base=controller.base)
        self._main = informers.of(
            controller.kind, controller.namespace, labels=controller.labels, fields=controller.fields
        )
        self._main.index(_UIDS, lambda obj: (_uid(obj),))
        owns = {gvk: informers.of(gvk) for gvk in controller.owns}
        narrowed = controller.narrowed
        wakes = [(informers.of(gvk, labels=narrowed.get(gvk, "")), wake) for gvk, wake in controller.wakes.items()]
        wakes += [
            (informers.of(gvk, labels=narrowed.get(gvk, "")), self._selecting(selects, controller.anywhere))
            for gvk, selects in controller.selects.items()
        ]
        self._informers = [self._main, *owns.values(), *[informer for informer, _ in wakes]]
        self.loop = Loop(
            controller,
            CachedReads(api, informers) if controller.cached else api,
            view=_Cached(self._main, owns),
        )
        self._main.subscribe(Handlers(self._wake, self._changed, self._wake))
        for informer in owns.values():
            informer.index(_OWNERS, owners_of)
            informer.subscribe(self._handlers(self._owners))
        for informer, wake in wakes:
            informer.subscribe(self._handlers(wake))

    async def run(self) -> None:
        for informer in self._informers:
            await informer.synced.wait()
        await self.queue.work(self._handle, self.loop.controller.workers)

    async def _handle(self, ref: Ref) -> None:
        outcome = await self.loop.once(ref)
        if outcome.failed:
            self.queue.retry(ref)
            return
        self.queue.forget(ref)
        if outcome.again is not None:
            self.queue.add(ref, outcome.again)

    def _wake(self, obj: Obj) -> None:
        self.queue.add(Ref.of(obj))

    def _changed(self, new: Obj, old: Obj) -> None:
        """Our own word in the status must not wake us again, or a failure would outrun its back-off."""
        if self.loop.controller.words is None or concerns_spec(new, old):
            self._wake(new)

    def _owners(self, child: Obj) -> Iterable[Ref]:
        for uid in owners_of(child):
            yield from map(Ref.of, self._main.by(_UIDS, uid))

    def _selecting(self, selects: Selects, anywhere: bool) -> Wake:
        def wake(changed: Obj) -> Iterable[Ref]:
            for ours in self._main.list("" if anywhere else changed["metadata"].get("namespace", "")):
                if selects(ours, changed):
                    yield Ref.of(ours)

        return wake

    def _handlers(self, wake: Wake) -> Handlers:
        def added(obj: Obj) -> None:
            try:
                for ref in wake(obj):
                    self.queue.add(ref)
            except Exception:  # a bug in one mapping must not stop the informer of everybody
                log.exception("cannot tell whom a change concerns", extra={"object": str(Ref.of(obj))})

        def changed(new: Obj, old: Obj) -> None:
            added(new)
            added(old)  # whom it concerned before may have lost it

        return Handlers(added, changed, added)
