"""Kustomization: the objects of a path in a source are in the cluster, and what left the path leaves the cluster.

reads   Kustomization; the GitRepository, OCIRepository, Bucket or ExternalArtifact it names, and its artifact; the
        Kustomizations it depends on; ConfigMaps and Secrets with variables; every object it applies
writes  whatever the source says, labelled kustomize.toolkit.fluxcd.io/{name,namespace}; Kustomization.status
wakes   on the Kustomization; a source wakes those that name it, a Kustomization those that depend on it, ConfigMaps
        and Secrets labelled reconcile.fluxcd.io/watch=Enabled those that take variables from them
source  fluxcd/kustomize-controller v1.9, internal/controller/kustomization_controller.go

A pass that has nothing to do costs the reads of what is there: the objects of one artifact, spec and set of variables
are built once and kept, and an object that has been compared is compared again only when one of both sides changed.
Waiting for health never blocks: the pass ends, and looks again soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from havre.api.meta import GVK, Obj, annotations_of
from havre.kit import duration
from havre.lang.cel.expression import CelError
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import Condition, Words, find
from havre.machinery.controller import Controller, Plan, Stalled, Waiting
from havre.machinery.events import Note
from havre.platform.gitops import artifacts, history, inventory
from havre.platform.gitops.apply import GROUP, MANAGER, Applier, ApplyError, Change, Memory, shown
from havre.platform.gitops.drift import Rule
from havre.platform.gitops.expressions import ExpressionError, HealthExpressions, is_ready
from havre.platform.gitops.health import Health, Watched, judge
from havre.platform.gitops.kustomization_build import is_encrypted
from havre.platform.gitops.kustomization_source import Builds, Fetch, SourceError, variables_of
from havre.platform.gitops.kustomize import BuildError

KUSTOMIZATION: Final = GVK(GROUP, "v1", "Kustomization")
SOURCES: Final = {
    kind: GVK("source.toolkit.fluxcd.io", "v1", kind)
    for kind in ("GitRepository", "OCIRepository", "Bucket", "ExternalArtifact")
}
WATCHED: Final = "reconcile.fluxcd.io/watch=Enabled"  # label of ConfigMaps and Secrets whose change wakes
WATCHED_KINDS: Final = (GVK("", "v1", "ConfigMap"), GVK("", "v1", "Secret"))
FINALIZER: Final = "finalizers.fluxcd.io"
REQUESTED: Final = "reconcile.fluxcd.io/requestedAt"
DEPENDENCY_SECONDS: Final = 30.0  # before dependencies are looked at without having been woken
DEFAULT_TIMEOUT_MARGIN: Final = 30.0  # the default timeout is so much shorter than the interval
HEALTH_SECONDS: Final = 2.0  # between two looks at objects that are not healthy yet
WORKERS: Final = 4
DEADLINE: Final = 900.0  # seconds of one pass: the stages of definitions, and thousands of objects

HEALTHY: Final = "Healthy"
INVALID_EXPRESSION: Final = "InvalidCELExpression"
TERMINAL: Final = "Reconciliation failed terminally due to configuration error"
SUCCEEDED: Final = "ReconciliationSucceeded"
FAILED: Final = "ReconciliationFailed"
WORDS: Final = Words(succeeded=SUCCEEDED, failed=FAILED)


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the spec that decides when and how; what is built from it is read by the build."""

    ref: Ref
    source: Ref
    interval: float  # seconds, as all durations
    retry: float
    timeout: float
    depends_on: tuple[Ref, ...]
    prune: bool
    wait: bool
    force: bool
    checks: tuple[Ref, ...]
    deletion: str
    account: str
    ready: Mapping[Ref, str]  # expressions that replace the usual look at a dependency
    health: HealthExpressions
    ignore: tuple[Rule, ...]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec, ref = obj.get("spec") or {}, Ref.of(obj)
        interval = _seconds(spec, "interval", 60.0)
        source = spec.get("sourceRef") or {}
        kind = SOURCES.get(source.get("kind", ""))
        if kind is None or not source.get("name"):
            raise Stalled("ArtifactFailed", f"source `{source.get('name')}` kind '{source.get('kind')}' not supported")
        return cls(
            ref=ref,
            source=Ref(kind, source.get("namespace") or ref.namespace, source["name"]),
            interval=interval,
            retry=_seconds(spec, "retryInterval", interval),
            timeout=_seconds(spec, "timeout", max(interval - DEFAULT_TIMEOUT_MARGIN, DEFAULT_TIMEOUT_MARGIN)),
            depends_on=_dependencies(obj),
            prune=spec.get("prune") is True,
            wait=spec.get("wait") is True,
            force=spec.get("force") is True,
            checks=tuple(_check(each) for each in spec.get("healthChecks") or ()),
            deletion=spec.get("deletionPolicy") or "MirrorPrune",
            account=spec.get("serviceAccountName") or "",
            ready=_ready_expressions(obj),
            health=_health(spec),
            ignore=_ignored(spec),
            raw=spec,
        )


def _seconds(spec: Mapping[str, Any], name: str, default: float) -> float:
    text = spec.get(name)
    if not text:
        return default
    try:
        return duration.parse(text)
    except duration.DurationError as error:
        raise Stalled(FAILED, f"spec.{name}: {error}") from error


def _dependencies(obj: Obj) -> tuple[Ref, ...]:
    own = obj["metadata"]["namespace"]
    entries = (obj.get("spec") or {}).get("dependsOn") or ()
    return tuple(Ref(KUSTOMIZATION, each.get("namespace") or own, each["name"]) for each in entries)


def _ready_expressions(obj: Obj) -> dict[Ref, str]:
    entries = (obj.get("spec") or {}).get("dependsOn") or ()
    return {
        ref: each["readyExpr"] for ref, each in zip(_dependencies(obj), entries, strict=True) if each.get("readyExpr")
    }


def _health(spec: Mapping[str, Any]) -> HealthExpressions:
    try:
        return HealthExpressions.of(spec.get("healthCheckExprs") or ())
    except ExpressionError as error:
        raise Stalled(INVALID_EXPRESSION, f"{TERMINAL}: {error}") from error


def _ignored(spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    try:
        return tuple(Rule.of(each, f"spec.ignore[{at}]") for at, each in enumerate(spec.get("ignore") or ()))
    except BuildError as error:
        raise Stalled(FAILED, str(error)) from error


def _check(raw: Mapping[str, Any]) -> Ref:
    group, _, version = str(raw.get("apiVersion") or "").rpartition("/")
    return Ref(GVK(group, version, raw["kind"]), raw.get("namespace") or "", raw["name"])


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there before anything is built."""

    ours: Obj
    source: Obj | None
    dependencies: Mapping[Ref, Obj | None]

    @property
    def artifact(self) -> Mapping[str, Any] | None:
        found = ((self.source or {}).get("status") or {}).get("artifact")
        return found if isinstance(found, dict) else None

    @property
    def revision(self) -> str:
        return str((self.artifact or {}).get("revision") or "")

    @property
    def origin(self) -> str:
        return str(((self.artifact or {}).get("metadata") or {}).get("org.opencontainers.image.revision") or "")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing is built now, and when to look again."""

    reason: str
    message: str
    again: float


def plan(spec: Spec, seen: Seen) -> Stop | None:
    """None: go on."""
    if seen.source is None:
        where = f"{spec.source.gvk.kind}/{spec.source.namespace}/{spec.source.name}"
        return Stop("ArtifactFailed", f"Source '{where}' not found", spec.retry)
    if seen.artifact is None:
        return Stop(
            "ArtifactFailed",
            f"Source artifact not found, retrying in {duration.format(DEPENDENCY_SECONDS)}",
            DEPENDENCY_SECONDS,
        )
    for ref in spec.depends_on:
        found = seen.dependencies.get(ref)
        expression = spec.ready.get(ref)
        why = _unready_by(expression, ref, found, seen) if expression else _unready(ref, found, spec, seen)
        if why:
            return Stop("DependencyNotReady", why, DEPENDENCY_SECONDS)
    return None


def _unready_by(expression: str, ref: Ref, found: Obj | None, seen: Seen) -> str:
    """Raises Stalled."""
    name = f"{ref.namespace}/{ref.name}"
    if found is None:
        return f"dependency '{name}' not found"
    try:
        ready = is_ready(expression, seen.ours, found)
    except ExpressionError as error:
        raise Stalled(INVALID_EXPRESSION, f"{TERMINAL}: {error}") from error
    except CelError as error:
        return str(error)
    return "" if ready else f"dependency '{name}' is not ready according to readyExpr eval"


def _unready(ref: Ref, found: Obj | None, spec: Spec, seen: Seen) -> str:
    name = f"{ref.namespace}/{ref.name}"
    if found is None:
        return f"dependency '{name}' not found"
    status, said = found.get("status") or {}, found.get("spec") or {}
    ready = find(status.get("conditions") or (), "Ready")
    if found["metadata"].get("generation") != status.get("observedGeneration"):
        return f"dependency '{name}' is not ready"
    if ready is None or ready.get("status") != "True":
        return f"dependency '{name}' is not ready"
    theirs = said.get("sourceRef") or {}
    same = (theirs.get("kind"), theirs.get("namespace") or ref.namespace, theirs.get("name")) == (
        spec.source.gvk.kind,
        spec.source.namespace,
        spec.source.name,
    )
    if same and status.get("lastAppliedRevision") != seen.revision:
        return f"dependency '{name}' revision is not up to date"
    return ""


# reconcile


@dataclass(slots=True)
class Means:
    """What the controller works with beside the API. What it remembers may be lost at any time."""

    builds: Builds
    impersonate: Callable[[str, str], Api] | None = None  # by namespace and name of a service account
    clock: Callable[[], float] = time.time
    memories: dict[Ref, Memory] = field(default_factory=dict)
    waits: dict[Ref, Watched] = field(default_factory=dict)

    def api(self, spec: Spec, ours: Api) -> Api:
        """In whose name objects are applied. Raises SourceError."""
        if spec.raw.get("kubeConfig"):
            raise SourceError(FAILED, "spec.kubeConfig: other clusters are not reached yet; remove it")
        if not spec.account:
            return ours
        if self.impersonate is None:
            raise SourceError(FAILED, "spec.serviceAccountName: this instance cannot act as a service account")
        return self.impersonate(spec.ref.namespace, spec.account)

    def forget(self, ref: Ref) -> None:
        self.memories.pop(ref, None)
        self.waits.pop(ref, None)


@dataclass(slots=True)
class _Pass:
    """One pass over one Kustomization, and what is to be said of it."""

    obj: Obj
    spec: Spec
    seen: Seen
    began: float
    status: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def old(self) -> Mapping[str, Any]:
        return self.obj.get("status") or {}

    def fail(self, reason: str, message: str, *more: Condition, again: float | None = None) -> Plan:
        """Ready is false; it is tried again after the retry interval."""
        conditions = (
            Condition("Ready", False, reason, message),
            *more,
            Condition("Reconciling", True, "ProgressingWithRetry", message),
        )
        again = self.spec.retry if again is None else again
        return Plan(status=self.status, conditions=conditions, again=again, notes=tuple(self.notes))

    def record(self, digest: str, outcome: str, now: float, *, always: bool) -> None:
        """The history, unless the pass only found again what the last one had found."""
        metadata = {
            "revision": self.seen.revision,
            **({"originRevision": self.seen.origin} if self.seen.origin else {}),
        }
        old = self.old.get("history") or []
        if always or not history.repeats(old, digest, outcome, metadata):
            self.status["history"] = history.told(old, digest, outcome, metadata, now, now - self.began)


async def reconcile(obj: Obj, api: Api, means: Means) -> Plan:
    spec = Spec.of(obj)
    seen = Seen(
        obj,
        await api.get(spec.source),
        {ref: await api.get(ref) for ref in spec.depends_on},
    )
    here = _Pass(obj, spec, seen, means.clock())
    requested = annotations_of(obj).get(REQUESTED)
    if requested:
        here.status["lastHandledReconcileAt"] = requested
    stop = plan(spec, seen)
    if stop is not None:
        return here.fail(stop.reason, stop.message, again=stop.again)
    here.status["lastAttemptedRevision"] = seen.revision
    try:
        target = means.api(spec, api)
        variables = await variables_of(spec.raw, spec.ref.namespace, api)
        built = await means.builds.objects(spec.ref, spec.raw, seen.artifact or {}, variables)
    except SourceError as error:
        return here.fail(error.reason, str(error), again=error.again)
    return await _enforce(here, target, built.objects, built.digest, means)


async def _enforce(here: _Pass, api: Api, objects: Sequence[Obj], digest: str, means: Means) -> Plan:
    spec = here.spec
    applier = Applier(api, spec.ref, means.memories.setdefault(spec.ref, {}), spec.force, spec.ignore)
    before = inventory.refs(here.old.get("inventory"))
    try:
        _refuse_encrypted(objects)
        changes = await applier.apply(objects)
    except ApplyError as error:
        applied = [change.ref for change in error.changes]
        here.status["inventory"] = inventory.entries(inventory.merged(before, applied))
        here.record(digest, FAILED, means.clock(), always=False)
        return here.fail(FAILED, _with_log(str(error), error.changes))
    wanted = [change.ref for change in changes]
    here.status["inventory"] = inventory.entries(wanted)
    _tell(here, changes)
    stale = inventory.stale(before, wanted)
    if spec.prune and stale:
        try:
            _tell(here, await applier.prune(stale))
        except ApplyError as error:
            left = [ref for ref in stale if ref not in {change.ref for change in error.changes}]
            here.status["inventory"] = inventory.entries(inventory.merged(wanted, left))
            here.record(digest, "PruneFailed", means.clock(), always=False)
            return here.fail("PruneFailed", str(error))
    made = any(change.made for change in changes)
    return await _judge(here, api, changes, digest, means, made=made)


def _refuse_encrypted(objects: Iterable[Obj]) -> None:
    for obj in objects:
        if is_encrypted(obj):
            raise ApplyError(
                f"{shown(Ref.of(obj))} is SOPS encrypted, configuring decryption is required for this secret to be "
                "reconciled",
                (),
            )


def _with_log(message: str, changes: Iterable[Change]) -> str:
    done = [str(change) for change in changes if change.made]
    return "\n".join([message, *done])


def _tell(here: _Pass, changes: Iterable[Change]) -> None:
    made = [str(change) for change in changes if change.made]
    if made:
        here.notes.append(Note("Progressing", "\n".join(made)))


async def _judge(here: _Pass, api: Api, changes: Sequence[Change], digest: str, means: Means, *, made: bool) -> Plan:
    """Healthy, not yet, or never; without checks, done."""
    spec, now = here.spec, means.clock()
    known = {change.ref: change.live for change in changes}
    refs = [change.ref for change in changes if change.action != "skipped"] if spec.wait else [*spec.checks]
    refs = [ref for ref in refs if ref != spec.ref]
    if not refs:
        means.waits.pop(spec.ref, None)
        return _done(here, digest, now, made=made, healthy=None)
    for ref in refs:
        if ref not in known:
            known[ref] = await api.get(ref)
    watched = Watched.since(means.waits.get(spec.ref), here.seen.revision, here.obj, now)
    health = judge([(ref, known[ref]) for ref in refs], now - watched.began, spec.timeout, now, spec.health)
    if health.state is Health.PROGRESSING:
        means.waits[spec.ref] = watched
        return _waiting(here)
    means.waits.pop(spec.ref, None)
    spent = duration.format(round(now - watched.began, 3))
    if health.state is Health.FAILED:
        message = f"health check failed after {spent}: {health.message}"
        here.record(digest, "HealthCheckFailed", now, always=False)
        return here.fail("HealthCheckFailed", message, Condition(HEALTHY, False, "HealthCheckFailed", health.message))
    was = find(here.old.get("conditions") or (), HEALTHY)
    message = f"Health check passed in {spent}"
    if was is not None and was.get("status") == "True" and not made:
        message = was.get("message", message)
    else:
        here.notes.append(Note(SUCCEEDED, message))
    return _done(here, digest, now, made=made, healthy=Condition(HEALTHY, True, "Succeeded", message))


def _waiting(here: _Pass) -> Plan:
    shown_timeout = duration.format(here.spec.timeout)
    message = f"Running health checks for revision {here.seen.revision} with a timeout of {shown_timeout}"
    return Plan(
        status=here.status,
        conditions=(
            Condition("Ready", None, "Progressing", "Reconciliation in progress"),
            Condition(HEALTHY, None, "Progressing", message),
            Condition("Reconciling", True, "Progressing", message),
        ),
        again=HEALTH_SECONDS,
        notes=tuple(here.notes),
    )


def _done(here: _Pass, digest: str, now: float, *, made: bool, healthy: Condition | None) -> Plan:
    revision = here.seen.revision
    requested = here.status.get("lastHandledReconcileAt") != here.old.get("lastHandledReconcileAt")
    here.status["lastAppliedRevision"] = revision
    here.status["lastAppliedOriginRevision"] = here.seen.origin or None
    here.record(digest, SUCCEEDED, now, always=made or requested)
    ready = Condition("Ready", True, SUCCEEDED, f"Applied revision: {revision}")
    return Plan(
        status=here.status,
        conditions=(ready,) if healthy is None else (ready, healthy),
        again=here.spec.interval,
        notes=tuple(here.notes),
    )


# the end


async def finalize(obj: Obj, api: Api, means: Means) -> None:
    """Deletes what was applied, if the policy says so. Raises Waiting until it is gone, if the policy says that."""
    ref = Ref.of(obj)
    try:
        spec = Spec.of(obj)
        target = means.api(spec, api)
    except (Stalled, SourceError):
        means.forget(ref)  # nobody can be asked in that name any more: upstream lets go too
        return
    refs = inventory.refs((obj.get("status") or {}).get("inventory"))
    wanted = spec.deletion in ("Delete", "WaitForTermination") or (spec.deletion == "MirrorPrune" and spec.prune)
    if spec.raw.get("suspend") is True or not wanted or not refs:
        means.forget(ref)
        return
    changes = await Applier(target, ref, {}).prune(refs)
    if spec.deletion == "WaitForTermination":
        left = [change for change in changes if change.action == "deleted" and await target.get(change.ref)]
        began = means.waits.setdefault(ref, Watched("", 0, means.clock())).began
        if left and means.clock() - began < spec.timeout:
            names = ", ".join(shown(change.ref) for change in left)
            raise Waiting("Progressing", f"waiting for the termination of {names}", HEALTH_SECONDS)
    means.forget(ref)


# wiring


def _names_source(ours: Obj, source: Obj) -> bool:
    wanted, meta = (ours.get("spec") or {}).get("sourceRef") or {}, source["metadata"]
    return bool(
        wanted.get("name") == meta["name"]
        and wanted.get("kind") == source.get("kind")
        and (wanted.get("namespace") or ours["metadata"]["namespace"]) == meta["namespace"]
        and _news(ours, source)
    )


def _news(ours: Obj, source: Obj) -> bool:
    """The artifact is another than the one that was applied."""
    artifact = (source.get("status") or {}).get("artifact") or {}
    status = ours.get("status") or {}
    return artifact.get("revision") != status.get("lastAppliedRevision")


def _waits_for(ours: Obj, other: Obj) -> bool:
    if not (ours.get("spec") or {}).get("dependsOn"):
        return False
    ready = find((ours.get("status") or {}).get("conditions") or (), "Ready")
    waiting = ready is not None and ready.get("reason") == "DependencyNotReady"
    return waiting and Ref(KUSTOMIZATION, other["metadata"]["namespace"], other["metadata"]["name"]) in _dependencies(
        ours
    )


def _reads_variables(ours: Obj, changed: Obj) -> bool:
    if ours["metadata"]["namespace"] != changed["metadata"].get("namespace"):
        return False
    entries = ((ours.get("spec") or {}).get("postBuild") or {}).get("substituteFrom") or ()
    wanted = (changed.get("kind"), changed["metadata"]["name"])
    return any((each.get("kind"), each.get("name")) == wanted for each in entries)


def controller(
    work: Path,
    *,
    fetch: Fetch = artifacts.fetch,
    impersonate: Callable[[str, str], Api] | None = None,
    workers: int = WORKERS,
    clock: Callable[[], float] = time.time,
) -> Controller:
    """`work` is a directory for unpacked artifacts, empty between passes."""
    means = Means(Builds(work, fetch), impersonate, clock)

    async def one(obj: Obj, api: Api) -> Plan:
        return await reconcile(obj, api, means)

    async def end(obj: Obj, api: Api) -> None:
        await finalize(obj, api, means)

    return Controller(
        KUSTOMIZATION,
        one,
        selects={
            **dict.fromkeys(SOURCES.values(), _names_source),
            **dict.fromkeys(WATCHED_KINDS, _reads_variables),
            KUSTOMIZATION: _waits_for,
        },
        narrowed=dict.fromkeys(WATCHED_KINDS, WATCHED),
        anywhere=True,
        finalize=end,
        manager=MANAGER,
        finalizer=FINALIZER,
        workers=workers,
        words=WORDS,
        deadline=DEADLINE,
    )
