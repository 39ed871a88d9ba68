"""Mounting, refreshing and unmounting the volumes of pods.

Everything may be called again: after a restart, after a failure half-way, once a minute to bring contents up to date.
Nothing is remembered but tokens, which are asked for anew after a restart.

Source: k8s.io/kubernetes pkg/kubelet/volumemanager, pkg/kubelet/kubelet_pods.go (makeMounts), pkg/kubelet/token.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj, name_of, namespace_of, parse_time
from havre.machinery.api import Api, Ref
from havre.node import mounts
from havre.node.agent.environment import expand
from havre.node.agent.protocol import GivenError, VolumeError
from havre.node.agent.volumes import atomic, ownership, places, subpaths
from havre.node.agent.volumes.payloads import (
    MODE,
    File,
    Payload,
    check,
    config_map_files,
    downward_files,
    fs_group,
    secret_files,
    token_file,
)
from havre.node.agent.volumes.places import Mount
from havre.node.removal import remove_tree

Tokens = Callable[
    [str, str, Obj], Awaitable[Obj]
]  # namespace, service account, spec → the TokenRequest with its status

CONFIG_MAP: Final = GVK("", "v1", "ConfigMap")
SECRET: Final = GVK("", "v1", "Secret")
CLAIM: Final = GVK("", "v1", "PersistentVolumeClaim")
VOLUME: Final = GVK("", "v1", "PersistentVolume")
NODE: Final = GVK("", "v1", "Node")

LIFE: Final = 3600  # seconds a token lives if the volume does not say
RENEWED: Final = 0.8  # part of its life after which a token is replaced
OLDEST: Final = 86_400.0  # seconds after which any token is replaced
_FILES: Final = ("configMap", "secret", "downwardAPI", "projected")
_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}").fullmatch


class Propagation(IntEnum):
    """Whether mounts made later are seen on the other side; the numbers are CRI's."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


_PROPAGATION: Final = {
    "None": Propagation.PRIVATE,
    "HostToContainer": Propagation.HOST_TO_CONTAINER,
    "Bidirectional": Propagation.BIDIRECTIONAL,
}


@dataclass(frozen=True, slots=True)
class ContainerMount:
    """One mount of one container."""

    container_path: str
    host_path: Path
    readonly: bool
    propagation: Propagation = Propagation.PRIVATE
    recursive_readonly: bool = False

    def cri(self) -> Obj:
        """As runtime.v1.Mount."""
        return {
            "container_path": self.container_path,
            "host_path": str(self.host_path),
            "readonly": self.readonly,
            "propagation": int(self.propagation),
            "recursive_read_only": self.recursive_readonly,
        }


@dataclass(frozen=True, slots=True)
class _Token:
    """A token and when it is time for another."""

    value: str
    until: float


class Volumes:
    """The volumes of this node's pods, below `root`."""

    def __init__(self, root: Path, api: Api, tokens: Tokens, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root.resolve()  # as mountinfo has it
        self._api = api
        self._request = tokens
        self._clock = clock
        self._tokens: dict[tuple[str, str, str], _Token] = {}  # pod, volume, path

    # pods

    async def mount(self, pod: Obj) -> dict[str, Mount]:
        """Every volume of the pod by name, made, filled and owned. Raises VolumeError."""
        volumes = (pod.get("spec") or {}).get("volumes") or ()
        await asyncio.to_thread(_private, self._root, self._of(pod["metadata"]["uid"]))
        made = await asyncio.gather(*(self._named(pod, volume) for volume in volumes), return_exceptions=True)
        mounted: dict[str, Mount] = {}
        for volume, mount in zip(volumes, made, strict=True):
            if isinstance(mount, BaseException):
                raise mount
            mounted[volume["name"]] = mount
        return mounted

    async def refresh(self, pod: Obj) -> None:
        """Brings ConfigMaps, Secrets, facts and tokens up to date. Raises VolumeError."""
        for volume in (pod.get("spec") or {}).get("volumes") or ():
            if any(kind in volume for kind in _FILES):
                await self._named(pod, volume)

    async def unmount(self, uid: str) -> None:
        """Removes everything made for a pod; nothing there is fine. What claims and host paths hold stays.

        Raises VolumeError."""
        self._tokens = {key: token for key, token in self._tokens.items() if key[0] != uid}
        try:
            await asyncio.to_thread(_remove, self._of(uid))
        except OSError as e:
            raise VolumeError(f"the volumes of pod {uid} cannot be removed: {e}") from e

    def orphans(self, known: Iterable[str]) -> set[str]:
        """Pods that something is mounted for but that are not among the known."""
        try:
            return {place.name for place in self._root.iterdir()} - set(known)
        except FileNotFoundError:
            return set()

    def _of(self, uid: str) -> Path:
        if not _plain(uid):
            raise VolumeError(f"the pod's uid {uid!r} is no name of a directory")
        return self._root / uid

    # containers

    async def container_mounts(
        self, pod: Obj, container: Obj, variables: Mapping[str, str], mounted: Mapping[str, Mount] | None = None
    ) -> list[ContainerMount]:
        """The mounts of a container in order, parts of volumes included. `variables` are for subPathExpr; `mounted` is
        what `mount` gave. Raises VolumeError, GivenError."""
        known = await self.mount(pod) if mounted is None else mounted
        if container.get("volumeDevices"):
            raise GivenError("volumeDevices: this node does not pass block devices on")
        return [
            await asyncio.to_thread(self._container_mount, pod, container, i, wanted, variables, known)
            for i, wanted in enumerate(container.get("volumeMounts") or ())
        ]

    def _container_mount(
        self,
        pod: Obj,
        container: Obj,
        index: int,
        wanted: Obj,
        variables: Mapping[str, str],
        known: Mapping[str, Mount],
    ) -> ContainerMount:
        name = wanted["name"]
        volume = known.get(name)
        if volume is None:
            raise GivenError(f'cannot find volume "{name}" to mount into container "{container["name"]}"')
        host_path = volume.host_path
        if path := _sub_path(wanted, variables):
            host_path = self._of(pod["metadata"]["uid"]) / "subpaths" / name / container["name"] / str(index)
            try:
                subpaths.mount(volume.host_path, path, host_path)
            except (GivenError, OSError) as e:
                words = f'failed to prepare subPath for volumeMount "{name}" of container "{container["name"]}"'
                raise GivenError(f"{words}: {e}") from e
        readonly = bool(wanted.get("readOnly")) or volume.readonly
        return ContainerMount(
            "/" + wanted["mountPath"].lstrip("/"),
            host_path,
            readonly,
            _PROPAGATION.get(wanted.get("mountPropagation") or "None", Propagation.PRIVATE),
            readonly and wanted.get("recursiveReadOnly") in ("Enabled", "IfPossible"),
        )

    # one volume

    async def _named(self, pod: Obj, volume: Obj) -> Mount:
        """Raises VolumeError with the volume's name, as kubelet says it."""
        name = volume["name"]
        try:
            if not _plain(name):
                raise VolumeError("the name is no name of a directory")
            return await self._volume(pod, volume)
        except (VolumeError, ApiError, OSError) as e:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {e}') from e

    async def _volume(self, pod: Obj, volume: Obj) -> Mount:
        place = self._of(pod["metadata"]["uid"]) / "volumes" / volume["name"]
        if any(kind in volume for kind in _FILES):
            payload = await self._payload(pod, volume)
            return await asyncio.to_thread(_write, place, payload, fs_group(pod), "configMap" not in volume)
        if "emptyDir" in volume:
            mount = await asyncio.to_thread(places.empty_dir, place, volume["emptyDir"] or {}, pod)
            await self._give(pod, volume["name"], mount)
            return mount
        if "hostPath" in volume:
            return await asyncio.to_thread(places.host_path, volume["hostPath"])
        if "persistentVolumeClaim" in volume or "ephemeral" in volume:
            return await self._claimed(pod, volume)
        kinds = ", ".join(sorted(set(volume) - {"name"})) or "nothing"
        raise VolumeError(f"volumes of this kind ({kinds}) are not supported on this node")

    async def _give(self, pod: Obj, name: str, mount: Mount) -> None:
        """fsGroup, once for each pod: the containers may change modes afterwards."""
        group = fs_group(pod)
        done = self._of(pod["metadata"]["uid"]) / "ready" / name
        if group is None or await asyncio.to_thread(done.exists):
            return
        policy = (pod["spec"].get("securityContext") or {}).get("fsGroupChangePolicy")
        await asyncio.to_thread(_give_once, mount, group, done, by_root=policy == "OnRootMismatch")

    async def _claimed(self, pod: Obj, volume: Obj) -> Mount:
        namespace = namespace_of(pod)
        source = volume.get("persistentVolumeClaim") or {}
        name = source.get("claimName") or f"{name_of(pod)}-{volume['name']}"
        claim = await self._api.get(Ref(CLAIM, namespace, name))
        if claim is None:
            raise VolumeError(f'persistentvolumeclaim "{name}" not found')
        if "ephemeral" in volume and not _owned(claim, pod):
            raise VolumeError(f"PVC {namespace}/{name} was not created for pod {namespace}/{name_of(pod)}")
        bound = (claim.get("spec") or {}).get("volumeName")
        if not bound or (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeError(f"PVC {namespace}/{name} is not bound")
        found = await self._api.get(Ref(VOLUME, "", bound))
        if found is None:
            raise VolumeError(f'persistentvolume "{bound}" not found')
        if (found["spec"].get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
            raise VolumeError(f"PersistentVolume {bound} is bound to another claim than {namespace}/{name}")
        mount = await asyncio.to_thread(places.persistent, found)
        if "local" in found["spec"]:  # as upstream, a host path stays whose it is
            await self._give(pod, volume["name"], mount)
        return Mount(mount.host_path, readonly=bool(source.get("readOnly")))

    # files

    async def _payload(self, pod: Obj, volume: Obj) -> Payload:
        """The files of a volume. Raises VolumeError, ApiError."""
        kind = next(kind for kind in _FILES if kind in volume)
        source = volume[kind] or {}
        mode = source.get("defaultMode")
        default = MODE if mode is None else int(mode)
        if kind == "projected":
            payload: Payload = {}
            for part in source.get("sources") or ():
                payload |= await self._projection(pod, volume["name"], part, default)
        else:
            payload = await self._source(pod, kind, source, default)
        check(payload)
        return payload

    async def _projection(self, pod: Obj, volume: str, part: Obj, default: int) -> Payload:
        if source := part.get("serviceAccountToken"):
            return {source["path"]: await self._token(pod, volume, source, default)}
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in part:
                return await self._source(pod, kind, part[kind] or {}, default)
        kinds = ", ".join(sorted(part)) or "nothing"
        raise VolumeError(f"projected sources of this kind ({kinds}) are not supported on this node")

    async def _source(self, pod: Obj, kind: str, source: Obj, default: int) -> Payload:
        if kind == "downwardAPI":
            return downward_files(pod, source, default, await self._allocatable(pod, source))
        if kind == "configMap":
            found = await self._found(CONFIG_MAP, namespace_of(pod), source.get("name", ""), source)
            return config_map_files(found, source, default)
        name = source.get("secretName") or source.get("name", "")
        return secret_files(await self._found(SECRET, namespace_of(pod), name, source), source, default)

    async def _found(self, gvk: GVK, namespace: str, name: str, source: Obj) -> Obj | None:
        found = await self._api.get(Ref(gvk, namespace, name))
        if found is None and not source.get("optional"):
            raise VolumeError(f'{gvk.kind.lower()} "{name}" not found')
        return found

    async def _allocatable(self, pod: Obj, source: Obj) -> Mapping[str, str]:
        """What the node can give, if an item asks for an amount that may have no limit."""
        if not any("resourceFieldRef" in item for item in source.get("items") or ()):
            return {}
        node = await self._api.get(Ref(NODE, "", pod["spec"].get("nodeName", "")))
        return ((node or {}).get("status") or {}).get("allocatable") or {}

    async def _token(self, pod: Obj, volume: str, source: Obj, default: int) -> File:
        key = (pod["metadata"]["uid"], volume, source["path"])
        token = self._tokens.get(key)
        if token is None or self._clock() >= token.until:
            token = self._tokens[key] = await self._fresh(pod, source)
        return token_file(token.value, pod, default)

    async def _fresh(self, pod: Obj, source: Obj) -> _Token:
        life = int(source.get("expirationSeconds") or LIFE)
        meta = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": life, "boundObjectRef": bound}
        if source.get("audience"):
            spec["audiences"] = [source["audience"]]
        account = pod["spec"].get("serviceAccountName") or "default"
        status = (await self._request(namespace_of(pod), account, spec)).get("status") or {}
        if not status.get("token"):
            raise VolumeError(f"the API server gave no token for service account {namespace_of(pod)}/{account}")
        now = self._clock()
        left = parse_time(status["expirationTimestamp"]) - now
        return _Token(status["token"], now + min(RENEWED * left, OLDEST))


# effects


def _private(*directories: Path) -> None:
    """Files of volumes may be for everybody in the container; on the machine they are root's alone."""
    for directory in directories:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        directory.chmod(0o750)


def _write(place: Path, payload: Payload, group: int | None, in_memory: bool) -> Mount:
    """Secrets and tokens are kept in memory: they shall not be found on a disk later."""
    places.empty_dir(place, {"medium": "Memory"} if in_memory else {}, {})
    if group is not None and not ownership.is_given(place, group, readonly=True):
        ownership.give(place, group, readonly=True)
    own = partial(ownership.give, group=group, readonly=True) if group is not None else _leave
    atomic.write(place, payload, own)
    return Mount(place, readonly=True)


def _leave(path: Path) -> None:
    """Nobody to give it to."""


def _give_once(mount: Mount, group: int, done: Path, *, by_root: bool) -> None:
    if not (by_root and ownership.is_given(mount.host_path, group, readonly=mount.readonly)):
        ownership.give(mount.host_path, group, readonly=mount.readonly)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


def _remove(place: Path) -> None:
    for point in mounts.below(place):
        mounts.unmount(point)
    remove_tree(place)


def _owned(claim: Obj, pod: Obj) -> bool:
    return any(owner.get("uid") == pod["metadata"]["uid"] for owner in claim["metadata"].get("ownerReferences") or ())


_unknown = re.compile(r"\$\(([^)]*)\)")


def _sub_path(wanted: Obj, variables: Mapping[str, str]) -> str:
    if text := wanted.get("subPathExpr"):
        for name in _unknown.findall(text.replace("$$", "")):
            if name not in variables:
                raise GivenError(f'missing value for "{name}"')
        path = expand(text, variables)
        subpaths.check(path)
        return path
    return str(wanted.get("subPath") or "")
