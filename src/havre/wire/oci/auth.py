"""Credentials of a registry, and the bearer tokens that they buy.

Rules of trust. Credentials are sent to the registry they are for, and to the token service that this registry itself
names (never one named after a redirect, never one over plain HTTP unless the registry is spoken to like that too). They
are never sent to a mirror, to the target of a redirect or to the URLs of a foreign layer (CVE-2020-15157).

Source: distribution, docs/spec/auth/token.md and oauth.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

import orjson

from havre.wire.oci.challenge import Challenge
from havre.wire.oci.errors import RegistryError, Unauthorized
from havre.wire.oci.reference import DOCKER_HUB

TOKEN_REPLY = 256 * 1024  # bytes; tokens of cloud registries reach some 10 KiB
_TOKEN = re.compile(r"[!-~]{1,65536}").fullmatch
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Auth:
    """What a pull secret holds; all empty is the same as none."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # buys tokens by OAuth2
    registry_token: str = field(default="", repr=False)  # is a bearer token already
    server: str = ""  # the registry it is for; "" is any

    @classmethod
    def from_basic(cls, encoded: str, server: str = "") -> Auth:
        """From the `auth` of a Docker configuration: base64 of `user:password`. Raises Unauthorized."""
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise Unauthorized("credentials of a registry: `auth` must be the base64 of user:password")
        return cls(user, password.rstrip("\0"), server=server)

    def serves(self, registry: str) -> bool:
        """Whether these credentials are meant for this registry."""
        host = urlsplit(self.server if "//" in self.server else f"//{self.server}").netloc
        return not host or host == registry or {host, registry} <= _HUB_NAMES

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header; "" without a user."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The one request that buys a token."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


def choose(challenges: Sequence[Challenge], auth: Auth | None) -> Challenge | None:
    """The challenge to answer: a bearer token when offered, else a password if there is one."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            return challenge
    has_password = auth is not None and auth.username
    return next((c for c in challenges if c.scheme == "basic"), None) if has_password else None


def token_request(challenge: Challenge, scope: str, auth: Auth | None, *, plain: bool) -> TokenRequest:
    """How to buy the token; `plain` allows a token service over HTTP. Raises Unauthorized."""
    realm = challenge.parameters["realm"]
    try:
        url = urlsplit(realm)
        usable = url.hostname and url.username is None and url.port != 0
    except ValueError:
        usable = None
    if not usable or url.scheme not in (("http", "https") if plain else ("https",)) or not _TOKEN(realm):
        raise Unauthorized(f"token service {realm[:200]!r}: it must be an https URL without credentials")
    fields = [("service", challenge.parameters.get("service", ""))]
    fields += [("scope", wanted) for wanted in (challenge.parameters.get("scope") or scope).split(" ")]
    fields = [(name, value) for name, value in fields if value]
    if auth is not None and auth.identity_token:
        fields += [("grant_type", "refresh_token"), ("refresh_token", auth.identity_token), ("client_id", "havre")]
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return TokenRequest("POST", realm, headers, urlencode(fields).encode())
    headers = {}
    if auth is not None and auth.basic:
        fields.append(("account", auth.username))
        headers["authorization"] = auth.basic
    query = "&".join(part for part in (url.query, urlencode(fields, quote_via=quote)) if part)
    return TokenRequest("GET", url._replace(query=query, fragment="").geturl(), headers)


def token_of(reply: bytes, realm: str) -> str:
    """The token in an answer of the token service. Raises RegistryError."""
    try:
        document = orjson.loads(reply)
        token = document.get("token") or document.get("access_token")
    except (orjson.JSONDecodeError, AttributeError):
        token = None
    if not isinstance(token, str) or _TOKEN(token) is None:
        raise RegistryError(f"token service {realm[:200]!r}: its answer holds no token")
    return token
