"""What a pod says about itself: the values of `fieldRef` and `resourceFieldRef`. Pure.

Source: k8s.io/kubernetes pkg/fieldpath, pkg/api/v1/resource (ExtractContainerResourceValue), kubelet_pods.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from havre.api.meta import Obj, annotations_of, labels_of
from havre.kit.quantity import Quantity, parse

_keyed = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]").fullmatch
_NODE_GIVES: Final = ("cpu", "memory", "ephemeral-storage")  # what a container without a limit may use: all there is


class FieldError(ValueError):
    """A reference to a field or an amount that does not exist; the words are kubelet's."""


def field_value(pod: Obj, path: str, ips: Sequence[str] = (), hosts: Sequence[str] = ()) -> str:
    """The value of `path`; `ips` are the pod's addresses and `hosts` the node's, known before the pod's status."""
    if found := _keyed(path):
        held = labels_of(pod) if found[1] == "labels" else annotations_of(pod)
        return held.get(found[2], "")
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(meta.get(path.partition(".")[2], ""))
        case "metadata.labels":
            return _listed(labels_of(pod))
        case "metadata.annotations":
            return _listed(annotations_of(pod))
        case "spec.nodeName":
            return str(spec.get("nodeName", ""))
        case "spec.serviceAccountName":
            return str(spec.get("serviceAccountName", ""))
        case "status.hostIP":
            return hosts[0] if hosts else str(status.get("hostIP", ""))
        case "status.hostIPs":
            return ",".join(hosts or [one["ip"] for one in status.get("hostIPs") or ()])
        case "status.podIP":
            return ips[0] if ips else str(status.get("podIP", ""))
        case "status.podIPs":
            return ",".join(ips or [one["ip"] for one in status.get("podIPs") or ()])
    raise FieldError(f"unsupported fieldPath: {path}")


def _listed(held: Mapping[str, str]) -> str:
    """`key="value"` line by line, quoted as Go does."""
    return "\n".join(f"{key}={_quoted(held[key])}" for key in sorted(held))


_ESCAPES: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c) or _char(c) for c in text) + '"'


def _char(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# amounts


def resource_value(container: Obj, ref: Obj, allocatable: Mapping[str, str]) -> str:
    """An amount of `container` in units of the divisor, rounded up. Without a limit, what the node can give."""
    which, _, name = str(ref.get("resource", "")).partition(".")
    if which not in ("limits", "requests") or not name:
        raise FieldError(f"unsupported container resource : {ref.get('resource')}")
    held = ((container.get("resources") or {}).get(which)) or {}
    amount = parse(str(held[name])) if name in held else None
    if not amount and which == "limits" and name in _NODE_GIVES and name in allocatable:
        amount = parse(str(allocatable[name]))
    divisor = parse(str(ref.get("divisor") or "1"))
    return str(_divided(amount, divisor or parse("1"), milli=name == "cpu")) if amount else "0"


def _divided(amount: Quantity, divisor: Quantity, *, milli: bool) -> int:
    if milli:
        return -(-amount.milli_value() // divisor.milli_value())
    return -(-amount.value() // divisor.value())


def container_of(pod: Obj, name: str) -> Obj:
    """The container that a reference names. Raises FieldError."""
    spec = pod.get("spec") or {}
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            if container["name"] == name:
                return dict(container)
    raise FieldError(f"container {name} not found")
