"""The grace of a pod's end, in seconds of a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.unit.node.agent.fake_runtime import FakeRuntime
from tests.unit.node.agent.pods import container, pod, sidecar

from havre.node.agent.checks import Target
from havre.node.agent.cri import Executed, RuntimeFault
from havre.node.agent.termination import Grace, HookError, grace_of, run_hook, turns

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_grace_bounds_what_is_waited_for() -> None:
    grace = Grace(5)
    assert await grace.bound(asyncio.sleep(2)) is True
    assert await grace.bound(asyncio.sleep(60)) is False
    assert now() == pytest.approx(5)


async def test_grace_is_only_ever_shortened() -> None:
    grace = Grace(5)
    grace.shorten(50)
    assert grace.left == 5
    asyncio.get_running_loop().call_later(1, grace.shorten, 1)
    assert await grace.bound(asyncio.sleep(60)) is False
    assert now() == pytest.approx(2)


async def test_failure_inside_the_grace_is_raised() -> None:
    async def fail() -> None:
        raise HookError("no")

    with pytest.raises(HookError):
        await Grace(5).bound(fail())


async def test_shortened_grace_is_told_to_the_runtime() -> None:
    runtime, told = FakeRuntime(), []

    async def stop(id: str, grace: int) -> None:
        told.append((id, grace))
        await asyncio.sleep(grace)

    runtime.stop_container = stop  # type: ignore[method-assign]
    whole = Grace(30)
    asyncio.get_running_loop().call_later(4, whole.shorten, 3)
    await whole.stop(runtime, "c")
    assert told == [("c", 30), ("c", 3)]
    assert now() == pytest.approx(7)


async def test_runtime_that_cannot_stop_is_an_error() -> None:
    runtime = FakeRuntime()

    async def stop(id: str, grace: int) -> None:
        raise RuntimeFault("UNKNOWN", "stuck")

    runtime.stop_container = stop  # type: ignore[method-assign]
    with pytest.raises(RuntimeFault):
        await Grace(30).stop(runtime, "c")


def test_whose_grace_holds() -> None:
    watched = container("a", livenessProbe={"terminationGracePeriodSeconds": 4}, startupProbe={})
    p = pod(watched, terminationGracePeriodSeconds=20)
    assert grace_of(p) == 20
    assert grace_of(p, watched, "liveness") == 4
    assert grace_of(p, watched, "startup") == 20
    deleted = pod(watched, meta={"deletionGracePeriodSeconds": 1})
    assert grace_of(deleted, watched, "liveness") == 1


async def test_sidecars_wait_for_containers_and_for_later_sidecars() -> None:
    p = pod(container("a"), container("b"), initContainers=[sidecar("s1"), sidecar("s2"), container("i")])
    ended, after = turns(p, ["a", "b", "s1", "s2"])
    assert set(after) == {"s1", "s2"}
    assert after["s2"] == (ended["a"], ended["b"])
    assert after["s1"] == (ended["a"], ended["b"], ended["s2"])
    _, alone = turns(p, ["s1"])
    assert alone["s1"] == ()


async def test_hook_that_fails_says_how() -> None:
    runtime = FakeRuntime()
    target = Target("c1", container("app"), "10.42.0.7")
    runtime.made["c1"] = None  # type: ignore[assignment]

    async def execute(id: str, command: Sequence[str], timeout: float) -> Executed:
        return Executed(3, b"out", b"err")

    runtime.execute = execute  # type: ignore[method-assign]
    with pytest.raises(HookError, match=r"Exec lifecycle hook \(\[x\]\) for Container \"app\" .* exited with 3"):
        await run_hook(runtime, pod(), target, {"exec": {"command": ["x"]}})
    with pytest.raises(HookError, match="invalid handler"):
        await run_hook(runtime, pod(), target, {"tcpSocket": {"port": 1}})
