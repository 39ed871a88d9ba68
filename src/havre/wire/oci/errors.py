"""How a name, a document or a registry fails.

OciError
├── InvalidReference     a name or a digest that breaks the grammar
├── InvalidDocument      a manifest, index or configuration that is malformed, ambiguous or beyond a limit
├── NoPlatform           an index has nothing for this machine
└── RegistryError        a registry that cannot be reached, or answers with a failure
    ├── NotFound         the repository, tag, manifest or blob is not there
    ├── Unauthorized     it wants credentials, or other ones
    └── BadContent       what it sent is not what was asked for: digest, size, type or range
"""

from __future__ import annotations


class OciError(Exception):
    """The root of the tree."""


class InvalidReference(OciError, ValueError):
    """Raised by the parsers of names and digests; the message shows the text and the rule."""


class InvalidDocument(OciError, ValueError):
    """Raised by the parsers of JSON documents; the message names the field."""


class NoPlatform(OciError):
    """No entry of an index, or not this image, runs on the wanted platform."""


class RegistryError(OciError):
    """A request that failed for good, after all mirrors and attempts; `status` is 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFound(RegistryError):
    """404 from every endpoint that was asked."""


class Unauthorized(RegistryError):
    """401 or 403, also after a token was fetched."""


class BadContent(RegistryError):
    """The registry, or somebody between, sent other bytes than it promised."""
