"""Install, upgrade, roll back, uninstall, test: procedures that go on from the record, wherever they were stopped.

A record is created pending; its annotation says the step, the runs of its hooks are in the record itself. `advance`
goes as far as it can and returns; while something in the cluster must become ready, the next pass calls it again:

    (crds) ─▶ pre hooks ─▶ apply, remove what the previous revision had ─▶ wait ─▶ post hooks ─▶ deployed
                 pre-delete ─▶ remove ─▶ wait ─▶ post-delete ─▶ purged (or uninstalled)

A process that is killed does the interrupted step again: every step may be repeated.

Source: helm.sh/helm v4, pkg/action (install.go, upgrade.go, rollback.go, uninstall.go, hooks.go).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from havre.api.errors import ApiError, Conflict
from havre.api.meta import Obj
from havre.lang import yaml
from havre.machinery.api import Propagation
from havre.machinery.kstatus import Status
from havre.platform.gitops.helm import manifest
from havre.platform.gitops.helm.cluster import Cluster, NotOurs, completion
from havre.platform.gitops.helm.manifest import Hook, Sorted
from havre.platform.gitops.helm.release import PENDING, Records, Release, moment

DEFAULT_POLICY = ("before-hook-creation",)
_DONE = {"install": "Install complete", "upgrade": "Upgrade complete"}


class ActionFailed(Exception):
    """A step that went wrong; the release is marked failed with this message."""


@dataclass(frozen=True, slots=True)
class Options:
    """How an action goes about it."""

    timeout: float = 300.0  # seconds of one wait: a hook, or all objects together
    hooks: bool = True
    wait: bool = True
    wait_for_jobs: bool = True
    take_ownership: bool = True
    force: bool = False  # objects that cannot be changed are deleted and made again
    cleanup_on_fail: bool = False  # remove what a failed upgrade has made new
    keep_history: bool = False
    propagation: Propagation = "Background"
    max_history: int = 5  # records that stay; 0 is all


@dataclass(frozen=True, slots=True)
class Actions:
    """The procedures of one release."""

    cluster: Cluster
    records: Records
    clock: Callable[[], float] = time.time

    async def begin(
        self,
        verb: str,
        content: Sorted,
        chart: Mapping[str, Any],
        config: Mapping[str, Any],
        *,
        version: int,
        first_deployed: str = "",
    ) -> Release:
        """The record of a new revision, pending. Raises AlreadyExists."""
        now = moment(self.clock())
        words = {"install": "Initial install underway", "upgrade": "Preparing upgrade"}
        release = Release(
            name=self.cluster.name,
            namespace=self.cluster.namespace,
            version=version,
            status=f"pending-{verb}",
            chart=chart,
            config=config,
            manifest=content.manifest,
            hooks=content.hooks,
            notes=content.notes,
            description=words[verb],
            first_deployed=first_deployed or now,
            last_deployed=now,
        )
        return await self.records.create(release, self.clock())

    async def begin_rollback(self, target: Release, newest: Release) -> Release:
        """The record of a new revision with what `target` had, pending."""
        release = replace(
            target,
            version=newest.version + 1,
            status="pending-rollback",
            hooks=tuple(replace(hook, last_run={}) for hook in target.hooks),
            description=f"Rollback to {target.version}",
            last_deployed=moment(self.clock()),
            deleted="",
            step="",
        )
        return await self.records.create(release, self.clock())

    async def advance(self, release: Release, history: Sequence[Release], options: Options) -> Release:
        """As far as it goes now: still pending, or `deployed`, or `failed`. `history` is all records."""
        verb = release.status.removeprefix("pending-")
        run = _Run(self, release, options)
        others = [each for each in history if each.version != release.version]
        before = others[0] if others else None
        try:
            if not await self._forward(run, verb, before):
                return run.release
        except (ActionFailed, manifest.ManifestError) as error:
            return await self._fail(run, verb, str(error), before)
        except Conflict:
            raise
        except ApiError as error:
            if error.status_code >= 500 or error.status_code == 429:
                raise  # the server is in trouble, not the chart: the same step again later
            return await self._fail(run, verb, error.message, before)
        done = replace(run.release, status="deployed", description=_DONE.get(verb, run.release.description), step="")
        for each in others:
            if each.status == "deployed":
                await self.records.update(replace(each, status="superseded"), self.clock())
        await self.records.update(done, self.clock())
        await self._prune([done, *others], options.max_history)
        return done

    async def _forward(self, run: _Run, verb: str, before: Release | None) -> bool:
        if run.stage == "":
            await run.enter("pre", f"pre-{verb}")
        if run.stage == "pre":
            if not await run.hooks(f"pre-{verb}"):
                return False
            await self._apply(run, verb, before)
            await run.enter("wait")
        if run.stage == "wait":
            if not await self._ready(run):
                return False
            await run.enter("post", f"post-{verb}")
        return await run.hooks(f"post-{verb}")

    async def _apply(self, run: _Run, verb: str, before: Release | None) -> None:
        wanted, options = manifest.objects(run.release.manifest), run.options
        previous = manifest.objects(before.manifest) if before is not None and verb != "install" else []
        try:
            for obj in wanted:
                await self._apply_one(obj, options)
        except NotOurs as error:
            raise ActionFailed(f"Unable to continue with {verb}: {error}") from error
        kept = {await self.cluster.ref(obj) for obj in wanted}
        gone = [obj for obj in previous if await self.cluster.ref(obj) not in kept]
        await self.cluster.remove(manifest.for_removal(gone))

    async def _apply_one(self, obj: Obj, options: Options) -> None:
        if not (obj.get("metadata") or {}).get("name"):
            raise ActionFailed(f"{obj.get('kind', 'an object')} in the manifest has no name")
        try:
            await self.cluster.apply(obj, take=options.take_ownership)
        except ApiError as error:
            if not (options.force and error.status_code in (409, 422)):
                raise
            await self.cluster.replace(obj)

    async def _ready(self, run: _Run) -> bool:
        if not run.options.wait:
            return True
        found = manifest.objects(run.release.manifest)
        waiting = await self.cluster.unready(found, jobs=run.options.wait_for_jobs)
        if not waiting:
            return True
        failed = any(result.status is Status.FAILED for _, result in waiting)
        if not failed and not run.late():
            return False
        words = "\n".join(
            f"resource {ref.gvk.kind}/{ref.namespace}/{ref.name} not ready. "
            f"status: {result.status}, message: {result.message}"
            for ref, result in waiting
        )
        raise ActionFailed(words if failed else f"{words}\ncontext deadline exceeded")

    async def _fail(self, run: _Run, verb: str, why: str, before: Release | None) -> Release:
        if run.options.cleanup_on_fail and verb in ("upgrade", "rollback") and before is not None:
            kept = {await self.cluster.ref(obj) for obj in manifest.objects(before.manifest)}
            new = [o for o in manifest.objects(run.release.manifest) if await self.cluster.ref(o) not in kept]
            await self.cluster.remove(manifest.for_removal(new))
        subject = "Release" if verb == "install" else verb.capitalize()
        failed = replace(run.release, status="failed", description=f'{subject} "{run.release.name}" failed: {why}')
        return await self.records.update(replace(failed, step=""), self.clock())

    async def _prune(self, history: Iterable[Release], limit: int) -> None:
        """The oldest go, but never the one that serves."""
        ordered = sorted(history, key=lambda each: -each.version)
        for each in ordered[limit:] if limit > 0 else ():
            if each.status != "deployed":
                await self.records.delete(each)

    async def abandon(self, release: Release) -> Release:
        """A pending record that nobody goes on with becomes a failed one."""
        words = f"Release unlocked from stale '{release.status}' state"
        return await self.records.update(replace(release, status="failed", description=words, step=""), self.clock())

    # uninstall

    async def uninstall(self, release: Release, history: Sequence[Release], options: Options) -> Release | None:
        """One step on the way: None when nothing is left to do, else the record as it is. Raises ActionFailed."""
        if release.status != "uninstalling":
            words = "Deletion in progress (or silently failed)"
            deleted = moment(self.clock())
            release = replace(release, status="uninstalling", description=words, deleted=deleted, step="")
            await self.records.update(release, self.clock())
        run = _Run(self, release, options)
        if not await self._backward(run):
            return run.release
        if options.keep_history:
            done = replace(run.release, status="uninstalled", description="Uninstallation complete", step="")
            return await self.records.update(done, self.clock())
        for each in history:
            await self.records.delete(each)
        return None

    async def _backward(self, run: _Run) -> bool:
        leaving = manifest.for_removal(manifest.objects(run.release.manifest))
        if run.stage == "":
            await run.enter("pre", "pre-delete")
        if run.stage == "pre":
            if not await run.hooks("pre-delete"):
                return False
            await self.cluster.remove(leaving, run.options.propagation)
            await run.enter("wait")
        if run.stage == "wait":
            remaining = await self.cluster.remaining(leaving) if run.options.wait else []
            if remaining and not run.late():
                return False
            if remaining:
                raise ActionFailed(f"{', '.join(map(str, remaining))}: still there; context deadline exceeded")
            await run.enter("post", "post-delete")
        return await run.hooks("post-delete")

    # test

    async def test(self, release: Release, options: Options) -> tuple[Release, bool]:
        """The test hooks: the record with their runs, and whether all have ended. Raises ActionFailed."""
        run = _Run(self, release, replace(options, hooks=True))
        if run.stage != "test":
            await run.enter("test", "test")
        ended = await run.hooks("test")
        if ended:
            run.release = await self.records.update(replace(run.release, step=""), self.clock())
        return run.release, ended


class _Run:
    """A procedure at work on one record; every change is stored before the next is tried."""

    def __init__(self, actions: Actions, release: Release, options: Options) -> None:
        self.release = release
        self.options = options
        self._actions = actions
        self._cluster = actions.cluster

    @property
    def stage(self) -> str:
        return self.release.step.partition("@")[0]

    def late(self) -> bool:
        """The time of this stage is over."""
        began = self.release.step.partition("@")[2]
        return bool(began) and self._actions.clock() - float(began) >= self.options.timeout

    async def enter(self, stage: str, event: str = "") -> None:
        """Begin a stage; the hooks of its event have not run yet."""
        hooks = tuple(replace(hook, last_run={}) if event in hook.events else hook for hook in self.release.hooks)
        await self._save(replace(self.release, step=f"{stage}@{self._actions.clock():.3f}", hooks=hooks))

    async def hooks(self, event: str) -> bool:
        """Run the hooks of an event in their order; False while one is not done. Raises ActionFailed."""
        if not self.options.hooks:
            return True
        todo = manifest.of_event(self.release.hooks, event)
        for hook in todo:
            if hook.last_run.get("phase") == "Succeeded":
                continue
            if not await self._hook(hook, event):
                return False
        for hook in reversed(todo):
            await self._discard(hook, "hook-succeeded")
        return True

    async def _hook(self, hook: Hook, event: str) -> bool:
        obj = manifest.objects(hook.manifest)[0]
        if hook.last_run.get("phase") != "Running":
            if not await self._cleared(hook, obj, event):
                return False
            await self._cluster.apply(obj)
            hook = await self._ran(hook, "Running", "started_at")
        live = await self._cluster.live(obj)
        result = completion(live or {})
        if result.status is Status.CURRENT:
            await self._ran(hook, "Succeeded", "completed_at")
            return True
        if result.status in (Status.FAILED, Status.NOT_FOUND) or self.late():
            await self._ran(hook, "Failed", "completed_at")
            await self._discard(hook, "hook-failed")
            why = result.message if result.status is Status.FAILED else f"{result.message}: context deadline exceeded"
            raise ActionFailed(f"failed {event}: {why}")
        return False

    async def _cleared(self, hook: Hook, obj: Obj, event: str) -> bool:
        """The object of an earlier run is gone."""
        if "before-hook-creation" not in (hook.delete_policies or DEFAULT_POLICY):
            return True
        if await self._cluster.live(obj) is None:
            return True
        await self._cluster.remove([obj])
        if not await self._cluster.remaining([obj]):
            return True
        if self.late():
            raise ActionFailed(f"failed {event}: {hook.kind} {hook.name} of an earlier run does not go away")
        return False

    async def _discard(self, hook: Hook, policy: str) -> None:
        if policy in (hook.delete_policies or DEFAULT_POLICY) and hook.kind != "CustomResourceDefinition":
            await self._cluster.remove(manifest.objects(hook.manifest))

    async def _ran(self, hook: Hook, phase: str, when: str) -> Hook:
        new = replace(hook, last_run={**hook.last_run, "phase": phase, when: moment(self._actions.clock())})
        hooks = tuple(new if _same(each, hook) else each for each in self.release.hooks)
        await self._save(replace(self.release, hooks=hooks))
        return new

    async def _save(self, release: Release) -> None:
        self.release = await self._actions.records.update(release, self._actions.clock())


def _same(one: Hook, other: Hook) -> bool:
    return (one.path, one.kind, one.name, one.manifest) == (other.path, other.kind, other.name, other.manifest)


def pending(release: Release) -> bool:
    return release.status in PENDING


def crds(texts: Iterable[str]) -> list[Obj]:
    """The definitions in the files of a chart's `crds/`."""
    return [obj for text in texts for obj in yaml.load_all(text) if isinstance(obj, dict)]
