"""The configurations that the runtime is given, and what security contexts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.agent.pods import container, pod, sidecar

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.configs import Dns, Given, container_config, expanded, sandbox_config
from havre.node.agent.cri import Image
from havre.node.agent.security import MASKED, ConfigError, container_context, namespaces, sandbox_context
from havre.wire.grpc.messages import messages

GIVEN = Given("sha256:1", Image("sha256:1"), 2, 20.0, 1 << 30, Path("/profiles"))


def made(c: Obj, given: Given = GIVEN, **spec: Any) -> Obj:
    return container_config(pod(c, **spec), c, given)


def boxed(p: Obj) -> Obj:
    dns = Dns(("10.96.0.10",), ("default.svc.cluster.local",), ("ndots:5",))
    return sandbox_config(p, 3, logs=Path("/logs"), cgroup="/t/kubepods/podu1", hostname="p", dns=dns)


def test_configurations_are_messages_of_the_protocol() -> None:
    cri: Any = messages("runtime.v1")
    full = container(
        "a",
        command=["x"],
        ports=[{"containerPort": 80, "hostPort": 8080}],
        lifecycle={"preStop": {"sleep": {"seconds": 1}}, "stopSignal": "SIGUSR1"},
        securityContext={
            "capabilities": {"add": ["NET_ADMIN"]},
            "runAsUser": 7,
            "seccompProfile": {"type": "Unconfined"},
        },
        resources={"limits": {"memory": "1Mi"}},
    )
    p = pod(full, securityContext={"fsGroup": 5, "sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "1"}]})
    sandbox = cri.PodSandboxConfig(**boxed(p))
    assert sandbox.metadata.attempt == 3
    assert dict(sandbox.linux.sysctls) == {"net.ipv4.tcp_syncookies": "1"}
    assert sandbox.port_mappings[0].host_port == 8080
    config = cri.ContainerConfig(**container_config(p, full, GIVEN))
    assert config.linux.security_context.run_as_user.value == 7
    assert list(config.linux.security_context.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert config.stop_signal == cri.Signal.Value("SIGUSR1")


def test_container_carries_what_the_next_agent_must_know() -> None:
    hook = {"preStop": {"exec": {"command": ["x"]}}}
    got = made(container("a", lifecycle=hook, terminationMessagePath="/dev/termination-log"))["annotations"]
    assert got[names.RESTART_COUNT] == "2"
    assert got[names.BACK_OFF] == "20"
    assert got[names.MESSAGE_PATH] == "/dev/termination-log"
    assert got[names.PRE_STOP] == '{"exec":{"command":["x"]}}'
    assert got[names.TERMINATION_GRACE] == "30"


def test_command_and_args_know_the_variables() -> None:
    given = Given("i", None, 0, 0, 1 << 30, Path("/p"), environment=[("WHO", "you")])
    got = made(container("a", command=["say", "$(WHO)"], args=["$$(WHO)", "$(NO)"]), given)
    assert (got["command"], got["args"]) == (["say", "you"], ["$(WHO)", "$(NO)"])


@pytest.mark.parametrize(
    ("text", "expected"), [("$", "$"), ("$$", "$"), ("$$$(A)", "$1"), ("$(A)$(A)", "11"), ("$(", "$("), ("$()", "$()")]
)
def test_references_are_expanded(text: str, expected: str) -> None:
    assert expanded(text, {"A": "1"}) == expected


def test_ports_of_sidecars_are_mapped_and_host_network_needs_none() -> None:
    ported = sidecar("s", ports=[{"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}])
    assert boxed(pod(initContainers=[ported]))["port_mappings"] == [
        {"protocol": 1, "container_port": 53, "host_port": 5353, "host_ip": "127.0.0.1"}
    ]
    assert boxed(pod(initContainers=[ported], hostNetwork=True))["port_mappings"] == []
    assert boxed(pod(hostNetwork=True))["hostname"] == ""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"network": 0, "pid": 1, "ipc": 0}),
        ({"hostNetwork": True, "hostPID": True, "hostIPC": True}, {"network": 2, "pid": 2, "ipc": 2}),
        ({"shareProcessNamespace": True}, {"network": 0, "pid": 0, "ipc": 0}),
    ],
)
def test_namespaces_of_a_pod(spec: Obj, expected: Obj) -> None:
    assert namespaces(pod(**spec)) == expected


def context(own: Obj | None = None, shared: Obj | None = None, image: Image | None = None) -> Obj:
    c = container("a", **({"securityContext": own} if own is not None else {}))
    return container_context(pod(c, securityContext=shared or {}), c, image or Image("i", uid=0), Path("/profiles"))


def test_container_says_more_than_its_pod() -> None:
    got = context({"runAsUser": 5}, {"runAsUser": 1, "runAsGroup": 2, "supplementalGroups": [9], "fsGroup": 8})
    assert (got["run_as_user"], got["run_as_group"]) == ({"value": 5}, {"value": 2})
    assert got["supplemental_groups"] == [8, 9]


def test_image_says_whom_to_run_as_when_nobody_else_does() -> None:
    assert context(image=Image("i", uid=33))["run_as_user"] == {"value": 33}
    assert context(image=Image("i", user="app"))["run_as_username"] == "app"
    assert "run_as_username" not in context({"runAsUser": 1}, image=Image("i", user="app"))


@pytest.mark.parametrize(
    ("own", "image", "message"),
    [
        ({"runAsNonRoot": True, "runAsUser": 0}, Image("i"), "container's runAsUser breaks non-root policy"),
        ({"runAsNonRoot": True}, Image("i", uid=0), "container has runAsNonRoot and image will run as root"),
        ({"runAsNonRoot": True}, Image("i"), "container has runAsNonRoot and image will run as root"),
        ({"runAsNonRoot": True}, Image("i", user="app"), "image has non-numeric user"),
        ({"seccompProfile": {"type": "Localhost"}}, Image("i"), "localhostProfile must be set"),
    ],
)
def test_what_cannot_be_granted_is_refused(own: Obj, image: Image, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        context(own, image=image)


def test_non_root_is_granted_to_who_is_not_root() -> None:
    assert context({"runAsNonRoot": True}, image=Image("i", uid=7))["run_as_user"] == {"value": 7}
    assert context({"runAsNonRoot": True, "runAsUser": 9}, image=Image("i", uid=0))["run_as_user"] == {"value": 9}


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (None, {"profile_type": 1}),
        ({"type": "RuntimeDefault"}, {"profile_type": 0}),
        ({"type": "Unconfined"}, {"profile_type": 1}),
        ({"type": "Localhost", "localhostProfile": "a.json"}, {"profile_type": 2, "localhost_ref": "/profiles/a.json"}),
    ],
)
def test_seccomp_profile(profile: Obj | None, expected: Obj) -> None:
    assert context({"seccompProfile": profile} if profile else {})["seccomp"] == expected
    assert context(None, {"seccompProfile": profile} if profile else {})["seccomp"] == expected


def test_privileges_are_passed_on() -> None:
    got = context({"privileged": True, "readOnlyRootFilesystem": True, "procMount": "Unmasked"})
    assert (got["privileged"], got["readonly_rootfs"], got["masked_paths"]) == (True, True, [])
    assert context()["masked_paths"] == [*MASKED]
    assert context({"allowPrivilegeEscalation": False})["no_new_privs"] is True
    assert context({"allowPrivilegeEscalation": True})["no_new_privs"] is False


def test_sandbox_is_privileged_when_one_of_its_containers_is() -> None:
    privileged = container("a", securityContext={"privileged": True})
    assert sandbox_context(pod(privileged))["privileged"] is True
    assert sandbox_context(pod())["privileged"] is False


def test_apparmor_is_asked_for_and_not_ignored() -> None:
    assert context({"appArmorProfile": {"type": "RuntimeDefault"}})["apparmor"] == {"profile_type": 0}
    assert "apparmor" not in context()
