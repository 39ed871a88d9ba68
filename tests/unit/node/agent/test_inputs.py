"""What a container is given, put together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.node.agent.pods import container, pod

from havre.api.meta import Obj
from havre.node.agent.host_files import ClusterDns
from havre.node.agent.inputs import PodInputs
from havre.node.agent.protocol import GivenError
from havre.node.agent.volumes import Volumes
from havre.testing import FakeApi


async def no_tokens(namespace: str, account: str, spec: Obj) -> Obj:
    raise AssertionError("nobody asked for a token")


def giver(root: Path, *objects: Obj) -> PodInputs:
    api = FakeApi(*objects)
    return PodInputs(
        root,
        api,
        Volumes(root, api, no_tokens),
        services=list,
        node=lambda: {},
        dns=ClusterDns(("10.96.0.10",), "cluster.local"),
        resolv_conf=root / "none",
    )


def config_map(**data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data}


def text_of(mount: Obj) -> str:
    return Path(mount["host_path"]).read_text()


def mode_of(mount: Obj) -> int:
    return Path(mount["host_path"]).stat().st_mode & 0o777


async def test_hosts_and_message_file_are_mounted(tmp_path: Path) -> None:
    wanted = container("a", terminationMessagePath="/dev/termination-log")
    given = await giver(tmp_path).inputs(pod(wanted), wanted, None, ("10.42.0.7",))
    hosts, message = given.mounts
    assert (hosts["container_path"], message["container_path"]) == ("/etc/hosts", "/dev/termination-log")
    assert "10.42.0.7\tp\n" in text_of(hosts)
    assert mode_of(message) == 0o666
    assert Path(hosts["host_path"]).is_relative_to(tmp_path / "u1")


async def test_each_start_has_a_message_file_of_its_own(tmp_path: Path) -> None:
    wanted, inputs = container("a", terminationMessagePath="/m"), giver(tmp_path)
    first = await inputs.inputs(pod(wanted), wanted, None, ())
    second = await inputs.inputs(pod(wanted), wanted, None, ())
    assert first.mounts != second.mounts


async def test_variables_come_from_the_api(tmp_path: Path) -> None:
    wanted = container("a", env=[{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}])
    given = await giver(tmp_path, config_map(k="v")).inputs(pod(wanted), wanted, None, ())
    assert given.environment == [("K", "v")]


async def test_what_is_missing_is_named(tmp_path: Path) -> None:
    wanted = container("a", envFrom=[{"configMapRef": {"name": "c"}}])
    with pytest.raises(GivenError, match='configmap "c" not found'):
        await giver(tmp_path).inputs(pod(wanted), wanted, None, ())


async def test_released_pod_leaves_nothing(tmp_path: Path) -> None:
    wanted, inputs = container("a", terminationMessagePath="/m"), giver(tmp_path)
    await inputs.inputs(pod(wanted), wanted, None, ("10.42.0.7",))
    assert await inputs.leftovers() == {"u1"}
    await inputs.release("u1")
    assert await inputs.leftovers() == set()


async def test_pod_asks_the_clusters_name_server(tmp_path: Path) -> None:
    assert giver(tmp_path).dns(pod()).servers == ("10.96.0.10",)
