"""Paths, verbs and query parameters as the API reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.errors import MethodNotAllowed
from havre.control.apiserver.request import Target, asked_name, flag, params_of, target_of, verb_of


def parts(path: str) -> tuple[str, ...]:
    t = target_of(path)
    return t.group, t.version, t.resource, t.subresource, t.namespace, t.name, t.tail


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/nodes", ("", "v1", "nodes", "", "", "", "")),
        ("/api/v1/nodes/n1", ("", "v1", "nodes", "", "", "n1", "")),
        ("/api/v1/nodes/n1/status", ("", "v1", "nodes", "status", "", "n1", "")),
        ("/api/v1/nodes/n1/proxy/stats/summary", ("", "v1", "nodes", "proxy", "", "n1", "stats/summary")),
        ("/api/v1/pods", ("", "v1", "pods", "", "", "", "")),
        ("/api/v1/namespaces", ("", "v1", "namespaces", "", "", "", "")),
        ("/api/v1/namespaces/shop", ("", "v1", "namespaces", "", "shop", "shop", "")),
        ("/api/v1/namespaces/shop/status", ("", "v1", "namespaces", "status", "shop", "shop", "")),
        ("/api/v1/namespaces/shop/finalize", ("", "v1", "namespaces", "finalize", "shop", "shop", "")),
        ("/api/v1/namespaces/shop/pods", ("", "v1", "pods", "", "shop", "", "")),
        ("/api/v1/namespaces/shop/pods/", ("", "v1", "pods", "", "shop", "", "")),
        ("/api/v1/namespaces/shop/pods/web/log", ("", "v1", "pods", "log", "shop", "web", "")),
        ("/apis/apps/v1/namespaces/shop/deployments/web", ("apps", "v1", "deployments", "", "shop", "web", "")),
        (
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
            ("apps", "v1", "deployments", "scale", "shop", "web", ""),
        ),
        (
            "/api/v1/namespaces/shop/services/https:web:443/proxy/a%20b",
            ("", "v1", "services", "proxy", "shop", "https:web:443", "a b"),
        ),
        ("/api/v1/watch/pods", ("", "v1", "pods", "", "", "", "")),
        ("/api/v1/watch/namespaces/shop/pods/web", ("", "v1", "pods", "", "shop", "web", "")),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            ("rbac.authorization.k8s.io", "v1", "clusterroles", "", "", "system:node", ""),
        ),
    ],
)
def test_a_resource_path_names_its_place(path: str, expected: tuple[str, ...]) -> None:
    assert parts(path) == expected


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz/ping", "/x"]
)
def test_other_paths_name_no_resource(path: str) -> None:
    assert target_of(path) == Target(path)


@given(st.text(max_size=60))
def test_any_path_has_a_target(path: str) -> None:
    assert isinstance(target_of(path), Target)


@pytest.mark.parametrize(
    ("method", "path", "query", "verb"),
    [
        ("GET", "/api/v1/pods", "", "list"),
        ("GET", "/api/v1/pods", "watch=true", "watch"),
        ("GET", "/api/v1/pods", "watch=1", "watch"),
        ("GET", "/api/v1/pods", "watch=false", "list"),
        ("GET", "/api/v1/watch/pods", "", "watch"),
        ("GET", "/api/v1/watch/namespaces/a/pods/x", "", "watch"),
        ("GET", "/api/v1/namespaces/a/pods/x", "", "get"),
        ("GET", "/api/v1/namespaces/a/pods/x", "watch=true", "get"),  # a named GET is a GET, as upstream
        ("HEAD", "/api/v1/namespaces/a/pods/x", "", "get"),
        ("POST", "/api/v1/namespaces/a/pods", "", "create"),
        ("POST", "/api/v1/namespaces/a/pods/x/exec", "", "create"),
        ("PUT", "/api/v1/namespaces/a/pods/x", "", "update"),
        ("PATCH", "/api/v1/namespaces/a/pods/x", "", "patch"),
        ("DELETE", "/api/v1/namespaces/a/pods/x", "", "delete"),
        ("DELETE", "/api/v1/namespaces/a/pods", "", "deletecollection"),
        ("GET", "/healthz", "", "get"),
        ("POST", "/healthz", "", "post"),
    ],
)
def test_method_and_path_make_the_verb(method: str, path: str, query: str, verb: str) -> None:
    assert verb_of(method, target_of(path), params_of(query)) == verb


def test_a_method_without_a_verb_is_refused() -> None:
    with pytest.raises(MethodNotAllowed):
        verb_of("BREW", target_of("/api/v1/pods"), {})


@pytest.mark.parametrize(
    ("path", "selector", "name"),
    [
        ("/api/v1/namespaces/a/secrets", "metadata.name=tls", "tls"),
        ("/api/v1/namespaces/a/secrets", "type=x,metadata.name=tls", "tls"),
        ("/api/v1/namespaces/a/secrets", "metadata.name!=tls", ""),
        ("/api/v1/namespaces/a/secrets", "metadata.name=a/b", ""),
        ("/api/v1/namespaces/a/secrets", "%%%", ""),
        ("/api/v1/namespaces/a/secrets/x", "metadata.name=tls", "x"),
    ],
)
def test_a_list_of_one_name_is_authorized_as_that_name(path: str, selector: str, name: str) -> None:
    params = {"fieldSelector": selector}
    target = target_of(path)
    assert asked_name(target, verb_of("GET", target, params), params) == name


def test_of_a_repeated_parameter_the_first_counts() -> None:
    assert params_of("a=1&a=2&b=&c=x%20y") == {"a": "1", "b": "", "c": "x y"}


def test_flags_are_those_of_go() -> None:
    assert [flag({"x": text}, "x") for text in ("1", "t", "true", "0", "yes", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
