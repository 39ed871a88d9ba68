"""What can be set: a YAML file, overruled by the command line; every path and port, so that instances live side by
side.

dataDir: /var/lib/havre
api: {host: 127.0.0.1, port: 6443, names: [havre.example], serviceCIDR: 10.96.0.0/16, tokenFile: /etc/havre/tokens.csv}
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from havre.lang import yaml

SYSTEM_FILE = Path("/etc/havre/config.yaml")
SYSTEM_DATA = Path("/var/lib/havre")


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


_TOP = {"dataDir": ("data_dir", str), "api": ("", dict)}
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
    config = replace(Config(Path(settings.pop("data_dir"))), **settings)
    return _checked(config, {key for key, value in overrides.items() if value is not None}, path)


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
    api = _typed(top.pop("", {}), _API, path, "api.")
    if "token_file" in api:
        api["token_file"] = Path(api["token_file"])
    if "api_names" in api:
        api["api_names"] = tuple(map(str, api["api_names"]))
    return top | api


def _typed(raw: Any, known: Mapping[str, tuple[str, type]], path: Path, prefix: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: {prefix or 'the file'} must be a map of settings")
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{path}: unknown setting {prefix}{key}; known are {', '.join(known)}")
        name, kind = known[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{path}: {prefix}{key} must be a {kind.__name__}, not {value!r}")
        found[name] = value
    return found


def _checked(config: Config, chosen: Collection[str], path: Path) -> Config:
    def named(option: str, setting: str) -> str:
        """Where the value comes from: an option of the command, or the file."""
        return f"--{option.replace('_', '-')}" if option in chosen else f"{path}: api.{setting}"

    if not 0 <= config.api_port <= 65535:
        raise ConfigError(f"{named('api_port', 'port')} {config.api_port} is no port; choose one from 1 to 65535")
    try:
        ipaddress.ip_address(config.api_host)
    except ValueError as e:
        raise ConfigError(
            f"{named('api_host', 'host')} {config.api_host!r} must be an IP address of this machine: {e}"
        ) from e
    cidr = named("service_cidr", "serviceCIDR")
    try:
        network = ipaddress.ip_network(config.service_cidr)
    except ValueError as e:
        raise ConfigError(f"{cidr} {config.service_cidr!r}: {e}") from e
    if network.version != 4 or not 12 <= network.prefixlen <= 28:
        raise ConfigError(f"{cidr} {config.service_cidr} must be an IPv4 network from /12 to /28")
    return config
