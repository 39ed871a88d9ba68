"""What a Kustomization is built from: the artifact, unpacked for a moment, and variables; and the build, kept.

A build depends on nothing but the artifact, the spec and the variables, so it is kept under a digest of the three, as
bytes, the most recently used ones up to a limit.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj
from havre.machinery.api import Api, Ref
from havre.platform.gitops.artifacts import ArtifactError, ArtifactGone
from havre.platform.gitops.kustomization_build import PathNotFound, Tree, objects_of
from havre.platform.gitops.kustomize import BuildError

Fetch = Callable[[Mapping[str, object], Path], Awaitable[None]]

KEPT_BYTES: Final = 64 * 1024 * 1024  # 2,000 builds of 20 objects of 1.6 kB
_PREFIX: Final = "kustomization-"
GONE_SECONDS: Final = 30.0  # before an artifact that is not there is asked for again
_BUILT_FROM: Final = (
    "path",
    "targetNamespace",
    "namePrefix",
    "nameSuffix",
    "patches",
    "images",
    "components",
    "ignoreMissingComponents",
    "buildMetadata",
    "commonMetadata",
    "postBuild",
)


class SourceError(Exception):
    """There are no objects to apply: the reason of Ready, and when to try again if not after the retry interval."""

    def __init__(self, reason: str, message: str, again: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.again = again


@dataclass(frozen=True, slots=True)
class Built:
    """The objects, the caller's own, and the digest of all of them."""

    objects: Sequence[Obj]
    digest: str


@dataclass(slots=True)
class Builds:
    """Fetches and builds in `work`; remembers what came of it."""

    work: Path
    fetch: Fetch
    _kept: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _swept: bool = False

    async def objects(
        self, ref: Ref, spec: Mapping[str, Any], artifact: Mapping[str, Any], variables: Mapping[str, str]
    ) -> Built:
        """Raises SourceError."""
        if spec.get("decryption"):
            raise SourceError("BuildFailed", "spec.decryption: SOPS is not supported yet; remove it")
        key = _key(ref, spec, artifact, variables)
        made = self._kept.get(key)
        if made is None:
            made = await self._build(ref, spec, artifact, variables)
            self._keep(key, made)
        else:
            self._kept.move_to_end(key)
        return Built(orjson.loads(made), f"sha256:{hashlib.sha256(made).hexdigest()}")

    async def _build(
        self, ref: Ref, spec: Mapping[str, Any], artifact: Mapping[str, Any], variables: Mapping[str, str]
    ) -> bytes:
        directory = await asyncio.to_thread(self._directory)
        try:
            await self._fetched(artifact, directory / "tree")
            return await asyncio.to_thread(_built, directory / "tree", spec, variables)
        except PathNotFound as error:
            raise SourceError("ArtifactFailed", str(error)) from error
        except BuildError as error:
            words = str(error)
            raise SourceError(
                "BuildFailed", words if words.startswith("post build") else f"kustomize build failed: {words}"
            ) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _directory(self) -> Path:
        """A new one; before the first, those of a process that died go."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            for left in self.work.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            self._swept = True
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.work))

    async def _fetched(self, artifact: Mapping[str, Any], into: Path) -> None:
        try:
            await self.fetch(artifact, into)
        except ArtifactGone as error:
            message = "Source is not ready, artifact not found, retrying in 30s"
            raise SourceError("ArtifactFailed", message, GONE_SECONDS) from error
        except ArtifactError as error:
            raise SourceError("ArtifactFailed", str(error)) from error

    def _keep(self, key: bytes, made: bytes) -> None:
        self._kept[key] = made
        self._bytes += len(made)
        while self._bytes > KEPT_BYTES and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)


def _built(tree: Path, spec: Mapping[str, Any], variables: Mapping[str, str]) -> bytes:
    return orjson.dumps(objects_of(Tree(tree), spec, variables))


def _key(ref: Ref, spec: Mapping[str, Any], artifact: Mapping[str, Any], variables: Mapping[str, str]) -> bytes:
    said = [
        artifact.get("digest") or artifact.get("url"),
        {name: spec[name] for name in _BUILT_FROM if name in spec},
        dict(variables),
    ]
    return hashlib.blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


# variables


async def variables_of(spec: Mapping[str, Any], namespace: str, api: Api) -> dict[str, str]:
    """Of `postBuild`: later ones win over earlier, inline ones over all; line breaks are taken out.

    Raises SourceError.
    """
    post = spec.get("postBuild") or {}
    found: dict[str, str] = {}
    for reference in post.get("substituteFrom") or ():
        found.update(await _variables_from(reference, namespace, api))
    found.update(post.get("substitute") or {})
    return {name: str(value).replace("\n", "") for name, value in found.items()}


async def _variables_from(reference: Mapping[str, Any], namespace: str, api: Api) -> dict[str, str]:
    kind, name = str(reference.get("kind")), str(reference.get("name"))
    where = f"substitute from '{kind}/{name}' error"
    try:
        obj = await api.get(Ref(GVK("", "v1", kind), namespace, name))
    except ApiError as error:
        raise SourceError("BuildFailed", f"{where}: {error}") from error
    if obj is None:
        if reference.get("optional") is True:
            return {}
        raise SourceError("BuildFailed", f'{where}: {kind.lower()}s "{name}" not found')
    data: Mapping[str, str] = obj.get("data") or {}
    if kind != "Secret":
        return dict(data)
    try:
        return {key: base64.b64decode(value).decode() for key, value in data.items()}
    except (binascii.Error, UnicodeDecodeError) as error:
        raise SourceError("BuildFailed", f"{where}: its data is no text: {error}") from error
