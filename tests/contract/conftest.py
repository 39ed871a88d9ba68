"""The backends of the contract suite: one suite, four ways to reach an API.

fake    FakeApi                                  the pipeline in memory
local   LocalApi of a running control plane      the pipeline on its store
http    HttpApi against that control plane       TLS, authentication, HTTP
kube    HttpApi against a real kube-apiserver    the referee: what it does is right

The referee is the cluster of $HAVRE_TEST_KUBECONFIG, or `etcd` and `kube-apiserver` found in $PEERS or on the PATH,
started on free ports; without either its tests are skipped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import tools.referee

from havre.api.errors import AlreadyExists
from havre.api.meta import GVK
from havre.machinery import kubeconfig
from havre.machinery.api import Api, Ref
from havre.machinery.client import HttpApi
from havre.machinery.kubeconfig import Connection
from havre.testing import Cluster, FakeApi, temporary_cluster

MANAGER = "contract"
START_SECONDS = 60.0  # of etcd and kube-apiserver on a slow machine


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    api: Api
    expire: Callable[[], Awaitable[str]]  # a revision that the server has forgotten


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake() -> Backend:
    api = FakeApi()
    await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "first"}})

    async def expire() -> str:
        await api.compact()
        return "1"

    return Backend("fake", api, expire)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with temporary_cluster() as up:
        yield up


def _expirer(cluster: Cluster) -> Callable[[], Awaitable[str]]:
    async def expire() -> str:
        cache = cluster.plane.cache
        await cache.compact(cache.revision)
        cache._history.forget(cache.revision)
        return "1"

    return expire


@pytest.fixture
def local(cluster: Cluster) -> Backend:
    return Backend("local", cluster.plane.local, _expirer(cluster))


@pytest.fixture
def http(cluster: Cluster) -> Backend:
    return Backend("http", cluster.api, _expirer(cluster))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kube(referee: Connection) -> AsyncIterator[Backend]:
    async def expire() -> str:
        pytest.skip("a kube-apiserver forgets by the clock of its etcd, five minutes later")

    async with HttpApi(referee, user_agent="havre-contract") as api:
        yield Backend("kube", api, expire)


@pytest.fixture(params=["fake", "local", "http", "kube"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def api(backend: Backend) -> Api:
    return backend.api


@pytest.fixture
def expire(backend: Backend) -> Callable[[], Awaitable[str]]:
    """Makes the server forget its past; a revision that it has forgotten."""
    return backend.expire


@pytest_asyncio.fixture(loop_scope="module")
async def ns(api: Api) -> AsyncIterator[str]:
    """A namespace of its own, with the service account that pods need."""
    name = f"contract-{secrets.token_hex(4)}"
    await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager=MANAGER)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    try:
        await api.create(account, manager=MANAGER)
    except AlreadyExists:
        assert await api.get(Ref.of(account)) is not None
    yield name
    await api.delete(Ref(GVK("", "v1", "Namespace"), "", name))


# the referee


@pytest.fixture(scope="session")
def referee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    named = os.environ.get("HAVRE_TEST_KUBECONFIG")
    if named:
        yield kubeconfig.load(Path(named))
        return
    try:
        with tools.referee.referee(tmp_path_factory.mktemp("referee")) as found:
            yield found.connection
    except tools.referee.NotInstalled as e:
        pytest.skip(f"no referee: HAVRE_TEST_KUBECONFIG is not set, and {e}")
