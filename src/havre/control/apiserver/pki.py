"""The cluster's certificates and keys: made on first start, renewed on a later one, never more than what is missing.

ca.{crt,key}             signs everything below and the certificates of clients
apiserver.{crt,key}      the listener
node.{crt,key}           the agent of this machine: how it presents itself to the API server, and its own endpoint
network.{crt,key}        the node's services and DNS, which read what the agent may not
admin.{crt,key}          in `admin.kubeconfig`: the operator, a member of system:masters
apiserver-kubelet-client.{crt,key}  how the API server presents itself to node agents
sa.key                   signs the tokens of service accounts

Source: kubernetes documentation, "PKI certificates and requirements".
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from havre.control.apiserver.bootstrap import KUBELET_CLIENT, NETWORK
from havre.machinery.admission import NODE_PREFIX, NODES, SUPERUSERS
from havre.wire import tls
from havre.wire.tls import Pair, Subject

log = logging.getLogger(__name__)

SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True, slots=True)
class Pki:
    """Where the files are, and what of them others need as bytes."""

    directory: Path
    authority: Pair
    admin: Pair
    kubelet_client: Pair
    signing_key: bytes

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def server_files(self) -> tuple[Path, Path]:
        return self.directory / "apiserver.crt", self.directory / "apiserver.key"


def ensure(directory: Path, names: Iterable[str]) -> Pki:
    """Everything in place; `names` are the addresses and DNS names under which the API is reached. Raises TlsError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = tls.load(directory, "ca")
    if authority is None:
        authority = tls.new_authority("havre-ca")
        tls.save(directory, "ca", authority)
    served = ("localhost", *SERVICE_NAMES, *names)
    _leaf(directory, "apiserver", authority, Subject("kube-apiserver"), server=True, names=served)
    admin = _leaf(directory, "admin", authority, Subject("admin", (SUPERUSERS,)), client=True)
    # Not a superuser: where a node's address leads is what the node says, and it may lead back to the API server.
    kubelet_client = _leaf(directory, "apiserver-kubelet-client", authority, Subject(KUBELET_CLIENT), client=True)
    key_file = directory / "sa.key"
    if not key_file.exists():
        tls.write(key_file, tls.new_signing_key("rsa"), mode=0o600)
    return Pki(directory, authority, admin, kubelet_client, key_file.read_bytes())


def ensure_node(pki: Pki, name: str, addresses: Iterable[str]) -> Pair:
    """The pair of the node agent `name`, which answers under `addresses`: client and server. Raises TlsError."""
    subject = Subject(f"{NODE_PREFIX}{name}", (NODES,))
    names = (name, "127.0.0.1", *addresses)
    return _leaf(pki.directory, "node", pki.authority, subject, server=True, client=True, names=names)


def ensure_network(pki: Pki) -> Pair:
    """The pair of the network part of a node. Raises TlsError."""
    return _leaf(pki.directory, "network", pki.authority, Subject(NETWORK), client=True)


def _leaf(
    directory: Path,
    name: str,
    authority: Pair,
    subject: Subject,
    *,
    server: bool = False,
    client: bool = False,
    names: Iterable[str] = (),
) -> Pair:
    """The pair on disk, or a new one when there is none, it ends soon, lacks a name or is of another authority."""
    pair = tls.load(directory, name)
    names = tuple(dict.fromkeys(names))
    if pair is not None:
        why = tls.needs_renewal(tls.read(pair.certificate), datetime.now(UTC), names=names)
        if not why and not tls.verify(pair.certificate, authority.certificate):
            why = "another authority signed it"
        if not why and tls.read(pair.certificate).subject.common_name != subject.common_name:
            why = "it is of another name"
        if not why:
            return pair
        log.info("certificate renewed", extra={"certificate": name, "reason": why})
    pair = tls.issue(authority, subject, server=server, client=client, names=names)
    tls.save(directory, name, pair)
    return pair


def kubeconfig(server: str, authority: bytes, client: Pair, *, name: str = "havre", user: str = "admin") -> str:
    """A kubeconfig that holds its certificates, so that it can be copied to another machine."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return f"""apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {encoded(authority)}
users:
- name: {user}
  user:
    client-certificate-data: {encoded(client.certificate)}
    client-key-data: {encoded(client.key)}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {user}
current-context: {name}
"""
