from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.node.runtime.images_world import Built, Node, build, described, tar

from havre.node.runtime.archive import ArchiveError, read_archive
from havre.node.runtime.content import Content, ContentError
from havre.node.runtime.images import ImageError
from havre.wire.oci.digest import Digest, digest_of
from havre.wire.oci.errors import OciError
from havre.wire.oci.media_types import OCI_MANIFEST


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable, and when, is the matter of test_content."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def oci_layout(image: Built, **annotations: str) -> dict[str, bytes]:
    entry = described(OCI_MANIFEST, image.manifest, annotations=annotations)
    blobs = {**image.blobs, image.digest: image.manifest}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return {
        **{f"blobs/sha256/{digest[7:]}": data for digest, data in blobs.items()},
        "index.json": index,
        "oci-layout": LAYOUT,
    }


def docker_save(image: Built, *tags: str) -> dict[str, bytes]:
    layers = {f"{n}/layer.tar": gzip.decompress(layer) for n, layer in enumerate(image.layers)}
    manifest = [{"Config": f"{image.id[7:]}.json", "RepoTags": list(tags) or None, "Layers": list(layers)}]
    return {**layers, f"{image.id[7:]}.json": image.config, "manifest.json": json.dumps(manifest).encode()}


def write(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(tar(files))
    return path


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"io.containerd.image.name": "docker.io/library/app:1"}, "docker.io/library/app:1"),
        ({"org.opencontainers.image.ref.name": "quay.io/x/app:2"}, "quay.io/x/app:2"),
        ({"org.opencontainers.image.ref.name": "app:3"}, "docker.io/library/app:3"),
        ({"org.opencontainers.image.ref.name": "4"}, "localhost/imported:4"),
    ],
)
async def test_an_oci_layout_is_imported_under_its_name(tmp_path: Path, annotations: dict[str, str], name: str) -> None:
    node, image = Node(tmp_path / "node"), build(b"one", b"two")
    found = await node.images.import_archive(write(tmp_path / "a.tar", oci_layout(image, **annotations)))
    assert [(i.id, i.tags, i.digests) for i in found] == [(image.id, (name,), ())]
    assert node.snapshots.unpacked == [found[0].chain]
    assert (await node.images.collect()).blobs == 2  # index.json and oci-layout


async def test_what_docker_saves_is_imported_with_all_its_tags(tmp_path: Path) -> None:
    node, image = Node(tmp_path / "node"), build(b"one", b"two", Cmd=["sh"])
    found = await node.images.import_archive(write(tmp_path / "a.tar", docker_save(image, "app:1", "quay.io/x/app:2")))
    assert [(i.id, i.tags, i.config.cmd) for i in found] == [
        (image.id, ("docker.io/library/app:1", "quay.io/x/app:2"), ("sh",))
    ]
    assert found[0].layers[0].descriptor.media_type == "application/vnd.oci.image.layer.v1.tar"


async def test_a_name_can_be_given_to_what_has_none(tmp_path: Path) -> None:
    node, image = Node(tmp_path / "node"), build(b"one")
    archive = write(tmp_path / "a.tar", docker_save(image))
    nameless = (await node.images.import_archive(archive))[0]
    assert nameless.tags == ()
    assert nameless.digests[0].startswith("localhost/imported@sha256:")
    assert (await node.images.import_archive(archive, "app:9"))[0].tags == ("docker.io/library/app:9",)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
async def test_a_compressed_archive_is_read_too(tmp_path: Path, pack: object) -> None:
    image = build(b"one")
    path = tmp_path / "a.tar.x"
    path.write_bytes(pack(tar(docker_save(image, "app:1"))))  # type: ignore[operator]
    assert (await Node(tmp_path / "node").images.import_archive(path))[0].id == image.id


async def test_layers_that_link_to_another_are_found(tmp_path: Path) -> None:
    image = build(b"one", b"one")
    files = docker_save(image, "app:1")
    del files["1/layer.tar"]
    buffer = io.BytesIO(tar(files))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        entry = tarfile.TarInfo("1/layer.tar")
        entry.type, entry.linkname = tarfile.SYMTYPE, "../0/layer.tar"
        archive.addfile(entry)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert (await Node(tmp_path / "node").images.import_archive(tmp_path / "a.tar"))[0].id == image.id


async def test_a_name_that_climbs_out_writes_nothing_and_finds_nothing(tmp_path: Path) -> None:
    node, image = Node(tmp_path / "node"), build(b"one")
    (tmp_path / "secret").write_bytes(image.config)
    files = {
        "../../evil": b"x",
        "/etc/evil": b"x",
        "manifest.json": json.dumps([{"Config": "../../secret", "Layers": ["../../../../etc/passwd"]}]).encode(),
    }
    with pytest.raises(ArchiveError, match="does not hold"):
        await node.images.import_archive(write(tmp_path / "a.tar", files))
    assert not (tmp_path / "evil").exists()
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "node", "secret"]  # noqa: PTH208


def changed(index: int, image: Built, name: str, data: bytes) -> dict[str, bytes]:
    files = (oci_layout(image, **{"org.opencontainers.image.ref.name": "a:1"}), docker_save(image, "a:1"))[index]
    return {**files, name: data}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"x": b"y"}, "neither an OCI layout"),
        (changed(1, build(b"a"), "manifest.json", b"{}"), "must be a list"),
        (changed(1, build(b"a"), "manifest.json", b"["), "not JSON"),
        (changed(1, build(b"a"), "manifest.json", b"[]"), "holds no image"),
        (changed(1, build(b"a"), "manifest.json", b'[{"Config": 5}]'), "does not hold"),
        (
            changed(1, build(b"a"), "manifest.json", b'[{"Config": "manifest.json", "Layers": 5}]'),
            "must be a list of at most",
        ),
        (changed(1, build(b"a"), "manifest.json", b'[{"Config": "manifest.json", "RepoTags": [5]}]'), "list of names"),
        (changed(1, build(b"a"), "manifest.json", b'[{"Config": "manifest.json", "RepoTags": ["A"]}]'), "lower case"),
        (changed(1, build(b"a"), "manifest.json", b" " * (5 << 20)), "longer than"),
        (changed(0, build(b"a"), "index.json", b'{"schemaVersion": 2}'), "holds no image"),
        (changed(0, build(b"a"), f"blobs/sha256/{build(b'a').id[7:]}", b"{}"), "not in the content store"),
    ],
)
async def test_an_archive_that_is_none_is_refused(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    node = Node(tmp_path / "node")
    with pytest.raises((ArchiveError, ImageError)) as caught:
        await node.images.import_archive(write(tmp_path / "a.tar", files))
    assert why in str(caught.value)
    assert list(node.images.records()) == []


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"none\.tar: No such file"):
        await Node(tmp_path / "node").images.import_archive(tmp_path / "none.tar")


_WHOLE = tar(docker_save(build(b"one"), "a:1"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    st.binary(max_size=600)
    | st.tuples(st.integers(0, len(_WHOLE) - 1), st.binary(min_size=1, max_size=8)).map(
        lambda change: _WHOLE[: change[0]] + change[1] + _WHOLE[change[0] + len(change[1]) :]
    )
)
def test_any_bytes_are_an_archive_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    content = Content(tmp_path / "content")
    held: list[Digest] = []
    try:
        found = read_archive(path, content, held.append)
    except (ArchiveError, OciError, ContentError):
        return
    assert {entry.target.digest for entry in found} <= set(held)
    assert digest_of(content.read(found[0].target.digest, 1 << 20)) == found[0].target.digest
