"""Pull secrets: which credentials fit an image. Pure.

A secret holds `{"auths": {"registry.example:5000/team": {"auth": "<base64 of user:password>"}}}` (or the older form
without `auths`). A key fits when every label of its host fits (`*.example` is one label more), its port is the same and
its path begins the image's; the longest keys come first.

Source: k8s.io/kubernetes pkg/credentialprovider (config.go, keyring.go).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

import orjson

from havre.api.meta import Obj
from havre.node.agent.cri import Auth

CONFIG_JSON: Final = "kubernetes.io/dockerconfigjson"
CONFIG: Final = "kubernetes.io/dockercfg"
HUB: Final = "index.docker.io"
MAX_ENTRIES: Final = 1000  # of one secret, which is at most 1 MiB


class CredentialError(ValueError):
    """A pull secret that cannot be read."""


def read(secret: Obj) -> dict[str, Auth]:
    """The credentials of a Secret by their key. Raises CredentialError."""
    name = f"pull secret {secret['metadata'].get('namespace', '')}/{secret['metadata']['name']}"
    data = secret.get("data") or {}
    match secret.get("type"):
        case "kubernetes.io/dockerconfigjson":
            document = _document(name, data.get(".dockerconfigjson"))
            entries = document.get("auths")
        case "kubernetes.io/dockercfg":
            entries = _document(name, data.get(".dockercfg"))
        case other:
            raise CredentialError(f"{name} is of type {other}; make it one of {CONFIG_JSON}, {CONFIG}")
    if not isinstance(entries, dict) or len(entries) > MAX_ENTRIES:
        raise CredentialError(f"{name}: `auths` must be an object of at most {MAX_ENTRIES} registries")
    return {_key(key): _auth(name, key, entry) for key, entry in entries.items()}


def _document(name: str, encoded: object) -> dict[str, object]:
    if not isinstance(encoded, str):
        raise CredentialError(f"{name} has no data of its type; write it with `kubectl create secret docker-registry`")
    try:
        document = orjson.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, orjson.JSONDecodeError) as error:
        raise CredentialError(f"{name} is not base64 of JSON: {error}") from error
    if not isinstance(document, dict):
        raise CredentialError(f"{name} is not a JSON object")
    return document


def _key(location: str) -> str:
    """Host, port and path of a location: `https://index.docker.io/v1/` is `index.docker.io`."""
    bare = location.removeprefix("https://").removeprefix("http://")
    host, slash, path = bare.partition("/")
    path = f"{slash}{path}"
    for version in ("/v1/", "/v2/"):
        if path.startswith(version):
            path = path[len(version) - 1 :]
    return host if path in ("", "/") else f"{host}{path}"


def _auth(name: str, key: str, entry: object) -> Auth:
    if not isinstance(entry, dict):
        raise CredentialError(f"{name}: the entry of {key} is not an object")
    texts = {k: v for k, v in entry.items() if isinstance(v, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        username, password = _pair(name, key, texts["auth"])
    return Auth(username, password, texts.get("identitytoken", ""), texts.get("registrytoken", ""))


def _pair(name: str, key: str, encoded: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CredentialError(f"{name}: `auth` of {key} is not base64 of `user:password`") from error
    username, colon, password = text.partition(":")
    if not colon:
        raise CredentialError(f"{name}: `auth` of {key} is not base64 of `user:password`")
    return username, password


def fitting(secrets: Iterable[dict[str, Auth]], registry: str, repository: str) -> list[Auth]:
    """The credentials to try for an image, the most specific first, each once."""
    entries = [(key, auth) for secret in secrets for key, auth in secret.items()]
    target = f"{registry}/{repository}"
    found = [auth for key, auth in sorted(entries, key=lambda e: e[0], reverse=True) if _fits(key, target)]
    if not found and registry == "docker.io":
        found = [auth for key, auth in entries if key == HUB]
    return list(dict.fromkeys(found))


def _fits(key: str, target: str) -> bool:
    try:
        wanted, actual = urlsplit(f"//{key}"), urlsplit(f"//{target}")
        same_port = wanted.port == actual.port
    except ValueError:
        return False
    labels, others = (wanted.hostname or "").split("."), (actual.hostname or "").split(".")
    if not same_port or len(labels) != len(others) or not actual.path.startswith(wanted.path):
        return False
    return all(fnmatchcase(other, label) for label, other in zip(labels, others, strict=True))
