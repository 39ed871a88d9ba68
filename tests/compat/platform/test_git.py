"""Real repositories, made and served by Debian's git, read through `source`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.git import ENVIRONMENT, Upstream, serve_git

from havre.platform.gitops.git import Git, Reference, Revision, source
from havre.platform.gitops.git_run import Auth, GitError, GitTimeout
from havre.platform.gitops.tar import Limits
from havre.wire.http.message import Answer, Request
from havre.wire.http.server import Server, serve

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="the git program is not installed")

ALL = frozenset({"http", "https", "ssh", "file"})


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "scratch"
    path.mkdir()
    yield path
    assert [*path.iterdir()] == [], "something was left behind"


async def contents(git: Git, revision: Revision | None = None, *, submodules: bool = False) -> dict[str, bytes]:
    checkout = await git.fetch(revision or await git.resolve())
    files = await git.files(checkout, submodules=submodules)

    def read() -> dict[str, bytes]:
        found = {}
        for path, file in files.items():
            with file.open() as opened:
                found[path] = opened.read()
        return found

    return await asyncio.to_thread(read)


async def test_a_branch_is_its_last_commit(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("one", a="1")
    last = upstream.commit("two\n\nbody", a="2", b="3")
    async with source(upstream.url, Reference(branch="main"), Auth(), scratch, schemes=ALL) as git:
        revision = await git.resolve()
        checkout = await git.fetch(revision)
        assert await contents(git, revision) == {"a": b"2", "b": b"3"}
    assert revision.short() == f"main@sha1:{last}"
    assert revision.full() == f"refs/heads/main@sha1:{last}"
    assert (checkout.revision, checkout.subject) == (revision, "two")


@pytest.mark.parametrize("annotated", [True, False])
async def test_a_tag_is_the_commit_it_points_to(upstream: Upstream, scratch: Path, annotated: bool) -> None:
    first = upstream.commit("one", a="1")
    upstream.git("tag", *(["-a", "-m", "x"] if annotated else []), "v1")
    upstream.commit("two", a="2")
    async with source(upstream.url, Reference(tag="v1", branch="main"), Auth(), scratch, schemes=ALL) as git:
        revision = await git.resolve()
        assert await contents(git, revision) == {"a": b"1"}
    assert revision.short() == f"v1@sha1:{first}"


async def test_a_range_is_its_highest_version_and_the_youngest_of_equals(upstream: Upstream, scratch: Path) -> None:
    for tag in ("1.0.0", "v1.2.0+b", "1.10.0-rc.1", "2.0.0", "latest"):
        upstream.commit(tag, a=tag)
        upstream.git("tag", tag)
    upstream.commit("rebuilt", a="youngest")
    upstream.git("tag", "1.2.0+a")
    for text, tag, content in (("1.x", "1.2.0+a", b"youngest"), (">=1.0.0-0 <2", "1.10.0-rc.1", b"1.10.0-rc.1")):
        async with source(upstream.url, Reference(semver=text), Auth(), scratch, schemes=ALL) as git:
            revision = await git.resolve()
            assert revision.reference == f"refs/tags/{tag}"
            assert await contents(git, revision) == {"a": content}


async def test_an_old_commit_is_found_alone_and_in_its_branch(upstream: Upstream, scratch: Path) -> None:
    old = upstream.commit("one", a="1")
    upstream.commit("two", a="2")
    async with source(upstream.url, Reference(commit=old), Auth(), scratch, schemes=ALL) as git:
        assert (await git.resolve()).short() == f"sha1:{old}"
        assert await contents(git) == {"a": b"1"}
    async with source(upstream.url, Reference(commit=old, branch="main"), Auth(), scratch, schemes=ALL) as git:
        assert (await git.resolve()).short() == f"main@sha1:{old}"
        assert await contents(git) == {"a": b"1"}


async def test_a_commit_of_another_branch_is_not_of_this_one(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("one", a="1")
    upstream.git("checkout", "-q", "-b", "other")
    stranger = upstream.commit("two", a="2")
    with pytest.raises(GitError, match=f"unable to resolve commit object for '{stranger}': object not found"):
        async with source(upstream.url, Reference(commit=stranger, branch="main"), Auth(), scratch, schemes=ALL) as git:
            await git.fetch(await git.resolve())


async def test_a_name_may_be_any_reference(upstream: Upstream, scratch: Path) -> None:
    commit = upstream.commit("one", a="1")
    upstream.git("update-ref", "refs/pull/420/head", commit)
    upstream.commit("two", a="2")
    reference = Reference(name="refs/pull/420/head", tag="ignored")
    async with source(upstream.url, reference, Auth(), scratch, schemes=ALL) as git:
        assert (await git.resolve()).full() == f"refs/pull/420/head@sha1:{commit}"
        assert await contents(git) == {"a": b"1"}


async def test_attributes_links_and_modes_of_the_tree_change_no_file(upstream: Upstream, scratch: Path) -> None:
    (upstream.path / "run").write_text("#!\n")
    (upstream.path / "run").chmod(0o755)
    (upstream.path / "link").symlink_to("/etc/passwd")
    (upstream.path / "up").symlink_to("..")
    upstream.commit("x", a="$Id$\n", **{".gitattributes": "* eol=crlf text ident export-subst\nrun export-ignore\n"})
    async with source(upstream.url, Reference(branch="main"), Auth(), scratch, schemes=ALL) as git:
        files = await git.files(await git.fetch(await git.resolve()))
        assert {path: file.program for path, file in files.items()} == {
            ".gitattributes": False,
            "a": False,
            "run": True,
        }
        with files["a"].open() as opened:
            assert opened.read() == b"$Id$\n"


async def test_a_path_that_leads_out_of_the_tree_is_refused(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("x", a="1")
    blob = upstream.git("rev-parse", "HEAD:a")
    raw = b"100644 b\0" + bytes.fromhex(blob)
    inner = _store(upstream, raw)
    outer = _store(upstream, b"40000 ..\0" + bytes.fromhex(inner))
    commit = upstream.git("commit-tree", "-m", "hostile", outer)
    upstream.git("update-ref", "refs/heads/hostile", commit)
    with pytest.raises(GitError, match="not allowed"):
        async with source(upstream.url, Reference(branch="hostile"), Auth(), scratch, schemes=ALL) as git:
            await git.files(await git.fetch(await git.resolve()))


def _store(upstream: Upstream, tree: bytes) -> str:
    arguments = ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"]
    done = subprocess.run(arguments, cwd=upstream.path, input=tree, check=True, env=ENVIRONMENT, capture_output=True)
    return done.stdout.decode().strip()


async def test_a_repository_above_the_limits_is_refused(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("x", a="12345", b="1")
    for limits in (Limits(size=5), Limits(entries=1)):
        with pytest.raises(GitError, match="too large"):
            async with source(
                upstream.url, Reference(branch="main"), Auth(), scratch, schemes=ALL, limits=limits
            ) as git:
                await git.files(await git.fetch(await git.resolve()))


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (Reference(branch="none"), 'couldn\'t find remote ref "refs/heads/none"'),
        (Reference(), 'couldn\'t find remote ref "refs/heads/master"'),
        (Reference(tag="none"), 'couldn\'t find remote ref "refs/tags/none"'),
        (Reference(semver=">=9"), "no match found for semver: >=9"),
        (Reference(semver="what"), "semver parse error: improper constraint: what"),
        (Reference(name="refs/heads/none"), "unable to resolve ref 'refs/heads/none' to a specific commit"),
        (Reference(name="refs/heads/"), "cannot begin or end with a slash"),
        (Reference(branch="--upload-pack=x y"), "is invalid"),
        (Reference(commit="0" * 40), f"unable to resolve commit object for '{'0' * 40}'"),
        (Reference(commit="abc"), "not a full SHA-1 hash"),
    ],
)
async def test_what_is_not_there_is_told_in_the_words_of_flux(
    upstream: Upstream, scratch: Path, reference: Reference, words: str
) -> None:
    upstream.commit("x", a="1")
    with pytest.raises(GitError) as raised:
        async with source(upstream.url, reference, Auth(), scratch, schemes=ALL) as git:
            await git.fetch(await git.resolve())
    assert words in str(raised.value)


async def test_a_directory_that_is_no_repository(tmp_path: Path, scratch: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(GitError, match="repository not found"):
            async with source(f"file://{path}", Reference(), Auth(), scratch, schemes=ALL) as git:
                await git.resolve()


async def test_files_of_this_machine_are_not_for_everybody(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("x", a="1")
    with pytest.raises(GitError, match="the scheme must be one of"):
        async with source(upstream.url, Reference(), Auth(), scratch):
            pass


async def test_submodules_are_read_with_their_own(upstream: Upstream, tmp_path: Path, scratch: Path) -> None:
    inner, deep = Upstream(tmp_path / "inner"), Upstream(tmp_path / "deep")
    deep.commit("d", d="deep")
    for parent, child in ((inner, "deep"), (upstream, "inner")):
        parent.commit("x", x=child)
        parent.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", f"../{child}", f"modules/{child}")
        parent.commit("module")
    inner.commit("later, and not wanted", x="changed")
    async with source(upstream.url, Reference(branch="main"), Auth(), scratch, schemes=ALL) as git:
        found = await contents(git, submodules=True)
        assert "modules/inner/x" not in await contents(git)
    del found[".gitmodules"], found["modules/inner/.gitmodules"]
    assert found == {"x": b"inner", "modules/inner/x": b"deep", "modules/inner/modules/deep/d": b"deep"}


# over HTTP


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Server]:
    server = await serve_git(tmp_path)
    yield server
    await server.close()


async def test_http_gives_branches_tags_and_commits(upstream: Upstream, web: Server, scratch: Path) -> None:
    old = upstream.commit("one", a="1")
    upstream.git("tag", "-a", "-m", "x", "1.0.0")
    new = upstream.commit("two", a="2")
    url = f"http://127.0.0.1:{web.port}/upstream/.git"
    for reference, commit, content in (
        (Reference(branch="main"), new, b"2"),
        (Reference(semver="*"), old, b"1"),
        (Reference(commit=old), old, b"1"),
        (Reference(commit=old, branch="main"), old, b"1"),
    ):
        async with source(url, reference, Auth(), scratch) as git:
            revision = await git.resolve()
            assert revision.commit == commit
            assert await contents(git, revision) == {"a": content}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"username": b"flux", "password": b"s3cret"}, ""),
        ({"bearerToken": b"t0ken"}, ""),
        ({"username": b"flux", "password": b"wr0ng"}, "authentication required"),
        ({}, "authentication required"),
    ],
)
async def test_credentials_are_given_and_never_told(
    tmp_path: Path, web: Server, scratch: Path, data: dict[str, bytes], words: str
) -> None:
    Upstream(tmp_path / "private").commit("x", a="1")
    url = f"http://127.0.0.1:{web.port}/private/.git"
    auth = Auth.of(url, data)
    assert "s3cret" not in repr(auth)
    if not words:
        async with source(url, Reference(branch="main"), auth, scratch) as git:
            assert await contents(git) == {"a": b"1"}
        return
    with pytest.raises(GitError, match=words) as raised:
        async with source(url, Reference(branch="main"), auth, scratch) as git:
            await git.resolve()
    assert "wr0ng" not in str(raised.value)


async def test_a_user_in_the_url_counts_and_is_not_shown(tmp_path: Path, web: Server, scratch: Path) -> None:
    Upstream(tmp_path / "private").commit("x", a="1")
    url = f"http://flux:s3cret@127.0.0.1:{web.port}/private/.git"
    async with source(url, Reference(branch="main"), Auth.of(url, {}), scratch) as git:
        assert await contents(git) == {"a": b"1"}
    with pytest.raises(GitError) as raised:
        async with source(url, Reference(branch="none"), Auth.of(url, {}), scratch) as git:
            await git.resolve()
    assert "s3cret" not in str(raised.value)


async def test_a_server_that_is_not_there(scratch: Path) -> None:
    with pytest.raises(GitError, match=r"unable to list remote for 'http://127\.0\.0\.1:1/x'"):
        async with source("http://127.0.0.1:1/x", Reference(), Auth(), scratch) as git:
            await git.resolve()


async def test_a_server_that_never_answers_is_left_and_its_git_ended(scratch: Path) -> None:
    asked = asyncio.Event()

    async def silent(_request: Request) -> Answer:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    server = await serve(silent)
    try:
        with pytest.raises(GitTimeout, match="context deadline exceeded"):
            async with source(f"http://127.0.0.1:{server.port}/x", Reference(), Auth(), scratch, timeout=0.5) as git:
                await git.resolve()
        assert asked.is_set()
    finally:
        await server.close()
    arguments = ["pgrep", "-f", f"remote-http.*:{server.port}/"]
    left = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, check=False)
    assert left.stdout == b""


async def test_a_forced_push_is_followed(upstream: Upstream, scratch: Path) -> None:
    upstream.commit("one", a="1")
    upstream.commit("two", a="2")
    upstream.git("reset", "-q", "--hard", "HEAD~1")
    forced = upstream.commit("other", a="3")
    async with source(upstream.url, Reference(branch="main"), Auth(), scratch, schemes=ALL) as git:
        assert (await git.resolve()).commit == forced
        assert await contents(git) == {"a": b"3"}


# over SSH, with a program that plays ssh and the host behind it

SSH = """#!/bin/sh
printf '%s\\n' "$@" > "{log}"
for argument; do case "$argument" in IdentityFile=*) cat "${{argument#IdentityFile=}}" >> "{log}";; esac; done
[ -n "$SSH_ASKPASS" ] && echo "phrase: $($SSH_ASKPASS)" >> "{log}"
for argument; do last="$argument"; done
[ -e "{refuse}" ] && {{ echo 'Host key verification failed.' >&2; exit 255; }}
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
exec sh -c "$last"
"""


async def test_ssh_gets_key_hosts_and_phrase(
    upstream: Upstream, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.commit("x", a="1")
    log, refuse, programs = tmp_path / "log", tmp_path / "refuse", tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH.format(log=log, refuse=refuse))
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{ENVIRONMENT['PATH']}")
    url = f"ssh://git.example:2222{upstream.path}"
    auth = Auth.of(url, {"identity": b"KEY", "known_hosts": b"HOST", "password": b"open"})
    async with source(url, Reference(branch="main"), auth, scratch) as git:
        assert await contents(git) == {"a": b"1"}
    said = log.read_text().splitlines()
    assert {"-F", "none", "-p", "2222", "git@git.example", "StrictHostKeyChecking=yes", "KEY", "phrase: open"} <= set(
        said
    )
    refuse.touch()
    with pytest.raises(GitError, match="knownhosts: key is unknown or has changed"):
        async with source(url, Reference(branch="main"), auth, scratch) as git:
            await git.resolve()
