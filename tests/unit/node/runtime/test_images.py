from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.runtime.images_world import Built, Node, Store, build, described, index_of, registry

from havre.node.runtime.errors import Invalid, NotFound
from havre.node.runtime.images import ImageError
from havre.node.runtime.snapshots import ChainId
from havre.node.runtime.unpackers import BadLayer
from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import serve
from havre.wire.oci.digest import Digest, digest_of
from havre.wire.oci.media_types import OCI_LAYER, OCI_MANIFEST


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable, and when, is the matter of test_content."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


async def test_a_pulled_image_is_found_by_all_its_names(tmp_path: Path) -> None:
    image = build(b"one", b"two", Cmd=["sh"], Env=["A=b"], Labels={"containerd.io/restart.status": "running"})
    node = Node(tmp_path)
    async with registry() as store:
        store.add("1", image)
        pulled = await node.images.pull(f"{store.name}/app:1")
        name = f"{store.name}/app"
    assert (pulled.id, pulled.manifest) == (image.id, image.digest)
    assert (pulled.tags, pulled.digests) == ((f"{name}:1",), (f"{name}@{image.digest}",))
    assert (pulled.config.cmd, pulled.config.env) == (("sh",), ("A=b",))
    assert pulled.size == len(image.manifest) + len(image.config) + sum(map(len, image.layers))
    assert node.snapshots.unpacked[-1] == pulled.chain == ChainId(pulled.config.chain_ids[-1])
    for text in (
        f"{name}:1",
        f"{name}@{image.digest}",
        f"{name}:x@{image.digest}",
        image.id,
        image.id[7:],
        image.id[7:19],
    ):
        assert node.images.find(text) == pulled
    for text in ("app:1", f"{name}:2", image.id[7:10], image.digest, "", "sha256:", "%"):
        assert node.images.find(text) is None
    assert list(node.images.list()) == [pulled]


async def test_names_survive_a_restart_and_a_second_pull_fetches_nothing(tmp_path: Path) -> None:
    image = build(b"one")
    async with registry() as store:
        store.add("1", image)
        pulled = await Node(tmp_path).images.pull(f"{store.name}/app:1")
        store.asked.clear()
        after = Node(tmp_path)
        assert list(after.images.list()) == [pulled]
        assert await after.images.pull(f"{store.name}/app:1") == pulled
        assert store.asked == ["HEAD manifests/1"]


async def test_of_an_index_the_image_for_this_machine_is_pulled(tmp_path: Path) -> None:
    here, there = build(b"amd64"), build(b"arm64", platform="linux/arm64")
    index = index_of(("linux/arm64", there), ("linux/amd64", here))
    node = Node(tmp_path)
    async with registry() as store:
        store.add("here", here)
        store.add("there", there)
        store.manifests |= {"1": index, digest_of(index): index}
        pulled = await node.images.pull(f"{store.name}/app:1")
        assert pulled.id == here.id
        assert pulled.digests == (f"{store.name}/app@{digest_of(index)}",)
        assert not node.content.has(there.id)
        with pytest.raises(ImageError, match="the image is for linux/arm64, this machine is linux/amd64"):
            await node.images.pull(f"{store.name}/app:there")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (index_of(("windows/amd64", build())), "no image for linux/amd64; there are: windows/amd64"),
        (index_of(), "no image for linux/amd64; there are: none"),
        (
            json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [], "manifests": []}).encode(),
            "two things",
        ),
        (
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": described("application/vnd.helm.config", b"{}"),
                }
            ).encode(),
            "not an image: its configuration is a 'application/vnd.helm.config'",
        ),
    ],
)
async def test_what_is_no_image_for_this_machine_is_refused(tmp_path: Path, document: bytes, why: str) -> None:
    node = Node(tmp_path)
    async with registry() as store:
        store.manifests |= {"1": document, digest_of(document): document}
        with pytest.raises(ImageError, match=why):
            await node.images.pull(f"{store.name}/app:1")
    assert list(node.images.records()) == []


async def test_an_index_of_indexes_ends(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with registry() as store:
        document = build(b"x").manifest
        for _ in range(5):
            entry = described(
                "application/vnd.oci.image.index.v1+json" if b"manifests" in document else OCI_MANIFEST, document
            )
            store.manifests[digest_of(document)] = document
            document = json.dumps(
                {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
            ).encode()
        store.manifests |= {"1": document, digest_of(document): document}
        with pytest.raises(ImageError, match="more than 3 times"):
            await node.images.pull(f"{store.name}/app:1")


async def test_an_index_with_one_child_five_hundred_times_costs_one_fetch(tmp_path: Path) -> None:
    image = build(b"one")
    index = index_of(*[("linux/amd64", image)] * 500)
    async with registry() as store:
        store.add("image", image)
        store.manifests |= {"1": index, digest_of(index): index}
        await Node(tmp_path).images.pull(f"{store.name}/app:1")
        assert store.fetched("manifests") == [digest_of(index), image.digest]


async def test_a_reference_that_is_none_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="lower case"):
        await Node(tmp_path).images.pull("NGINX")


async def test_what_the_registry_does_not_have_is_not_found(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with registry() as store:
        with pytest.raises(NotFound, match="app:1"):
            await node.images.pull(f"{store.name}/app:1")


async def test_a_blob_with_another_hash_leaves_no_name(tmp_path: Path) -> None:
    image = build(b"one")
    node = Node(tmp_path)
    async with registry() as store:
        store.add("1", image)
        store.blobs[digest_of(image.layers[0])] = bytes(len(image.layers[0]))
        with pytest.raises(ImageError, match="was promised"):
            await node.images.pull(f"{store.name}/app:1")
        assert list(node.images.records()) == []
        assert node.content.ingests() == []
        store.add("1", image)
        await node.images.pull(f"{store.name}/app:1")


async def test_a_layer_that_cannot_be_unpacked_leaves_no_name(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.snapshots.refuse = BadLayer("layer x: damaged")
    async with registry() as store:
        store.add("1", build(b"one"))
        with pytest.raises(ImageError, match="unpack: layer x: damaged"):
            await node.images.pull(f"{store.name}/app:1")
    assert list(node.images.records()) == []


async def test_layers_that_nobody_can_unpack_are_refused(tmp_path: Path) -> None:
    image = build(b"one")
    document = json.loads(image.manifest)
    document["layers"][0]["mediaType"] = f"{OCI_LAYER}+encrypted"
    manifest = json.dumps(document).encode()
    async with registry() as store:
        store.add("x", image)
        store.manifests |= {"1": manifest, digest_of(manifest): manifest}
        with pytest.raises(ImageError, match="cannot be unpacked"):
            await Node(tmp_path).images.pull(f"{store.name}/app:1")


async def test_two_pulls_at_once_fetch_each_blob_once(tmp_path: Path) -> None:
    one, two = build(b"shared", b"one"), build(b"shared", b"two")
    node = Node(tmp_path)
    async with registry() as store:
        store.add("1", one)
        store.add("2", two)
        await asyncio.gather(*[node.images.pull(f"{store.name}/app:{tag}") for tag in ("1", "2", "1", "2")])
        fetched = store.fetched("blobs")
    assert len(fetched) == len(set(fetched)) == 5
    assert len(node.images.list()) == 2


async def test_three_layers_are_fetched_at_once_and_unpacked_as_they_come(tmp_path: Path) -> None:
    image = build(*(b"layer %d" % n for n in range(5)))
    layers = [digest_of(layer) for layer in image.layers]
    store = Store()
    store.add("1", image)
    running: list[str] = []
    full, unpacked = asyncio.Event(), asyncio.Event()
    gates = {digest: asyncio.Event() for digest in layers}

    async def slow(request: Request) -> Answer:
        what = request.path.rpartition("/")[2]
        if what in layers and request.method == "GET":
            running.append(what)
            if len(running) == 3:
                full.set()
            await gates[Digest(what)].wait()
        answer = store(request)
        assert isinstance(answer, Response)
        return answer

    server = await serve(slow)
    node = Node(tmp_path)
    node.snapshots.on_unpack = unpacked.set
    pulling = asyncio.ensure_future(node.images.pull(f"127.0.0.1:{server.port}/app:1"))
    await full.wait()
    assert set(running) == set(layers[:3])
    gates[layers[1]].set()
    gates[layers[0]].set()
    await unpacked.wait()
    for gate in gates.values():
        gate.set()
    image_there = await pulling
    await server.close()
    assert node.snapshots.unpacked[-1] == image_there.chain
    assert set(node.snapshots.unpacked) <= set(image_there.config.chain_ids)


async def test_a_tag_that_moves_leaves_the_old_image_without_it(tmp_path: Path) -> None:
    old, new = build(b"old"), build(b"new")
    node = Node(tmp_path)
    async with registry() as store:
        for image in (old, new):
            store.add("1", image)
            await node.images.pull(f"{store.name}/app:1")
        name = f"{store.name}/app"
    before, after = node.images.find(old.id), node.images.find(f"{name}:1")
    assert before is not None
    assert after is not None
    assert (before.tags, before.digests) == ((), (f"{name}@{old.digest}",))
    assert (after.id, after.tags) == (new.id, (f"{name}:1",))


async def two_tags(node: Node, store: Store, image: Built) -> str:
    for tag in ("1", "2"):
        store.add(tag, image)
        await node.images.pull(f"{store.name}/app:{tag}")
    return f"{store.name}/app"


async def test_the_last_tag_takes_the_image_with_it(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build(b"one")
    async with registry() as store:
        name = await two_tags(node, store, image)
    await node.images.remove(f"{name}:1")
    left = node.images.find(image.id)
    assert left is not None
    assert left.tags == (f"{name}:2",)
    await node.images.remove(f"{name}:2")
    assert node.images.find(image.id) is None
    assert list(node.images.records()) == []
    await node.images.remove(f"{name}:2")


async def test_by_its_id_an_image_goes_with_all_names(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build(b"one")
    async with registry() as store:
        await two_tags(node, store, image)
    await node.images.remove(image.id[7:19])
    assert list(node.images.records()) == []


async def test_garbage_is_what_no_name_and_no_container_needs(tmp_path: Path) -> None:
    node, one, two = Node(tmp_path), build(b"shared", b"one"), build(b"shared", b"two")
    async with registry() as store:
        store.add("1", one)
        store.add("2", two)
        for tag in ("1", "2"):
            await node.images.pull(f"{store.name}/app:{tag}")
        kept = node.images.find(f"{store.name}/app:1")
        assert (await node.images.collect()).blobs == 0
        await node.images.remove(f"{store.name}/app:2")
    used = ChainId("sha256:" + "c" * 64)
    freed = await node.images.collect([used])
    assert kept is not None
    assert (freed.blobs, freed.bytes) == (3, len(two.manifest) + len(two.config) + len(two.layers[1]))
    assert node.snapshots.kept == {used, *kept.config.chain_ids}
    assert {blob.digest for blob in node.content.blobs()} == {one.digest, *one.blobs}


async def test_garbage_is_not_what_a_pull_is_bringing(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build(b"one")
    collected: list[Any] = []

    async with registry() as store:
        store.add("1", image)
        unpack = node.snapshots.unpack

        async def collecting(layers: Any) -> ChainId:
            collected.append(await node.images.collect())
            return await unpack(layers)

        node.snapshots.unpack = collecting  # type: ignore[method-assign]
        pulled = await node.images.pull(f"{store.name}/app:1")
    assert collected[0].blobs == 0
    assert node.snapshots.kept == {ChainId(chain) for chain in pulled.config.chain_ids}
    assert all(node.content.has(Digest(digest)) for digest in image.blobs)


async def test_a_damaged_manifest_is_fetched_again(tmp_path: Path) -> None:
    image = build(b"one")
    async with registry() as store:
        store.add("1", image)
        await Node(tmp_path).images.pull(f"{store.name}/app:1")
        path = Node(tmp_path).content.path(image.digest)
        path.chmod(0o600)
        path.write_bytes(b"")
        node = Node(tmp_path)
        assert list(node.images.list()) == []
        pulled = await node.images.pull(f"{store.name}/app:1")
    assert node.images.find(image.id) == pulled


async def test_a_layer_that_the_disk_spoiled_is_fetched_again_by_the_next_pull(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build(b"one")
    async with registry() as store:
        store.add("1", image)
        reference = f"{store.name}/app:1"
        await node.images.pull(reference)
        layer = node.content.path(digest_of(image.layers[0]))
        layer.chmod(0o600)
        layer.write_bytes(bytes(len(image.layers[0])))
        node.snapshots.refuse = BadLayer("damaged")
        with pytest.raises(ImageError, match="damaged"):
            await node.images.pull(reference)
        node.snapshots.refuse = None
        await node.images.pull(reference)
    assert node.content.read(digest_of(image.layers[0]), 1 << 20) == image.layers[0]


async def test_a_pinned_image_says_so_until_it_is_not(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build(b"one")
    async with registry() as store:
        store.add("1", image)
        name = f"{store.name}/app:1"
        await node.images.pull(name)
        await node.images.pin(name)
        assert (await node.images.pull(name)).pinned
        await node.images.pin(name, pinned=False)
    found = Node(tmp_path).images.find(name)
    assert found is not None
    assert not found.pinned
    with pytest.raises(NotFound):
        await node.images.pin("docker.io/library/none:1")


async def test_an_image_without_layers_stands_on_nothing(tmp_path: Path) -> None:
    node, image = Node(tmp_path), build()
    async with registry() as store:
        store.add("1", image)
        assert (await node.images.pull(f"{store.name}/app:1")).chain == ""


async def test_layers_and_their_hashes_must_be_as_many(tmp_path: Path) -> None:
    image = build(b"one")
    document = json.loads(image.manifest)
    extra = gzip.compress(b"x")
    document["layers"].append(described(f"{OCI_LAYER}+gzip", extra))
    manifest = json.dumps(document).encode()
    async with registry(blobs={digest_of(extra): extra}) as store:
        store.add("x", image)
        store.manifests |= {"1": manifest, digest_of(manifest): manifest}
        with pytest.raises(ImageError, match="2 layers, its configuration 1 diff_ids"):
            await Node(tmp_path).images.pull(f"{store.name}/app:1")
