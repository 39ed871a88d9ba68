"""What a Deployment does now: one step of a rollout, a scaling, a cleaning up. Pure.

The order of a rolling update: more of the new set as far as the surge allows; if there was nothing to add, less of the
old ones as far as availability allows, broken pods first. A change of the replica count is spread over all sets that
have pods, in proportion, so that a rollout in progress keeps its shape.

Source: k8s.io/kubernetes, pkg/controller/deployment (sync.go, rolling.go, recreate.go).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from havre.api.meta import Obj
from havre.control.workloads.deployment import progress
from havre.control.workloads.deployment.progress import Said
from havre.control.workloads.deployment.sets import (
    DESIRED,
    MOST,
    REVISION,
    Set,
    Spec,
    by_revision,
    by_size,
    counted,
    handed_down,
    new_of,
    new_set,
    oldest_first,
    total,
)
from havre.control.workloads.template_hash import template_hash
from havre.machinery.events import Note


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is: the Deployment's sets, and whether pods of old templates still run."""

    sets: Sequence[Set]
    old_pods_run: bool
    now: float  # since the epoch


@dataclass(frozen=True, slots=True)
class Change:
    """A merge patch for a set."""

    name: str
    uid: str
    patch: Obj


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do, in this order, and what to say then."""

    create: Obj | None
    change: tuple[Change, ...]
    delete: tuple[Set, ...]
    status: Obj
    annotations: dict[str, str]
    notes: tuple[Note, ...]
    again: float | None


def plan(deployment: Obj, spec: Spec, seen: Seen) -> Steps:
    draft = _Draft(deployment, spec, seen)
    progress.pause_or_resume(spec, draft.said)
    if spec.paused or draft.was_scaled():
        draft.find_new()
        draft.scale_all()
        if spec.paused:
            draft.clean_up()
        return draft.steps(rolling=False)
    if spec.recreate:
        _recreate(draft, seen.old_pods_run)
    else:
        _roll(draft)
    return draft.steps(rolling=True)


def _recreate(draft: _Draft, old_pods_run: bool) -> None:
    """Nothing new before everything old is gone."""
    draft.find_new()
    if draft.scale_down([(each, 0) for each in draft.old if each.size]):
        return
    if old_pods_run or any(each.replicas for each in draft.old):
        return
    new = draft.new or draft.make_new()
    draft.scale(new, draft.spec.replicas)
    draft.clean_up_if_complete()


def _roll(draft: _Draft) -> None:
    draft.find_new()
    new = draft.new or draft.make_new()
    if draft.scale(new, draft.wanted_of_new(new)) or draft.scale_down(draft.surplus(new)):
        return
    draft.clean_up_if_complete()


class _Draft:
    """The plan while it is made: the sets as they will be, and what makes them so."""

    def __init__(self, deployment: Obj, spec: Spec, seen: Seen) -> None:
        self.spec = spec
        self.new: Set | None = new_of(spec, seen.sets)
        self.old = oldest_first(each for each in seen.sets if each is not self.new)
        self.said: Said = progress.said_of(deployment, seen.now)
        self._deployment = deployment
        self._live: Obj = deployment.get("status") or {}
        self._create: Obj | None = None
        self._patches: dict[str, Obj] = {}
        self._delete: list[Set] = []
        self._notes: list[Note] = []
        self._revision = ""

    # the new set

    def was_scaled(self) -> bool:
        """A set remembers another count of the Deployment than it has now."""
        active = [each for each in self._all() if each.size]
        return any((held := each.annotated(DESIRED)) is not None and held != self.spec.replicas for each in active)

    def find_new(self) -> None:
        """The set of the template, if there is one, gets its annotations and gives the Deployment its revision."""
        if self.new is None:
            return
        annotations = handed_down(self.spec, self.new.annotations, self._next_revision())
        if annotations != dict(self.new.annotations):
            self._patch(self.new, metadata={"annotations": _difference(self.new.annotations, annotations)})
        if self.new.min_ready != self.spec.min_ready:
            self._patch(self.new, spec={"minReadySeconds": self.spec.min_ready})
        self.new = replace(self.new, annotations=annotations, min_ready=self.spec.min_ready)
        self._revision = annotations.get(REVISION, "")
        if self.spec.deadline is not None and self.said.find(progress.PROGRESSING) is None:
            message = f'Found new replica set "{self.new.name}"'
            self.said.say(progress.PROGRESSING, "True", progress.FOUND, message)

    def make_new(self) -> Set:
        hash = template_hash(self.spec.template, self._live.get("collisionCount"))
        size = self.spec.replicas if self.spec.recreate else self._room(0)
        self._create = new_set(self._deployment, self.spec, hash, self._next_revision(), size)
        self.new = Set.of(self._create)
        self._revision = str(self._next_revision())
        if size:
            self._note("up", self.new.name, 0, size)
        if self.spec.deadline is not None:
            message = f'Created new replica set "{self.new.name}"'
            self.said.say(progress.PROGRESSING, "True", progress.CREATED, message)
        return self.new

    def _next_revision(self) -> int:
        return max((each.revision for each in self.old), default=0) + 1

    def wanted_of_new(self, new: Set) -> int:
        if new.size >= self.spec.replicas:
            return self.spec.replicas
        return self._room(new.size)

    def _room(self, size: int) -> int:
        """What the new set of this size may have, with all pods that are there."""
        there = total(self.old) + size
        return size + max(0, min(self.spec.most - there, self.spec.replicas - size))

    # less of the old

    def surplus(self, new: Set) -> list[tuple[Set, int]]:
        """The new sizes of old sets: broken pods go first, then as many as there are too many available ones."""
        active = [each for each in self.old if each.size]
        limit = total(self._all()) - self.spec.fewest - (new.size - new.available)
        if not active or limit <= 0:
            return []
        sizes = {each.name: each.size for each in active}
        for each in active:
            broken = min(limit, max(0, sizes[each.name] - each.available))
            sizes[each.name] -= broken
            limit -= broken
        spare = sum(each.available for each in [*active, new]) - self.spec.fewest
        for each in active:
            taken = max(0, min(sizes[each.name], spare))
            sizes[each.name] -= taken
            spare -= taken
        return [(each, sizes[each.name]) for each in active]

    def scale_down(self, sizes: Sequence[tuple[Set, int]]) -> bool:
        """True if one of them changes."""
        changed = [self.scale(each, size) for each, size in sizes]
        return any(changed)

    # every set

    def scale_all(self) -> None:
        """The count of the Deployment has changed, or it is paused: no rollout now, every set in proportion."""
        only = self._active_or_latest()
        if only is not None:
            self.scale(only, self.spec.replicas)
        elif self._is_saturated():
            self.scale_down([(each, 0) for each in self.old if each.size])
        elif not self.spec.recreate:
            self._scale_in_proportion()

    def _active_or_latest(self) -> Set | None:
        """The one set to scale, if only one has pods, or none has."""
        active = [each for each in self._all() if each.size]
        if len(active) > 1:
            return None
        return active[0] if active else self.new or (self.old[-1] if self.old else None)

    def _is_saturated(self) -> bool:
        new, wanted = self.new, self.spec.replicas
        return new is not None and new.size == wanted == new.annotated(DESIRED) == new.available

    def _scale_in_proportion(self) -> None:
        active = [each for each in self._all() if each.size]
        allowed = self.spec.most if self.spec.replicas else 0
        to_add = allowed - total(active)
        active = by_size(active, newer=to_add >= 0)
        sizes, added = {}, 0
        for each in active:
            share = self._share(each, to_add, added)
            sizes[each.name] = each.size + share
            added += share
        first = active[0].name
        sizes[first] = max(0, sizes[first] + to_add - added)
        for each in active:
            self.scale(each, sizes[each.name], remember=True)

    def _share(self, each: Set, to_add: int, added: int) -> int:
        """How many of the pods to add (or, negative, to take) fall to this set."""
        left = to_add - added
        if not to_add or not left:
            return 0
        if not self.spec.replicas:
            fraction = -each.size
        else:
            before = each.annotated(MOST) or self._live.get("replicas") or 0
            fraction = math.floor(each.size * self.spec.most / before + 0.5) - each.size if before else 0
        return min(fraction, left) if to_add > 0 else max(fraction, left)

    def scale(self, each: Set, size: int, *, remember: bool = False) -> bool:
        """True if the size changes; `remember`: write down the counts even if it does not."""
        counts = counted(self.spec)
        if each.size == size and not (remember and not counts.items() <= each.annotations.items()):
            return False
        self._patch(each, spec={"replicas": size}, metadata={"annotations": counts})
        if each.size != size:
            self._note("up" if size > each.size else "down", each.name, each.size, size)
        self._put(replace(each, size=size, annotations={**each.annotations, **counts}))
        return each.size != size

    # afterwards

    def clean_up_if_complete(self) -> None:
        if progress.is_complete(self.spec, self._live):
            self.clean_up()

    def clean_up(self) -> None:
        """Old sets beyond the history go, the oldest first; one with pods stays."""
        if self.spec.history is None:
            return
        kept = by_revision(each for each in self.old if not each.leaving)
        for each in kept[: max(0, len(kept) - self.spec.history)]:
            if not each.size and not each.replicas and each.settled:
                self._delete.append(each)

    def steps(self, *, rolling: bool) -> Steps:
        counts = progress.status(self.spec, self._live, self.new, self.old, self.said)
        if rolling:
            progress.estimate(self.spec, self._live, counts, self.new, self.old, self.said)
        return Steps(
            create=self._create,
            change=tuple(Change(each.name, each.uid, patch) for each, patch in self._changes()),
            delete=tuple(self._delete),
            status={**counts, "conditions": self.said.held},
            annotations={REVISION: self._revision} if self._revision else {},
            notes=tuple(self._notes),
            again=progress.next_look(self.spec, counts, self.said) if rolling else None,
        )

    # pieces

    def _all(self) -> list[Set]:
        return [*self.old, *([self.new] if self.new else [])]

    def _put(self, changed: Set) -> None:
        if self.new is not None and self.new.name == changed.name:
            self.new = changed
        self.old = [changed if each.name == changed.name else each for each in self.old]

    def _patch(self, each: Set, **parts: Obj) -> None:
        held = self._patches.setdefault(each.name, {})
        for part, value in parts.items():
            there = held.setdefault(part, {})
            for key, new in value.items():
                there[key] = {**there.get(key, {}), **new} if isinstance(new, dict) else new

    def _changes(self) -> list[tuple[Set, Obj]]:
        return [(each, self._patches[each.name]) for each in self._all() if each.uid and each.name in self._patches]

    def _note(self, way: str, name: str, before: int, after: int) -> None:
        self._notes.append(Note("ScalingReplicaSet", f"Scaled {way} replica set {name} from {before} to {after}"))


def _difference(old: Obj | object, new: dict[str, str]) -> dict[str, str]:
    held = old if isinstance(old, dict) else {}
    return {key: value for key, value in new.items() if held.get(key) != value}
