"""The part of containerd's own API that lets `ctr version` and `ctr plugins ls` say whom they talk to.

The socket has containerd's name and speaks CRI; the services behind `ctr run` and `ctr images` answer UNIMPLEMENTED:
everything is done through CRI or Havre's own commands.

Source: github.com/containerd/containerd/api, services/version and services/introspection.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from havre import __version__
from havre.node.runtime.files import write
from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Service

__all__ = ["identity", "services"]

_VERSION = "containerd.services.version.v1"
_INTROSPECTION = "containerd.services.introspection.v1"
_PLUGINS = (("io.containerd.grpc.v1", "cri"), ("io.containerd.grpc.v1", "version"))


def identity(data: Path) -> str:
    """The id of this instance, made at its first start. Blocks."""
    path = data / "runtime-id"
    if not path.exists():
        write(path, str(uuid.uuid4()).encode())
    return path.read_text().strip()


def services(instance: str) -> list[Service]:
    """Version and Introspection; `instance` is the id that clients compare."""
    return [
        Service(f"{_VERSION}.Version", {"Version": _version}),
        Service(f"{_INTROSPECTION}.Introspection", {"Server": _server(instance), "Plugins": _plugins}),
    ]


async def _version(request: Any, metadata: Mapping[str, str]) -> Any:
    return messages(_VERSION).VersionResponse(version=f"v{__version__}", revision="havre")


def _server(instance: str) -> Any:
    async def server(request: Any, metadata: Mapping[str, str]) -> Any:
        return messages(_INTROSPECTION).ServerResponse(uuid=instance)

    return server


async def _plugins(request: Any, metadata: Mapping[str, str]) -> Any:
    if request.filters:
        raise GrpcError(Status.UNIMPLEMENTED, "filters of plugins are not supported")
    introspection = messages(_INTROSPECTION)
    found = [introspection.Plugin(type=kind, id=name) for kind, name in _PLUGINS]
    return introspection.PluginsResponse(plugins=found)
