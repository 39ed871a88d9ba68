"""Which action comes next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from havre.platform.gitops import helm_release
from havre.platform.gitops.helm.release import Release
from havre.platform.gitops.helm.values import digest
from havre.platform.gitops.helm_release_needs import NotReady
from havre.platform.gitops.helm_release_plan import (
    Action,
    Counts,
    Seen,
    Spec,
    Wanted,
    decide,
    forced,
    must_reset,
    release_name,
    snapshot,
)

CHART = {"metadata": {"name": "c", "version": "1.0.0"}}
V1 = Release("web", "ns", 1, "deployed", CHART, {}, "", step="")
V2_FAILED = replace(V1, version=2, status="failed")
OLD = replace(V1, status="superseded")
SAME = Wanted("c", "1.0.0", digest({}))
OTHER = Wanted("c", "2.0.0", digest({}))


def spec(**raw: Any) -> Spec:
    return Spec.of({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"interval": "1m", **raw}})


def seen(*records: Release, counts: Counts | None = None, force: bool = False, **extra: Any) -> Seen:
    """What is stored, all of it observed by us."""
    history = [{**snapshot(records[0], "install"), **extra}] if records else []
    return Seen(records, history, counts or Counts(), force)


PENDING = replace(V1, status="pending-install", step="wait@5.0")
RETRY = {"upgrade": {"strategy": {"name": "RetryOnFailure"}}}
ROLLBACK = {"upgrade": {"remediation": {"retries": 1}}}
CASES = [
    ("nothing is there", {}, SAME, seen(), Action.INSTALL),
    ("the install has failed often enough", {}, SAME, seen(counts=Counts(1, 1)), Action.STOP),
    ("all is as it should be", {}, SAME, seen(V1), Action.NOTHING),
    ("another chart", {}, OTHER, seen(V1), Action.UPGRADE),
    ("other values", {}, replace(SAME, config_digest="x"), seen(V1), Action.UPGRADE),
    ("forced", {}, SAME, seen(V1, force=True), Action.UPGRADE),
    ("somebody else upgraded", {}, SAME, Seen([V1], [{"version": 0}]), Action.UPGRADE),
    ("we were interrupted", {}, SAME, seen(PENDING), Action.CONTINUE),
    ("nobody wants any more what we wait for", {}, OTHER, seen(PENDING), Action.UNLOCK),
    ("another Helm was interrupted", {}, SAME, seen(replace(PENDING, step="")), Action.UNLOCK),
    ("a rollback goes on", {}, OTHER, seen(replace(PENDING, status="pending-rollback")), Action.CONTINUE),
    ("an uninstall goes on", {}, SAME, seen(replace(V1, status="uninstalling")), Action.UNINSTALL),
    ("it was uninstalled and kept", {}, SAME, seen(replace(V1, status="uninstalled")), Action.INSTALL),
    ("failed, then something changed", {}, OTHER, seen(V2_FAILED, V1), Action.UPGRADE),
    ("failed, no retries", {}, SAME, seen(V2_FAILED, V1, counts=Counts(1, 0, 1)), Action.STOP),
    ("failed, retries left", ROLLBACK, SAME, seen(V2_FAILED, V1, counts=Counts(1, 0, 1)), Action.ROLLBACK),
    ("failed the last time", ROLLBACK, SAME, seen(V2_FAILED, V1, counts=Counts(2, 0, 2)), Action.ROLLBACK),
    ("rolled back, retries left", ROLLBACK, OTHER, seen(V1, counts=Counts(1, 0, 1)), Action.UPGRADE),
    ("rolled back for good", ROLLBACK, OTHER, seen(V1, counts=Counts(2, 0, 2)), Action.STOP),
    ("retry instead of remedy", RETRY, SAME, seen(V2_FAILED, OLD, counts=Counts(3, 0, 3)), Action.RETRY_LATER),
    (
        *("the install failed, retries left", {"install": {"remediation": {"retries": 3}}}, SAME),
        *(seen(replace(V1, status="failed"), counts=Counts(1, 1)), Action.REMOVE),
    ),
    ("not tested yet", {"test": {"enable": True}}, SAME, seen(V1), Action.TEST),
    ("tested", {"test": {"enable": True}}, SAME, seen(V1, testHooks={}), Action.NOTHING),
    (
        *("tests failed", {"test": {"enable": True}}, SAME),
        *(seen(V1, testHooks={"t": {"phase": "Failed"}}, counts=Counts(1, 1)), Action.STOP),
    ),
    (
        *("tests do not matter", {"test": {"enable": True, "ignoreFailures": True}}, SAME),
        *(seen(V1, testHooks={"t": {"phase": "Failed"}}), Action.NOTHING),
    ),
]


@pytest.mark.parametrize(("raw", "wanted", "stored", "action"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_next_action_follows_from_what_is_stored(raw: Any, wanted: Wanted, stored: Seen, action: Action) -> None:
    assert decide(spec(**raw), wanted, stored) is action


def test_names_of_releases_are_those_of_helm_controller() -> None:
    assert release_name({}, "web") == "web"
    assert release_name({"targetNamespace": "t"}, "web") == "t-web"
    assert release_name({"releaseName": "x", "targetNamespace": "t"}, "web") == "x"
    assert release_name({}, "a" * 60) == "a" * 40 + "-11ee391211c6"


def test_a_change_of_what_is_wanted_or_a_request_starts_the_count_anew() -> None:
    status = {
        **{"lastAttemptedGeneration": 1, "lastAttemptedRevision": "1.0.0"},
        "lastAttemptedConfigDigest": SAME.config_digest,
    }
    obj = {"metadata": {"generation": 1}, "status": status}
    assert not must_reset(obj, SAME)
    assert must_reset(obj, OTHER)
    said = {"reconcile.fluxcd.io/resetAt": "now", "reconcile.fluxcd.io/requestedAt": "now"}
    assert must_reset({**obj, "metadata": {"generation": 1, "annotations": said}}, SAME)


def test_force_counts_once_and_only_together_with_a_request() -> None:
    said = {"reconcile.fluxcd.io/forceAt": "now", "reconcile.fluxcd.io/requestedAt": "now"}
    assert forced({"metadata": {"annotations": said}})
    assert not forced({"metadata": {"annotations": {**said, "reconcile.fluxcd.io/requestedAt": "later"}}})
    assert not forced({"metadata": {"annotations": said}, "status": {"lastHandledForceAt": "now"}})


def test_post_renderers_are_refused_rather_than_left_out() -> None:
    with pytest.raises(NotReady, match=r"spec\.postRenderers: not supported"):
        helm_release._refuse_unsupported({"postRenderers": [{"kustomize": {"patches": []}}]})
    helm_release._refuse_unsupported({"postRenderers": []})
