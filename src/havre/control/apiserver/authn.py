"""Who sends a request: client certificate, bearer token, or nobody in particular; and who they want to be taken for.

Tried in upstream's order: the certificate (CN is the user, each O a group), the static tokens, the tokens of service
accounts, then anonymous. A bearer token that nobody knows is refused even where anonymous requests are welcome.
Certificates are read once and remembered; a token is checked against the cache of objects on every request.

TLS has verified the certificate against the client CA before we see it; its end date is checked here again, because a
connection may outlive it. Authentication by a front proxy's headers (X-Remote-User) is not offered: this server is the
front.

Source: k8s.io/apiserver pkg/authentication/request/{x509,bearertoken,anonymous,websocket}, token/tokenfile,
pkg/endpoints/filters/impersonation.go.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import unquote

from havre.api.errors import InternalError, Unauthorized
from havre.control.apiserver import service_account_tokens as tokens
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.service_account_tokens import TokenRejected, Tokens
from havre.machinery.admission import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, Attributes, User

CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
UID_OID = "1.3.6.1.4.1.57683.2"  # RDN of a certificate's subject that carries the uid of its user
WEBSOCKET_PREFIX = "base64url.bearer.authorization.k8s.io."
MEMORY = 4096  # certificates kept before all are forgotten; about 2 kB each, so 8 MB at most
TOKEN_FILE_LIMIT = 4 << 20  # bytes of the file of static tokens

_GROUP = "authentication.k8s.io"
_EXTRA = "impersonate-extra-"


class Peer(Protocol):
    """The verified certificate of the other side."""

    @property
    def der(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Certified:
    user: User | None  # None: a certificate without a name says nothing
    not_after: float


class Authenticator:
    """Answers `authenticate`; header names are expected in lower case, repeated headers joined by a comma."""

    def __init__(
        self,
        *,
        static_tokens: Mapping[str, User] | None = None,
        service_accounts: Tokens | None = None,
        anonymous: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._static = dict(static_tokens or {})
        self._service_accounts = service_accounts
        self._anonymous = anonymous
        self._now = now
        self._certified: dict[bytes, _Certified] = {}

    def authenticate(self, headers: Mapping[str, str], peer: Peer | None) -> User:
        """The user of a request, before impersonation. Raises Unauthorized."""
        if peer is not None:
            user = self._of_certificate(peer.der)
            if user is not None:
                return user
        token = bearer_token(headers)
        if token:
            return self._of_token(token)
        if not self._anonymous:
            raise Unauthorized
        return NOBODY

    def _of_certificate(self, der: bytes) -> User | None:
        certified = self._certified.get(der)
        if certified is None:
            if len(self._certified) >= MEMORY:
                self._certified.clear()
            certified = self._certified[der] = _read_certificate(der)
        if certified.not_after < self._now():
            raise Unauthorized
        return certified.user

    def _of_token(self, token: str) -> User:
        try:
            verified = self.review(token)
        except TokenRejected as e:
            raise Unauthorized from e
        return verified.user

    def review(self, token: str, audiences: tuple[str, ...] = ()) -> tokens.Verified:
        """Whose token this is, for `authenticate` and for TokenReview. Raises TokenRejected."""
        user = self._static.get(token)
        if user is not None:
            return tokens.Verified(user, audiences)  # a static token is good for every audience
        if self._service_accounts is not None:
            verified = self._service_accounts.verify(token, audiences)
            if verified is not None:
                return verified
        raise TokenRejected("")

    @property
    def audiences(self) -> tuple[str, ...]:
        return self._service_accounts.audiences if self._service_accounts else ()


NOBODY = User(ANONYMOUS, (UNAUTHENTICATED,))


def bearer_token(headers: Mapping[str, str]) -> str:
    """The token of `Authorization: Bearer …`, or of a browser's WebSocket, which can send no such header."""
    scheme, _, rest = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.partition(" ")[0]
    if headers.get("upgrade", "").lower() != "websocket":
        return ""
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        encoded = protocol.strip().removeprefix(WEBSOCKET_PREFIX)
        if encoded != protocol.strip():
            return _decoded(encoded)
    return ""


def _decoded(encoded: str) -> str:
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as e:
        raise Unauthorized from e


def _read_certificate(der: bytes) -> _Certified:
    from cryptography import x509  # 60 ms, for servers that never see a certificate
    from cryptography.x509.oid import NameOID, ObjectIdentifier

    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = certificate.subject
        not_after = certificate.not_valid_after_utc.timestamp()
    except ValueError as e:
        raise Unauthorized from e
    names = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or not names[-1]:
        return _Certified(None, not_after)
    groups = tuple(str(part.value) for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    uids = [str(part.value) for part in subject.get_attributes_for_oid(ObjectIdentifier(UID_OID))]
    if len(uids) > 1 or uids == [""]:
        raise Unauthorized  # whose certificate it is would be a guess
    extra = {CREDENTIAL_ID: (f"X509SHA256={hashlib.sha256(der).hexdigest()}",)}
    user = User(names[-1], (*groups, AUTHENTICATED), uids[0] if uids else "", extra)
    return _Certified(user, not_after)


def parse_token_file(text: str) -> dict[str, User]:
    """Static tokens, a line each: `token,user,uid,"group1,group2"`. Raises ValueError."""
    if len(text) > TOKEN_FILE_LIMIT:
        raise ValueError(f"cannot read {len(text)} bytes of static tokens: at most {TOKEN_FILE_LIMIT} are accepted")
    found: dict[str, User] = {}
    try:
        for number, record in enumerate(csv.reader(text.splitlines()), 1):
            if not record:
                continue
            if len(record) < 3:
                raise ValueError(
                    f"line {number} of the static tokens must have at least 3 columns (token, user name, user uid), "
                    f"found {len(record)}"
                )
            token, name, uid, *more = record
            if token:
                groups = tuple(filter(None, more[0].split(","))) if more else ()
                found[token] = User(name, (*groups, AUTHENTICATED), uid)
    except csv.Error as e:
        raise ValueError(f"cannot read the static tokens: {e}") from e
    return found


# impersonation


def impersonates(headers: Mapping[str, str]) -> bool:
    return any(name.startswith("impersonate-") for name in headers)


def impersonate(user: User, headers: Mapping[str, str], authorizer: Authorizer) -> User:
    """The user that the Impersonate-* headers ask for, each part of it authorized. Raises Forbidden."""
    name = headers.get("impersonate-user", "")
    wanted_groups = [g for part in headers.get("impersonate-group", "").split(",") if (g := part.strip())]
    extra = {_extra_key(header): values for header, values in _extras(headers)}
    uid = headers.get("impersonate-uid", "")
    if not name:
        if wanted_groups or extra or uid:
            raise InternalError("requested impersonation of groups, uid or extra without impersonating a user")
        return user
    for request in _checks(user, User(name, tuple(wanted_groups), uid, extra)):
        authorizer.require(request)
    account = tokens.split_username(name)
    groups = wanted_groups or (list(tokens.groups(account[0])) if account else [])
    return User(name, tuple(_completed(name, groups)), uid, extra)


def _extras(headers: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for header, value in headers.items():
        if header.startswith(_EXTRA):
            yield header, tuple(part.strip() for part in value.split(","))


def _extra_key(header: str) -> str:
    return unquote(header[len(_EXTRA) :].lower())


def _checks(user: User, wanted: User) -> Iterator[Attributes]:
    account = tokens.split_username(wanted.name)
    base = Attributes(user, "impersonate")
    if account:
        yield replace(base, resource="serviceaccounts", namespace=account[0], name=account[1])
    else:
        yield replace(base, resource="users", name=wanted.name)
    for group in wanted.groups:
        yield replace(base, resource="groups", name=group)
    of_others = replace(base, group=_GROUP, version="v1")
    for key, values in wanted.extra.items():
        for value in values:
            yield replace(of_others, resource="userextras", subresource=key, name=value)
    if wanted.uid:
        yield replace(of_others, resource="uids", name=wanted.uid)


def _completed(name: str, groups: list[str]) -> list[str]:
    """With the group that says whether the user is known, unless the request says so itself."""
    if name == ANONYMOUS:
        return groups if UNAUTHENTICATED in groups else [*groups, UNAUTHENTICATED]
    return groups if {AUTHENTICATED, UNAUTHENTICATED} & set(groups) else [*groups, AUTHENTICATED]
