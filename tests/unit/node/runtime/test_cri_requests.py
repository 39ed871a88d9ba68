"""What the CRI services check before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from havre.node.runtime import errors
from havre.node.runtime.config import Config
from havre.node.runtime.cri import _streams
from havre.node.runtime.cri_images import _auth
from havre.node.runtime.errors import Invalid
from havre.node.runtime.faults import answering
from havre.node.runtime.sandboxes import _hostname, _key, _ports, _resolv_conf
from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.messages import messages
from havre.wire.streaming.remotecommand import Streams

cri = messages("runtime.v1")


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (errors.NotFound, Status.NOT_FOUND),
        (errors.AlreadyExists, Status.ALREADY_EXISTS),
        (errors.Invalid, Status.INVALID_ARGUMENT),
        (errors.Unsupported, Status.UNIMPLEMENTED),
        (errors.Precondition, Status.FAILED_PRECONDITION),
        (errors.TimedOut, Status.DEADLINE_EXCEEDED),
        (errors.Failed, Status.UNKNOWN),
    ],
)
async def test_each_fault_has_its_status(fault: type[errors.RuntimeFault], status: Status) -> None:
    async def handler(request: Any) -> Any:
        raise fault("why")

    with pytest.raises(GrpcError, match="why") as raised:
        await answering(handler)(None, {})
    assert raised.value.status is status


def test_streams_are_checked() -> None:
    assert _streams(cri.ExecRequest(stdout=True, tty=True)) == Streams(False, True, False, True)
    with pytest.raises(Invalid, match="one of stdin"):
        _streams(cri.ExecRequest())
    with pytest.raises(Invalid, match="no stderr of its own"):
        _streams(cri.ExecRequest(tty=True, stderr=True))


def test_credentials_come_in_two_shapes() -> None:
    assert _auth(cri.AuthConfig()) is None
    plain = _auth(cri.AuthConfig(username="u", password="p", server_address="r.example"))
    assert plain is not None
    assert (plain.username, plain.password, plain.server) == ("u", "p", "r.example")
    encoded = _auth(cri.AuthConfig(auth="dTpw"))
    assert encoded is not None
    assert (encoded.username, encoded.password) == ("u", "p")
    with pytest.raises(Invalid, match="base64"):
        _auth(cri.AuthConfig(auth="!"))


def test_a_sandbox_needs_its_three_names() -> None:
    metadata = cri.PodSandboxMetadata(name="n", uid="u", namespace="s", attempt=2)
    assert _key(cri.PodSandboxConfig(metadata=metadata)) == ("s", "n", "u", 2)
    with pytest.raises(Invalid, match="a name, a namespace and a uid"):
        _key(cri.PodSandboxConfig())


@pytest.mark.parametrize("name", ["a b", "x" * 65, "a\n"])
def test_a_hostname_must_be_one(name: str) -> None:
    with pytest.raises(Invalid, match="hostname"):
        _hostname(cri.PodSandboxConfig(hostname=name))


def test_only_ports_of_the_host_are_mapped() -> None:
    config = cri.PodSandboxConfig()
    config.port_mappings.add(container_port=80)
    config.port_mappings.add(container_port=53, host_port=53, protocol=cri.UDP, host_ip="127.0.0.1")
    (port,) = _ports(config)
    assert (port.protocol, port.container_port, port.host_port, port.host_ip) == ("UDP", 53, 53, "127.0.0.1")


def test_resolv_conf_is_written_in_its_order() -> None:
    dns = cri.DNSConfig(servers=["10.96.0.10"], searches=["a.svc", "svc"], options=["ndots:5"])
    text = _resolv_conf(cri.PodSandboxConfig(dns_config=dns))
    assert text == b"search a.svc svc\nnameserver 10.96.0.10\noptions ndots:5\n"
    with pytest.raises(Invalid, match="line feed"):
        _resolv_conf(cri.PodSandboxConfig(dns_config=cri.DNSConfig(servers=["1\n2"])))


@pytest.mark.parametrize("name", ["", "UPPER", "with-dash", "elevenchars"])
def test_the_name_of_an_instance_fits_into_interface_names(tmp_path: Any, name: str) -> None:
    with pytest.raises(Invalid, match="1 to 10"):
        Config(tmp_path, tmp_path, name)
