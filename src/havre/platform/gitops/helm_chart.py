"""HelmChart: a chart from a source, packed, behind a URL.

reads   HelmChart, the GitRepository, Bucket or HelmRepository it names, that source's artifact
writes  the packed chart in the storage, status.artifact, conditions, events
wakes   GitRepository, Bucket, HelmRepository
source  fluxcd/source-controller v1.9, internal/controller/helmchart_controller.go, internal/helm/chart

A chart in a Git tree is packed by Helm's own library, so `.helmignore` and the checks of Chart.yaml are Helm's.
Dependencies are those in `charts/` and `file://` ones of the same tree; `valuesFiles` become the chart's values.yaml.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from havre.api.meta import GVK, Obj
from havre.kit import duration
from havre.lang import yaml
from havre.lang.yaml import YAMLError
from havre.machinery import conditions as cond
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import READY, RECONCILING, STALLED, Condition
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.platform.gitops import artifacts
from havre.platform.gitops.artifacts import Artifact, ArtifactError, Storage
from havre.platform.gitops.helm import chart, repository, values
from havre.platform.gitops.helm.chart import ChartError
from havre.platform.gitops.helm.engine import Engine, EngineError, EngineMissing, Packed
from havre.platform.gitops.helm.repository import Repository, RepositoryError
from havre.platform.gitops.helm.values import ValuesError

HELM_CHART: Final = GVK("source.toolkit.fluxcd.io", "v1", "HelmChart")
GIT_REPOSITORY: Final = GVK("source.toolkit.fluxcd.io", "v1", "GitRepository")
BUCKET: Final = GVK("source.toolkit.fluxcd.io", "v1", "Bucket")
HELM_REPOSITORY: Final = GVK("source.toolkit.fluxcd.io", "v1", "HelmRepository")
_SOURCES: Final = {gvk.kind: gvk for gvk in (GIT_REPOSITORY, BUCKET, HELM_REPOSITORY)}
SECRET: Final = GVK("", "v1", "Secret")
MANAGER: Final = "source-controller"
FINALIZER: Final = "finalizers.fluxcd.io"
REQUESTED_AT: Final = "reconcile.fluxcd.io/requestedAt"
ARTIFACT_IN_STORAGE: Final = "ArtifactInStorage"
DEPENDENCIES = 100  # of one chart
REVISION_CHARACTERS = 12  # of the commit in a version, as upstream
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}")
_HASH = re.compile(r"[0-9a-f]{12,64}$")


class BuildError(Exception):
    """A chart that cannot be built from its source; `stalled`: not before the spec changes."""

    def __init__(self, reason: str, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.stalled = stalled


@dataclass(frozen=True, slots=True)
class Spec:
    """What a HelmChart asks for."""

    chart: str
    version: str
    source: Ref
    interval: float
    by_revision: bool
    values_files: tuple[str, ...]
    ignore_missing: bool

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        """Raises BuildError."""
        raw = obj["spec"]
        said = raw["sourceRef"]
        gvk = _SOURCES.get(said["kind"])
        if gvk is None:
            words = f"charts from a {said['kind']} are not supported; use a GitRepository or a HelmRepository"
            raise BuildError("UnsupportedSourceKind", words, stalled=True)
        return cls(
            chart=raw["chart"],
            version=raw.get("version") or "*",
            source=Ref(gvk, obj["metadata"]["namespace"], said["name"]),
            interval=duration.parse(raw["interval"]),
            by_revision=raw.get("reconcileStrategy") == "Revision",
            values_files=tuple(raw.get("valuesFiles") or ()),
            ignore_missing=bool(raw.get("ignoreMissingValuesFiles")),
        )


@dataclass(frozen=True, slots=True)
class Reconciler:
    """What all passes share. `work` is where trees are unpacked for the moment."""

    storage: Storage
    engine: Engine
    work: Path

    async def reconcile(self, obj: Obj, api: Api) -> Plan:
        try:
            spec = Spec.of(obj)
            if spec.source.gvk == HELM_REPOSITORY:
                return await self._from_repository(obj, spec, api)
            source = await _artifact(spec, api)
            status = obj.get("status") or {}
            if _same(obj, source) and await self.storage.intact(Artifact.of(status["artifact"])):
                return _said(obj, spec, {}, _kept(obj))
            return await self._build(obj, spec, source)
        except BuildError as error:
            return _failure(obj, error)

    async def finalize(self, obj: Obj, _api: Api) -> None:
        await self.storage.remove(Ref.of(obj))

    async def _from_repository(self, obj: Obj, spec: Spec, api: Api) -> Plan:
        """The chart of the newest version that is allowed."""
        try:
            found = await repository.find(await _repository(spec, api), spec.chart, spec.version)
            kept = (obj.get("status") or {}).get("artifact") or {}
            if _same(obj, {"revision": found.version}) and await self.storage.intact(Artifact.of(kept)):
                return _said(obj, spec, {}, _kept(obj))
            data = await repository.download(found)
        except RepositoryError as error:
            raise BuildError("ChartPullError", str(error)) from error
        return await self._store(obj, spec, found.version, self._pulled(spec, data), "pulled")

    async def _build(self, obj: Obj, spec: Spec, source: Mapping[str, Any]) -> Plan:
        return await self._store(obj, spec, source.get("revision"), self._packed(spec, source), "packaged")

    async def _store(
        self, obj: Obj, spec: Spec, source: str | None, making: Awaitable[tuple[Packed, list[str]]], done: str
    ) -> Plan:
        try:
            packed, merged = await making
            data = await asyncio.to_thread(chart.repacked, packed.data)
            name, version = str(packed.metadata["name"]), str(packed.metadata["version"])
            filename = f"{name}-{version}-{{hex}}.tgz"
            artifact = await self.storage.put(Ref.of(obj), data, filename, revision=version)
            await self.storage.collect(Ref.of(obj), artifact)
        except (EngineError, EngineMissing, ChartError, ValuesError) as error:
            raise BuildError("ChartPackageError", f"failed to package chart '{spec.chart}': {error}") from error
        except ArtifactError as error:
            raise BuildError("ArchiveOperationFailed", str(error)) from error
        words = f"{done} '{name}' chart with version '{version}'"
        if merged:
            words += f" and merged values files [{' '.join(merged)}]"
        status = {
            "artifact": artifact.status(),
            "observedChartName": name,
            "observedSourceArtifactRevision": source,
            "observedValuesFiles": list(merged) or None,
            "url": artifact.url,
        }
        return _said(obj, spec, status, words)

    async def _pulled(self, spec: Spec, data: bytes) -> tuple[Packed, list[str]]:
        """A chart that came packed; packed again when its values change."""
        if not spec.values_files:
            return Packed(await self.engine.describe(data), (), data), []
        await asyncio.to_thread(self.work.mkdir, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work, ignore_cleanup_errors=True) as directory:
            root = Path(directory)
            await asyncio.to_thread(_unpack, data, root)
            merged = await asyncio.to_thread(_merge_values, root, root, spec)
            return await self.engine.pack(root), merged

    async def _packed(self, spec: Spec, source: Mapping[str, Any]) -> tuple[Packed, list[str]]:
        await asyncio.to_thread(self.work.mkdir, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work, ignore_cleanup_errors=True) as directory:
            tree = Path(directory) / "tree"
            try:
                await artifacts.fetch(source, tree)
            except ArtifactError as error:
                raise BuildError("SourceUnavailable", f"failed to fetch the source: {error}") from error
            root = _inside(tree, spec.chart)
            if root.is_file():
                return await self._archive(root), []
            if not (root / "Chart.yaml").is_file():
                raise BuildError("ChartPackageError", f"no Chart.yaml in '{spec.chart}' of the source")
            merged = await asyncio.to_thread(_merge_values, tree, root, spec)
            if spec.by_revision:
                _stamp(root, str(source.get("revision", "")))
            await asyncio.to_thread(_dependencies, tree, root)
            packed = await self.engine.pack(root)
            _complete(root, packed)
            return packed, merged

    async def _archive(self, path: Path) -> Packed:
        data = await asyncio.to_thread(path.read_bytes)
        return Packed(await self.engine.describe(data), (), data)


# pieces


async def _repository(spec: Spec, api: Api) -> Repository:
    source = await api.get(spec.source)
    if source is None:
        named = f"HelmRepository '{spec.source.namespace}/{spec.source.name}'"
        raise BuildError("SourceUnavailable", f"failed to get source: {named} not found")
    return await repository_of(source, api)


async def repository_of(source: Obj, api: Api) -> Repository:
    """Where the charts of a HelmRepository are, and as whom. Raises BuildError."""
    said, user = source["spec"], {}
    if said.get("certSecretRef") or said.get("provider", "generic") != "generic":
        raise BuildError("AuthenticationFailed", "certSecretRef and cloud providers are not supported", stalled=True)
    if said.get("secretRef"):
        secret = await api.get(Ref(SECRET, source["metadata"]["namespace"], said["secretRef"]["name"]))
        data = (secret or {}).get("data") or {}
        if not {"username", "password"} <= data.keys():
            words = f"Secret '{said['secretRef']['name']}' must have the keys username and password"
            raise BuildError("AuthenticationFailed", f"failed to get the credentials: {words}")
        user = {key: base64.b64decode(data[key]).decode() for key in ("username", "password")}
    return Repository(
        said["url"],
        **user,
        pass_credentials=bool(said.get("passCredentials")),
        insecure=bool(said.get("insecure")),
    )


def _unpack(data: bytes, root: Path) -> None:
    for path, content in chart.files(data).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


async def _artifact(spec: Spec, api: Api) -> Mapping[str, Any]:
    """The artifact of the source. Raises BuildError."""
    source = await api.get(spec.source)
    named = f"{spec.source.gvk.kind} '{spec.source.namespace}/{spec.source.name}'"
    if source is None:
        raise BuildError("SourceUnavailable", f"failed to get source: {named} not found")
    artifact = (source.get("status") or {}).get("artifact")
    if not artifact:
        words = f"no artifact available for {spec.source.gvk.kind} source '{spec.source.name}'"
        raise BuildError("SourceUnavailable", words)
    return dict(artifact)


def _inside(tree: Path, path: str) -> Path:
    """A path of the tree; one that leaves it, also through a link, is refused."""
    found = (tree / path.lstrip("/")).resolve()
    if not found.is_relative_to(tree.resolve()):
        raise BuildError("InvalidChartReference", f"'{path}' points outside of the source", stalled=True)
    if not found.exists():
        raise BuildError("ChartPackageError", f"no file or directory '{path}' in the source")
    return found


def _merge_values(tree: Path, root: Path, spec: Spec) -> list[str]:
    """The values files, merged in their order, become the chart's own."""
    merged: dict[str, Any] = {}
    found = []
    for name in spec.values_files:
        try:
            path = _inside(tree, name)
        except BuildError as error:
            if spec.ignore_missing and not error.stalled:
                continue
            raise BuildError("ValuesFilesError", f"values files merge error: {error}", stalled=error.stalled) from error
        merged = values.merged(merged, values.read(path.read_bytes(), f"'{name}'"))
        found.append(name)
    if found:
        (root / "values.yaml").write_text(yaml.dump(merged))
    return found


def _stamp(root: Path, revision: str) -> None:
    """The version gets the commit: `1.2.3+0123456789ab`."""
    metadata = _metadata(root)
    commit = _HASH.search(revision)
    if commit is None:
        raise BuildError("ChartMetadataPatchError", f"no commit in the source's revision {revision!r}")
    version = str(metadata.get("version", "")).partition("+")[0]
    metadata["version"] = f"{version}+{commit.group()[:REVISION_CHARACTERS]}"
    (root / "Chart.yaml").write_text(yaml.dump(metadata))


def _metadata(root: Path) -> Obj:
    try:
        found = yaml.load((root / "Chart.yaml").read_bytes())
    except YAMLError as error:
        raise BuildError("ChartPackageError", f"cannot load Chart.yaml: {error}") from error
    if not isinstance(found, dict):
        raise BuildError("ChartPackageError", "cannot load Chart.yaml: it is empty")
    return found


def _dependencies(tree: Path, root: Path) -> None:
    """Put the charts that Chart.yaml names by `file://` where Helm looks for them."""
    for wanted in _wanted(root):
        place, name = str(wanted.get("repository") or ""), str(wanted.get("name", ""))
        if not _NAME.fullmatch(name):
            raise BuildError("DependencyBuildError", f"dependency {name!r} in Chart.yaml: no name of a chart")
        if not place.startswith("file://") or (root / "charts" / name).exists():
            continue
        beside = root.relative_to(tree.resolve()) / place.removeprefix("file://")
        source = _inside(tree, str(beside))
        if source.is_relative_to(root) or root.is_relative_to(source):
            raise BuildError("DependencyBuildError", f"dependency '{name}' at '{place}' contains the chart or is in it")
        if any(path.is_symlink() for path in source.rglob("*")):  # elsewhere it would point to something else
            raise BuildError("DependencyBuildError", f"dependency '{name}' at '{place}' has symbolic links in it")
        shutil.copytree(source, root / "charts" / name)


def _complete(root: Path, packed: Packed) -> None:
    """Every dependency is in the chart. Raises BuildError."""
    missing = [str(each.get("name")) for each in _wanted(root) if each.get("name") not in packed.dependencies]
    if missing:
        words = f"found in Chart.yaml, but missing in charts/ directory: {', '.join(missing)}"
        raise BuildError("DependencyBuildError", f"{words}; commit them, or name them by file://")


def _wanted(root: Path) -> list[Mapping[str, Any]]:
    said = _metadata(root).get("dependencies") or []
    if not isinstance(said, list) or len(said) > DEPENDENCIES:
        raise BuildError("DependencyBuildError", f"dependencies in Chart.yaml: not a list of up to {DEPENDENCIES}")
    return [each for each in said if isinstance(each, dict)]


def _same(obj: Obj, source: Mapping[str, Any]) -> bool:
    """The artifact that is there is of this source and this spec."""
    status = obj.get("status") or {}
    return bool(
        status.get("artifact")
        and status.get("observedGeneration") == obj["metadata"].get("generation")
        and status.get("observedSourceArtifactRevision") == source.get("revision")
    )


def _kept(obj: Obj) -> str:
    shown = cond.find((obj.get("status") or {}).get("conditions") or (), ARTIFACT_IN_STORAGE) or {}
    return str(shown.get("message", ""))


def _said(obj: Obj, spec: Spec, status: Mapping[str, Any], words: str) -> Plan:
    reason = "ChartPullSucceeded" if words.startswith("pulled") else "ChartPackageSucceeded"
    new = (status.get("artifact") or {}).get("digest")
    was = ((obj.get("status") or {}).get("artifact") or {}).get("digest")
    return Plan(
        status={**status, **handled(obj)},
        conditions=(Condition(ARTIFACT_IN_STORAGE, True, reason, words), Condition(READY, True, reason, words)),
        notes=(Note(reason, words),) if new and new != was and was else (),
        again=spec.interval,
    )


def _failure(obj: Obj, error: BuildError) -> Plan:
    words = str(error)
    what = STALLED if error.stalled else RECONCILING
    reason = error.reason if error.stalled else cond.PROGRESSING_WITH_RETRY
    plan = Plan(
        status=handled(obj),
        conditions=(Condition(READY, False, error.reason, words), Condition(what, True, reason, words)),
    )
    return plan if error.stalled else replace(plan, again=duration.parse(obj["spec"]["interval"]))


def handled(obj: Obj) -> Obj:
    """What was asked for by annotation, for the status."""
    asked = (obj["metadata"].get("annotations") or {}).get(REQUESTED_AT)
    return {"lastHandledReconcileAt": asked} if asked else {}


def _selects(kind: str) -> Callable[[Obj, Obj], bool]:
    def selects(ours: Obj, changed: Obj) -> bool:
        said = ours["spec"]["sourceRef"]
        return bool(said["kind"] == kind and said["name"] == changed["metadata"]["name"])

    return selects


def controller(storage: Storage, engine: Engine, work: Path) -> Controller:
    shared = Reconciler(storage, engine, work)
    return Controller(
        HELM_CHART,
        shared.reconcile,
        selects={gvk: _selects(kind) for kind, gvk in _SOURCES.items()},
        finalize=shared.finalize,
        manager=MANAGER,
        component="source-controller",
        finalizer=FINALIZER,
    )
