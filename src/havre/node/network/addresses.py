"""Which pod has which address: one small file per sandbox, so that a killed process finds all of them again.

A lease is written (to a temporary name, then renamed) before anything is made with its address, and removed after
everything is gone; what lies between is repaired by `PodNetwork.restore`. The files must outlive our process, not the
machine: after a boot no sandbox lives. So they stand in the run directory and are not synced to the disk.

A free address goes to the end of the line: it is the last to be given again, so that nobody who still remembers its
former pod (a connection, a cache of names) meets a stranger.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path

from havre.node.network.errors import NetworkError, NoFreeAddress

log = logging.getLogger(__name__)

SMALLEST = 29  # prefix length: 8 addresses, of which 5 are for pods
LARGEST = 16  # 65,533 pods; the names of their links have four hexadecimal digits
LONGEST_LEASE = 64 << 10  # bytes of one file: 1,000 port mappings of 60 bytes


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the machine; `ip` is 0.0.0.0 for all its addresses."""

    protocol: str  # TCP, UDP, SCTP
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where packets for a host port go: a port of a pod."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One sandbox and its address; namespace and name are those of the pod, for people and for logs."""

    sandbox: str
    address: IPv4Address
    namespace: str = ""
    name: str = ""
    ports: Mapping[HostPort, int] = field(default_factory=dict)  # to the port of the pod

    def encode(self) -> bytes:
        ports = [{**asdict(port), "to": to} for port, to in self.ports.items()]
        content = {
            "sandbox": self.sandbox,
            "address": str(self.address),
            "namespace": self.namespace,
            "name": self.name,
            "ports": ports,
        }
        return json.dumps(content).encode()

    @classmethod
    def decode(cls, data: bytes) -> Lease:
        """Raises ValueError."""
        content = json.loads(data)
        try:
            ports = {HostPort(str(p["protocol"]), str(p["ip"]), int(p["port"])): int(p["to"]) for p in content["ports"]}
            sandbox, namespace, name = (str(content[key]) for key in ("sandbox", "namespace", "name"))
            return cls(sandbox, IPv4Address(content["address"]), namespace, name, ports)
        except (KeyError, TypeError, AttributeError, AddressValueError) as error:
            raise ValueError(f"not a lease: {error!r}") from error


class Addresses:
    """The addresses of one pod CIDR; its first is the gateway's. Not for several threads at once."""

    def __init__(self, cidr: IPv4Network, directory: Path) -> None:
        if not LARGEST <= cidr.prefixlen <= SMALLEST:
            raise NetworkError(f"pod CIDR {cidr}: must be from /{LARGEST} to /{SMALLEST}")
        self.cidr = cidr
        self.gateway = cidr[1]
        self._directory = directory
        self._leases: dict[str, Lease] = {}
        self._free: deque[IPv4Address] = deque()

    def load(self) -> None:
        """Read what a former process has left; call once, first. Files that are not leases are removed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        self._leases = {lease.sandbox: lease for lease in _read(files, self.cidr)}
        last = [*self._leases.values()][-1].address if self._leases else self.gateway
        used = {lease.address for lease in self._leases.values()}
        self._free = deque(address for address in _after(self.cidr, last) if address not in used)

    def __iter__(self) -> Iterator[Lease]:
        return iter([*self._leases.values()])

    def get(self, sandbox: str) -> Lease | None:
        return self._leases.get(sandbox)

    def take(
        self,
        sandbox: str,
        namespace: str = "",
        name: str = "",
        ports: Mapping[HostPort, int] | None = None,
        *,
        address: IPv4Address | None = None,
    ) -> Lease:
        """The sandbox's lease, new unless it has one; of the free address that rested longest, or of `address`."""
        held = self._leases.get(sandbox)
        if held is not None:
            return held
        lease = Lease(sandbox, self._pick(address), namespace, name, ports or {})
        self._write(lease)
        self._free.remove(lease.address)
        self._leases[sandbox] = lease
        return lease

    def release(self, sandbox: str) -> None:
        """The address is free again; that it was already is fine."""
        lease = self._leases.pop(sandbox, None)
        if lease is not None:
            self._file(sandbox).unlink(missing_ok=True)
            self._free.append(lease.address)

    def destroy(self) -> None:
        """Forget everything and remove the files."""
        for lease in self:
            self.release(lease.sandbox)
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                path.unlink(missing_ok=True)
            self._directory.rmdir()

    def _pick(self, wanted: IPv4Address | None) -> IPv4Address:
        if wanted is not None and wanted in self._free:
            return wanted
        if wanted is not None:
            raise NetworkError(f"address {wanted} is not free in {self.cidr}")
        if not self._free:
            raise NoFreeAddress(
                f"pod CIDR {self.cidr}: all {len(self._leases)} addresses are in use; "
                "delete pods or choose a larger pod CIDR"
            )
        return self._free[0]

    def _write(self, lease: Lease) -> None:
        path = self._file(lease.sandbox)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(lease.encode())
        unfinished.replace(path)

    def _file(self, sandbox: str) -> Path:
        if not sandbox or len(sandbox) > 128 or not all(c.isalnum() or c in "-_" for c in sandbox):
            raise NetworkError(f"sandbox id {sandbox!r}: must be letters, digits, - and _")
        return self._directory / f"{sandbox}.json"


def _after(cidr: IPv4Network, last: IPv4Address) -> Iterator[IPv4Address]:
    """The pod addresses of the CIDR in the order in which they should be given, when `last` was given last."""
    first, count = int(cidr.network_address) + 2, cidr.num_addresses - 3  # neither network, gateway nor broadcast
    start = int(last) - first + 1
    return (IPv4Address(first + (start + step) % count) for step in range(count))


def _read(files: Iterable[Path], cidr: IPv4Network) -> Iterator[Lease]:
    for path in files:
        lease = _read_one(path)
        if lease is None or lease.address not in cidr:
            log.warning("lease is not usable; removed", extra={"file": str(path)})
            path.unlink(missing_ok=True)
        else:
            yield lease


def _read_one(path: Path) -> Lease | None:
    if path.suffix != ".json" or path.stat().st_size > LONGEST_LEASE:
        return None
    try:
        lease = Lease.decode(path.read_bytes())
    except ValueError:
        return None
    return lease if path.stem == lease.sandbox else None
