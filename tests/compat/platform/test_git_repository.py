"""The GitRepository controller on real repositories and an API in memory."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.git import Upstream

from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.machinery.controller import Controller, Outcome
from havre.platform.gitops.artifacts import Storage, fetch, serve
from havre.platform.gitops.crds import GIT_REPOSITORY
from havre.platform.gitops.git_repository import controller
from havre.testing import FakeApi

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="the git program is not installed")
APP = Ref(GIT_REPOSITORY, "apps", "app")


def repository(upstream: Upstream | str, name: str = "app", **spec: Any) -> Obj:
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {"name": name, "namespace": "apps"},
        "spec": {
            "url": upstream if isinstance(upstream, str) else upstream.url,
            "interval": "5m",
            "timeout": "20s",
            "ref": {"branch": "main"},
            **spec,
        },
    }


@dataclass(slots=True)
class World:
    tmp: Path
    storage: Storage
    controller: Controller
    upstream: Upstream

    async def once(self, api: FakeApi, ref: Ref = APP) -> Outcome:
        return await self.controller.once(ref, api)

    async def fetched(self, api: FakeApi, ref: Ref = APP) -> dict[str, bytes]:
        into = self.tmp / f"fetched-{len([*self.tmp.iterdir()])}"
        await fetch(status(api, ref)["artifact"], into)
        return {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()}


def status(api: FakeApi, ref: Ref = APP) -> dict[str, Any]:
    found: dict[str, Any] = (api.now(ref) or {})["status"]
    return found


def conditions(api: FakeApi, ref: Ref = APP) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status(api, ref)["conditions"]}


def message(api: FakeApi, kind: str = "Ready") -> str:
    return next(str(c["message"]) for c in status(api)["conditions"] if c["type"] == kind)


GOOD = {"Ready": ("True", "Succeeded"), "ArtifactInStorage": ("True", "Succeeded")}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    storage = Storage(tmp_path / "artifacts", "")
    server = await serve(storage, "127.0.0.1", 0)
    storage.url = f"http://127.0.0.1:{server.port}"
    (tmp_path / "scratch").mkdir()
    run = controller(storage, tmp_path / "scratch", schemes=frozenset({"file", "http"}))
    yield World(tmp_path, storage, run, Upstream(tmp_path / "upstream"))
    await server.close()


async def test_a_new_commit_becomes_a_new_artifact_and_nothing_new_changes_nothing(world: World) -> None:
    first = world.upstream.commit("the first change of this repository, which has a long subject", a="1")
    api = FakeApi(repository(world.upstream))
    assert await world.once(api) == Outcome(300.0)
    assert conditions(api) == GOOD
    assert message(api) == f"stored artifact for revision 'main@sha1:{first}'"
    artifact = status(api)["artifact"]
    assert artifact["revision"] == f"main@sha1:{first}"
    assert await world.fetched(api) == {"a": b"1"}
    assert (api.now(APP) or {})["metadata"]["finalizers"] == ["finalizers.fluxcd.io"]

    before = api.revision
    assert await world.once(api) == Outcome(300.0)
    assert api.revision == before

    second = world.upstream.commit("second", a="2")
    await world.once(api)
    assert status(api)["artifact"]["revision"] == f"main@sha1:{second}"
    assert await world.fetched(api) == {"a": b"2"}
    assert (world.storage.root / artifact["path"]).exists(), "somebody may be reading it"


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"ref": {"branch": "none"}}, "GitOperationFailed", 'couldn\'t find remote ref "refs/heads/none"'),
        ({"ref": {"semver": ">9"}}, "GitOperationFailed", "no match found for semver: >9"),
        ({"url": "file:///nonexistent"}, "GitOperationFailed", "repository not found"),
        ({"url": "http://127.0.0.1:1/x"}, "GitOperationFailed", "unable to list remote for 'http://127.0.0.1:1/x'"),
        ({"secretRef": {"name": "none"}}, "AuthenticationFailed", "failed to get secret 'apps/none'"),
        ({"sparseCheckout": ["none"]}, "GitOperationFailed", "sparse checkout dir 'none' does not exist"),
    ],
)
async def test_what_fails_is_told_and_the_last_artifact_stays(
    world: World, spec: dict[str, Any], reason: str, words: str
) -> None:
    world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream))
    await world.once(api)
    good = status(api)["artifact"]
    await api.patch(APP, {"spec": spec})
    assert (await world.once(api)).failed
    assert conditions(api) == {
        "Ready": ("False", reason),
        "FetchFailed": ("True", reason),
        "ArtifactInStorage": ("True", "Succeeded"),
        "Reconciling": ("True", "ProgressingWithRetry"),
    }
    assert words in message(api)
    assert status(api)["artifact"] == good
    assert await world.fetched(api) == {"a": b"1"}

    await api.patch(APP, {"spec": {**dict.fromkeys(spec), **repository(world.upstream)["spec"], "ref": None}})
    await api.patch(APP, {"spec": {"ref": {"branch": "main"}}})
    await world.once(api)
    assert conditions(api) == GOOD


async def test_an_empty_repository_is_called_so(world: World) -> None:
    api = FakeApi(repository(world.upstream))
    assert (await world.once(api)).failed
    assert conditions(api)["FetchFailed"] == ("True", "EmptyGitRepository")
    assert message(api) == "git repository is empty"


async def test_what_failed_from_the_beginning_has_no_artifact(world: World) -> None:
    api = FakeApi(repository("file:///nonexistent"))
    assert (await world.once(api)).failed
    assert conditions(api) == {
        "Ready": ("False", "GitOperationFailed"),
        "FetchFailed": ("True", "GitOperationFailed"),
        "Reconciling": ("True", "ProgressingWithRetry"),
    }
    assert "artifact" not in status(api)


async def test_a_lost_or_damaged_artifact_is_made_again(world: World) -> None:
    world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream))
    await world.once(api)
    (world.storage.root / status(api)["artifact"]["path"]).write_bytes(b"damaged")
    await world.once(api)
    assert await world.fetched(api) == {"a": b"1"}


async def test_a_request_is_answered_and_the_address_follows_the_server(world: World) -> None:
    world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream))
    await world.once(api)
    await api.patch(APP, {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "2026-01-01T00:00:00Z"}}})
    world.storage.url = "http://elsewhere:1"
    await world.once(api)
    assert status(api)["lastHandledReconcileAt"] == "2026-01-01T00:00:00Z"
    assert status(api)["artifact"]["url"].startswith("http://elsewhere:1/gitrepository/apps/app/")


async def test_ignore_and_sparse_checkout_shape_the_artifact(world: World) -> None:
    for path in ("deploy", "docs"):
        (world.upstream.path / path).mkdir()
    world.upstream.commit("x", **{"deploy/a.yaml": "1", "deploy/b.png": "2", "docs/c": "3", ".gitignore": "x"})
    api = FakeApi(repository(world.upstream))
    await world.once(api)
    assert sorted(await world.fetched(api)) == ["deploy/a.yaml", "docs/c"]
    await api.patch(APP, {"spec": {"ignore": "/*\n!/deploy\n"}})
    await world.once(api)
    assert sorted(await world.fetched(api)) == ["deploy/a.yaml", "deploy/b.png"]
    assert status(api)["observedIgnore"] == "/*\n!/deploy\n"
    await api.patch(APP, {"spec": {"ignore": None, "sparseCheckout": ["./docs"]}})
    await world.once(api)
    assert sorted(await world.fetched(api)) == ["docs/c"]
    assert status(api)["observedSparseCheckout"] == ["./docs"]
    assert "observedIgnore" not in status(api)


async def test_an_included_repository_is_in_the_artifact(world: World) -> None:
    other = Upstream(world.tmp / "other")
    (other.path / "sub").mkdir()
    other.commit("x", **{"sub/a": "other", "b": "other"})
    world.upstream.commit("x", a="1")
    include = [{"repository": {"name": "other"}, "fromPath": "sub", "toPath": "../vendor/sub"}]
    api = FakeApi(repository(world.upstream, include=include), repository(other, "other", include=[]))
    theirs = Ref(GIT_REPOSITORY, "apps", "other")
    assert await world.once(api) == Outcome(30.0)
    assert conditions(api)["IncludeUnavailable"] == ("True", "NoArtifact")
    await world.once(api, theirs)
    await world.once(api)
    assert conditions(api) == GOOD
    assert await world.fetched(api) == {"a": b"1", "vendor/sub/a": b"other"}
    before = api.revision
    await world.once(api)
    assert api.revision == before
    other.commit("y", **{"sub/a": "changed"})
    await world.once(api, theirs)
    await world.once(api)
    assert (await world.fetched(api))["vendor/sub/a"] == b"changed"


async def test_a_missing_include_is_waited_for(world: World) -> None:
    api = FakeApi(repository(world.upstream, include=[{"repository": {"name": "none"}}]))
    assert await world.once(api) == Outcome(30.0)
    assert conditions(api)["IncludeUnavailable"] == ("True", "NotFound")


async def test_a_pinned_commit_needs_no_server(world: World) -> None:
    commit = world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream, ref={"commit": commit}))
    await world.once(api)
    shutil.rmtree(world.upstream.path)
    assert await world.once(api) == Outcome(300.0)
    assert status(api)["artifact"]["revision"] == f"sha1:{commit}"


def keys(**data: bytes) -> Obj:
    shown = {name.replace("_", "."): base64.b64encode(value).decode() for name, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys", "namespace": "apps"},
        "type": "Opaque",
        "data": shown,
    }


def ssh_key(world: World, name: str) -> bytes:
    arguments = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(world.tmp / name)]
    subprocess.run(arguments, check=True)
    return (world.tmp / f"{name}.pub").read_bytes()


def signing(world: World, kind: str, key: str) -> None:
    for setting, value in (("gpg.format", kind), ("user.signingKey", key), ("commit.gpgSign", "true")):
        world.upstream.git("config", setting, value)


async def test_a_commit_counts_only_with_a_signature_of_a_given_ssh_key(world: World) -> None:
    ours, theirs = ssh_key(world, "ours"), ssh_key(world, "theirs")
    signing(world, "ssh", str(world.tmp / "ours"))
    good = world.upstream.commit("x", a="1")
    verify = {"mode": "HEAD", "secretRef": {"name": "keys"}}
    api = FakeApi(repository(world.upstream, verify=verify), keys(me_sshpub=ours))
    await world.once(api)
    assert conditions(api) == {**GOOD, "SourceVerified": ("True", "Succeeded")}
    assert message(api, "SourceVerified").startswith(f"verified signature of\n\t- commit '{good}' with key 'SHA256:")
    assert status(api)["sourceVerificationMode"] == "HEAD"
    before = api.revision
    await world.once(api)
    assert api.revision == before

    signing(world, "ssh", str(world.tmp / "theirs"))
    world.upstream.commit("y", a="2")
    assert (await world.once(api)).failed
    assert conditions(api)["SourceVerified"] == ("False", "InvalidCommitSignature")
    assert status(api)["artifact"]["revision"] == f"main@sha1:{good}"

    world.upstream.git("config", "commit.gpgSign", "false")
    world.upstream.commit("-----BEGIN SSH SIGNATURE-----", a="3")
    assert (await world.once(api)).failed
    assert conditions(api)["Ready"] == ("False", "InvalidCommitSignature")
    assert theirs != ours


@pytest.fixture
def gpg_home() -> Iterator[Path]:
    """A short path, since gpg starts an agent that makes sockets in it."""
    with tempfile.TemporaryDirectory(prefix="havre-") as home:
        yield Path(home)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def pgp_key(world: World, home: Path) -> bytes:
    """Makes one that the upstream signs with; the public half."""
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "a@b", "ed25519", "sign", "never"], check=True, capture_output=True)
    public = subprocess.run([*gpg, "--armor", "--export", "a@b"], check=True, capture_output=True).stdout
    program = world.tmp / "sign"
    program.write_text(f'#!/bin/sh\nexec gpg --homedir {home} "$@"\n')
    program.chmod(0o755)
    world.upstream.git("config", "gpg.program", str(program))
    world.upstream.git("config", "user.signingKey", "a@b")
    return public


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
async def test_a_tag_counts_only_with_a_signature_of_a_given_pgp_key(world: World, gpg_home: Path) -> None:
    public = pgp_key(world, gpg_home)
    world.upstream.commit("x", a="1")
    world.upstream.git("tag", "-s", "-m", "x", "v1")
    world.upstream.git("tag", "-a", "-m", "x", "unsigned")
    world.upstream.git("tag", "light")
    verify = {"mode": "Tag", "secretRef": {"name": "keys"}}
    api = FakeApi(repository(world.upstream, ref={"tag": "v1"}, verify=verify), keys(me_asc=public))
    await world.once(api)
    assert "- tag 'v1' with key '" in message(api, "SourceVerified")
    for tag, state, reason in (
        ("unsigned", "False", "InvalidTagSignature"),
        ("light", "False", "InvalidVerificationMode"),
        ("v1", "True", "Succeeded"),
    ):
        await api.patch(APP, {"spec": {"ref": {"tag": tag}}})
        await world.once(api)
        assert conditions(api)["SourceVerified"] == (state, reason)
    assert "Stalled" not in conditions(api)
    await api.patch(APP, {"spec": {"verify": {"mode": "TagAndHEAD"}}})
    await world.once(api)
    assert conditions(api)["SourceVerified"] == ("False", "InvalidCommitSignature")


async def test_without_keys_nothing_is_believed(world: World) -> None:
    world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream, verify={"mode": "HEAD", "secretRef": {"name": "keys"}}))
    assert (await world.once(api)).failed
    assert conditions(api)["SourceVerified"] == ("False", "VerificationError")
    assert "artifact" not in status(api)


async def test_the_artifacts_of_a_deleted_repository_go(world: World) -> None:
    world.upstream.commit("x", a="1")
    api = FakeApi(repository(world.upstream))
    await world.once(api)
    await api.delete(APP)
    await world.once(api)
    assert api.now(APP) is None
    assert not (world.storage.root / "gitrepository/apps/app").exists()
