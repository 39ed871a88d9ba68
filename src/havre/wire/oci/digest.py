"""Content is named by its hash: `sha256:` and 64 hexadecimal digits, or `sha512:` and 128.

Source: opencontainers/image-spec, descriptor.md, “Digests”. Only the two algorithms registered there are taken, in
lower case, so that a digest is also a safe file name and equal content has one name per algorithm.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType

from havre.wire.oci.errors import InvalidReference

if TYPE_CHECKING:
    from hashlib import _Hash

Digest = NewType("Digest", str)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}").fullmatch


def parse_digest(text: object) -> Digest:
    """The digest that `text` is. Raises InvalidReference."""
    if not isinstance(text, str) or _DIGEST(text) is None:
        shown = repr(text)[:100]
        raise InvalidReference(f"digest {shown}: it must be sha256: with 64 or sha512: with 128 lower-case hex digits")
    return Digest(text)


def is_digest(text: str) -> bool:
    return _DIGEST(text) is not None


def algorithm(digest: Digest) -> str:
    """`sha256` or `sha512`."""
    return digest[:6]


def encoded(digest: Digest) -> str:
    """The hexadecimal part."""
    return digest[7:]


def hasher(digest: Digest | None = None) -> _Hash:
    """A running hash of the digest's algorithm; sha256 without one."""
    return hashlib.new(algorithm(digest)) if digest else hashlib.sha256()


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def matches(digest: Digest, data: bytes) -> bool:
    return hashlib.new(algorithm(digest), data).hexdigest() == encoded(digest)
