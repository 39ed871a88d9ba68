"""Which entry of an index runs here.

A machine accepts a list of platforms, best first: arm64 also runs `arm64/v8` and 32-bit arm, amd64 also 386, as
containerd orders them. `v1` of amd64 and `v8` of arm64 mean the same as no variant. Attestations say
`unknown/unknown` and so are never chosen.

Source: containerd/platforms, compare.go and database.go.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
}
_ARCHITECTURES |= {"i686": "386", "armv7l": "arm", "armv6l": "arm"}
_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor, in Go's words."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def normal(self) -> Platform:
        """Without synonyms, so that equal platforms compare equal."""
        architecture = _ARCHITECTURES.get(self.architecture.lower(), self.architecture.lower())
        variant = self.variant.lower()
        if variant[:1].isdigit():
            variant = f"v{variant}"
        if variant == _DEFAULT_VARIANT.get(architecture):
            variant = ""
        return Platform(self.os.lower(), architecture, variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def this_machine() -> Platform:
    return Platform("linux", os.uname().machine).normal()


def accepted(platform: Platform) -> tuple[Platform, ...]:
    """What runs on `platform`, best first."""
    own = platform.normal()
    more: tuple[Platform, ...] = ()
    if own.architecture == "arm64":
        more = (Platform(own.os, "arm64"), *_arms(own.os, 8))
    elif own.architecture == "arm":
        number = own.variant[1:] or "7"
        more = _arms(own.os, int(number) if number.isdigit() and len(number) == 1 else 7)
    elif own.architecture == "amd64":
        level = own.variant[1:]
        lower = range(int(level) - 1, 1, -1) if level.isdigit() and len(level) == 1 else ()
        levels = [Platform(own.os, "amd64", f"v{n}") for n in lower]
        more = (*levels, Platform(own.os, "amd64"), Platform(own.os, "386"))
    return tuple(dict.fromkeys((own, *more)))


def _arms(system: str, highest: int) -> tuple[Platform, ...]:
    return tuple(Platform(system, "arm", f"v{n}").normal() for n in range(highest, 4, -1))


def best(candidates: Sequence[Platform | None], wanted: Platform) -> int | None:
    """The index of the candidate that suits `wanted` best; of equal ones the first. None when nothing runs there."""
    order = {platform: rank for rank, platform in enumerate(accepted(wanted))}
    ranked: Iterable[tuple[int, int]] = (
        (order[normal], index)
        for index, candidate in enumerate(candidates)
        if candidate is not None and (normal := candidate.normal()) in order
    )
    return min(ranked, default=(0, None))[1]
