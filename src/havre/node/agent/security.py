"""Security contexts: the container's over the pod's, as CRI takes them; and what cannot be granted. Pure.

Source: k8s.io/kubernetes pkg/securitycontext/util.go, pkg/kubelet/kuberuntime/security_context*.go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from havre.api.meta import Obj
from havre.node.agent.cri import Image
from havre.node.agent.specs import all_containers, described, on_host_network

MASKED: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_FROM_POD: Final = ("runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions", "seccompProfile", "appArmorProfile")
_POLICIES: Final = {"Merge": 0, "Strict": 1}
_NODE, _POD, _CONTAINER, _TARGET = 2, 0, 1, 3  # CRI NamespaceMode
_RUNTIME_DEFAULT, _UNCONFINED, _LOCALHOST = 0, 1, 2  # CRI SecurityProfile.ProfileType


class ConfigError(Exception):
    """The container cannot be configured as it asks: CreateContainerConfigError."""


def effective(pod: Obj, container: Obj) -> Obj:
    """The security context that holds: what the container says, else what the pod says."""
    own = container.get("securityContext") or {}
    shared = pod["spec"].get("securityContext") or {}
    return {**{key: shared[key] for key in _FROM_POD if shared.get(key) is not None}, **own}


def namespaces(pod: Obj, target: str = "") -> Obj:
    """NamespaceOption; `target`: the container whose processes an ephemeral one shall see."""
    spec = pod["spec"]
    pid = _CONTAINER
    if spec.get("hostPID"):
        pid = _NODE
    elif spec.get("shareProcessNamespace"):
        pid = _POD
    out: Obj = {
        "network": _NODE if on_host_network(pod) else _POD,
        "pid": pid,
        "ipc": _NODE if spec.get("hostIPC") else _POD,
    }
    if target and pid == _CONTAINER:
        out |= {"pid": _TARGET, "target_id": target}
    return out


def sandbox_context(pod: Obj) -> Obj:
    """LinuxSandboxSecurityContext."""
    shared = pod["spec"].get("securityContext") or {}
    privileged = any((c.get("securityContext") or {}).get("privileged") for c in all_containers(pod))
    return {
        "privileged": privileged,
        "seccomp": {"profile_type": _RUNTIME_DEFAULT},
        "namespace_options": namespaces(pod),
        "supplemental_groups": _groups(shared),
        "supplemental_groups_policy": _POLICIES[shared.get("supplementalGroupsPolicy") or "Merge"],
        **_run_as(shared),
        **_selinux(shared),
    }


def container_context(pod: Obj, container: Obj, image: Image | None, profiles: Path, target: str = "") -> Obj:
    """LinuxContainerSecurityContext. Raises ConfigError."""
    context = effective(pod, container)
    shared = pod["spec"].get("securityContext") or {}
    _verify_non_root(pod, container, context, image)
    unmasked = context.get("procMount") == "Unmasked"
    out: Obj = {
        "privileged": bool(context.get("privileged")),
        "readonly_rootfs": bool(context.get("readOnlyRootFilesystem")),
        "no_new_privs": context.get("allowPrivilegeEscalation") is False,
        "namespace_options": namespaces(pod, target),
        "supplemental_groups": _groups(shared),
        "supplemental_groups_policy": _POLICIES[shared.get("supplementalGroupsPolicy") or "Merge"],
        "seccomp": _seccomp(context, profiles),
        "masked_paths": [] if unmasked else [*MASKED],
        "readonly_paths": [] if unmasked else [*READONLY],
        **_run_as(context),
        **_selinux(context),
        **_apparmor(context),
    }
    capabilities = context.get("capabilities") or {}
    if capabilities:
        out["capabilities"] = {
            "add_capabilities": [*(capabilities.get("add") or ())],
            "drop_capabilities": [*(capabilities.get("drop") or ())],
        }
    if "run_as_user" not in out and image is not None:
        out |= {"run_as_username": image.user} if image.user else {"run_as_user": {"value": image.uid or 0}}
    return out


def _groups(shared: Obj) -> list[int]:
    own = [shared["fsGroup"]] if shared.get("fsGroup") is not None else []
    return [*own, *(shared.get("supplementalGroups") or ())]


def _run_as(context: Obj) -> Obj:
    pairs = (("run_as_user", "runAsUser"), ("run_as_group", "runAsGroup"))
    return {field: {"value": context[key]} for field, key in pairs if context.get(key) is not None}


def _selinux(context: Obj) -> Obj:
    options = context.get("seLinuxOptions")
    return {"selinux_options": {k: options.get(k, "") for k in ("user", "role", "type", "level")}} if options else {}


def _seccomp(context: Obj, profiles: Path) -> Obj:
    profile = context.get("seccompProfile") or {}
    match profile.get("type"):
        case "RuntimeDefault":
            return {"profile_type": _RUNTIME_DEFAULT}
        case "Localhost":
            name = profile.get("localhostProfile")
            if not name:
                raise ConfigError("localhostProfile must be set if seccompProfile type is Localhost.")
            return {"profile_type": _LOCALHOST, "localhost_ref": str(profiles / name)}
        case _:
            return {"profile_type": _UNCONFINED}


def _apparmor(context: Obj) -> Obj:
    """Only what is asked for: a runtime on a kernel without AppArmor must refuse it, not ignore it."""
    profile = context.get("appArmorProfile") or {}
    match profile.get("type"):
        case "RuntimeDefault":
            return {"apparmor": {"profile_type": _RUNTIME_DEFAULT}}
        case "Localhost":
            name = profile.get("localhostProfile", "")
            return {"apparmor": {"profile_type": _LOCALHOST, "localhost_ref": f"localhost/{name}"}}
        case "Unconfined":
            return {"apparmor": {"profile_type": _UNCONFINED}}
        case _:
            return {}


def _verify_non_root(pod: Obj, container: Obj, context: Obj, image: Image | None) -> None:
    if not context.get("runAsNonRoot"):
        return
    where = f'(pod: "{described(pod)}", container: {container["name"]})'
    user = context.get("runAsUser")
    if user is not None:
        if user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    if image is not None and image.uid is None and image.user:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image.user}), "
            f"cannot verify user is non-root {where}"
        )
    if image is None or not image.uid:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
