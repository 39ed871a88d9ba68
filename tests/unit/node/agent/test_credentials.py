"""Which pull secrets fit which image."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.node.agent.credentials import CredentialError, fitting, read
from havre.node.agent.cri import Auth


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def secret(auths: Obj) -> Obj:
    return {
        "metadata": {"name": "pull", "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": encoded({"auths": auths})},
    }


def named(*keys: str) -> dict[str, Auth]:
    return read(secret({key: {"username": key, "password": "p"} for key in keys}))


def users(found: list[Auth]) -> list[str]:
    return [auth.username for auth in found]


def test_user_and_password_are_read_from_auth() -> None:
    pair = base64.b64encode(b"me:se:cret").decode()
    assert read(secret({"registry.example": {"auth": pair}})) == {"registry.example": Auth("me", "se:cret")}


def test_padding_may_be_missing() -> None:
    assert read(secret({"r.example": {"auth": "YTpi"[:4].rstrip("=")}}))["r.example"].username == "a"


def test_older_form_of_a_secret_is_read() -> None:
    old = {
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockercfg",
        "data": {".dockercfg": encoded({"https://index.docker.io/v1/": {"username": "u", "password": "p"}})},
    }
    assert read(old) == {"index.docker.io": Auth("u", "p")}


@pytest.mark.parametrize(
    ("key", "registry", "repository", "fits"),
    [
        ("registry.example", "registry.example", "team/app", True),
        ("https://registry.example/v2/", "registry.example", "team/app", True),
        ("registry.example/team", "registry.example", "team/app", True),
        ("registry.example/other", "registry.example", "team/app", False),
        ("*.example", "registry.example", "team/app", True),
        ("*.example", "a.b.example", "team/app", False),
        ("registry.example:5000", "registry.example:5000", "app", True),
        ("registry.example:5000", "registry.example", "app", False),
        ("registry.example", "registry.example:5000", "app", False),
        ("index.docker.io/v1/", "docker.io", "library/nginx", True),
        ("docker.io", "docker.io", "library/nginx", True),
        ("other.example", "docker.io", "library/nginx", False),
    ],
)
def test_key_fits_an_image(key: str, registry: str, repository: str, fits: bool) -> None:
    assert bool(fitting([named(key)], registry, repository)) is fits


def test_most_specific_key_is_tried_first() -> None:
    found = fitting([named("r.example", "r.example/team/app", "r.example/team")], "r.example", "team/app")
    assert users(found) == ["r.example/team/app", "r.example/team", "r.example"]


def test_same_credentials_are_tried_once() -> None:
    assert len(fitting([named("r.example"), named("r.example")], "r.example", "app")) == 1


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Auth("u", "secret", "secret", "secret"))


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "Opaque", "data": {}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "%"}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encoded([])}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encoded({"auths": []})}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encoded({"auths": {"r": 1}})}},
        {
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": encoded({"auths": {"r": {"auth": "eA=="}}})},
        },
    ],
)
def test_broken_secret_is_named(broken: Obj) -> None:
    with pytest.raises(CredentialError, match="pull secret default/pull"):
        read({"metadata": {"name": "pull", "namespace": "default"}, **broken})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_content_is_read_or_refused(value: object) -> None:
    for document in (value, {"auths": value}):
        held = {**secret({}), "data": {".dockerconfigjson": encoded(document)}}
        try:
            found = read(held)
        except CredentialError:
            continue
        fitting([found], "registry.example", "app")
