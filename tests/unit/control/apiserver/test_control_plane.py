"""The whole API server: started, asked over TLS, stopped, started again; nothing stays open when a start fails."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from havre.control import run
from havre.control.apiserver.control_plane import Config, ControlPlane
from havre.control.store.errors import InUse
from havre.lang import yaml
from havre.wire import tls
from havre.wire.http.client import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")


def config(directory: Path, **more: Any) -> Config:
    return Config(directory, port=0, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    directory = tmp_path_factory.mktemp("plane")
    (directory / "tokens").write_text("secret,carol,7\n")
    plane = ControlPlane(config(directory / "data", token_file=directory / "tokens"))
    await plane.start()
    yield plane
    await plane.close(0)


def client(plane: ControlPlane, *, admin: bool = True) -> Client:
    pair = plane.pki.admin
    shown = (pair.certificate, pair.key) if admin else (None, None)
    return Client(plane.url, ssl=tls.client_context(plane.pki.authority.certificate, *shown))


async def test_the_kubeconfig_reaches_the_server(started: ControlPlane) -> None:
    written = yaml.load((started.config.data_dir / "admin.kubeconfig").read_text())
    assert written["clusters"][0]["cluster"]["server"] == started.url
    async with client(started) as api:
        assert (await api.request("GET", "/readyz")).body == b"ok"
        namespaces = json.loads((await api.request("GET", "/api/v1/namespaces")).body)
    assert [n["metadata"]["name"] for n in namespaces["items"]] == [
        "default",
        "kube-node-lease",
        "kube-public",
        "kube-system",
    ]


async def test_a_stranger_is_anonymous_and_a_token_has_a_name(started: ControlPlane) -> None:
    async with client(started, admin=False) as api:
        anonymous = json.loads((await api.request("GET", "/api/v1/secrets")).body)
        carol = json.loads(
            (await api.request("GET", "/api/v1/secrets", headers={"authorization": "Bearer secret"})).body
        )
    assert 'User "system:anonymous" cannot list' in anonymous["message"]
    assert 'User "carol" cannot list' in carol["message"]


async def test_the_kubernetes_service_has_the_first_address(started: ControlPlane) -> None:
    async with client(started) as api:
        service = json.loads((await api.request("GET", "/api/v1/namespaces/default/services/kubernetes")).body)
    assert service["spec"]["clusterIP"] == "10.96.0.1"


async def test_a_data_directory_serves_one_process(started: ControlPlane) -> None:
    with pytest.raises(InUse, match="choose another --data-dir"):
        await ControlPlane(config(started.config.data_dir)).start()
    with pytest.raises(run.StartFailed, match="choose another --data-dir"):
        async with run.control(config(started.config.data_dir)):
            pass


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    first = ControlPlane(config(tmp_path))
    await first.start()
    made = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "c", "namespace": "default"},
        "data": {"a": "1"},
    }
    stored = await first.local.create(made, manager="test")
    await first.close(0)
    second = ControlPlane(config(tmp_path))
    await second.start()
    entry = second.cache.get("core/configmaps/default/c")
    revision = second.cache.revision
    await second.close(0)
    assert entry is not None
    assert entry.decode() == stored
    assert revision == int(stored["metadata"]["resourceVersion"])  # a second start writes nothing


@pytest.mark.parametrize("broken", ["pki/ca.crt", "tokens", "port"])
async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path, broken: str) -> None:
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = Config(
            data,
            port=taken.getsockname()[1] if broken == "port" else 0,
            token_file=tmp_path / "tokens" if broken == "tokens" else None,
        )
        if broken == "pki/ca.crt":
            (data / "pki").mkdir(parents=True)
            (data / "pki" / "ca.crt").write_text("nonsense")
            (data / "pki" / "ca.key").write_text("nonsense")
        with pytest.raises(run.StartFailed):
            async with run.control(wrong):
                pass
    for file in (data / "pki").glob("ca.*"):
        if broken == "pki/ca.crt":
            file.unlink()
    plane = ControlPlane(config(data))
    await plane.start()  # the store is free again
    await plane.close(0)


async def test_an_ipv6_address_is_bracketed() -> None:
    plane = ControlPlane(Config(Path("/nowhere"), host="::1"))

    class Listening:
        port = 6443

    plane.server = Listening()  # type: ignore[assignment]
    assert plane.url == "https://[::1]:6443"


async def test_a_default_object_that_the_cluster_refuses_does_not_stop_the_start(tmp_path: Path) -> None:
    first = ControlPlane(config(tmp_path))
    await first.start()
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}
    hook = {
        "name": "all.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/x"},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    role = await first.local.get(_ref("ClusterRole", "view"))
    assert role is not None
    role["rules"] = role["rules"][:1]
    await first.local.update(role, manager="test")
    body = {
        "kind": "ValidatingWebhookConfiguration",
        "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": "w"},
        "webhooks": [hook],
    }
    await first.local.create(body, manager="test")
    await first.close(0)
    second = ControlPlane(config(tmp_path))
    async with asyncio.timeout(20):
        await second.start()
        await second.close(0)


def _ref(kind: str, name: str) -> Any:
    from havre.api.meta import GVK
    from havre.machinery.api import Ref

    return Ref(GVK("rbac.authorization.k8s.io", "v1", kind), "", name)
