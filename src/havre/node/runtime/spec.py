"""From what CRI asks and what the image says to the OCI runtime specification of a container. Pure.

Whatever has to be looked up first (the user in the image's passwd, host paths, device nodes, a seccomp profile) comes
in as a value, so that every decision about isolation can be read, and tested, here.

Source: OCI runtime specification 1.0; CRI api.proto; what containerd's CRI plugin decides where CRI is silent.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from havre.node.runtime import capabilities, seccomp
from havre.node.runtime.errors import Invalid, Unsupported
from havre.node.runtime.users import User
from havre.wire.grpc.messages import messages

__all__ = ["DeviceNode", "ImageDefaults", "Machine", "Parts", "Pod", "build", "process_for_exec", "resources"]

cri = messages("runtime.v1")

OCI_VERSION = "1.0.2"  # crun 1.8 refuses newer ones; everything used here is in it
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 * 1024 * 1024  # bytes of /dev/shm, what Docker and containerd give

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine and our own privileges allow."""

    architecture: str  # uname -m
    capabilities: frozenset[str]
    oom_score_floor: int = -1000  # lower values are refused to a process without CAP_SYS_RESOURCE
    unified: bool = True  # cgroup v2 only
    swap: bool = True  # memory and swap can be limited together
    apparmor: bool = False
    recursive_read_only: bool = True  # Linux 5.12


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """What of the image configuration a container inherits."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """What the sandbox lends to its containers; a namespace that is absent is the host's."""

    id: str
    config: Any  # PodSandboxConfig
    hostname: str
    namespaces: Mapping[str, str]  # "network", "ipc", "uts", "pid" → path
    files: Mapping[str, str] = field(default_factory=dict)  # "/etc/hosts" → path on the host
    shm: str = ""  # directory on the host; "" gives each container its own


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device of the host, looked at."""

    path: str  # in the container
    kind: str  # "c" or "b"
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything about one container that had to be looked up."""

    id: str
    rootfs: str
    cgroup: str
    user: User
    sources: Mapping[str, str]  # container path of a CRI mount → resolved path on the host
    volumes: Mapping[str, str] = field(default_factory=dict)  # image volume → directory on the host
    devices: Sequence[DeviceNode] = ()
    target_pid: int = 0  # of the container whose PID namespace is joined
    seccomp: Json | None = None  # a profile of type Localhost


def build(machine: Machine, pod: Pod, image: ImageDefaults, config: Any, parts: Parts) -> Json:
    """The runtime specification of `config` (a ContainerConfig). Raises Invalid or Unsupported."""
    security = config.linux.security_context
    privileged = security.privileged
    if privileged and not pod.config.linux.security_context.privileged:
        raise Invalid("a privileged container needs a privileged sandbox")
    _refuse(machine, security)
    held = _capabilities(machine, security)
    mounts, propagation = _mounts(machine, pod, config, parts)
    linux: Json = {
        "cgroupsPath": parts.cgroup,
        "namespaces": _namespaces(machine, pod, security, parts.target_pid),
        "resources": resources(machine, config.linux.resources) | {"devices": _device_rules(privileged, parts.devices)},
        "devices": [_device(node) for node in parts.devices],
    }
    if not privileged:
        linux["maskedPaths"] = list(security.masked_paths)
        linux["readonlyPaths"] = list(security.readonly_paths)
        if (profile := _seccomp(machine, security, held, parts.seccomp)) is not None:
            linux["seccomp"] = profile
    if propagation:
        linux["rootfsPropagation"] = propagation
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": parts.rootfs, "readonly": security.readonly_rootfs},
        "process": _process(machine, pod, image, config, parts.user, held),
        "mounts": mounts,
        "annotations": _annotations(pod, config),
        "linux": linux,
    }


# What cannot be honoured


def _refuse(machine: Machine, security: Any) -> None:
    options = security.namespace_options
    if options.HasField("userns_options") and options.userns_options.mode == cri.POD:
        raise Unsupported("user namespaces: not supported by this version; leave hostUsers unset")
    profile = security.apparmor
    asked = security.HasField("apparmor") and profile.profile_type != cri.SecurityProfile.Unconfined
    asked = asked or security.apparmor_profile not in {"", "unconfined"}
    if asked and not security.privileged and not _apparmor(machine, security):
        raise Unsupported("AppArmor profile: this kernel has no AppArmor, or the profile is not one that is loaded")


def _apparmor(machine: Machine, security: Any) -> str:
    """The name of a profile that the administrator loaded; RuntimeDefault would need one of our own."""
    if not machine.apparmor or security.privileged:
        return ""
    name = security.apparmor.localhost_ref or security.apparmor_profile
    return str(name.removeprefix("localhost/"))


# Process


def _process(machine: Machine, pod: Pod, image: ImageDefaults, config: Any, user: User, held: list[str]) -> Json:
    process: Json = {
        "terminal": config.tty,
        "user": _user(user),
        "args": _arguments(image, config),
        "env": _environment(pod, image, config, user),
        "cwd": _absolute(config.working_dir or image.working_dir or "/", "working directory"),
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
        "noNewPrivileges": config.linux.security_context.no_new_privs,
        "oomScoreAdj": max(config.linux.resources.oom_score_adj, machine.oom_score_floor),
    }
    if profile := _apparmor(machine, config.linux.security_context):
        process["apparmorProfile"] = profile
    return process


def process_for_exec(process: Json, command: Sequence[str], *, terminal: bool) -> Json:
    """The process of an exec: as the first process of the container, but for the command and the terminal."""
    if not command:
        raise Invalid("exec: the command is empty")
    environment = [entry for entry in process["env"] if terminal or not entry.startswith("TERM=")]
    if terminal and not any(entry.startswith("TERM=") for entry in environment):
        environment.append("TERM=xterm")
    return process | {"args": list(command), "terminal": terminal, "env": environment}


def _user(user: User) -> Json:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _arguments(image: ImageDefaults, config: Any) -> list[str]:
    """A command replaces the image's entrypoint and its arguments; arguments alone replace only the latter."""
    if config.command:
        return [*config.command, *config.args]
    arguments = [*image.entrypoint, *(config.args or image.cmd)]
    if not arguments:
        raise Invalid("no command: neither the container nor its image names one")
    return arguments


def _environment(pod: Pod, image: ImageDefaults, config: Any, user: User) -> list[str]:
    variables = {"PATH": PATH, "HOSTNAME": pod.hostname}
    if config.tty:
        variables["TERM"] = "xterm"
    for entry in image.env:
        name, _, value = entry.partition("=")
        if name:
            variables[name] = value
    for pair in config.envs:
        if not pair.key or "=" in pair.key or "\0" in pair.key + pair.value:
            raise Invalid(f"environment variable {pair.key!r}: not a name, or it holds a NUL")
        variables[pair.key] = pair.value
    variables.setdefault("HOME", user.home or "/")
    return [f"{name}={value}" for name, value in variables.items()]


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise Invalid(f"{what} {path!r}: must be absolute")
    return posixpath.normpath(path).replace("//", "/", 1)


def _capabilities(machine: Machine, security: Any) -> list[str]:
    if security.privileged:
        return [name for name in capabilities.ALL if name in machine.capabilities]
    asked = security.capabilities
    return capabilities.granted(asked.add_capabilities, asked.drop_capabilities, machine.capabilities)


# Isolation


def _namespaces(machine: Machine, pod: Pod, security: Any, target_pid: int) -> list[Json]:
    found: list[Json] = [{"type": "mount"}]
    for kind in ("network", "ipc", "uts"):
        if path := pod.namespaces.get(kind):
            found.append({"type": kind, "path": path})
    options = security.namespace_options
    if options.ipc == cri.CONTAINER and "ipc" in pod.namespaces:
        found = [entry for entry in found if entry["type"] != "ipc"] + [{"type": "ipc"}]
    mode = options.pid
    if mode == cri.CONTAINER:
        found.append({"type": "pid"})
    elif mode == cri.TARGET:
        found.append({"type": "pid", "path": f"/proc/{target_pid}/ns/pid"})
    elif mode == cri.POD:
        if "pid" not in pod.namespaces:
            raise Invalid("the container shares the PID namespace of its pod, but the sandbox was made without one")
        found.append({"type": "pid", "path": pod.namespaces["pid"]})
    if machine.unified and not security.privileged:
        found.append({"type": "cgroup"})
    return found


def _seccomp(machine: Machine, security: Any, held: list[str], localhost: Json | None) -> Json | None:
    if not security.HasField("seccomp"):
        if security.seccomp_profile_path in {"runtime/default", "docker/default"}:
            return seccomp.default(held, machine.architecture)
        return localhost
    kind = security.seccomp.profile_type
    if kind == cri.SecurityProfile.RuntimeDefault:
        return seccomp.default(held, machine.architecture)
    return localhost if kind == cri.SecurityProfile.Localhost else None


# Mounts


def _mount(destination: str, kind: str, source: str, *options: str) -> Json:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _kernel_mounts(*, privileged: bool) -> list[Json]:
    access = "rw" if privileged else "ro"
    safe = ("nosuid", "noexec", "nodev")
    return [
        _mount("/proc", "proc", "proc", *safe),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", f"size={SHM_SIZE}"),  # noqa: S108 - of the container
        _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        _mount("/sys", "sysfs", "sysfs", *safe, access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", access),
    ]


def _mounts(machine: Machine, pod: Pod, config: Any, parts: Parts) -> tuple[list[Json], str]:
    """All mounts in order, and the propagation that the root needs for them."""
    security = config.linux.security_context
    asked: dict[str, Json] = {}
    wanted: set[str] = set()
    for mount in config.mounts:
        target = _absolute(mount.container_path, "mount")
        if target == "/":
            raise Invalid("mount /: would hide the image")
        _refuse_proc(target, parts.sources[mount.container_path])
        options, spreads = _bind_options(machine, mount)
        asked[target] = _mount(target, "bind", parts.sources[mount.container_path], *options)
        wanted.add(spreads)
    for target in parts.volumes:
        _refuse_proc(target, "")
    propagation = next((kind for kind in ("rshared", "rslave") if kind in wanted), "")  # shared serves both
    lent = _lent(pod, security, parts, asked)
    binds = sorted([*asked.values(), *lent], key=lambda entry: entry["destination"].count("/"))
    taken = {entry["destination"] for entry in binds}
    hides_dev = "/dev" in taken
    kernel = [
        entry
        for entry in _kernel_mounts(privileged=security.privileged)
        if entry["destination"] not in taken and not (hides_dev and entry["destination"].startswith("/dev/"))
    ]
    return kernel + binds, propagation


_IN_PROC = frozenset(
    ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime")
)  # what programs like lxcfs show containers in their own way


def _refuse_proc(target: str, source: str) -> None:
    """A /proc that is not the kernel's makes the OCI runtime's own writes to it, such as security labels, void."""
    if target == "/proc" or target.startswith("/proc/"):
        shown = target == source == "/proc" or target.removeprefix("/proc/") in _IN_PROC
        if not shown:
            raise Invalid(f"mount {target}: nothing but the machine's own /proc may be mounted there")


def _lent(pod: Pod, security: Any, parts: Parts, asked: Mapping[str, Json]) -> Iterable[Json]:
    """Files of the sandbox, its shared memory and the image's volumes, where the pod mounts nothing itself."""
    access = "ro" if security.readonly_rootfs else "rw"
    for target, source in pod.files.items():
        if target not in asked:
            yield _mount(target, "bind", source, "rbind", "rprivate", access)
    if pod.shm and "/dev/shm" not in asked and security.namespace_options.ipc != cri.CONTAINER:  # noqa: S108
        yield _mount("/dev/shm", "bind", pod.shm, "rbind", "rprivate", "rw", "nosuid", "nodev", "noexec")  # noqa: S108
    for target, source in parts.volumes.items():
        if target not in asked:
            yield _mount(target, "bind", source, "rbind", "rprivate", "rw")


def _bind_options(machine: Machine, mount: Any) -> tuple[list[str], str]:
    spreads = {
        cri.PROPAGATION_PRIVATE: "",
        cri.PROPAGATION_HOST_TO_CONTAINER: "rslave",
        cri.PROPAGATION_BIDIRECTIONAL: "rshared",
    }.get(mount.propagation, "")
    where = f"mount {mount.container_path}"
    if mount.uidMappings or mount.gidMappings:
        raise Unsupported(f"{where}: mapped ids need user namespaces, which this version lacks")
    if not mount.recursive_read_only:
        return ["rbind", spreads or "rprivate", "ro" if mount.readonly else "rw"], spreads
    if not mount.readonly:
        raise Invalid(f"{where}: recursive_read_only without readonly")
    if spreads:
        raise Invalid(f"{where}: recursive_read_only needs private propagation")
    if not machine.recursive_read_only:
        raise Unsupported(f"{where}: recursive read-only mounts need Linux 5.12")
    return ["rbind", "rprivate", "ro", "rro"], ""


# Devices and resources


def _device(node: DeviceNode) -> Json:
    return {
        "path": _absolute(node.path, "device"),
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _device_rules(privileged: bool, devices: Sequence[DeviceNode]) -> list[Json]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[Json] = [{"allow": False, "access": "rwm"}]
    for node in devices:
        if not node.access or set(node.access) - set("rwm"):
            raise Invalid(f"device {node.path}: permissions {node.access!r} are not of r, w and m")
        rules.append(
            {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": node.access}
        )
    return rules


def resources(machine: Machine, asked: Any) -> Json:
    """`linux.resources` of a LinuxContainerResources; zero means "not asked". Huge pages are not limited."""
    cpu = {
        "shares": asked.cpu_shares,
        "quota": asked.cpu_quota,
        "period": asked.cpu_period,
        "cpus": asked.cpuset_cpus,
        "mems": asked.cpuset_mems,
    }
    memory: Json = {"limit": asked.memory_limit_in_bytes}
    if machine.swap and asked.memory_limit_in_bytes > 0:
        # Memory plus swap: equal to the memory limit unless swap was asked for, else a limit could be swapped away.
        memory["swap"] = asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes
    found: Json = {}
    if cpu := {key: value for key, value in cpu.items() if value}:
        found["cpu"] = cpu
    if memory := {key: value for key, value in memory.items() if value}:
        found["memory"] = memory
    if asked.unified:
        if not machine.unified:
            raise Unsupported("resources.unified: this machine has cgroup v1")
        found["unified"] = dict(asked.unified)
    return found


def _annotations(pod: Pod, config: Any) -> dict[str, str]:
    """The keys by which tools that look at bundles know whose container it is; labels of images never get here."""
    metadata = pod.config.metadata
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": config.metadata.name,
        "io.kubernetes.cri.image-name": config.image.user_specified_image or config.image.image,
        "io.kubernetes.cri.sandbox-id": pod.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }
