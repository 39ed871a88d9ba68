"""ConfigMaps, Secrets, Nodes, Events: what may be in them, and what never changes once written.

Source: k8s.io/kubernetes, pkg/apis/core/validation/validation.go and events.go.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    immutable,
    quantity,
    resource_name,
)
from havre.api.validation.pods import tolerations
from havre.kit import names
from havre.kit.field import FieldError, Problem, Structure, forbidden, invalid, required, too_long

SIZE_MAX: Final = 1 << 20  # 1 MiB of values
_FROZEN: Final = "field is immutable when `immutable` is set"
_REQUIRED_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_JSON_TYPES: Final = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")
_ACCOUNT: Final = "kubernetes.io/service-account.name"


def config_map(obj: Obj) -> Errors:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    size = 0
    for key, text in data.items():
        yield from checked(f"data[{key}]", key, names.config_map_key)
        if key in binary:
            yield invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        size += len(text.encode())
    for key, text in binary.items():
        yield from checked(f"binaryData[{key}]", key, names.config_map_key)
        size += _decoded_size(text)
    if size > SIZE_MAX:
        yield too_long("[]", SIZE_MAX)


def _decoded_size(text: str | None) -> int:
    """Bytes that base64 text stands for."""
    text = text or ""
    return len(text) // 4 * 3 - (text.endswith("=") + text.endswith("=="))


def config_map_update(new: Obj, old: Obj) -> Errors:
    if old.get("immutable"):
        yield from _frozen(new, old, "data", "binaryData")
    yield from config_map(new)


def _frozen(new: Obj, old: Obj, *fields: str) -> Errors:
    if not new.get("immutable"):
        yield forbidden("immutable", _FROZEN)
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield forbidden(field, _FROZEN)


def secret(obj: Obj) -> Errors:
    data, kind = obj.get("data") or {}, obj.get("type") or ""
    size = 0
    for key, text in data.items():
        yield from checked(f"data[{key}]", key, names.config_map_key)
        size += _decoded_size(text)
    if size > SIZE_MAX:
        yield too_long("data", SIZE_MAX)
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in data:
            yield required(f"data[{key}]")
        elif kind in _JSON_TYPES:
            yield from _json(f"data[{key}]", data[key] or "")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        yield required("data[username]")
        yield required("data[password]")
    account = (obj["metadata"].get("annotations") or {}).get(_ACCOUNT)
    if kind == "kubernetes.io/service-account-token" and not account:
        yield required(f"metadata.annotations[{_ACCOUNT}]")


def _json(path: str, text: str) -> Errors:
    try:
        content = base64.b64decode(text, validate=True)
        json.loads(content)
    except (ValueError, binascii.Error, RecursionError):
        first = base64.b64decode(text + "==").decode(errors="replace").lstrip()[:1]
        words = (
            f"invalid character '{first}' looking for beginning of value" if first else "unexpected end of JSON input"
        )
        yield invalid(path, "<secret contents redacted>", words)


def secret_update(new: Obj, old: Obj) -> Errors:
    yield from immutable("type", new.get("type"), old.get("type"))
    if old.get("immutable"):
        yield from _frozen(new, old, "data")
    yield from secret(new)


_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def node(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    seen: set[tuple[Any, Any]] = set()
    for i, taint in enumerate(spec.get("taints") or ()):
        path = f"metadata.taints[{i}]"  # where upstream puts it
        yield from checked(f"{path}.key", taint.get("key") or "", names.qualified_name)
        yield from checked(f"{path}.value", taint.get("value") or "", names.label_value)
        if not taint.get("effect"):
            yield required(f"{path}.effect")
        else:
            yield from choice(f"{path}.effect", taint["effect"], _EFFECTS)
        key = (taint.get("key"), taint.get("effect"))
        if key in seen:
            shown = {
                "Key": taint.get("key"),
                "Value": taint.get("value") or "",
                "Effect": taint.get("effect"),
                "TimeAdded": taint.get("timeAdded"),
            }
            words = "taints must be unique by key and effect pair"
            yield FieldError(Problem.DUPLICATE, path, Structure(shown), words)
        seen.add(key)
    yield from _node_resources(obj)
    for i, cidr in enumerate(spec.get("podCIDRs") or ()):
        yield from checked(f"spec.podCIDRs[{i}]", cidr, names.cidr)


def _node_resources(obj: Obj) -> Errors:
    status = obj.get("status") or {}
    for field in ("capacity", "allocatable"):
        for name, value in (status.get(field) or {}).items():
            yield from resource_name(f"status.{field}[{name}]", name)
            yield from quantity(f"status.{field}[{name}]", value)


def node_update(new: Obj, old: Obj) -> Errors:
    yield from node(new)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    known = before.get("podCIDRs") or []
    if known and (spec.get("podCIDRs") or []) != known:
        yield forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
    provider = before.get("providerID")
    if provider and spec.get("providerID") != provider:
        yield forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')


_NO_MATCH: Final = "does not match event.namespace"
_EVENT_TEXT_MAX: Final = 128
_NOTE_MAX: Final = 1024


def event(obj: Obj) -> Errors:
    """Events of the core view: old clients say little, those that set `eventTime` have to say who did what."""
    yield from _event(obj, obj.get("involvedObject") or {}, "reportingComponent", obj.get("message") or "")


def new_event(obj: Obj) -> Errors:
    """Events of `events.k8s.io`: fields of the old view are gone for good."""
    yield from _event(obj, obj.get("regarding") or {}, "reportingController", obj.get("note") or "")
    if not obj.get("eventTime"):
        yield required("eventTime")
    if (kind := obj.get("type") or "") not in ("Normal", "Warning"):
        yield invalid("type", "", f"has invalid value: {kind}")
    unset = (("firstTimestamp", "deprecatedFirstTimestamp"), ("lastTimestamp", "deprecatedLastTimestamp"))
    for field, name in (*unset, ("count", "deprecatedCount"), ("source", "deprecatedSource")):
        if obj.get(name):
            yield invalid(field, "", "needs to be unset")


def _event(obj: Obj, about: Obj, controller: str, message: str) -> Errors:
    theirs, ours = about.get("namespace") or "", obj["metadata"].get("namespace") or ""
    if not obj.get("eventTime"):
        if theirs != ours and not (not theirs and ours == "default"):
            yield invalid("involvedObject.namespace", theirs, _NO_MATCH)
        return
    if not theirs and ours not in ("default", "kube-system"):
        yield invalid("involvedObject.namespace", theirs, _NO_MATCH)
    reporter = obj.get(controller) or ""
    if not reporter:
        yield required(controller)
    yield from checked(controller, reporter, names.qualified_name)
    for field in ("reportingInstance", "action", "reason"):
        value = obj.get(field) or ""
        if not value:
            yield required(field)
        if len(value.encode()) > _EVENT_TEXT_MAX:
            yield invalid(field, "", f"can have at most {_EVENT_TEXT_MAX} characters")
    if len(message.encode()) > _NOTE_MAX:
        yield invalid("message", "", f"can have at most {_NOTE_MAX} characters")


def runtime_class(obj: Obj) -> Errors:
    yield from checked("handler", obj.get("handler") or "", names.dns1123_label)
    fixed = (obj.get("overhead") or {}).get("podFixed") or {}
    for name, value in fixed.items():
        yield from resource_name(f"overhead.limits[{name}]", name)
        yield from quantity(f"overhead.limits[{name}]", value)
    scheduling = obj.get("scheduling") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        yield from checked("scheduling.nodeSelector", key, names.qualified_name)
        yield from checked("scheduling.nodeSelector", value, names.label_value)
    yield from tolerations("scheduling.tolerations", scheduling.get("tolerations") or [])


def namespace_finalizers(new: Obj, old: Obj) -> Errors:
    for i, name in enumerate((new.get("spec") or {}).get("finalizers") or ()):
        bad = list(checked(f"spec.finalizers[{i}]", name, names.qualified_name))
        yield from bad
        if not bad and "/" not in name and name != "kubernetes":
            words = "name is neither a standard finalizer name nor is it fully qualified"
            yield invalid(f"spec.finalizers[{i}]", name, words)


def namespace_status(new: Obj, old: Obj) -> Errors:
    phase = (new.get("status") or {}).get("phase")
    marked = bool(new["metadata"].get("deletionTimestamp"))
    if marked and phase != "Terminating":
        yield invalid("status.Phase", phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
    if not marked and phase != "Active":
        yield invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty")
