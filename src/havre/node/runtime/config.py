"""The settings of one runtime and the places it owns on the machine.

data/containers/<id>/   state.json, config.json, rootfs/, attach, ctl, exit code: all of one container
data/sandboxes/<id>/    state.json, the files mounted into every container of the pod (hosts, hostname, resolv.conf)
run/containerd.sock     CRI
run/netns/<id>          network namespace of a sandbox; run/namespaces/<id>/{ipc,uts} beside it
run/shm/<id>            /dev/shm of a sandbox
run/exec/               specifications of commands that run in containers
run/oci/<name>/         state of an OCI runtime (gone after a reboot, as the containers are)
/sys/fs/cgroup/.../<instance>/   every cgroup
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from havre.node.runtime.errors import Invalid

__all__ = ["Config"]

_INSTANCE = re.compile(r"[a-z0-9]{1,10}")  # also the prefix of interface names, which have 15 characters


@dataclass(frozen=True, slots=True)
class Config:
    """Where a runtime keeps its things and with which programs it runs containers."""

    data: Path
    run: Path
    instance: str = "havre"
    oci_runtime: str = "auto"  # "auto" (crun where it works, else runc), "crun", "runc" or a path
    conmon: str = "conmon"  # a name on PATH or a path
    streaming_host: str = "127.0.0.1"
    streaming_port: int = 0  # 0 picks a free one
    pod_cidr: str = "10.42.0.0/24"  # reported only
    max_log_line: int = 16 * 1024  # bytes; what readers of the CRI log format must accept
    registry_hosts: Path | None = None  # how to reach each registry: <registry>/hosts.toml (see hosts.py)

    def __post_init__(self) -> None:
        if not _INSTANCE.fullmatch(self.instance):
            raise Invalid(f"instance {self.instance!r}: use 1 to 10 of a-z and 0-9")

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def containers(self) -> Path:
        return self.data / "containers"

    @property
    def sandboxes(self) -> Path:
        return self.data / "sandboxes"

    @property
    def netns(self) -> Path:
        return self.run / "netns"

    @property
    def namespaces(self) -> Path:
        return self.run / "namespaces"

    @property
    def shm(self) -> Path:
        return self.run / "shm"

    @property
    def execs(self) -> Path:
        """Specifications of commands while they run; in memory, so that one can look around on a full disk."""
        return self.run / "exec"

    @property
    def oci_state(self) -> Path:
        return self.run / "oci"

    @property
    def cgroup(self) -> str:
        """The cgroup, in every hierarchy, under which all others of this instance live."""
        return f"/{self.instance}"
