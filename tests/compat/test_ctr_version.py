"""Debian's ctr as a foreign gRPC client of our server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Service, serve

pytestmark = pytest.mark.skipif(shutil.which("ctr") is None, reason="ctr of containerd is not installed")

VERSION = messages("containerd.services.version.v1")
INTROSPECTION = messages("containerd.services.introspection.v1")


async def version(request: Any, metadata: Mapping[str, str]) -> Any:
    return VERSION.VersionResponse(version="v1.7.0-havre", revision=metadata["containerd-namespace"])


async def about(request: Any, metadata: Mapping[str, str]) -> Any:
    return INTROSPECTION.ServerResponse(uuid="0c31a6f2")


async def plugins(request: Any, metadata: Mapping[str, str]) -> Any:
    if request.filters:
        raise GrpcError(Status.INVALID_ARGUMENT, "filters are not for this test")
    return INTROSPECTION.PluginsResponse(plugins=[INTROSPECTION.Plugin(type="io.containerd.grpc.v1", id="cri")])


@pytest_asyncio.fixture
async def endpoint(tmp_path: Path) -> AsyncGenerator[Path]:
    services = [
        Service("containerd.services.version.v1.Version", {"Version": version}),
        Service("containerd.services.introspection.v1.Introspection", {"Server": about, "Plugins": plugins}),
    ]
    server = await serve(tmp_path / "containerd.sock", services)
    yield server.path
    await server.close()


async def ctr(endpoint: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "ctr", "--address", endpoint, "--namespace", "test", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    shown, _ = await asyncio.wait_for(process.communicate(), 30)
    return shown.decode()


async def test_ctr_shows_version_namespace_and_uuid(endpoint: Path) -> None:
    server = (await ctr(endpoint, "version")).partition("Server:")[2]
    lines = [line.strip() for line in server.splitlines() if line.strip()]
    assert lines[:3] == ["Version:  v1.7.0-havre", "Revision: test", "UUID: 0c31a6f2"]


async def test_ctr_lists_plugins(endpoint: Path) -> None:
    assert (await ctr(endpoint, "plugins", "ls")).splitlines()[1].split() == ["io.containerd.grpc.v1", "cri", "-", "ok"]


async def test_ctr_understands_errors_and_what_is_not_served(endpoint: Path) -> None:
    assert "filters are not for this test: invalid argument" in await ctr(endpoint, "plugins", "ls", "id==x")
    assert "unknown method List for service containerd.services.images.v1.Images" in await ctr(endpoint, "images", "ls")
