"""Which servers answer for a registry: itself, its mirrors, and how to speak to each.

One directory per registry, read anew for every pull, as containerd reads it:

    certs.d/registry.k8s.io/hosts.toml       server = "https://registry.k8s.io"
    certs.d/10.0.0.5_5000_/hosts.toml        [host."http://mirror.example:5000"]
    certs.d/_default/hosts.toml              capabilities = ["pull", "resolve"]

Fields: `server`, and per host (or at the top, for the server) `capabilities`, `ca`, `client`, `skip_verify`,
`override_path`, `header`. Without a file the registry itself is asked, over HTTPS; over HTTP when it is on this machine
or was configured as insecure.

Source: containerd, core/remotes/docker/config/hosts.go and docs/hosts.md.
"""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from havre.node.runtime.errors import Failed
from havre.wire.oci.reference import DOCKER_HUB
from havre.wire.oci.registry import Endpoint, is_loopback
from havre.wire.tls import TlsError, client_context

FILE_LIMIT = 256 * 1024  # bytes of one hosts.toml
MAX_HOSTS = 64  # mirrors of one registry
DEFAULT = "_default"
HUB_SERVER = "registry-1.docker.io"
_ABILITIES = frozenset({"pull", "resolve", "push"})


class InvalidHosts(Failed):
    """A hosts.toml that cannot be used; the message names the file and the field."""


class Hosts:
    """The endpoints of every registry."""

    def __init__(self, directory: Path | None = None, insecure: Collection[str] = ()) -> None:
        """`insecure` are registries (host[:port]) that may be spoken to over plain HTTP."""
        self._directory = directory
        self._insecure = frozenset(insecure)

    def endpoints(self, registry: str) -> tuple[Endpoint, ...]:
        """Mirrors in their order, then the registry itself. Raises InvalidHosts."""
        folder = self._folder(registry)
        if folder is None:
            return (Endpoint(f"{self._server(registry)}/v2"),)
        file = folder / "hosts.toml"
        try:
            with file.open("rb") as opened:
                data = opened.read(FILE_LIMIT + 1)
        except OSError as error:
            raise InvalidHosts(f"{file}: {error.strerror}") from error
        return parse_hosts(data, registry, folder, self._server(registry))

    def _folder(self, registry: str) -> Path | None:
        if self._directory is None:
            return None
        host, colon, port = registry.rpartition(":")
        names = [registry, DEFAULT]
        if colon and port.isdigit():
            names.insert(0, f"{host}_{port}_")
        folders = (self._directory / name for name in names if "/" not in name and name not in (".", ".."))
        return next((folder for folder in folders if (folder / "hosts.toml").is_file()), None)

    def _server(self, registry: str) -> str:
        host = HUB_SERVER if registry == DOCKER_HUB else registry
        plain = registry in self._insecure or is_loopback(urlsplit(f"//{host}").hostname or "")
        return f"{'http' if plain else 'https'}://{host}"


def parse_hosts(data: bytes, registry: str, folder: Path, server: str) -> tuple[Endpoint, ...]:
    """The endpoints that a hosts.toml describes; `server` is the default of its own. Raises InvalidHosts."""
    where = f"{folder.name}/hosts.toml"
    if len(data) > FILE_LIMIT:
        raise InvalidHosts(f"{where}: longer than {FILE_LIMIT} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidHosts(f"{where}: not TOML: {error}") from None
    hosts = document.get("host", {})
    if not isinstance(hosts, dict) or len(hosts) > MAX_HOSTS:
        raise InvalidHosts(f"{where}: [host] must be a table of at most {MAX_HOSTS} hosts")
    own = {name: value for name, value in document.items() if name not in ("host", "server")}
    said = document.get("server") or server
    found = []
    for url, table in hosts.items():
        if not isinstance(table, dict):
            raise InvalidHosts(f"{where}: host.{url[:100]!r} must be a table")
        found.append(_endpoint(url, table, folder, where, registry, server=said))
    return (*found, _endpoint(said, own, folder, where, registry, server=said))


def _endpoint(
    url: object, table: Mapping[str, Any], folder: Path, where: str, registry: str, *, server: object
) -> Endpoint:
    parts = _url(url, where)
    path = parts.path.rstrip("/")
    if not _flag(table, "override_path", where) and not path.endswith("/v2"):
        path += "/v2"
    abilities = _words(table, "capabilities", where)
    if unknown := set(abilities) - _ABILITIES:
        raise InvalidHosts(f"{where}: capability {min(unknown)[:50]!r} is not known; use pull, resolve or push")
    return Endpoint(
        url=f"{parts.scheme}://{parts.netloc}{path}",
        ssl=_context(table, folder, where) if parts.scheme == "https" else None,
        capabilities=frozenset(abilities) if abilities else _ABILITIES,
        headers=_headers(table, where),
        # what stands in for the registry gets its credentials only when it is the registry
        trusted=parts.netloc in (registry, HUB_SERVER if registry == DOCKER_HUB else registry, _netloc(server)),
    )


def _netloc(server: object) -> str:
    return urlsplit(server).netloc if isinstance(server, str) else ""


def _url(url: object, where: str) -> SplitResult:
    text = url if isinstance(url, str) else ""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        usable = bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        usable = False
    if (
        not usable
        or parts.scheme not in ("http", "https")
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        raise InvalidHosts(f"{where}: {text[:100]!r} is not the URL of a host, such as https://mirror.example:5000")
    return parts


def _context(table: Mapping[str, Any], folder: Path, where: str) -> ssl.SSLContext | None:
    """What verifies the server and shows our certificate; None for the usual."""
    authorities = [folder / name for name in _words(table, "ca", where)]
    skip = _flag(table, "skip_verify", where)
    pairs = _pairs(table.get("client"), where)
    if not (authorities or skip or pairs):
        return None
    try:
        context = client_context(verify=not skip)
        for authority in authorities:
            context.load_verify_locations(authority)
        for certificate, key in pairs:
            context.load_cert_chain(folder / certificate, folder / key if key else None)
    except (OSError, TlsError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidHosts(f"{where}: cannot load its certificates: {error}") from error
    return context


def _pairs(value: object, where: str) -> list[tuple[str, str]]:
    """`client`: a file, files, or pairs of a certificate and its key."""
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list):
        raise InvalidHosts(f"{where}: client must be a file or a list of [certificate, key]")
    pairs = []
    for entry in found:
        pair = [entry, ""] if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise InvalidHosts(f"{where}: client must be a file or a list of [certificate, key]")
        pairs.append((pair[0], pair[1]))
    return pairs


def _headers(table: Mapping[str, Any], where: str) -> dict[str, str]:
    headers = table.get("header", {})
    if not isinstance(headers, dict):
        raise InvalidHosts(f"{where}: header must be a table")
    found = {}
    for name in headers:
        value = ", ".join(_words(headers, name, where))
        if not name.isascii() or not (name + value).isprintable() or not name or set(name) & set(' :"'):
            raise InvalidHosts(f"{where}: header {name[:50]!r} cannot be sent")
        found[name.lower()] = value
    return found


def _words(table: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = table.get(name, [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(word, str) and "\0" not in word for word in found):
        raise InvalidHosts(f"{where}: {name[:50]} must be a string or a list of strings")
    return found


def _flag(table: Mapping[str, Any], name: str, where: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise InvalidHosts(f"{where}: {name} must be true or false")
    return value
