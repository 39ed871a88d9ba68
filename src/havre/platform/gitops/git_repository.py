"""GitRepository: the commit that a reference means is an artifact.

reads   GitRepository, also those that `spec.include` names; Secrets of credentials, proxy, keys; the remote repository
writes  artifacts in the storage; GitRepository.status
wakes   on GitRepository; one that is included wakes those that include it
source  fluxcd/source-controller, internal/controller/gitrepository_controller.go; docs/spec/v1/gitrepositories.md

A pass asks the server what the reference means (one request) and stops there when the artifact is of that revision and
nothing that shapes its content has changed. Otherwise the commit is fetched alone and packed without being checked out.
When anything fails, the last good artifact stays in the status and in the storage.
"""

from __future__ import annotations

import asyncio
import base64
import posixpath
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from havre.api.meta import GVK, Obj, annotations_of, name_of, namespace_of
from havre.kit import duration
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import PROGRESSING, PROGRESSING_WITH_RETRY, READY, RECONCILING, STALLED, Condition, find
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.platform.gitops.artifacts import Artifact, ArtifactError, Storage, extract
from havre.platform.gitops.crds import GIT_REPOSITORY
from havre.platform.gitops.git import REMOTE_SCHEMES, Checkout, EmptyRepository, Git, NoTag, Reference, Revision, source
from havre.platform.gitops.git_run import Auth, AuthError, GitError
from havre.platform.gitops.git_verify import Keys, Kind, Unverified
from havre.platform.gitops.ignore import IGNORE_BYTES, IGNORE_FILE, IgnoreError, ignore_of
from havre.platform.gitops.tar import File, TarError, tree

SECRET = GVK("", "v1", "Secret")
MANAGER: Final = "source-controller"
FINALIZER: Final = "finalizers.fluxcd.io"
REQUESTED: Final = "reconcile.fluxcd.io/requestedAt"

FETCH_FAILED: Final = "FetchFailed"
STORAGE_FAILED: Final = "StorageOperationFailed"
INCLUDE_UNAVAILABLE: Final = "IncludeUnavailable"
IN_STORAGE: Final = "ArtifactInStorage"
VERIFIED: Final = "SourceVerified"
TRANSIENT: Final = (IN_STORAGE, FETCH_FAILED, STORAGE_FAILED, INCLUDE_UNAVAILABLE, "ArtifactOutdated", VERIFIED)

_MODES: Final = {"head": "HEAD"}  # the old spelling
INCLUDE_SECONDS = 30.0  # upstream's --requeue-dependency; a change of the included one wakes us sooner
SUBJECT = 50  # characters of a commit's subject in an event
RETRY_BASE = 1.0


class Failed(Exception):
    """A pass that did not make an artifact: the condition that says so, and its reason."""

    def __init__(self, condition: str, reason: str, message: str, *, again: float | None = None, stalled: bool = False):
        super().__init__(message)
        self.condition = condition
        self.reason = reason
        self.again = again  # seconds; then it is a wait, not a failure
        self.stalled = stalled


@dataclass(frozen=True, slots=True)
class Include:
    """One entry of `spec.include`."""

    repository: str
    from_path: str
    to_path: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Include:
        name = entry["repository"]["name"]
        return cls(name, _inside(entry.get("fromPath") or "."), _inside(entry.get("toPath") or name))


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of `spec` that this controller reads."""

    url: str
    reference: Reference
    interval: float  # seconds
    timeout: float
    ignore: str | None
    submodules: bool
    sparse: tuple[str, ...]
    include: tuple[Include, ...]
    secret: str
    proxy_secret: str
    provider: str
    verify: str  # "", HEAD, Tag, TagAndHEAD
    verify_secret: str

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec, ref = obj["spec"], obj["spec"].get("ref") or {}
        verify = spec.get("verify") or {}
        names = ("branch", "tag", "semver", "name", "commit")
        return cls(
            url=spec["url"],
            reference=Reference(*(ref.get(name) or "" for name in names)),
            interval=duration.parse(spec["interval"]),
            timeout=duration.parse(spec.get("timeout") or "60s"),
            ignore=spec.get("ignore"),
            submodules=bool(spec.get("recurseSubmodules")),
            sparse=tuple(spec.get("sparseCheckout") or ()),
            include=tuple(map(Include.of, spec.get("include") or ())),
            secret=(spec.get("secretRef") or {}).get("name", ""),
            proxy_secret=(spec.get("proxySecretRef") or {}).get("name", ""),
            provider=spec.get("provider") or "generic",
            verify=_MODES.get(verify.get("mode") or "", verify.get("mode") or ""),
            verify_secret=(verify.get("secretRef") or {}).get("name", ""),
        )

    def says(self, revision: Revision) -> str:
        """The revision as the artifact shows it."""
        return revision.full() if self.reference.name else revision.short()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there after a pass: an artifact, new or as before, or why there is none."""

    artifact: Artifact | None
    included: tuple[Artifact, ...] = ()
    subject: str = ""  # of the commit, when the artifact is new
    failed: Failed | None = None
    verified: str = ""  # who signed it


def plan(obj: Obj, spec: Spec, seen: Seen) -> Plan:
    """Status, conditions and events; what failed leaves the artifact as it is."""
    status = {**_handled(obj), "artifact": seen.artifact.status() if seen.artifact else None}
    if seen.failed is not None:
        return _failed_plan(status, seen.artifact, seen.failed)
    assert seen.artifact is not None
    message = f"stored artifact for revision '{seen.artifact.revision}'"
    signed = (Condition(VERIFIED, True, "Succeeded", seen.verified),) if seen.verified else ()
    return Plan(
        status={
            **status,
            "includedArtifacts": [artifact.status() for artifact in seen.included] or None,
            **_observed(obj),
            "sourceVerificationMode": spec.verify or None,
        },
        conditions=(Condition(READY, True, "Succeeded", message), _stored(seen.artifact), *signed),
        notes=(Note("NewArtifact", f"stored artifact for commit '{_short(seen.subject)}'"),) if seen.subject else (),
        again=spec.interval,
    )


def _failed_plan(status: Mapping[str, Any], artifact: Artifact | None, failed: Failed) -> Plan:
    why = str(failed)
    conditions = [Condition(READY, False, failed.reason, why)]
    conditions += [Condition(failed.condition, failed.condition != VERIFIED, failed.reason, why)]
    conditions += [_stored(artifact)] if artifact else []
    if failed.stalled:
        conditions.append(Condition(STALLED, True, failed.reason, why))
    else:
        reason = PROGRESSING_WITH_RETRY if failed.again is None else PROGRESSING
        conditions.append(Condition(RECONCILING, True, reason, why))
    retried = failed.again is None and not failed.stalled
    return Plan(status=status, conditions=tuple(conditions), again=failed.again, failed=failed if retried else None)


def _stored(artifact: Artifact) -> Condition:
    return Condition(IN_STORAGE, True, "Succeeded", f"stored artifact for revision '{artifact.revision}'")


def _handled(obj: Obj) -> dict[str, Any]:
    requested = annotations_of(obj).get(REQUESTED)
    return {"lastHandledReconcileAt": requested} if requested else {}


def _observed(obj: Obj) -> dict[str, Any]:
    """What shaped the content of the artifact."""
    spec = obj["spec"]
    return {
        "observedIgnore": spec.get("ignore"),
        "observedRecurseSubmodules": spec.get("recurseSubmodules") or None,
        "observedInclude": spec.get("include") or None,
        "observedSparseCheckout": spec.get("sparseCheckout") or None,
    }


def _short(subject: str) -> str:
    return f"{subject[:SUBJECT]}..." if len(subject) > SUBJECT else subject


def _verified(obj: Obj, spec: Spec) -> str | None:
    """What the condition says of the artifact that is there; "" when nobody asks; None: it must be verified."""
    if not spec.verify:
        return ""
    status = obj.get("status") or {}
    said = find(status.get("conditions") or (), VERIFIED) or {}
    covered = status.get("sourceVerificationMode") == spec.verify and said.get("status") == "True"
    return str(said["message"]) if covered else None


def unchanged(obj: Obj, revision: str, current: Artifact | None, included: tuple[Artifact, ...]) -> bool:
    """The artifact that is there is the one that would be made now."""
    status = obj.get("status") or {}
    before = [(entry.get("revision"), entry.get("digest")) for entry in status.get("includedArtifacts") or ()]
    return (
        current is not None
        and current.revision == revision
        and before == [(artifact.revision, artifact.digest) for artifact in included]
        and all((status.get(key) or None) == (value or None) for key, value in _observed(obj).items())
    )


# reading


@dataclass(frozen=True, slots=True)
class Means:
    """What a pass works with."""

    storage: Storage
    scratch: Path  # packs of one commit are here for a moment
    schemes: frozenset[str] = REMOTE_SCHEMES


async def reconcile(obj: Obj, api: Api, means: Means) -> Plan:
    spec, owner = Spec.of(obj), Ref.of(obj)
    current = await _current(obj, means.storage)
    try:
        seen = await _observe(obj, spec, api, means, current)
    except Failed as failed:
        seen = Seen(current, failed=failed)
    if seen.artifact is not None:
        await means.storage.collect(owner, seen.artifact)
    return plan(obj, spec, seen)


async def _current(obj: Obj, storage: Storage) -> Artifact | None:
    """The artifact of the status, if the storage still has it; at the address of today."""
    shown = (obj.get("status") or {}).get("artifact")
    if not shown:
        return None
    artifact = Artifact.of(shown)
    return storage.here(artifact) if await storage.intact(artifact) else None


async def _observe(obj: Obj, spec: Spec, api: Api, means: Means, current: Artifact | None) -> Seen:
    """The artifact of now. Raises Failed."""
    auth = await _auth(spec, namespace_of(obj), api)
    included = await _included(spec, namespace_of(obj), api)
    try:
        async with source(
            spec.url, spec.reference, auth, means.scratch, timeout=spec.timeout, schemes=means.schemes
        ) as git:
            revision = await git.resolve()
            verified = _verified(obj, spec)
            if verified is not None and unchanged(obj, spec.says(revision), current, included):
                return Seen(current, included, verified=verified)
            checkout = await git.fetch(revision)
            verified = await _verify(git, checkout, spec, namespace_of(obj), api)
            files = _sparse(await git.files(checkout, submodules=spec.submodules), spec.sparse)
            return replace(await _packed(obj, spec, means, files, checkout, included), verified=verified)
    except EmptyRepository as error:
        raise Failed(FETCH_FAILED, "EmptyGitRepository", str(error)) from error
    except GitError as error:
        message = f"failed to checkout and determine revision: {error}"
        raise Failed(FETCH_FAILED, "GitOperationFailed", message) from error


async def _packed(
    obj: Obj, spec: Spec, means: Means, files: dict[str, File], checkout: Checkout, included: tuple[Artifact, ...]
) -> Seen:
    async with _with_includes(spec, means, files, included) as whole:
        try:
            rules = await asyncio.to_thread(_ignore_files, whole)
            ignore = ignore_of(rules, spec.ignore)
            revision = spec.says(checkout.revision)
            artifact = await means.storage.archive(Ref.of(obj), whole, revision=revision, wanted=ignore.wanted)
        except IgnoreError as error:
            message = f"failed to load source ignore patterns from repository: {error}"
            raise Failed(STORAGE_FAILED, "SourceIgnoreError", message) from error
        except (ArtifactError, OSError) as error:
            message = f"unable to archive artifact to storage: {error}"
            raise Failed(STORAGE_FAILED, "ArchiveOperationFailed", message) from error
    return Seen(artifact, included, checkout.subject or checkout.revision.commit)


def _ignore_files(files: Mapping[str, File]) -> dict[str, bytes]:
    """The `.sourceignore` files of a tree; blocks. Raises IgnoreError, OSError."""
    found = {path: file for path, file in files.items() if posixpath.basename(path) == IGNORE_FILE}
    if sum(file.size for file in found.values()) > IGNORE_BYTES:
        raise IgnoreError(f"the {IGNORE_FILE} files have more than {IGNORE_BYTES} bytes")
    read = {}
    for path, file in found.items():
        with file.open() as opened:
            read[path] = opened.read()
    return read


def _sparse(files: dict[str, File], folders: tuple[str, ...]) -> dict[str, File]:
    """Only what is in the folders. Raises Failed for one that is not there."""
    if not folders:
        return files
    kept: dict[str, File] = {}
    for folder in folders:
        inside = _inside(folder)
        found = {path: file for path, file in files.items() if inside == "." or path.startswith(f"{inside}/")}
        if not found:
            message = f"sparse checkout dir '{folder}' does not exist in repository"
            raise Failed(FETCH_FAILED, "GitOperationFailed", f"failed to sparse checkout directories : {message}")
        kept |= found
    return kept


def _inside(path: str) -> str:
    """The path without `.` and `..`, as if the tree were `/`; "." for the tree itself."""
    return posixpath.normpath("/" + path).lstrip("/") or "."


# credentials


async def _auth(spec: Spec, namespace: str, api: Api) -> Auth:
    """Raises Failed."""
    if spec.provider != "generic":
        message = f"spec.provider {spec.provider} is not supported; use generic with a secretRef"
        raise Failed(FETCH_FAILED, "InvalidProviderConfiguration", message, stalled=True)
    try:
        proxy = _proxy(await _secret(api, namespace, spec.proxy_secret)) if spec.proxy_secret else ""
    except (ValueError, AuthError) as error:
        raise Failed(FETCH_FAILED, "AuthenticationFailed", f"failed to configure proxy options: {error}") from error
    try:
        data = await _secret(api, namespace, spec.secret) if spec.secret else {}
    except AuthError as error:
        message = f"failed to get secret '{namespace}/{spec.secret}': {error}"
        raise Failed(FETCH_FAILED, "AuthenticationFailed", message) from error
    try:
        return Auth.of(spec.url, data, proxy)
    except (AuthError, ValueError) as error:
        message = f"failed to configure authentication options: {error}"
        raise Failed(FETCH_FAILED, "AuthenticationFailed", message) from error


async def _secret(api: Api, namespace: str, name: str) -> dict[str, bytes]:
    """Raises AuthError."""
    secret = await api.get(Ref(SECRET, namespace, name))
    if secret is None:
        raise AuthError(f'secrets "{name}" not found')
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def _proxy(data: Mapping[str, bytes]) -> str:
    """The proxy's URL with its user. Raises ValueError."""
    if not data.get("address"):
        raise ValueError("the secret has no key 'address'")
    parts = urlsplit(data["address"].decode())
    if parts.scheme not in ("http", "https", "socks5") or not parts.hostname:
        raise ValueError("'address' must look like http://host:port")
    user, password = (quote(data.get(key, b"").decode(), safe="") for key in ("username", "password"))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}" if user else host))


async def _verify(git: Git, checkout: Checkout, spec: Spec, namespace: str, api: Api) -> str:
    """Who signed it, in upstream's words; "" when nobody asks. Raises Failed."""
    if not spec.verify:
        return ""
    try:
        keys = Keys.of(await _secret(api, namespace, spec.verify_secret))
    except (AuthError, Unverified) as error:
        raise Failed(VERIFIED, "VerificationError", f"public keys secret error: {error}") from error
    lines = []
    if spec.verify in ("Tag", "TagAndHEAD"):
        lines.append(await _signer(git, checkout, "tag", "InvalidTagSignature", keys))
    if spec.verify in ("HEAD", "TagAndHEAD"):
        lines.append(await _signer(git, checkout, "commit", "InvalidCommitSignature", keys))
    if not lines:
        raise Failed(VERIFIED, "InvalidVerificationMode", f"spec.verify.mode {spec.verify} is unknown", stalled=True)
    return "verified signature of" + "".join(f"\n\t- {line}" for line in lines)


async def _signer(git: Git, checkout: Checkout, kind: Kind, reason: str, keys: Keys) -> str:
    try:
        name, key = await git.verify(checkout, kind, keys)
    except NoTag as error:
        raise Failed(VERIFIED, "InvalidVerificationMode", str(error), stalled=True) from error
    except Unverified as error:
        message = f"signature verification of {kind} '{checkout.revision.short()}' failed: {error}"
        raise Failed(VERIFIED, reason, message) from error
    return f"{kind} '{name}' with key '{key}'"


# includes


async def _included(spec: Spec, namespace: str, api: Api) -> tuple[Artifact, ...]:
    """The artifacts of the included repositories, in their order. Raises Failed."""
    found = []
    for include in spec.include:
        name = include.repository
        other = await api.get(Ref(GIT_REPOSITORY, namespace, name))
        if other is None:
            message = f"could not get resource for include '{name}': GitRepository \"{name}\" not found"
            raise Failed(INCLUDE_UNAVAILABLE, "NotFound", message, again=INCLUDE_SECONDS)
        shown = (other.get("status") or {}).get("artifact")
        if not shown:
            message = f"no artifact available for include '{name}'"
            raise Failed(INCLUDE_UNAVAILABLE, "NoArtifact", message, again=INCLUDE_SECONDS)
        found.append(Artifact.of(shown))
    return tuple(found)


@asynccontextmanager
async def _with_includes(
    spec: Spec, means: Means, files: dict[str, File], included: tuple[Artifact, ...]
) -> AsyncIterator[dict[str, File]]:
    """The files and those of the includes at their places, which win. Raises Failed."""
    if not included:
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="git-include-", dir=means.scratch) as directory:
        whole = dict(files)
        for number, (include, artifact) in enumerate(zip(spec.include, included, strict=True)):
            folder = Path(directory) / str(number)
            try:
                whole |= await asyncio.to_thread(_copied, means.storage, artifact, include, folder)
            except (OSError, TarError, ArtifactError) as error:
                where = f"from {include.from_path} to {include.to_path}"
                message = f"failed to copy '{include.repository}' include {where}: {error}"
                raise Failed(STORAGE_FAILED, "CopyFailure", message) from error
        yield whole


def _copied(storage: Storage, artifact: Artifact, include: Include, folder: Path) -> dict[str, File]:
    """The files of an include, by their path in the whole; blocks."""
    extract(storage, artifact, folder)
    chosen = folder / include.from_path
    if not chosen.is_dir():
        raise FileNotFoundError(f"{include.from_path}: no such directory")
    prefix = "" if include.to_path == "." else f"{include.to_path}/"
    return {f"{prefix}{path}": file for path, file in tree(chosen).items()}


def includes(ours: Obj, changed: Obj) -> bool:
    """Whether a change of the one concerns the other."""
    return any(entry["repository"]["name"] == name_of(changed) for entry in ours["spec"].get("include") or ())


async def finalize(obj: Obj, _api: Api, means: Means) -> None:
    await means.storage.remove(Ref.of(obj))


def controller(storage: Storage, scratch: Path, *, schemes: frozenset[str] = REMOTE_SCHEMES) -> Controller:
    """`schemes` may name `file`, for whoever may read this machine's files."""
    means = Means(storage, scratch, schemes)
    return Controller(
        GIT_REPOSITORY,
        partial(reconcile, means=means),
        selects={GIT_REPOSITORY: includes},
        finalize=partial(finalize, means=means),
        manager=MANAGER,
        finalizer=FINALIZER,
        transient=TRANSIENT,
        base=RETRY_BASE,
    )
