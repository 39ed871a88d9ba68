"""From a request to a bundle: everything of a container but its processes.

directory/rootfs      the image's snapshot, mounted
directory/volumes/N   a fresh directory for each volume the image declares
directory/images/N    images mounted as volumes
directory/config.json the runtime specification
directory/state.json  written last: without it the rest is removed at the next start
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from havre.lang import json
from havre.node.beneath import openat2
from havre.node.runtime import lookup, spec
from havre.node.runtime.cgroups import checked
from havre.node.runtime.errors import Invalid, NotFound
from havre.node.runtime.files import write
from havre.node.runtime.host import Host
from havre.node.runtime.records import ContainerRecord
from havre.node.runtime.spec import ImageDefaults, Parts, Pod
from havre.wire.grpc.messages import messages

__all__ = ["Image", "ImageConfig", "Images", "Snapshots", "make", "prepare_images"]

cri = messages("runtime.v1")

VOLUMES_LIMIT = 100  # volumes of one image


class ImageConfig(Protocol):
    """What of an image's configuration matters to a container."""

    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def entrypoint(self) -> tuple[str, ...]: ...
    @property
    def cmd(self) -> tuple[str, ...]: ...
    @property
    def working_dir(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def volumes(self) -> tuple[str, ...]: ...
    @property
    def stop_signal(self) -> str: ...


class Image(Protocol):
    """An image on this machine."""

    @property
    def id(self) -> str: ...
    @property
    def digests(self) -> tuple[str, ...]: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def chain(self) -> Any: ...


class Images(Protocol):
    """Where images are found."""

    def find(self, reference_or_id: str) -> Image | None: ...


class Snapshots(Protocol):
    """Where root filesystems come from."""

    async def mount(self, key: str, parent: Any, target: Path, *, readonly: bool = False) -> None: ...
    async def unmount(self, key: str, target: Path) -> None: ...
    async def remove(self, key: str) -> None: ...
    def keys(self) -> list[str]: ...
    def usage(self, key: str) -> Any: ...


def find_image(images: Images, reference: str) -> Image:
    """Raises NotFound."""
    image = images.find(reference) if reference else None
    if image is None:
        raise NotFound(f"image {reference!r} is not on this machine; pull it first")
    return image


async def prepare_images(
    snapshots: Snapshots, images: Images, id_: str, config: Any, directory: Path
) -> dict[str, str]:
    """Mount the images that the container uses as volumes: container path → path on the host."""
    found: dict[str, str] = {}
    for number, mount in enumerate(config.mounts):
        if not mount.image.image:
            continue
        if mount.host_path:
            raise Invalid(f"mount {mount.container_path}: both a host path and an image")
        image = find_image(images, mount.image.image)
        target = directory / "images" / str(number)
        target.mkdir(parents=True)
        await snapshots.mount(f"{id_}-{number}", image.chain or "", target, readonly=True)
        found[mount.container_path] = _sub_path(target, mount)
    return found


def _sub_path(root: Path, mount: Any) -> str:
    """A directory or file inside the image, with links kept inside it."""
    if not mount.image_sub_path:
        return str(root)
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(base, mount.image_sub_path.encode(), os.O_PATH)
    except OSError as error:
        where = f"mount {mount.container_path}: {mount.image_sub_path} of image {mount.image.image}"
        raise Invalid(f"{where}: {error.strerror}") from error
    finally:
        os.close(base)
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


def make(
    host: Host, pod: Pod, parent: str, image: Image, config: Any, id_: str, mounted: dict[str, str], target_pid: int
) -> ContainerRecord:
    """Write config.json and return the record, which is not saved yet. Blocks."""
    directory = host.config.containers / id_
    rootfs = directory / "rootfs"
    defaults = _defaults(image.config)
    security = config.linux.security_context
    lookup.check_rootfs(rootfs)
    user = lookup.user(rootfs, defaults, security)
    cgroup = checked(f"{parent}/{id_}")
    parts = Parts(
        id=id_,
        rootfs=str(rootfs),
        cgroup=cgroup,
        user=user,
        sources={m.container_path: mounted.get(m.container_path) or lookup.source(m) for m in config.mounts},
        volumes=_volumes(rootfs, directory, defaults.volumes, config),
        devices=lookup.devices(config),
        target_pid=target_pid,
        seccomp=lookup.seccomp_profile(security),
    )
    wanted = spec.build(host.machine, pod, defaults, _read_only_images(config, mounted), parts)
    write(directory / "config.json", json.dumps(wanted), durable=False)
    return ContainerRecord(
        id=id_,
        sandbox=pod.id,
        config=config,
        image=image.id,
        image_reference=image.digests[0] if image.digests else image.id,
        chain=image.chain or "",
        cgroup=cgroup,
        user=user,
        stop_signal=lookup.stop_signal(config, defaults),
        own_pids=security.namespace_options.pid == cri.CONTAINER,
        created_at=time.time_ns(),
        log=_log(pod, config),
        image_mounts=sorted(f"{id_}-{n}" for n, m in enumerate(config.mounts) if m.image.image),
    )


def _defaults(config: ImageConfig) -> ImageDefaults:
    return ImageDefaults(
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        working_dir=config.working_dir,
        user=config.user,
        volumes=config.volumes,
        stop_signal=config.stop_signal,
    )


def _read_only_images(config: Any, mounted: dict[str, str]) -> Any:
    """Images are mounted read-only, whatever the pod says."""
    if not mounted:
        return config
    changed = cri.ContainerConfig()
    changed.CopyFrom(config)
    for mount in changed.mounts:
        mount.readonly = mount.readonly or mount.container_path in mounted
    return changed


def _volumes(rootfs: Path, directory: Path, paths: Sequence[str], config: Any) -> dict[str, str]:
    taken = {posixpath.normpath(mount.container_path) for mount in config.mounts}
    if len(paths) > VOLUMES_LIMIT:
        raise Invalid(f"the image declares {len(paths)} volumes; the limit is {VOLUMES_LIMIT}")
    found = {}
    for number, path in enumerate(paths):
        target = posixpath.normpath("/" + path.lstrip("/"))
        if target != "/" and target not in taken:
            place = directory / "volumes" / str(number)
            lookup.volume(rootfs, target, place)
            found[target] = str(place)
    return found


def _log(pod: Pod, config: Any) -> str:
    if not config.log_path or not pod.config.log_directory:
        return ""
    return str(Path(pod.config.log_directory) / config.log_path)
