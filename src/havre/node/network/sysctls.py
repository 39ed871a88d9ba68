"""Settings of the kernel's IP stack that pods need; what was there before is written down first, and can be restored.

The record is in the run directory: after a boot the machine has its own settings again, and the record is void.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from havre.node.network.errors import NetworkError

log = logging.getLogger(__name__)

ROOT = Path("/proc/sys")
LONGEST_RECORD = 16 << 10

FORWARDING = "net/ipv4/ip_forward"
NEEDED: Mapping[str, str] = {FORWARDING: "1"}  # without it, no packet goes from one interface to another


def apply(record: Path, needed: Mapping[str, str] = NEEDED, root: Path = ROOT) -> None:
    """Set what is needed and write down what it replaces. Raises NetworkError."""
    known = read_record(record)
    for name, value in needed.items():
        before = _read(root / name)
        if before == value:
            continue
        known.setdefault(name, before)
        _save(record, known)
        _write(root / name, value)


def restore(record: Path, keep: frozenset[str] = frozenset(), root: Path = ROOT) -> None:
    """Put back what `apply` has replaced, but not the settings in `keep`, and forget the record."""
    for name, before in read_record(record).items():
        if name not in keep:
            _write(root / name, before)
    record.unlink(missing_ok=True)


def without_ipv6(link: str, root: Path = ROOT) -> None:
    """A host's end of a pod's link speaks IPv4 only: no solicitations, no multicast groups."""
    path = root / "net/ipv6/conf" / link / "disable_ipv6"
    if path.exists():
        _write(path, "1")


def read_record(record: Path) -> dict[str, str]:
    try:
        data = record.read_bytes()[:LONGEST_RECORD]
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(data)
        return {str(name): str(value) for name, value in content.items()}
    except (ValueError, AttributeError):
        log.warning("record of kernel settings is not readable; ignored", extra={"file": str(record)})
        return {}


def _save(record: Path, known: Mapping[str, str]) -> None:
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = record.with_suffix(".tmp")
    unfinished.write_text(json.dumps(known))
    unfinished.replace(record)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise NetworkError(f"read kernel setting {path}: {error.strerror}") from error


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise NetworkError(f"set kernel setting {path} to {value}: {error.strerror}") from error
