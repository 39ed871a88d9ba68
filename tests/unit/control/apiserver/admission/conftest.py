"""A cache of objects to read from, and requests to pass through the plugs."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from havre.api.meta import GVK, Obj
from havre.machinery.admission import AdmissionRequest, Attributes, Operation, User

BOB = User("bob", ("system:authenticated",))
KINDS = {
    "pods": "Pod",
    "namespaces": "Namespace",
    "nodes": "Node",
    "services": "Service",
    "configmaps": "ConfigMap",
    "persistentvolumeclaims": "PersistentVolumeClaim",
}


class Objects:
    """A Lister over objects that a test adds."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], dict[tuple[str, str], Obj]] = {}

    def add(self, resource: str, obj: Obj, group: str = "") -> None:
        metadata = obj["metadata"]
        self._all.setdefault((group, resource), {})[metadata.get("namespace", ""), metadata["name"]] = obj

    def get(self, group: str, resource: str, namespace: str, name: str) -> Obj | None:
        return self._all.get((group, resource), {}).get((namespace, name))

    def list(self, group: str, resource: str, namespace: str) -> list[Obj]:
        found = self._all.get((group, resource), {})
        return [obj for (home, _), obj in found.items() if namespace in ("", home)]


class Ask(Protocol):
    def __call__(
        self,
        operation: Operation,
        resource: str,
        obj: Obj | None = None,
        old: Obj | None = None,
        /,
        *,
        group: str = "",
        subresource: str = "",
        namespace: str = "default",
        name: str = "web",
        user: User = ...,
        dry_run: bool = False,
    ) -> AdmissionRequest: ...


@pytest.fixture
def objects() -> Objects:
    made = Objects()
    made.add("namespaces", {"metadata": {"name": "default"}, "status": {"phase": "Active"}})
    made.add("serviceaccounts", {"metadata": {"name": "default", "namespace": "default", "uid": "u1"}})
    return made


@pytest.fixture
def ask() -> Ask:
    def build(
        operation: Operation,
        resource: str,
        obj: Obj | None = None,
        old: Obj | None = None,
        /,
        *,
        group: str = "",
        subresource: str = "",
        namespace: str = "default",
        name: str = "web",
        user: User = BOB,
        dry_run: bool = False,
    ) -> AdmissionRequest:
        a = Attributes(user, operation.lower(), group, "v1", resource, subresource, namespace, name)
        gvk = GVK(group, "v1", KINDS.get(resource, "Thing"))
        return AdmissionRequest(a, operation, gvk, obj, old, dry_run=dry_run)

    return build


@pytest.fixture
def pod() -> Any:
    """Builds a pod: its spec, and more of its only container."""

    def build(spec: Obj | None = None, /, **container: Any) -> Obj:
        first = {"name": "c", "image": "i", **container}
        return {"metadata": {"name": "web"}, "spec": {"containers": [first], **(spec or {})}}

    return build
