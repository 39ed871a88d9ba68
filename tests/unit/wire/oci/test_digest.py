from __future__ import annotations

import pytest

from havre.wire.oci.digest import algorithm, digest_of, encoded, is_digest, matches, parse_digest
from havre.wire.oci.errors import InvalidReference

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_digest_names_its_algorithm_and_its_content() -> None:
    digest = parse_digest(EMPTY)
    assert (algorithm(digest), encoded(digest)) == ("sha256", EMPTY[7:])
    assert digest_of(b"") == digest
    assert matches(digest, b"")
    assert not matches(digest, b"x")


def test_sha512_is_known() -> None:
    digest = parse_digest(
        "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
        "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
    )
    assert matches(digest, b"")


@pytest.mark.parametrize(
    "text", ["", "sha256:", EMPTY.upper(), EMPTY + "0", EMPTY[:-1], EMPTY + "\n", "sha1:" + "a" * 40, "../x", None, 5]
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(InvalidReference, match="digest"):
        parse_digest(text)
    assert not isinstance(text, str) or not is_digest(text)
