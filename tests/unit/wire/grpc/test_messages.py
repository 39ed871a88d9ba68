from __future__ import annotations

import pytest

from havre.wire.grpc.messages import messages, method


def test_a_package_has_messages_enumerations_and_their_values() -> None:
    cri = messages("runtime.v1")
    request = cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(hostname="a", labels={"x": "y"}))
    assert request.SerializeToString() == b"\n\x0b\x12\x01a2\x06\n\x01x\x12\x01y"
    assert (cri.SANDBOX_NOTREADY, cri.PodSandboxState.Name(1)) == (1, "SANDBOX_NOTREADY")
    assert cri.VersionRequest is cri.VersionRequest


def test_what_a_package_does_not_define_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"the protobuf package runtime\.v1 defines no Nothing"):
        messages("runtime.v1").Nothing  # noqa: B018


def test_an_unknown_package_is_a_key_error_that_lists_the_known() -> None:
    with pytest.raises(KeyError, match=r"no descriptors of the protobuf package nope; .*containerd\.types"):
        messages("nope")


@pytest.mark.parametrize(
    "package",
    ["containers", "content", "diff", "events", "images", "introspection", "leases", "mounts", "namespaces", "sandbox",
     "snapshots", "streaming", "tasks", "transfer", "version"],
)  # fmt: skip
def test_every_service_of_containerd_is_there(package: str) -> None:
    assert messages(f"containerd.services.{package}.v1")


def test_any_and_time_fit_the_fields_of_every_package() -> None:
    well_known = messages("google.protobuf")
    container = messages("containerd.services.containers.v1").Container(
        spec=well_known.Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}"),
        created_at=well_known.Timestamp(seconds=-62135596800),  # how Go says "never"
    )
    assert container.spec.value == b"{}"
    assert container.created_at.ToJsonString() == "0001-01-01T00:00:00Z"


def test_what_containerd_packs_into_any_is_there() -> None:
    assert messages("containerd.runc.v1").Options(binary_name="crun").SerializeToString() == b"2\x04crun"
    assert messages("io.containerd.cgroups.v2").Metrics(pids={"current": 3}).pids.current == 3
    assert messages("containerd.events").TaskExit(exit_status=7).exit_status == 7


def test_a_method_knows_what_it_streams() -> None:
    write = method("containerd.services.content.v1.Content", "Write")
    assert (write.client_streaming, write.server_streaming) == (True, True)
    with pytest.raises(KeyError, match=r"the gRPC service runtime\.v1\.RuntimeService has no method Nope"):
        method("runtime.v1.RuntimeService", "Nope")


def test_the_services_of_cri_are_those_of_its_version() -> None:
    assert method("runtime.v1.RuntimeService", "UpdatePodSandboxResources")
    assert method("runtime.v1.ImageService", "ImageFsInfo")
