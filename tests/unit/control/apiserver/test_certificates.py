"""Signing requests for certificates by the rules of their signers."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.control.apiserver import certificates
from havre.control.apiserver.certificates import Authority, NotSignable, sign

NOW = 1_800_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = serialization.Encoding.PEM


def name(common_name: str, *groups: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@pytest.fixture(scope="module")
def authority() -> Authority:
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("ca"))
        .issuer_name(name("ca"))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .sign(KEY, hashes.SHA256())
    )
    key = KEY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Authority(certificate.public_bytes(PEM), key)


def request(subject: x509.Name, *names: x509.GeneralName) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(PEM)


def test_a_client_gets_the_certificate_it_asked_for(authority: Authority) -> None:
    usages = ("digital signature", "client auth")
    pem = sign(request(name("bob", "team")), authority, certificates.API_CLIENT, usages, now=NOW, seconds=3600)
    made = x509.load_pem_x509_certificate(pem)
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    assert made.subject == name("bob", "team")
    assert (made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp()) == (NOW - 300, NOW + 3600)
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [use.dotted_string for use in uses] == ["1.3.6.1.5.5.7.3.2"]


def test_a_kubelet_serves_under_its_names(authority: Authority) -> None:
    names = (x509.DNSName("node1"), x509.IPAddress(ipaddress.ip_address("192.0.2.7")))
    csr = request(name("system:node:node1", "system:nodes"), *names)
    pem = sign(csr, authority, certificates.KUBELET_SERVING, ("server auth",), now=NOW)
    made = x509.load_pem_x509_certificate(pem)
    assert list(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == list(names)
    assert made.not_valid_after_utc.timestamp() == NOW + 365 * 24 * 3600


NODE = name("system:node:a", "system:nodes")


@pytest.mark.parametrize(
    ("csr", "signer", "usages", "why"),
    [
        (request(name("a", "x")), certificates.KUBELET_CLIENT, "client auth", "organization is not system:nodes"),
        (
            request(name("a", "system:nodes")),
            certificates.KUBELET_CLIENT,
            "client auth",
            "does not begin with system:node:",
        ),
        (
            request(NODE, x509.DNSName("a")),
            certificates.KUBELET_CLIENT,
            "client auth",
            "DNS subjectAltNames are not allowed",
        ),
        (request(NODE), certificates.KUBELET_CLIENT, "server auth", "usages did not match"),
        (request(NODE), certificates.KUBELET_SERVING, "server auth", "DNS or IP subjectAltName is required"),
        (
            request(NODE, x509.DNSName("a"), x509.UniformResourceIdentifier("https://a")),
            certificates.KUBELET_SERVING,
            "server auth",
            "URI subjectAltNames are not allowed",
        ),
        (request(name("a")), "example.com/mine", "client auth", "no signer is called 'example.com/mine'"),
        (b"nonsense", certificates.API_CLIENT, "client auth", "unable to parse the request"),
        (b"x" * 70_000, certificates.API_CLIENT, "client auth", "at most 65536 are accepted"),
    ],
    ids=range(9),
)
def test_what_does_not_fit_its_signer_is_not_signed(
    authority: Authority, csr: bytes, signer: str, usages: str, why: str
) -> None:
    with pytest.raises(NotSignable, match=why):
        sign(csr, authority, signer, (usages,), now=NOW)


@given(st.binary(max_size=200))
@settings(max_examples=30)
def test_any_bytes_are_a_request_or_not_signable(data: bytes) -> None:
    armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----\n"
    for text in (data, armoured):
        with pytest.raises(NotSignable):
            sign(text, Authority(b"", b""), certificates.API_CLIENT, (), now=NOW)
