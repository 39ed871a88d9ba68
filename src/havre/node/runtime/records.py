"""What is written down about each sandbox and container, and is all that a restart has to know.

A record holds the CRI configuration as it was received (protobuf, in base64), so that nothing asked for is lost in
translation. The file appears when the object is complete: a directory without it is a half-made object.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from havre.node.runtime.errors import Failed
from havre.node.runtime.files import read_json, write_json
from havre.node.runtime.processes import Process
from havre.node.runtime.users import User
from havre.wire.grpc.messages import messages

__all__ = ["ContainerRecord", "ContainerState", "SandboxRecord"]

cri = messages("runtime.v1")

FILE = "state.json"
NO_PROCESS = Process(0, 0)


class ContainerState(Enum):
    """The states of CRI but for "unknown": we always find out."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(slots=True)
class ContainerRecord:
    """One container; times are nanoseconds since 1970, 0 if not yet."""

    id: str
    sandbox: str
    config: Any  # ContainerConfig
    image: str  # id
    image_reference: str  # repo@digest where there is one
    chain: str  # the layers below its own
    cgroup: str
    user: User
    stop_signal: int
    own_pids: bool  # its PID namespace ends with it
    state: ContainerState = ContainerState.CREATED
    init: Process = NO_PROCESS
    monitor: Process = NO_PROCESS
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    log: str = ""  # path, "" for none
    settled: bool = False  # after the end: its cgroup, mounts and runtime state are gone
    image_mounts: list[str] = field(default_factory=list)  # keys of snapshots mounted as volumes

    def save(self, directory: Path, *, durable: bool = True) -> None:
        """Blocks."""
        write_json(directory / FILE, _plain(self), durable=durable)

    @classmethod
    def load(cls, directory: Path) -> ContainerRecord | None:
        """None for a half-made container. Raises Failed for one whose record cannot be read."""
        value = read_json(directory / FILE)
        if value is None:
            return None
        try:
            value["config"] = cri.ContainerConfig.FromString(base64.b64decode(value["config"]))
            value["user"] = User(**value["user"] | {"groups": tuple(value["user"]["groups"])})
            value["state"] = ContainerState(value["state"])
            value["init"], value["monitor"] = Process(*value["init"]), Process(*value["monitor"])
            return cls(**value)
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(f"read {directory / FILE}: {error}") from error


@dataclass(slots=True)
class SandboxRecord:
    """One pod sandbox."""

    id: str
    config: Any  # PodSandboxConfig
    handler: str = ""
    hostname: str = ""
    created_at: int = 0
    ready: bool = True
    ip: str = ""
    pause: Process = NO_PROCESS  # only with a shared PID namespace
    cgroup: str = ""

    def save(self, directory: Path) -> None:
        """Blocks."""
        write_json(directory / FILE, _plain(self))

    @classmethod
    def load(cls, directory: Path) -> SandboxRecord | None:
        """None for a half-made sandbox. Raises Failed for one whose record cannot be read."""
        value = read_json(directory / FILE)
        if value is None:
            return None
        try:
            value["config"] = cri.PodSandboxConfig.FromString(base64.b64decode(value["config"]))
            value["pause"] = Process(*value["pause"])
            return cls(**value)
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(f"read {directory / FILE}: {error}") from error


def _plain(record: Any) -> dict[str, Any]:
    return {name: _value(getattr(record, name)) for name in record.__slots__}


def _value(value: Any) -> Any:
    if isinstance(value, Process):
        return [value.pid, value.started]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, User):
        return {name: _value(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, tuple):
        return list(value)
    if hasattr(value, "SerializeToString"):
        return base64.b64encode(value.SerializeToString()).decode()
    return value
