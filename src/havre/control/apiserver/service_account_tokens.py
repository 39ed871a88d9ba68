"""Tokens of service accounts: signed here, verified here, published so that others can verify them too.

A token is a JWT that names a service account and, when bound, the pod, secret or node it lives and dies with. Its
signature is checked once and remembered; the objects it names are looked up on every use, so that deleting one revokes
the token at once.

Tokens of the old kind (a Secret of type kubernetes.io/service-account-token, no expiry, flat claims) are issued and
accepted too.

Source: k8s.io/kubernetes pkg/serviceaccount (claims.go, legacy.go, jwt.go, openidmetadata.go) and
pkg/registry/core/serviceaccount/storage/token.go; RFC 7519, OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from havre.api.errors import BadRequest, Conflict, Invalid, NotFound
from havre.api.meta import GVK, Obj, name_of, parse_time, rfc3339
from havre.control.apiserver.rbac import quoted
from havre.kit import field
from havre.machinery.admission import AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS, User

LEGACY_ISSUER = "kubernetes/serviceaccount"
GROUP = "authentication.k8s.io"

DEFAULT_EXPIRATION = 3600
MIN_EXPIRATION = 10 * 60
MAX_EXPIRATION = 1 << 32
# What kubelets ask for when a pod says nothing. Old clients never re-read such a token, so it works for a year while
# its `warnafter` says when a client should have.
WARN_ONLY_EXPIRATION = 60 * 60 + 7
EXTENDED_EXPIRATION = 24 * 365 * 60 * 60
LEEWAY = 60  # seconds by which clocks may differ
TOKEN_LIMIT = 64 << 10  # bytes; ours are about 1 kB
MEMORY = 8192  # verified tokens kept before all are forgotten; about 3 kB each, so 25 MB at most

Lookup = Callable[[str, str, str], Obj | None]  # (resource, namespace, name); from a cache, never awaits


class TokenRejected(Exception):
    """A token that looked like ours and is not good; the text says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Whose token it is, and which of the audiences asked for it is meant for."""

    user: User
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    algorithm: str
    key: jwk.RSAKey | jwk.ECKey


@dataclass(slots=True)
class _Known:
    """A token whose signature was good."""

    claims: Obj
    user: User
    audiences: tuple[str, ...]  # empty: the old kind, good for the API server only
    here: Verified | None = None  # the answer for this API server, once asked for


class Tokens:
    """Issues and verifies; `audiences` are those of this API server, its issuer unless told otherwise."""

    def __init__(
        self,
        issuer: str,
        signing_key: bytes,
        lookup: Lookup,
        *,
        verifying_keys: Sequence[bytes] = (),
        audiences: Sequence[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self.audiences = tuple(audiences) or (issuer,)
        self._lookup = lookup
        self._now = now
        self._signer = _load(signing_key)
        self._keys = {key.kid: key for key in (self._signer, *map(_load, verifying_keys))}
        self._known: dict[str, _Known] = {}

    # issuing

    def request(self, namespace: str, name: str, request: Obj) -> Obj:
        """Answer a TokenRequest posted to `serviceaccounts/{name}/token`."""
        account = self._account(namespace, name, request)
        metadata, now = account["metadata"], self._now()
        spec = dict(request.get("spec") or {})
        spec["audiences"] = spec.get("audiences") or list(self.audiences)
        spec.setdefault("expirationSeconds", DEFAULT_EXPIRATION)
        spec.setdefault("boundObjectRef", None)
        _check_expiration(spec["expirationSeconds"])
        bound = self._bound(namespace, name, spec["boundObjectRef"])
        answer_metadata = {"name": name, "namespace": namespace, "uid": metadata["uid"]}
        return {
            **request,
            "metadata": {**(request.get("metadata") or {}), **answer_metadata, "creationTimestamp": rfc3339(now)},
            "spec": spec,
            "status": {
                "token": self._issue(account, bound, spec, now),
                "expirationTimestamp": rfc3339(now + spec["expirationSeconds"]),
            },
        }

    def _account(self, namespace: str, name: str, request: Obj) -> Obj:
        given: Obj = request.get("metadata") or {}
        for key, expected, words in (("name", name, "name"), ("namespace", namespace, "namespace")):
            if given.get(key) not in (None, "", expected):
                why = f"must match the service account {words} if specified"
                raise Invalid.of(GROUP, "TokenRequest", name, [field.invalid(f"metadata.{key}", given[key], why)])
        account = self._lookup("serviceaccounts", namespace, name)
        if account is None:
            raise NotFound.of("serviceaccounts", "", name)
        uid = account["metadata"]["uid"]
        if given.get("uid") not in (None, "", uid):
            raise Conflict.of(
                "TokenRequest",
                GROUP,
                name,
                f"the UID in the token request ({given['uid']}) does not match the UID of the service account ({uid})",
            )
        return account

    def _bound(self, namespace: str, account: str, ref: Obj | None) -> Obj:
        """The claims of the object that a token is bound to."""
        if not ref:
            return {}
        kind, name = GVK.of(ref), ref.get("name", "")
        resource = _BINDABLE.get((kind.group, kind.kind))
        if resource is None:
            raise BadRequest(f"cannot bind token to object of type {_go_text(kind)}")
        obj = self._lookup(resource, "" if resource == "nodes" else namespace, name)
        if obj is None:
            raise NotFound.of(resource, "", name)
        if resource == "pods" and (obj.get("spec") or {}).get("serviceAccountName") != account:
            raise BadRequest(
                f"cannot bind token for serviceaccount {quoted(account)} to pod running with different "
                "serviceaccount name."
            )
        if ref.get("uid") and ref["uid"] != obj["metadata"]["uid"]:
            why = (
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise Conflict.of(kind.kind, "", name, why)
        claims = {kind.kind.lower(): _ref(obj)}
        if resource == "pods" and (node_name := obj["spec"].get("nodeName")):
            node = self._lookup("nodes", "", node_name)
            claims["node"] = _ref(node) if node else {"name": node_name}
        return claims

    def _issue(self, account: Obj, bound: Obj, spec: Obj, now: float) -> str:
        metadata, at, seconds = account["metadata"], int(now), spec["expirationSeconds"]
        private: Obj = {"namespace": metadata["namespace"], "serviceaccount": _ref(account), **bound}
        if "pod" in bound and seconds == WARN_ONLY_EXPIRATION and set(spec["audiences"]) <= set(self.audiences):
            private["warnafter"] = at + seconds
            seconds = EXTENDED_EXPIRATION
        claims = {
            "aud": spec["audiences"],
            "exp": at + seconds,
            "iat": at,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": at,
            "sub": username(metadata["namespace"], metadata["name"]),
        }
        return self._sign(claims)

    def legacy(self, account: Obj, secret: Obj) -> str:
        """The token that a Secret of type kubernetes.io/service-account-token holds; it never expires."""
        namespace, name = account["metadata"]["namespace"], name_of(account)
        flat = "kubernetes.io/serviceaccount/"
        return self._sign(
            {
                "iss": LEGACY_ISSUER,
                f"{flat}namespace": namespace,
                f"{flat}secret.name": name_of(secret),
                f"{flat}service-account.name": name,
                f"{flat}service-account.uid": account["metadata"]["uid"],
                "sub": username(namespace, name),
            }
        )

    def _sign(self, claims: Obj) -> str:
        header = {"alg": self._signer.algorithm, "kid": self._signer.kid}
        return jwt.encode(header, claims, self._signer.key, algorithms=[self._signer.algorithm])

    # verifying

    def verify(self, token: str, audiences: Sequence[str] = ()) -> Verified | None:
        """Whose token this is; None when it is not one of ours. Raises TokenRejected."""
        known = self._known.get(token)
        if known is None:
            known = self._decode(token)
            if known is None:
                return None
            if len(self._known) >= MEMORY:
                self._known.clear()
            self._known[token] = known
        verified = None if audiences else known.here
        if verified is None:
            verified = Verified(known.user, self._meant_for(known, audiences))
            if not audiences:
                known.here = verified
        self._check(known.claims, token)
        return verified

    def _decode(self, token: str) -> _Known | None:
        if _issuer_of(token) not in (self.issuer, LEGACY_ISSUER):
            return None
        try:
            kid = _part(token, 0).get("kid")
            candidates = [self._keys[kid]] if kid in self._keys else [] if kid else list(self._keys.values())
            claims = _verified(token, candidates)
        except (JoseError, ValueError, TypeError) as e:
            raise TokenRejected(f"the signature or the form of the token is not valid: {e}") from e
        return _known(claims)

    def _meant_for(self, known: _Known, asked: Sequence[str]) -> tuple[str, ...]:
        has, wants = known.audiences or self.audiences, tuple(asked) or self.audiences
        both = tuple(audience for audience in has if audience in wants)
        if not both:
            texts = ("[" + " ".join(map(quoted, some)) + "]" for some in (has, wants))
            raise TokenRejected("token audiences {} is invalid for the target audiences {}".format(*texts))
        return both

    def _check(self, claims: Obj, token: str) -> None:
        """What may have changed since the signature was checked: the time, and the objects the token names."""
        now = self._now()
        if claims["iss"] == LEGACY_ISSUER:
            self._check_legacy(claims, token)
            return
        if now - LEEWAY > claims["exp"]:
            raise TokenRejected("service account token has expired")
        if now + LEEWAY < claims.get("nbf", 0):
            raise TokenRejected("service account token is not valid yet")
        if now + LEEWAY < claims.get("iat", 0):
            raise TokenRejected("service account token is issued in the future")
        private = claims["kubernetes.io"]
        namespace, who = private["namespace"], private["serviceaccount"]
        account = self._lookup("serviceaccounts", namespace, who["name"])
        if account is None:
            raise TokenRejected(f'serviceaccount "{who["name"]}" not found')
        _same_uid(account, who, "service account", "claim")
        if _gone(account, now):
            raise TokenRejected(f"service account {namespace}/{who['name']} has been deleted")
        self._check_bound(private, namespace, now)

    def _check_bound(self, private: Obj, namespace: str, now: float) -> None:
        for claim, resource, scope, words in (
            ("secret", "secrets", namespace, "secret"),
            ("pod", "pods", namespace, "pod"),
            ("node", "nodes", "", "node"),
        ):
            ref = private.get(claim)
            if ref is None or (claim == "node" and "pod" in private):  # told, not bound
                continue
            obj = self._lookup(resource, scope, ref["name"])
            if obj is None:
                raise TokenRejected("service account token has been invalidated")
            _same_uid(obj, ref, words, f"service account {words} ref claim")
            if _gone(obj, now):
                raise TokenRejected("service account token has been invalidated")

    def _check_legacy(self, claims: Obj, token: str) -> None:
        flat = {key.rpartition("/")[2]: value for key, value in claims.items() if key.startswith("kubernetes.io/")}
        namespace, name = flat["namespace"], flat["service-account.name"]
        secret = self._lookup("secrets", namespace, flat["secret.name"])
        if secret is None or "deletionTimestamp" in secret["metadata"]:
            raise TokenRejected("Token has been invalidated")
        kept = base64.b64decode((secret.get("data") or {}).get("token", ""))
        if not hmac.compare_digest(kept, token.encode()):
            raise TokenRejected("Token does not match server's copy")
        account = self._lookup("serviceaccounts", namespace, name)
        if account is None:
            raise TokenRejected(f'serviceaccount "{name}" not found')
        if "deletionTimestamp" in account["metadata"]:
            raise TokenRejected(f"ServiceAccount {namespace}/{name} has been deleted")
        _same_uid(account, {"uid": flat["service-account.uid"]}, "ServiceAccount", "claim")

    # publishing

    def jwks(self) -> Obj:
        """The public keys, as `/openid/v1/jwks` shows them."""
        keys = (
            {"use": "sig", "kid": k.kid, "alg": k.algorithm, **k.key.as_dict(private=False)} for k in self._published()
        )
        return {"keys": [{key: k[key] for key in _JWK_FIELDS if key in k} for k in keys]}

    def openid_configuration(self, jwks_uri: str) -> Obj:
        """The document at `/.well-known/openid-configuration`."""
        return {
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self._published()}),
        }

    def _published(self) -> list[_Key]:
        return list(self._keys.values())


_BINDABLE = {("", "Pod"): "pods", ("", "Secret"): "secrets", ("", "Node"): "nodes"}
_JWK_FIELDS = ("use", "kty", "kid", "crv", "alg", "n", "e", "x", "y")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def username(namespace: str, name: str) -> str:
    return f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"


def groups(namespace: str) -> tuple[str, ...]:
    return SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}"


def split_username(name: str) -> tuple[str, str] | None:
    """(namespace, name) of the user name of a service account."""
    if not name.startswith(SERVICE_ACCOUNT_PREFIX):
        return None
    namespace, colon, account = name[len(SERVICE_ACCOUNT_PREFIX) :].partition(":")
    return (namespace, account) if colon and namespace and account and ":" not in account else None


def _load(pem: bytes) -> _Key:
    """A private or public key in PEM; its id is a hash of the public key, so that it gives nothing away."""
    private = b"PRIVATE KEY" in pem
    key: Any = _private(pem) if private else serialization.load_pem_public_key(pem)
    public = key.public_key() if private else key
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    kid = base64.urlsafe_b64encode(digest.finalize()).rstrip(b"=").decode()
    if isinstance(public, rsa.RSAPublicKey):
        return _Key(kid, "RS256", jwk.RSAKey(key, pem))
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return _Key(kid, _CURVES[public.curve.name], jwk.ECKey(key, pem))
    raise ValueError("cannot use this key for service account tokens: it must be RSA, or EC on P-256, P-384 or P-521")


def _private(pem: bytes) -> Any:
    """Not proved to be made of primes, which takes 40 ms: the file is our own."""
    return serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)


def _part(token: str, index: int) -> Obj:
    """Header (0) or payload (1), not yet trusted. Raises ValueError."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > TOKEN_LIMIT:
        raise ValueError("a token has three parts and at most 64 kB")
    text = base64.urlsafe_b64decode(parts[index] + "=" * (-len(parts[index]) % 4))
    try:
        value = json.loads(text)
    except RecursionError as e:
        raise ValueError("the token is nested too deeply") from e
    if not isinstance(value, dict):
        raise ValueError("the parts of a token are JSON objects")  # noqa: TRY004 one sort of error for bad text
    return value


def _issuer_of(token: str) -> str:
    try:
        issuer = _part(token, 1).get("iss")
    except ValueError:
        return ""
    return issuer if isinstance(issuer, str) else ""


def _verified(token: str, candidates: Sequence[_Key]) -> Obj:
    if not candidates:
        raise ValueError("no key of ours has this id")
    for index, key in enumerate(candidates):
        try:
            return jwt.decode(token, key.key, algorithms=[key.algorithm]).claims
        except JoseError:
            if index == len(candidates) - 1:
                raise
    raise AssertionError("unreachable: the last candidate returns or raises")


def _known(claims: Obj) -> _Known:
    """The user of signed claims. Raises TokenRejected for claims that we would not have signed."""
    try:
        is_legacy = claims["iss"] == LEGACY_ISSUER
        private = _flat(claims) if is_legacy else claims["kubernetes.io"]
        namespace, account = private["namespace"], private["serviceaccount"]
        name = username(namespace, account["name"])
        dated = is_legacy or isinstance(claims["exp"], int)
        extra = _extra(claims, private)
        user = User(name, (*groups(namespace), AUTHENTICATED), account["uid"], extra)
    except (KeyError, TypeError, AttributeError) as e:
        raise TokenRejected(f"service account token claims could not be validated: {e}") from e
    if claims.get("sub") != name or not dated:
        raise TokenRejected("sub claim is invalid")
    audience = claims.get("aud") or ()
    return _Known(claims, user, (audience,) if isinstance(audience, str) else tuple(audience))


def _extra(claims: Obj, private: Obj) -> dict[str, tuple[str, ...]]:
    """What a token tells beside the name: which credential it is, and where its pod runs."""
    extra: dict[str, tuple[str, ...]] = {}
    if "jti" in claims:
        extra["authentication.kubernetes.io/credential-id"] = (f"JTI={claims['jti']}",)
    for claim in ("node", "pod"):
        for key in ("name", "uid"):
            if value := (private.get(claim) or {}).get(key):
                extra[f"authentication.kubernetes.io/{claim}-{key}"] = (value,)
    return extra


def _flat(claims: Obj) -> Obj:
    prefix = "kubernetes.io/serviceaccount/"
    account = {key: claims[f"{prefix}service-account.{key}"] for key in ("name", "uid")}
    return {"namespace": claims[f"{prefix}namespace"], "serviceaccount": account, "_": claims[f"{prefix}secret.name"]}


def _ref(obj: Obj) -> Obj:
    return {"name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}


def _same_uid(obj: Obj, ref: Obj, what: str, claim: str) -> None:
    uid = obj["metadata"]["uid"]
    if uid != ref.get("uid"):
        raise TokenRejected(f"{what} UID ({uid}) does not match {claim} ({ref.get('uid')})")


def _gone(obj: Obj, now: float) -> bool:
    deleted = obj["metadata"].get("deletionTimestamp")
    return deleted is not None and parse_time(deleted) < now - LEEWAY


def _check_expiration(seconds: int) -> None:
    why = ""
    if seconds < MIN_EXPIRATION:
        why = "may not specify a duration less than 10 minutes"
    elif seconds > MAX_EXPIRATION:
        why = "may not specify a duration larger than 2^32 seconds"
    if why:
        raise Invalid.of(GROUP, "TokenRequest", "", [field.invalid("spec.expirationSeconds", seconds, why)])


def _go_text(kind: GVK) -> str:
    """`apps/v1, Kind=Deployment`, `/v1, Kind=Pod`."""
    return f"{kind.group}/{kind.version}, Kind={kind.kind}"
