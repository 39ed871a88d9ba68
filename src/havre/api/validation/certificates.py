"""CertificateSigningRequests: what is asked for is complete; a decision stands.

Source: k8s.io/kubernetes, pkg/apis/certificates/validation/validation.go.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from havre.api.meta import Obj
from havre.api.validation.checks import Errors, choice
from havre.kit import names
from havre.kit.field import duplicate, forbidden, invalid, required

_PEM: Final = b"-----BEGIN CERTIFICATE REQUEST-----"
EXPIRATION_MIN: Final = 600  # seconds
_USAGES: Final = (
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
)
_DECISIONS: Final = ("Approved", "Denied")


def request(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    text = spec.get("request") or ""
    if _PEM not in _decoded(text):
        yield invalid("spec.request", text or None, "PEM block type must be CERTIFICATE REQUEST")
    usages = spec.get("usages") or []
    if not usages:
        yield required("spec.usages")
    for i, usage in enumerate(usages):
        yield from choice(f"spec.usages[{i}]", usage, _USAGES)
        if usage in usages[:i]:
            yield duplicate(f"spec.usages[{i}]", usage)
    yield from signer_name("spec.signerName", spec.get("signerName") or "")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < EXPIRATION_MIN:
        words = f"may not specify a duration less than {EXPIRATION_MIN} seconds (10 minutes)"
        yield invalid("spec.expirationSeconds", seconds, words)
    yield from _conditions(obj)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def signer_name(path: str, name: str) -> Errors:
    """`example.com/signer`: a domain with a dot, and a path."""
    if not name:
        yield required(path)
        return
    domain, slash, rest = name.partition("/")
    if not slash or "/" in rest:
        yield invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
        return
    if "." not in domain:
        yield invalid(path, domain, "should be a domain with at least two segments separated by dots")
    for part, check in ((domain, names.dns1123_subdomain), (rest, names.dns1123_subdomain)):
        for message in check(part):
            yield invalid(path, part, message)


def _conditions(obj: Obj) -> Errors:
    found: dict[str, int] = {}
    for i, condition in enumerate((obj.get("status") or {}).get("conditions") or ()):
        path, kind, status = f"status.conditions[{i}]", condition.get("type") or "", condition.get("status") or ""
        if not kind:
            yield required(f"{path}.type")
        if not status:
            yield required(f"{path}.status")
        elif kind in ("Approved", "Denied", "Failed"):
            yield from choice(f"{path}.status", status, ("True",))
        found.setdefault(kind, i)
    if all(decision in found for decision in _DECISIONS):
        later = max(_DECISIONS, key=lambda decision: found[decision])
        yield invalid(
            f"status.conditions[{found[later]}].type", later, "Approved and Denied conditions are mutually exclusive"
        )


def _of_type(obj: Obj, kind: str) -> list[Obj]:
    return [c for c in (obj.get("status") or {}).get("conditions") or () if c.get("type") == kind]


def update(new: Obj, old: Obj) -> Errors:
    """A write that is no approval: decisions and the certificate are left alone."""
    yield from request(new)
    yield from _decisions(new, old)
    if (new.get("status") or {}).get("certificate") != (old.get("status") or {}).get("certificate"):
        yield forbidden("status.certificate", "updates may not set certificate content")


def status_update(new: Obj, old: Obj) -> Errors:
    yield from request(new)
    yield from _decisions(new, old)
    before = (old.get("status") or {}).get("certificate")
    if before and (new.get("status") or {}).get("certificate") != before:
        yield forbidden("status.certificate", "updates may not modify existing certificate content")


def approval_update(new: Obj, old: Obj) -> Errors:
    yield from request(new)
    for kind in (*_DECISIONS, "Failed"):
        if len(_of_type(new, kind)) < len(_of_type(old, kind)):
            yield forbidden("status.conditions", f'updates may not remove a condition of type "{kind}"')


def _decisions(new: Obj, old: Obj) -> Errors:
    for kind in (*_DECISIONS, "Failed"):
        if len(_of_type(new, kind)) < len(_of_type(old, kind)):
            yield forbidden("status.conditions", f'updates may not remove a condition of type "{kind}"')
    for kind in _DECISIONS:
        if len(_of_type(new, kind)) > len(_of_type(old, kind)):
            yield forbidden("status.conditions", f'updates may not add a condition of type "{kind}"')
