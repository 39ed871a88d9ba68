"""HelmRelease, the pure half: what is wanted, what is stored, and which action comes next.

Source: fluxcd/helm-controller v1.6, internal/reconcile (state.go, atomic_release.go), api/v2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from havre.api.meta import Obj
from havre.kit import duration
from havre.lang.json import dumps_sorted
from havre.machinery.api import Propagation
from havre.platform.gitops.helm.actions import Options
from havre.platform.gitops.helm.release import PENDING, Release
from havre.platform.gitops.helm.values import digest

NAME_BYTES = 53  # of a release: Helm's limit
REQUESTED_AT: Final = "reconcile.fluxcd.io/requestedAt"
FORCE_AT: Final = "reconcile.fluxcd.io/forceAt"
RESET_AT: Final = "reconcile.fluxcd.io/resetAt"
TIMEOUT = 300.0
RETRY_INTERVAL = 300.0  # of the strategy RetryOnFailure
MAX_HISTORY = 5
_PROPAGATIONS: Final[Mapping[str, Propagation]] = {"foreground": "Foreground", "orphan": "Orphan"}


class Action(Enum):
    """One step towards what is wanted."""

    INSTALL = "install"
    UPGRADE = "upgrade"
    CONTINUE = "continue"  # a pending action of ours
    UNLOCK = "unlock"  # a pending action that nobody goes on with
    UNINSTALL = "uninstall"  # go on with one that has begun
    TEST = "test"
    ROLLBACK = "rollback"
    REMOVE = "remove"  # remediate by uninstalling
    RETRY_LATER = "retry later"
    STOP = "stop"  # retries are exhausted
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Remediation:
    """What to do about failures of an install or an upgrade."""

    retries: int = 0  # negative: without end
    last_too: bool = False
    rollback: bool = True
    ignore_tests: bool = False

    def exhausted(self, failures: int) -> bool:
        return 0 <= self.retries < failures


@dataclass(frozen=True, slots=True)
class Spec:
    """What a HelmRelease wants; the parts that only one step reads stay in `raw`."""

    raw: Mapping[str, Any]
    name: str  # of the release
    namespace: str  # of its objects
    storage: str  # namespace of its records
    interval: float
    timeout: float
    max_history: int
    test: bool
    ignore_test_failures: bool
    install: Remediation
    upgrade: Remediation
    retry_interval: Mapping[str, float | None]  # by action; None: strategy RemediateOnFailure

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        """Raises ValueError for a duration that is none."""
        raw, meta = obj["spec"], obj["metadata"]
        target = raw.get("targetNamespace") or meta["namespace"]
        test = raw.get("test") or {}
        ignore = bool(test.get("ignoreFailures"))
        return cls(
            raw=raw,
            name=release_name(raw, meta["name"]),
            namespace=target,
            storage=raw.get("storageNamespace") or meta["namespace"],
            interval=duration.parse(raw["interval"]),
            timeout=duration.parse(raw["timeout"]) if raw.get("timeout") else TIMEOUT,
            max_history=raw.get("maxHistory", MAX_HISTORY),
            test=bool(test.get("enable")),
            ignore_test_failures=ignore,
            install=_remediation(raw.get("install") or {}, rollback=False, ignore=ignore),
            upgrade=_remediation(raw.get("upgrade") or {}, rollback=True, ignore=ignore),
            retry_interval={verb: _retry(raw.get(verb) or {}) for verb in ("install", "upgrade")},
        )

    def options(self, verb: str) -> Options:
        """How the action goes about it."""
        raw = self.raw.get(verb) or {}
        return Options(
            timeout=duration.parse(raw["timeout"]) if raw.get("timeout") else self.timeout,
            hooks=not raw.get("disableHooks"),
            wait=not raw.get("disableWait"),
            wait_for_jobs=not raw.get("disableWaitForJobs"),
            take_ownership=not raw.get("disableTakeOwnership"),
            force=bool(raw.get("force")),
            cleanup_on_fail=bool(raw.get("cleanupOnFail")),
            keep_history=bool(raw.get("keepHistory")),
            propagation=_PROPAGATIONS.get(raw.get("deletionPropagation", ""), "Background"),
            max_history=self.max_history,
        )

    def crds(self, verb: str) -> str:
        """Skip, Create or CreateReplace: an upgrade leaves definitions alone unless told."""
        default = "Create" if verb == "install" else "Skip"
        return str((self.raw.get(verb) or {}).get("crds") or default)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was fetched: the chart and the values."""

    chart_name: str
    chart_version: str
    config_digest: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Failures since the last change of what is wanted."""

    failures: int = 0
    install: int = 0
    upgrade: int = 0

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Counts:
        keys = ("failures", "installFailures", "upgradeFailures")
        return cls(*(int(status.get(key) or 0) for key in keys))

    def after_failure(self, verb: str) -> Counts:
        return Counts(
            self.failures + 1,
            self.install + (1 if verb == "install" else 0),
            self.upgrade + (1 if verb != "install" else 0),
        )

    def status(self) -> Obj:
        shown = {"failures": self.failures, "installFailures": self.install, "upgradeFailures": self.upgrade}
        return {key: value or None for key, value in shown.items()}


@dataclass(frozen=True, slots=True)
class Seen:
    """What is stored."""

    records: Sequence[Release]  # newest first
    snapshots: Sequence[Mapping[str, Any]]  # status.history
    counts: Counts = field(default_factory=Counts)
    forced: bool = False


def decide(spec: Spec, wanted: Wanted, seen: Seen) -> Action:
    """The next action."""
    if not seen.records:
        if not seen.forced and _exhausted(spec, seen, "install"):
            return Action.STOP
        return Action.INSTALL
    last = seen.records[0]
    if last.status in PENDING:
        ours = bool(last.step) and (last.status == "pending-rollback" or not out_of_sync(spec, wanted, last))
        return Action.CONTINUE if ours else Action.UNLOCK
    if last.status == "uninstalling":
        return Action.UNINSTALL
    if last.status == "uninstalled":
        return Action.INSTALL
    if not managed(last, seen.snapshots):
        return Action.UPGRADE
    if last.status == "failed" or (last.status == "deployed" and _tests_failed(spec, seen)):
        return _after_failure(spec, seen)
    if out_of_sync(spec, wanted, last) or seen.forced:
        if not seen.forced and (_exhausted(spec, seen, "install") or _exhausted(spec, seen, "upgrade")):
            return Action.STOP
        return Action.UPGRADE
    if spec.test and seen.snapshots[0].get("testHooks") is None:
        return Action.TEST
    return Action.NOTHING


def _after_failure(spec: Spec, seen: Seen) -> Action:
    verb = failing_verb(seen.records)
    if spec.retry_interval[verb] is not None:
        return Action.RETRY_LATER if seen.counts.failures and not seen.forced else Action.UPGRADE
    remediation, count = (
        (spec.install, seen.counts.install) if verb == "install" else (spec.upgrade, seen.counts.upgrade)
    )
    if count <= 0 or seen.forced:
        return Action.UPGRADE
    if remediation.exhausted(count) and not remediation.last_too:
        return Action.STOP
    if verb == "upgrade" and remediation.rollback:
        return Action.ROLLBACK
    return Action.REMOVE


def _exhausted(spec: Spec, seen: Seen, verb: str) -> bool:
    if spec.retry_interval[verb] is not None:
        return False
    remediation, count = (
        (spec.install, seen.counts.install) if verb == "install" else (spec.upgrade, seen.counts.upgrade)
    )
    return count > 0 and remediation.exhausted(count)


def failing_verb(records: Sequence[Release]) -> str:
    """Was it the install that failed: nothing ever served before?"""
    return "upgrade" if any(each.status in ("deployed", "superseded") for each in records[1:]) else "install"


def rollback_target(records: Sequence[Release]) -> Release | None:
    """The newest revision before the last that served."""
    return next((each for each in records[1:] if each.status in ("deployed", "superseded")), None)


def managed(last: Release, snapshots: Sequence[Mapping[str, Any]]) -> bool:
    """The last record is the one that we observed last: nobody else has changed the release since."""
    if not snapshots:
        return False
    return snapshots[0].get("version") == last.version and snapshots[0].get("digest") == release_digest(last)


def out_of_sync(spec: Spec, wanted: Wanted, last: Release) -> bool:
    if last.chart_version != wanted.chart_version or digest(last.config) != wanted.config_digest:
        return True
    return last.chart_name != wanted.chart_name


def must_reset(obj: Obj, wanted: Wanted) -> bool:
    """What is wanted has changed since the last attempt, or somebody asks for a new count."""
    status, said = obj.get("status") or {}, obj["metadata"].get("annotations") or {}
    asked = said.get(RESET_AT, "")
    if asked and asked == said.get(REQUESTED_AT) and asked != status.get("lastHandledResetAt"):
        return True
    return (
        status.get("lastAttemptedGeneration") != obj["metadata"].get("generation")
        or status.get("lastAttemptedRevision") != wanted.chart_version
        or status.get("lastAttemptedConfigDigest") != wanted.config_digest
    )


def forced(obj: Obj) -> bool:
    status, said = obj.get("status") or {}, obj["metadata"].get("annotations") or {}
    asked = said.get(FORCE_AT, "")
    return bool(asked) and asked == said.get(REQUESTED_AT) and asked != status.get("lastHandledForceAt")


def handled(obj: Obj) -> Obj:
    """The annotations that this pass has obeyed, for the status."""
    said = obj["metadata"].get("annotations") or {}
    keys = {REQUESTED_AT: "lastHandledReconcileAt", FORCE_AT: "lastHandledForceAt", RESET_AT: "lastHandledResetAt"}
    return {key: said[annotation] for annotation, key in keys.items() if annotation in said}


def snapshot(release: Release, action: str) -> Obj:
    """An entry of status.history."""
    shown: Obj = {
        "digest": release_digest(release),
        "name": release.name,
        "namespace": release.namespace,
        "version": release.version,
        "status": release.status,
        "chartName": release.chart_name,
        "chartVersion": release.chart_version,
        "configDigest": _config_digest(release),
        "firstDeployed": _seconds(release.first_deployed),
        "lastDeployed": _seconds(release.last_deployed),
        "action": action,
    }
    if version := release.metadata.get("appVersion"):
        shown["appVersion"] = str(version)
    if release.deleted:
        shown["deleted"] = _seconds(release.deleted)
    return shown


def observed(history: Sequence[Mapping[str, Any]], records: Sequence[Release], action: str) -> list[Obj]:
    """The new status.history: the newest record first, the older entries as they are stored now."""
    if not records:
        return [dict(each) for each in history]
    known = {each.get("version"): each for each in history}
    newest = snapshot(records[0], known.get(records[0].version, {}).get("action") or action)
    tests = known.get(records[0].version, {}).get("testHooks")
    if tests is not None:
        newest["testHooks"] = tests
    stored = {each.version: each for each in records[1:]}
    older = [
        {**entry, "status": stored[version].status if version in stored else entry.get("status")}
        for version, entry in known.items()
        if version is not None and version != records[0].version
    ]
    return [newest, *sorted(older, key=lambda entry: -entry["version"])][:MAX_HISTORY]


def release_digest(release: Release) -> str:
    """Of everything of a record that an action does not change on its way."""
    what = [release.name, release.namespace, release.version, release.metadata, release.config, release.manifest]
    return f"sha256:{hashlib.sha256(dumps_sorted(what)).hexdigest()}"


def release_name(raw: Mapping[str, Any], name: str) -> str:
    """As helm-controller makes it; one that is too long is shortened and gets a hash."""
    given = raw.get("releaseName")
    if given:
        return str(given)
    target = raw.get("targetNamespace")
    full = f"{target}-{name}" if target else name
    if len(full) <= NAME_BYTES:
        return full
    return f"{full[: NAME_BYTES - 13]}-{hashlib.sha256(full.encode()).hexdigest()[:12]}"


def _config_digest(release: Release) -> str:
    return digest(release.config)


def _seconds(moment: str) -> str:
    """A Go time as metav1.Time."""
    return f"{moment.partition('.')[0].removesuffix('Z')}Z" if moment else ""


def _tests_failed(spec: Spec, seen: Seen) -> bool:
    remediation = spec.install if failing_verb(seen.records) == "install" else spec.upgrade
    if not spec.test or remediation.ignore_tests or not seen.snapshots:
        return False
    tests = seen.snapshots[0].get("testHooks") or {}
    return any(test.get("phase") == "Failed" for test in tests.values())


def _remediation(raw: Mapping[str, Any], *, rollback: bool, ignore: bool) -> Remediation:
    said = raw.get("remediation") or {}
    retries = int(said.get("retries") or 0)
    default = retries > 0 if rollback else False
    return Remediation(
        retries=retries,
        last_too=bool(said.get("remediateLastFailure", default)),
        rollback=rollback and said.get("strategy", "rollback") == "rollback",
        ignore_tests=bool(said.get("ignoreTestFailures", ignore)),
    )


def _retry(raw: Mapping[str, Any]) -> float | None:
    said = raw.get("strategy") or {}
    if said.get("name") != "RetryOnFailure":
        return None
    return duration.parse(said["retryInterval"]) if said.get("retryInterval") else RETRY_INTERVAL
