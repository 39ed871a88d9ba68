"""CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may approve and sign for which signer.

Source: k8s.io/kubernetes plugin/pkg/admission/certificates.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import ClassVar

from havre.api.meta import Obj
from havre.control.apiserver.admission.refusal import forbidden
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import SUPERUSERS, AdmissionRequest, Attributes, Operation

GROUP = "certificates.k8s.io"
RESOURCE = "certificatesigningrequests"
API_CLIENT = "kubernetes.io/kube-apiserver-client"


@dataclass(frozen=True, slots=True)
class CertificateApproval:
    """Approving or denying needs the verb `approve` on the signer."""

    concerns: ClassVar = frozenset({(GROUP, RESOURCE)})

    authorizer: Authorizer

    async def validate(self, req: AdmissionRequest) -> None:
        if not req.targets(GROUP, RESOURCE, "approval") or req.operation != Operation.UPDATE or req.old is None:
            return
        signer = req.old["spec"].get("signerName", "")
        if not _authorized(self.authorizer, req, "approve", signer):
            raise forbidden(req, f'user not permitted to approve requests with signerName "{signer}"')


@dataclass(frozen=True, slots=True)
class CertificateSigning:
    """Writing the certificate, or saying that signing failed, needs the verb `sign` on the signer."""

    concerns: ClassVar = frozenset({(GROUP, RESOURCE)})

    authorizer: Authorizer

    async def validate(self, req: AdmissionRequest) -> None:
        if not req.targets(GROUP, RESOURCE, "status") or req.operation != Operation.UPDATE:
            return
        old, new = req.old or {}, req.obj or {}
        if _outcome(old) == _outcome(new):
            return
        signer = old["spec"].get("signerName", "")
        if not _authorized(self.authorizer, req, "sign", signer):
            raise forbidden(req, f'user not permitted to sign requests with signerName "{signer}"')


class CertificateSubjectRestriction:
    """Nobody gets a client certificate of a superuser by asking for one."""

    concerns: ClassVar = frozenset({(GROUP, RESOURCE)})

    async def validate(self, req: AdmissionRequest) -> None:
        if not req.targets(GROUP, RESOURCE) or req.operation != Operation.CREATE or req.obj is None:
            return
        if req.obj["spec"].get("signerName") != API_CLIENT:
            return
        try:
            groups = organizations(req.obj["spec"].get("request", ""))
        except ValueError as e:
            raise forbidden(req, f"failed to parse CSR: {e}") from e
        if SUPERUSERS in groups:
            raise forbidden(req, f"use of {API_CLIENT} signer with {SUPERUSERS} group is not allowed")


def organizations(request: str) -> list[str]:
    """The groups that a request for a certificate (base64 of PEM, as in the object) asks for. Raises ValueError."""
    return _subject(request, "2.5.4.10")


def common_names(request: str) -> list[str]:
    """The user names that it asks for; one, when well made. Raises ValueError."""
    return _subject(request, "2.5.4.3")


def _subject(request: str, oid: str) -> list[str]:
    from cryptography import x509  # 60 ms, for the few requests that need it

    parsed = x509.load_pem_x509_csr(base64.b64decode(request))
    return [str(part.value) for part in parsed.subject.get_attributes_for_oid(x509.ObjectIdentifier(oid))]


def _outcome(request: Obj) -> tuple[object, list[Obj]]:
    status = request.get("status") or {}
    return status.get("certificate"), [c for c in status.get("conditions") or () if c["type"] == "Failed"]


def _authorized(authorizer: Authorizer, req: AdmissionRequest, verb: str, signer: str) -> bool:
    """On this signer, or on all of its domain."""
    domain = signer.partition("/")[0]
    for name in (signer, f"{domain}/*"):
        if authorizer.authorize(Attributes(req.attributes.user, verb, GROUP, "*", "signers", name=name)).allowed:
            return True
    return False
