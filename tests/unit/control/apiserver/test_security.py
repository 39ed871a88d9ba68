"""Attacks that must fail: rights in one namespace, of one verb or of one node reach no further."""

from __future__ import annotations

import time
from typing import Any

import pytest

from havre.api.errors import BadRequest, Forbidden
from havre.control.apiserver import bootstrap, nodes, pki, rbac
from havre.control.apiserver.authz import MAX_ATOMS, Authorizer
from havre.control.apiserver.handlers import Call
from havre.control.apiserver.request import target_of
from havre.lang.schema import Compiler
from havre.lang.structural.prune import prune
from havre.machinery.admission import Attributes, User
from havre.wire import tls
from havre.wire.http.message import Request

plane_test = pytest.mark.asyncio(loop_scope="module")
APPLY = "application/apply-patch+yaml"
NODE = {"impersonate-user": "system:node:n1", "impersonate-group": "system:nodes"}
SPEC = {"type": "object", "properties": {"a": {"type": "string"}}}
ALL = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}


async def allow(plane: Any, namespace: str, rule: Any) -> None:
    rbac_url = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    await plane.make(f"{rbac_url}/roles", {"metadata": {"name": "r"}, "rules": [rule]})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}
    await plane.make(f"{rbac_url}/rolebindings", {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [subject]})


# rights in one namespace


@plane_test
@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", "/namespaces"),
        ("GET", "/namespaces/default"),
        ("DELETE", "/namespaces/default"),
        ("PUT", "/namespaces/default/status"),
        ("GET", "/nodes/n1"),
        ("GET", "/componentstatuses"),
    ],
)
async def test_all_rights_in_a_namespace_are_none_outside_it(
    plane: Any, namespace: str, method: str, rest: str
) -> None:
    await allow(plane, namespace, ALL)
    reply = await plane.ask(method, f"/api/v1/namespaces/{namespace}{rest}", user="bob")
    assert reply.status == 404


@plane_test
@pytest.mark.parametrize(
    "path",
    [
        "authentication.k8s.io/v1/namespaces/{}/tokenreviews",
        "authorization.k8s.io/v1/namespaces/{}/subjectaccessreviews",
        "authorization.k8s.io/v1/namespaces/{}/localsubjectaccessreviews//status",
    ],
)
async def test_reviews_of_the_cluster_are_not_asked_inside_a_namespace(plane: Any, namespace: str, path: str) -> None:
    await allow(plane, namespace, ALL)
    body = {"spec": {"token": "root-token", "user": "root", "resourceAttributes": {"verb": "get"}}}
    assert (await plane.ask("POST", f"/apis/{path.format(namespace)}", body, user="bob")).status == 404


@plane_test
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_old_watch_prefix_only_watches(plane: Any, namespace: str, method: str) -> None:
    url = f"/api/v1/watch/namespaces/{namespace}/configmaps"
    body = {"metadata": {"name": "c"}}
    assert (await plane.ask(method, url if method == "POST" else f"{url}/c", body)).status == 404
    assert (await plane.ask("GET", f"/api/v1/watch/namespaces/{namespace}/pods/p/log")).status == 404


# rights of one verb


@plane_test
async def test_an_apply_makes_nothing_for_one_who_may_only_patch(plane: Any, namespace: str) -> None:
    await allow(plane, namespace, {**ALL, "verbs": ["patch", "update"]})
    url = f"/api/v1/namespaces/{namespace}/configmaps/c"
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}}
    applied = f"{url}?fieldManager=m"
    assert (await plane.ask("PATCH", applied, body, user="bob", content_type=APPLY)).status == 403
    assert (await plane.ask("PATCH", applied, body, content_type=APPLY)).status == 201
    assert (await plane.ask("PATCH", applied, body, user="bob", content_type=APPLY)).status == 200


@plane_test
async def test_an_update_makes_nothing_for_one_who_may_only_update(plane: Any, namespace: str) -> None:
    await allow(plane, namespace, {**ALL, "verbs": ["patch", "update"]})
    url = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/l"
    body = {"metadata": {"name": "l"}}
    assert (await plane.ask("PUT", url, body, user="bob")).status == 403
    assert (await plane.ask("PUT", url, body)).status == 201


@plane_test
@pytest.mark.parametrize(("plural", "kind"), [("pods", "Pod"), ("persistentvolumeclaims", "PersistentVolumeClaim")])
async def test_an_apply_without_a_spec_is_refused_and_not_a_failure(
    plane: Any, namespace: str, plural: str, kind: str
) -> None:
    body = {"kind": kind, "apiVersion": "v1", "metadata": {"name": "x"}}
    url = f"/api/v1/namespaces/{namespace}/{plural}/x?fieldManager=m"
    assert (await plane.ask("PATCH", url, body, content_type=APPLY)).status == 422


# rights of one node


@plane_test
async def test_a_node_gets_no_token_that_is_not_bound_to_its_pod(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    reply = await plane.ask("POST", url, {"spec": {}}, headers=NODE)
    assert (reply.status, "not bound to a pod" in reply.message) == (403, True)
    assert (await plane.ask("POST", url, {"spec": {}})).status == 201


def test_a_node_reads_secrets_by_name_and_cannot_list_them() -> None:
    authorizer = Authorizer(bootstrap.node_rules())
    node = User("system:node:n1", ("system:nodes",))
    one = Attributes(node, "get", "", "v1", "secrets", "", "shop", "s")
    assert authorizer.authorize(one).allowed
    for verb in ("list", "watch"):
        assert authorizer.authorize(Attributes(node, verb, "", "v1", "secrets", "", "shop", "s")).allowed
        assert not authorizer.authorize(Attributes(node, verb, "", "v1", "secrets", "", "shop", "")).allowed
        assert not authorizer.authorize(Attributes(node, verb, "", "v1", "secrets", "", "", "")).allowed


def test_the_certificate_shown_to_nodes_is_no_superuser(tmp_path: Any) -> None:
    pair = pki.ensure(tmp_path, ["127.0.0.1"]).kubelet_client
    assert tls.read(pair.certificate).subject == tls.Subject("kube-apiserver-kubelet-client")


# places that a proxy reaches


@pytest.mark.parametrize("port", ["80@elsewhere", "80#", "0", "65536", "-1", "x", "²", "9" * 4301])
def test_a_port_is_a_number_and_names_no_other_host(port: str) -> None:
    with pytest.raises(BadRequest, match="invalid port"):
        nodes._number(port)


@pytest.mark.parametrize("address", ["10.0.0.1/x", "a@b", "a b", "", "a\r\nb", "[::1]"])
def test_an_address_of_an_object_is_an_ip_or_a_name(address: str) -> None:
    with pytest.raises(BadRequest, match="address not allowed"):
        nodes._host(address)


def test_only_the_agents_own_port_sees_our_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = nodes.Nodes.__new__(nodes.Nodes)
    monkeypatch.setattr(nodes.Nodes, "_node", lambda _self, _name: "https://10.0.0.1:10250")
    places = [carrier.node_proxy(call_of(f"/api/v1/nodes/n1{port}/proxy/x")) for port in ("", ":10250", ":6443")]
    assert [(place.base, place.agent) for place in places] == [
        ("https://10.0.0.1:10250", True),
        ("https://10.0.0.1:10250", True),
        ("https://10.0.0.1:6443", False),
    ]


def test_the_token_of_a_browser_is_not_carried_on() -> None:
    offered = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io"
    call = call_of("/api/v1/namespaces/a/pods/p/proxy", {"sec-websocket-protocol": offered})
    assert nodes._forwarded(call, nodes._NOT_TUNNELED) == {"sec-websocket-protocol": "v4.channel.k8s.io"}


def call_of(path: str, headers: Any = None) -> Call:
    request = Request("GET", path, "", headers or {}, b"", None, "", "HTTP/1.1")
    return Call(request, target_of(path), {}, "get", User("root"), lambda: None)


# work out of proportion


def test_a_role_of_very_many_combinations_is_refused_before_they_are_compared() -> None:
    names = [f"x{n}" for n in range(100)]
    rule = {"apiGroups": names, "resources": names, "verbs": names}
    assert rbac.combinations([rule]) == 1_000_000 > MAX_ATOMS
    role = {"kind": "Role", "metadata": {"name": "r", "namespace": "shop"}, "rules": [rule]}
    request = Attributes(User("bob"), "create", rbac.GROUP, "v1", "roles", "", "shop", "r")
    with pytest.raises(Forbidden, match="split it"):
        Authorizer().check_role(request, role)


def test_many_unknown_fields_cost_in_proportion_and_one_without_a_name_is_told() -> None:
    schema = Compiler({"x": {"type": "object", "properties": {"spec": SPEC}}})
    drop = prune(schema.named("x"))
    assert drop({"spec": {"": 1, "a": "x"}}) == ["spec."]
    many = {f"k{n}": 1 for n in range(20_000)}
    started = time.perf_counter()
    assert len(drop(many)) == 20_000
    assert time.perf_counter() - started < 0.2  # in proportion 5 ms; squared it was 400 ms
