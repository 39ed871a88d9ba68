"""Who may approve and sign, and whose certificate nobody may ask for."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from havre.api.errors import Forbidden
from havre.control.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
WHERE = {"group": "certificates.k8s.io", "namespace": ""}
CSRS = "certificatesigningrequests"
CLIENT = "kubernetes.io/kube-apiserver-client"


def request_for(group: str) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    pem = made.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


def csr(request: str = "", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"signerName": CLIENT, "request": request}, "status": status}


def may(verb: str, name: str) -> Authorizer:
    authorizer = Authorizer()
    rule = {"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [name]}
    authorizer.upsert({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]})
    ref, bob = {"kind": "ClusterRole", "name": "r"}, {"kind": "User", "name": "bob"}
    authorizer.upsert({"kind": "ClusterRoleBinding", "metadata": {"name": "r"}, "roleRef": ref, "subjects": [bob]})
    return authorizer


async def test_nobody_asks_for_the_certificate_of_a_superuser(ask: Any) -> None:
    plug = CertificateSubjectRestriction()
    await plug.validate(ask(CREATE, CSRS, csr(request_for("team")), **WHERE))
    with pytest.raises(Forbidden) as refused:
        await plug.validate(ask(CREATE, CSRS, csr(request_for("system:masters")), **WHERE))
    assert refused.value.message == (
        'certificatesigningrequests.certificates.k8s.io "web" is forbidden: use of '
        "kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    )
    with pytest.raises(Forbidden, match="failed to parse CSR"):
        await plug.validate(ask(CREATE, CSRS, csr("bm8="), **WHERE))


@pytest.mark.parametrize("name", [CLIENT, "kubernetes.io/*"])
async def test_approving_needs_the_verb_on_the_signer_or_its_domain(ask: Any, name: str) -> None:
    req = ask(UPDATE, CSRS, csr(), csr(), subresource="approval", **WHERE)
    await CertificateApproval(may("approve", name)).validate(req)
    with pytest.raises(Forbidden, match=f'user not permitted to approve requests with signerName "{CLIENT}"'):
        await CertificateApproval(may("sign", name)).validate(req)


async def test_signing_needs_the_verb_when_the_certificate_changes(ask: Any) -> None:
    signed = ask(UPDATE, CSRS, csr(certificate="x"), csr(), subresource="status", **WHERE)
    await CertificateSigning(may("sign", CLIENT)).validate(signed)
    with pytest.raises(Forbidden, match="user not permitted to sign requests"):
        await CertificateSigning(may("approve", CLIENT)).validate(signed)
    await CertificateSigning(Authorizer()).validate(ask(UPDATE, CSRS, csr(), csr(), subresource="status", **WHERE))
