"""Reading one commit of a remote Git repository: which one a reference means now, and its files.

    async with source(url, Reference(branch="main"), auth, scratch) as git:
        found = await git.resolve()               # one question to the server; no files yet
        checkout = await git.fetch(found)         # that commit alone, no history
        files = await git.files(checkout)         # path → File, to be packed

There is no work tree: files go from git's pack into the artifact, so no name and no link of the repository ever
touches the file system. Links are left out, as upstream does.

What a reference means, in this order: `commit`, `name`, `semver`, `tag`, `branch`; nothing is the branch master.

Source: fluxcd/pkg, git/gogit/clone.go (behaviour and words); fluxcd/source-controller, docs/spec/v1/gitrepositories.md;
gitformat-pack(5), git-ls-remote(1).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Final, cast
from urllib.parse import urljoin, urlsplit

from havre.platform.gitops.git_run import ATTRIBUTES, Auth, GitError, GitTimeout, Runner, bare
from havre.platform.gitops.git_verify import Keys, Kind, signer
from havre.platform.gitops.semver import Constraint, InvalidVersion, Version
from havre.platform.gitops.tar import LIMITS, File, Limits

REMOTE_SCHEMES: Final = frozenset({"http", "https", "ssh"})
SUBMODULE_DEPTH = 10  # go-git's
SUBMODULES = 100  # of one tree
TIES = 20  # tags of one version that differ in build metadata alone
MESSAGE_BYTES = 64 * 1024
PREFIX = "git-"
SIGNED_BYTES = 1 << 20  # of a commit or a tag with its signature
_HASH = re.compile(r"[0-9a-f]{40}")
_REFERENCE = re.compile(r"[^\x00-\x20~^:?*\[\\\x7f]+(\^\{\})?")
_TARGET = "refs/havre/target"
_PEELED = "^{}"


@dataclass(frozen=True, slots=True)
class Reference:
    """`spec.ref`."""

    branch: str = ""
    tag: str = ""
    semver: str = ""
    name: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit, and the full name of what led to it ("" when it was given)."""

    commit: str
    reference: str = ""

    def short(self) -> str:
        """`main@sha1:<commit>`; `sha1:<commit>` without a reference."""
        name = self.reference.split("/", 2)[2] if self.reference.count("/") >= 2 else ""
        return f"{name}@sha1:{self.commit}" if name else f"sha1:{self.commit}"

    def full(self) -> str:
        """`refs/heads/main@sha1:<commit>`."""
        return f"{self.reference}@sha1:{self.commit}" if self.reference else f"sha1:{self.commit}"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A commit whose files are here."""

    revision: Revision
    subject: str  # first line of its message
    repository: Path


class EmptyRepository(GitError):
    """There is not one reference."""


class NoTag(Exception):
    """There is no tag to verify."""


class Git:
    """One source, for one pass."""

    def __init__(self, url: str, reference: Reference, runner: Runner, auth: Auth, limits: Limits) -> None:
        self._url = url
        self._reference = reference
        self._runner = runner
        self._remote = bare(url, auth)
        self._limits = limits
        self._readers: list[_Objects] = []

    async def resolve(self) -> Revision:
        """The commit that the reference means at the server now. Raises GitError."""
        wanted = self._reference
        if wanted.commit:
            return Revision(_checked_hash(wanted.commit), f"refs/heads/{wanted.branch}" if wanted.branch else "")
        if wanted.semver and not wanted.name:
            return await self._newest(wanted.semver)
        name = wanted.name or (f"refs/tags/{wanted.tag}" if wanted.tag else f"refs/heads/{wanted.branch or 'master'}")
        plain = _checked_name(name).removesuffix(_PEELED)
        found = await self._references(plain, plain + _PEELED)
        commit = found.get(plain + _PEELED) or found.get(plain)
        if commit is None and wanted.name:
            raise GitError(f"unable to resolve ref '{name}' to a specific commit")
        if commit is None and not await self._references():
            raise EmptyRepository("git repository is empty")
        if commit is None:
            raise GitError(f"unable to clone '{self._remote}': couldn't find remote ref \"{name}\"")
        return Revision(commit, name)

    async def fetch(self, revision: Revision) -> Checkout:
        """Get the commit, without its history where the server can do that. Raises GitError."""
        repository = await asyncio.to_thread(_repository, self._runner.home / "repository")
        if not self._reference.commit:
            name = revision.reference.removesuffix(_PEELED)
            await self._get(repository, f"+{name}:{_TARGET}", shallow=True)
        elif self._reference.branch:  # the commit must be of this branch
            await self._get(repository, f"+{revision.reference}:{_TARGET}", shallow=False)
            await self._point(repository, revision.commit)
        else:
            await self._get_commit(repository, self._remote, revision.commit)
        commit, subject = await asyncio.to_thread(self._describe, repository)
        return Checkout(Revision(commit, revision.reference), subject, repository)

    async def files(self, checkout: Checkout, *, submodules: bool = False) -> dict[str, File]:
        """The regular files of the commit. Raises GitError. Good until the source is left."""
        found = await self._tree(checkout.repository, checkout.revision.commit)
        modules = {path: commit for path, (mode, commit, _) in found.items() if mode == "160000"}
        files = self._opened(checkout.repository, found)
        if submodules and modules:
            await self._submodules(checkout.repository, checkout.revision.commit, self._remote, "", modules, files)
        if len(files) > self._limits.entries or sum(file.size for file in files.values()) > self._limits.size:
            raise GitError(
                f"the repository is too large: more than {self._limits.entries} files or {self._limits.size} bytes"
            )
        return files

    async def verify(self, checkout: Checkout, kind: Kind, keys: Keys) -> tuple[str, str]:
        """What was signed (`commit <hash>`, the tag) and by which key. Raises Unverified, NoTag."""
        name, text = checkout.revision.commit, await asyncio.to_thread(self._text, checkout, kind)
        shown = name
        if kind == "tag":
            if text is None:
                raise NoTag("cannot verify tag object's signature if a tag reference is not specified")
            name, shown = _TARGET, checkout.revision.reference.removesuffix(_PEELED).split("/", 2)[2]
        return shown, await signer(self._runner, checkout.repository, kind, name, text or b"", keys)

    def _text(self, checkout: Checkout, kind: Kind) -> bytes | None:
        """The object as git stores it; None for a reference that is no annotated tag. Blocks."""
        objects = self._objects(checkout.repository)
        _, found, size = objects.ask(checkout.revision.commit if kind == "commit" else _TARGET)
        with objects.content(size) as content:
            return content.read(SIGNED_BYTES) if found == kind else None

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    # asking

    async def _references(self, *patterns: str) -> dict[str, str]:
        """Full name → hash; the name of a tag's commit ends in `^{}`."""
        try:
            out = await self._runner.run("ls-remote", "--quiet", "--", self._remote, *patterns, cwd=self._runner.home)
        except GitError as error:
            raise GitError(f"unable to list remote for '{self._remote}': {_upstream(str(error))}") from error
        rows = (line.split("\t", 1) for line in out.decode(errors="replace").splitlines() if "\t" in line)
        return {name: commit for commit, name in rows if _HASH.fullmatch(commit)}

    async def _newest(self, text: str) -> Revision:
        """The highest version; among equals (build metadata) the one committed last."""
        try:
            constraint = Constraint.parse(text)
        except InvalidVersion as error:
            raise GitError(f"semver parse error: {error}") from error
        tags = await self._references("refs/tags/*")
        matching = [version for version in _versions(tags) if constraint.allows(version)]
        if not matching:
            raise GitError(f"no match found for semver: {text}")
        best = [version for version in matching if version == max(matching)]
        chosen = best[0] if len(best) == 1 else await self._latest(best[:TIES])
        name = f"refs/tags/{chosen}"
        return Revision(tags.get(name + _PEELED) or tags[name], name)

    async def _latest(self, versions: list[Version]) -> Version:
        repository = await asyncio.to_thread(_repository, self._runner.home / "ties")
        await self._get(repository, *(f"+refs/tags/{v}:refs/havre/{n}" for n, v in enumerate(versions)), shallow=True)
        dates = []
        for number, version in enumerate(versions):
            committed = await self._runner.run("log", "-1", "--format=%ct", f"refs/havre/{number}", cwd=repository)
            dates.append((int(committed), version))
        return max(dates, key=lambda pair: pair[0])[1]

    # getting

    async def _get(self, repository: Path, *refspecs: str, shallow: bool, url: str = "") -> None:
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"]
        options += ["--depth=1"] if shallow else []
        try:
            await self._runner.run("fetch", *options, "--", url or self._remote, *refspecs, cwd=repository)
        except GitError as error:
            raise GitError(f"unable to clone '{url or self._remote}': {_upstream(str(error))}") from error

    async def _get_commit(self, repository: Path, url: str, commit: str) -> None:
        """One commit by its hash; a server that does not give it so is asked for all branches."""
        try:
            await self._get(repository, f"+{commit}:{_TARGET}", shallow=True, url=url)
        except GitError as refused:
            if not _refuses_hashes(str(refused)):
                raise
            await self._get(repository, "+refs/heads/*:refs/heads/*", shallow=False, url=url)
            await self._point(repository, commit)

    async def _point(self, repository: Path, commit: str) -> None:
        try:
            await self._runner.run("update-ref", _TARGET, f"{commit}^0", cwd=repository)
        except GitError as error:
            raise GitError(f"unable to resolve commit object for '{commit}': object not found") from error

    def _describe(self, repository: Path) -> tuple[str, str]:
        """Hash and subject of the commit that was fetched; a tag is followed. Blocks."""
        objects = self._objects(repository)
        commit, kind, size = objects.ask(f"{_TARGET}^0")
        if kind != "commit":
            raise GitError(f"unable to resolve commit object for '{commit}': object not found")
        with objects.content(size) as content:
            message = content.read(MESSAGE_BYTES).partition(b"\n\n")[2]
            while content.read(MESSAGE_BYTES):
                pass
        return commit, message.decode(errors="replace").partition("\n")[0]

    # files

    async def _tree(self, repository: Path, commit: str) -> dict[str, tuple[str, str, int]]:
        """Path → (mode, object, size) of everything but directories."""
        out = await self._runner.run("ls-tree", "-r", "-z", "-l", "--full-tree", commit, cwd=repository)
        found = {}
        for record in out.split(b"\0")[:-1]:
            head, _, raw = record.partition(b"\t")
            mode, _, name, size = head.decode().split()
            path = _checked_path(raw)
            found[path] = (mode, name, 0 if size == "-" else int(size))
        return found

    def _opened(self, repository: Path, found: dict[str, tuple[str, str, int]]) -> dict[str, File]:
        objects = self._objects(repository)
        return {
            path: File(size, mode == "100755", partial(objects.open, name))
            for path, (mode, name, size) in found.items()
            if mode.startswith("100")
        }

    def _objects(self, repository: Path) -> _Objects:
        for reader in self._readers:
            if reader.repository == repository:
                return reader
        self._readers.append(_Objects(self._runner, repository))
        return self._readers[-1]

    async def _submodules(
        self, repository: Path, commit: str, url: str, prefix: str, modules: dict[str, str], files: dict[str, File]
    ) -> None:
        """Add the files of the submodules under their paths; one that .gitmodules does not name is left out."""
        if prefix.count("/") > SUBMODULE_DEPTH * 8 or len(self._readers) > SUBMODULES:
            raise GitError(f"submodules are nested too deeply, or more than {SUBMODULES}")
        urls = await self._modules(repository, commit)
        for path, wanted in modules.items():
            if path not in urls:
                continue
            where = _relative(url, urls[path])
            inner = await asyncio.to_thread(_repository, self._runner.home / f"module-{len(self._readers)}")
            await self._get_commit(inner, where, wanted)
            found = await self._tree(inner, wanted)
            files |= {f"{prefix}{path}/{name}": file for name, file in self._opened(inner, found).items()}
            deeper = {name: oid for name, (mode, oid, _) in found.items() if mode == "160000"}
            if deeper:
                await self._submodules(inner, wanted, where, f"{prefix}{path}/", deeper, files)

    async def _modules(self, repository: Path, commit: str) -> dict[str, str]:
        """Path → URL, of .gitmodules."""
        try:
            out = await self._runner.run("config", "--blob", f"{commit}:.gitmodules", "-z", "--list", cwd=repository)
        except GitError:
            return {}
        values: dict[str, dict[str, str]] = {}
        for record in out.decode(errors="replace").split("\0"):
            key, _, value = record.partition("\n")
            name, _, setting = key.rpartition(".")
            values.setdefault(name, {})[setting] = value
        return {module["path"]: module["url"] for module in values.values() if "path" in module and "url" in module}


class _Objects:
    """The objects of a repository, one after the other, from one `git cat-file --batch`; blocks, for one thread."""

    def __init__(self, runner: Runner, repository: Path) -> None:
        self.repository = repository
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def open(self, name: str) -> BinaryIO:
        _, kind, size = self.ask(name)
        if kind != "blob":
            raise OSError(f"git object {name}: it is {kind}, not a file")
        return cast("BinaryIO", self.content(size))

    def ask(self, name: str) -> tuple[str, str, int]:
        """Hash, type and size; its content must be read next."""
        stdin, stdout = self._pipes()
        stdin.write(f"{name}\n".encode())
        stdin.flush()
        fields = stdout.readline(1024).decode(errors="replace").split()
        if len(fields) != 3 or not fields[2].isdigit():
            raise OSError(f"git object {name}: {' '.join(fields) or 'git ended'}")
        return fields[0], fields[1], int(fields[2])

    def content(self, size: int) -> _Content:
        return _Content(self._pipes()[1], size)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._closed:
            raise OSError("the source has been left")
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - the program and its arguments are ours
                self._runner.command("git", "cat-file", "--batch"),
                cwd=self.repository,
                env=self._runner.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """Also ends a read in another thread."""
        self._closed = True
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class _Content:
    """`size` bytes of a pipe, and the line feed after them."""

    def __init__(self, pipe: IO[bytes], size: int) -> None:
        self._pipe = pipe
        self._left = size
        self._ended = False

    def read(self, count: int = -1) -> bytes:
        count = self._left if count < 0 else min(count, self._left)
        data = self._pipe.read(count)
        if len(data) != count:
            raise OSError("git ended in the middle of an object")
        self._left -= count
        if not self._left and not self._ended:
            self._ended = True
            self._pipe.read(1)
        return data

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: object) -> None:
        while self._left:
            self.read(1 << 20)
        if not self._ended:
            self.read(0)


@asynccontextmanager
async def source(
    url: str,
    reference: Reference,
    auth: Auth,
    scratch: Path,
    *,
    timeout: float = 60.0,
    schemes: frozenset[str] = REMOTE_SCHEMES,
    limits: Limits = LIMITS,
) -> AsyncIterator[Git]:
    """A source to read from, in a directory of its own under `scratch` that is gone afterwards.

    `timeout` is for everything in the block. Raises GitError, GitTimeout.
    """
    if urlsplit(url).scheme not in schemes:
        raise GitError(f"unable to clone '{url}': the scheme must be one of {', '.join(sorted(schemes))}")
    home = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=PREFIX, dir=scratch))
    git: Git | None = None
    try:
        runner = await asyncio.to_thread(Runner.make, home, url, auth, schemes)
        git = Git(url, reference, runner, auth, limits)
        try:
            async with asyncio.timeout(timeout):
                yield git
        except TimeoutError:
            raise GitTimeout(
                f"unable to clone '{bare(url, auth)}': context deadline exceeded after {timeout:g} s"
            ) from None
    finally:
        if git is not None:
            git.close()
        await asyncio.to_thread(shutil.rmtree, home, True)


def sweep(scratch: Path) -> None:
    """Remove what a process that died has left: at the start, before anything else."""
    for leftover in scratch.glob(f"{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _repository(path: Path) -> Path:
    """An empty bare repository."""
    for folder in ("objects", "refs", "info"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    (path / "HEAD").write_text("ref: refs/heads/nothing\n")
    (path / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    (path / "info" / "attributes").write_text(ATTRIBUTES)
    return path


# pure pieces


def _versions(tags: Iterable[str]) -> list[Version]:
    found = []
    for name in tags:
        if name.endswith(_PEELED):
            continue
        try:
            found.append(Version.parse(name.removeprefix("refs/tags/")))
        except InvalidVersion:
            continue
    return found


def _checked_hash(commit: str) -> str:
    if _HASH.fullmatch(commit.lower()) is None:
        raise GitError(f"unable to resolve commit object for '{commit[:80]}': it is not a full SHA-1 hash")
    return commit.lower()


def _checked_name(name: str) -> str:
    """Raises GitError. Source: git-check-ref-format(1)."""
    if name.startswith("/") or name.endswith("/"):
        raise GitError(f"ref {name} is invalid; Git refs cannot begin or end with a slash '/'")
    if _REFERENCE.fullmatch(name) is None or ".." in name or "@{" in name or name.startswith("-") or "//" in name:
        raise GitError(f"ref {name[:120]!r} is invalid")
    return name


def _checked_path(raw: bytes) -> str:
    """Raises GitError for a name that git itself would refuse to check out."""
    path = raw.decode(errors="surrogateescape")
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or "\udc80" <= max(path) <= "\udcff":
        raise GitError(f"the tree holds the path {raw[:120]!r}, which is not allowed")
    return path


def _relative(base: str, url: str) -> str:
    """URLs of submodules may be relative to that of their repository."""
    if not url.startswith(("./", "../")):
        return url
    parts = urlsplit(base)
    return parts._replace(path=urljoin(parts.path.rstrip("/") + "/", url).rstrip("/")).geturl()


_WORDS: Final = (
    ("could not read Username", "authentication required"),
    ("could not read Password", "authentication required"),
    ("Authentication failed", "authentication required"),
    ("The requested URL returned error: 401", "authentication required"),
    ("The requested URL returned error: 403", "authorization failed"),
    ("Permission denied (publickey", "ssh: handshake failed: unable to authenticate"),
    ("Host key verification failed", "ssh: handshake failed: knownhosts: key is unknown or has changed"),
    ("not found", "repository not found"),
    ("does not appear to be a git repository", "repository not found"),
    ("File too large", "the repository is larger than the limit"),
)


def _upstream(text: str) -> str:
    """Flux's words for it, then git's own."""
    if found := re.search(r"couldn't find remote ref (\S+)", text):
        return f'couldn\'t find remote ref "{found.group(1)}"'
    for git, flux in _WORDS:
        if git in text:
            return f"{flux}: {text}"
    return text


def _refuses_hashes(text: str) -> bool:
    return "not our ref" in text or "unadvertised object" in text
