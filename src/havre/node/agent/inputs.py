"""What pods are given, put together: volumes, variables, /etc/hosts, the file for the termination message.

    <data>/pods/<uid>/volumes …                      see `volumes`
    <data>/pods/<uid>/etc-hosts                      written again at each start of a container
    <data>/pods/<uid>/containers/<name>/<8 hex>      one per start: what the container leaves as its last words

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (GenerateRunContainerOptions).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj, namespace_of
from havre.machinery.api import Api, Ref
from havre.node.agent.configs import Dns
from havre.node.agent.cri import Image
from havre.node.agent.environment import Sources, environment, references
from havre.node.agent.host_files import ClusterDns, hosts, parse_resolver, resolver, wants_hosts
from havre.node.agent.protocol import GivenError, Inputs, VolumeError
from havre.node.agent.specs import on_host_network, uid_of
from havre.node.agent.volumes import Volumes
from havre.node.agent.volumes.places import Mount

CONFIG_MAP: Final = GVK("", "v1", "ConfigMap")
SECRET: Final = GVK("", "v1", "Secret")
_HOSTS: Final = Path("/etc/hosts")


class PodInputs:
    """Implements `protocol.Giver`; `services` and `node` answer from memory what the API has."""

    def __init__(
        self,
        root: Path,
        api: Api,
        volumes: Volumes,
        *,
        services: Callable[[], Sequence[Obj]],
        node: Callable[[], Obj],
        dns: ClusterDns,
        resolv_conf: Path,
    ) -> None:
        self._root = root
        self._api = api
        self._volumes = volumes
        self._services = services
        self._node = node
        self._cluster = dns
        self._resolv_conf = resolv_conf
        self._host_dns = Dns()
        self._mounted: dict[str, dict[str, Mount]] = {}  # uid: the volumes as they were prepared

    async def prepare(self, pod: Obj) -> None:
        self._host_dns = await asyncio.to_thread(self._read_host_dns)
        self._mounted[uid_of(pod)] = await self._volumes.mount(pod)

    def _read_host_dns(self) -> Dns:
        try:
            return parse_resolver(self._resolv_conf.read_text())
        except (OSError, UnicodeDecodeError):
            return Dns()

    def dns(self, pod: Obj) -> Dns:
        return resolver(pod, self._cluster, self._host_dns)

    async def inputs(self, pod: Obj, container: Obj, image: Image | None, ips: tuple[str, ...]) -> Inputs:
        try:
            sources = await self._sources(pod, container)
            variables = environment(pod, container, sources, self._services(), self._node(), ips=ips)
            known = self._mounted.get(uid_of(pod))
            mounts = [m.cri() for m in await self._volumes.container_mounts(pod, container, dict(variables), known)]
        except (ApiError, VolumeError) as error:
            raise GivenError(str(error)) from error
        return Inputs(variables, [*mounts, *await asyncio.to_thread(self._files, pod, container, ips)])

    async def _sources(self, pod: Obj, container: Obj) -> Sources:
        maps, keys = references(container)
        return Sources(await self._found(pod, CONFIG_MAP, maps), await self._found(pod, SECRET, keys))

    async def _found(self, pod: Obj, gvk: GVK, names: Iterable[str]) -> dict[str, Obj]:
        wanted = sorted(names)
        found = await asyncio.gather(*(self._api.get(Ref(gvk, namespace_of(pod), name)) for name in wanted))
        return {name: obj for name, obj in zip(wanted, found, strict=True) if obj is not None}

    def _files(self, pod: Obj, container: Obj, ips: tuple[str, ...]) -> list[Obj]:
        """The mounts of the files that we write. Blocks."""
        place = self._root / uid_of(pod)
        out = []
        try:
            if wants_hosts(container, ips):
                out.append(_mount(self._hosts(place, pod, ips), "/etc/hosts"))
            if wanted := container.get("terminationMessagePath"):
                out.append(_mount(_message_file(place / "containers" / container["name"]), wanted))
        except OSError as error:
            raise GivenError(f"write the files of container {container['name']} in {place}: {error}") from error
        return out

    def _hosts(self, place: Path, pod: Obj, ips: tuple[str, ...]) -> Path:
        """In place, not renamed: running containers have this very file mounted."""
        path = place / "etc-hosts"
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        own = _HOSTS.read_text() if on_host_network(pod) else ""
        path.write_text(hosts(pod, ips, self._cluster.domain, own))
        path.chmod(0o644)
        return path

    async def release(self, uid: str) -> None:
        self._mounted.pop(uid, None)
        await self._volumes.unmount(uid)

    async def leftovers(self) -> set[str]:
        return await asyncio.to_thread(self._volumes.orphans, ())


def _mount(host: Path, inside: str) -> Obj:
    return {"container_path": inside, "host_path": str(host), "readonly": False, "propagation": 0}


def _message_file(directory: Path) -> Path:
    """A new empty file that any user may write."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    path = directory / secrets.token_hex(4)
    path.touch()
    path.chmod(0o666)
    return path
