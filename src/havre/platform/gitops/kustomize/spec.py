"""The kustomization file: its fields, each read once, checked, and typed; an unknown one is an error.

Source: sigs.k8s.io/kustomize, api/types (kustomization.go and its neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from havre.lang import yaml
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.generate import BEHAVIORS, Generator, Options
from havre.platform.gitops.kustomize.selection import Selector
from havre.platform.gitops.kustomize.transform import Image

FILE_NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
KINDS: Final = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}

_SUPPORTED: Final = frozenset(
    [
        "apiVersion",
        "kind",
        "metadata",
        "resources",
        "bases",
        "components",
        "namespace",
        "namePrefix",
        "nameSuffix",
        "labels",
        "commonLabels",
        "commonAnnotations",
        "patches",
        "patchesStrategicMerge",
        "patchesJson6902",
        "images",
        "imageTags",
        "replicas",
        "replacements",
        "configMapGenerator",
        "secretGenerator",
        "generatorOptions",
        "configurations",
        "transformers",
        "buildMetadata",
        "sortOptions",
    ]
)
_REFUSED: Final = {
    "vars": "vars are not supported; use replacements",
    "helmCharts": "charts are not rendered here; use a HelmRelease",
    "helmGlobals": "charts are not rendered here; use a HelmRelease",
    "helmChartInflationGenerator": "charts are not rendered here; use a HelmRelease",
    "generators": "generators from files are not supported; use configMapGenerator or secretGenerator",
    "validators": "validators are not supported; remove them",
    "crds": "crds are not read; name the fields in a file of configurations",
    "openapi": "a schema of your own is not read; lists of custom kinds are replaced by a patch",
}
BUILD_METADATA: Final = ("originAnnotations", "managedByLabel")


@dataclass(frozen=True, slots=True)
class Label:
    """Pairs, and how far they reach."""

    pairs: Mapping[str, str]
    selectors: bool
    templates: bool
    volume_claims: bool
    specs: tuple[FieldSpec, ...]


@dataclass(frozen=True, slots=True)
class PatchSource:
    """A patch before its file is read: a path or a text."""

    where: str
    path: str = ""
    text: str = ""
    either: str = ""  # a text or a path: what it is shows when it is read
    target: Selector | None = None
    rename: bool = False
    retype: bool = False


@dataclass(frozen=True, slots=True)
class Kustomization:
    """What one kustomization file says."""

    file: str
    component: bool
    resources: tuple[str, ...]
    components: tuple[str, ...]
    namespace: str
    prefix: str
    suffix: str
    labels: tuple[Label, ...]
    common_labels: Mapping[str, str]
    common_annotations: Mapping[str, str]
    merges: tuple[PatchSource, ...]  # patchesStrategicMerge
    patches: tuple[PatchSource, ...]
    operations: tuple[PatchSource, ...]  # patchesJson6902
    images: tuple[Image, ...]
    replicas: tuple[tuple[str, int], ...]
    replacements: tuple[Mapping[str, Any], ...]
    generators: tuple[Generator, ...]
    configurations: tuple[str, ...]
    transformers: tuple[str, ...]
    build_metadata: tuple[str, ...]
    sort: Mapping[str, Any] | None

    @classmethod
    def parse(cls, raw: bytes, file: str) -> Kustomization:
        """Raises BuildError, which names the file and the field."""
        try:
            value = yaml.load(raw)
        except yaml.YAMLError as e:
            raise BuildError(f"{file}: invalid Kustomization: {e}") from e
        if not isinstance(value, dict) or not value.keys() - {"apiVersion", "kind", "metadata"}:
            raise BuildError(f"{file}: kustomization.yaml is empty")
        return cls.of(value, file)

    @classmethod
    def of(cls, raw: Mapping[str, Any], file: str) -> Kustomization:
        read = _Reader(raw, file)
        kind = _check(read)
        common = _options(read.object("generatorOptions"))
        return cls(
            file=file,
            component=kind == "Component",
            resources=(*read.strings("resources"), *read.strings("bases")),
            components=read.strings("components"),
            namespace=read.string("namespace"),
            prefix=read.string("namePrefix"),
            suffix=read.string("nameSuffix"),
            labels=tuple(map(_label, read.objects("labels"))),
            common_labels=read.pairs("commonLabels"),
            common_annotations=read.pairs("commonAnnotations"),
            merges=tuple(
                PatchSource(f"{file}: patchesStrategicMerge[{number}]", either=text)
                for number, text in enumerate(read.strings("patchesStrategicMerge"))
            ),
            patches=tuple(map(_patch, read.objects("patches"))),
            operations=tuple(map(_patch, read.objects("patchesJson6902"))),
            images=tuple(_image(each) for name in ("images", "imageTags") for each in read.objects(name)),
            replicas=tuple((each.string("name"), each.integer("count")) for each in read.objects("replicas")),
            replacements=tuple(each.raw for each in read.objects("replacements")),
            generators=tuple(
                _generator(each, kind, common)
                for name, kind in (("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret"))
                for each in read.objects(name)
            ),
            configurations=read.strings("configurations"),
            transformers=read.strings("transformers"),
            build_metadata=_build_metadata(read),
            sort=read.raw.get("sortOptions") and read.object("sortOptions").raw,
        )


def _check(read: _Reader) -> str:
    for name in read.raw:
        if name in _REFUSED and read.raw[name]:
            raise BuildError(f"{read.where}: {name}: {_REFUSED[name]}")
        if name not in _SUPPORTED and name not in _REFUSED:
            raise BuildError(f'{read.where}: invalid Kustomization: unknown field "{name}"')
    kind = read.string("kind") or "Kustomization"
    if kind not in KINDS:
        raise BuildError(f"{read.where}: kind should be Kustomization or Component, not {kind}")
    version = read.string("apiVersion")
    if version and version != KINDS[kind]:
        raise BuildError(f"{read.where}: apiVersion for {kind} should be {KINDS[kind]}, not {version}")
    return kind


def _build_metadata(read: _Reader) -> tuple[str, ...]:
    for name in read.strings("buildMetadata"):
        if name not in BUILD_METADATA:
            raise BuildError(f"{read.where}: buildMetadata: {name}: supported are {', '.join(BUILD_METADATA)}")
    return read.strings("buildMetadata")


def _label(read: _Reader) -> Label:
    read.only("pairs", "includeSelectors", "includeTemplates", "includeVolumeClaimTemplates", "fields")
    return Label(
        read.pairs("pairs"),
        read.boolean("includeSelectors"),
        read.boolean("includeTemplates"),
        read.boolean("includeVolumeClaimTemplates"),
        tuple(FieldSpec.of(each.raw, each.where) for each in read.objects("fields")),
    )


def _patch(read: _Reader) -> PatchSource:
    read.only("path", "patch", "target", "options")
    path, text, options = read.string("path"), read.string("patch").strip(), read.object("options")
    if not path and not text:
        raise BuildError(f"{read.where}: must specify one of patch and path")
    if path and text:
        raise BuildError(f"{read.where}: patch and path can't be set at the same time")
    target = read.raw.get("target")
    return PatchSource(
        read.where,
        path=path,
        text=text,
        target=None if target is None else Selector.of(read.object("target").raw, f"{read.where}.target"),
        rename=options.boolean("allowNameChange"),
        retype=options.boolean("allowKindChange"),
    )


def _image(read: _Reader) -> Image:
    read.only("name", "newName", "newTag", "digest", "tagSuffix")
    return Image(*(read.string(name) for name in ("name", "newName", "newTag", "digest", "tagSuffix")))


def _generator(read: _Reader, kind: str, common: Options) -> Generator:
    read.only("name", "namespace", "behavior", "type", "literals", "files", "envs", "env", "options")
    behavior = read.string("behavior")
    if behavior not in BEHAVIORS:
        raise BuildError(f"{read.where}.behavior: {behavior!r} is none of create, merge, replace")
    env = read.string("env")
    return Generator(
        kind,
        read.string("name"),
        read.string("namespace"),
        behavior,
        read.string("type"),
        read.strings("literals"),
        read.strings("files"),
        (*read.strings("envs"), *([env] if env else ())),
        _options(read.object("options")).over(common),
        read.where,
    )


def _options(read: _Reader) -> Options:
    read.only("labels", "annotations", "disableNameSuffixHash", "immutable")
    return Options(
        read.pairs("labels"),
        read.pairs("annotations"),
        read.boolean("disableNameSuffixHash"),
        read.boolean("immutable"),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes typed values out of an object; an error says where."""

    raw: Mapping[str, Any]
    where: str

    def _get(self, name: str, kind: type, empty: Callable[[], Any], shown: str) -> Any:
        value = self.raw.get(name)
        if value is None:
            return empty()
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BuildError(f"{self._at(name)}: expected {shown}, found {str(value)[:80]!r}")
        return value

    def _at(self, name: str) -> str:
        return f"{self.where}{'.' if ': ' in self.where else ': '}{name}"

    def only(self, *names: str) -> None:
        for name in self.raw:
            if name not in names:
                raise BuildError(f'{self.where}: unknown field "{name}"; expected one of {", ".join(names)}')

    def string(self, name: str) -> str:
        text: str = self._get(name, str, str, "a string")
        return text

    def boolean(self, name: str) -> bool:
        value: bool = self._get(name, bool, bool, "true or false")
        return value

    def integer(self, name: str) -> int:
        value: int = self._get(name, int, int, "an integer")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        values = self._get(name, list, list, "a list of strings")
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise BuildError(f"{self._at(name)}[{number}]: expected a string, found {str(value)[:80]!r}")
        return tuple(values)

    def pairs(self, name: str) -> dict[str, str]:
        values = self._get(name, dict, dict, "an object of strings")
        for key, value in values.items():
            if not isinstance(value, str):
                raise BuildError(f"{self._at(name)}.{key}: expected a string, found {value!r}; quote it")
        return {**values}

    def object(self, name: str) -> _Reader:
        return _Reader(self._get(name, dict, dict, "an object"), self._at(name))

    def objects(self, name: str) -> Iterator[_Reader]:
        for number, value in enumerate(self._get(name, list, list, "a list of objects")):
            where = f"{self._at(name)}[{number}]"
            if not isinstance(value, dict):
                raise BuildError(f"{where}: expected an object, found {str(value)[:80]!r}")
            yield _Reader(value, where)
