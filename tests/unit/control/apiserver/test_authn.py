"""Who sends a request, and who they may be taken for."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.errors import Forbidden, InternalError, Unauthorized
from havre.control.apiserver import authn
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import User

NOW = 1_800_000_000.0
ALICE = User("alice", ("dev", "system:authenticated"), "7")
ADMIN = User("admin", ("system:masters", "system:authenticated"))


@dataclass(frozen=True)
class Peer:
    der: bytes


def certificate(*names: tuple[x509.ObjectIdentifier, str]) -> Peer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
    start = datetime.fromtimestamp(NOW, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    return Peer(made.public_bytes(serialization.Encoding.DER))


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator(static_tokens={"secret": ALICE}, now=lambda: NOW)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_certificate_names_its_user_and_groups(authenticator: Authenticator) -> None:
    o, cn = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME
    peer = certificate((o, "system:masters"), (o, "ops"), (cn, "root"), (x509.ObjectIdentifier(authn.UID_OID), "u1"))
    user = authenticator.authenticate({}, peer)
    assert user.info() == {
        "username": "root",
        "uid": "u1",
        "groups": ["system:masters", "ops", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": [f"X509SHA256={hashlib.sha256(peer.der).hexdigest()}"]},
    }
    assert authenticator.authenticate({}, Peer(bytes(bytearray(peer.der)))) is user


def test_a_certificate_ends_even_on_an_open_connection() -> None:
    clock = [NOW]
    authenticator = Authenticator(now=lambda: clock[0])
    peer = certificate((NameOID.COMMON_NAME, "bob"))
    assert authenticator.authenticate({}, peer).name == "bob"
    clock[0] += 3601
    with pytest.raises(Unauthorized):
        authenticator.authenticate({}, peer)


def test_a_certificate_without_a_name_says_nothing_and_one_that_is_none_is_refused(
    authenticator: Authenticator,
) -> None:
    nameless = certificate((NameOID.ORGANIZATION_NAME, "ops"))
    assert authenticator.authenticate({}, nameless).name == "system:anonymous"
    assert authenticator.authenticate(bearer("secret"), nameless).name == "alice"
    with pytest.raises(Unauthorized):
        authenticator.authenticate({}, Peer(b"nonsense"))
    uid = x509.ObjectIdentifier(authn.UID_OID)
    with pytest.raises(Unauthorized):
        authenticator.authenticate({}, certificate((NameOID.COMMON_NAME, "bob"), (uid, "1"), (uid, "2")))


def test_a_static_token_is_its_user(authenticator: Authenticator) -> None:
    assert authenticator.authenticate(bearer("secret"), None) is ALICE
    assert authenticator.authenticate({"authorization": "bearer secret"}, None) is ALICE


def test_a_websocket_carries_the_token_as_a_protocol(authenticator: Authenticator) -> None:
    encoded = base64.urlsafe_b64encode(b"secret").rstrip(b"=").decode()
    headers = {
        "upgrade": "websocket",
        "sec-websocket-protocol": f"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}",
    }
    assert authenticator.authenticate(headers, None) is ALICE
    assert authenticator.authenticate({**headers, "upgrade": "h2c"}, None).name == "system:anonymous"


def test_an_unknown_token_is_refused_and_no_token_is_anonymous(authenticator: Authenticator) -> None:
    with pytest.raises(Unauthorized) as refused:
        authenticator.authenticate(bearer("wrong"), None)
    assert (refused.value.message, refused.value.status_code) == ("Unauthorized", 401)
    assert authenticator.authenticate({}, None) == User("system:anonymous", ("system:unauthenticated",))
    assert authenticator.authenticate({"authorization": "Basic eDp5"}, None).name == "system:anonymous"
    with pytest.raises(Unauthorized):
        Authenticator(anonymous=False).authenticate({}, None)


def test_a_token_file_has_a_user_a_line() -> None:
    text = 'a,alice,7,"dev,ops"\n\n,nobody,1\nb,bob,8\n'
    assert authn.parse_token_file(text) == {
        "a": User("alice", ("dev", "ops", "system:authenticated"), "7"),
        "b": User("bob", ("system:authenticated",), "8"),
    }
    with pytest.raises(ValueError, match=r"line 1 of the static tokens must have at least 3 columns .* found 2"):
        authn.parse_token_file("a,alice")


def may_impersonate(*resources: str, names: tuple[str, ...] = ()) -> Authorizer:
    authorizer = Authorizer()
    groups = ["", "authentication.k8s.io"]
    rule: dict[str, Any] = {"verbs": ["impersonate"], "apiGroups": groups, "resources": list(resources)}
    if names:
        rule["resourceNames"] = list(names)
    authorizer.upsert({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]})
    ref, who = {"kind": "ClusterRole", "name": "r"}, {"kind": "User", "name": "alice"}
    authorizer.upsert({"kind": "ClusterRoleBinding", "metadata": {"name": "r"}, "roleRef": ref, "subjects": [who]})
    return authorizer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"user": "bob"}, User("bob", ("system:authenticated",))),
        ({"user": "bob", "group": "a, b"}, User("bob", ("a", "b", "system:authenticated"))),
        ({"user": "bob", "group": "system:unauthenticated"}, User("bob", ("system:unauthenticated",))),
        ({"user": "bob", "uid": "9"}, User("bob", ("system:authenticated",), "9")),
        ({"user": "system:anonymous"}, User("system:anonymous", ("system:unauthenticated",))),
        (
            {"user": "system:serviceaccount:ns:sa"},
            User(
                "system:serviceaccount:ns:sa",
                ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
            ),
        ),
        (
            {"user": "system:serviceaccount:ns:sa", "group": "only"},
            User("system:serviceaccount:ns:sa", ("only", "system:authenticated")),
        ),
    ],
)
def test_a_superuser_is_taken_for_whom_they_ask(headers: dict[str, str], expected: User) -> None:
    asked = {f"impersonate-{key}": value for key, value in headers.items()}
    assert authn.impersonates(asked)
    assert authn.impersonate(ADMIN, asked, Authorizer()) == expected


def test_extra_values_keep_their_escaped_keys() -> None:
    headers = {"impersonate-user": "bob", "impersonate-extra-example.com%2fscopes": "a, b"}
    assert authn.impersonate(ADMIN, headers, Authorizer()).extra == {"example.com/scopes": ("a", "b")}


@pytest.mark.parametrize(
    ("granted", "headers", "text"),
    [
        (
            (),
            {"impersonate-user": "bob"},
            'users "bob" is forbidden: User "alice" cannot impersonate resource "users" in API group "" at '
            "the cluster scope",
        ),
        (
            (),
            {"impersonate-user": "system:serviceaccount:a:b"},
            'serviceaccounts "b" is forbidden: User "alice" cannot impersonate resource "serviceaccounts" in API group '
            '"" in the namespace "a"',
        ),
        (
            ("users",),
            {"impersonate-user": "bob", "impersonate-group": "system:masters"},
            'groups "system:masters" is forbidden: User "alice" cannot impersonate resource "groups" in API group "" '
            "at the cluster scope",
        ),
        (
            ("users",),
            {"impersonate-user": "bob", "impersonate-uid": "9"},
            'uids.authentication.k8s.io "9" is forbidden: User "alice" cannot impersonate resource "uids" in API group '
            '"authentication.k8s.io" at the cluster scope',
        ),
        (
            ("users",),
            {"impersonate-user": "bob", "impersonate-extra-scopes": "x"},
            'userextras.authentication.k8s.io "x" is forbidden: User "alice" cannot impersonate resource '
            '"userextras/scopes" in API group "authentication.k8s.io" at the cluster scope',
        ),
    ],
)
def test_every_part_of_an_impersonation_needs_its_right(
    granted: tuple[str, ...], headers: dict[str, str], text: str
) -> None:
    with pytest.raises(Forbidden) as refused:
        authn.impersonate(ALICE, headers, may_impersonate(*granted))
    assert refused.value.message == text


def test_a_right_for_one_name_is_a_right_for_that_name() -> None:
    authorizer = may_impersonate("users", names=("bob",))
    assert authn.impersonate(ALICE, {"impersonate-user": "bob"}, authorizer).name == "bob"
    with pytest.raises(Forbidden):
        authn.impersonate(ALICE, {"impersonate-user": "admin"}, authorizer)


def test_groups_without_a_user_are_a_mistake() -> None:
    with pytest.raises(InternalError, match="without impersonating a user"):
        authn.impersonate(ADMIN, {"impersonate-group": "a"}, Authorizer())
    assert authn.impersonate(ADMIN, {}, Authorizer()) is ADMIN


@given(st.text(max_size=80))
@settings(max_examples=50)
def test_any_text_is_a_token_file_or_a_value_error(text: str) -> None:
    try:
        assert all(isinstance(user, User) for user in authn.parse_token_file(text).values())
    except ValueError as e:
        assert "static tokens" in str(e)  # noqa: PT017 either outcome is right


@given(st.text(max_size=40), st.text(max_size=60))
@settings(max_examples=50)
def test_any_header_is_a_token_or_unauthorized(authorization: str, protocol: str) -> None:
    headers = {
        "authorization": authorization,
        "upgrade": "websocket",
        "sec-websocket-protocol": authn.WEBSOCKET_PREFIX + protocol,
    }
    try:
        assert isinstance(authn.bearer_token(headers), str)
    except Unauthorized as e:
        assert e.status_code == 401  # noqa: PT017 either outcome is right
