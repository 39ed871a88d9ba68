"""Where the cluster is and who we are there: from kubeconfig files, or from the service account of a pod.

`load()` looks where kubectl looks: the path given, $KUBECONFIG (a list of files, merged: the first that says something
wins), ~/.kube/config, and at last the files that every pod finds in /var/run/secrets. The result is one frozen
`Connection`; certificates are read at once, a token file again and again, since its token is replaced while we run.

Programs that hand out credentials (`exec`, `auth-provider`) are refused by name, never ignored.

Source: k8s.io/client-go, tools/clientcmd (loader.go, client_config.go, api/v1/types.go) and rest/config.go.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from havre.lang import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_BYTES = 4 << 20  # of one file: a kubeconfig with a thousand clusters and their certificates
_NAMED = {"clusters": "cluster", "users": "user", "contexts": "context"}
_FILES = {  # fields that name files; their paths are relative to the kubeconfig that holds them
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
}
_UNSUPPORTED = {
    "exec": "credential plugins are not supported; put a token or a client certificate there",
    "auth-provider": "authentication providers are not supported; put a token or a client certificate there",
}


class KubeconfigError(Exception):
    """A configuration that cannot be read or used; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One cluster and one identity. Certificates and keys are PEM."""

    server: str
    ca: bytes | None = None  # None: the authorities of the system
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None  # wins over `token`; read again while we run
    username: str = ""
    password: str = field(default="", repr=False)
    impersonate: str = ""
    impersonate_groups: tuple[str, ...] = ()
    impersonate_uid: str = ""
    insecure: bool = False
    server_name: str = ""
    namespace: str = "default"


def load(path: Path | None = None, *, context: str = "", env: Mapping[str, str] = os.environ) -> Connection:
    """The connection of `context`, or of the current one. Raises KubeconfigError."""
    paths = _paths(path, env)
    found = [read(p) for p in paths if p.exists()]
    if found:
        return connection(_merged(found), context, where=", ".join(map(str, paths)))
    if path is None and env.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(env)
    raise KubeconfigError(
        f"load the kubeconfig {', '.join(map(str, paths))}: no such file; name one with --kubeconfig or $KUBECONFIG"
    )


def _paths(path: Path | None, env: Mapping[str, str]) -> list[Path]:
    if path is not None:
        return [path]
    if listed := [Path(part) for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]:
        return listed
    return [Path(env.get("HOME") or "/root") / ".kube" / "config"]


def read(path: Path) -> dict[str, Any]:
    """One file, its relative paths made absolute. Raises KubeconfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"read the kubeconfig {path}: {error.strerror}; check the path and its mode") from error
    return parse(text, path)


def parse(text: bytes, path: Path) -> dict[str, Any]:
    """The content of a file; `path` is for its relative paths and for messages. Raises KubeconfigError."""
    try:
        config = yaml.load(text, max_bytes=MAX_BYTES)
    except yaml.YAMLError as error:
        raise KubeconfigError(f"read the kubeconfig {path}: {error}") from error
    config = {} if config is None else config
    if not isinstance(config, dict):
        raise KubeconfigError(f"read the kubeconfig {path}: it must be a mapping with clusters, users and contexts")
    named = {section: _entries(config, section, inner, path) for section, inner in _NAMED.items()}
    return {**named, "current-context": str(config.get("current-context") or "")}


def _entries(config: dict[str, Any], section: str, inner: str, path: Path) -> dict[str, dict[str, Any]]:
    """`[{name: x, cluster: {…}}]` as `{x: {…}}`."""
    listed = config.get(section) or []
    if not isinstance(listed, list):
        raise KubeconfigError(f"read the kubeconfig {path}: {section} must be a list")
    entries: dict[str, dict[str, Any]] = {}
    for item in listed:
        body = item.get(inner) or {} if isinstance(item, dict) else None
        if not isinstance(body, dict) or not isinstance(item.get("name"), str):
            raise KubeconfigError(f"read the kubeconfig {path}: an entry of {section} must have a name and a {inner}")
        entries.setdefault(item["name"], _absolute(body, section, path.parent))
    return entries


def _absolute(body: dict[str, Any], section: str, base: Path) -> dict[str, Any]:
    files = {key: str(base / body[key]) for key in _FILES.get(section, ()) if isinstance(body.get(key), str)}
    return {**body, **{key: value for key, value in files.items() if body[key]}}


def _merged(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """As one: of two entries with one name the first stays."""
    merged: dict[str, Any] = {section: {} for section in _NAMED}
    for config in configs:
        for section in _NAMED:
            merged[section] = {**config[section], **merged[section]}
    merged["current-context"] = next((c["current-context"] for c in configs if c["current-context"]), "")
    return merged


def connection(config: dict[str, Any], context: str = "", *, where: str = "kubeconfig") -> Connection:
    """What a parsed configuration says about a context. Raises KubeconfigError."""
    name = context or config["current-context"]
    if not name:
        raise KubeconfigError(f"use {where}: no current-context; choose one of {_names(config['contexts'])}")
    chosen = _pick(config, "contexts", name, where)
    cluster = _pick(config, "clusters", _text(chosen, "cluster", where), where)
    user = _pick(config, "users", chosen["user"], where) if chosen.get("user") else {}
    for refused, why in _UNSUPPORTED.items():
        if user.get(refused):
            raise KubeconfigError(f"use {where}: user {chosen['user']!r} has {refused!r}: {why}")
    if cluster.get("proxy-url"):
        raise KubeconfigError(f"use {where}: cluster {chosen['cluster']!r} has 'proxy-url': proxies are not supported")
    server = _text(cluster, "server", where)
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(f"use {where}: server {server!r} must look like https://host:port")
    groups = user.get("as-groups") or []
    if not isinstance(groups, list):
        raise KubeconfigError(f"use {where}: as-groups must be a list")
    token_file = _text(user, "tokenFile", where)
    return Connection(
        server.rstrip("/"),
        ca=_pem(cluster, "certificate-authority", where),
        certificate=_pem(user, "client-certificate", where),
        key=_pem(user, "client-key", where),
        token=_text(user, "token", where),
        token_file=Path(token_file) if token_file else None,
        username=_text(user, "username", where),
        password=_text(user, "password", where),
        impersonate=_text(user, "as", where),
        impersonate_groups=tuple(map(str, groups)),
        impersonate_uid=_text(user, "as-uid", where),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
        server_name=_text(cluster, "tls-server-name", where),
        namespace=_text(chosen, "namespace", where) or "default",
    )


def _pick(config: dict[str, Any], section: str, name: Any, where: str) -> dict[str, Any]:
    entry: dict[str, Any] | None = config[section].get(name) if isinstance(name, str) else None
    if entry is None:
        kind = _NAMED[section]
        raise KubeconfigError(f"use {where}: there is no {kind} {name!r}; there is {_names(config[section])}")
    return entry


def _names(entries: Mapping[str, Any]) -> str:
    return ", ".join(sorted(entries)) or "none"


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise KubeconfigError(f"use {where}: {key} must be a string")
    return value


def _pem(entry: Mapping[str, Any], key: str, where: str) -> bytes | None:
    """`key-data` (base64) wins over the file that `key` names."""
    if encoded := _text(entry, f"{key}-data", where):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise KubeconfigError(f"use {where}: {key}-data is not base64: {error}") from error
    path = _text(entry, key, where)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KubeconfigError(f"use {where}: read {key} {path}: {reason}; check the path and its mode") from error


def in_cluster(env: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> Connection:
    """The service account of the pod we run in. Raises KubeconfigError."""
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise KubeconfigError(
            "use the service account of this pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; "
            "outside of a pod name a file with --kubeconfig"
        )
    try:
        ca = (directory / "ca.crt").read_bytes()
        (directory / "token").read_bytes()
        namespace = (directory / "namespace").read_text().strip()
    except OSError as error:
        raise KubeconfigError(
            f"use the service account of this pod: read {error.filename}: {error.strerror}; "
            "does the pod have automountServiceAccountToken: false?"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    return Connection(
        f"https://{shown}:{port}", ca=ca, token_file=directory / "token", namespace=namespace or "default"
    )
