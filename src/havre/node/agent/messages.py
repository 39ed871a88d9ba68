"""Termination messages: what a container wrote to its message file, or the end of its log. Blocks: use a thread.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (getTerminationMessage).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from havre.node.agent import names
from havre.node.agent.cri import ContainerStatus, State

MESSAGE: Final = 4096  # bytes of the file that are reported: the last ones
LOG_BYTES: Final = 2048  # of a log
LOG_LINES: Final = 80


def with_message(container: ContainerStatus) -> ContainerStatus:
    """The status of a container that has ended, with what it left for people."""
    if container.state is not State.EXITED:
        return container
    own = _from_file(container)
    fallback = container.annotations.get(names.MESSAGE_POLICY) == "FallbackToLogsOnError" and container.exit_code != 0
    if not own and fallback and container.log_path:
        own = _from_log(Path(container.log_path))
    if not own:
        return container
    return replace(container, message=f"{container.message}: {own}" if container.message else own)


def _from_file(container: ContainerStatus) -> str:
    wanted = container.annotations.get(names.MESSAGE_PATH, "")
    path = next((host for host, inside in container.mounts if inside == wanted), None) if wanted else None
    if path is None:
        return ""
    try:
        return _tail(Path(path), MESSAGE).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"Error on reading termination log {path}: {error.strerror}"


def _tail(path: Path, size: int) -> bytes:
    """The last bytes of a regular file; the container may have put anything in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - size))
        return file.read(size)


def _from_log(path: Path) -> str:
    """The text of the last lines of a CRI log: `<time> <stream> <F|P> <text>`."""
    try:
        raw = _tail(path, 16 * LOG_BYTES)
    except OSError:
        return ""
    lines = raw.decode(errors="replace").splitlines()[-LOG_LINES:]
    text = "".join(_text_of(line) for line in lines)
    return text.encode()[-LOG_BYTES:].decode(errors="ignore")


def _text_of(line: str) -> str:
    parts = line.split(" ", 3)
    if len(parts) < 4:
        return ""
    return parts[3] if parts[2].startswith("P") else f"{parts[3]}\n"
