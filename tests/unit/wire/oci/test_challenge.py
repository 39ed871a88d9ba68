from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.oci.challenge import Challenge, InvalidChallenge, parse


def test_a_bearer_challenge_names_its_token_service() -> None:
    assert parse('Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"') == (
        Challenge(
            "bearer", {"realm": "https://auth.example/token", "service": "reg", "scope": "repository:a/b:pull,push"}
        ),
    )


@pytest.mark.parametrize(
    ("header", "schemes"),
    [
        ("", []),
        ("Basic", ["basic"]),
        ('Basic realm="x", Bearer realm="y", service=z', ["basic", "bearer"]),
        ("Negotiate, Basic realm=x", ["negotiate", "basic"]),
        ("Negotiate YWJj==, Basic realm=x", ["negotiate", "basic"]),
        (" , ,Basic realm=x , ", ["basic"]),
    ],
)
def test_several_challenges_are_told_apart(header: str, schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse(header)] == schemes


def test_quoted_text_may_hold_anything() -> None:
    assert parse(r'Basic REALM = "a \"b\" , c=d"')[0].parameters == {"realm": 'a "b" , c=d'}


@pytest.mark.parametrize(
    "header", ['Basic realm="x', "Basic realm=", '"x"', "Basic a=b c=d", "Basic " + "a=b," * 3000, "Basic =x"]
)
def test_a_broken_header_is_refused(header: str) -> None:
    found: object
    try:
        found = parse(header)
    except InvalidChallenge:
        return
    assert header == "Basic realm="  # reads as one opaque word
    assert found == (Challenge("basic"),)


def test_more_parameters_than_any_server_sends_are_refused() -> None:
    with pytest.raises(InvalidChallenge, match="more than 32"):
        parse("Basic " + ",".join(f"a{number}=b" for number in range(40)))


@given(st.text(max_size=200) | st.text('abB=," \\/:~', max_size=80))
def test_any_text_is_read_or_refused(header: str) -> None:
    try:
        found = parse(header)
    except InvalidChallenge:
        return
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in found)
