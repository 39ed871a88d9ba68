from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.oci.documents import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    check_image,
    parse_config,
    parse_descriptor,
    parse_manifest,
)
from havre.wire.oci.errors import InvalidDocument
from havre.wire.oci.media_types import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    compression,
)
from havre.wire.oci.platform import Platform

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def descriptor(media_type: str = OCI_LAYER, digest: str = A, size: Any = 3, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def manifest(**changes: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, B),
        "layers": [descriptor()],
        **changes,
    }
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


def index(**changes: Any) -> bytes:
    entry = descriptor(OCI_MANIFEST, C, platform={"os": "linux", "architecture": "arm", "variant": "v7"})
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry], **changes}
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


def config(**changes: Any) -> bytes:
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["A=b"], "Cmd": ["sh"], "User": "1000", "Volumes": {"/data": {}}, "Labels": {"x": "y"}},
        "rootfs": {"type": "layers", "diff_ids": [A, B]},
        **changes,
    }
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


def test_an_oci_manifest_is_read() -> None:
    found = parse_manifest(manifest(annotations={"k": "v"}), OCI_MANIFEST)
    assert isinstance(found, Manifest)
    assert found.is_image
    assert found.config.digest == B
    assert found.layers == (Descriptor(OCI_LAYER, parse_descriptor(descriptor()).digest, 3),)
    assert found.annotations == {"k": "v"}


def test_a_docker_manifest_and_list_are_read() -> None:
    docker = manifest(
        mediaType=DOCKER_MANIFEST, config=descriptor(DOCKER_CONFIG), layers=[descriptor(DOCKER_LAYER + ".gzip")]
    )
    found = parse_manifest(docker, f"{DOCKER_MANIFEST}; charset=utf-8")
    assert isinstance(found, Manifest)
    assert found.is_image
    assert compression(found.layers[0].media_type) == "gzip"
    assert isinstance(parse_manifest(index(mediaType=DOCKER_INDEX), DOCKER_INDEX), Index)


def test_an_index_names_platforms() -> None:
    found = parse_manifest(index())
    assert isinstance(found, Index)
    assert found.manifests[0].platform == Platform("linux", "arm", "v7")


def test_without_a_media_type_the_fields_or_the_registry_decide() -> None:
    assert isinstance(parse_manifest(manifest(mediaType=...)), Manifest)
    assert isinstance(parse_manifest(index(mediaType=...)), Index)
    found = parse_manifest(manifest(mediaType=..., config=descriptor(DOCKER_CONFIG)), DOCKER_MANIFEST)
    assert found.media_type == DOCKER_MANIFEST


def test_a_descriptor_is_written_as_it_was_read() -> None:
    whole = descriptor(urls=["https://x.example"], annotations={"a": "b"}, artifactType="t/x") | {
        "platform": {"os": "linux", "architecture": "arm", "variant": "v6"}
    }
    assert parse_descriptor(whole).to_json() == whole


@pytest.mark.parametrize(
    ("data", "told", "why"),
    [
        (manifest(manifests=[]), "", "means two things"),
        (index(layers=[]), "", "means two things"),
        (index(config={}), "", "means two things"),
        (manifest(mediaType=OCI_INDEX), "", "its fields are not those of"),
        (index(mediaType=OCI_MANIFEST), "", "its fields are not those of"),
        (manifest(), OCI_INDEX, "announced as"),
        (index(mediaType=...), OCI_MANIFEST, "its fields are not those of"),
        (manifest(mediaType="text/html"), "", "is not known"),
        (manifest(mediaType=7), "", "is not a string"),
        (manifest(schemaVersion=1), "", "schema 1"),
        (manifest(fsLayers=[]), "", "schema 1"),
        (manifest(schemaVersion="2"), "", "must be 2"),
        (manifest(config=...), "", "config"),
        (manifest(config=descriptor("")), "", "mediaType is missing"),
        (manifest(config=descriptor(OCI_CONFIG, size=5 * 1024 * 1024)), "", "the limit is"),
        (manifest(layers={}), "", "is not a list"),
        (manifest(layers=[descriptor()] * 513), "", "the limit is 512"),
        (manifest(layers=[descriptor(size=-1)]), "", "not a number of bytes"),
        (manifest(layers=[descriptor(size=True)]), "", "not a number of bytes"),
        (manifest(layers=[descriptor(size=1.5)]), "", "not a number of bytes"),
        (manifest(layers=[descriptor(digest="sha256:../../x")]), "", "layers[0].digest"),
        (manifest(annotations={"a": 1}), "", "is not a string"),
        (index(manifests=[descriptor()] * 1025), "", "the limit is 1024"),
        (b"[]", "", "is not an object"),
        (b"{", "", "not JSON"),
        (b"[" * 100_000, "", "not JSON"),
        (b" " * (MANIFEST_LIMIT + 1), "", "the limit is"),
    ],
)
def test_what_is_ambiguous_or_beyond_a_limit_is_refused(data: bytes, told: str, why: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_manifest(data, told)
    assert why in str(caught.value)


def test_a_configuration_is_read() -> None:
    found = parse_config(config())
    assert (found.platform, found.env, found.cmd) == (Platform("linux", "amd64"), ("A=b",), ("sh",))
    assert (found.entrypoint, found.user, found.volumes, found.labels) == ((), "1000", ("/data",), {"x": "y"})


def test_chain_ids_are_those_of_the_specification() -> None:
    assert parse_config(config()).chain_ids == (
        A,
        "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c",
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"config": {"Cmd": "sh"}}, "config.config.Cmd"),
        ({"config": {"Env": [1]}}, "Env[0]"),
        ({"config": {"User": 0}}, "is not a string"),
        ({"config": []}, "is not an object"),
        ({"rootfs": {"type": "base"}}, "only layers"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, "diff_ids[0]"),
        ({"os": ["linux"]}, "config.os"),
    ],
)
def test_a_wrong_type_in_a_configuration_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_config(config(**changes))
    assert why in str(caught.value)


def test_each_layer_needs_its_hash() -> None:
    document = parse_manifest(manifest())
    assert isinstance(document, Manifest)
    with pytest.raises(InvalidDocument, match="1 layers, its configuration 2 diff_ids"):
        check_image(document, parse_config(config()))


_FIELDS = [
    *("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "rootfs", "diff_ids"),
    *("platform", "os", "annotations", "subject", "Env", "Cmd", "Labels", "urls"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8) | st.sampled_from([A, OCI_CONFIG]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(_FIELDS),
            inner,
            max_size=8,
        )
    ),
    max_leaves=30,
)


@given(_JSON.map(json.dumps).map(str.encode) | st.binary(max_size=200), st.sampled_from(["", OCI_MANIFEST, OCI_INDEX]))
def test_any_bytes_are_a_document_or_refused(data: bytes, told: str) -> None:
    for parse in (lambda: parse_manifest(data, told), lambda: parse_config(data)):
        try:
            parse()
        except InvalidDocument as error:
            shown = str(error)
            assert len(shown) < 600


@given(st.dictionaries(st.sampled_from(["config", "layers", "subject", "annotations", "mediaType"]), _JSON))
def test_a_manifest_with_any_fields_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        parse_manifest(manifest(**changes))
    except InvalidDocument:
        return
