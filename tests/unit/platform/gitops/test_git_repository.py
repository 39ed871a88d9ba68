from __future__ import annotations

from typing import Any

import pytest

from havre.api.meta import Obj
from havre.machinery.conditions import Condition
from havre.machinery.events import Note
from havre.platform.gitops.artifacts import Artifact
from havre.platform.gitops.git import Reference, Revision
from havre.platform.gitops.git_repository import Failed, Include, Seen, Spec, _proxy, _sparse, plan, unchanged
from havre.platform.gitops.tar import File

HASH = "0123456789abcdef0123456789abcdef01234567"
REVISION = f"main@sha1:{HASH}"
ARTIFACT = Artifact("p", "http://x/p", REVISION, "sha256:1", 1, "2026-01-01T00:00:00Z")
STORED = Condition("ArtifactInStorage", True, "Succeeded", f"stored artifact for revision '{REVISION}'")


def git_repository(status: dict[str, Any] | None = None, **spec: Any) -> Obj:
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {"name": "app", "namespace": "apps", "annotations": {"reconcile.fluxcd.io/requestedAt": "t"}},
        "spec": {"url": "https://git.example/app", "interval": "1m30s", **spec},
        "status": status or {},
    }


def made(obj: Obj, seen: Seen) -> Any:
    return plan(obj, Spec.of(obj), seen)


def test_a_spec_is_read_once() -> None:
    obj = git_repository(
        ref={"branch": "main", "commit": HASH},
        secretRef={"name": "s"},
        include=[{"repository": {"name": "lib"}, "toPath": "../../a/./b"}],
        timeout="20s",
    )
    spec = Spec.of(obj)
    assert (spec.interval, spec.timeout, spec.secret) == (90.0, 20.0, "s")
    assert spec.reference == Reference(branch="main", commit=HASH)
    assert spec.include == (Include("lib", ".", "a/b"),)


def test_the_revision_is_long_for_a_name_only() -> None:
    revision = Revision(HASH, "refs/heads/main")
    assert Spec.of(git_repository(ref={"branch": "main"})).says(revision) == REVISION
    assert Spec.of(git_repository(ref={"name": "refs/heads/main"})).says(revision) == f"refs/heads/{REVISION}"


def test_a_new_artifact_is_told() -> None:
    obj = git_repository(ignore="/x")
    found = made(obj, Seen(ARTIFACT, subject="s" * 60))
    message = f"stored artifact for revision '{REVISION}'"
    assert found.conditions == (Condition("Ready", True, "Succeeded", message), STORED)
    assert found.notes == (Note("NewArtifact", f"stored artifact for commit '{'s' * 50}...'"),)
    assert (found.again, found.failed) == (90.0, None)
    assert found.status["observedIgnore"] == "/x"
    assert found.status["lastHandledReconcileAt"] == "t"


def test_a_failure_keeps_the_artifact_and_is_tried_again() -> None:
    failed = Failed("FetchFailed", "GitOperationFailed", "no")
    found = made(git_repository(), Seen(ARTIFACT, failed=failed))
    assert found.conditions == (
        Condition("Ready", False, "GitOperationFailed", "no"),
        Condition("FetchFailed", True, "GitOperationFailed", "no"),
        STORED,
        Condition("Reconciling", True, "ProgressingWithRetry", "no"),
    )
    assert found.status["artifact"]["digest"] == "sha256:1"
    assert found.failed is failed
    assert "observedIgnore" not in found.status


def test_what_cannot_work_is_stalled_and_not_tried_again() -> None:
    failed = Failed("FetchFailed", "InvalidProviderConfiguration", "no", stalled=True)
    found = made(git_repository(), Seen(None, failed=failed))
    assert Condition("Stalled", True, "InvalidProviderConfiguration", "no") in found.conditions
    assert (found.failed, found.again, found.status["artifact"]) == (None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"ignore": "/y"},
        {"recurseSubmodules": True},
        {"include": [{"repository": {"name": "lib"}}]},
        {"sparseCheckout": ["a"]},
    ],
)
def test_a_spec_that_shapes_the_content_makes_a_new_artifact(change: dict[str, Any]) -> None:
    assert unchanged(git_repository(), REVISION, ARTIFACT, ())
    assert not unchanged(git_repository(**change), REVISION, ARTIFACT, ())
    observed = {"observed" + key[0].upper() + key[1:]: value for key, value in change.items()}
    assert unchanged(git_repository(observed, **change), REVISION, ARTIFACT, ())


def test_another_revision_a_lost_artifact_and_another_include_make_a_new_artifact() -> None:
    obj = git_repository({"includedArtifacts": [{"revision": REVISION, "digest": "sha256:0"}]})
    assert not unchanged(git_repository(), "main@sha1:other", ARTIFACT, ())
    assert not unchanged(git_repository(), REVISION, None, ())
    assert not unchanged(obj, REVISION, ARTIFACT, (ARTIFACT,))
    assert not unchanged(obj, REVISION, ARTIFACT, ())


def test_sparse_folders_are_whole_names() -> None:
    file = File(0, False, lambda: pytest.fail("nobody reads it"))
    files = {"a/x": file, "ab/x": file, "c": file}
    assert list(_sparse(files, ("./a",))) == ["a/x"]
    assert list(_sparse(files, ())) == ["a/x", "ab/x", "c"]
    with pytest.raises(Failed, match="sparse checkout dir 'c' does not exist"):
        _sparse(files, ("c",))


def test_the_proxy_has_its_user() -> None:
    data = {"address": b"http://proxy.example:3128", "username": b"u", "password": b"p@/"}
    assert _proxy(data) == "http://u:p%40%2F@proxy.example:3128"
    assert _proxy({"address": b"https://proxy.example"}) == "https://proxy.example"
    with pytest.raises(ValueError, match="address"):
        _proxy({})
