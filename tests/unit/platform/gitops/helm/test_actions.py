"""Procedures on records: they end, fail and go on as Helm's do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from havre.api.meta import GVK
from havre.machinery.api import Ref
from havre.platform.gitops.helm import manifest
from havre.platform.gitops.helm.actions import ActionFailed, Actions, Options
from havre.platform.gitops.helm.cluster import Cluster
from havre.platform.gitops.helm.release import Records, Release
from havre.testing import FakeApi, namespace

CONFIG_MAP = GVK("", "v1", "ConfigMap")
POD = GVK("", "v1", "Pod")
CHART = {"metadata": {"name": "c", "version": "1.0.0"}}
QUICK = Options(timeout=30.0)


def config(name: str, *annotations: str) -> str:
    said = "".join(f"\n    {line}" for line in annotations)
    notes = f"\n  annotations:{said}" if said else ""
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}{notes}\n"


def pod(name: str, *annotations: str) -> str:
    return config(name, *annotations).replace("ConfigMap", "Pod") + "spec: {containers: [{name: a, image: a}]}\n"


@dataclass
class Desk:
    """A release in a cluster whose clock the test moves."""

    api: FakeApi = field(default_factory=lambda: FakeApi(namespace("ns")))
    now: float = 1000.0

    def actions(self) -> Actions:
        """As after a restart: nothing is remembered."""
        return Actions(Cluster(self.api, "web", "ns"), Records(self.api, "ns"), lambda: self.now)

    async def begin(self, verb: str, version: int, *texts: str) -> Release:
        files = {f"c/templates/{place}.yaml": text for place, text in enumerate(texts)}
        return await self.actions().begin(verb, manifest.sort(files, "c"), CHART, {}, version=version)

    async def history(self) -> list[Release]:
        return await self.actions().records.history("web")

    async def advance(self, options: Options = QUICK) -> Release:
        history = await self.history()
        return await self.actions().advance(history[0], history, options)

    async def install(self, *texts: str) -> Release:
        await self.begin("install", 1, *texts)
        return await self.advance()

    async def phase(self, name: str, phase: str) -> None:
        ref = Ref(POD, "ns", name)
        status = {"status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]}}
        await self.api.patch(ref, status, kind="merge", subresource="status")

    def there(self, *names: str) -> list[str]:
        return [name for name in names if self.api.now(Ref(CONFIG_MAP, "ns", name))]


async def test_an_install_makes_marked_objects_and_ends_deployed() -> None:
    at = Desk()
    release = await at.install(config("a"))
    assert (release.status, release.description, release.step) == ("deployed", "Install complete", "")
    made = at.api.now(Ref(CONFIG_MAP, "ns", "a"))
    assert made is not None
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "Helm"}
    assert made["metadata"]["annotations"] == {
        "meta.helm.sh/release-name": "web",
        "meta.helm.sh/release-namespace": "ns",
    }


async def test_an_upgrade_removes_what_is_no_longer_in_the_chart_but_what_asks_to_be_kept() -> None:
    at = Desk()
    await at.install(config("a"), config("b"), config("k", "helm.sh/resource-policy: keep"))
    await at.begin("upgrade", 2, config("a"))
    await at.advance()
    assert at.there("a", "b", "k") == ["a", "k"]
    assert [(each.version, each.status) for each in await at.history()] == [(2, "deployed"), (1, "superseded")]


async def test_an_interrupted_install_goes_on_from_its_record() -> None:
    at = Desk()
    pending = await at.install(pod("slow"))
    assert (pending.status, pending.step) == ("pending-install", "wait@1000.000")
    at.now = 1029.0
    assert (await at.advance()).status == "pending-install"
    await at.phase("slow", "Running")
    assert (await at.advance()).status == "deployed"


async def test_what_does_not_become_ready_in_time_fails_the_release_and_leaves_the_old_one_deployed() -> None:
    at = Desk()
    await at.install(config("a"))
    await at.begin("upgrade", 2, pod("slow"))
    await at.advance()
    at.now = 1031.0
    failed = await at.advance(replace(QUICK, cleanup_on_fail=True))
    assert failed.description.startswith('Upgrade "web" failed: resource Pod/ns/slow not ready. status: InProgress')
    assert failed.description.endswith("context deadline exceeded")
    assert [each.status for each in await at.history()] == ["failed", "deployed"]
    gone = at.api.now(Ref(POD, "ns", "slow"))
    assert gone is None or gone["metadata"]["deletionTimestamp"]


async def test_a_hook_runs_before_the_objects_and_is_removed_when_it_has_succeeded() -> None:
    at = Desk()
    hook = pod("hook", "helm.sh/hook: pre-install", "helm.sh/hook-delete-policy: hook-succeeded")
    waiting = await at.install(hook, config("a"))
    assert (waiting.status, waiting.hooks[0].last_run["phase"]) == ("pending-install", "Running")
    assert at.there("a") == []
    await at.phase("hook", "Succeeded")
    done = await at.advance()
    assert (done.status, done.hooks[0].last_run["phase"], at.there("a")) == ("deployed", "Succeeded", ["a"])
    assert at.api.now(Ref(POD, "ns", "hook")) is None


async def test_a_failing_hook_fails_the_release_before_any_object_is_touched() -> None:
    at = Desk()
    await at.install(pod("hook", "helm.sh/hook: pre-install"), config("a"))
    await at.phase("hook", "Failed")
    failed = await at.advance()
    assert (failed.status, failed.description) == (
        "failed",
        'Release "web" failed: failed pre-install: pod hook failed',
    )
    assert at.there("a") == []


async def test_an_object_that_the_api_refuses_fails_the_release_in_the_apis_words() -> None:
    failed = await Desk().install(config("Not_A_Name"))
    assert failed.status == "failed"
    assert 'metadata.name: Invalid value: "Not_A_Name"' in failed.description


async def test_what_another_made_is_not_taken_over_when_that_is_forbidden() -> None:
    at = Desk()
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}
    await at.api.create(mine)
    await at.begin("install", 1, config("a"))
    failed = await at.advance(replace(QUICK, take_ownership=False))
    assert "exists and cannot be imported into the current release" in failed.description


async def test_a_rollback_brings_back_what_was() -> None:
    at = Desk()
    old = await at.install(config("a"))
    await at.begin("upgrade", 2, config("b"))
    await at.advance()
    await at.actions().begin_rollback(old, (await at.history())[0])
    done = await at.advance()
    assert (done.version, done.status, done.description) == (3, "deployed", "Rollback to 1")
    assert at.there("a", "b") == ["a"]


async def test_old_records_go_but_never_the_one_that_serves() -> None:
    at = Desk()
    await at.install(config("a"))
    for version in (2, 3, 4):
        await at.begin("upgrade", version, config("a"))
        await at.advance(replace(QUICK, max_history=2))
    assert [each.version for each in await at.history()] == [4, 3]


async def test_an_uninstall_leaves_nothing_or_the_record() -> None:
    at = Desk()
    release = await at.install(config("a"))
    kept = await at.actions().uninstall(release, [release], replace(QUICK, keep_history=True))
    assert kept is not None
    assert (kept.status, at.there("a")) == ("uninstalled", [])
    assert await at.actions().uninstall(kept, [kept], QUICK) is None
    assert await at.history() == []


async def test_tests_tell_which_hook_failed() -> None:
    at = Desk()
    release = await at.install(pod("check", "helm.sh/hook: test"))
    release, ended = await at.actions().test(release, QUICK)
    assert not ended
    await at.phase("check", "Failed")
    with pytest.raises(ActionFailed, match="failed test: pod check failed"):
        await at.actions().test(release, QUICK)


async def test_a_crash_anywhere_is_made_good_by_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever write was the last one, the same end is reached."""
    wanted: list[Any] = []
    for limit in range(30):
        at = Desk()
        hooks = [config(when, f"helm.sh/hook: {when}-install") for when in ("pre", "post")]
        await at.begin("install", 1, *hooks, config("a"))
        with monkeypatch.context() as patch:
            _dies_after(limit, at.api, patch)
            try:
                await at.advance()
                wanted.append(limit)
            except RuntimeError:
                pass
        if (await at.history())[0].status != "deployed":
            assert (await at.advance()).status == "deployed"
        assert at.there("pre", "a", "post") == ["pre", "a", "post"]
        if wanted:
            break
    assert wanted


def _dies_after(writes: int, api: FakeApi, patch: pytest.MonkeyPatch) -> None:
    left = [writes]
    for verb in ("update", "apply", "delete"):
        real = getattr(api, verb)

        async def counted(*args: Any, real: Any = real, **kw: Any) -> Any:
            if not left[0]:
                raise RuntimeError("killed")
            left[0] -= 1
            return await real(*args, **kw)

        patch.setattr(api, verb, counted)
