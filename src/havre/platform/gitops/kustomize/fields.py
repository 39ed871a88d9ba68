"""Where in an object a transformer works: field specs, their paths, and the walk along them. Pure.

Source: sigs.k8s.io/kustomize, api/types/fieldspec.go and api/filters/fieldspec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import Gvk, Resource

Change = Callable[[Any], Any]
"""From the value of a field (None when it is to be created) to its new value."""


ANY: Final = Gvk()


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """`path` of the objects that `gvk` selects; a part `name[]` is a list, as is any that holds one."""

    path: str
    gvk: Gvk = ANY
    create: bool = False

    @classmethod
    def of(cls, raw: Mapping[str, Any], where: str) -> FieldSpec:
        path = raw.get("path")
        if not isinstance(path, str) or not path:
            raise BuildError(f"{where}: path: a field spec needs one, such as spec/template/metadata/labels")
        gvk = Gvk(*(str(raw.get(part) or "") for part in ("group", "version", "kind")))
        return cls(path, gvk, raw.get("create") is True)


@lru_cache(4096)
def parts(path: str) -> tuple[str, ...]:
    r"""The names of a path; `\/` is a slash within a name."""
    pieces = path.strip("/").replace("\\/", "\0").split("/")
    return tuple(piece.replace("\0", "/") for piece in pieces)


def change(
    resource: Resource, specs: Iterable[FieldSpec], by: Change, *, empty: Callable[[], Any] | None = None
) -> None:
    """Puts `by(value)` for the value of every field that a spec names; `empty` makes one that is to be created."""
    gvk = resource.gvk
    for spec in specs:
        if spec.gvk.selects(gvk):
            walk(resource.obj, parts(spec.path), by, create=spec.create and empty is not None, where=spec.path)


def walk(node: Any, path: tuple[str, ...], by: Change, *, create: bool, where: str) -> None:
    if node is None:
        return
    if isinstance(node, list):
        for item in node:
            walk(item, path, by, create=create, where=where)
        return
    if not isinstance(node, dict):
        raise BuildError(f"considering field '{where}': expected sequence or mapping node, found {node!r}")
    name = path[0].removesuffix("[]")
    making = create and name == path[0]
    if node.get(name) is None:
        if not making:
            return
        if len(path) > 1:
            node[name] = {}
    if len(path) > 1:
        walk(node[name], path[1:], by, create=create, where=where)
        return
    node[name] = by(node.get(name))
