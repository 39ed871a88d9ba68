"""The build: from files to objects, as `kustomize build` does it: nothing is run, nothing outside the files is read.

    build({"app/kustomization.yaml": b"resources: [cm.yaml]", "app/cm.yaml": …}, "app") -> [{"kind": "ConfigMap", …}]

Of every kustomization: resources, generators, components, then the transformers in their fixed order. Of the outermost
only, at the end: hash suffixes, references to names, local objects out. Nothing is sorted unless `sortOptions` says so.

Source: sigs.k8s.io/kustomize, api/internal/target and api/krusty, with the options of fluxcd/pkg, kustomize.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang import json, yaml
from havre.platform.gitops.kustomize import configuration, generate, names, order, patch, replace, tables, transform
from havre.platform.gitops.kustomize.configuration import Configuration
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.files import Files, resolve
from havre.platform.gitops.kustomize.patch import Patch
from havre.platform.gitops.kustomize.resource import LOCAL_CONFIG, Id, Resource, append, load, strings
from havre.platform.gitops.kustomize.spec import Kustomization, Label, PatchSource

MAX_DEPTH: Final = 64  # bases of bases; the deepest seen in public is 7
MAX_TARGETS: Final = 5_000  # kustomizations of one build, repeated ones counted each time
ORIGIN: Final = "config.kubernetes.io/origin"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
VERSION: Final = "kustomize-v5.8.2"  # what managedByLabel says: whose words these are


def build(files: Mapping[str, bytes], path: str) -> list[Obj]:
    """The objects of the kustomization in directory `path`. Raises BuildError."""
    state = _State(Files(files))
    try:
        resources = _Target.at(state, resolve("", path or ".", "path"), ()).accumulate([])
        return _finish(resources, state)
    except RecursionError as e:
        raise BuildError(f"{path}: objects or references nest too deeply") from e


def _finish(resources: list[Resource], state: _State) -> list[Obj]:
    for resource in resources:
        if resource.hashed:
            generate.add_hash(resource)
    names.fix(resources, state.configuration.names)
    kept = [each for each in resources if strings(each.obj, "annotations").get(LOCAL_CONFIG, "false") == "false"]
    if state.sort is not None:
        kept = order.sort(kept, state.sort)
    for resource in kept:
        _say_metadata(resource, state.metadata)
        _textual_annotations(resource.obj)
    return [each.obj for each in kept]


def _say_metadata(resource: Resource, wanted: Sequence[str]) -> None:
    meta = resource.obj["metadata"]
    if "originAnnotations" in wanted and resource.origin:
        meta["annotations"] = {**(meta.get("annotations") or {}), ORIGIN: _origin(resource.origin)}
    if "managedByLabel" in wanted:
        meta["labels"] = {**(meta.get("labels") or {}), MANAGED_BY: VERSION}


def _origin(origin: Obj) -> str:
    """As upstream writes it: not in the order of the keys."""
    first = {key: origin[key] for key in origin if key != "configuredBy"}
    return yaml.dump(first) + (yaml.dump({"configuredBy": origin["configuredBy"]}) if "configuredBy" in origin else "")


def _textual_annotations(obj: Obj) -> None:
    """A number or a word that stands unquoted is meant as its text."""
    found = obj["metadata"].get("annotations", ...)
    if isinstance(found, dict):
        for key, value in found.items():
            if not isinstance(value, str):
                found[key] = _go_text(value)
    if found is None or found == {}:
        del obj["metadata"]["annotations"]


def _go_text(value: Any) -> str:
    return "" if value is None else json.dumps(value).decode()


@dataclass(slots=True)
class _State:
    """What all targets of one build share."""

    files: Files
    configuration: Configuration = field(default_factory=Configuration)
    parsed: dict[str, Kustomization] = field(default_factory=dict)
    loaded: dict[str, list[Obj]] = field(default_factory=dict)
    targets: int = 0
    metadata: Sequence[str] = ()
    sort: Mapping[str, Any] | None = None

    def manifests(self, path: str, where: str) -> list[Obj]:
        """The objects of a file, the caller's own; parsed once."""
        if path not in self.loaded:
            self.loaded[path] = load(self.files.read(path, where), path)
            return json.copied(self.loaded[path])  # type: ignore[no-any-return]
        return json.copied(self.loaded[path])  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Target:
    """One kustomization of the tree."""

    state: _State
    directory: str
    said: Kustomization
    above: tuple[str, ...]  # directories from the outermost down to here

    @classmethod
    def at(cls, state: _State, directory: str, above: tuple[str, ...]) -> _Target:
        state.targets += 1
        if state.targets > MAX_TARGETS:
            raise BuildError(f"{directory}: more than {MAX_TARGETS} kustomizations in one build")
        if len(above) >= MAX_DEPTH:
            raise BuildError(f"{directory}: bases nest more than {MAX_DEPTH} deep")
        if directory not in state.parsed:
            file = state.files.kustomization(directory)
            if file is None:
                raise BuildError(
                    f"unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' "
                    f"in directory '{directory or '.'}'"
                )
            state.parsed[directory] = Kustomization.parse(state.files.read(file, "path"), file)
        target = cls(state, directory, state.parsed[directory], (*above, directory))
        if not above:
            state.metadata, state.sort = target.said.build_metadata, target.said.sort
        return target

    # gathering

    def accumulate(self, resources: list[Resource]) -> list[Resource]:
        """`resources` with what this kustomization brings, all of it transformed; for a component, the parent's too."""
        taken = {each.id for each in resources}
        for number, path in enumerate(self.said.resources):
            self._add(resources, path, f"{self.said.file}: resources[{number}]", taken)
        for number, path in enumerate(self.said.configurations):
            file = self._path(path, f"{self.said.file}: configurations[{number}]")
            raw = self.state.files.read(file, f"{self.said.file}: configurations[{number}]")
            self.state.configuration = configuration.extended(self.state.configuration, raw, file)
        for generator in self.said.generators:
            made = generate.generate(generator, self._read)
            made.origin = self._made_here(generator.kind)
            generate.absorb(resources, made, generator.where)
        for number, path in enumerate(self.said.components):
            resources = self._component(resources, path, f"{self.said.file}: components[{number}]")
        self._transform(resources)
        return resources

    def _add(self, resources: list[Resource], path: str, where: str, taken: set[Id]) -> None:
        at = self._path(path, where)
        if self.state.files.has(at):
            origin = {"path": posixpath.relpath(at, self.above[0] or ".")}
            objects = self.state.manifests(at, where)
            append(resources, [Resource(obj, origin=origin) for obj in objects], f"{where}: '{path}'", taken)
        elif self.state.files.is_directory(at):
            append(resources, self._below(at, where, component=False).accumulate([]), f"{where}: '{path}'", taken)
        else:
            raise BuildError(f"{where}: '{path}': no such file or directory")

    def _component(self, resources: list[Resource], path: str, where: str) -> list[Resource]:
        at = self._path(path, where)
        if not self.state.files.is_directory(at):
            raise BuildError(f"{where}: '{path}': no such directory")
        return self._below(at, where, component=True).accumulate(resources)

    def _below(self, directory: str, where: str, *, component: bool) -> _Target:
        for visited in self.above:
            if visited == directory or not directory or visited.startswith(f"{directory}/"):
                raise BuildError(
                    f"{where}: cycle detected: candidate root '{directory or '.'}' contains visited root '{visited}'"
                )
        try:
            target = _Target.at(self.state, directory, self.above)
        except BuildError as e:
            raise BuildError(f"{where}: {e}") from e
        if component != target.said.component:
            wanted = "Component" if component else "Kustomization"
            raise BuildError(f"{where}: expected kind '{wanted}' for path '{directory}'")
        return target

    def _path(self, path: str, where: str) -> str:
        return resolve(self.directory, path, where)

    def _read(self, path: str, where: str) -> bytes:
        return self.state.files.read(self._path(path, where), where)

    def _made_here(self, kind: str) -> Obj:
        return {
            "configuredIn": posixpath.relpath(self.said.file, self.above[0] or "."),
            "configuredBy": {"apiVersion": "builtin", "kind": f"{kind}Generator"},
        }

    # transforming, in upstream's order

    def _transform(self, resources: list[Resource]) -> None:
        said, known = self.said, self.state.configuration
        for source in (*said.merges, *said.patches):
            patch.apply(resources, self._patch(source))
        if said.namespace:
            transform.namespace(resources, said.namespace, specs=known.namespaces)
        if said.prefix:
            transform.prefix(resources, said.prefix, known.prefixes)
        if said.suffix:
            transform.suffix(resources, said.suffix, known.suffixes)
        for label in said.labels:
            transform.pairs(resources, label.pairs, _reach(label, known))
        transform.pairs(resources, said.common_labels, known.common_labels)
        transform.pairs(resources, said.common_annotations, known.annotations)
        for source in said.operations:
            patch.apply(resources, self._patch(source))
        for name, count in said.replicas:
            transform.replicas(resources, name, count)
        for image in said.images:
            transform.images(resources, image, known.images)
        for number, raw in enumerate(said.replacements):
            self._replace(resources, raw, f"{said.file}: replacements[{number}]")
        for number, text in enumerate(said.transformers):
            self._transformer(resources, text, f"{said.file}: transformers[{number}]")

    def _patch(self, source: PatchSource) -> Patch:
        text, path = source.text, source.path
        if source.either:
            inline = "\n" in source.either or ":" in source.either
            text, path = (source.either, "") if inline else ("", source.either)
        raw = self._read(path, source.where) if path else text.encode()
        where = f"{source.where}: {path}" if path else source.where
        return Patch(raw, where, source.target, source.rename, source.retype)

    def _replace(self, resources: list[Resource], raw: Mapping[str, Any], where: str) -> None:
        if "path" not in raw:
            replace.apply(resources, raw, where)
            return
        path = str(raw["path"])
        try:
            value = yaml.load(self._read(path, where))
        except yaml.YAMLError as e:
            raise BuildError(f"{where}: {path}: {e}") from e
        entries = value if isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise BuildError(f"{where}: {path}: expected a replacement, found {entry!r}")
            replace.apply(resources, entry, f"{path}[{number}]")

    def _transformer(self, resources: list[Resource], text: str, where: str) -> None:
        inline = "\n" in text or ": " in text
        raw = text.encode() if inline else self._read(text, where)
        for config in load(raw, where if inline else text):
            configuration.run(resources, config, where, self._read)


def _reach(label: Label, known: Configuration) -> tuple[FieldSpec, ...]:
    specs = label.specs
    if label.selectors:
        return (*specs, *known.common_labels)
    if label.templates:
        specs = (*specs, *tables.TEMPLATE_LABELS)
    if label.volume_claims:
        specs = (*specs, *tables.VOLUME_CLAIM_LABELS)
    return (*specs, tables.METADATA_LABELS)
