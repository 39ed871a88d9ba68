"""Which kinds there are: the wiring says how to ask, the controllers that look at every kind ask again when it changes.

Inside Havre the answer is the registry of the API server; elsewhere it is discovery.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from havre.api.kinds import Kind
from havre.api.meta import GVK

Discover = Callable[[], Awaitable[Sequence[Kind]]]
"""All served kinds, in the order of discovery. Raises DiscoveryFailed."""

DEFINITION = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")


class DiscoveryFailed(Exception):
    """Some groups did not answer; `kinds` has those that did."""

    def __init__(self, message: str, kinds: Sequence[Kind] = ()) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)


def once(kinds: Iterable[Kind], *verbs: str) -> list[Kind]:
    """One version of every kind whose objects know these verbs: the first, which is the preferred one."""
    chosen: dict[tuple[str, str], Kind] = {}
    for kind in kinds:
        if kind.stored and all(verb in kind.verbs for verb in verbs):
            chosen.setdefault((kind.storage_group, kind.plural), kind)
    return [*chosen.values()]
