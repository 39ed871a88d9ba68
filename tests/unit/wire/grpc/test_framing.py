from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.framing import LIMIT, receive
from havre.wire.grpc.messages import messages

CRI = messages("runtime.v1")


class Bytes:
    """A stream that ends after these bytes, as grpclib reads one."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def recv_data(self, size: int) -> bytes:
        if not size or not self.data:
            return b""
        if size > len(self.data):
            raise AssertionError("Received less data than expected")
        found, self.data = self.data[:size], self.data[size:]
        return found


async def test_messages_follow_each_other_until_the_end() -> None:
    source = Bytes(b"\0\0\0\0\x04\n\x02v1" + b"\0\0\0\0\0")
    found = [await receive(source, CRI.VersionRequest) for _ in range(3)]
    assert found == [CRI.VersionRequest(version="v1"), CRI.VersionRequest(), None]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\1\0\0\0\0", Status.UNIMPLEMENTED),
        (b"\0" + (LIMIT + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED),
        (b"\0\0\0\0\x09abc", Status.INTERNAL),
        (b"\0\0\0\0\x09", Status.INTERNAL),
        (b"\0\0", Status.INTERNAL),
        (b"\0\0\0\0\x01\xff", Status.INTERNAL),
    ],
)
async def test_a_broken_message_has_a_status(data: bytes, status: Status) -> None:
    with pytest.raises(GrpcError) as caught:
        await receive(Bytes(data), CRI.VersionRequest)
    assert caught.value.status == status


@given(st.binary(max_size=64))
async def test_any_bytes_are_a_message_the_end_or_an_error(data: bytes) -> None:
    try:
        found = await receive(Bytes(data), CRI.PodSandboxConfig)
    except GrpcError:
        return
    assert found is None or isinstance(found, CRI.PodSandboxConfig)
