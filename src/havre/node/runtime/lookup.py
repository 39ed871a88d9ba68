"""What has to be looked up on the machine and in the image before a container can be specified. Everything blocks.

The files of an image were written by somebody else: they are opened with the root filesystem as the root, and read up
to a limit. Paths of the host come from the pod, which the API server has admitted; links in them are followed.
"""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

from havre.node import mounts
from havre.node.beneath import openat2
from havre.node.runtime import seccomp
from havre.node.runtime.errors import Invalid
from havre.node.runtime.spec import DeviceNode, ImageDefaults
from havre.node.runtime.users import FILE_LIMIT, User, resolve
from havre.wire.grpc.messages import messages

__all__ = ["check_rootfs", "devices", "seccomp_profile", "source", "stop_signal", "user", "volume"]

cri = messages("runtime.v1")

DEVICES_LIMIT = 1024  # nodes of one directory that is given as a device
_VOLUME_LIMIT = 256 * 1024 * 1024  # bytes of an image's volume directory that are copied into the fresh volume


def _read_inside(root: Path, path: str, limit: int) -> bytes:
    """The first bytes of a regular file of an image; b"" when there is none."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = openat2(base, path.encode(), os.O_PATH)  # looked at before it is opened: opening a device acts
    except OSError:
        return b""
    finally:
        os.close(base)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return b""
        with Path(f"/proc/self/fd/{place}").open("rb") as file:
            return file.read(limit)
    finally:
        os.close(place)


def check_rootfs(rootfs: Path) -> None:
    """The OCI runtime mounts over these and makes devices in one, and follows a link there, out of the image, into the
    machine: crun 1.8 puts device nodes wherever an image's /dev points (CVE-2026-47766; runc has had the same).

    Raises Invalid."""
    for name in ("dev", "proc", "sys"):
        try:
            found = (rootfs / name).lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise Invalid(f"image: /{name} must be a directory; a link or file there would lead out of the container")


def user(rootfs: Path, image: ImageDefaults, security: Any) -> User:
    """Raises Invalid."""
    return resolve(
        image.user,
        _read_inside(rootfs, "/etc/passwd", FILE_LIMIT),
        _read_inside(rootfs, "/etc/group", FILE_LIMIT),
        uid=security.run_as_user.value if security.HasField("run_as_user") else None,
        username=security.run_as_username,
        gid=security.run_as_group.value if security.HasField("run_as_group") else None,
        supplemental=security.supplemental_groups,
        strict=security.supplemental_groups_policy == cri.Strict,
    )


def source(mount: Any) -> str:
    """The directory or file of the host to mount; made, as a directory, when there is none. Raises Invalid."""
    path = str(mount.host_path)
    if not path.startswith("/") or "\0" in path:
        raise Invalid(f"mount {mount.container_path}: host path {path!r} must be absolute")
    try:
        if not Path(path).exists():
            Path(path).mkdir(parents=True)
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        raise Invalid(f"mount {mount.container_path}: host path {path}: {error.strerror}") from error
    if mount.propagation != cri.PROPAGATION_PRIVATE:
        _check_propagation(real, mount)
    return real


def _check_propagation(real: str, mount: Any) -> None:
    """What is mounted later spreads only from a mount that is shared; the kernel would not complain."""
    under = [m for m in mounts.table() if real == m.point or real.startswith(m.point.rstrip("/") + "/")]
    best = max(under, key=lambda m: len(m.point), default=None)
    if best is not None and not best.shared and mount.propagation == cri.PROPAGATION_BIDIRECTIONAL:
        raise Invalid(
            f"mount {mount.container_path}: bidirectional propagation, but {best.point} is not a shared mount; "
            f"run: mount --make-rshared {best.point}"
        )


def devices(config: Any) -> list[DeviceNode]:
    """The devices the pod asks for; for a privileged container all of this machine. Raises Invalid."""
    found = [node for device in config.devices for node in _nodes(device)]
    if config.linux.security_context.privileged:
        taken = {node.path for node in found}
        found += [node for node in _all_devices(Path("/dev")) if node.path not in taken]
    return found


def _nodes(device: Any) -> list[DeviceNode]:
    path = Path(os.path.realpath(device.host_path))
    inside = device.container_path or device.host_path
    access = device.permissions or "rwm"
    if path.is_dir():
        return [
            DeviceNode(inside + node.path.removeprefix(str(path)), *_facts(node), access) for node in _all_devices(path)
        ]
    node = _node(path)
    if node is None:
        raise Invalid(f"device {device.host_path}: not a device of this machine")
    return [DeviceNode(inside, *_facts(node), access)]


def _facts(node: DeviceNode) -> tuple[str, int, int, int, int, int]:
    return node.kind, node.major, node.minor, node.mode, node.uid, node.gid


# Of the container itself, or mounted: made by the OCI runtime.
_OWN = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"))


def _all_devices(directory: Path) -> list[DeviceNode]:
    found: list[DeviceNode] = []
    for root, names, files in os.walk(directory):
        names[:] = [name for name in names if name not in _OWN]
        for name in files:
            node = _node(Path(root) / name) if name not in _OWN else None
            if node is not None:
                found.append(node)
            if len(found) > DEVICES_LIMIT:
                raise Invalid(f"device {directory}: more than {DEVICES_LIMIT} nodes")
    return found


def _node(path: Path) -> DeviceNode | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind:
        return None
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return DeviceNode(str(path), kind, major, minor, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def seccomp_profile(security: Any) -> dict[str, Any] | None:
    """The profile of type Localhost, if that is asked for. Raises Invalid."""
    profile = security.seccomp
    if security.HasField("seccomp") and profile.profile_type == cri.SecurityProfile.Localhost:
        reference = profile.localhost_ref
    elif security.seccomp_profile_path.startswith("localhost/"):
        reference = security.seccomp_profile_path
    else:
        return None
    path = reference.removeprefix("localhost/")
    if not path.startswith("/"):
        raise Invalid(f"seccomp profile {reference!r}: localhost_ref must be an absolute path")
    return seccomp.read(Path(path))


def volume(rootfs: Path, path: str, directory: Path) -> None:
    """A fresh volume for a path that the image declares: with owner, mode and files of the image's directory.

    The directory is looked up inside the root filesystem, never through a link out of it (CVE-2022-23648).
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    base = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(base, path.encode(), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    finally:
        os.close(base)
    try:
        _copy(fd, directory, [_VOLUME_LIMIT])
    finally:
        os.close(fd)


def _copy(fd: int, target: Path, left: list[int]) -> None:
    """Directories, regular files and links, as they are; what is mounted or special is left out."""
    found = os.fstat(fd)
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(stat.S_IMODE(found.st_mode))
    for name in os.listdir(fd):
        entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(entry.st_mode):
            (target / name).symlink_to(os.readlink(name, dir_fd=fd))
            os.chown(target / name, entry.st_uid, entry.st_gid, follow_symlinks=False)
        elif stat.S_ISDIR(entry.st_mode):
            (target / name).mkdir()
            _within(fd, name, os.O_DIRECTORY, lambda inner, name=name: _copy(inner, target / name, left))
        elif stat.S_ISREG(entry.st_mode):
            left[0] -= entry.st_size
            if left[0] < 0:
                raise Invalid(f"volume {target}: the image holds more than {_VOLUME_LIMIT} bytes there; mount one")
            _within(fd, name, 0, lambda inner, name=name: _copy_file(inner, target / name))


def _within(fd: int, name: str, flags: int, act: Any) -> None:
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=fd)
    try:
        act(inner)
    finally:
        os.close(inner)


def _copy_file(fd: int, target: Path) -> None:
    found = os.fstat(fd)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while os.sendfile(out, fd, None, 1 << 20):  # None: from where it stands
            pass
        os.fchown(out, found.st_uid, found.st_gid)
        os.fchmod(out, stat.S_IMODE(found.st_mode))
    finally:
        os.close(out)


def stop_signal(config: Any, image: ImageDefaults) -> int:
    """The signal that asks the container to end: of the pod, else of the image, else SIGTERM. Raises Invalid."""
    if config.stop_signal:
        return _signal(cri.Signal.Name(config.stop_signal).replace("PLUS", "+").replace("MINUS", "-"))
    return _signal(image.stop_signal) if image.stop_signal else int(signal.SIGTERM)


_ALIASES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO", "SIGSTKFLT": "16"}


def _signal(text: str) -> int:
    """`15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`."""
    name = text.strip().upper()
    if not name.isdigit():
        name = name if name.startswith("SIG") else f"SIG{name}"
        name = _ALIASES.get(name, name)
    if name.isdigit():
        number = int(name) if len(name) < 4 else 0
    else:
        base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
        member = signal.Signals.__members__.get(base)
        extra = int(offset) if offset.isdigit() and len(offset) < 3 else 0
        number = 0 if member is None else int(member) + (extra if sign == "+" else -extra)
    if not 1 <= number <= 64:
        raise Invalid(f"stop signal {text!r}: not a signal")
    return number
