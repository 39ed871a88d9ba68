"""Certificates, keys and TLS contexts: a small authority of its own, and nothing to install.

    ca = new_authority("havre")                                   # once per cluster
    pair = issue(ca, Subject("kube-apiserver"), server=True, names=["127.0.0.1", "localhost"])
    save(directory, "apiserver", pair)                            # atomically, key readable by its owner only
    server_context(crt, key, client_ca=ca_crt)                    # a client certificate is welcome, not required

Keys are ECDSA P-256, which handshakes about 20 times faster than RSA 2048 on the server side; service-account signing
keys may be RSA, since some verifiers know nothing else. `needs_renewal` decides from dates alone. `cryptography` is
imported only by the functions that make or read certificates, so that a start with existing files does not pay for it
(58 ms).

Source: k8s.io/client-go, util/cert; kubernetes documentation, "PKI certificates and requirements".
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

ALPN = ("h2", "http/1.1")
AUTHORITY_DAYS = 3650  # kubeadm's ten years
LEAF_DAYS = 365  # kubeadm's one year
BACKDATED = timedelta(minutes=5)  # a clock that is a little behind still accepts a fresh certificate
RENEW_BELOW = 1 / 3  # of the lifetime left: four months of a year, many chances to renew


class TlsError(Exception):
    """A certificate or key that cannot be read, made or verified; the message says which and why."""


# the other side of a connection


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified certificate of the other side."""

    common_name: str
    organizations: tuple[str, ...]
    der: bytes
    uris: tuple[str, ...] = ()


def peer_of(session: ssl.SSLObject | ssl.SSLSocket) -> Peer | None:
    """The certificate that the other side presented and the handshake verified, if any."""
    shown = session.getpeercert()
    if not shown:
        return None
    common_name, organizations = subject_of(shown)
    return Peer(common_name, organizations, session.getpeercert(binary_form=True) or b"", uris_of(shown))


def subject_of(shown: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(common name, organizations) of what `getpeercert` returns; of several common names the last, as Go takes it."""
    fields = [pair for rdn in shown.get("subject", ()) for pair in rdn]
    names = [value for key, value in fields if key == "commonName"]
    return names[-1] if names else "", tuple(value for key, value in fields if key == "organizationName")


def uris_of(shown: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(value for kind, value in shown.get("subjectAltName", ()) if kind == "URI")


# contexts


def server_context(certificate: Path | str, key: Path | str, *, client_ca: Path | str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, ALPN for HTTP/2 and 1.1, session tickets.

    With `client_ca` (a file) a client may show a certificate: a wrong one fails the handshake, none is fine.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_SINGLE_ECDH_USE
    context.set_alpn_protocols(list(ALPN))
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:  # ssl.SSLError is one
        raise TlsError(f"load the certificate {certificate} with the key {key}: {error}") from error
    return context


def client_context(
    ca: bytes | str | None = None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    *,
    verify: bool = True,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """From PEM bytes, as a kubeconfig holds them; without `ca` the system's authorities are trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode() if isinstance(ca, bytes) else ca)
        elif verify:
            context.load_default_certs()
        if certificate is not None and key is not None:
            _load_pair(context, certificate, key)
    except (OSError, ValueError) as error:
        raise TlsError(f"load the client certificate and authority: {error}") from error
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL reads chains from files only: make one for a moment, for us alone, in memory where there is a place."""
    shm = Path("/dev/shm")  # noqa: S108 - a private file (0600) with a random name
    with tempfile.NamedTemporaryFile(dir=shm if os.access(shm, os.W_OK) else None) as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


# certificates


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a certificate speaks for: user and groups, in the words of Kubernetes."""

    common_name: str
    organizations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def new_authority(common_name: str, *, days: int = AUTHORITY_DAYS) -> Pair:
    """A self-signed certificate authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(Subject(common_name))
    builder = _builder(name, name, days).public_key(key.public_key())
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _signed(builder, key, key)


def issue(
    authority: Pair,
    subject: Subject,
    *,
    server: bool = False,
    client: bool = False,
    names: Iterable[str] = (),
    uris: Iterable[str] = (),
    days: int = LEAF_DAYS,
) -> Pair:
    """A leaf signed by `authority`; `names` are addresses and DNS names. It never outlives the authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = _certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(subject), issuer.subject, days, until=issuer.not_valid_after_utc)
    builder = builder.public_key(key.public_key())
    purposes = [
        purpose
        for wanted, purpose in (
            (server, ExtendedKeyUsageOID.SERVER_AUTH),
            (client, ExtendedKeyUsageOID.CLIENT_AUTH),
        )
        if wanted
    ]
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    alternatives = [*map(_alternative, names), *map(x509.UniformResourceIdentifier, uris)]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _signed(builder, _private_key(authority.key), key)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a decision about a certificate needs to know."""

    subject: Subject
    names: frozenset[str]  # addresses and DNS names
    not_before: datetime
    not_after: datetime
    issuer: str  # common name


def read(pem: bytes) -> Certificate:
    """Raises TlsError."""
    from cryptography import x509

    certificate = _certificate(pem)
    names: set[str] = set()
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        names |= {str(ip) for ip in alternatives.get_values_for_type(x509.IPAddress)}
        names |= set(alternatives.get_values_for_type(x509.DNSName))
    return Certificate(
        _subject(certificate.subject),
        frozenset(names),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        _subject(certificate.issuer).common_name,
    )


def needs_renewal(certificate: Certificate, now: datetime, *, names: Iterable[str] = ()) -> str:
    """Why it should be issued again, "" when it need not: nearly expired, not yet valid, or a name is missing. Pure."""
    missing = {str(_address(name) or name) for name in names} - certificate.names
    if missing:
        return f"it does not name {', '.join(sorted(missing))}"
    if now < certificate.not_before:
        return f"it is valid only from {certificate.not_before:%Y-%m-%d}"
    lifetime = certificate.not_after - certificate.not_before
    if certificate.not_after - now < lifetime * RENEW_BELOW:
        return f"it expires on {certificate.not_after:%Y-%m-%d}"
    return ""


def verify(certificate: bytes, authority: bytes) -> bool:
    """The certificate was signed by this authority (dates are not judged). Raises TlsError when one cannot be read."""
    from cryptography.exceptions import InvalidSignature

    try:
        _certificate(certificate).verify_directly_issued_by(_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# files


def save(directory: Path, name: str, pair: Pair) -> tuple[Path, Path]:
    """Write `name.key` (0600), then `name.crt` (0644), each atomically; returns (certificate, key)."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    write(key, pair.key, mode=0o600)
    write(certificate, pair.certificate, mode=0o644)
    return certificate, key


def load(directory: Path, name: str) -> Pair | None:
    """The pair that `save` wrote; None when either file is missing."""
    try:
        return Pair((directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes())
    except FileNotFoundError:
        return None


def write(path: Path, data: bytes, *, mode: int) -> None:
    """Replace the file in one step; nobody ever sees half of it, or a key with wider rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# keys for signing tokens


def new_signing_key(kind: Literal["ec", "rsa"] = "ec") -> bytes:
    """A private key (PKCS#8 PEM) for service-account tokens: ES256 or RS256."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if kind == "ec":
        return _key_pem(ec.generate_private_key(ec.SECP256R1()))
    return _key_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def public_key(key: bytes) -> bytes:
    """The public half (PEM) of a private key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem: bytes = _private_key(key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


# cryptography


def _name(subject: Subject) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in subject.organizations]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name)])


def _subject(name: x509.Name) -> Subject:
    from cryptography.x509.oid import NameOID

    names = [str(a.value) for a in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(a.value) for a in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    return Subject(names[-1] if names else "", groups)


def _builder(
    subject: x509.Name, issuer: x509.Name, days: int, until: datetime | None = None
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(end, until) if until else end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    from cryptography import x509

    try:
        shown = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(shown)


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    address = _address(name)
    return x509.IPAddress(address) if address is not None else x509.DNSName(name)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _signed(builder: x509.CertificateBuilder, by: CertificateIssuerPrivateKeyTypes, key: Any) -> Pair:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    return Pair(builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM), _key_pem(key))


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _certificate(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise TlsError(f"read a certificate: {error}; it must be PEM") from error


def _private_key(pem: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise TlsError(f"read a private key: {error}; it must be PEM without a password") from error
