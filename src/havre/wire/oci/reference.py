"""Names of images: `[registry/]repository[:tag][@digest]`, with Docker's defaults for what is left out.

    Reference.parse("nginx")                     docker.io/library/nginx:latest
    Reference.parse("127.0.0.1:5000/a/b:1")      127.0.0.1:5000/a/b:1
    Reference.parse("quay.io/x@sha256:…")        quay.io/x@sha256:…, without a tag

The first component is a registry when it holds a dot, a colon or an upper-case letter, or is `localhost`.

Source: distribution/reference, regexp.go and normalize.go (the grammar, the limit of 255, the defaults).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from havre.wire.oci.digest import Digest, parse_digest
from havre.wire.oci.errors import InvalidReference

DOCKER_HUB = "docker.io"
LATEST = "latest"
MAX_REPOSITORY = 255  # characters of the repository, without the registry
MAX_REGISTRY = 255  # a host name of 253 would do; the grammar has no limit
MAX_REFERENCE = MAX_REGISTRY + 1 + MAX_REPOSITORY + 1 + 128 + 1 + 135  # with the longest tag and digest

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?").fullmatch
# Written so that a separator always divides: no text can be matched in two ways.
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*").fullmatch
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}").fullmatch
_HEX_ID = re.compile(r"[a-f0-9]{64}").fullmatch


def is_repository(text: str) -> bool:
    return len(text) <= MAX_REPOSITORY and all(_COMPONENT(part) is not None for part in text.split("/"))


def is_tag(text: str) -> bool:
    return _TAG(text) is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """A full name; at least one of `tag` and `digest` is set."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises InvalidReference."""
        shown = repr(text[:120])
        if len(text) > MAX_REFERENCE:
            raise InvalidReference(f"image {shown}…: the name is longer than {MAX_REFERENCE} characters")
        if _HEX_ID(text):
            raise InvalidReference(f"image {shown}: 64 hex digits are an image id, not a name")
        name, at, digest = text.partition("@")
        registry, rest = _split_registry(name)
        repository, colon, tag = rest.partition(":")
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        _check(shown, registry, repository)
        if colon and _TAG(tag) is None:
            raise InvalidReference(f"image {shown}: tag {tag[:140]!r} must be 1 to 128 of letters, digits, _ . -")
        wanted = parse_digest(digest) if at else None
        return cls(registry, repository, tag or (None if at else LATEST), wanted)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or LATEST

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository at this digest, without a tag."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}@{self.digest}" if self.digest else f"{self.name}{tag}"


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        return DOCKER_HUB, name
    return (DOCKER_HUB if first == "index.docker.io" else first), rest


def _check(shown: str, registry: str, repository: str) -> None:
    if len(registry) > MAX_REGISTRY or _REGISTRY(registry) is None:
        raise InvalidReference(f"image {shown}: {registry[:100]!r} is not the name of a registry")
    if repository.lower() != repository:
        raise InvalidReference(f"image {shown}: the repository must be lower case")
    if len(repository) > MAX_REPOSITORY:
        raise InvalidReference(f"image {shown}: the repository is longer than {MAX_REPOSITORY} characters")
    if not is_repository(repository):
        raise InvalidReference(
            f"image {shown}: components of a repository are letters and digits, divided by one . or _, by __ or by -"
        )
