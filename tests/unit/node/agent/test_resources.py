"""Amounts of the API as the kernel takes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.agent.pods import container, pod, sidecar

from havre.api.meta import Obj
from havre.node.agent.resources import (
    Limits,
    burstable_shares,
    container_resources,
    oom_score,
    pod_limits,
    quota,
    shares,
    weight,
)

GIB = 1 << 30


def asking(name: str, cpu: str = "", memory: str = "", limits: Obj | None = None) -> Obj:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    return container(name, resources={"requests": requests, **({"limits": limits} if limits else {})})


@pytest.mark.parametrize(("milli", "expected"), [(0, 2), (1, 2), (2, 2), (100, 102), (1000, 1024), (500_000, 262_144)])
def test_shares_of_a_request(milli: int, expected: int) -> None:
    assert shares(milli) == expected


@pytest.mark.parametrize(("milli", "expected"), [(0, 0), (1, 1000), (10, 1000), (500, 50_000), (2500, 250_000)])
def test_quota_of_a_limit(milli: int, expected: int) -> None:
    assert quota(milli) == expected


@pytest.mark.parametrize(("given_shares", "expected"), [(2, 1), (1024, 39), (262_144, 10_000)])
def test_weight_of_shares(given_shares: int, expected: int) -> None:
    assert weight(given_shares) == expected


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_weight_grows_with_the_request(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= weight(shares(low)) <= weight(shares(high)) <= 10_000


def test_pod_that_asks_for_nothing_gets_the_least() -> None:
    assert pod_limits(pod()) == Limits(2)


def test_pod_is_limited_only_when_every_container_is() -> None:
    limited = asking("a", "500m", "64Mi", {"cpu": "1", "memory": "128Mi"})
    status = {"qosClass": "Burstable"}
    assert pod_limits(pod(limited, status=status)) == Limits(512, 100_000, 128 << 20)
    assert pod_limits(pod(limited, asking("b", "100m"), status=status)) == Limits(614)


def test_limit_of_the_pod_itself_holds() -> None:
    p = pod(asking("a", "100m"), resources={"limits": {"memory": "1Gi"}}, status={"qosClass": "Burstable"})
    assert pod_limits(p).memory == GIB


def test_resources_of_a_container() -> None:
    limited = asking("a", "250m", "64Mi", {"cpu": "500m", "memory": "128Mi"})
    got = container_resources(pod(limited, status={"qosClass": "Burstable"}), limited, 8 * GIB, group_oom=True)
    assert got == {
        "cpu_shares": 256,
        "cpu_period": 100_000,
        "cpu_quota": 50_000,
        "memory_limit_in_bytes": 128 << 20,
        "oom_score_adj": 993,
        "unified": {"memory.oom.group": "1"},
    }


def test_limit_without_request_counts_as_request() -> None:
    limited = container("a", resources={"limits": {"cpu": "2"}})
    assert container_resources(pod(limited), limited, GIB, group_oom=False)["cpu_shares"] == 2048


@pytest.mark.parametrize(
    ("quality", "memory", "expected"),
    [
        ("Guaranteed", "1Gi", -997),
        ("BestEffort", "", 1000),
        ("Burstable", "", 999),
        ("Burstable", "4Gi", 500),
        ("Burstable", "8Gi", 3),
    ],
)
def test_oom_score_by_quality_and_request(quality: str, memory: str, expected: int) -> None:
    c = asking("a", "", memory)
    assert oom_score(pod(c, status={"qosClass": quality}), c, 8 * GIB) == expected


def test_sidecar_is_killed_no_sooner_than_the_containers_it_serves() -> None:
    side, main = sidecar("s"), asking("a", "", "4Gi")
    p = pod(main, initContainers=[side], status={"qosClass": "Burstable"})
    assert oom_score(p, side, 8 * GIB) == 500


def test_critical_pod_is_killed_last() -> None:
    c = container("a")
    assert oom_score(pod(c, priority=2_000_001_000), c, GIB) == -997


def test_burstable_pods_share_what_they_asked_for_together() -> None:
    burstable = pod(asking("a", "500m"), status={"qosClass": "Burstable"})
    assert burstable_shares([burstable, burstable, pod()]) == 1024
