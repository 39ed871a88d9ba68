"""The official Python client, whose requests differ from those of Go clients, against a whole control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from havre.control.apiserver.control_plane import Config
from havre.control.run import control

kubernetes: Any = pytest.importorskip("kubernetes", reason="the Python package kubernetes is not installed")

GARDEN = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gardens.example.havre.dev"},
    "spec": {
        "group": "example.havre.dev",
        "scope": "Namespaced",
        "names": {"plural": "gardens", "singular": "garden", "kind": "Garden"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[Path]:
    async with control(Config(tmp_path, port=0)):
        yield tmp_path / "admin.kubeconfig"


async def in_thread(kubeconfig: Path, work: Callable[[Any], Any]) -> Any:
    """The client blocks; the server lives in this loop."""

    def run() -> Any:
        with kubernetes.config.new_client_from_config(str(kubeconfig)) as api:
            return work(api)

    return await asyncio.to_thread(run)


async def test_typed_client_creates_patches_lists_watches_and_deletes(kubeconfig: Path) -> None:
    def work(api: Any) -> tuple[str, list[str], list[tuple[str, str]]]:
        core = kubernetes.client.CoreV1Api(api)
        body = kubernetes.client.V1ConfigMap(metadata={"name": "a", "labels": {"x": "1"}}, data={"k": "v"})
        made = core.create_namespaced_config_map("kube-public", body)
        core.patch_namespaced_config_map("a", "kube-public", {"data": {"k": "w"}})
        found = core.list_namespaced_config_map("kube-public", label_selector="x=1")
        core.delete_namespaced_config_map("a", "kube-public")
        watch = kubernetes.watch.Watch()
        events = watch.stream(
            core.list_namespaced_config_map,
            "kube-public",
            label_selector="x=1",
            resource_version=str(int(made.metadata.resource_version) - 1),
            timeout_seconds=1,
        )
        seen = [(event["type"], event["object"].data["k"]) for event in events]
        return made.metadata.uid, [item.data["k"] for item in found.items], seen

    uid, values, seen = await in_thread(kubeconfig, work)
    assert len(uid) == 36
    assert values == ["w"]
    assert seen == [("ADDED", "v"), ("MODIFIED", "w"), ("DELETED", "w")]


async def test_dynamic_client_works_on_a_custom_kind(kubeconfig: Path) -> None:
    def work(api: Any) -> tuple[str, str]:
        dynamic = kubernetes.dynamic.DynamicClient(api)
        definitions = dynamic.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
        definitions.create(body=GARDEN)
        for event in definitions.watch(name="gardens.example.havre.dev", timeout=20):
            found = event["raw_object"].get("status", {}).get("conditions") or ()  # null at first, as upstream
            conditions = {c["type"]: c["status"] for c in found}
            if conditions.get("Established") == "True":
                break
        gardens = dynamic.resources.get(api_version="example.havre.dev/v1", kind="Garden")
        body = {"apiVersion": "example.havre.dev/v1", "kind": "Garden", "metadata": {"name": "roof"}, "beds": 2}
        made = gardens.server_side_apply(body=body, namespace="default", field_manager="python")
        return made.metadata.managedFields[0].manager, str(gardens.get(name="roof", namespace="default").beds)

    assert await in_thread(kubeconfig, work) == ("python", "2")


async def test_refusals_carry_status_and_reason(kubeconfig: Path) -> None:
    def work(api: Any) -> tuple[int, str]:
        core = kubernetes.client.CoreV1Api(api)
        with pytest.raises(kubernetes.client.ApiException) as refused:
            core.create_namespaced_service_account("nowhere", {"metadata": {"name": "a"}})
        return refused.value.status, refused.value.body

    status, body = await in_thread(kubeconfig, work)
    assert status == 404
    assert 'namespaces \\"nowhere\\" not found' in body
