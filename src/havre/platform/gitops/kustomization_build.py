"""From an artifact and the spec of a Kustomization to the objects that are to be applied. No API, no clock.

What the spec overrides is written into the kustomization file of its path, which is made up if there is none: then
every manifest below is a resource, and a directory with a kustomization of its own is one as a whole. After the build
come variables, then common metadata.

Source: fluxcd/pkg, kustomize (kustomize_generator.go, kustomize_varsub.go); fluxcd/kustomize-controller.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from havre.api.meta import Obj, annotations_of, labels_of
from havre.lang import yaml
from havre.lang.envsubst import SubstitutionError, substitute
from havre.platform.gitops.kustomize import BuildError, build
from havre.platform.gitops.kustomize.files import Files, resolve
from havre.platform.gitops.kustomize.resource import load

MAX_FILES: Final = 100_000  # of an artifact
MAX_FILE: Final = 64 * 1024 * 1024  # bytes of one file that a build reads
SUBSTITUTE: Final = "kustomize.toolkit.fluxcd.io/substitute"
_is_variable = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*").fullmatch


class Tree(Mapping[str, bytes]):
    """The files below a directory, read when they are asked for; a link out of it is no file."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._paths: dict[str, Path] = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink() or path.resolve().is_relative_to(self._root):
                    self._paths[path.relative_to(self._root).as_posix()] = path
            if len(self._paths) > MAX_FILES:
                raise BuildError(f"the artifact has more than {MAX_FILES} files; exclude what is not needed")

    def __getitem__(self, path: str) -> bytes:
        found = self._paths[path]
        if found.stat().st_size > MAX_FILE:
            raise BuildError(f"{path}: the file has more than {MAX_FILE} bytes")
        return found.read_bytes()

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


class _Over(Mapping[str, bytes]):
    """Files with one of them replaced."""

    def __init__(self, files: Mapping[str, bytes], path: str, content: bytes) -> None:
        self._files, self._path, self._content = files, path, content

    def __getitem__(self, path: str) -> bytes:
        return self._content if path == self._path else self._files[path]

    def __contains__(self, path: object) -> bool:
        return path == self._path or path in self._files

    def __iter__(self) -> Iterator[str]:
        yield from (path for path in self._files if path != self._path)
        yield self._path

    def __len__(self) -> int:
        return len(self._files) + (self._path not in self._files)


class PathNotFound(BuildError):
    """`spec.path` is not in the artifact."""


def objects_of(files: Mapping[str, bytes], spec: Mapping[str, Any], variables: Mapping[str, str]) -> list[Obj]:
    """Everything between the artifact and the apply. Raises BuildError."""
    tree = Files(files)
    directory = resolve("", str(spec.get("path") or "."), "spec.path")
    if not tree.is_directory(directory):
        raise PathNotFound(f"kustomization path not found: {spec.get('path')}: no such file or directory")
    path, said = _kustomization(tree, directory)
    said = overridden(said, spec, lambda component: tree.is_directory(resolve(directory, component, "spec.components")))
    if not said.keys() - {"apiVersion", "kind", "namespace", "namePrefix", "nameSuffix", "buildMetadata", "metadata"}:
        return []
    built = build(_Over(files, path, yaml.dump(said).encode()), directory or ".")
    return [common(_substituted(obj, spec, variables), spec) for obj in map(_checked, built)]


def _checked(obj: Obj) -> Obj:
    if not obj.get("apiVersion") or not obj.get("kind") or not obj["metadata"].get("name"):
        raise BuildError(f"failed to decode Kubernetes apiVersion, kind and name from: {str(obj)[:200]}")
    obj.pop("status", None)
    if obj["metadata"].get("creationTimestamp", ...) is None:
        del obj["metadata"]["creationTimestamp"]
    return obj


# the kustomization file


def _kustomization(files: Files, directory: str) -> tuple[str, Obj]:
    found = files.kustomization(directory)
    if found is None:
        return posixpath.join(directory, "kustomization.yaml"), {"resources": list(scan(files, directory))}
    try:
        said = yaml.load(files.read(found, "spec.path"))
    except yaml.YAMLError as e:
        raise BuildError(f"{found}: invalid Kustomization: {e}") from e
    if not isinstance(said, dict):
        raise BuildError(f"{found}: kustomization.yaml is empty")
    return found, said


def scan(files: Files, directory: str) -> Iterator[str]:
    """What a made-up kustomization lists. Raises BuildError for a manifest that is none."""
    units: set[str] = set()
    for path in files.under(directory):
        unit = _unit(files, directory, path)
        if unit:
            if unit not in units:
                units.add(unit)
                yield posixpath.relpath(f"/{unit}", f"/{directory}")
        elif path.endswith((".yaml", ".yml")):
            try:
                load(files.read(path, "spec.path"), path)
            except BuildError as e:
                raise BuildError(f"failed to decode Kubernetes YAML from {e}") from e
            yield posixpath.relpath(f"/{path}", f"/{directory}")


def _unit(files: Files, top: str, path: str) -> str:
    """The uppermost directory between `top` and the file that has a kustomization; "" if none."""
    below = posixpath.dirname(path)[len(top) :].strip("/")
    current = top
    for part in below.split("/") if below else ():
        current = posixpath.join(current, part)
        if files.kustomization(current):
            return current
    return ""


def overridden(said: Obj, spec: Mapping[str, Any], exists: Any) -> Obj:
    """The kustomization file with what the spec adds and replaces. Pure."""
    new = dict(said)
    for name, field in (("namespace", "targetNamespace"), ("namePrefix", "namePrefix"), ("nameSuffix", "nameSuffix")):
        if spec.get(field):
            new[name] = spec[field]
    for patch in spec.get("patches") or ():
        new["patches"] = [*(new.get("patches") or ()), {key: patch[key] for key in ("patch", "target") if key in patch}]
    for image in spec.get("images") or ():
        new["images"] = _with_image(new.get("images") or [], image)
    for component in spec.get("components") or ():
        if str(component).startswith("/") or "://" in str(component):
            raise BuildError(f"spec.components: component path '{component}' must be local and relative")
        if spec.get("ignoreMissingComponents") is True and not exists(str(component)):
            continue
        new["components"] = [*(new.get("components") or ()), component]
    if spec.get("buildMetadata"):
        new["buildMetadata"] = spec["buildMetadata"]
    return new


def _with_image(images: list[Any], image: Mapping[str, Any]) -> list[Any]:
    """Tag and digest are one thing: who sets one clears the other."""
    at = next(
        (i for i, each in enumerate(images) if isinstance(each, dict) and each.get("name") == image["name"]), None
    )
    if at is None:
        return [*images, dict(image)]
    merged = dict(images[at])
    if image.get("newName"):
        merged["newName"] = image["newName"]
    if image.get("newTag") or image.get("digest"):
        merged.pop("newTag", None)
        merged.pop("digest", None)
        merged.update({key: image[key] for key in ("newTag", "digest") if image.get(key)})
    return [*images[:at], merged, *images[at + 1 :]]


# after the build


def _substituted(obj: Obj, spec: Mapping[str, Any], variables: Mapping[str, str]) -> Obj:
    post = spec.get("postBuild")
    if post is None or (not variables and post.get("substituteStrategy") != "Always"):
        return obj
    if "disabled" in (labels_of(obj).get(SUBSTITUTE), annotations_of(obj).get(SUBSTITUTE)):
        return obj
    where = f"post build failed for '{obj['kind']}/{obj['metadata']['name']}': envsubst error"
    for name in variables:
        if not _is_variable(name):
            raise BuildError(
                f"{where}: '{name}' var name is invalid, must match '^[_[:alpha:]][_[:alpha:][:digit:]]*$'"
            )
    text = yaml.dump(obj)
    try:
        new = substitute(text, variables)
        made = obj if new is text else yaml.load(new)
    except SubstitutionError as e:
        raise BuildError(f"{where}: variable substitution failed: {e}") from e
    except yaml.YAMLError as e:
        raise BuildError(f"{where}: YAMLToJSON: {e}") from e
    if not isinstance(made, dict) or not isinstance(made.get("metadata"), dict) or not made["metadata"].get("name"):
        raise BuildError(f"{where}: the substituted text is no object with a name any more")
    return made


def common(obj: Obj, spec: Mapping[str, Any]) -> Obj:
    """With the labels and annotations that all get."""
    wanted = spec.get("commonMetadata") or {}
    meta = obj["metadata"]
    more = {name: {**(meta.get(name) or {}), **wanted[name]} for name in ("labels", "annotations") if wanted.get(name)}
    return {**obj, "metadata": {**meta, **more}} if more else obj


def is_encrypted(obj: Obj) -> bool:
    """A Secret that SOPS has encrypted."""
    if obj["kind"] != "Secret" or "sops" not in obj:
        return False
    return annotations_of(obj).get("kustomize.toolkit.fluxcd.io/decrypt", "").lower() != "disabled"
