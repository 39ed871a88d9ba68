from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from havre.api import protobuf
from havre.api.kinds import KINDS
from havre.api.meta import GVK, Obj
from havre.api.protobuf import ProtobufError, decode, decode_raw, encode, encode_list, encode_raw, watch_frame

RECORDED = orjson.loads(zstandard.decompress((Path(__file__).parent / "data/objects.json.zst").read_bytes()))["objects"]
BODIES = {row["json"]["kind"]: base64.b64decode(row["protobuf"]) for row in RECORDED}
OBJECTS = {row["json"]["kind"]: row["json"] for row in RECORDED}


def without_null_lists(obj: Obj) -> Obj:
    """What Go adds when it writes JSON: null for lists that are not there, the type of claims in a StatefulSet."""
    spec, status = obj.get("spec", {}), obj.get("status", {})
    for claim in spec.get("volumeClaimTemplates", ()):
        del claim["apiVersion"], claim["kind"]
    for name in [name for name in ("currentMetrics", "conditions") if status.get(name, 0) is None]:
        del status[name]
    return obj


@pytest.mark.parametrize("kind", BODIES)
def test_an_object_recorded_from_a_real_server_decodes_to_its_json(kind: str) -> None:
    expected = without_null_lists(orjson.loads(orjson.dumps(OBJECTS[kind])))
    assert decode(BODIES[kind]) == expected


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", BODIES)
def test_encoding_and_decoding_again_changes_nothing(kind: str) -> None:
    once = decode(BODIES[kind])
    if kind == "ControllerRevision":  # its data may hold nulls, which mean something there
        assert decode(encode(once)) == once
    else:
        assert decode(encode(once)) == without_nulls(once)


def test_the_bytes_of_a_message_are_those_of_the_wire() -> None:
    lease: Obj = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "a"},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 300, "renewTime": "1970-01-01T00:00:02.000003Z"},
    }
    raw = b"\n\x03\n\x01a" + b"\x12\x0c" + b"\n\x00" + b"\x10\xac\x02" + b'"\x05\x08\x02\x10\xb8\x17'
    assert encode_raw(lease) == raw
    head = b"k8s\0\n\x1f\n\x16coordination.k8s.io/v1\x12\x05Lease\x12\x13"
    assert encode(lease) == head + raw + b'\x1a\x00"\x00'
    assert decode_raw(GVK("coordination.k8s.io", "v1", "Lease"), raw) == lease


def test_a_pointer_to_zero_is_kept_and_an_empty_value_goes() -> None:
    raw = b"\x12\x04\x08\x00\x28\x00"  # spec {replicas: 0, minReadySeconds: 0}
    assert decode_raw(GVK("apps", "v1", "Deployment"), raw)["spec"] == {"replicas": 0}


def test_an_empty_struct_stays_and_a_zero_time_is_null_unless_go_omits_it() -> None:
    metadata = b"\n\x02B\x00"  # creationTimestamp is zero
    spec = b"\x12\x00"
    status = b"\x1a\x0a\x12\x08\n\x01R\x12\x01T\x22\x00"  # a condition whose lastTransitionTime is zero
    assert decode_raw(GVK("", "v1", "Pod"), metadata + spec + status) == {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {},
        "spec": {},
        "status": {"conditions": [{"type": "R", "status": "T", "lastTransitionTime": None}]},
    }


def test_fields_of_an_embedded_struct_belong_to_the_outer_object() -> None:
    pod: Obj = {
        "kind": "Pod",
        "apiVersion": "v1",
        "spec": {
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 5}}],
        },
    }
    assert decode(encode(pod)) == pod


def test_a_schema_of_a_custom_kind_survives() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "array", "items": {"type": "string", "maxLength": 0, "default": ""}},
            "b": {"x-kubernetes-int-or-string": True, "enum": [1, "x", None]},
            "c": {"type": "object", "additionalProperties": {"type": "number", "maximum": 1.5, "minimum": 0}},
            "d": {"type": "object", "additionalProperties": False},
            "$ref": {"$ref": "#/a", "items": [{"type": "string"}]},
            "e": {"dependencies": {"x": ["y"], "z": {"type": "object"}}},
        },
    }
    crd: Obj = {
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
    }
    assert decode(encode(crd)) == crd


def test_values_with_many_strings_are_plain_lists() -> None:
    review: Obj = {
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"extra": {"scopes": ["a", "b"]}, "user": "u"},
    }
    assert decode(encode(review)) == review


def test_negative_and_large_numbers_keep_their_value() -> None:
    job: Obj = {
        "kind": "PriorityClass",
        "apiVersion": "scheduling.k8s.io/v1",
        "metadata": {"generation": 2**63 - 1},
        "value": -(2**31),
    }
    assert decode(encode(job)) == job


def test_deletion_options_come_under_any_group() -> None:
    for api_version in ("v1", "apps/v1", "meta.k8s.io/v1", "example.com/v1"):
        options: Obj = {"kind": "DeleteOptions", "apiVersion": api_version, "gracePeriodSeconds": 0, "dryRun": ["All"]}
        assert decode(encode(options)) == options


def test_a_list_is_put_together_from_encoded_items() -> None:
    names = ("a", "b")
    raws = [encode_raw({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}}) for name in names]
    assert decode(encode_list(GVK("", "v1", "ConfigMapList"), "7", "next", raws, 3)) == {
        "kind": "ConfigMapList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "7", "continue": "next", "remainingItemCount": 3},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}],
    }


def test_a_watch_event_is_framed_by_its_length() -> None:
    body = encode({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": ""}})
    frame = watch_frame("ADDED", body)
    assert frame[:4] == (len(frame) - 4).to_bytes(4, "big")
    assert decode_raw(GVK("meta.k8s.io", "v1", "WatchEvent"), frame[4:]) == {
        "kind": "WatchEvent",
        "apiVersion": "meta.k8s.io/v1",
        "type": "ADDED",
        "object": {"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": ""}},
    }


def test_every_built_in_kind_has_a_protobuf_form() -> None:
    assert [kind.gvk for kind in KINDS if not protobuf.supports(kind.gvk)] == []
    assert not protobuf.supports(GVK("example.com", "v1", "Widget"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "it begins with b'{}'"),
        (b"k8s\0\xff", "decode a protobuf body"),
        (protobuf.envelope(GVK("example.com", "v1", "Widget"), b""), "decode example.com/v1 Widget: this kind has no"),
        (protobuf.envelope(GVK("apps", "v1", "Deployment"), b"\x0a\x05"), "decode apps/v1 Deployment: "),
        (protobuf.envelope(GVK("", "v1", "Secret"), b"\n\x03\n\x01\xff"), "decode v1 Secret: "),
        (protobuf.envelope(GVK("apps", "v1", "ControllerRevision"), b"\x12\x03\n\x01{"), "ControllerRevision: "),
        (b"k8s\0\n\x0b\n\x02v1\x12\x05Event\x1a\x04gzip", "content encodings"),
        (b"k8s\0" + bytes(protobuf.MAX_BYTES), "are more than 3145728"),
    ],
    ids=["json", "no envelope", "custom kind", "cut short", "not UTF-8", "not JSON", "compressed", "too large"],
)
def test_bad_bodies_are_refused_with_what_was_tried(body: bytes, words: str) -> None:
    with pytest.raises(ProtobufError) as refused:
        decode(body)
    assert words in str(refused.value)


def test_objects_inside_objects_without_end_are_refused() -> None:
    body = encode({"kind": "ConfigMap", "apiVersion": "v1"})
    for _ in range(400):
        body = protobuf.envelope(GVK("", "v1", "List"), b"\x12" + _delimited(b"\n" + _delimited(body)))
    with pytest.raises(ProtobufError):
        decode(body)


def nested_schema(levels: int) -> bytes:
    """A CRD whose schema has an array in an array in an array …"""
    schema = b""
    for _ in range(levels):
        schema = b"\xc2\x01" + _delimited(b"\n" + _delimited(schema))  # items: {schema: …}
    version = b"\x22" + _delimited(b"\n" + _delimited(schema))
    raw = b"\x12" + _delimited(b"\x3a" + _delimited(version))
    return protobuf.envelope(GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), raw)


def test_messages_may_be_nested_deep_but_not_without_end() -> None:
    spec = decode(nested_schema(40))["spec"]
    assert "items" in spec["versions"][0]["schema"]["openAPIV3Schema"]
    with pytest.raises(ProtobufError, match="nested more than 100 deep"):
        decode(nested_schema(60))


def _delimited(raw: bytes) -> bytes:
    size, head = len(raw), bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + raw


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": {"replicas": "many"}},
        {"spec": []},
        {"metadata": {"labels": {"a": 1}}},
        {"metadata": {"creationTimestamp": "yesterday"}},
        {"spec": {"replicas": 2**80}},
    ],
)
def test_an_object_that_does_not_fit_is_refused(wrong: Obj) -> None:
    with pytest.raises(ProtobufError, match="encode apps/v1 Deployment: a value does not fit"):
        decode(encode({"kind": "Deployment", "apiVersion": "apps/v1", **wrong}))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.integers(4, 2000), st.binary(min_size=1, max_size=8))
@example("Deployment", 40, b"\xff\xff\xff\xff\xff")
def test_damaged_bodies_decode_or_raise_the_documented_error(kind: str, at: int, noise: bytes) -> None:
    body = BODIES[kind]
    damaged = body[: at % len(body)] + noise + body[at % len(body) + len(noise) :]
    with contextlib.suppress(ProtobufError):
        decode(b"k8s\0" + damaged[4:])


NAMES = st.sampled_from(
    [
        "metadata",
        "spec",
        "labels",
        "creationTimestamp",
        "managedFields",
        "versions",
        "schema",
        "openAPIV3Schema",
        "items",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, ANYTHING, max_size=4))
@example({"metadata": {"labels": {"\ud800": ""}}})
def test_any_object_encodes_or_raises_the_documented_error(fields: Obj) -> None:
    crd = {**fields, "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1"}
    with contextlib.suppress(ProtobufError):
        encode_raw(crd)


def test_the_metadata_of_any_object_has_a_protobuf_form() -> None:
    meta = {"name": "a", "annotations": {"x": "", "b": "y"}, "ownerReferences": [{"uid": "u", "controller": False}]}
    partial: Obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    assert decode(encode(partial)) == partial


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SECRETS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.dictionaries(
            TEXT, st.binary(max_size=300).map(lambda raw: base64.b64encode(raw).decode()), min_size=1
        ),
        "stringData": st.dictionaries(TEXT, TEXT, min_size=1),
        "immutable": st.booleans(),
        "type": TEXT.filter(bool),
    },
)


@settings(max_examples=50, deadline=None)
@given(SECRETS)
def test_any_secret_survives(fields: Obj) -> None:
    secret = {"kind": "Secret", "apiVersion": "v1", **fields}
    assert decode(encode(secret)) == secret
