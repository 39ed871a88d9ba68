"""The environment variables of a container. Pure: what it refers to is fetched before, see `references`.

In order: `envFrom`, `env`, then the services of the pod's namespace and `kubernetes`, each name once; a later one wins
over an earlier one, services over nothing. `$(NAME)` stands for what was set before it, or for a service.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), pkg/kubelet/envvars,
third_party/forked/golang/expansion.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from havre.api.meta import Obj, name_of, namespace_of
from havre.node.agent.field_values import FieldError, container_of, field_value, resource_value
from havre.node.agent.protocol import GivenError

_reference = re.compile(r"\$(?:\$|\(([^)]*)\))")


@dataclass(frozen=True, slots=True)
class Sources:
    """ConfigMaps and Secrets of the pod's namespace by name; what does not exist is not in it."""

    config_maps: Mapping[str, Obj] = field(default_factory=dict)
    secrets: Mapping[str, Obj] = field(default_factory=dict)


def references(container: Obj) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the ConfigMaps and of the Secrets that `environment` will look at."""
    maps, secrets = set(), set()
    for source in container.get("envFrom") or ():
        maps.add((source.get("configMapRef") or {}).get("name"))
        secrets.add((source.get("secretRef") or {}).get("name"))
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom") or {}
        maps.add((origin.get("configMapKeyRef") or {}).get("name"))
        secrets.add((origin.get("secretKeyRef") or {}).get("name"))
    return frozenset(filter(None, maps)), frozenset(filter(None, secrets))


def environment(
    pod: Obj,
    container: Obj,
    sources: Sources,
    services: Sequence[Obj],
    node: Obj | None,
    *,
    ips: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Name and value of every variable. `services` may be all of the cluster; `ips` are the pod's.

    Raises GivenError with kubelet's words, for CreateContainerConfigError."""
    links = dict(_service_variables(pod, services))
    known: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        known |= {prefix + key: value for key, value in _everything(source, sources).items()}
    for variable in container.get("env") or ():
        if origin := variable.get("valueFrom"):
            value = _origin(pod, container, origin, sources, node, ips)
        else:
            value = expand(variable.get("value") or "", {**links, **known})
        if value is not None:
            known[variable["name"]] = value
    return [*known.items(), *((name, value) for name, value in links.items() if name not in known)]


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` becomes what is known under that name, `$$` becomes `$`, the rest stays. Also for command and args."""

    def one(found: re.Match[str]) -> str:
        name: str | None = found[1]
        return "$" if name is None else known.get(name, found[0])

    return _reference.sub(one, text) if "$" in text else text


# ConfigMaps and Secrets


def _everything(source: Obj, sources: Sources) -> Mapping[str, str]:
    if ref := source.get("configMapRef"):
        found = _found("configmap", ref, sources.config_maps)
        return (found or {}).get("data") or {}
    if ref := source.get("secretRef"):
        found = _found("secret", ref, sources.secrets)
        data = (found or {}).get("data") or {}
        return {key: _decoded(value, key, ref) for key, value in data.items()}
    return {}


def _found(what: str, ref: Obj, objects: Mapping[str, Obj]) -> Obj | None:
    """The object; None if it may be absent and is."""
    found = objects.get(ref.get("name", ""))
    if found is None and not ref.get("optional"):
        raise GivenError(f'{what} "{ref.get("name", "")}" not found')
    return found


def _decoded(value: str, key: str, ref: Obj) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError) as e:
        raise GivenError(f"key {key} of secret {ref.get('name')} is no UTF-8 text and cannot be a variable") from e


def _origin(
    pod: Obj, container: Obj, origin: Obj, sources: Sources, node: Obj | None, ips: Sequence[str]
) -> str | None:
    """The value that `valueFrom` names; None if it is optional and absent."""
    try:
        if ref := origin.get("fieldRef"):
            return field_value(pod, ref["fieldPath"], ips, _addresses(node))
        if ref := origin.get("resourceFieldRef"):
            holder = container_of(pod, ref["containerName"]) if ref.get("containerName") else container
            return resource_value(holder, ref, ((node or {}).get("status") or {}).get("allocatable") or {})
    except FieldError as e:
        raise GivenError(str(e)) from e
    if ref := origin.get("configMapKeyRef"):
        data = (_found("configmap", ref, sources.config_maps) or {}).get("data") or {}
        return _key(pod, ref, data, "ConfigMap")
    if ref := origin.get("secretKeyRef"):
        data = (_found("secret", ref, sources.secrets) or {}).get("data") or {}
        value = _key(pod, ref, data, "Secret")
        return None if value is None else _decoded(value, ref["key"], ref)
    return ""


def _addresses(node: Obj | None) -> list[str]:
    addresses = ((node or {}).get("status") or {}).get("addresses") or ()
    return [one["address"] for one in addresses if one["type"] == "InternalIP"]


def _key(pod: Obj, ref: Obj, data: Mapping[str, str], kind: str) -> str | None:
    key = ref["key"]
    if key not in data and not ref.get("optional"):
        raise GivenError(f"couldn't find key {key} in {kind} {namespace_of(pod)}/{ref.get('name', '')}")
    return data.get(key)


# services


def _service_variables(pod: Obj, services: Sequence[Obj]) -> Iterator[tuple[str, str]]:
    seen: dict[str, Obj] = {}
    links = (pod.get("spec") or {}).get("enableServiceLinks", True)
    own = namespace_of(pod)
    for service in services:
        name, where = name_of(service), namespace_of(service)
        if (service.get("spec") or {}).get("clusterIP") in (None, "", "None"):
            continue
        if where == "default" and name == "kubernetes":
            seen.setdefault(name, service)
        elif where == own and links:
            seen[name] = service
    for name in sorted(seen):
        yield from _variables(name, seen[name]["spec"])


def _variables(name: str, spec: Obj) -> Iterator[tuple[str, str]]:
    """The variables that Docker's links gave; kept by everyone since."""
    prefix = name.upper().replace("-", "_")
    address = str(spec["clusterIP"])
    ports = spec.get("ports") or []
    yield f"{prefix}_SERVICE_HOST", address
    if ports:
        yield f"{prefix}_SERVICE_PORT", str(ports[0]["port"])
    for port in ports:
        if port.get("name"):
            yield f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}", str(port["port"])
    host = f"[{address}]" if ":" in address else address
    for i, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{port['port']}"
        if i == 0:
            yield f"{prefix}_PORT", url
        one = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        yield one, url
        yield f"{one}_PROTO", protocol.lower()
        yield f"{one}_PORT", str(port["port"])
        yield f"{one}_ADDR", address
