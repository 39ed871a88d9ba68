from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.runtime.images_world import Built, Node, build, described

from havre.node.runtime import registry
from havre.node.runtime.registry import RegistryServer, serve
from havre.wire.http.client import Client, Reply
from havre.wire.oci.digest import digest_of
from havre.wire.oci.media_types import OCI_INDEX, OCI_MANIFEST


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable, and when, is the matter of test_content."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


BLOB = b"a blob of some bytes"
DIGEST = digest_of(BLOB)


@dataclass
class Pusher:
    """A client of the registry under test."""

    node: Node
    server: RegistryServer
    http: Client

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    async def __call__(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        return await self.http.request(method, path, body=body, headers=headers)

    async def start(self, repository: str = "app") -> str:
        return (await self("POST", f"/v2/{repository}/blobs/uploads/")).headers["location"]

    async def blob(self, data: bytes, repository: str = "app") -> Reply:
        return await self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", data)

    async def manifest(self, data: bytes, what: str = "1", media_type: str = OCI_MANIFEST) -> Reply:
        return await self("PUT", f"/v2/app/manifests/{what}", data, {"content-type": media_type})

    async def push(self, image: Built, tag: str = "1") -> Reply:
        for data in image.blobs.values():
            assert (await self.blob(data)).status == 201
        return await self.manifest(image.manifest, tag)


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Pusher]:
    node = Node(tmp_path)
    server = await serve(node.images, node.content)
    try:
        async with Client(f"http://127.0.0.1:{server.port}") as http:
            yield Pusher(node, server, http)
    finally:
        await server.close()


def code(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["errors"][0]["code"]


async def test_a_pushed_image_is_unpacked_and_known_at_once(tmp_path: Path) -> None:
    image = build(b"one", b"two")
    async with serving(tmp_path) as to:
        assert (await to("GET", "/v2/")).headers["docker-distribution-api-version"] == "registry/2.0"
        reply = await to.push(image)
        assert (reply.status, reply.headers["docker-content-digest"]) == (201, image.digest)
        local = f"localhost:{to.server.port}"
        found = to.node.images.find(f"{to.name}/app:1")
        assert found is not None
        assert found.id == image.id
        assert found.pinned
        assert to.node.images.find(f"{local}/app:1") == found
        assert to.node.snapshots.unpacked[-1] == found.chain
        assert await to.node.images.pull(f"{to.name}/app:1") == found
        assert (await to.node.images.collect()).blobs == 0
        for what in ("1", image.digest):
            pulled = await to("GET", f"/v2/app/manifests/{what}")
            assert (pulled.body, pulled.headers["content-type"]) == (image.manifest, OCI_MANIFEST)
        assert (await to("HEAD", "/v2/app/manifests/1")).headers["content-length"] == str(len(image.manifest))


async def test_what_was_pushed_is_there_after_a_restart(tmp_path: Path) -> None:
    image = build(b"one")
    async with serving(tmp_path) as to:
        await to.push(image)
        port = to.server.port
    node = Node(tmp_path)
    server = await serve(node.images, node.content, port=port)
    async with Client(f"http://127.0.0.1:{port}") as http:
        assert (await http.request("GET", f"/v2/app/blobs/{image.id}")).body == image.config
        assert json.loads((await http.request("GET", "/v2/_catalog")).body) == {"repositories": ["app"]}
    await server.close()


async def test_a_blob_comes_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        place = await to.start()
        first = await to("PATCH", place, BLOB[:5], {"content-range": "0-4"})
        assert (first.status, first.headers["range"]) == (202, "0-4")
        gap = await to("PATCH", place, BLOB[9:], {"content-range": f"9-{len(BLOB) - 1}"})
        assert code(gap) == (416, "BLOB_UPLOAD_INVALID")
        assert (await to("GET", place)).headers["range"] == "0-4"
        await to("PATCH", place, BLOB[5:9])
        last = await to("PUT", f"{place}?digest={DIGEST}", BLOB[9:], {"content-range": f"9-{len(BLOB) - 1}"})
        assert (last.status, last.headers["location"]) == (201, f"/v2/app/blobs/{DIGEST}")
        assert (await to("GET", f"/v2/app/blobs/{DIGEST}")).body == BLOB
        assert (await to("GET", place)).status == 404


async def test_a_blob_under_a_wrong_name_is_refused_and_gone(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        wrong = digest_of(b"other")
        assert code(await to("POST", f"/v2/app/blobs/uploads/?digest={wrong}", BLOB)) == (400, "DIGEST_INVALID")
        place = await to.start()
        assert code(await to("PUT", f"{place}?digest=sha256:x", BLOB)) == (400, "DIGEST_INVALID")
        assert (await to("DELETE", place)).status == 204
        assert to.node.content.ingests() == []
        assert list(to.node.content.blobs()) == []


@pytest.mark.parametrize(
    ("wanted", "status", "body", "span"),
    [
        ("bytes=2-4", 206, BLOB[2:5], f"bytes 2-4/{len(BLOB)}"),
        ("bytes=15-", 206, BLOB[15:], f"bytes 15-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=-3", 206, BLOB[-3:], f"bytes {len(BLOB) - 3}-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=0-999", 206, BLOB, f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=0-1,4-5", 200, BLOB, None),
        ("lines=1-2", 200, BLOB, None),
        ("bytes=20-", 416, None, f"bytes */{len(BLOB)}"),
        ("bytes=5-2", 416, None, f"bytes */{len(BLOB)}"),
    ],
)
async def test_a_part_of_a_blob_is_given(
    tmp_path: Path, wanted: str, status: int, body: bytes | None, span: str | None
) -> None:
    async with serving(tmp_path) as to:
        await to.blob(BLOB)
        reply = await to("GET", f"/v2/app/blobs/{DIGEST}", headers={"range": wanted})
    assert (reply.status, reply.headers.get("content-range")) == (status, span)
    assert body is None or reply.body == body


async def test_a_large_blob_is_streamed_from_its_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    async with serving(tmp_path) as to:
        await to.blob(data)
        assert (await to("GET", f"/v2/app/blobs/{digest_of(data)}")).body == data
        head = await to("HEAD", f"/v2/app/blobs/{digest_of(data)}")
        assert (head.status, head.headers["content-length"]) == (200, str(len(data)))
        part = await to("GET", f"/v2/app/blobs/{digest_of(data)}", headers={"range": "bytes=1000-200999"})
        assert part.body == data[1000:201000]


async def test_a_repository_gives_out_only_what_is_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        await to.node.content.put(b"pulled with a secret")
        secret = digest_of(b"pulled with a secret")
        assert code(await to("GET", f"/v2/app/blobs/{secret}")) == (404, "BLOB_UNKNOWN")
        assert (await to("POST", f"/v2/app/blobs/uploads/?mount={secret}&from=other")).status == 202
        await to.blob(BLOB, "other")
        assert code(await to("GET", f"/v2/app/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")
        assert (await to("POST", f"/v2/app/blobs/uploads/?mount={DIGEST}&from=other")).status == 201
        assert (await to("GET", f"/v2/app/blobs/{DIGEST}")).body == BLOB
        image = json.loads(build().manifest)
        image["layers"] = [described("application/vnd.oci.image.layer.v1.tar", b"pulled with a secret")]
        assert code(await to.manifest(json.dumps(image).encode())) == (404, "MANIFEST_BLOB_UNKNOWN")


async def test_an_uploaded_blob_waits_for_its_manifest(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        await to.blob(BLOB)
        assert (await to.node.images.collect()).blobs == 0
        await to("DELETE", f"/v2/app/blobs/{DIGEST}")
        assert (await to("GET", f"/v2/app/blobs/{DIGEST}")).status == 404
        assert (await to.node.images.collect()).blobs == 1


@pytest.mark.parametrize(
    ("data", "what", "media_type", "expected"),
    [
        (b"{", "1", OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (build().manifest, "1", OCI_INDEX, (400, "MANIFEST_INVALID")),
        (build().manifest, DIGEST, OCI_MANIFEST, (400, "DIGEST_INVALID")),
        (build().manifest, "a:b", OCI_MANIFEST, (400, "MANIFEST_INVALID")),
        (build().manifest, "1", OCI_MANIFEST, (404, "MANIFEST_BLOB_UNKNOWN")),
        (b" " * (5 << 20), "1", OCI_MANIFEST, (413, "SIZE_INVALID")),
    ],
)
async def test_a_manifest_that_cannot_be_kept_is_refused(
    tmp_path: Path, data: bytes, what: str, media_type: str, expected: tuple[int, str]
) -> None:
    async with serving(tmp_path) as to:
        assert code(await to.manifest(data, what, media_type)) == expected
        assert list(to.node.images.records()) == []


def artifact(subject: bytes, kind: str, config: bytes = b"{}") -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": described("application/vnd.oci.empty.v1+json", config),
        "layers": [],
        "subject": described(OCI_MANIFEST, subject),
        "annotations": {"for": kind},
    }
    return json.dumps(document).encode()


async def test_what_refers_to_an_image_is_listed(tmp_path: Path) -> None:
    image = build(b"one")
    async with serving(tmp_path) as to:
        await to.push(image)
        await to.blob(b"{}")
        for kind in ("a/signature", "a/inventory"):
            data = artifact(image.manifest, kind)
            reply = await to.manifest(data, digest_of(data))
            assert (reply.status, reply.headers["oci-subject"]) == (201, image.digest)
        everything = await to("GET", f"/v2/app/referrers/{image.digest}")
        found = json.loads(everything.body)["manifests"]
        assert sorted(entry["artifactType"] for entry in found) == ["a/inventory", "a/signature"]
        some = await to("GET", f"/v2/app/referrers/{image.digest}?artifactType=a/signature")
        assert some.headers["oci-filters-applied"] == "artifactType"
        assert [entry["annotations"] for entry in json.loads(some.body)["manifests"]] == [{"for": "a/signature"}]
        assert json.loads((await to("GET", f"/v2/app/referrers/{DIGEST}")).body)["manifests"] == []
        assert (await to.node.images.collect()).blobs == 0
        assert len(to.node.images.list()) == 1  # an artifact is kept, and is no image


async def test_tags_are_listed_page_by_page(tmp_path: Path) -> None:
    image = build(b"one")
    async with serving(tmp_path) as to:
        assert code(await to("GET", "/v2/app/tags/list")) == (404, "NAME_UNKNOWN")
        for tag in ("c", "a", "b"):
            await to.push(image, tag)
        assert json.loads((await to("GET", "/v2/app/tags/list")).body) == {"name": "app", "tags": ["a", "b", "c"]}
        first = await to("GET", "/v2/app/tags/list?n=2")
        assert json.loads(first.body)["tags"] == ["a", "b"]
        following = first.headers["link"].partition(">")[0][1:]
        assert json.loads((await to("GET", following)).body)["tags"] == ["c"]
        assert json.loads((await to("GET", "/v2/app/tags/list?n=0")).body)["tags"] == []


async def test_a_deleted_manifest_takes_its_tags_and_its_image(tmp_path: Path) -> None:
    image = build(b"one")
    async with serving(tmp_path) as to:
        for tag in ("1", "2"):
            await to.push(image, tag)
        assert (await to("DELETE", "/v2/app/manifests/1")).status == 202
        assert code(await to("GET", "/v2/app/manifests/1")) == (404, "MANIFEST_UNKNOWN")
        assert to.node.images.find(f"{to.name}/app:2") is not None
        assert (await to("DELETE", f"/v2/app/manifests/{image.digest}")).status == 202
        assert list(to.node.images.records()) == []


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/", (404, "NAME_UNKNOWN")),
        ("GET", "/v2/APP/tags/list", (400, "NAME_INVALID")),
        ("GET", "/v2/../etc/blobs/x", (400, "NAME_INVALID")),
        ("GET", "/v2/app/blobs/passwd", (400, "DIGEST_INVALID")),
        ("PUT", f"/v2/app/blobs/{DIGEST}", (404, "BLOB_UNKNOWN")),
        ("GET", "/v2/app/blobs/uploads/", (405, "UNSUPPORTED")),
        ("PATCH", "/v2/app/blobs/uploads/none", (404, "BLOB_UPLOAD_UNKNOWN")),
        ("POST", "/v2/app/manifests/1", (405, "UNSUPPORTED")),
        ("GET", "/v2/app/referrers/x", (400, "DIGEST_INVALID")),
    ],
)
async def test_what_is_not_served_says_so_in_the_words_of_the_specification(
    tmp_path: Path, method: str, path: str, expected: tuple[int, str]
) -> None:
    async with serving(tmp_path) as to:
        assert code(await to(method, path)) == expected


async def test_a_web_page_cannot_reach_it_under_a_name_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        assert (await to("GET", "/v2/", headers={"host": "evil.example:5000"})).status == 421
        assert (await to("GET", "/v2/", headers={"host": f"localhost:{to.server.port}"})).status == 200


async def test_an_upload_of_another_repository_is_not_touched(tmp_path: Path) -> None:
    async with serving(tmp_path) as to:
        place = (await to.start("app")).replace("/app/", "/other/")
        assert code(await to("PATCH", place, b"x")) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_only_root_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build()
    async with serving(tmp_path) as push:
        await push.push(image)
        asked: list[tuple[tuple[str, int], tuple[str, int]]] = []

        def nobody(client: tuple[str, int], server: tuple[str, int]) -> bool:
            asked.append((client, server))
            return False

        monkeypatch.setattr(registry, "may_push", nobody)
        assert code(await push("POST", "/v2/app/blobs/uploads/")) == (403, "DENIED")
        assert code(await push.manifest(image.manifest, "evil")) == (403, "DENIED")
        assert code(await push("DELETE", "/v2/app/manifests/1")) == (403, "DENIED")
        assert (await push("GET", "/v2/app/manifests/1")).status == 200
        client, server = asked[0]
        assert (client[0], server) == ("127.0.0.1", ("127.0.0.1", push.server.port))
        assert client[1] not in (0, push.server.port)
