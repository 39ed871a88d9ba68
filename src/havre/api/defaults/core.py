"""Defaults of the core group: pods and what they are made of, services, volumes, claims, secrets.

Each function sets the defaults of one Go type; which fields count as unset follows Go: 0, "" and null.

Source: k8s.io/kubernetes, pkg/apis/core/v1/defaults.go; the `+default` marks of k8s.io/api core/v1 types.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from havre.api.defaults.amounts import largest, total
from havre.api.meta import Obj

GRACE_SECONDS: Final = 30
AFFINITY_SECONDS: Final = 3 * 60 * 60  # how long a client stays with a backend
READ_ALL_MODE: Final = 0o644
TOKEN_SECONDS: Final = 60 * 60
NAME_LABEL: Final = "kubernetes.io/metadata.name"
_POD_LEVEL: Final = ("cpu", "memory")


def unset(obj: Obj, **defaults: Any) -> None:
    """Give each named field that is absent, null, "" or 0 its default."""
    for field, value in defaults.items():
        if not obj.get(field):
            obj[field] = value


def absent(obj: Obj, **defaults: Any) -> None:
    """Give each named field that is absent or null its default; 0, false and "" stay."""
    for field, value in defaults.items():
        if obj.get(field) is None:
            obj[field] = value


_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[a-zA-Z0-9.-]+|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_IMAGE: Final = re.compile(
    rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::(?P<tag>\w[\w.-]{{0,127}}))?(?P<digest>@[\w+.-]+:[0-9a-fA-F]{{32,}})?"
).fullmatch


@lru_cache(maxsize=1024)
def pull_policy(image: str) -> str:
    """Always for `latest`, said or not; a name that cannot be parsed has no tag."""
    match = _IMAGE(image)
    if match is None:
        return "IfNotPresent"
    tag = match["tag"] or ("" if match["digest"] else "latest")
    return "Always" if tag == "latest" else "IfNotPresent"


def container(obj: Obj) -> None:
    if not obj.get("imagePullPolicy"):
        obj["imagePullPolicy"] = pull_policy(obj.get("image") or "")
    unset(obj, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File")


def pod(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    for field in ("containers", "initContainers"):
        for item in spec.get(field) or ():
            resources = item.get("resources")
            if resources and resources.get("limits") is not None:
                resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
            if spec.get("hostNetwork"):
                for port in item.get("ports") or ():
                    unset(port, hostPort=port.get("containerPort", 0))
    if spec.get("resources"):
        _pod_resources(spec)
    absent(spec, enableServiceLinks=True)


def _pod_resources(spec: Obj) -> None:
    """Requests of the whole pod: what its containers ask for, else its limits; huge pages the other way round."""
    resources = spec["resources"]
    limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
    if limits or requests:
        for name, amount in _sum(spec, "limits").items():
            if name.startswith("hugepages-") and name not in requests:
                limits.setdefault(name, amount)
    if limits:
        resources["limits"] = limits
        for name, amount in _sum(spec, "requests").items():
            if name in _POD_LEVEL:
                requests.setdefault(name, amount)
        for name, amount in limits.items():
            if name in _POD_LEVEL or name.startswith("hugepages-"):
                requests.setdefault(name, amount)
        if requests:
            resources["requests"] = requests


def _sum(spec: Obj, which: str) -> dict[str, str]:
    """What all containers need at once: the running ones together, or the largest one of the start."""
    inits = spec.get("initContainers") or ()
    sidecars = [item for item in inits if item.get("restartPolicy") == "Always"]
    running = total(_lists([*(spec.get("containers") or ()), *sidecars], which))
    starting: list[Mapping[str, str]] = []
    started: list[Obj] = []
    for item in inits:
        if item.get("restartPolicy") == "Always":
            started.append(item)
            starting.append(total(_lists(started, which)))
        else:
            starting.append(total(_lists([*started, item], which)))
    return largest([running, *starting])


def _lists(containers: Iterable[Obj], which: str) -> list[Mapping[str, str]]:
    return [(item.get("resources") or {}).get(which) or {} for item in containers]


def pod_spec(obj: Obj) -> None:
    unset(obj, dnsPolicy="ClusterFirst", restartPolicy="Always", schedulerName="default-scheduler")
    absent(obj, terminationGracePeriodSeconds=GRACE_SECONDS)
    if obj.get("securityContext") is None:
        obj["securityContext"] = {}
    if account := obj.get("serviceAccountName"):
        obj["serviceAccount"] = account
    elif account := obj.get("serviceAccount"):
        obj["serviceAccountName"] = account

    _drop_disabled(obj)


def _drop_disabled(spec: Obj) -> None:
    """Fields behind feature gates that are off in v1.34 are ignored: image volumes, restart rules of containers."""
    if any(item.get("image") is not None for item in spec.get("volumes") or ()):
        _drop_image_volumes(spec)
    for item in spec.get("containers") or ():
        item.pop("restartPolicy", None)
        item.pop("restartPolicyRules", None)
    for item in spec.get("initContainers") or ():
        item.pop("restartPolicyRules", None)
        if item.get("restartPolicy") != "Always":
            item.pop("restartPolicy", None)


def _drop_image_volumes(spec: Obj) -> None:
    """Images as volumes go with the mounts of them."""
    dropped = {item.get("name") for item in spec["volumes"] if item.get("image") is not None}
    spec["volumes"] = [item for item in spec["volumes"] if item.get("image") is None]
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for item in spec.get(field) or ():
            if mounts := item.get("volumeMounts"):
                item["volumeMounts"] = [mount for mount in mounts if mount.get("name") not in dropped]


def container_port(obj: Obj) -> None:
    unset(obj, protocol="TCP")


def probe(obj: Obj) -> None:
    unset(obj, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)


def http_get(obj: Obj) -> None:
    unset(obj, path="/", scheme="HTTP")


def grpc(obj: Obj) -> None:
    absent(obj, service="")


def object_field(obj: Obj) -> None:
    unset(obj, apiVersion="v1")


def volume(obj: Obj) -> None:
    if all(value is None for key, value in obj.items() if key != "name"):
        obj["emptyDir"] = {}


def file_mode(obj: Obj) -> None:
    absent(obj, defaultMode=READ_ALL_MODE)


def token_projection(obj: Obj) -> None:
    absent(obj, expirationSeconds=TOKEN_SECONDS)


def host_path(obj: Obj) -> None:
    absent(obj, type="")


def iscsi(obj: Obj) -> None:
    unset(obj, iscsiInterface="default")


def rbd(obj: Obj) -> None:
    unset(obj, pool="rbd", user="admin", keyring="/etc/ceph/keyring")


def scale_io(obj: Obj) -> None:
    unset(obj, storageMode="ThinProvisioned", fsType="xfs")


def azure_disk(obj: Obj) -> None:
    absent(obj, cachingMode="ReadWrite", fsType="ext4", readOnly=False, kind="Shared")


def replication_controller(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    absent(spec, replicas=1)
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        unset(spec, selector=dict(labels))
        metadata = obj["metadata"] = obj.get("metadata") or {}
        unset(metadata, labels=dict(labels))


def service(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    unset(spec, sessionAffinity="None", type="ClusterIP")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        if client.get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}
    for port in spec.get("ports") or ():
        unset(port, protocol="TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    kind = spec["type"]
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        unset(spec, externalTrafficPolicy="Cluster")
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        absent(spec, internalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        absent(spec, allocateLoadBalancerNodePorts=True)
        for ingress in ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
            if ingress.get("ip"):
                absent(ingress, ipMode="VIP")


def secret(obj: Obj) -> None:
    unset(obj, type="Opaque")


def persistent_volume(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    status = obj["status"] = obj.get("status") or {}
    unset(status, phase="Pending")
    unset(spec, persistentVolumeReclaimPolicy="Retain")
    absent(spec, volumeMode="Filesystem")


def claim(obj: Obj) -> None:
    status = obj["status"] = obj.get("status") or {}
    unset(status, phase="Pending")


def claim_spec(obj: Obj) -> None:
    absent(obj, volumeMode="Filesystem")


def endpoints(obj: Obj) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            unset(port, protocol="TCP")


def namespace(obj: Obj) -> None:
    metadata = obj["metadata"] = obj.get("metadata") or {}
    status = obj["status"] = obj.get("status") or {}
    unset(status, phase="Active")
    if name := metadata.get("name"):
        metadata["labels"] = {**(metadata.get("labels") or {}), NAME_LABEL: name}


def node_status(obj: Obj) -> None:
    if obj.get("allocatable") is None and obj.get("capacity") is not None:
        obj["allocatable"] = dict(obj["capacity"])


def limit_range_item(obj: Obj) -> None:
    if obj.get("type") != "Container":
        return
    default = {**(obj.get("max") or {}), **(obj.get("default") or {})}
    requested = {**(obj.get("min") or {}), **default, **(obj.get("defaultRequest") or {})}
    for field, amounts in (("default", default), ("defaultRequest", requested)):
        if amounts:
            obj[field] = amounts


HOOKS: Final = {
    "core.v1.AzureDiskVolumeSource": azure_disk,
    "core.v1.ConfigMapVolumeSource": file_mode,
    "core.v1.Container": container,
    "core.v1.ContainerPort": container_port,
    "core.v1.DownwardAPIVolumeSource": file_mode,
    "core.v1.Endpoints": endpoints,
    "core.v1.EphemeralContainer": container,
    "core.v1.GRPCAction": grpc,
    "core.v1.HTTPGetAction": http_get,
    "core.v1.HostPathVolumeSource": host_path,
    "core.v1.ISCSIPersistentVolumeSource": iscsi,
    "core.v1.ISCSIVolumeSource": iscsi,
    "core.v1.LimitRangeItem": limit_range_item,
    "core.v1.Namespace": namespace,
    "core.v1.NodeStatus": node_status,
    "core.v1.ObjectFieldSelector": object_field,
    "core.v1.PersistentVolume": persistent_volume,
    "core.v1.PersistentVolumeClaim": claim,
    "core.v1.PersistentVolumeClaimSpec": claim_spec,
    "core.v1.Pod": pod,
    "core.v1.PodSpec": pod_spec,
    "core.v1.Probe": probe,
    "core.v1.ProjectedVolumeSource": file_mode,
    "core.v1.RBDPersistentVolumeSource": rbd,
    "core.v1.RBDVolumeSource": rbd,
    "core.v1.ReplicationController": replication_controller,
    "core.v1.ScaleIOPersistentVolumeSource": scale_io,
    "core.v1.ScaleIOVolumeSource": scale_io,
    "core.v1.Secret": secret,
    "core.v1.SecretVolumeSource": file_mode,
    "core.v1.Service": service,
    "core.v1.ServiceAccountTokenProjection": token_projection,
    "core.v1.Volume": volume,
}
