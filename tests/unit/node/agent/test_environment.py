"""Variables of containers, as kubelet makes them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.node.agent.environment import Sources, environment, expand, references
from havre.node.agent.field_values import FieldError, field_value, resource_value
from havre.node.agent.protocol import GivenError

POD: Obj = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"app": "web", "tier": "a"},
        "annotations": {"note": 'a "b"\n\x01é\u200b'},
    },
    "spec": {"nodeName": "node-1", "serviceAccountName": "robot", "enableServiceLinks": True, "containers": []},
    "status": {"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "podIP": "10.42.0.7"},
}
NODE: Obj = {"status": {"allocatable": {"cpu": "3800m", "memory": "8Gi", "ephemeral-storage": "10Gi"}}}
MAPS = {"settings": {"data": {"color": "red", "size": "$(HOME)"}}}
SECRETS = {
    "keys": {"data": {"password": base64.b64encode(b"s3cret").decode(), "raw": base64.b64encode(b"\xff").decode()}}
}


def variables(container: Obj, *services: Obj, pod: Obj = POD) -> dict[str, str]:
    sources = Sources(MAPS, SECRETS)
    return dict(environment(pod, {"name": "c", **container}, sources, services, NODE, ips=("10.42.0.7", "fd00::7")))


def one(**origin: Any) -> str:
    return variables({"env": [{"name": "X", "valueFrom": origin}]})["X"]


def service(name: str, namespace: str, ip: str, *ports: Obj) -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": list(ports)}}


KUBERNETES = service("kubernetes", "default", "10.96.0.1", {"name": "https", "port": 443, "protocol": "TCP"})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A) and $(B)", "1 and 2"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$(A)$(A)", "11"),
        ("$$$$", "$$"),
    ],
)
def test_references_are_expanded_once_and_never_guessed(text: str, result: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == result


@given(st.text(alphabet="$()AB x", max_size=40))
def test_expanding_without_names_only_halves_dollars(text: str) -> None:
    assert expand(text, {}).replace("$", "") == text.replace("$", "")


def test_a_variable_sees_only_those_before_it() -> None:
    env = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "2"}, {"name": "C", "value": "$(B)$(A)"}]
    assert variables({"env": env}) == {"A": "$(B)", "B": "2", "C": "2$(B)"}


def test_env_wins_over_env_from_and_values_of_sources_are_not_expanded() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"configMapRef": {"name": "settings"}}],
        "env": [{"name": "color", "value": "blue $(P_color)"}],
    }
    assert variables(container) == {"P_color": "red", "P_size": "$(HOME)", "color": "blue red", "size": "$(HOME)"}


def test_keys_are_read_from_config_maps_and_secrets() -> None:
    assert one(configMapKeyRef={"name": "settings", "key": "color"}) == "red"
    assert one(secretKeyRef={"name": "keys", "key": "password"}) == "s3cret"


@pytest.mark.parametrize(
    ("container", "says"),
    [
        ({"envFrom": [{"configMapRef": {"name": "no"}}]}, 'configmap "no" not found'),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, 'secret "no" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}]},
            'configmap "no" not found',
        ),
        (
            {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}}]},
            "couldn't find key k in ConfigMap shop/settings",
        ),
        (
            {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]},
            "couldn't find key k in Secret shop/keys",
        ),
        ({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "raw"}}}]}, "no UTF-8"),
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.no"}}}]}, "unsupported fieldPath"),
        (
            {
                "env": [
                    {"name": "X", "valueFrom": {"resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}}}
                ]
            },
            "container no not found",
        ),
    ],
)
def test_what_is_missing_is_said_in_kubelet_s_words(container: Obj, says: str) -> None:
    with pytest.raises(GivenError, match=says):
        variables(container)


def test_what_is_optional_may_be_missing() -> None:
    container = {
        "envFrom": [
            {"configMapRef": {"name": "no", "optional": True}},
            {"secretRef": {"name": "no", "optional": True}},
        ],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": True}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "no", "key": "no", "optional": True}}},
            {"name": "C"},
        ],
    }
    assert variables(container) == {"C": ""}


def test_what_a_container_refers_to_is_known_before() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}],
        "env": [
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k"}}},
            {"name": "Z", "value": "plain"},
        ],
    }
    assert references(container) == (frozenset({"a", "c"}), frozenset({"b", "d"}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'app="web"\ntier="a"'),
        ("metadata.annotations", 'note="a \\"b\\"\\n\\x01é\\u200b"'),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ("status.podIP", "10.42.0.7"),
        ("status.podIPs", "10.42.0.7,fd00::7"),
    ],
)
def test_fields_of_the_pod(path: str, value: str) -> None:
    assert field_value(POD, path, ("10.42.0.7", "fd00::7")) == value


def test_the_first_container_knows_the_node_before_the_status_does() -> None:
    addresses = [{"type": "Hostname", "address": "node-1"}, {"type": "InternalIP", "address": "192.0.2.7"}]
    node = {"status": {**NODE["status"], "addresses": addresses}}
    wanted = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]
    wanted.append({"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}})
    found = environment({**POD, "status": {}}, {"name": "c", "env": wanted}, Sources(), [], node)
    assert dict(found) == {"IP": "192.0.2.7", "IPS": "192.0.2.7"}


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1250"),
        ("requests.cpu", "1", "0"),
        ("limits.memory", "1Mi", "64"),
        ("limits.memory", "1Gi", "1"),
        ("limits.ephemeral-storage", "1Gi", "10"),
        ("requests.memory", "1", "33554432"),
    ],
)
def test_amounts_are_rounded_up_to_the_divisor_and_fall_back_to_the_node(
    resource: str, divisor: str, value: str
) -> None:
    container = {"resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"memory": "32Mi"}}}
    ref = {"resource": resource, "divisor": divisor}
    assert resource_value(container, ref, NODE["status"]["allocatable"]) == value


def test_an_unknown_resource_is_refused() -> None:
    with pytest.raises(FieldError, match="unsupported container resource"):
        resource_value({}, {"resource": "cpu"}, {})


def test_services_of_the_namespace_and_kubernetes_are_variables() -> None:
    db = service("my-db", "shop", "10.96.0.9", {"port": 5432, "name": "sql-port"}, {"port": 53, "protocol": "UDP"})
    others = [service("other", "else", "10.96.0.8", {"port": 1}), service("headless", "shop", "None", {"port": 1})]
    found = variables({"env": [{"name": "URL", "value": "$(MY_DB_SERVICE_HOST)"}]}, db, *others, KUBERNETES)
    assert found == {
        "URL": "10.96.0.9",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
        "MY_DB_SERVICE_HOST": "10.96.0.9",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL_PORT": "5432",
        "MY_DB_PORT": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.9",
        "MY_DB_PORT_53_UDP": "udp://10.96.0.9:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "10.96.0.9",
    }


def test_without_service_links_only_kubernetes_is_left() -> None:
    pod = {**POD, "spec": {**POD["spec"], "enableServiceLinks": False}}
    db = service("db", "shop", "10.96.0.9", {"port": 1})
    assert {name.split("_")[0] for name in variables({}, db, KUBERNETES, pod=pod)} == {"KUBERNETES"}


def test_a_variable_of_the_container_wins_over_a_service() -> None:
    found = variables({"env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "mine"}]}, KUBERNETES)
    assert found["KUBERNETES_SERVICE_HOST"] == "mine"
