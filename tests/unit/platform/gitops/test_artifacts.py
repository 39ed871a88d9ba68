from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from havre.api.meta import GVK
from havre.machinery.api import Ref
from havre.platform.gitops.artifacts import (
    Artifact,
    ArtifactCorrupt,
    ArtifactError,
    ArtifactGone,
    Storage,
    download,
    fetch,
    serve,
    sweep,
)
from havre.platform.gitops.tar import Limits
from havre.wire.http.client import Client

OWNER = Ref(GVK("source.toolkit.fluxcd.io", "v1", "GitRepository"), "apps", "podinfo")
FILES = {"deploy/app.yaml": b"kind: Deployment\n", "README.md": b"# podinfo\n"}


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = Storage(tmp_path / "artifacts", "http://unused", clock=lambda: 1_700_000_000.0)
    server = await serve(storage, "127.0.0.1", 0)
    storage.url = f"http://127.0.0.1:{server.port}"
    yield storage
    await server.close()


async def test_what_was_packed_is_fetched(storage: Storage, tmp_path: Path) -> None:
    artifact = await storage.archive(OWNER, FILES, revision="main@sha1:abc", metadata={"a": "b"})
    assert artifact.path == f"gitrepository/apps/podinfo/{artifact.digest.removeprefix('sha256:')}.tar.gz"
    assert artifact.last_update_time == "2023-11-14T22:13:20Z"
    assert Artifact.of(artifact.status()) == artifact
    await fetch(artifact.status(), tmp_path / "into")
    found = {str(p.relative_to(tmp_path / "into")): p.read_bytes() for p in (tmp_path / "into").rglob("*.*")}
    assert found == FILES


async def test_equal_content_is_the_same_artifact(storage: Storage) -> None:
    first = await storage.archive(OWNER, FILES, revision="1")
    second = await storage.archive(OWNER, dict(reversed(FILES.items())), revision="2")
    assert (first.digest, first.path) == (second.digest, second.path)


async def test_a_chart_is_kept_as_it_is(storage: Storage) -> None:
    artifact = await storage.put(OWNER, b"chart", "podinfo-6.0.0+1.tgz", revision="6.0.0")
    assert artifact.path == "gitrepository/apps/podinfo/podinfo-6.0.0+1.tgz"
    assert await download(artifact.status()) == b"chart"
    with pytest.raises(ArtifactError):
        await storage.put(OWNER, b"", "../escape", revision="")


async def test_only_artifacts_are_served(storage: Storage, tmp_path: Path) -> None:
    artifact = await storage.archive(OWNER, FILES, revision="1")
    (tmp_path / "secret").write_text("no")
    async with Client(storage.url) as client:
        head = await client.request("HEAD", f"/{artifact.path}")
        answers = [
            (await client.request("GET", path)).status
            for path in ("/", "/gitrepository/apps/podinfo/../../../../secret", "/gitrepository/apps/podinfo", "//////")
        ]
        put = await client.request("PUT", f"/{artifact.path}")
    assert (head.status, head.headers["content-length"]) == (200, str(artifact.size))
    assert answers == [404, 404, 404, 404]
    assert put.status == 405


async def test_a_lost_artifact_is_gone_and_a_changed_one_corrupt(storage: Storage, tmp_path: Path) -> None:
    artifact = await storage.archive(OWNER, FILES, revision="1")
    assert await storage.intact(artifact)
    wrong = {**artifact.status(), "digest": "sha256:" + "0" * 64}
    with pytest.raises(ArtifactCorrupt, match="digest"):
        await fetch(wrong, tmp_path / "a")
    (storage.root / artifact.path).write_bytes(b"x")
    with pytest.raises(ArtifactCorrupt, match="digest"):
        await fetch(artifact.status(), tmp_path / "b")
    assert not await storage.intact(artifact)
    assert not (storage.root / artifact.path).exists()
    with pytest.raises(ArtifactGone):
        await fetch(artifact.status(), tmp_path / "c")


async def test_a_bomb_is_refused(storage: Storage, tmp_path: Path) -> None:
    artifact = await storage.archive(OWNER, {"zeros": bytes(100_000)}, revision="1")
    with pytest.raises(ArtifactCorrupt, match="more than"):
        await fetch(artifact.status(), tmp_path / "a", limits=Limits(size=99_999))
    with pytest.raises(ArtifactCorrupt, match="longer"):
        await fetch({**artifact.status(), "size": 10}, tmp_path / "b")


@pytest.mark.parametrize(
    "shown", [{"url": 7}, {"url": "file:///etc/passwd", "digest": "sha256:" + "0" * 64}, {"url": "http://x", "size": 1}]
)
async def test_a_broken_status_is_an_error(shown: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        await fetch(shown, tmp_path / "x")


async def test_a_refused_connection_says_where(tmp_path: Path) -> None:
    shown = {"url": "http://127.0.0.1:1/a/b/c/d.tar.gz", "digest": "sha256:" + "0" * 64, "size": 1}
    with pytest.raises(ArtifactError, match=r"127\.0\.0\.1:1"):
        await fetch(shown, tmp_path / "x")


async def test_two_artifacts_stay_for_a_minute_and_the_current_one_for_ever(storage: Storage) -> None:
    made = [await storage.archive(OWNER, {"f": bytes([n])}, revision=str(n)) for n in range(4)]
    for age, artifact in zip((30, 20, 10, 900), made, strict=True):
        os.utime(storage.root / artifact.path, (1_700_000_000 - age,) * 2)
    assert sorted(await storage.collect(OWNER, made[3])) == sorted([made[0].path, made[1].path])
    os.utime(storage.root / made[2].path, (1_700_000_000 - 61,) * 2)
    assert await storage.collect(OWNER, made[3]) == [made[2].path]
    assert await storage.intact(made[3])
    await storage.remove(OWNER)
    assert not await storage.intact(made[3])
    await storage.remove(OWNER)


async def test_a_half_written_artifact_is_swept(storage: Storage) -> None:
    artifact = await storage.archive(OWNER, FILES, revision="1")
    leftover = (storage.root / artifact.path).with_name(".tmp-abc")
    leftover.write_bytes(b"half")
    sweep(storage.root)
    assert not leftover.exists()
    assert await storage.intact(artifact)
