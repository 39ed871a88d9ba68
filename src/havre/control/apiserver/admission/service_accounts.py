"""ServiceAccount: every pod runs as a service account that exists, and finds its token in a well-known place.

Source: k8s.io/kubernetes plugin/pkg/admission/serviceaccount.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from havre.api.errors import Forbidden
from havre.api.meta import Obj, annotations_of, name_of
from havre.control.apiserver.admission.refusal import forbidden, name_in
from havre.machinery.admission import AdmissionRequest, Lister, Operation

DEFAULT = "default"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME = "kube-api-access-"
MIRROR = "kubernetes.io/config.mirror"
ENFORCE_SECRETS = "kubernetes.io/enforce-mountable-secrets"
TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})

# The controller makes the account `default` soon after its namespace: wait for it, up to a second in all.
TRIES = 10
PAUSE = 0.1

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # of generated names, as upstream: no vowels, no look-alikes


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    concerns: ClassVar = frozenset({("", "pods")})
    lister: Lister
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def admit(self, req: AdmissionRequest) -> None:
        pod = _new_pod(req)
        if pod is None:
            return
        if MIRROR in annotations_of(pod):
            _check_mirror(req, pod)
            return
        spec = pod["spec"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._account(req, name)
        if _automounts(account, spec):
            _mount_token(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [{"name": ref["name"]} for ref in account["imagePullSecrets"]]

    async def validate(self, req: AdmissionRequest) -> None:
        pod = _new_pod(req)
        if pod is None:
            return
        if MIRROR in annotations_of(pod):
            _check_mirror(req, pod)
            return
        name = pod["spec"].get("serviceAccountName")
        if not name:
            raise forbidden(req, f"no service account specified for pod {req.attributes.namespace}/{name_in(req)}")
        account = await self._account(req, name)
        if annotations_of(account).get(ENFORCE_SECRETS) in TRUE:
            _check_secrets(req, pod["spec"], account)

    async def _account(self, req: AdmissionRequest, name: str) -> Obj:
        namespace = req.attributes.namespace
        for attempt in range(TRIES if name == DEFAULT else 1):
            if attempt:
                await self.sleep(PAUSE)
            account = self.lister.get("", "serviceaccounts", namespace, name)
            if account is not None:
                return account
        raise forbidden(req, f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found')


def _new_pod(req: AdmissionRequest) -> Obj | None:
    return req.obj if req.targets("", "pods") and req.operation == Operation.CREATE else None


def _automounts(account: Obj, spec: Obj) -> bool:
    """The pod's wish wins over the account's; without one the token is mounted."""
    for wish in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if wish is not None:
            return bool(wish)
    return True


def _mount_token(spec: Obj) -> None:
    volumes = spec.get("volumes") or []
    existing = next((v["name"] for v in volumes if v["name"].startswith(VOLUME)), None)
    name = existing or VOLUME + "".join(secrets.choice(_ALPHABET) for _ in range(5))
    mount = {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}
    mounted = False
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        mounts = container.get("volumeMounts") or []
        if not any(m.get("mountPath") == MOUNT_PATH for m in mounts):
            container["volumeMounts"] = [*mounts, dict(mount)]
            mounted = True
    if mounted and existing is None:
        spec["volumes"] = [*volumes, {"name": name, "projected": _token_volume()}]


def _token_volume() -> Obj:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 420,
    }


def _check_mirror(req: AdmissionRequest, pod: Obj) -> None:
    """A mirror shows what a kubelet runs by itself: it has no rights in the API."""
    spec = pod["spec"]
    if spec.get("serviceAccountName"):
        raise forbidden(req, "a mirror pod may not reference service accounts")
    if any(True for _ in _secrets(spec)):
        raise forbidden(req, "a mirror pod may not reference secrets")
    for volume in spec.get("volumes") or ():
        if any("serviceAccountToken" in source for source in (volume.get("projected") or {}).get("sources") or ()):
            raise forbidden(req, "a mirror pod may not use ServiceAccountToken volume projections")


def _secrets(spec: Obj) -> Iterator[str]:
    """Every secret that a pod names: to pull images, in environments, in volumes."""
    yield from environment_references(spec, "secret")
    for volume in spec.get("volumes") or ():
        yield from _volume_secrets(volume)


def environment_references(spec: Obj, kind: Literal["secret", "configMap"]) -> Iterator[str]:
    """The secrets or config maps that a pod's containers read as environment, and the secrets its pulls need."""
    if kind == "secret":
        yield from (ref["name"] for ref in spec.get("imagePullSecrets") or ())
    for containers in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(containers) or ():
            yield from (name for _, name in _environment(container, kind))


def _environment(container: Obj, kind: str) -> Iterator[tuple[str, str]]:
    """(how it is named in a message, object)"""
    for variable in container.get("env") or ():
        ref = (variable.get("valueFrom") or {}).get(f"{kind}KeyRef")
        if ref:
            yield f"envVar {variable['name']}", ref.get("name", "")
    for source in container.get("envFrom") or ():
        if source.get(f"{kind}Ref"):
            yield "envFrom", source[f"{kind}Ref"].get("name", "")


_SECRET_REF_VOLUMES = ("cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos")


def _volume_secrets(volume: Obj) -> Iterator[str]:
    if "secret" in volume:
        yield volume["secret"].get("secretName", "")
    if "azureFile" in volume:
        yield volume["azureFile"].get("secretName", "")
    for kind in _SECRET_REF_VOLUMES:
        if ref := (volume.get(kind) or {}).get("secretRef"):
            yield ref.get("name", "")
    if ref := (volume.get("csi") or {}).get("nodePublishSecretRef"):
        yield ref.get("name", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "secret" in source:
            yield source["secret"].get("name", "")


def _check_secrets(req: AdmissionRequest, spec: Obj, account: Obj) -> None:
    """Only secrets that the account lists, where its annotation asks for that."""
    name = name_of(account)
    allowed = {ref["name"] for ref in account.get("secrets") or ()}
    for volume in spec.get("volumes") or ():
        secret = (volume.get("secret") or {}).get("secretName")
        if secret is not None and secret not in allowed:
            raise _not_mountable(req, f'volume with secret.secretName="{secret}"', name)
    for kind, words in (("initContainers", "init container"), ("containers", "container")):
        for container in spec.get(kind) or ():
            for where, secret in _environment(container, "secret"):
                if secret not in allowed:
                    what = f'{words} {container["name"]} with {where} referencing secret.secretName="{secret}"'
                    raise _not_mountable(req, what, name)
    pulls = {ref["name"] for ref in account.get("imagePullSecrets") or ()}
    for index, ref in enumerate(spec.get("imagePullSecrets") or ()):
        if ref["name"] not in pulls:
            raise forbidden(
                req,
                f'imagePullSecrets[{index}].name="{ref["name"]}" is not allowed because service account {name} '
                "does not reference that imagePullSecret",
            )


def _not_mountable(req: AdmissionRequest, what: str, account: str) -> Forbidden:
    return forbidden(req, f"{what} is not allowed because service account {account} does not reference that secret")
