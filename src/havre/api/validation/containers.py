"""Containers of pods: ports, environment, mounts, resources, probes, hooks, security.

Source: k8s.io/kubernetes, pkg/apis/core/validation/validation.go (validateContainerCommon and what it calls).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from havre.api.defaults.amounts import amount
from havre.api.meta import Obj
from havre.api.validation.checks import (
    PROTOCOLS,
    STANDARD_RESOURCES,
    Errors,
    checked,
    choice,
    is_extended,
    not_negative,
    port,
    quantity,
    required_choice,
    required_name,
    resource_name,
    whole_quantity,
)
from havre.api.validation.volumes import field_ref, local_path, resource_ref
from havre.kit import names
from havre.kit.field import FieldError, Problem, Structure, duplicate, forbidden, invalid, required

_ENV_FIELDS: Final = frozenset(
    {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
    | {"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
)
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_MORE_SOURCES: Final = "may not have more than one field specified at a time"
_PROBE_NUMBERS: Final = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)
_NOT_FOR_INIT: Final = "may not be set for init containers without restartPolicy=Always"
_SECURITY_FIELDS: Final = (
    "capabilities",
    "privileged",
    "seLinuxOptions",
    "windowsOptions",
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "allowPrivilegeEscalation",
    "procMount",
    "seccompProfile",
    "appArmorProfile",
)


def containers(path: str, items: list[Obj], volumes: Mapping[str, Obj], grace: int | None) -> Errors:
    if not items:
        yield required(path)
        return
    seen: set[str] = set()
    for i, item in enumerate(items):
        here, name = f"{path}[{i}]", item.get("name") or ""
        yield from container(here, item, volumes)
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        yield from _running(here, item, grace)
    yield from _host_ports(path, list(enumerate(items)))


def init_containers(
    path: str, items: list[Obj], volumes: Mapping[str, Obj], taken: Iterable[str], grace: int | None
) -> Errors:
    seen = set(taken)
    for i, item in enumerate(items):
        here, name = f"{path}[{i}]", item.get("name") or ""
        yield from container(here, item, volumes)
        policy = item.get("restartPolicy")
        if name in seen:
            yield duplicate(f"{here}.name", name)
        elif name:
            seen.add(name)
        yield from _host_ports(path, [(0, item)])
        if policy == "Always":
            yield from _running(here, item, grace)
        else:
            for field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
                if item.get(field) is not None:
                    yield forbidden(f"{here}.{field}", _NOT_FOR_INIT)


def ephemeral_containers(path: str, items: list[Obj], volumes: Mapping[str, Obj], taken: Iterable[str]) -> Errors:
    others = set(taken)
    seen: set[str] = set()
    for i, item in enumerate(items):
        here, name = f"{path}[{i}]", item.get("name") or ""
        yield from container(here, item, volumes)
        if name in others or name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        for field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"):
            if item.get(field):
                yield forbidden(f"{here}.{field}", "cannot be set for an Ephemeral Container")
        if item.get("resources"):
            yield forbidden(f"{here}.resources", "cannot be set for an Ephemeral Container")


def container(path: str, item: Obj, volumes: Mapping[str, Obj]) -> Errors:
    """What holds for containers of every sort."""
    yield from required_name(f"{path}.name", item.get("name"), names.dns1123_label)
    if not item.get("image"):
        yield required(f"{path}.image")
    policy = item.get("terminationMessagePolicy")
    yield from required_choice(f"{path}.terminationMessagePolicy", policy, ("File", "FallbackToLogsOnError"))
    if ports := item.get("ports"):
        yield from _ports(f"{path}.ports", ports)
    if env := item.get("env"):
        yield from _env(f"{path}.env", env)
    if sources := item.get("envFrom"):
        yield from _env_from(f"{path}.envFrom", sources)
    if mounts := item.get("volumeMounts"):
        yield from _mounts(f"{path}.volumeMounts", mounts, volumes, item)
    if devices := item.get("volumeDevices"):
        yield from _devices(f"{path}.volumeDevices", devices, volumes)
    policy = item.get("imagePullPolicy")
    yield from required_choice(f"{path}.imagePullPolicy", policy, ("Always", "IfNotPresent", "Never"))
    if needs := item.get("resources"):
        yield from resources(f"{path}.resources", needs)
    if policies := item.get("resizePolicy"):
        yield from _resize_policies(f"{path}.resizePolicy", policies)
    if context := item.get("securityContext"):
        yield from _security(f"{path}.securityContext", context)


def image_of_pod(path: str, items: list[Obj] | None) -> Errors:
    """An image name that would be trimmed is refused in pods, which cannot be repaired later."""
    for i, item in enumerate(items or ()):
        image = item.get("image") or ""
        if image != image.strip():
            yield invalid(f"{path}[{i}].image", image, "must not have leading or trailing whitespace")


def _running(path: str, item: Obj, grace: int | None) -> Errors:
    if lifecycle := item.get("lifecycle"):
        for hook in ("postStart", "preStop"):
            if lifecycle.get(hook) is not None:
                yield from _handler(f"{path}.lifecycle.{hook}", lifecycle[hook], grace)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = item.get(name)
        if probe is not None:
            yield from _probe(f"{path}.{name}", probe, name, grace)


def _ports(path: str, ports: list[Obj]) -> Errors:
    seen: set[str] = set()
    for i, item in enumerate(ports):
        here = f"{path}[{i}]"
        if name := item.get("name"):
            bad = names.port_name(name)
            for message in bad:
                yield invalid(f"{here}.name", name, message)
            if not bad:
                if name in seen:
                    yield duplicate(f"{here}.name", name)
                seen.add(name)
        number = item.get("containerPort") or 0
        if number == 0:
            yield required(f"{here}.containerPort")
        else:
            yield from checked(f"{here}.containerPort", number, names.port_number)
        if item.get("hostPort"):
            yield from checked(f"{here}.hostPort", item["hostPort"], names.port_number)
        yield from required_choice(f"{here}.protocol", item.get("protocol"), PROTOCOLS)


def _host_ports(path: str, items: list[tuple[int, Obj]]) -> Errors:
    taken: set[str] = set()
    for i, item in items:
        for j, port_ in enumerate(item.get("ports") or ()):
            if port_.get("hostPort"):
                key = f"{port_.get('protocol')}/{port_.get('hostIP') or ''}/{port_['hostPort']}"
                if key in taken:
                    yield duplicate(f"{path}[{i}].ports[{j}].hostPort", key)
                taken.add(key)


def _env(path: str, env: list[Obj]) -> Errors:
    for i, item in enumerate(env):
        here = f"{path}[{i}]"
        yield from required_name(f"{here}.name", item.get("name"), names.relaxed_env_var_name)
        if item.get("valueFrom") is not None:
            yield from _env_source(f"{here}.valueFrom", item)


def _env_source(path: str, item: Obj) -> Errors:
    source = item["valueFrom"]
    count = 0
    if (ref := source.get("fieldRef")) is not None:
        count += 1
        yield from field_ref(f"{path}.fieldRef", ref, _ENV_FIELDS)
    if (ref := source.get("resourceFieldRef")) is not None:
        count += 1
        yield from resource_ref(f"{path}.resourceFieldRef", ref, volume=False)
    for field in ("configMapKeyRef", "secretKeyRef"):
        if (ref := source.get(field)) is not None:
            count += 1
            yield from _key_ref(f"{path}.{field}", ref)
    if count == 0:
        words = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        yield invalid(path, "", words)
    elif item.get("value"):
        yield invalid(path, "", "may not be specified when `value` is not empty")
    elif count > 1:
        yield invalid(path, "", _MORE_SOURCES)


def _key_ref(path: str, ref: Obj) -> Errors:
    yield from checked(f"{path}.name", ref.get("name") or "", names.dns1123_subdomain)
    yield from required_name(f"{path}.key", ref.get("key"), names.config_map_key)


def _env_from(path: str, sources: list[Obj]) -> Errors:
    for i, item in enumerate(sources):
        here = f"{path}[{i}]"
        if prefix := item.get("prefix"):
            yield from checked(f"{here}.prefix", prefix, names.relaxed_env_var_name)
        count = 0
        for field in ("configMapRef", "secretRef"):
            if (ref := item.get(field)) is not None:
                count += 1
                yield from required_name(f"{here}.{field}.name", ref.get("name"), names.dns1123_subdomain)
        if count == 0:
            yield invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif count > 1:
            yield invalid(path, "", _MORE_SOURCES)


def _mounts(path: str, mounts: list[Obj], volumes: Mapping[str, Obj], item: Obj) -> Errors:
    seen: set[str] = set()
    for i, mount in enumerate(mounts):
        here, name, where = f"{path}[{i}]", mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            yield required(f"{here}.name")
        if name not in volumes:
            yield FieldError(Problem.NOT_FOUND, f"{here}.name", name)
        if not where:
            yield required(f"{here}.mountPath")
        if where in seen:
            yield invalid(f"{here}.mountPath", where, "must be unique")
        seen.add(where)
        if mount.get("subPath"):
            # upstream leaves the index out of these two paths
            yield from local_path(f"{path}.subPath", mount["subPath"])
        if mount.get("subPathExpr"):
            if mount.get("subPath"):
                yield invalid(
                    f"{path}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
                )
            yield from local_path(f"{path}.subPathExpr", mount["subPathExpr"])
        if (propagation := mount.get("mountPropagation")) is not None:
            yield from _propagation(f"{path}.mountPropagation", propagation, item)


def _propagation(path: str, value: str, item: Obj) -> Errors:
    yield from choice(path, value, ("Bidirectional", "HostToContainer", "None"))
    if value == "Bidirectional" and not (item.get("securityContext") or {}).get("privileged"):
        yield forbidden(path, "Bidirectional mount propagation is available only to privileged containers")


def _devices(path: str, devices: list[Obj], volumes: Mapping[str, Obj]) -> Errors:
    names_seen: set[str] = set()
    paths_seen: set[str] = set()
    for i, device in enumerate(devices):
        here, name, where = f"{path}[{i}]", device.get("name") or "", device.get("devicePath") or ""
        if not name:
            yield required(f"{here}.name")
        if name in names_seen:
            yield invalid(f"{here}.name", name, "must be unique")
        names_seen.add(name)
        volume = volumes.get(name)
        if volume is None:
            yield FieldError(Problem.NOT_FOUND, f"{here}.name", name)
        elif "persistentVolumeClaim" not in volume and "ephemeral" not in volume:
            words = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            yield invalid(f"{here}.name", name, words)
        if not where:
            yield required(f"{here}.devicePath")
        if where in paths_seen:
            yield invalid(f"{here}.devicePath", where, "must be unique")
        paths_seen.add(where)


def resources(path: str, needs: Obj) -> Errors:
    """Limits and requests of a container."""
    limits, requests = needs.get("limits") or {}, needs.get("requests") or {}
    for name, value in limits.items():
        yield from _amount(f"{path}.limits[{name}]", name, value)
    for name, value in requests.items():
        yield from _amount(f"{path}.requests[{name}]", name, value)
        overcommit = name in STANDARD_RESOURCES or not _is_counted(name)
        if name in limits:
            asked, limit = amount(str(value)), amount(str(limits[name]))
            if asked != limit and not overcommit:
                yield invalid(f"{path}.requests", str(value), f"must be equal to {name} limit of {limits[name]}")
            elif asked > limit:
                words = f"must be less than or equal to {name} limit of {limits[name]}"
                yield invalid(f"{path}.requests", str(value), words)
        elif not overcommit:
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
    both = {**limits, **requests}
    if any(name.startswith("hugepages-") for name in both) and not {"cpu", "memory"} & both.keys():
        yield forbidden(path, "HugePages require cpu or memory")


def _is_counted(name: str) -> bool:
    """A resource that cannot be shared out twice."""
    return is_extended(name) or name.startswith("hugepages-")


def _amount(path: str, name: str, value: Any) -> Errors:
    yield from resource_name(path, name)
    if "/" not in name and name not in STANDARD_RESOURCES and not name.startswith("hugepages-"):
        yield invalid(path, name, "must be a standard resource for containers")
    yield from (whole_quantity(path, value) if is_extended(name) else quantity(path, value))


def _resize_policies(path: str, policies: list[Obj]) -> Errors:
    for policy in policies:
        yield from choice(path, policy.get("resourceName") or "", ("cpu", "memory"))
        yield from choice(path, policy.get("restartPolicy") or "", ("NotRequired", "RestartContainer"))


def _probe(path: str, probe: Obj, name: str, grace: int | None) -> Errors:
    yield from _handler(path, probe, grace)
    yield from not_negative(path, probe, *_PROBE_NUMBERS)
    seconds = probe.get("terminationGracePeriodSeconds")
    if name == "readinessProbe":
        if seconds is not None:
            yield invalid(f"{path}.terminationGracePeriodSeconds", seconds, "must not be set for readinessProbes")
        return
    if seconds is not None and seconds <= 0:
        yield invalid(f"{path}.terminationGracePeriodSeconds", seconds, "must be greater than 0")
    if probe.get("successThreshold", 1) != 1:
        yield invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(path: str, handler: Obj, grace: int | None) -> Errors:
    found = [name for name in _HANDLERS if handler.get(name) is not None]
    if not found:
        yield required(path, "must specify a handler type")
    for i, name in enumerate(found):
        here, action = f"{path}.{name}", handler[name]
        if i:
            yield forbidden(here, "may not specify more than 1 handler type")
        elif name == "exec":
            if not action.get("command"):
                yield required(f"{here}.command")
        elif name == "httpGet":
            yield from _http(here, action)
        elif name == "sleep":
            yield from _sleep(here, action, grace)
        elif name == "grpc":
            yield from checked(f"{here}.port", action.get("port") or 0, names.port_number)
        else:
            yield from port(f"{here}.port", action.get("port"))


def _sleep(path: str, action: Obj, grace: int | None) -> Errors:
    seconds = action.get("seconds") or 0
    if grace is not None and not 0 <= seconds <= grace:
        words = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
        yield invalid(path, seconds, words)


def _http(path: str, action: Obj) -> Errors:
    if not action.get("path"):
        yield required(f"{path}.path")
    yield from port(f"{path}.port", action.get("port"))
    yield from choice(f"{path}.scheme", action.get("scheme") or "", ("HTTP", "HTTPS"))
    for header in action.get("httpHeaders") or ():
        yield from checked(f"{path}.httpHeaders", header.get("name") or "", names.http_header_name)


def _security(path: str, context: Obj) -> Errors:
    for field in ("runAsUser", "runAsGroup"):
        if (value := context.get(field)) is not None:
            yield from checked(f"{path}.{field}", value, names.user_id)
    if (mount := context.get("procMount")) is not None:
        yield from choice(f"{path}.procMount", mount, ("Default", "Unmasked"))
    if (profile := context.get("seccompProfile")) is not None:
        yield from seccomp(f"{path}.seccompProfile", profile)
    if context.get("allowPrivilegeEscalation") is not False:
        return
    if context.get("privileged"):
        words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        yield invalid(path, _shown_context(context), words)
    if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
        words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
        yield invalid(path, _shown_context(context), words)


def _go_name(field: str) -> str:
    return "SELinuxOptions" if field == "seLinuxOptions" else field[:1].upper() + field[1:]


def _shown_context(context: Obj) -> Obj:
    shown = {_go_name(field): context.get(field) for field in _SECURITY_FIELDS}
    if (capabilities := context.get("capabilities")) is not None:
        shown["Capabilities"] = Structure({"Add": capabilities.get("add"), "Drop": capabilities.get("drop")})
    return Structure(shown)


def seccomp(path: str, profile: Obj) -> Errors:
    kind = profile.get("type") or ""
    if kind == "Localhost":
        if not profile.get("localhostProfile"):
            yield required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
        else:
            yield from local_path(f"{path}.localhostProfile", profile["localhostProfile"])
        return
    if profile.get("localhostProfile") is not None:
        words = "can only be set when seccomp type is Localhost"
        yield invalid(f"{path}.localhostProfile", profile["localhostProfile"], words)
    if not kind:
        yield required(f"{path}.type", "type is required when seccompProfile is set")
    else:
        yield from choice(f"{path}.type", kind, ("Localhost", "RuntimeDefault", "Unconfined"))
