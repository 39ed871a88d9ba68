"""What the server fills into an object of a built-in kind before anyone looks at it: defaults, and the canonical form.

`apply_defaults` makes one walk over the object, in place, idempotent: a second walk changes nothing.

shapes.py     the walk: empty fields, quantities and times as Go stores them; calls the hook of each type
core.py workloads.py cluster.py   hooks: the defaults of each type      amounts.py   sums of resources

Source: k8s.io/kubernetes, pkg/apis/*/*/defaults.go and zz_generated.defaults.go.
"""

from __future__ import annotations

from typing import Any

from havre.api.crd import default_crd
from havre.api.defaults import cluster, core, workloads
from havre.api.defaults.shapes import Compiler, Walk
from havre.api.meta import Obj

__all__ = ["apply_defaults"]

_compiler = Compiler({**core.HOOKS, **workloads.HOOKS, **cluster.HOOKS})
_walks: dict[tuple[str, str], Walk | None] = {}


def apply_defaults(obj: Obj) -> None:
    """Set the defaults of `obj`, in place, by its apiVersion and kind; kinds that are not built in stay as they are."""
    key = obj.get("apiVersion", ""), obj.get("kind", "")
    if key not in _walks and len(_walks) < _KINDS_MAX:
        _walks[key] = _walk_of(*key)
    walk = _walks.get(key)
    if walk is None:
        return
    try:
        walk(obj)
    except (AttributeError, TypeError):  # an element of a list is null, as good as empty: rare, so found by stumbling
        _fill_null_elements(obj)
        walk(obj)


def _fill_null_elements(value: Any) -> None:
    """Put an empty structure, or an empty text among texts, in place of each null in a list."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, list) and None in value:
        is_text = any(isinstance(item, str) for item in value)
        value[:] = [("" if is_text else {}) if item is None else item for item in value]
    for child in children:
        _fill_null_elements(child)


def _definition(obj: Obj) -> Obj:
    default_crd(obj)
    if not obj["spec"].get("preserveUnknownFields"):
        obj["spec"].pop("preserveUnknownFields", None)  # false is what an absent one means
    return obj


_KINDS_MAX = 512  # built-in kinds are 66; custom ones are remembered as having no walk, up to a bound


def _walk_of(api_version: str, kind: str) -> Walk | None:
    if (api_version, kind) == ("apiextensions.k8s.io/v1", "CustomResourceDefinition"):
        return _definition
    return _compiler.root(api_version, kind)
