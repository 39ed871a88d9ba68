from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.wire import tls

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> tls.Pair:
    return tls.new_authority("havre-ca")


def test_a_leaf_says_who_it_is_and_who_vouches_for_it(authority: tls.Pair) -> None:
    leaf = tls.issue(
        authority,
        tls.Subject("system:node:a", ("system:nodes", "extra")),
        server=True,
        client=True,
        names=["127.0.0.1", "::1", "kubernetes.default.svc"],
    )
    seen = tls.read(leaf.certificate)
    assert seen.subject == tls.Subject("system:node:a", ("system:nodes", "extra"))
    assert seen.names == {"127.0.0.1", "::1", "kubernetes.default.svc"}
    assert seen.issuer == "havre-ca"
    assert timedelta(days=364) < seen.not_after - datetime.now(UTC) < timedelta(days=366)


def test_a_leaf_never_outlives_its_authority() -> None:
    short = tls.new_authority("short", days=1)
    assert tls.read(tls.issue(short, tls.Subject("a")).certificate).not_after == tls.read(short.certificate).not_after


def test_only_the_authority_that_signed_verifies(authority: tls.Pair) -> None:
    leaf = tls.issue(authority, tls.Subject("a"))
    assert tls.verify(leaf.certificate, authority.certificate)
    assert not tls.verify(leaf.certificate, tls.new_authority("havre-ca").certificate)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_accepts_the_chain_for_its_purpose_only(authority: tls.Pair, tmp_path: Path) -> None:
    ca, _ = tls.save(tmp_path, "ca", authority)
    crt, _ = tls.save(tmp_path, "client", tls.issue(authority, tls.Subject("a", ("g",)), client=True))

    def verdict(purpose: str) -> int:
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(ca), str(crt)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert (verdict("sslclient"), verdict("sslserver")) == (0, 2)


def test_keys_are_for_their_owner_only_and_files_are_replaced_whole(authority: tls.Pair, tmp_path: Path) -> None:
    at = tmp_path / "pki"
    tls.save(at, "ca", tls.Pair(b"old", b"old"))
    certificate, key = tls.save(at, "ca", authority)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, certificate)] == [0o600, 0o644]
    assert tls.load(at, "ca") == authority
    assert sorted(path.name for path in at.iterdir()) == ["ca.crt", "ca.key"]
    assert tls.load(at, "other") is None


def test_a_key_does_not_show_in_a_log(authority: tls.Pair) -> None:
    assert "PRIVATE" not in repr(authority)


@pytest.mark.parametrize(
    ("started", "ends", "names", "reason"),
    [
        (-100, 265, [], ""),
        (-300, 65, [], "it expires on 2026-08-05"),
        (-400, -35, [], "it expires on 2026-04-27"),
        (1, 366, [], "it is valid only from 2026-06-02"),
        (-1, 364, ["10.0.0.1", "a"], ""),
        (-1, 364, ["a", "10.0.0.9", "b"], "it does not name 10.0.0.9, b"),
        (-1, 364, ["0:0:0:0:0:0:0:1"], ""),
    ],
)
def test_a_certificate_is_renewed_in_time_and_when_a_name_is_missing(
    started: int, ends: int, names: list[str], reason: str
) -> None:
    shown = tls.Certificate(
        tls.Subject("a"), frozenset({"a", "10.0.0.1", "::1"}), NOW + timedelta(started), NOW + timedelta(ends), "ca"
    )
    assert tls.needs_renewal(shown, NOW, names=names) == reason


def test_of_several_common_names_the_last_counts_as_in_go() -> None:
    shown = {
        "subject": (
            (("commonName", "a"),),
            (("organizationName", "x"), ("organizationName", "y")),
            (("commonName", "b"),),
        ),
        "subjectAltName": (("DNS", "d"), ("URI", "spiffe://a/b")),
    }
    assert tls.subject_of(shown) == ("b", ("x", "y"))
    assert tls.uris_of(shown) == ("spiffe://a/b",)
    assert tls.subject_of({}) == ("", ())


def test_signing_keys_are_of_the_kind_asked_for() -> None:
    for kind, words in (("ec", "id-ecPublicKey"), ("rsa", "rsaEncryption")):
        key = tls.new_signing_key(kind)  # type: ignore[arg-type]
        assert key.startswith(b"-----BEGIN PRIVATE KEY-----\n"), words
        assert tls.public_key(key).startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert len(tls.public_key(tls.new_signing_key("ec"))) < 200 < len(tls.public_key(tls.new_signing_key("rsa")))


def test_contexts_demand_a_modern_protocol_and_offer_both_versions_of_http(authority: tls.Pair, tmp_path: Path) -> None:
    ca, _ = tls.save(tmp_path, "ca", authority)
    crt, key = tls.save(tmp_path, "srv", tls.issue(authority, tls.Subject("s"), server=True, names=["a"]))
    server = tls.server_context(crt, key, client_ca=ca)
    assert (server.minimum_version, server.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_OPTIONAL)
    assert tls.server_context(crt, key).verify_mode == ssl.CERT_NONE
    client = tls.client_context(authority.certificate)
    assert (client.verify_mode, client.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert tls.client_context(verify=False).verify_mode == ssl.CERT_NONE


def test_a_key_of_another_certificate_is_refused_with_both_names(authority: tls.Pair, tmp_path: Path) -> None:
    crt, _ = tls.save(tmp_path, "a", tls.issue(authority, tls.Subject("a")))
    _, key = tls.save(tmp_path, "b", tls.issue(authority, tls.Subject("b")))
    with pytest.raises(tls.TlsError, match=r"a\.crt with the key .*b\.key"):
        tls.server_context(crt, key)
    with pytest.raises(tls.TlsError):
        tls.client_context(authority.certificate, b"garbage", b"garbage")


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=99).map(lambda b: b"-----BEGIN CERTIFICATE-----\n" + b)))
@settings(max_examples=50)
def test_garbage_is_not_a_certificate_or_a_key(pem: bytes) -> None:
    with pytest.raises(tls.TlsError):
        tls.read(pem)
    with pytest.raises(tls.TlsError):
        tls.public_key(pem)


def test_a_start_with_existing_files_does_not_import_cryptography() -> None:
    probe = "import sys, havre.wire.http.server; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
