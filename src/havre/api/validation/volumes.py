"""Volumes of pods.

Source: k8s.io/kubernetes, pkg/apis/core/validation/validation.go (ValidateVolumes and what it calls).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.validation.checks import Errors, choice, optional_name, quantity, required_name
from havre.kit import names
from havre.kit.field import duplicate, forbidden, invalid, not_supported, required

MODE_ERROR: Final = "must be a number between 0 and 0777 (octal), both inclusive"
HOST_PATH_TYPES: Final = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
TOKEN_SECONDS_MIN: Final = 600
TOKEN_SECONDS_MAX: Final = 1 << 32
DOWNWARD_FIELDS: Final = frozenset(
    {"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}
)
DOWNWARD_RESOURCES: Final = tuple(
    f"{side}.{name}" for side in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
# the order in which upstream looks at the sources of a volume, which decides which one is the second
_ORDER: Final = (
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
)


def volumes(path: str, items: list[Obj]) -> Errors:
    seen: set[str] = set()
    for i, volume in enumerate(items):
        here = f"{path}[{i}]"
        name = volume.get("name") or ""
        yield from _source(here, volume)
        bad = names.dns1123_label(name) if name else []
        if not name:
            yield required(f"{here}.name")
        for message in bad:
            yield invalid(f"{here}.name", name, message)
        if name and not bad:
            if name in seen:
                yield duplicate(f"{here}.name", name)
            seen.add(name)


def _source(path: str, volume: Obj) -> Errors:
    found = [source for source in _ORDER if volume.get(source) is not None]
    if not found:
        yield required(path, "must specify a volume type")
    for source in found[:1]:
        if check := _CHECKS.get(source):
            yield from check(f"{path}.{source}", volume[source])
    for source in found[1:]:
        yield forbidden(f"{path}.{source}", "may not specify more than 1 volume type")


def _mode(path: str, value: Any) -> Errors:
    if value is not None and not 0 <= value <= 0o777:
        yield invalid(path, value, MODE_ERROR)


def local_path(path: str, value: str) -> Errors:
    """A path below a directory that cannot lead out of it."""
    if value.startswith("/"):
        yield invalid(path, value, "must be a relative path")
    yield from no_backsteps(path, value)


def no_backsteps(path: str, value: str) -> Errors:
    if ".." in value.split("/"):
        yield invalid(path, value, "must not contain '..'")


def _local_file(path: str, value: str) -> Errors:
    yield from local_path(path, value)
    if value.startswith("..") and not value.startswith("../") and value != "..":
        yield invalid(path, value, "must not start with '..'")


def _items(path: str, items: list[Obj] | None) -> Errors:
    for i, item in enumerate(items or ()):
        here = f"{path}.items[{i}]"
        if not item.get("key"):
            yield required(f"{here}.key")
        if not item.get("path"):
            yield required(f"{here}.path")
        yield from _local_file(f"{here}.path", item.get("path") or "")
        yield from _mode(f"{here}.mode", item.get("mode"))


def _config_map(path: str, source: Obj) -> Errors:
    if not source.get("name"):
        yield required(f"{path}.name")
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    yield from _items(path, source.get("items"))


def _secret(path: str, source: Obj) -> Errors:
    if not source.get("secretName"):
        yield required(f"{path}.secretName")
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    yield from _items(path, source.get("items"))


def _empty_dir(path: str, source: Obj) -> Errors:
    if source.get("sizeLimit") is not None:
        yield from quantity(f"{path}.sizeLimit", source["sizeLimit"])


def host_path(path: str, source: Obj) -> Errors:
    value = source.get("path") or ""
    if not value:
        yield required(f"{path}.path")
        return
    yield from no_backsteps(f"{path}.path", value)
    if source.get("type") is not None:
        yield from choice(f"{path}.type", source["type"], HOST_PATH_TYPES)


def _claim(path: str, source: Obj) -> Errors:
    if not source.get("claimName"):
        yield required(f"{path}.claimName")


def nfs(path: str, source: Obj) -> Errors:
    for field in ("server", "path"):
        if not source.get(field):
            yield required(f"{path}.{field}")
    value = source.get("path") or ""
    if not value.startswith("/"):
        yield invalid(f"{path}.path", value, "must be an absolute path")


def _downward(path: str, source: Obj) -> Errors:
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    yield from _downward_files(path, source.get("items"))


def _downward_files(path: str, items: list[Obj] | None) -> Errors:
    for item in items or ():
        if not item.get("path"):
            yield required(f"{path}.path")
        yield from _local_file(f"{path}.path", item.get("path") or "")
        ref, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if ref is not None:
            yield from field_ref(f"{path}.fieldRef", ref, DOWNWARD_FIELDS)
            if resource is not None:
                yield invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif resource is not None:
            yield from resource_ref(f"{path}.resourceFieldRef", resource, volume=True)
        else:
            yield required(path, "one of fieldRef and resourceFieldRef is required")
        yield from _mode(f"{path}.mode", item.get("mode"))


_POD_FIELDS: Final = DOWNWARD_FIELDS | {
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
}


def field_ref(path: str, ref: Obj, allowed: frozenset[str]) -> Errors:
    """A field of the pod, as environment variables and downward files refer to it."""
    field = ref.get("fieldPath") or ""
    if not ref.get("apiVersion"):
        yield required(f"{path}.apiVersion")
        return
    if not field:
        yield required(f"{path}.fieldPath")
        return
    if field.endswith("']") and field.startswith(("metadata.labels['", "metadata.annotations['")):
        key = field[field.index("'") + 1 : -2]
        lower = key if field.startswith("metadata.labels") else key.lower()
        for message in names.qualified_name(lower):
            yield invalid(path, key, message)
        return
    if field not in _POD_FIELDS:
        yield invalid(f"{path}.fieldPath", field, f"error converting fieldPath: field label not supported: {field}")
    elif field not in allowed:
        yield not_supported(f"{path}.fieldPath", field, allowed)


def resource_ref(path: str, ref: Obj, *, volume: bool) -> Errors:
    """An amount of a container: `limits.cpu`."""
    resource = ref.get("resource") or ""
    if volume and not ref.get("containerName"):
        yield required(f"{path}.containerName")
    elif not resource:
        yield required(f"{path}.resource")
    elif resource.startswith(("requests.hugepages-", "limits.hugepages-")):
        return
    else:
        yield from choice(f"{path}.resource", resource, DOWNWARD_RESOURCES)


def _projected(path: str, source: Obj) -> Errors:
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    for i, item in enumerate(source.get("sources") or ()):
        here = f"{path}.sources[{i}]"
        if (config := item.get("configMap")) is not None:
            yield from _named(f"{here}.configMap", config)
        if (secret := item.get("secret")) is not None:
            yield from _named(f"{here}.secret", secret)
        if (downward := item.get("downwardAPI")) is not None:
            yield from _downward_files(f"{here}.downwardAPI", downward.get("items"))
        if (token := item.get("serviceAccountToken")) is not None:
            yield from _token(f"{here}.serviceAccountToken", token)
        present = [name for name in item if item[name] is not None]
        if len(present) > 1:
            yield forbidden(here, "may not specify more than 1 volume type")


def _named(path: str, source: Obj) -> Errors:
    if not source.get("name"):
        yield required(f"{path}.name")
    yield from _items(path, source.get("items"))


def _token(path: str, source: Obj) -> Errors:
    seconds = source.get("expirationSeconds")
    if seconds is not None and seconds < TOKEN_SECONDS_MIN:
        yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    if seconds is not None and seconds > TOKEN_SECONDS_MAX:
        yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    if not source.get("path"):
        yield required(f"{path}.path")
    else:
        yield from local_path(f"{path}.path", source["path"])


def _csi(path: str, source: Obj) -> Errors:
    yield from required_name(f"{path}.driver", source.get("driver"), names.dns1123_subdomain)


def _ephemeral(path: str, source: Obj) -> Errors:
    if source.get("volumeClaimTemplate") is None:
        yield required(f"{path}.volumeClaimTemplate")


def _iscsi(path: str, source: Obj) -> Errors:
    for field in ("targetPortal", "iqn"):
        if not source.get(field):
            yield required(f"{path}.{field}")


def _git(path: str, source: Obj) -> Errors:
    if not source.get("repository"):
        yield required(f"{path}.repository")
    yield from optional_name(f"{path}.directory", None, names.dns1123_label)


_CHECKS: Final[Mapping[str, Callable[[str, Obj], Errors]]] = {
    "configMap": _config_map,
    "csi": _csi,
    "downwardAPI": _downward,
    "emptyDir": _empty_dir,
    "ephemeral": _ephemeral,
    "gitRepo": _git,
    "hostPath": host_path,
    "iscsi": _iscsi,
    "nfs": nfs,
    "persistentVolumeClaim": _claim,
    "projected": _projected,
    "secret": _secret,
}
