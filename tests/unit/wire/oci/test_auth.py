from __future__ import annotations

import pytest

from havre.wire.oci.auth import Auth, choose, token_of, token_request
from havre.wire.oci.challenge import Challenge
from havre.wire.oci.errors import RegistryError, Unauthorized

USER = Auth("user", "secret")
SCOPE = "repository:a/b:pull"


def bearer(realm: str = "https://auth.example/token", **more: str) -> Challenge:
    return Challenge("bearer", {"realm": realm, **more})


def test_a_token_is_bought_with_the_password() -> None:
    request = token_request(bearer(service="reg"), SCOPE, USER, plain=False)
    assert request.method == "GET"
    assert request.url == "https://auth.example/token?service=reg&scope=repository%3Aa%2Fb%3Apull&account=user"
    assert request.headers == {"authorization": "Basic dXNlcjpzZWNyZXQ="}


def test_an_anonymous_token_is_bought_with_nothing() -> None:
    request = token_request(bearer("https://auth.example/t?x=1", scope="a b"), SCOPE, None, plain=False)
    assert (request.url, request.headers) == ("https://auth.example/t?x=1&scope=a&scope=b", {})


def test_an_identity_token_is_posted() -> None:
    request = token_request(bearer(), SCOPE, Auth(identity_token="it"), plain=False)
    assert (request.method, request.url) == ("POST", "https://auth.example/token")
    assert b"grant_type=refresh_token&refresh_token=it" in request.body


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token",
        "https://user:pw@auth.example/",
        "ftp://x",
        "x",
        "https://",
        "https://a:b/",
        "https://a b/",
    ],
)
def test_a_token_service_that_cannot_be_trusted_gets_nothing(realm: str) -> None:
    with pytest.raises(Unauthorized, match="must be an https URL"):
        token_request(bearer(realm), SCOPE, USER, plain=False)


def test_a_plain_registry_may_have_a_plain_token_service() -> None:
    assert token_request(bearer("http://127.0.0.1:1/t"), SCOPE, USER, plain=True).url.startswith(
        "http://127.0.0.1:1/t?"
    )


def test_a_bearer_token_is_preferred_to_a_password() -> None:
    basic = Challenge("basic", {"realm": "x"})
    assert choose([basic, bearer()], USER) == bearer()
    assert choose([basic], USER) == basic
    assert choose([basic], None) is None
    assert choose([Challenge("bearer")], USER) is None


def test_both_names_of_the_token_are_known() -> None:
    assert token_of(b'{"token": "a.b-c"}', "r") == "a.b-c"
    assert token_of(b'{"access_token": "x"}', "r") == "x"


@pytest.mark.parametrize("reply", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nx: y"}', b'{"token": ""}'])
def test_an_answer_without_a_usable_token_is_an_error(reply: bytes) -> None:
    with pytest.raises(RegistryError, match="holds no token"):
        token_of(reply, "https://auth.example")


def test_docker_configurations_are_read() -> None:
    assert Auth.from_basic("dXNlcjpzZWNyZXQ=") == USER
    with pytest.raises(Unauthorized):
        Auth.from_basic("%%%")
    with pytest.raises(Unauthorized):
        Auth.from_basic("dXNlcg==")


@pytest.mark.parametrize(
    ("server", "registry", "serves"),
    [
        ("", "any.example", True),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("registry.example", "registry.example", True),
        ("https://registry.example/v2/", "registry.example", True),
        ("registry.example", "registry.example:5000", False),
        ("registry.example", "evil.example", False),
    ],
)
def test_credentials_are_for_one_registry(server: str, registry: str, *, serves: bool) -> None:
    assert Auth("u", "p", server=server).serves(registry) is serves


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(USER)
