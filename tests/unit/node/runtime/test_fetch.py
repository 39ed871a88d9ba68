from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.node.runtime.images_world import Store, registry

from havre.node.runtime.content import Content, Mismatch
from havre.node.runtime.fetch import Fetcher
from havre.wire.oci.digest import digest_of
from havre.wire.oci.documents import Descriptor
from havre.wire.oci.errors import InvalidDocument
from havre.wire.oci.registry import Endpoint, RegistryClient


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable, and when, is the matter of test_content."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


BLOB = b"layer" * 100
WANTED = Descriptor("t", digest_of(BLOB), len(BLOB))
BAD = bytes(len(BLOB))


def client(*stores: Store) -> RegistryClient:
    return RegistryClient("r.example", [Endpoint(f"http://{store.name}/v2") for store in stores])


async def test_a_mirror_with_other_bytes_does_not_spoil_what_the_registry_has(tmp_path: Path) -> None:
    content = Content(tmp_path)
    bad, good = registry(blobs={WANTED.digest: BAD}), registry(blobs={WANTED.digest: BLOB})
    async with bad as mirror, good as own, client(mirror, own) as both:
        await Fetcher(content).blob(both, "app", WANTED)
    assert content.read(WANTED.digest, 1000) == BLOB
    assert content.ingests() == []


async def test_when_all_have_other_bytes_the_fetch_fails(tmp_path: Path) -> None:
    content = Content(tmp_path)
    async with registry(blobs={WANTED.digest: BAD}) as store, client(store) as only:
        with pytest.raises(Mismatch, match="was promised"):
            await Fetcher(content).blob(only, "app", WANTED)
    assert not content.has(WANTED.digest)


async def test_a_fetch_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    content = Content(tmp_path)
    async with await content.writer(f"fetch-{WANTED.digest}") as writer:
        await writer.write(BLOB[:200])
    async with registry(blobs={WANTED.digest: BLOB}) as store, client(store) as only:
        await Fetcher(content).blob(only, "app", WANTED)
    assert content.read(WANTED.digest, 1000) == BLOB


async def test_a_blob_that_is_there_under_another_size_is_refused(tmp_path: Path) -> None:
    content = Content(tmp_path)
    await content.put(BLOB)
    wrong = Descriptor("t", WANTED.digest, 7)
    async with client() as nobody:
        await Fetcher(content).blob(nobody, "app", WANTED)
        with pytest.raises(InvalidDocument, match="it has 500 bytes, the manifest says 7"):
            await Fetcher(content).blob(nobody, "app", wrong)


async def test_a_manifest_that_would_be_too_long_is_not_asked_for(tmp_path: Path) -> None:
    async with client() as nobody:
        with pytest.raises(InvalidDocument, match="the limit is"):
            await Fetcher(Content(tmp_path)).manifest(nobody, "app", Descriptor("t", WANTED.digest, 5 << 20))
