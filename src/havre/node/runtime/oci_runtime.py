"""The OCI runtime that makes containers: crun where it works, else runc; found out by running one at the start.

crun 1.8 refuses a machine with hybrid cgroups when a controller is on the v2 tree. It works once that tree is out of
its sight, so on hybrid machines it is run by a small script in a mount namespace of its own, in which an empty file
system is mounted over the tree (crun makes its cgroup directories in it, and they go with the namespace). The container
would then stay in our own v2 cgroup, where eBPF programs would take it for us and cgroup.kill would not reach it: the
script joins the container's v2 cgroup first (HAVRE_CGROUP), and all it starts is born there. runc (1.1) deals with both
trees itself.

Source: crun src/libcrun/cgroup.c; OCI runtime command line interface.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from havre.lang import json
from havre.node.runtime.cgroups import Cgroups
from havre.node.runtime.config import Config
from havre.node.runtime.errors import Failed, Unsupported
from havre.node.runtime.files import write

__all__ = ["CGROUP_VARIABLE", "OciRuntime", "choose", "installed"]

log = logging.getLogger(__name__)

CGROUP_VARIABLE = "HAVRE_CGROUP"
SECONDS = 30.0  # for one command; start and delete take 5–10 ms, a machine under load has taken a second
OUTPUT = 4096  # bytes of an error message that are kept

_SCRIPT = """#!/bin/sh
# Written by Havre at each start: crun on a machine with hybrid cgroups (see havre.node.runtime.oci_runtime).
[ -z "${variable}" ] || echo 0 > "{tree}${variable}/cgroup.procs" || exit 1
exec unshare --mount /bin/sh -c 'mount -t tmpfs none "{tree}" && exec "{crun}" "$@"' crun "$@"
"""


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """A runtime that was seen to work, and how to call it. Every method blocks: call from a thread."""

    name: str  # "crun", "runc", or what was configured
    program: Path  # what conmon is told to run; a script on hybrid machines
    state: Path
    version: str
    joins_v2: bool  # the program joins the v2 cgroup named by HAVRE_CGROUP

    def environment(self, cgroup: str) -> dict[str, str]:
        """For whatever makes processes in `cgroup`."""
        return {"PATH": _path()} | ({CGROUP_VARIABLE: cgroup} if self.joins_v2 else {})

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), f"--root={self.state}", *arguments]

    def knows(self, container: str) -> bool:
        """Whether this runtime made the container."""
        return (self.state / container).exists()

    def start(self, container: str) -> None:
        """Let the first process, which waits since `create`, run its command. Raises Failed."""
        self._run("start", container)

    def delete(self, container: str) -> None:
        """Forget the container, killing what is left of it; one that is not known is fine."""
        if self.knows(container):
            self._run("delete", "--force", container)

    def status(self, container: str) -> str:
        """`created`, `running`, `stopped`; "" when the runtime does not know it."""
        if not self.knows(container):
            return ""
        try:
            return str(json.loads(self._run("state", container))["status"])
        except (Failed, ValueError, KeyError, TypeError):
            return ""

    def update(self, container: str, resources: Mapping[str, object]) -> None:
        """Change limits of a running container."""
        self._run("update", "--resources", "-", container, stdin=json.dumps(dict(resources)))

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return _run(self.command(*arguments), stdin=stdin, environment=self.environment(""))


def _path() -> str:
    return os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def _run(command: Sequence[str], *, stdin: bytes = b"", environment: Mapping[str, str]) -> bytes:
    """Standard output of a command. Raises Failed."""
    what = f"{Path(command[0]).name} {' '.join(command[1:4])}"
    try:
        done = subprocess.run(  # noqa: S603 - our own argument list, no shell
            command, input=stdin, capture_output=True, timeout=SECONDS, env=dict(environment), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{what}: no end within {SECONDS:.0f} s") from error
    except OSError as error:
        raise Failed(f"{what}: {error.strerror}") from error
    if done.returncode != 0:
        said = done.stderr[-OUTPUT:].decode("utf-8", "replace").strip()
        raise Failed(f"{what}: {said or f'exit code {done.returncode}'}")
    return done.stdout


# Choosing


def choose(config: Config, cgroups: Cgroups) -> OciRuntime:
    """The configured runtime, or the first of crun and runc that runs a container here. Raises Unsupported."""
    wanted = ("crun", "runc") if config.oci_runtime == "auto" else (config.oci_runtime,)
    reasons = []
    for name in wanted:
        found = shutil.which(name)
        if found is None:
            reasons.append(f"{name}: not installed")
            continue
        try:
            return _probed(config, cgroups, Path(found))
        except Failed as error:
            reasons.append(f"{name}: {error}")
    raise Unsupported(f"no OCI runtime works here; install crun or runc ({'; '.join(reasons)})")


def installed(config: Config, cgroups: Cgroups, chosen: OciRuntime) -> list[OciRuntime]:
    """`chosen`, and the others that are here: containers of an earlier choice still run, and only theirs knows them."""
    others = [shutil.which(name) for name in ("crun", "runc") if name != chosen.name]
    return [chosen, *(_runtime(config, cgroups, Path(found)) for found in others if found is not None)]


def _probed(config: Config, cgroups: Cgroups, binary: Path) -> OciRuntime:
    runtime = _runtime(config, cgroups, binary)
    _probe(runtime, config, cgroups)
    log.info("OCI runtime chosen", extra={"runtime": runtime.name, "version": runtime.version})
    return runtime


def _runtime(config: Config, cgroups: Cgroups, binary: Path) -> OciRuntime:
    name = binary.name
    state = config.oci_state / name
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    version = _run([str(binary), "--version"], environment={"PATH": _path()}).decode("utf-8", "replace").split("\n")[0]
    joins = name == "crun" and cgroups.hybrid
    program = _script(config, cgroups, binary) if joins else binary
    return OciRuntime(name, program, state, version.rpartition(" ")[2], joins)


def _script(config: Config, cgroups: Cgroups, crun: Path) -> Path:
    path = config.run / "crun-hybrid"
    write(
        path, _SCRIPT.format(variable=CGROUP_VARIABLE, tree=cgroups.v2, crun=crun).encode(), mode=0o700, durable=False
    )
    return path


def _probe(runtime: OciRuntime, config: Config, cgroups: Cgroups) -> None:
    """Run /bin/true of this machine in a container with a cgroup. Raises Failed."""
    name = f"probe-{os.getpid()}"
    cgroup = f"{config.cgroup}/{name}"
    cgroups.make_v2(cgroup)
    with tempfile.TemporaryDirectory(dir=config.run, prefix="probe-") as bundle:
        (Path(bundle) / "rootfs").mkdir()
        (Path(bundle) / "config.json").write_bytes(json.dumps(_probe_spec(cgroup)))
        command = runtime.command("run", "--bundle", bundle, name)
        try:
            _run(command, environment=runtime.environment(cgroup))
        finally:
            with contextlib.suppress(Failed):
                runtime.delete(name)
            cgroups.remove(cgroup)


def _probe_spec(cgroup: str) -> dict[str, object]:
    shown = [path for path in ("/bin", "/lib", "/lib64", "/usr") if Path(path).exists()]
    binds = [
        {"destination": path, "type": "bind", "source": str(Path(path).resolve()), "options": ["rbind", "ro"]}
        for path in shown
    ]
    kinds = ("mount", "pid", "ipc", "uts", "network")
    return {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "noNewPrivileges": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            *binds,
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": kind} for kind in kinds]},
    }
