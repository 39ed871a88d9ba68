from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.oci.errors import InvalidReference
from havre.wire.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("team/app", "docker.io/team/app:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("Registry/app", "Registry/app:latest"),
        ("quay.io/x/y@" + DIGEST, "quay.io/x/y@" + DIGEST),
        ("quay.io/x/y:1@" + DIGEST, "quay.io/x/y:1@" + DIGEST),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
    ],
)
def test_a_name_is_completed_as_docker_does(text: str, full: str) -> None:
    assert str(Reference.parse(text)) == full
    assert str(Reference.parse(full)) == full


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "letters and digits"),
        ("Nginx", "lower case"),
        ("registry.example/", "letters and digits"),
        ("a..b", "letters and digits"),
        ("a___b", "letters and digits"),
        ("-a", "letters and digits"),
        ("a//b", "letters and digits"),
        ("../../etc/passwd", "is not the name of a registry"),
        ("registry.example/../x", "letters and digits"),
        ("nginx:", "tag '' must be"),
        ("nginx:a b", "must be 1 to 128"),
        ("nginx:" + "x" * 129, "must be 1 to 128"),
        ("nginx:ä", "must be 1 to 128"),
        ("nginx@sha256:abc", "digest 'sha256:abc'"),
        ("nginx@md5:" + "a" * 32, "digest"),
        ("a" * 64, "64 hex digits are an image id"),
        ("user@host.example/app", "digest"),
        ("http://registry.example/app", "not the name of a registry"),
        ("x/" + "a" * 254, "longer than 255"),
        ("a" * 2000, "longer than"),
        ("nginx:1\n", "must be 1 to 128"),
        ("regis\ntry.example/app", "not the name of a registry"),
    ],
)
def test_a_name_that_breaks_the_grammar_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert why in str(caught.value)


def test_a_reference_says_what_to_ask_for() -> None:
    tagged = Reference.parse("nginx:1")
    pinned = Reference.parse("nginx:1@" + DIGEST)
    assert (tagged.target, pinned.target) == ("1", DIGEST)
    assert str(pinned.with_digest(pinned.digest or tagged.target)) == "docker.io/library/nginx@" + DIGEST  # type: ignore[arg-type]


@given(st.text(max_size=300) | st.from_regex(r"[a-z.:/@_A-Z0-9-]{0,80}"))
def test_any_text_is_a_reference_that_reads_back_or_is_refused(text: str) -> None:
    try:
        found = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(found)) == found
