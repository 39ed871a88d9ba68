"""HelmRelease: a release of a chart that follows its source, its values and its remediation.

reads   HelmRelease, its HelmChart (or what `chartRef` names), the ConfigMaps and Secrets of `valuesFrom`, CRDs, the
        release's records, the live objects of its manifest
writes  HelmChart `<namespace>-<name>`, the records (Secrets), the objects of the chart, status, conditions, events
wakes   HelmChart, OCIRepository, ExternalArtifact, HelmRelease (dependsOn)
source  fluxcd/helm-controller v1.6; helm.sh/helm v4

One step per pass. Nothing is remembered between passes but what the cluster holds: the record of a pending action says
how far it has come, so a restart in the middle of an install goes on instead of failing it. A change of what is wanted
ends the wait of an action that nobody wants any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from havre.api.errors import AlreadyExists, ApiError
from havre.api.meta import GVK, Obj, parse_time
from havre.kit import duration
from havre.lang.json import copied
from havre.machinery import conditions as cond
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import READY, RECONCILING, STALLED, Condition
from havre.machinery.controller import Controller, Plan, Waiting
from havre.machinery.events import Note
from havre.platform.gitops import artifacts
from havre.platform.gitops.artifacts import ArtifactError
from havre.platform.gitops.helm import actions as act
from havre.platform.gitops.helm import chart, manifest, values
from havre.platform.gitops.helm.actions import ActionFailed, Actions, Options
from havre.platform.gitops.helm.chart import ChartError
from havre.platform.gitops.helm.cluster import Cluster
from havre.platform.gitops.helm.engine import Engine, EngineError, EngineMissing, Rendered, Target
from havre.platform.gitops.helm.manifest import ManifestError
from havre.platform.gitops.helm.release import Records, Release
from havre.platform.gitops.helm_release_needs import (
    EXTERNAL_ARTIFACT,
    HELM_CHART,
    HELM_RELEASE,
    LABEL,
    MANAGER,
    OCI_REPOSITORY,
    NotReady,
    chart_ref,
    dependencies,
    helm_chart_of,
    said_of,
    source_of,
    values_of,
)
from havre.platform.gitops.helm_release_plan import (
    Action,
    Counts,
    Seen,
    Spec,
    Wanted,
    decide,
    failing_verb,
    forced,
    handled,
    must_reset,
    observed,
    rollback_target,
    snapshot,
)

FINALIZER: Final = "finalizers.fluxcd.io"
RELEASED, TEST_SUCCESS, REMEDIATED = "Released", "TestSuccess", "Remediated"
POLL = (0.2, 2.0)  # seconds between looks at what an action waits for: the first ones soon
CHARTS = 16  # packed charts kept in memory, 5 to 500 kB each
WORKERS = 8

Download = Callable[[Mapping[str, object]], Awaitable[bytes]]
Impersonate = Callable[[str, str], Api]
"""From a namespace and the name of a service account in it to an Api that acts as that account."""


@dataclass(slots=True)
class Reconciler:
    """What all passes share."""

    engine: Engine
    impersonate: Impersonate | None = None
    download: Download = artifacts.download
    kube_version: str = "v1.34.0"
    clock: Callable[[], float] = time.time
    _charts: OrderedDict[str, tuple[bytes, Mapping[str, Any]]] = field(default_factory=OrderedDict)

    async def reconcile(self, obj: Obj, api: Api) -> Plan:
        try:
            spec = Spec.of(obj)
            await dependencies(obj, api)
            source = await source_of(obj, api)
            config = await values_of(obj, api)
            packed, metadata = await self._chart(source)
            acting = self._acting(obj, api)
            _refuse_unsupported(obj["spec"])
        except NotReady as missing:
            return _not_ready(obj, missing)
        except ValueError as error:
            return _not_ready(obj, NotReady("ValuesError", str(error), duration.parse(obj["spec"]["interval"])))
        except (ArtifactError, EngineMissing) as error:
            return _not_ready(obj, NotReady("ArtifactFailed", str(error)))
        except EngineError as error:
            return _not_ready(obj, NotReady("ArtifactFailed", f"failed to load the chart: {error}"))
        wanted = Wanted(str(metadata["name"]), str(metadata["version"]), values.digest(config))
        return await _Pass(self, obj, acting, spec, wanted, packed, config).run()

    async def finalize(self, obj: Obj, api: Api) -> None:
        """Uninstalls; raises Waiting until all is gone."""
        spec = Spec.of(obj)
        if obj["spec"].get("suspend") is not True:
            await self._uninstall(obj, spec, self._acting(obj, api))
        ref = chart_ref(obj)
        if ref is not None:
            await Cluster(api, spec.name, spec.namespace).remove(
                [
                    {
                        "apiVersion": ref.gvk.api_version,
                        "kind": ref.gvk.kind,
                        "metadata": {"name": ref.name, "namespace": ref.namespace},
                    }
                ]
            )

    async def _uninstall(self, obj: Obj, spec: Spec, api: Api) -> None:
        work = self.actions(spec, api)
        history = await work.records.history(spec.name)
        if not history or history[0].status == "uninstalled":
            return
        try:
            left = await work.uninstall(history[0], history, spec.options("uninstall"))
        except ActionFailed as error:
            raise Waiting("UninstallFailed", f"Helm uninstall failed: {error}", POLL[1]) from error
        if left is not None and left.status != "uninstalled":
            raise Waiting("Progressing", f"Helm uninstall of release {left.full_name} is under way", POLL[0])

    def actions(self, spec: Spec, api: Api) -> Actions:
        cluster = Cluster(api, spec.name, spec.namespace, self.kube_version)
        return Actions(cluster, Records(api, spec.storage), self.clock)

    async def _chart(self, artifact: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
        """A packed chart and its Chart.yaml; a pass that changes nothing starts no renderer."""
        digest = str(artifact.get("digest", ""))
        if digest not in self._charts:
            packed = await self.download(artifact)
            self._charts[digest] = packed, await self.engine.describe(packed)
        self._charts.move_to_end(digest)
        while len(self._charts) > CHARTS:
            self._charts.popitem(last=False)
        return self._charts[digest]

    def _acting(self, obj: Obj, api: Api) -> Api:
        if obj["spec"].get("kubeConfig"):
            raise NotReady("RESTClientError", "spec.kubeConfig: releases in another cluster are not supported")
        account = obj["spec"].get("serviceAccountName")
        if not account:
            return api
        if self.impersonate is None:
            raise NotReady("RESTClientError", f"spec.serviceAccountName: cannot act as {account} here")
        return self.impersonate(obj["metadata"]["namespace"], account)


def _refuse_unsupported(spec: Obj) -> None:
    """What would be delivered without it is something else than was asked for. Raises NotReady."""
    if spec.get("postRenderers"):
        raise NotReady("BuildFailed", "spec.postRenderers: not supported; patch in a Kustomization instead")


@dataclass(slots=True)
class _Pass:
    """One pass over one release whose chart and values are at hand."""

    shared: Reconciler
    obj: Obj
    api: Api
    spec: Spec
    wanted: Wanted
    packed: bytes
    config: Obj
    said: list[Condition] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    status: Obj = field(default_factory=dict)
    again: float = 0.0

    async def run(self) -> Plan:
        work = self.shared.actions(self.spec, self.api)
        records = await work.records.history(self.spec.name)
        live = self.obj.get("status") or {}
        counts = Counts() if must_reset(self.obj, self.wanted) else Counts.of(live)
        seen = Seen(records, live.get("history") or (), counts, forced(self.obj))
        action = decide(self.spec, self.wanted, seen)
        self.again = self.spec.interval
        self.status = {
            **handled(self.obj),
            **counts.status(),
            "lastAttemptedGeneration": self.obj["metadata"].get("generation"),
            "lastAttemptedRevision": self.wanted.chart_version,
            "lastAttemptedConfigDigest": self.wanted.config_digest,
            "storageNamespace": self.spec.storage,
            "helmChart": helm_chart_of(self.obj),
        }
        await _STEPS[action](self, work, seen)
        return self._plan()

    def _plan(self) -> Plan:
        return Plan(
            status=self.status,
            conditions=tuple(_summary(self.obj, self.said)),
            notes=tuple(self.notes),
            again=self.again,
        )

    # install and upgrade

    async def install(self, work: Actions, seen: Seen) -> None:
        await self._change(work, seen, "install")

    async def upgrade(self, work: Actions, seen: Seen) -> None:
        await self._change(work, seen, "upgrade")

    async def _change(self, work: Actions, seen: Seen, verb: str) -> None:
        self.status["lastAttemptedReleaseAction"] = verb
        version = seen.records[0].version + 1 if seen.records else 1
        try:
            rendered = await self._render(work, version, verb)
            content = manifest.sort(rendered.files, str(rendered.metadata["name"]), self._marked)
            await self._prepare(work, verb, rendered)
            first = next((each.first_deployed for each in reversed(seen.records)), "")
            if chart.looks_up(self.packed):
                words = (
                    "a template of the chart calls lookup, which finds nothing here; give what it looks for as a value"
                )
                self.notes.append(Note("LookupUnavailable", words, "Warning"))
            record = await asyncio.to_thread(chart.for_record, self.packed, rendered.metadata, rendered.values)
            release = await work.begin(verb, content, record, self.config, version=version, first_deployed=first)
        except AlreadyExists:
            self.again = POLL[0]
            return
        except ApiError as error:
            if error.status_code >= 500 or error.status_code in (409, 429):
                raise
            self._failed(seen, verb, error.message)
            return
        except (EngineError, EngineMissing, ChartError, ManifestError) as error:
            self._failed(seen, verb, str(error))
            return
        await self._advance(work, seen, release, [release, *seen.records])

    async def _render(self, work: Actions, version: int, verb: str) -> Rendered:
        target = Target(self.spec.name, self.spec.namespace, version, verb == "upgrade")
        return await self.shared.engine.render(self.packed, self.config, target, await work.cluster.capabilities())

    async def _prepare(self, work: Actions, verb: str, rendered: Rendered) -> None:
        if verb == "install" and (self.spec.raw.get("install") or {}).get("createNamespace"):
            name = {"name": self.spec.namespace, "labels": {"name": self.spec.namespace}}
            if await self.api.get(Ref(GVK("", "v1", "Namespace"), "", self.spec.namespace)) is None:
                await self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": name}, manager=MANAGER)
        await work.cluster.install_crds(map(self._marked, act.crds(rendered.crds)), self.spec.crds(verb))

    def _marked(self, obj: Obj) -> Obj:
        """Origin labels and the common metadata, on every object that is rendered."""
        marked, meta = copied(obj), self.obj["metadata"]
        common = self.spec.raw.get("commonMetadata") or {}
        own: Obj = marked.get("metadata") or {}
        origin = {f"{LABEL}/name": meta["name"], f"{LABEL}/namespace": meta["namespace"]}
        own["labels"] = {**(own.get("labels") or {}), **(common.get("labels") or {}), **origin}
        if notes := {**(own.get("annotations") or {}), **(common.get("annotations") or {})}:
            own["annotations"] = notes
        marked["metadata"] = own
        return dict(marked)

    async def proceed(self, work: Actions, seen: Seen) -> None:
        await self._advance(work, seen, seen.records[0], seen.records)

    async def _advance(self, work: Actions, seen: Seen, release: Release, records: Sequence[Release]) -> None:
        """Goes on with a pending release, and says how it went."""
        verb = release.status.removeprefix("pending-")
        options = self.spec.options(verb)
        release = await work.advance(release, records, options)
        stored = await work.records.history(self.spec.name)
        self.status["history"] = observed(seen.snapshots, stored, verb)
        if act.pending(release):
            self._progress(release, verb, options)
        elif release.status == "deployed":
            self._succeeded(release, verb, stored)
        elif verb == "rollback":
            self._remediation_failed(release, release.description)
        else:
            self._failed(seen, verb, release.description.partition(" failed: ")[2], release)

    def _progress(self, release: Release, verb: str, options: Options) -> None:
        words = f"Running '{verb}' action with timeout of {duration.format(options.timeout)}"
        self.said.append(Condition(RECONCILING, True, cond.PROGRESSING, words))
        self.said.append(Condition(READY, None, cond.PROGRESSING, words))
        began = float(release.step.partition("@")[2] or self.shared.clock())
        self.again = min(max((self.shared.clock() - began) / 5, POLL[0]), POLL[1])

    def _succeeded(self, release: Release, verb: str, stored: Sequence[Release]) -> None:
        named = f"{release.full_name} with chart {release.versioned_chart}"
        if verb == "rollback":
            target = next((each for each in stored[1:] if each.manifest == release.manifest), release)
            words = (
                f"Helm rollback to previous release {target.full_name} with chart {target.versioned_chart} succeeded"
            )
            self.said.append(Condition(REMEDIATED, True, "RollbackSucceeded", words))
            self.again = POLL[0]
            return
        words = f"Helm {verb} succeeded for release {named}"
        self.said.append(Condition(RELEASED, True, f"{verb.capitalize()}Succeeded", words))
        if self.spec.test:
            self.again = POLL[0]

    def _failed(self, seen: Seen, verb: str, why: str, release: Release | None = None) -> None:
        name = f"{self.spec.namespace}/{self.spec.name}"
        words = f"Helm {verb} failed for release {name} with chart {self.wanted.chart_name}@{self.wanted.chart_version}"
        self.said.append(Condition(RELEASED, False, f"{verb.capitalize()}Failed", f"{words}: {why}"))
        counts = seen.counts.after_failure(verb)
        self.status.update(counts.status())
        retry = self.spec.retry_interval[verb]
        remediation = self.spec.install if verb == "install" else self.spec.upgrade
        if retry is not None:
            self.again = retry
        elif release is None and remediation.exhausted(counts.failures):
            self._exhausted(counts, verb)  # nothing was stored: there is nothing to remediate
        else:
            self.again = POLL[0]

    # what went wrong

    async def unlock(self, work: Actions, seen: Seen) -> None:
        last = await work.abandon(seen.records[0])
        verb = "install" if failing_verb(seen.records) == "install" else "upgrade"
        self.status["history"] = observed(seen.snapshots, [last, *seen.records[1:]], verb)
        self.again = POLL[0]

    async def rollback(self, work: Actions, seen: Seen) -> None:
        target = rollback_target(seen.records)
        if target is None:
            words = "missing target release for rollback: cannot remediate failed release"
            self.said.append(Condition(REMEDIATED, False, "RollbackFailed", words))
            self._exhausted(seen.counts, "upgrade")
            return
        release = await work.begin_rollback(target, seen.records[0])
        await self._advance(work, seen, release, [release, *seen.records])

    async def remove(self, work: Actions, seen: Seen) -> None:
        """Uninstalls: remediation, or one that had begun."""
        last = seen.records[0]
        named = f"{last.full_name} with chart {last.versioned_chart}"
        try:
            left = await work.uninstall(last, seen.records, self.spec.options("uninstall"))
        except ActionFailed as error:
            self._remediation_failed(last, str(error))
            return
        if left is not None and left.status == "uninstalling":
            self.said.append(Condition(RECONCILING, True, cond.PROGRESSING, f"Helm uninstall of release {named}"))
            self.status["history"] = observed(seen.snapshots, [left, *seen.records[1:]], "uninstall")
        else:
            words = f"Helm uninstall remediation for release {named} succeeded"
            self.said.append(Condition(REMEDIATED, True, "UninstallSucceeded", words))
            gone = {**snapshot(last, "uninstall-remediation"), "status": "uninstalled"}
            self.status["history"] = [gone]
        self.again = POLL[0]

    def _remediation_failed(self, release: Release, why: str) -> None:
        words = f"Helm remediation of release {release.full_name} with chart {release.versioned_chart} failed: {why}"
        self.said.append(Condition(REMEDIATED, False, "RollbackFailed", words))
        self.again = self.spec.interval

    async def stop(self, work: Actions, seen: Seen) -> None:
        verb = (self.obj.get("status") or {}).get("lastAttemptedReleaseAction") or "upgrade"
        self._exhausted(seen.counts, verb)

    def _exhausted(self, counts: Counts, verb: str) -> None:
        words = f"Failed to {verb} after {counts.failures} attempt(s)"
        self.said.append(Condition(STALLED, True, "RetriesExceeded", words))
        self.again = self.spec.interval

    async def retry_later(self, work: Actions, seen: Seen) -> None:
        """Strategy RetryOnFailure: upgrade once more when the interval is over."""
        last = seen.records[0]
        interval = self.spec.retry_interval[failing_verb(seen.records)] or 0.0
        passed = self.shared.clock() - _epoch(last.last_deployed)
        if passed >= interval:
            await self.upgrade(work, seen)
            return
        self.again = interval - passed

    # tests

    async def test(self, work: Actions, seen: Seen) -> None:
        last = seen.records[0]
        named = f"{last.full_name} with chart {last.versioned_chart}"
        count = len([hook for hook in last.hooks if "test" in hook.events])
        why = ""
        try:
            last, ended = await work.test(last, self.spec.options("test"))
        except ActionFailed as error:
            last, ended, why = (await work.records.history(self.spec.name))[0], True, str(error)
        if not ended:
            self._progress(last, "test", self.spec.options("test"))
            return
        history = observed(seen.snapshots, [last, *seen.records[1:]], "upgrade")
        history[0]["testHooks"] = {hook.name: _test(hook) for hook in last.hooks if "test" in hook.events}
        self.status["history"] = history
        if why:
            words = f"Helm test failed for release {named}: {why}"
            self.said.append(Condition(TEST_SUCCESS, False, "TestFailed", words))
            verb = failing_verb(seen.records)
            if not self.spec.ignore_test_failures:
                self.status.update(seen.counts.after_failure(verb).status())
            self.again = POLL[0]
            return
        outcome = f"{count} test hook{'s' * (count != 1)} completed successfully" if count else "no test hooks"
        words = f"Helm test succeeded for release {named}: {outcome}"
        self.said.append(Condition(TEST_SUCCESS, True, "TestSucceeded", words))

    async def nothing(self, work: Actions, seen: Seen) -> None:
        """In sync. What an earlier pass said of the release stays."""
        self.status.update(Counts().status())
        if not said_of(self.obj, RELEASED):  # the pass that released it could not say so
            last = seen.records[0]
            words = f"Helm upgrade succeeded for release {last.full_name} with chart {last.versioned_chart}"
            self.said.append(Condition(RELEASED, True, "UpgradeSucceeded", words))


_STEPS: Final[Mapping[Action, Callable[[_Pass, Actions, Seen], Awaitable[None]]]] = {
    Action.INSTALL: _Pass.install,
    Action.UPGRADE: _Pass.upgrade,
    Action.CONTINUE: _Pass.proceed,
    Action.UNLOCK: _Pass.unlock,
    Action.UNINSTALL: _Pass.remove,
    Action.TEST: _Pass.test,
    Action.ROLLBACK: _Pass.rollback,
    Action.REMOVE: _Pass.remove,
    Action.RETRY_LATER: _Pass.retry_later,
    Action.STOP: _Pass.stop,
    Action.NOTHING: _Pass.nothing,
}


def _summary(obj: Obj, said: Sequence[Condition]) -> Iterable[Condition]:
    """What was said and what still holds of before, and Ready: what is worst of it.

    A remediation is told until a release succeeds; a test's result until the next release begins.
    """
    latest = {each.type: each for each in said}
    released = latest.get(RELEASED)
    if released is None:
        for kind in (RELEASED, TEST_SUCCESS, REMEDIATED):
            if kind not in latest and (kept := _kept(obj, kind)) is not None:
                latest[kind] = kept
    yield from latest.values()
    if READY not in latest:
        yield _ready(latest)


def _ready(latest: Mapping[str, Condition]) -> Condition:
    if (remediated := latest.get(REMEDIATED)) is not None:
        return Condition(READY, False, remediated.reason, remediated.message)
    tested, released = latest.get(TEST_SUCCESS), latest.get(RELEASED)
    if tested is not None and tested.ok is False:
        return Condition(READY, False, tested.reason, tested.message)
    told = released if released is not None and released.ok is not True else tested or released
    if told is None:
        return Condition(READY, None, cond.PROGRESSING, "reconciliation in progress")
    return Condition(READY, told.ok, told.reason, told.message)


def _kept(obj: Obj, kind: str) -> Condition | None:
    """A condition that stands in the status."""
    shown = said_of(obj, kind)
    if shown is None:
        return None
    ok = {"True": True, "False": False}.get(shown["status"])
    return Condition(kind, ok, shown["reason"], shown.get("message", ""))


def _not_ready(obj: Obj, missing: NotReady) -> Plan:
    words = str(missing)
    return Plan(
        status=handled(obj),
        conditions=(
            Condition(READY, False, missing.reason, words),
            Condition(RECONCILING, True, cond.PROGRESSING_WITH_RETRY, words),
            *(kept for kind in (TEST_SUCCESS, REMEDIATED) if (kept := _kept(obj, kind)) is not None),
        ),
        again=missing.again,
    )


def _test(hook: manifest.Hook) -> Obj:
    run = hook.last_run
    shown = {"lastStarted": run.get("started_at"), "lastCompleted": run.get("completed_at"), "phase": run.get("phase")}
    return {key: value.partition(".")[0] + "Z" if "last" in key else value for key, value in shown.items() if value}


def _epoch(moment: str) -> float:
    try:
        return parse_time(moment)
    except ValueError:
        return 0.0


# who wakes whom


def _wakes_of_chart(changed: Obj) -> Iterable[Ref]:
    labels = changed["metadata"].get("labels") or {}
    if f"{LABEL}/name" in labels and f"{LABEL}/namespace" in labels:
        yield Ref(HELM_RELEASE, labels[f"{LABEL}/namespace"], labels[f"{LABEL}/name"])


def _chart_of(ours: Obj, changed: Obj) -> bool:
    said, meta = ours["spec"].get("chartRef") or {}, changed["metadata"]
    where = said.get("namespace") or ours["metadata"]["namespace"]
    return (said.get("kind"), where, said.get("name")) == (changed["kind"], meta["namespace"], meta["name"])


def _depends(ours: Obj, changed: Obj) -> bool:
    home, meta = ours["metadata"]["namespace"], changed["metadata"]
    wanted = ours["spec"].get("dependsOn") or ()
    return any((each.get("namespace") or home, each["name"]) == (meta["namespace"], meta["name"]) for each in wanted)


def controller(
    engine: Engine,
    *,
    impersonate: Impersonate | None = None,
    kube_version: str = "v1.34.0",
    download: Download = artifacts.download,
    sources: Sequence[GVK] = (OCI_REPOSITORY, EXTERNAL_ARTIFACT),
) -> Controller:
    """`sources` are the kinds beside HelmChart whose changes wake a release through `chartRef`."""
    shared = Reconciler(engine, impersonate, download, kube_version)
    return Controller(
        HELM_RELEASE,
        shared.reconcile,
        wakes={HELM_CHART: _wakes_of_chart},
        selects={HELM_RELEASE: _depends, **dict.fromkeys(sources, _chart_of)},
        anywhere=True,
        transient=(REMEDIATED, TEST_SUCCESS),
        finalize=shared.finalize,
        manager=MANAGER,
        finalizer=FINALIZER,
        workers=WORKERS,
    )
