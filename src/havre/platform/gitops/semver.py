"""Versions and version ranges as Flux reads them: Semantic Versioning 2, with the constraints of Masterminds/semver.

A pre-release satisfies a range only if the range itself names one: `>=1.0.0-0`. Build metadata is shown, not compared.

Source: semver.org 2.0.0; github.com/Masterminds/semver/v3 (constraints.go, behaviour); fluxcd/pkg, version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final

MAX_LENGTH = 256  # characters of a version: Masterminds' own limit
MAX_CONSTRAINT = 1024  # characters; matching is quadratic in them
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"v?(\d+)\.(\d+)\.(\d+)(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?", re.ASCII)
_PARTIAL = rf"v?(\d+|[xX*])(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?"
_TERM = re.compile(rf"(=|!=|>=|=>|<=|=<|>|<|~>|~|\^|)\s*{_PARTIAL}(?:\s*,?\s*(?=\S)|\s+|$)", re.ASCII)
_HYPHEN = re.compile(rf"\s*({_PARTIAL})\s+-\s+({_PARTIAL})\s*", re.ASCII)
_ANY: Final = ("x", "X", "*")
_STRICT: Final = ("!=", ">", "<=", "=<", "^")  # with these, upstream reads `*` as 0.0.0


class InvalidVersion(ValueError):
    """Text that is no version, or no range."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version; equal when nothing but build metadata differs."""

    major: int
    minor: int
    patch: int
    pre: str = ""
    build: str = ""
    text: str = ""  # as it was written

    @classmethod
    def parse(cls, text: str) -> Version:
        """A whole version, a leading `v` allowed. Raises InvalidVersion."""
        match = _VERSION.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            raise InvalidVersion(f"{text[:80]!r} is not a semantic version")
        major, minor, patch, pre, build = match.groups()
        padded = [part for part in (major, minor, patch) if len(part) > 1 and part[0] == "0"]
        padded += [part for part in (pre or "").split(".") if part.isdigit() and len(part) > 1 and part[0] == "0"]
        if padded:
            raise InvalidVersion(f"{text[:80]!r} is not a semantic version: {padded[0]} begins with a zero")
        return cls(int(major), int(minor), int(patch), pre or "", build or "", text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key() == other._key()

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash((self.major, self.minor, self.patch, self.pre))

    def __str__(self) -> str:
        return self.text or f"{self.major}.{self.minor}.{self.patch}"

    def _key(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        """A release is after its pre-releases; numbers are before words."""
        parts = tuple(_identifier(part) for part in self.pre.split(".")) if self.pre else ()
        return self.major, self.minor, self.patch, not self.pre, parts


def _identifier(part: str) -> tuple[bool, int, str]:
    return (False, int(part), "") if part.isdigit() else (True, 0, part)


@dataclass(frozen=True, slots=True)
class _Term:
    """One comparison; `parts` is how many numbers were given: `1.x` has one."""

    operator: str
    base: Version
    parts: int

    def holds(self, version: Version) -> bool:
        base, parts = self.base, self.parts
        match self.operator:
            case "" | "=":
                return version == base if parts == 3 else self._tilde(version)
            case "!=":
                return not (version == base if parts == 3 else self._prefix(version))
            case ">":
                return version > base if parts == 3 else version >= base and not self._prefix(version)
            case "<":
                return version < base
            case ">=" | "=>":
                return version >= base
            case "<=" | "=<":
                return version <= base or (parts < 3 and self._prefix(version))
            case "^":
                return self._caret(version)
            case _:
                return self._tilde(version)

    def _prefix(self, version: Version) -> bool:
        given = (self.base.major, self.base.minor, self.base.patch)[: self.parts]
        return (version.major, version.minor, version.patch)[: self.parts] == given

    def _tilde(self, version: Version) -> bool:
        """The patch may grow, or what was not given."""
        base = self.base
        if version < base:
            return False
        if self.parts == 0 or (self.parts == 3 and (base.major, base.minor, base.patch) == (0, 0, 0)):
            return True
        return version.major == base.major and (self.parts == 1 or version.minor == base.minor)

    def _caret(self, version: Version) -> bool:
        """Nothing left of the first number that is not zero may change."""
        base = self.base
        if version < base or self.parts == 0:
            return version >= base
        if base.major or self.parts == 1:
            return version.major == base.major
        if base.minor or self.parts == 2:
            return (version.major, version.minor) == (0, base.minor)
        return (version.major, version.minor, version.patch) == (0, 0, base.patch)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A range: alternatives, of terms that must all hold."""

    alternatives: tuple[tuple[_Term, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """`>=1.2 <2`, `1.x || ^3.1`, `1.2 - 1.4`. Raises InvalidVersion."""
        if len(text) > MAX_CONSTRAINT:
            raise InvalidVersion("improper constraint: too long")
        return cls(tuple(_terms(part, text) for part in text.split("||")))

    def allows(self, version: Version) -> bool:
        return any(
            all(term.holds(version) for term in terms)
            for terms in self.alternatives
            if not version.pre or any(term.base.pre for term in terms)
        )


def _terms(text: str, whole: str) -> tuple[_Term, ...]:
    text = _HYPHEN.sub(lambda match: f" >={match.group(1)} <={match.group(7)} ", text).strip()
    terms, position = [], 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None:
            break
        terms.append(_term(*match.groups()))
        position = match.end()
    if not terms or position < len(text):
        raise InvalidVersion(f"improper constraint: {whole[:80]}")
    return tuple(terms)


def _term(operator: str, major: str, minor: str | None, patch: str | None, pre: str | None, build: str | None) -> _Term:
    numbers: list[int] = []
    for part in (major, minor, patch):
        if part is None or part in _ANY:
            break
        numbers.append(int(part))
    full = [*numbers, 0, 0, 0]
    whole = not numbers and operator in _STRICT
    return _Term(operator, Version(full[0], full[1], full[2], pre or "", build or ""), 3 if whole else len(numbers))
