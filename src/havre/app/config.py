"""What can be set: a YAML file, overruled by the command line; every path and port, so that instances live side by
side.

dataDir: /var/lib/havre
runDir: /run/havre
instance: havre
api: {host: 127.0.0.1, port: 6443, names: [havre.example], serviceCIDR: 10.96.0.0/16, tokenFile: /etc/havre/tokens.csv}
node: {enabled: true, name: harbour, address: 192.0.2.10, podCIDR: 10.42.0.0/24, agentPort: 10250, dnsPort: 10053,
       registryPort: 5000}
platform: {kubeconfig: /etc/havre/other.kubeconfig, artifactPort: 9790}
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from havre.lang import yaml

SYSTEM_FILE = Path("/etc/havre/config.yaml")
SYSTEM_DATA = Path("/var/lib/havre")
SYSTEM_RUN = Path("/run/havre")
_SOMEWHERE = ("198.51.100.1", 9)  # a documentation address: nothing is sent, only the route is looked up
_INSTANCE = re.compile(r"[a-z][a-z0-9]{0,9}").fullmatch
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?").fullmatch


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, from where, and what is expected."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one instance."""

    data_dir: Path
    api_host: str = "127.0.0.1"
    api_port: int = 6443
    api_names: tuple[str, ...] = ()
    service_cidr: str = "10.96.0.0/16"
    token_file: Path | None = None
    run_dir: Path = SYSTEM_RUN
    instance: str = "havre"  # in the names of what is made on the machine: cgroups, links, tables, pins
    with_node: bool = True  # whether containers run here; never without root
    node_name: str = ""
    node_address: str = ""
    pod_cidr: str = "10.42.0.0/24"
    agent_port: int = 10250
    dns_port: int = 10053
    registry_port: int = 5000
    platform_kubeconfig: Path | None = None  # of the cluster that the platform works for; None: our own
    artifact_port: int = 9790

    @property
    def gateway(self) -> str:
        """The address of the machine that pods see."""
        return str(ipaddress.ip_network(self.pod_cidr)[1])

    @property
    def cluster_dns(self) -> str:
        return str(ipaddress.ip_network(self.service_cidr)[10])

    @property
    def node_kubeconfig(self) -> Path:
        return self.data_dir / "control" / "node.kubeconfig"

    @property
    def network_kubeconfig(self) -> Path:
        return self.data_dir / "control" / "network.kubeconfig"

    @property
    def registry_hosts(self) -> Path:
        """Mirrors and certificates of registries: <registry>/hosts.toml, as containerd reads it."""
        return (SYSTEM_FILE.parent if self.data_dir == SYSTEM_DATA else self.data_dir) / "certs.d"

    @property
    def is_default(self) -> bool:
        """Is this the instance that commands mean when they are not told?"""
        return self.data_dir == default_data_dir()

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "control" / "admin.kubeconfig"


def default_data_dir() -> Path:
    """/var/lib/havre for root, the user's own state directory for everyone else."""
    if os.geteuid() == 0:
        return SYSTEM_DATA
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "havre"


def default_run_dir(instance: str) -> Path:
    """/run/havre, or beside it for a second instance; where a user may write for everyone else."""
    if os.geteuid() == 0:
        return SYSTEM_RUN.with_name(instance)
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}") / instance


def default_instance(data_dir: Path) -> str:
    """The same for the same data, another for other data."""
    if data_dir == SYSTEM_DATA:
        return "havre"
    return f"hv{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:6]}"


def default_address(gateway: str) -> str:
    """The address from which this machine reaches others; that of the gateway where it reaches none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(_SOMEWHERE)
        return str(probe.getsockname()[0])
    return gateway


_TOP = {
    "dataDir": ("data_dir", str),
    "runDir": ("run_dir", str),
    "instance": ("instance", str),
    "api": ("", dict),
    "node": ("", dict),
    "platform": ("", dict),
}
_NODES: Mapping[str, tuple[str, type]] = {
    "enabled": ("with_node", bool),
    "name": ("node_name", str),
    "address": ("node_address", str),
    "podCIDR": ("pod_cidr", str),
    "agentPort": ("agent_port", int),
    "dnsPort": ("dns_port", int),
    "registryPort": ("registry_port", int),
}
_PLATFORM: Mapping[str, tuple[str, type]] = {
    "kubeconfig": ("platform_kubeconfig", str),
    "artifactPort": ("artifact_port", int),
}
_PATHS = ("data_dir", "run_dir", "token_file", "platform_kubeconfig")
_API: Mapping[str, tuple[str, type]] = {
    "host": ("api_host", str),
    "port": ("api_port", int),
    "names": ("api_names", list),
    "serviceCIDR": ("service_cidr", str),
    "tokenFile": ("token_file", str),
}


def load(file: Path | None, **overrides: Any) -> Config:
    """The settings of `file` (None: the system's file, if there is one), then the overrides that are not None.

    Raises ConfigError.
    """
    settings: dict[str, Any] = {"data_dir": default_data_dir()}
    path = file or SYSTEM_FILE
    if file is not None or path.exists():
        settings |= _read(path)
    settings |= {key: value for key, value in overrides.items() if value is not None}
    settings |= {key: Path(settings[key]) for key in _PATHS if key in settings}
    config = _completed(Config(**settings), settings)
    return _checked(config, {key for key, value in overrides.items() if value is not None}, path)


def _completed(config: Config, chosen: Collection[str]) -> Config:
    """What was not chosen and depends on the machine, or on what was."""
    if "instance" not in chosen:
        config = replace(config, instance=default_instance(config.data_dir))
    if "run_dir" not in chosen:
        config = replace(config, run_dir=default_run_dir(config.instance))
    if os.geteuid() != 0:
        config = replace(config, with_node=False)
    if not config.node_name:
        config = replace(config, node_name=socket.gethostname().lower())
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(), strict=True)
    except OSError as e:
        raise ConfigError(f"read the configuration {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"read the configuration {path}: {e}") from e
    if raw is None:
        return {}
    top = _typed(raw, _TOP, path, "")
    top.pop("", None)
    api = _typed(raw.get("api", {}), _API, path, "api.")
    node = _typed(raw.get("node", {}), _NODES, path, "node.")
    platform = _typed(raw.get("platform", {}), _PLATFORM, path, "platform.")
    if "api_names" in api:
        api["api_names"] = tuple(map(str, api["api_names"]))
    return top | api | node | platform


def _typed(raw: Any, known: Mapping[str, tuple[str, type]], path: Path, prefix: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: {prefix or 'the file'} must be a map of settings")
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{path}: unknown setting {prefix}{key}; known are {', '.join(known)}")
        name, kind = known[key]
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ConfigError(f"{path}: {prefix}{key} must be a {kind.__name__}, not {value!r}")
        found[name] = value
    return found


def _checked(config: Config, chosen: Collection[str], path: Path) -> Config:
    def named(field: str) -> str:
        """Where the value comes from: an option of the command, or the file."""
        return f"--{field.replace('_', '-')}" if field in chosen else f"{path}: {_SETTINGS[field]}"

    for field in ("api_port", "agent_port", "dns_port", "registry_port", "artifact_port"):
        port = getattr(config, field)
        if not 0 <= port <= 65535:
            raise ConfigError(f"{named(field)} {port} is no port; choose one from 1 to 65535")
    for field in ("api_host", "node_address"):
        address = getattr(config, field)
        try:
            _ = address and ipaddress.ip_address(address)
        except ValueError as e:
            raise ConfigError(f"{named(field)} {address!r} must be an IP address of this machine: {e}") from e
    services = _network(named("service_cidr"), config.service_cidr, 12, 28)
    pods = _network(named("pod_cidr"), config.pod_cidr, 12, 28)
    if services.overlaps(pods):
        raise ConfigError(f"{named('pod_cidr')} {pods} and {named('service_cidr')} {services} must not overlap")
    if not _INSTANCE(config.instance):
        raise ConfigError(f"{named('instance')} {config.instance!r} must be 1 to 10 letters (a-z) and digits")
    if not _NODE(config.node_name):
        raise ConfigError(f"{named('node_name')} {config.node_name!r} must be a DNS name of at most 63 characters")
    return config


_SETTINGS = {
    "instance": "instance",
    **{field: f"api.{key}" for key, (field, _) in _API.items()},
    **{field: f"node.{key}" for key, (field, _) in _NODES.items()},
    **{field: f"platform.{key}" for key, (field, _) in _PLATFORM.items()},
}


def _network(where: str, text: str, shortest: int, longest: int) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as e:
        raise ConfigError(f"{where} {text!r}: {e}") from e
    if not isinstance(network, ipaddress.IPv4Network) or not shortest <= network.prefixlen <= longest:
        raise ConfigError(f"{where} {text} must be an IPv4 network from /{shortest} to /{longest}")
    return network
