"""Tokens of service accounts: what they say, how long they work, and what revokes them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.errors import ApiError, BadRequest, Conflict, Invalid, NotFound
from havre.control.apiserver import service_account_tokens as tokens
from havre.control.apiserver.service_account_tokens import TokenRejected, Tokens

ISSUER = "https://kubernetes.default.svc.cluster.local"
NOW = 1_800_000_000.0


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


KEY = pem(ec.generate_private_key(ec.SECP256R1()))
OTHER = pem(ec.generate_private_key(ec.SECP256R1()))


class World:
    """A clock, and the objects that tokens name."""

    def __init__(self) -> None:
        self.now = NOW
        self.objects: dict[tuple[str, str, str], Any] = {}
        self.add("serviceaccounts", "default", "build", "su")
        self.tokens = self.issuer(KEY)

    def issuer(self, key: bytes, **more: Any) -> Tokens:
        return Tokens(ISSUER, key, self.lookup, now=lambda: self.now, **more)

    def add(self, resource: str, namespace: str, name: str, uid: str, **more: Any) -> Any:
        obj = {"metadata": {"name": name, "namespace": namespace, "uid": uid}, **more}
        self.objects[resource, namespace, name] = obj
        return obj

    def lookup(self, resource: str, namespace: str, name: str) -> Any:
        return self.objects.get((resource, namespace, name))

    def ask(self, **spec: Any) -> Any:
        return self.tokens.request("default", "build", {"kind": "TokenRequest", "spec": spec})

    def token(self, **spec: Any) -> str:
        text: str = self.ask(**spec)["status"]["token"]
        return text


@pytest.fixture
def world() -> World:
    return World()


def claims(token: str) -> Any:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def bound(kind: str, name: str, uid: str = "") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "name": name} | ({"uid": uid} if uid else {})


def test_a_token_request_is_answered_with_its_defaults(world: World) -> None:
    answer = world.ask()
    assert answer["metadata"] == {
        "name": "build",
        "namespace": "default",
        "uid": "su",
        "creationTimestamp": "2027-01-15T08:00:00Z",
    }
    assert answer["spec"] == {"audiences": [ISSUER], "expirationSeconds": 3600, "boundObjectRef": None}
    assert answer["status"]["expirationTimestamp"] == "2027-01-15T09:00:00Z"
    said = claims(answer["status"]["token"])
    assert len(said.pop("jti")) == 36
    assert said == {
        "aud": [ISSUER],
        "exp": NOW + 3600,
        "iat": NOW,
        "nbf": NOW,
        "iss": ISSUER,
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "build", "uid": "su"}},
        "sub": "system:serviceaccount:default:build",
    }


def test_a_token_logs_in_as_its_service_account(world: World) -> None:
    token = world.token()
    verified = world.tokens.verify(token)
    assert verified is not None
    assert verified.user.info() == {
        "username": "system:serviceaccount:default:build",
        "uid": "su",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={claims(token)['jti']}"]},
    }
    assert verified.audiences == (ISSUER,)


def test_a_pod_bound_token_names_pod_and_node_and_dies_with_the_pod(world: World) -> None:
    world.add("nodes", "", "n1", "nu")
    world.add("pods", "default", "web", "pu", spec={"serviceAccountName": "build", "nodeName": "n1"})
    token = world.token(boundObjectRef=bound("Pod", "web", "pu"), expirationSeconds=3607)
    verified = world.tokens.verify(token)
    assert verified is not None
    extra = dict(verified.user.extra)
    extra.pop("authentication.kubernetes.io/credential-id")
    assert extra == {
        "authentication.kubernetes.io/node-name": ("n1",),
        "authentication.kubernetes.io/node-uid": ("nu",),
        "authentication.kubernetes.io/pod-name": ("web",),
        "authentication.kubernetes.io/pod-uid": ("pu",),
    }
    said = claims(token)
    assert (said["exp"], said["kubernetes.io"]["warnafter"]) == (NOW + 365 * 24 * 3600, NOW + 3607)
    del world.objects["nodes", "", "n1"]
    assert world.tokens.verify(token) is not None
    del world.objects["pods", "default", "web"]
    with pytest.raises(TokenRejected, match="service account token has been invalidated"):
        world.tokens.verify(token)


@pytest.mark.parametrize("kind", ["Secret", "Node"])
def test_a_bound_token_dies_with_its_object(world: World, kind: str) -> None:
    place = (f"{kind.lower()}s", "" if kind == "Node" else "default", "x")
    world.add(*place, "xu")
    token = world.token(boundObjectRef=bound(kind, "x"))
    assert world.tokens.verify(token) is not None
    world.add(*place, "another")
    with pytest.raises(
        TokenRejected, match=rf"UID \(another\) does not match service account {kind.lower()} ref claim"
    ):
        world.tokens.verify(token)


def test_deleting_the_account_revokes_its_tokens_at_once(world: World) -> None:
    token = world.token()
    assert world.tokens.verify(token) is not None
    account = world.objects["serviceaccounts", "default", "build"]
    account["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.now += 61
    with pytest.raises(TokenRejected, match="service account default/build has been deleted"):
        world.tokens.verify(token)
    world.add("serviceaccounts", "default", "build", "new")
    with pytest.raises(TokenRejected, match=r"service account UID \(new\) does not match claim \(su\)"):
        world.tokens.verify(token)
    del world.objects["serviceaccounts", "default", "build"]
    with pytest.raises(TokenRejected, match='serviceaccount "build" not found'):
        world.tokens.verify(token)


def test_a_token_works_in_its_time_give_or_take_a_minute(world: World) -> None:
    token = world.token(expirationSeconds=600)
    for passed, why in ((-61, "not valid yet"), (-60, ""), (660, ""), (661, "service account token has expired")):
        world.now = NOW + passed
        if why:
            with pytest.raises(TokenRejected, match=why):
                world.tokens.verify(token)
        else:
            assert world.tokens.verify(token) is not None


def test_a_token_is_good_for_its_audiences_only(world: World) -> None:
    token = world.token(audiences=["vault", "other"])
    verified = world.tokens.verify(token, ("vault",))
    assert verified is not None
    assert verified.audiences == ("vault",)
    with pytest.raises(TokenRejected) as refused:
        world.tokens.verify(token)
    assert str(refused.value) == (f'token audiences ["vault" "other"] is invalid for the target audiences ["{ISSUER}"]')


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (
            {"expirationSeconds": 5},
            Invalid,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not '
            "specify a duration less than 10 minutes",
        ),
        (
            {"expirationSeconds": 2**32 + 1},
            Invalid,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may '
            "not specify a duration larger than 2^32 seconds",
        ),
        (
            {"boundObjectRef": bound("Foo", "x")},
            BadRequest,
            "cannot bind token to object of type /v1, Kind=Foo",
        ),
        ({"boundObjectRef": bound("Secret", "x")}, NotFound, 'secrets "x" not found'),
        (
            {"boundObjectRef": bound("Pod", "other")},
            BadRequest,
            'cannot bind token for serviceaccount "build" to pod running with different serviceaccount name.',
        ),
        (
            {"boundObjectRef": bound("Pod", "mine", "was")},
            Conflict,
            'Operation cannot be fulfilled on Pod "mine": the UID in the bound object reference (was) does not match '
            "the UID in record. The object might have been deleted and then recreated",
        ),
    ],
)
def test_a_bad_request_is_refused_in_the_words_of_upstream(
    world: World, spec: Any, error: type[ApiError], text: str
) -> None:
    world.add("pods", "default", "other", "p1", spec={"serviceAccountName": "someone"})
    world.add("pods", "default", "mine", "p2", spec={"serviceAccountName": "build"})
    with pytest.raises(error) as refused:
        world.ask(**spec)
    assert refused.value.message == text


def test_a_request_for_a_missing_account_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match='serviceaccounts "nosuch" not found'):
        world.tokens.request("default", "nosuch", {})


def test_foreign_tokens_are_none_of_ours_and_forged_ones_are_rejected(world: World) -> None:
    foreign = Tokens("https://elsewhere", KEY, world.lookup, now=lambda: NOW)
    token = foreign.request("default", "build", {})["status"]["token"]
    assert world.tokens.verify(token) is None
    assert world.tokens.verify("abc") is None
    forged = world.issuer(OTHER).request("default", "build", {})["status"]["token"]
    with pytest.raises(TokenRejected, match="no key of ours has this id"):
        world.tokens.verify(forged)
    head, body, signature = world.token().split(".")
    other = world.token(audiences=["x"]).split(".")[1]
    with pytest.raises(TokenRejected, match="not valid"):
        world.tokens.verify(f"{head}.{other}.{signature}")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    with pytest.raises(TokenRejected, match="not valid"):
        world.tokens.verify(f"{none}.{body}.")


def test_a_second_key_still_verifies_what_it_signed(world: World) -> None:
    token = world.token()
    assert world.issuer(OTHER, verifying_keys=[KEY]).verify(token) is not None


def test_a_legacy_token_is_good_while_its_secret_holds_it(world: World) -> None:
    account = world.objects["serviceaccounts", "default", "build"]
    secret = world.add("secrets", "default", "build-token", "xu")
    token = world.tokens.legacy(account, secret)
    secret["data"] = {"token": base64.b64encode(token.encode()).decode()}
    verified = world.tokens.verify(token)
    assert verified is not None
    assert (verified.user.name, verified.user.extra) == ("system:serviceaccount:default:build", {})
    secret["data"]["token"] = ""
    with pytest.raises(TokenRejected, match="Token does not match server's copy"):
        world.tokens.verify(token)
    del world.objects["secrets", "default", "build-token"]
    with pytest.raises(TokenRejected, match="Token has been invalidated"):
        world.tokens.verify(token)


def test_keys_and_configuration_are_published_as_others_expect_them(world: World) -> None:
    (key,) = world.tokens.jwks()["keys"]
    assert set(key) == {"use", "kty", "kid", "crv", "alg", "x", "y"}
    assert (key["use"], key["kty"], key["crv"], key["alg"]) == ("sig", "EC", "P-256", "ES256")
    rsa_key = pem(rsa.generate_private_key(65537, 2048))
    (key,) = world.issuer(rsa_key).jwks()["keys"]
    assert set(key) == {"use", "kty", "kid", "alg", "n", "e"}
    assert world.tokens.openid_configuration("https://192.0.2.1/openid/v1/jwks") == {
        "issuer": ISSUER,
        "jwks_uri": "https://192.0.2.1/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("system:serviceaccount:a:b", ("a", "b")),
        ("system:serviceaccount:a", None),
        ("system:serviceaccount:a:b:c", None),
        ("system:serviceaccount::b", None),
        ("bob", None),
    ],
)
def test_a_user_name_tells_whether_it_is_an_account(name: str, expected: tuple[str, str] | None) -> None:
    assert tokens.split_username(name) == expected


@given(st.one_of(st.text(max_size=60), st.lists(st.binary(max_size=40), min_size=3, max_size=3)))
@settings(max_examples=50)
def test_any_text_is_no_token_or_rejected(text: str | list[bytes]) -> None:
    if not isinstance(text, str):
        text = ".".join(base64.urlsafe_b64encode(part).decode() for part in text)
    assert World().tokens.verify(text) is None


@given(
    st.dictionaries(
        st.sampled_from(["kubernetes.io", "sub", "exp", "aud", "jti", "kubernetes.io/serviceaccount/namespace"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda x: (
                st.lists(x, max_size=2)
                | st.dictionaries(st.sampled_from(["namespace", "serviceaccount", "name", "uid", "pod"]), x, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
@settings(max_examples=50)
def test_signed_claims_of_any_shape_log_nobody_in_by_accident(odd: dict[str, Any]) -> None:
    world = World()
    token = world.tokens._sign({"iss": ISSUER, **odd})
    with pytest.raises(TokenRejected):
        world.tokens.verify(token)
