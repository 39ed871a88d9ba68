"""The authorizer: bindings, decisions, their reasons, and who may grant what.

Texts are those of kube-apiserver 1.34.
"""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden, NotFound
from havre.control.apiserver import authz, bootstrap
from havre.control.apiserver.authz import Authorizer, Decision
from havre.machinery.admission import Attributes, User

RBAC = "rbac.authorization.k8s.io"
ADMIN = User("admin", ("system:masters", "system:authenticated"))
BOB = User("bob", ("system:authenticated",))
CARL = User("carl", ("system:authenticated",))


def ask(user: User, verb: str, resource: str, namespace: str = "default", name: str = "") -> Attributes:
    return Attributes(user, verb, "", "v1", resource, "", namespace, name)


def role(name: str, *rules: dict[str, Any], namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"kind": "Role" if namespace else "ClusterRole", "metadata": metadata, "rules": list(rules), **more}


def rule(verbs: str, resources: str, names: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"verbs": verbs.split(), "resources": resources.split(), "apiGroups": [""]}
    return made | ({"resourceNames": names.split()} if names else {})


def binding(name: str, ref: str, *subjects: dict[str, str], namespace: str = "", kind: str = "ClusterRole") -> Any:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"kind": kind, "name": ref, "apiGroup": RBAC},
        "subjects": list(subjects),
    }


def user(name: str) -> dict[str, str]:
    return {"kind": "User", "name": name, "apiGroup": RBAC}


def group(name: str) -> dict[str, str]:
    return {"kind": "Group", "name": name, "apiGroup": RBAC}


@pytest.fixture
def authorizer() -> Authorizer:
    made = Authorizer(bootstrap.node_rules())
    made.upsert(role("reader", rule("get list", "pods")))
    return made


def test_a_cluster_role_binding_holds_in_every_namespace(authorizer: Authorizer) -> None:
    authorizer.upsert(binding("readers", "reader", group("system:authenticated")))
    why = 'RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "system:authenticated"'
    assert authorizer.authorize(ask(BOB, "get", "pods", "other", "x")) == Decision(True, why)
    assert authorizer.authorize(ask(BOB, "list", "pods", "")).allowed
    assert authorizer.authorize(ask(BOB, "delete", "pods")) == Decision(False, "")


def test_a_role_binding_holds_in_its_namespace_only(authorizer: Authorizer) -> None:
    authorizer.upsert(binding("readers", "reader", user("bob"), namespace="default"))
    why = 'RBAC: allowed by RoleBinding "readers/default" of ClusterRole "reader" to User "bob"'
    assert authorizer.authorize(ask(BOB, "list", "pods")) == Decision(True, why)
    assert not authorizer.authorize(ask(BOB, "list", "pods", "other")).allowed
    assert not authorizer.authorize(ask(BOB, "list", "pods", "")).allowed
    assert not authorizer.authorize(ask(CARL, "list", "pods")).allowed


def test_a_service_account_subject_takes_the_namespace_of_its_binding(authorizer: Authorizer) -> None:
    authorizer.upsert(binding("b", "reader", {"kind": "ServiceAccount", "name": "build"}, namespace="default"))
    build = User("system:serviceaccount:default:build")
    why = 'RBAC: allowed by RoleBinding "b/default" of ClusterRole "reader" to ServiceAccount "build/default"'
    assert authorizer.authorize(ask(build, "get", "pods")) == Decision(True, why)
    assert not authorizer.authorize(ask(User("system:serviceaccount:other:build"), "get", "pods")).allowed


def test_a_named_right_holds_for_that_name_only(authorizer: Authorizer) -> None:
    authorizer.upsert(role("one", rule("get", "secrets", names="a b")))
    authorizer.upsert(binding("one", "one", user("bob")))
    assert [authorizer.authorize(ask(BOB, "get", "secrets", name=n)).allowed for n in ("a", "b", "c", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_change_of_any_role_or_binding_is_seen_at_once(authorizer: Authorizer) -> None:
    bound = binding("readers", "reader", user("bob"), user("carl"))
    request = ask(BOB, "get", "pods")
    assert not authorizer.authorize(request).allowed
    authorizer.upsert(bound)
    assert authorizer.authorize(request).allowed
    authorizer.upsert(role("reader", rule("list", "pods")))
    assert not authorizer.authorize(request).allowed
    authorizer.upsert(role("reader", rule("get", "pods")))
    authorizer.upsert({**bound, "subjects": [user("carl")]})
    assert not authorizer.authorize(request).allowed
    assert authorizer.authorize(ask(CARL, "get", "pods")).allowed
    authorizer.remove(bound)
    assert not authorizer.authorize(ask(CARL, "get", "pods")).allowed


def test_removing_a_binding_in_one_namespace_leaves_its_namesake(authorizer: Authorizer) -> None:
    here = binding("same", "reader", user("bob"), namespace="default")
    authorizer.upsert(here)
    authorizer.upsert(binding("same", "reader", user("bob"), namespace="other"))
    authorizer.remove(here)
    assert not authorizer.authorize(ask(BOB, "get", "pods")).allowed
    assert authorizer.authorize(ask(BOB, "get", "pods", "other")).allowed


def test_a_missing_role_is_named_in_the_refusal(authorizer: Authorizer) -> None:
    authorizer.upsert(binding("rb1", "nosuch", user("bob"), namespace="default"))
    authorizer.upsert(binding("rb2", "nosuchrole", user("bob"), namespace="default", kind="Role"))
    request = ask(BOB, "get", "pods", name="a")
    with pytest.raises(Forbidden) as refused:
        authorizer.require(request)
    assert refused.value.status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "a" is forbidden: User "bob" cannot get resource "pods" in API group "" in the namespace '
        '"default": RBAC: [clusterrole.rbac.authorization.k8s.io "nosuch" not found, '
        'role.rbac.authorization.k8s.io "nosuchrole" not found]',
        "reason": "Forbidden",
        "details": {"name": "a", "kind": "pods"},
        "code": 403,
    }


def test_superusers_may_do_anything_and_nodes_what_a_kubelet_needs(authorizer: Authorizer) -> None:
    node = User("system:node:here", ("system:nodes", "system:authenticated"))
    assert authorizer.authorize(ask(ADMIN, "destroy", "worlds")) == Decision(True, "")
    assert authorizer.authorize(ask(node, "create", "nodes", "")).allowed
    assert not authorizer.authorize(ask(node, "delete", "namespaces", "")).allowed
    assert not authorizer.authorize(ask(User("system:node:here"), "create", "nodes", "")).allowed
    assert not authorizer.authorize(ask(User("eve", ("system:nodes",)), "create", "nodes", "")).allowed


@pytest.mark.parametrize(
    ("request_", "text", "details"),
    [
        (
            Attributes(BOB, "list", "", "v1", "pods"),
            'pods is forbidden: User "bob" cannot list resource "pods" in API group "" at the cluster scope',
            {"kind": "pods"},
        ),
        (
            Attributes(BOB, "update", "apps", "v1", "deployments", "scale", "default", "web"),
            'deployments.apps "web" is forbidden: User "bob" cannot update resource "deployments/scale" in API group '
            '"apps" in the namespace "default"',
            {"name": "web", "group": "apps", "kind": "deployments"},
        ),
        (
            Attributes(User("system:anonymous"), "get", path="/metricsx"),
            'forbidden: User "system:anonymous" cannot get path "/metricsx"',
            {},
        ),
        (
            Attributes(User("<b>"), "get", path="/a&b"),
            'forbidden: User "&lt;b&gt;" cannot get path "/a&amp;b"',
            {},
        ),
    ],
)
def test_a_refusal_says_who_cannot_do_what_where(request_: Attributes, text: str, details: dict[str, str]) -> None:
    error = authz.forbidden(request_)
    assert (error.message, error.details) == (text, details)


def write(user: User, resource: str, namespace: str = "default") -> Attributes:
    return Attributes(user, "create", RBAC, "v1", resource, "", namespace, "new")


def test_nobody_grants_by_a_role_what_they_do_not_hold(authorizer: Authorizer) -> None:
    authorizer.upsert(binding("readers", "reader", user("bob")))
    authorizer.check_role(write(BOB, "roles"), role("new", rule("get", "pods"), namespace="default"))
    wide = role("new", rule("get list", "pods nodes"), namespace="default")
    with pytest.raises(Forbidden) as refused:
        authorizer.check_role(write(BOB, "roles"), wide)
    assert refused.value.message == (
        'roles.rbac.authorization.k8s.io "new" is forbidden: user "bob" (groups=["system:authenticated"]) is '
        "attempting to grant RBAC permissions not currently held:\n"
        '{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}'
    )
    authorizer.check_role(write(ADMIN, "roles"), wide)
    touched = {**wide, "metadata": {**wide["metadata"], "finalizers": ["x"]}}
    authorizer.check_role(write(BOB, "roles"), touched, wide)


def test_the_verbs_escalate_and_bind_lift_the_check(authorizer: Authorizer) -> None:
    power = {"apiGroups": [RBAC], "resources": ["roles", "clusterroles"], "verbs": ["escalate", "bind"]}
    authorizer.upsert(role("root", rule("*", "*")))
    wide, bound = role("new", rule("*", "*"), namespace="default"), binding("b", "root", user("x"), namespace="default")
    with pytest.raises(Forbidden, match="attempting to grant"):
        authorizer.check_binding(write(BOB, "rolebindings"), bound)
    authorizer.upsert(role("power", power))
    authorizer.upsert(binding("power", "power", user("bob")))
    authorizer.check_role(write(BOB, "roles"), wide)
    authorizer.check_binding(write(BOB, "rolebindings"), bound)


def test_a_binding_to_a_missing_role_is_not_found(authorizer: Authorizer) -> None:
    with pytest.raises(NotFound) as refused:
        authorizer.check_binding(write(BOB, "rolebindings"), binding("b", "nosuch", user("x"), namespace="default"))
    assert refused.value.message == 'rolebindings.rbac.authorization.k8s.io "nosuch" not found'


def test_only_full_authority_may_aggregate(authorizer: Authorizer) -> None:
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}
    with pytest.raises(Forbidden) as refused:
        authorizer.check_role(write(BOB, "clusterroles", ""), role("new", aggregationRule=selectors))
    assert refused.value.message == (
        'clusterroles.rbac.authorization.k8s.io "new" is forbidden: '
        "must have cluster-admin privileges to use the aggregationRule"
    )


def test_the_memory_of_decisions_is_bounded(authorizer: Authorizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authz, "MEMORY", 4)
    for number in range(10):
        authorizer.authorize(ask(BOB, "get", f"kind{number}"))
    assert len(authorizer._verdicts) <= 4
