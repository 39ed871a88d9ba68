"""skopeo and Debian's docker-registry against our client, our store and our registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.unit.node.runtime.images_world import Built, Node, build

from havre.node.runtime.hosts import Hosts
from havre.node.runtime.registry import RegistryServer, serve
from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError

pytestmark = pytest.mark.skipif(
    not (shutil.which("skopeo") and shutil.which("docker-registry")),
    reason="skopeo or docker-registry is not installed",
)

LAYER = 8 * 1024 * 1024


def layout(place: Path, image: Built) -> str:
    """The image as an OCI layout; returns what skopeo calls it."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in {**image.blobs, image.digest: image.manifest}.items():
        (blobs / digest[7:]).write_bytes(data)
    entry = {
        "mediaType": json.loads(image.manifest)["mediaType"],
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci:{place}:x"


async def skopeo(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "skopeo", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def push(source: str, target: str) -> None:
    await skopeo("copy", "--dest-tls-verify=false", source, f"docker://{target}")


@contextlib.contextmanager
def docker_registry(place: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = place / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {place}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def answering(name: str) -> str:
    """Wait until the registry is up."""
    async with asyncio.timeout(20), Client(f"http://{name}") as client:
        while True:
            try:
                await client.request("GET", "/v2/")
            except HttpError:
                await asyncio.sleep(0.05)
            else:
                return name


@pytest.fixture
def image() -> Built:
    return build(os.urandom(LAYER), b"small", Cmd=["sh"], Env=["A=b"])


@pytest_asyncio.fixture
async def ours(tmp_path: Path) -> AsyncIterator[tuple[Node, RegistryServer]]:
    node = Node(tmp_path / "ours")
    server = await serve(node.images, node.content)
    yield node, server
    await server.close()


async def test_skopeo_pushes_to_our_registry_and_gets_the_same_back(
    tmp_path: Path, image: Built, ours: tuple[Node, RegistryServer]
) -> None:
    node, server = ours
    name = f"127.0.0.1:{server.port}/team/app:1"
    await push(layout(tmp_path / "source", image), name)
    found = node.images.find(name)
    assert found is not None
    assert (found.id, found.manifest, found.config.cmd) == (image.id, image.digest, ("sh",))
    await skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path / 'back'}:x")
    written = {f.name: f.read_bytes() for f in (tmp_path / "back" / "blobs" / "sha256").iterdir()}
    assert written == {digest[7:]: data for digest, data in {**image.blobs, image.digest: image.manifest}.items()}
    tags = json.loads(await skopeo("list-tags", "--tls-verify=false", f"docker://127.0.0.1:{server.port}/team/app"))
    assert tags["Tags"] == ["1"]
    await skopeo("delete", "--tls-verify=false", f"docker://{name}")
    assert node.images.find(name) is None


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
async def test_archives_of_skopeo_are_imported(tmp_path: Path, image: Built, form: str) -> None:
    file = tmp_path / "image.tar"
    await skopeo("copy", layout(tmp_path / "source", image), f"{form}:{file}:quay.io/team/app:1")
    found = await Node(tmp_path / "node").images.import_archive(file)
    assert [(i.id, i.tags) for i in found] == [(image.id, ("quay.io/team/app:1",))]


async def test_images_are_pulled_from_debians_registry_and_over_a_mirror(tmp_path: Path, image: Built) -> None:
    (tmp_path / "certs.d" / "_default").mkdir(parents=True)
    with docker_registry(tmp_path) as name:
        await push(layout(tmp_path / "source", image), f"{await answering(name)}/team/app:1")
        (tmp_path / "certs.d" / "_default" / "hosts.toml").write_text(f'[host."http://{name}"]\n')
        node = Node(tmp_path / "node", Hosts(tmp_path / "certs.d"))
        direct = await node.images.pull(f"{name}/team/app:1")
        mirrored = await node.images.pull("registry.k8s.io/team/app:1")
    assert (direct.id, direct.digests) == (image.id, (f"{name}/team/app@{image.digest}",))
    assert "registry.k8s.io/team/app:1" in mirrored.tags


PULL = """
import asyncio, sys
from pathlib import Path
from tests.unit.node.runtime.images_world import Node
asyncio.run(Node(Path(sys.argv[1])).images.pull(sys.argv[2]))
"""


def begun(ingests: Path) -> bool:
    """A part of the large layer is on the disk."""
    with contextlib.suppress(FileNotFoundError):
        return any(file.stat().st_size > 100_000 for file in ingests.glob("*/data"))
    return False


async def test_a_pull_that_is_killed_goes_on_where_it_was(tmp_path: Path, image: Built) -> None:
    with docker_registry(tmp_path) as name:
        await push(layout(tmp_path / "source", image), f"{await answering(name)}/team/app:1")
        reference = f"{name}/team/app:1"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PULL, str(tmp_path / "node"), reference, env=environment
        )
        async with asyncio.timeout(30):
            while not begun(tmp_path / "node" / "content" / "ingest") and process.returncode is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        if process.returncode is None:
            process.kill()
        await process.wait()
        node = Node(tmp_path / "node")
        pulled = await node.images.pull(reference)
    assert pulled.id == image.id
    assert node.content.ingests() == []
    assert {blob.digest for blob in node.content.blobs()} == {image.digest, *image.blobs}
