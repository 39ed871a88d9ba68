"""Which objects a patch or a replacement means: the selector of kustomize. Pure.

Every part is a whole-text regular expression, matched in linear time; a name or namespace counts if the object has it
or had it when it was read.

Source: sigs.k8s.io/kustomize, api/types/selector.go and api/resmap (Select).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from havre.lang.selector import LabelSelector, SelectorError
from havre.lang.structural.regex import PatternError, matcher
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import CLUSTER, Gvk, Id, Resource, strings

PARTS = ("group", "version", "kind", "name", "namespace", "labelSelector", "annotationSelector")


@dataclass(frozen=True, slots=True)
class Selector:
    """All parts must match; an absent one matches everything."""

    gvk: tuple[Callable[[str], bool], Callable[[str], bool], Callable[[str], bool]]
    name: Callable[[str], bool]
    namespace: Callable[[str], bool]
    labels: LabelSelector
    annotations: LabelSelector
    names_something: bool  # has any part beside the selectors of labels and annotations

    @classmethod
    def of(cls, raw: Mapping[str, Any], where: str) -> Selector:
        for key in raw:
            if key not in PARTS and key != "apiVersion":
                raise BuildError(f'{where}: unknown field "{key}"; a selector has {", ".join(PARTS)}')
        texts = {part: _text(raw, part, where) for part in PARTS}
        group, version, kind, name, namespace = (_pattern(texts[part], f"{where}: {part}") for part in PARTS[:5])
        return cls(
            (group, version, kind),
            name,
            namespace,
            _labels(texts["labelSelector"], f"{where}: labelSelector"),
            _labels(texts["annotationSelector"], f"{where}: annotationSelector"),
            any(texts[part] for part in PARTS[:5]),
        )

    def selects(self, resource: Resource) -> bool:
        now, before = resource.id, resource.original
        return (
            self.fits(now.gvk)
            and (self.name(now.name) or self.name(before.name))
            and (self.namespace(now.namespace) or self.namespace(before.namespace))
            and self.words(resource)
        )

    def fits(self, gvk: Gvk) -> bool:
        return all(matches(text) for matches, text in zip(self.gvk, gvk, strict=True))

    def identifies(self, id: Id, namespace: str) -> bool:
        return self.fits(id.gvk) and self.name(id.name) and self.namespace("" if namespace == CLUSTER else namespace)

    def words(self, resource: Resource) -> bool:
        return self.labels.matches(_texts(resource, "labels")) and self.annotations.matches(
            _texts(resource, "annotations")
        )


def _texts(resource: Resource, name: str) -> dict[str, str]:
    return {key: str(value) for key, value in strings(resource.obj, name).items()}


def _text(raw: Mapping[str, Any], part: str, where: str) -> str:
    value = raw.get(part)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BuildError(f"{where}: {part}: expected a string, found {value!r}")
    return value


def _anything(_: str) -> bool:
    return True


def _pattern(text: str, where: str) -> Callable[[str], bool]:
    if not text:
        return _anything
    if text.replace("-", "").isalnum():  # nearly always: a name is its own pattern
        return text.__eq__
    try:
        return matcher(f"^(?:{text})$")
    except PatternError as e:
        raise BuildError(f"{where}: {e}") from e


def _labels(text: str, where: str) -> LabelSelector:
    try:
        return LabelSelector.parse(text)
    except SelectorError as e:
        raise BuildError(f"{where}: {text!r}: {e}") from e
