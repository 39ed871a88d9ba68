"""Classes of protobuf messages from packaged descriptors, made when they are first asked for.

    cri = messages("runtime.v1")
    request = cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(hostname="a"))
    cri.SANDBOX_READY, cri.PodSandboxState.Name(0)      # values of enumerations, and the enumeration

All packages share one pool of their own, so that `messages("google.protobuf").Timestamp()` fits the fields of every
message here. What is generated elsewhere (`google.protobuf.timestamp_pb2`) is another class and does not.

The set `cri` is loaded by itself in 1 ms; `containerd` (50 files, 2 ms) only when one of its packages is asked for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import EnumDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_DATA = Path(__file__).parent / "data"
_CRI = "runtime.v1"
_POOL = descriptor_pool.DescriptorPool()


class Namespace:
    """The messages, enumerations and enumeration values of one package, as attributes."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError when the package defines no such thing."""
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._find(name)
        setattr(self, name, found)  # the next look-up finds it without asking
        return found

    def _find(self, name: str) -> Any:
        full = f"{self._package}.{name}"
        try:
            return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full))
        except KeyError:
            pass
        try:
            return EnumTypeWrapper(_POOL.FindEnumTypeByName(full))
        except KeyError:
            pass
        values = _values(self._package)
        if name in values:
            return values[name]
        raise AttributeError(f"the protobuf package {self._package} defines no {name}")


@cache
def messages(package: str) -> Namespace:
    """Raises KeyError when no packaged descriptor has such a package."""
    _load(package)
    if package not in _PACKAGES:
        raise KeyError(f"no descriptors of the protobuf package {package}; there are: {', '.join(sorted(_PACKAGES))}")
    return Namespace(package)


def service(name: str) -> ServiceDescriptor:
    """The descriptor of a service by its full name. Raises KeyError."""
    messages(name.rpartition(".")[0])
    return _POOL.FindServiceByName(name)


def message_class(descriptor: Any) -> Any:
    """The class of the input or output of a method."""
    return message_factory.GetMessageClass(descriptor)


@cache
def method(service_name: str, name: str) -> MethodDescriptor:
    """Raises KeyError."""
    found = service(service_name).methods_by_name.get(name)
    if found is None:
        raise KeyError(f"the gRPC service {service_name} has no method {name}")
    return found


_PACKAGES: dict[str, list[str]] = {}  # package → its files, of the sets that are loaded


@cache
def _load_set(name: str) -> None:
    found = descriptor_pb2.FileDescriptorSet.FromString((_DATA / f"{name}.bin").read_bytes())
    for file in found.file:
        _POOL.AddSerializedFile(file.SerializeToString())
        _PACKAGES.setdefault(file.package, []).append(file.name)


def _load(package: str) -> None:
    _load_set("cri" if package == _CRI else "containerd")


@cache
def _values(package: str) -> dict[str, int]:
    """Values of the enumerations at the top of a package: in protobuf they are names of the package itself."""
    enums: list[EnumDescriptor] = []
    for file in _PACKAGES[package]:
        enums += _POOL.FindFileByName(file).enum_types_by_name.values()
    return {value.name: value.number for enum in enums for value in enum.values}
