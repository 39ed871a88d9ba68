"""Which files belong to an artifact: patterns of gitignore, from `spec.ignore` and from `.sourceignore` files.

The rules are those of Flux, which differ from git's: the last pattern that matches a path decides, and a pattern that
matches a directory matches everything in it, so a file can be brought back by `!` although its directory is left out.
With any pattern of one's own the built-in ones (pictures, archives, CI files) are off; Git's own files stay out.

Source: fluxcd/pkg, sourceignore and its fork of go-git's gitignore; path/filepath.Match of Go for one component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

IGNORE_FILE: Final = ".sourceignore"
IGNORE_BYTES = 1 << 20  # of all ignore files of a tree
PATTERNS = 10_000
_VCS = (".git/", ".gitignore", ".gitmodules", ".gitattributes")
_EXTENSIONS = ("*.jpg", "*.jpeg", "*.gif", "*.png", "*.wmv", "*.flv", "*.tar.gz", "*.zip")
_CI = (
    ".github/",
    ".circleci/",
    ".travis.yml",
    ".gitlab-ci.yml",
    "appveyor.yml",
    ".drone.yml",
    "cloudbuild.yaml",
    "codeship-services.yml",
    "codeship-steps.yml",
)
_EXTRA = ("**/.goreleaser.yml", "**/.sops.yaml", "**/.flux.yaml")


class IgnoreError(ValueError):
    """Too many patterns."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line, valid below the directory `domain`."""

    domain: tuple[str, ...]
    parts: tuple[str, ...]
    include: bool  # `!`
    directory: bool  # ends in a slash
    anchored: bool  # has a slash elsewhere

    @classmethod
    def parse(cls, line: str, domain: tuple[str, ...] = ()) -> Pattern:
        include = line.startswith("!")
        text = line[1:] if include else line
        text = text if text.endswith("\\ ") else text.rstrip(" ")
        directory = text.endswith("/")
        text = text[:-1] if directory else text
        return cls(domain, tuple(text.split("/")), include, directory, "/" in text)

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether it speaks of this file, or of a directory above it."""
        depth = len(self.domain)
        if len(path) <= depth or path[:depth] != self.domain:
            return False
        return self._anchored(path[depth:]) if self.anchored else self._named(path[depth:])

    def _named(self, path: tuple[str, ...]) -> bool:
        for number, name in enumerate(path, 1):
            if glob(self.parts[0], name):
                return not (self.directory and number == len(path))
        return False

    def _anchored(self, path: tuple[str, ...]) -> bool:
        """Component by component; `**` passes over directories until its successor is found."""
        position, matched, roaming = 0, False, False
        for number, part in enumerate(self.parts):
            if part == "":
                roaming = False
                continue
            if part == "**":
                if number == len(self.parts) - 1:
                    break
                roaming = True
                continue
            if "**" in part or position == len(path):
                return False
            if not roaming:
                if not glob(part, path[position]):
                    return False
                matched, position = True, position + 1
                continue
            roaming = False
            at = next((n for n in range(position, len(path)) if glob(part, path[n])), None)
            matched = at is not None
            position = len(path) if at is None else at + 1
        return matched and not (self.directory and position == len(path))


class Ignore:
    """Decides about paths."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        own = [*patterns]
        if len(own) > PATTERNS:
            raise IgnoreError(f"more than {PATTERNS} ignore patterns")
        built_in = _VCS if own else (*_VCS, *_EXTENSIONS, *_CI, *_EXTRA)
        self._patterns = [*map(Pattern.parse, built_in), *own][::-1]

    def wanted(self, path: str) -> bool:
        parts = tuple(path.split("/"))
        decided = next((pattern for pattern in self._patterns if pattern.matches(parts)), None)
        return decided is None or decided.include


def ignore_of(files: Mapping[str, bytes], spec: str | None) -> Ignore:
    """Of the `.sourceignore` files of a tree, by path, and of `spec.ignore`, which comes last. Raises IgnoreError."""
    found: list[Pattern] = []
    for path in sorted(files, key=lambda path: path.split("/")[:-1]):
        found += patterns(files[path].decode(errors="replace"), tuple(path.split("/")[:-1]))
    return Ignore([*found, *patterns(spec or "")])


def patterns(text: str, domain: tuple[str, ...] = ()) -> list[Pattern]:
    return [Pattern.parse(line, domain) for line in text.splitlines() if line.strip() and not line.startswith("#")]


# one component

_Token = tuple[str, bool, tuple[tuple[str, str], ...]]  # kind (`*`, `?`, `[`), negated, ranges
_STAR: Final[_Token] = ("*", False, ())
_ONE: Final[_Token] = ("?", False, ())


def glob(pattern: str, name: str) -> bool:
    """`*`, `?`, `[a-z]`, `[^a]`, backslash; a broken pattern matches nothing. Steps: pattern × name at most."""
    tokens = _tokens(pattern)
    if tokens is None:
        return False
    at = back = mark = 0
    star = -1
    while back < len(name):
        if at < len(tokens) and tokens[at][0] == "*":
            star, mark, at = at, back, at + 1
        elif at < len(tokens) and _one(tokens[at], name[back]):
            at, back = at + 1, back + 1
        elif star >= 0:
            mark += 1
            at, back = star + 1, mark
        else:
            return False
    return all(token[0] == "*" for token in tokens[at:])


def _one(token: _Token, char: str) -> bool:
    kind, negated, ranges = token
    return kind == "?" or any(low <= char <= high for low, high in ranges) != negated


@lru_cache(maxsize=4096)
def _tokens(pattern: str) -> tuple[_Token, ...] | None:
    """None: broken."""
    tokens: list[_Token] = []
    rest = pattern
    while rest:
        head, rest = rest[0], rest[1:]
        if head == "*":
            tokens.append(_STAR)
        elif head == "?":
            tokens.append(_ONE)
        elif head == "[":
            parsed = _class(rest)
            if parsed is None:
                return None
            token, rest = parsed
            tokens.append(token)
        else:
            if head == "\\":
                if not rest:
                    return None
                head, rest = rest[0], rest[1:]
            tokens.append(("=", False, ((head, head),)))
    return tuple(tokens)


def _class(rest: str) -> tuple[_Token, str] | None:
    negated = rest.startswith("^")
    rest = rest[1:] if negated else rest
    ranges: list[tuple[str, str]] = []
    while rest and not (rest[0] == "]" and ranges):
        low, rest = _letter(rest)
        high = low
        if low and rest.startswith("-"):
            high, rest = _letter(rest[1:])
        if not low or not high:
            return None
        ranges.append((low, high))
    return (("[", negated, tuple(ranges)), rest[1:]) if rest else None


def _letter(rest: str) -> tuple[str, str]:
    """The next character of a class and what follows; "" where there cannot be one."""
    if rest.startswith("\\"):
        rest = rest[1:]
        return rest[:1], rest[1:]
    return ("", rest) if rest[:1] in ("", "-", "]") else (rest[0], rest[1:])
