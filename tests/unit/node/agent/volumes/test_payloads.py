"""Which files a ConfigMap, a Secret and a pod's own facts become."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.node.agent.protocol import VolumeError
from havre.node.agent.volumes.payloads import (
    File,
    check,
    config_map_files,
    downward_files,
    only_user,
    secret_files,
    token_file,
)

MAP: Obj = {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\xff").decode()}}


def pod(*users: int | None, common: int | None = None, group: int | None = None) -> Obj:
    context: dict[str, Any] = {
        key: value for key, value in (("runAsUser", common), ("fsGroup", group)) if value is not None
    }
    containers = [
        {"name": f"c{i}", "securityContext": {} if u is None else {"runAsUser": u}} for i, u in enumerate(users)
    ]
    return {
        "metadata": {"name": "p", "labels": {"x": "y"}},
        "spec": {"securityContext": context, "containers": containers},
    }


def test_every_key_is_a_file() -> None:
    assert config_map_files(MAP, {}, 0o644) == {"a": File(b"1"), "b": File(b"2"), "c": File(b"\xff")}


def test_chosen_keys_have_their_path_and_mode() -> None:
    items = [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400}]
    assert config_map_files(MAP, {"items": items}, 0o600) == {"x/y": File(b"1", 0o600), "z": File(b"2", 0o400)}


def test_a_mode_of_zero_is_a_mode() -> None:
    assert config_map_files(MAP, {"items": [{"key": "a", "path": "a", "mode": 0}]}, 0o644)["a"].mode == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [(config_map_files, "non-existent config key: no"), (secret_files, "non-existent secret key: no")],
)
def test_a_chosen_key_must_exist_unless_it_is_optional(make: Any, says: str) -> None:
    source = {"items": [{"key": "no", "path": "no"}]}
    with pytest.raises(VolumeError, match=says):
        make({}, source, 0o644)
    assert make(None, {**source, "optional": True}, 0o644) == {}


def test_secrets_are_decoded() -> None:
    assert secret_files({"data": {"k": base64.b64encode(b"v").decode()}}, {}, 0o400) == {"k": File(b"v", 0o400)}


def test_facts_of_the_pod_are_files() -> None:
    made = pod(1)
    made["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "memory", "resourceFieldRef": {"containerName": "c0", "resource": "limits.memory", "divisor": "1Mi"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c0", "resource": "limits.cpu"}, "mode": 0o400},
    ]
    assert downward_files(made, {"items": items}, 0o644, {"cpu": "3500m"}) == {
        "labels": File(b'x="y"'),
        "memory": File(b"64"),
        "cpu": File(b"4", 0o400),
    }


@pytest.mark.parametrize(
    ("made", "mode", "uid"),
    [
        (pod(None), 0o644, None),
        (pod(1000), 0o600, 1000),
        (pod(1000, 1000), 0o600, 1000),
        (pod(1000, 1001), 0o644, None),
        (pod(1000, None), 0o644, None),
        (pod(None, common=5), 0o600, 5),
        (pod(None, group=9), 0o600, None),
    ],
)
def test_a_token_is_its_user_s_alone_if_that_is_known(made: Obj, mode: int, uid: int | None) -> None:
    assert token_file("t", made, 0o644) == File(b"t", mode, uid)
    assert only_user(made) == uid


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../b", "..data", "..x/y", "a//b", "", "a/", "x" * 256])
def test_paths_that_leave_the_volume_or_meet_its_own_files_are_refused(path: str) -> None:
    with pytest.raises(VolumeError, match="invalid path"):
        check({path: File(b"")})


@given(st.text(alphabet="./ab", max_size=12))
def test_a_path_that_passes_stays_inside(path: str) -> None:
    with suppress(VolumeError):
        check({path: File(b"")})
        assert not path.startswith(("/", ".."))
        assert ".." not in path.split("/")


def test_a_volume_has_a_size() -> None:
    with pytest.raises(VolumeError, match="larger than"):
        check({"a": File(bytes(16 << 20)), "b": File(b"x")})
