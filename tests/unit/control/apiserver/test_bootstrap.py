"""The defaults of a new cluster, and what becomes of them when someone changed them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from havre.control.apiserver import bootstrap
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import Attributes, User

CONFIG = bootstrap.Config("192.0.2.1", 6443, client_ca="CA", requestheader_ca="FRONT")


@pytest.fixture(scope="module")
def defaults() -> dict[tuple[str, str], Any]:
    return {(o["kind"], o["metadata"]["name"]): o for o in bootstrap.objects(CONFIG)}


def test_every_default_is_identified_once_and_carries_nothing_of_another_cluster() -> None:
    seen = set()
    for obj in bootstrap.objects(CONFIG):
        metadata = obj["metadata"]
        seen.add((obj["apiVersion"], obj["kind"], metadata.get("namespace"), metadata["name"]))
        assert not {"uid", "resourceVersion", "creationTimestamp", "managedFields"} & metadata.keys()
    assert len(seen) == len(bootstrap.objects(CONFIG))


def test_the_defaults_are_those_of_kubernetes_1_34(defaults: dict[tuple[str, str], Any]) -> None:
    kinds: dict[str, int] = {}
    for obj in bootstrap.objects(CONFIG):
        kinds[obj["kind"]] = kinds.get(obj["kind"], 0) + 1
    assert kinds == {  # upstream's, and ours: a binding for our client of node agents, two roles for the network
        "Namespace": 4,
        "PriorityClass": 2,
        "PriorityLevelConfiguration": 8,
        "FlowSchema": 11,
        "ClusterRole": 69,
        "Role": 8,
        "ClusterRoleBinding": 51,
        "RoleBinding": 8,
        "ServiceCIDR": 1,
        "Service": 1,
        "IPAddress": 1,
        "EndpointSlice": 1,
        "Endpoints": 1,
        "ConfigMap": 1,
    }
    assert defaults["PriorityClass", "system-node-critical"]["value"] == 2000001000


def test_namespaces_come_first_and_roles_before_their_bindings() -> None:
    kinds = [obj["kind"] for obj in bootstrap.objects(CONFIG)]
    assert kinds[:4] == ["Namespace"] * 4
    assert kinds.index("ClusterRoleBinding") > kinds.index("Role") > kinds.index("ClusterRole")


def test_the_api_server_is_reached_at_the_first_service_address(defaults: dict[tuple[str, str], Any]) -> None:
    spec = defaults["Service", "kubernetes"]["spec"]
    assert (spec["clusterIP"], spec["ports"][0]["targetPort"]) == ("10.96.0.1", 6443)
    assert defaults["EndpointSlice", "kubernetes"]["endpoints"][0]["addresses"] == ["192.0.2.1"]
    data = defaults["ConfigMap", "extension-apiserver-authentication"]["data"]
    assert (data["client-ca-file"], data["requestheader-allowed-names"]) == ("CA", '["front-proxy-client"]')


def test_with_the_defaults_an_anonymous_user_sees_versions_and_controllers_their_objects() -> None:
    authorizer = Authorizer(bootstrap.node_rules())
    for obj in bootstrap.objects(CONFIG):
        if obj["apiVersion"].startswith("rbac."):
            authorizer.upsert(obj)
    anonymous = User("system:anonymous", ("system:unauthenticated",))
    job = User("system:serviceaccount:kube-system:job-controller")
    assert authorizer.authorize(Attributes(anonymous, "get", path="/version")).allowed
    assert not authorizer.authorize(Attributes(anonymous, "get", path="/metrics")).allowed
    assert authorizer.authorize(Attributes(job, "list", "", "v1", "pods")).reason == (
        'RBAC: allowed by ClusterRoleBinding "system:controller:job-controller" of ClusterRole '
        '"system:controller:job-controller" to ServiceAccount "job-controller/kube-system"'
    )


def test_a_default_that_is_there_is_left_alone(defaults: dict[tuple[str, str], Any]) -> None:
    for default in defaults.values():
        assert bootstrap.reconcile(default, None) == default
        assert bootstrap.reconcile(default, copy.deepcopy(default)) is None


def test_a_role_regains_lost_rules_and_keeps_what_a_user_added(defaults: dict[tuple[str, str], Any]) -> None:
    default = defaults["ClusterRole", "system:basic-user"]
    extra = {"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}
    live = copy.deepcopy(default)
    live["metadata"] |= {"labels": {"mine": "yes"}, "uid": "u"}
    live["rules"] = [extra]
    wanted = bootstrap.reconcile(default, live)
    assert wanted is not None
    assert wanted["rules"][0] == extra
    assert wanted["metadata"]["labels"] == {"kubernetes.io/bootstrapping": "rbac-defaults", "mine": "yes"}
    assert wanted["metadata"]["uid"] == "u"
    assert bootstrap.reconcile(default, wanted) is None
    assert live["rules"] == [extra]


def test_a_binding_regains_lost_subjects_and_keeps_others(defaults: dict[tuple[str, str], Any]) -> None:
    default = defaults["ClusterRoleBinding", "cluster-admin"]
    mine = {"kind": "User", "name": "me", "apiGroup": "rbac.authorization.k8s.io"}
    wanted = bootstrap.reconcile(default, {**default, "subjects": [mine]})
    assert wanted is not None
    assert wanted["subjects"] == [mine, *default["subjects"]]


def test_autoupdate_false_protects_an_object(defaults: dict[tuple[str, str], Any]) -> None:
    keys = (("ClusterRole", "view"), ("ClusterRole", "cluster-admin"), ("ClusterRoleBinding", "cluster-admin"))
    for key in keys:
        live = copy.deepcopy(defaults[key])
        live["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false"
        live |= {"rules": [], "subjects": []}
        assert bootstrap.reconcile(defaults[key], live) is None


def test_the_rules_of_an_aggregated_role_belong_to_its_controller(defaults: dict[tuple[str, str], Any]) -> None:
    default = defaults["ClusterRole", "view"]
    assert bootstrap.reconcile(default, {**default, "rules": []}) is None
    wanted = bootstrap.reconcile(default, {**default, "aggregationRule": None, "rules": []})
    assert wanted is not None
    assert wanted["aggregationRule"] == default["aggregationRule"]


def test_a_suggested_flow_schema_is_restored_only_while_it_is_ours(defaults: dict[tuple[str, str], Any]) -> None:
    default = defaults["FlowSchema", "probes"]
    changed = {**default, "spec": {"matchingPrecedence": 1}, "metadata": {**default["metadata"], "uid": "u"}}
    wanted = bootstrap.reconcile(default, changed)
    assert wanted is not None
    assert (wanted["spec"], wanted["metadata"]["uid"]) == (default["spec"], "u")
    owned = {**changed, "metadata": {"name": "probes", "annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}}
    assert bootstrap.reconcile(default, owned) is None
    exempt = defaults["FlowSchema", "exempt"]
    assert bootstrap.reconcile(exempt, {**exempt, "spec": {}, "metadata": {"name": "exempt"}}) is not None


def test_a_new_address_moves_the_endpoints(defaults: dict[tuple[str, str], Any]) -> None:
    moved = bootstrap.objects(bootstrap.Config("192.0.2.9"))
    slice_: dict[str, Any] = next(o for o in moved if o["kind"] == "EndpointSlice")
    wanted = bootstrap.reconcile(slice_, {**defaults["EndpointSlice", "kubernetes"], "extra": 1})
    assert wanted is not None
    assert wanted["endpoints"][0]["addresses"] == ["192.0.2.9"]
    assert wanted["extra"] == 1
