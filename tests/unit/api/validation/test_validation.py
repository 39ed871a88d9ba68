"""Checks that recorded answers cannot hold: large objects, subresources, custom resources."""

from __future__ import annotations

import base64
import copy
from typing import Any

from havre.api.validation import (
    validate_create,
    validate_metadata,
    validate_metadata_update,
    validate_subresource_update,
)
from havre.api.validation.admission import client_config
from havre.kit.names import dns1123_subdomain

MEBIBYTE = 1 << 20


def config_map(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, **fields}


def test_config_map_holds_a_mebibyte_and_not_a_byte_more() -> None:
    binary = base64.b64encode(b"x" * (MEBIBYTE // 2)).decode()
    full = config_map(data={"a": "x" * (MEBIBYTE // 2)}, binaryData={"b": binary})
    assert validate_create(full) == []
    full["data"]["a"] += "y"
    assert [str(e) for e in validate_create(full)] == ["[]: Too long: may not be more than 1048576 bytes"]


def test_secret_holds_a_mebibyte_and_not_a_byte_more() -> None:
    secret = {**config_map(), "kind": "Secret", "type": "Opaque"}
    secret["data"] = {"a": base64.b64encode(b"x" * (MEBIBYTE + 1)).decode()}
    assert [str(e) for e in validate_create(secret)] == ["data: Too long: may not be more than 1048576 bytes"]


def test_annotations_hold_256_kibibytes() -> None:
    obj = config_map()
    obj["metadata"]["annotations"] = {"k": "v" * (256 * 1024)}
    words = "metadata.annotations: Too long: may not be more than 262144 bytes"
    assert [str(e) for e in validate_create(obj)] == [words]


def test_metadata_of_a_custom_resource_is_checked_with_its_own_rule() -> None:
    obj = {"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "A", "namespace": "n"}}
    errors = validate_metadata(obj, namespaced=False, name_check=dns1123_subdomain)
    assert [e.path for e in errors] == ["metadata.name", "metadata.namespace"]


def test_identity_is_immutable() -> None:
    old = {"metadata": {"name": "a", "namespace": "n", "uid": "u"}}
    new = copy.deepcopy(old)
    new["metadata"] |= {"name": "b", "uid": "v"}
    assert [str(e) for e in validate_metadata_update(new, old)] == [
        'metadata.name: Invalid value: "b": field is immutable',
        'metadata.uid: Invalid value: "v": field is immutable',
    ]


def test_finalizers_of_a_namespace_are_known_or_qualified() -> None:
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["x", "a.b/c"]}}
    words = "name is neither a standard finalizer name nor is it fully qualified"
    errors = validate_subresource_update("finalize", obj, obj)
    assert [str(e) for e in errors] == [f'spec.finalizers[0]: Invalid value: "x": {words}']


def test_certificate_request_cannot_be_approved_and_denied() -> None:
    conditions = [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]
    old: dict[str, Any] = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "a"},
        "spec": {
            "request": base64.b64encode(b"-----BEGIN CERTIFICATE REQUEST-----").decode(),
            "usages": ["client auth"],
            "signerName": "a.b/c",
        },
    }
    new = {**old, "status": {"conditions": conditions}}
    errors = validate_subresource_update("approval", new, old)
    assert [e.path for e in errors] == ["status.conditions[1].type"]


def running_pod(**container: Any) -> dict[str, Any]:
    item = {"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", **container}
    spec = {"containers": [item], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec}


def test_resize_may_not_change_the_quality_of_service() -> None:
    old = running_pod(resources={"requests": {"cpu": "1"}})
    assert validate_subresource_update("resize", running_pod(resources={"requests": {"cpu": "2"}}), old) == []
    errors = validate_subresource_update("resize", running_pod(resources={}), old)
    words = 'spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing'
    assert [str(e) for e in errors] == [words]


def test_debug_containers_never_go() -> None:
    new, old = running_pod(), running_pod()
    old["spec"]["ephemeralContainers"] = [{"name": "d"}]
    errors = validate_subresource_update("ephemeralcontainers", new, old)
    assert [e.detail for e in errors] == ['existing ephemeral containers "d" may not be removed\n']


def test_the_path_of_a_webhook_may_be_empty_and_else_begins_with_a_slash() -> None:
    def problems(path: str) -> list[str]:
        service = {"name": "s", "namespace": "n", "port": 443, "path": path}
        return [str(e) for e in client_config("c", {"service": service})]

    assert problems("") == []
    assert problems("/ok") == []
    assert problems("/a//b") == ['c.service.path: Invalid value: "/a//b": segment[1] may not be empty']
