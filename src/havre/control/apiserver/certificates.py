"""Sign what a CertificateSigningRequest asks for, by the rules of the three signers that every cluster has.

`sign` is a function from the request in PEM to the certificate in PEM; who may ask and who approves is decided
elsewhere (RBAC, admission). Requests that do not fit their signer raise `NotSignable`; its text goes into the Failed
condition.

Source: k8s.io/kubernetes pkg/controller/certificates/{authority,signer}, pkg/apis/certificates/helpers.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from havre.machinery.admission import NODE_PREFIX, NODES

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

API_CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"

YEAR = 365 * 24 * 3600  # longest validity, and that of a request without expirationSeconds
SHORTEST = 600  # shortest a request may ask for
BACKDATE = 300  # clocks of clients may be behind ours
REQUEST_LIMIT = 64 << 10  # bytes of PEM; a request with a 4096 bit key is 2 kB

_KEY_USES = frozenset({"digital signature", "key encipherment"})


class NotSignable(Exception):
    """The request asks for what its signer does not give; the text says what."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificate and key, in PEM, that sign."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request says about itself, read once."""

    organizations: list[str]
    common_name: str
    dns: list[str]
    ips: list[str]
    others: list[str]  # kinds of names that no signer here gives: email, URI


def sign(
    request: bytes,
    authority: Authority,
    signer: str,
    usages: Iterable[str],
    *,
    now: float,
    seconds: int | None = None,
) -> bytes:
    """The certificate of a request. Raises NotSignable."""
    from cryptography import x509  # 60 ms, for the few requests that need it

    wanted = frozenset(usages)
    try:
        if len(request) > REQUEST_LIMIT:
            raise NotSignable(f"cannot read a request of {len(request)} bytes: at most {REQUEST_LIMIT} are accepted")
        csr = x509.load_pem_x509_csr(request)
        asked = _read(csr)
        if not csr.is_signature_valid:
            raise NotSignable("the request is not signed by its own key")
    except (ValueError, TypeError) as e:
        raise NotSignable(f"unable to parse the request: {e}") from e
    rule = _RULES.get(signer)
    if rule is None:
        raise NotSignable(f"no signer is called {signer!r}: expected one of {', '.join(sorted(_RULES))}")
    rule(asked, wanted)
    validity = min(max(seconds or YEAR, SHORTEST), YEAR)
    return _issue(csr, asked, authority, wanted, span=(now, now + validity))


def _read(csr: x509.CertificateSigningRequest) -> _Asked:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = csr.subject
    names = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    try:
        alternative = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return _Asked(groups, names[-1] if names else "", [], [], [])
    dns = alternative.get_values_for_type(x509.DNSName)
    ips = [str(ip) for ip in alternative.get_values_for_type(x509.IPAddress)]
    others = ["email"] if alternative.get_values_for_type(x509.RFC822Name) else []
    others += ["URI"] if alternative.get_values_for_type(x509.UniformResourceIdentifier) else []
    return _Asked(groups, names[-1] if names else "", dns, ips, others)


def _need(ok: bool, otherwise: str) -> None:
    if not ok:
        raise NotSignable(otherwise)


def _api_client(asked: _Asked, usages: frozenset[str]) -> None:
    _uses(usages, "client auth")


def _kubelet_client(asked: _Asked, usages: frozenset[str]) -> None:
    _node(asked)
    _need(not asked.dns, "DNS subjectAltNames are not allowed")
    _need(not asked.ips, "IP subjectAltNames are not allowed")
    _uses(usages, "client auth")


def _kubelet_serving(asked: _Asked, usages: frozenset[str]) -> None:
    _node(asked)
    _need(bool(asked.dns or asked.ips), "DNS or IP subjectAltName is required")
    _uses(usages, "server auth")


def _node(asked: _Asked) -> None:
    _need(asked.organizations == [NODES], "subject organization is not system:nodes")
    _need(asked.common_name.startswith(NODE_PREFIX), "subject common name does not begin with system:node:")
    _need("email" not in asked.others, "Email subjectAltNames are not allowed")
    _need("URI" not in asked.others, "URI subjectAltNames are not allowed")


def _uses(usages: frozenset[str], purpose: str) -> None:
    ok = purpose in usages and usages <= _KEY_USES | {purpose}
    _need(
        ok,
        f"usages did not match: {purpose} is required, beside it only {' and '.join(sorted(_KEY_USES))} may be asked",
    )


_RULES: dict[str, Callable[[_Asked, frozenset[str]], None]] = {
    API_CLIENT: _api_client,
    KUBELET_CLIENT: _kubelet_client,
    KUBELET_SERVING: _kubelet_serving,
}


def _issue(
    csr: x509.CertificateSigningRequest,
    asked: _Asked,
    authority: Authority,
    usages: frozenset[str],
    *,
    span: tuple[float, float],
) -> bytes:
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = _signing_key(authority.key)
    start, end = (datetime.fromtimestamp(at, UTC) for at in span)
    builder = (
        x509.CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(issuer.subject)
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start - timedelta(seconds=BACKDATE), issuer.not_valid_before_utc))
        .not_valid_after(min(end, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(usages), critical=True)
        .add_extension(_extended(usages), critical=False)
    )
    alternatives = [*map(x509.DNSName, asked.dns), *(x509.IPAddress(ip_address(ip)) for ip in asked.ips)]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _signing_key(pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise TypeError("cannot sign certificates with this key: it must be RSA or EC")
    return key


def _key_usage(usages: frozenset[str]) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature="digital signature" in usages,
        key_encipherment="key encipherment" in usages,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _extended(usages: frozenset[str]) -> x509.ExtendedKeyUsage:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

    known = {"client auth": Purpose.CLIENT_AUTH, "server auth": Purpose.SERVER_AUTH}
    return x509.ExtendedKeyUsage([oid for usage, oid in known.items() if usage in usages])
