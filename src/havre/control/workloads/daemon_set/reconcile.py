"""The thin half of the DaemonSet controller: read, plan, carry out. See the folder's docstring.

reads   DaemonSet, Node, Pod, ControllerRevision
writes  Pod, ControllerRevision, DaemonSet.status
wakes   on DaemonSet; Pod; Node
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from havre.api.meta import GVK, Obj, controller_of, labels_of, name_of, namespace_of
from havre.control.workloads import controller_revision, dependents
from havre.control.workloads.backends import NODE
from havre.control.workloads.controller_revision import CONTROLLER_REVISION, POD_LABEL, Collision, Revisions
from havre.control.workloads.daemon_set.plan import Seen, Spec, Steps, plan, status, template_for
from havre.control.workloads.dependents import BURST, MANAGER, Done
from havre.control.workloads.pods import POD, next_available
from havre.control.workloads.replicas import RETRY
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import by_controller
from havre.machinery.queue import backoff

DAEMON_SET = GVK("apps", "v1", "DaemonSet")
LONGEST = 900.0  # seconds between two pods that fail on a node


@dataclass(slots=True)
class Failures:
    """How often in a row the pod of a node has failed, and when the last one was deleted."""

    clock: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def note(self, uid: str, nodes: Sequence[str]) -> None:
        for node in nodes:
            count, at = self._known.get((uid, node), (0, 0.0))
            old = self.clock() - at > 2 * LONGEST
            self._known[uid, node] = (1 if old else count + 1), self.clock()

    def backing_off(self, uid: str) -> dict[str, float]:
        """Seconds left by node."""
        left = {
            node: at + backoff(count, cap=LONGEST) - self.clock()
            for (owner, node), (count, at) in self._known.items()
            if owner == uid
        }
        return {node: seconds for node, seconds in left.items() if seconds > 0}


@dataclass(frozen=True, slots=True)
class Reconciler:
    failures: Failures = field(default_factory=Failures)
    now: Callable[[], float] = time.time

    async def __call__(self, daemon_set: Obj, api: Api) -> Plan:
        spec, uid = Spec.of(daemon_set), daemon_set["metadata"]["uid"]
        live = daemon_set.get("status") or {}
        try:
            revisions = await controller_revision.revisions_of(daemon_set, POD_LABEL, api)
        except Collision as collision:
            return Plan(status={"collisionCount": live.get("collisionCount", 0) + 1}, failed=collision.error)
        hash = labels_of(revisions.update)[POD_LABEL]
        held = await look(api, POD, namespace_of(daemon_set))
        pods = await dependents.claim(daemon_set, LabelSelector.of(daemon_set["spec"]["selector"]), held, api)
        pauses = self.failures.backing_off(uid)
        seen = Seen(await look(api, NODE), pods, hash, self.now(), frozenset(pauses))
        steps = plan(spec, seen)
        done = await _carry_out(steps, spec, seen, daemon_set, api)
        self.failures.note(uid, steps.failed)
        await _clean_up(spec, revisions, pods, api)
        waits = [*pauses.values(), *filter(None, [next_available(pods, spec.min_ready, seen.now)])]
        done.notes += steps.notes
        generation = daemon_set["metadata"].get("generation", 0)
        return done.plan(min(waits, default=None), status(spec, seen, live, generation))


async def _carry_out(steps: Steps, spec: Spec, seen: Seen, daemon_set: Obj, api: Api) -> Done:
    done = Done()
    made = [dependents.pod_of(template_for(spec, seen.hash, node), daemon_set) for node in steps.create[:BURST]]
    await dependents.create_slowly(made, api, done)
    await dependents.delete_pods(steps.delete[:BURST], api, done)
    return done


async def _clean_up(spec: Spec, revisions: Revisions, pods: Sequence[Obj], api: Api) -> None:
    used = {labels_of(pod).get(POD_LABEL, "") for pod in pods}
    await controller_revision.delete(controller_revision.surplus(revisions, spec.history, used), api)


def wanted_by(daemon_set: Obj, pod: Obj) -> bool:
    selector = LabelSelector.of(daemon_set["spec"]["selector"])
    return controller_of(pod) is None and selector.matches(labels_of(pod))


def everybody(_daemon_set: Obj, node: Obj) -> bool:
    return bool(name_of(node))


def controller() -> Controller:
    return Controller(
        DAEMON_SET,
        Reconciler(),
        wakes={POD: by_controller(DAEMON_SET), CONTROLLER_REVISION: by_controller(DAEMON_SET)},
        selects={POD: wanted_by, NODE: everybody},
        manager=MANAGER,
        component="daemonset-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
