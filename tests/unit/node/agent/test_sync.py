"""Which steps bring a pod forward: the order of its life, restarts and back-off, as tables and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.agent.pods import NOW, box, container, instance, pod, seen, sidecar

from havre.api.meta import Obj
from havre.node.agent.cri import ContainerStatus, State
from havre.node.agent.seen import Probed, Seen
from havre.node.agent.sync import CreateSandbox, Kill, Remove, Start, StopPod, Wait, finished, plan

A, B = container("a"), container("b")
INIT, SECOND = container("i"), container("j")
SIDE = sidecar("s")
EXITED, CREATED, UNKNOWN = State.EXITED, State.CREATED, State.UNKNOWN


def steps(p: Obj, s: Seen) -> tuple[object, ...]:
    return plan(p, s).steps


def test_new_pod_gets_a_sandbox_and_its_containers_in_order() -> None:
    assert steps(pod(A, B), seen(boxes=())) == (CreateSandbox(0), Start("app", "a"), Start("app", "b"))


def test_init_containers_come_one_after_the_other() -> None:
    p = pod(A, initContainers=[INIT, SECOND])
    assert steps(p, seen(boxes=())) == (CreateSandbox(0), Start("init", "i"))
    assert steps(p, seen(instance(INIT))) == ()
    assert steps(p, seen(instance(INIT, EXITED))) == (Start("init", "j"),)
    assert steps(p, seen(instance(INIT, EXITED), instance(SECOND, EXITED))) == (Start("app", "a"),)


def test_last_init_container_alone_tells_that_the_others_are_done() -> None:
    p = pod(A, initContainers=[INIT, SECOND])
    assert steps(p, seen(instance(SECOND, EXITED))) == (Start("app", "a"),)


def test_running_container_tells_that_the_pod_is_initialized_when_its_init_containers_were_removed() -> None:
    assert steps(pod(A, B, initContainers=[INIT]), seen(instance(A))) == (Start("app", "b"),)


def test_next_container_waits_until_the_sidecar_has_started() -> None:
    probed = sidecar("s", startupProbe={"tcpSocket": {"port": 1}})
    p = pod(A, initContainers=[probed])
    assert steps(p, seen(instance(probed))) == ()
    assert steps(p, seen(instance(probed), s=Probed(started=True))) == (Start("app", "a"),)
    assert steps(pod(A, initContainers=[SIDE]), seen(instance(SIDE))) == (Start("app", "a"),)


def test_sidecar_is_restarted_whatever_the_policy_of_the_pod() -> None:
    p = pod(A, initContainers=[SIDE], restartPolicy="Never")
    ended = instance(SIDE, EXITED, code=1)
    assert steps(p, seen(ended, instance(A))) == (Start("init", "s", 1, 10.0),)


def test_sidecar_between_init_containers_is_kept_running() -> None:
    p = pod(A, initContainers=[SIDE, INIT])
    ended = instance(SIDE, EXITED)
    assert steps(p, seen(ended, instance(INIT))) == (Start("init", "s", 1, 10.0),)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy_decides_who_is_started_again(policy: str, code: int, again: bool) -> None:
    p = pod(A, B, restartPolicy=policy)
    got = steps(p, seen(instance(A, EXITED, code=code), instance(B)))
    assert got == ((Start("app", "a", 1, 10.0),) if again else ())


def test_rule_of_a_container_restarts_it_although_its_policy_is_never() -> None:
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    ruled = container("a", restartPolicy="Never", restartPolicyRules=[rule])
    assert steps(pod(ruled, B), seen(instance(ruled, EXITED, code=42), instance(B))) == (Start("app", "a", 1, 10.0),)
    assert steps(pod(ruled, B), seen(instance(ruled, EXITED, code=1), instance(B))) == ()


def test_second_end_waits_ten_seconds_and_the_third_twenty() -> None:
    second = instance(A, EXITED, count=1, code=1, wait=10, started=NOW - 3, finished=NOW - 1)
    got = plan(pod(A), seen(second))
    assert got.steps == (Wait("app", "a", NOW + 9, 10.0),)
    assert got.again == 9.0
    later = replace(seen(second), now=NOW + 9)
    assert plan(pod(A), later).steps == (Start("app", "a", 2, 20.0),)


def test_back_off_ends_at_five_minutes() -> None:
    old = instance(A, EXITED, count=9, code=1, wait=300, started=NOW - 400, finished=NOW - 301)
    assert steps(pod(A), seen(old)) == (Start("app", "a", 10, 300.0),)


def test_good_run_of_ten_minutes_resets_the_back_off() -> None:
    good = instance(A, EXITED, count=9, code=1, wait=300, started=NOW - 700, finished=NOW - 1)
    assert steps(pod(A), seen(good)) == (Start("app", "a", 10, 10.0),)


def test_changed_image_is_started_at_once() -> None:
    old = instance(A, EXITED, count=4, code=1, wait=160)
    changed = {**A, "image": "registry.example/a:2"}
    assert steps(pod(changed), seen(old)) == (Start("app", "a", 5, 0.0),)


def test_running_container_with_another_image_is_replaced() -> None:
    changed = {**A, "image": "registry.example/a:2"}
    assert steps(pod(changed), seen(instance(A))) == (
        Kill("a-0", "a", "Container a definition changed, will be restarted"),
        Start("app", "a", 1, 0.0),
    )


def test_failed_liveness_kills_and_restarts_by_policy() -> None:
    watched = container("a", livenessProbe={"tcpSocket": {"port": 1}})
    kill = Kill("a-0", "a", "Container a failed liveness probe, will be restarted", "liveness")
    assert steps(pod(watched), seen(instance(watched), a=Probed(live=False))) == (kill, Start("app", "a", 1, 0.0))
    kill = Kill("a-0", "a", "Container a failed liveness probe", "liveness")
    assert steps(pod(watched, restartPolicy="Never"), seen(instance(watched), a=Probed(live=False))) == (kill,)


def test_failed_startup_kills() -> None:
    watched = container("a", startupProbe={"tcpSocket": {"port": 1}})
    got = steps(pod(watched), seen(instance(watched), a=Probed(started=False)))
    assert got[0] == Kill("a-0", "a", "Container a failed startup probe, will be restarted", "startup")


def test_container_made_but_never_started_is_made_again_and_not_counted() -> None:
    assert steps(pod(A), seen(instance(A, CREATED, count=2, wait=20))) == (Remove("a-2"), Start("app", "a", 2, 20.0))


def test_unknown_container_is_killed_before_its_successor_starts() -> None:
    got = steps(pod(A), seen(instance(A, UNKNOWN)))
    assert [type(step) for step in got] == [Kill, Start]


def test_lost_sandbox_begins_everything_again() -> None:
    p = pod(A, initContainers=[INIT])
    lost = seen(instance(INIT, EXITED), instance(A, EXITED, code=137), boxes=(box(ready=False),))
    assert steps(p, lost) == (StopPod(again=True), Remove("i-0"), CreateSandbox(1), Start("init", "i", 1, 10.0))


def test_lost_sandbox_ends_a_pod_that_never_restarts() -> None:
    p = pod(A, restartPolicy="Never")
    lost = seen(instance(A, EXITED, code=137), boxes=(box(ready=False),))
    assert steps(p, lost) == ()
    assert finished(p, lost)


def test_completed_container_is_not_run_again_in_a_new_sandbox() -> None:
    p = pod(A, B, restartPolicy="OnFailure")
    lost = seen(instance(A, EXITED), instance(B, EXITED, code=137), boxes=(box(ready=False),))
    assert steps(p, lost)[-2:] == (CreateSandbox(1), Start("app", "b", 1, 10.0))


def test_sandbox_of_the_other_network_is_replaced() -> None:
    assert steps(pod(A, hostNetwork=True), seen(boxes=(box(),)))[:2] == (StopPod(again=True), CreateSandbox(1))
    assert steps(pod(A, hostNetwork=True), seen(boxes=(box(host=True),))) == (Start("app", "a"),)


def test_ephemeral_container_starts_once() -> None:
    p = pod(A, ephemeralContainers=[container("e")])
    assert steps(p, seen(instance(A))) == (Start("ephemeral", "e"),)
    assert steps(p, seen(instance(A), instance(container("e"), EXITED, code=1))) == ()


def test_count_goes_on_when_the_runtime_has_forgotten_the_container() -> None:
    told = {"containerStatuses": [{"name": "a", "containerID": "containerd://x", "restartCount": 3}]}
    assert steps(pod(A, status=told), seen()) == (Start("app", "a", 4),)


@pytest.mark.parametrize(
    ("policy", "ends", "over"),
    [
        ("Never", [("a", 0), ("b", 1)], True),
        ("Never", [("a", 0)], False),
        ("OnFailure", [("a", 0), ("b", 0)], True),
        ("OnFailure", [("a", 0), ("b", 1)], False),
        ("Always", [("a", 0), ("b", 0)], False),
    ],
)
def test_pod_is_over_when_nothing_of_it_restarts(policy: str, ends: list[tuple[str, int]], over: bool) -> None:
    p = pod(A, B, restartPolicy=policy)
    assert finished(p, seen(*(instance(container(n), EXITED, code=c) for n, c in ends))) is over


def test_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    p = pod(A, initContainers=[INIT], restartPolicy="Never")
    assert finished(p, seen(instance(INIT, EXITED, code=1)))
    assert not finished(p, seen(instance(INIT, EXITED)))


def test_sidecars_do_not_keep_a_pod_alive() -> None:
    p = pod(A, initContainers=[SIDE], restartPolicy="OnFailure")
    assert finished(p, seen(instance(A, EXITED), instance(SIDE)))


# laws

STATES = st.sampled_from([State.RUNNING, State.EXITED, State.CREATED, State.UNKNOWN])
SPECS = [INIT, SIDE, A, B]


@st.composite
def instances(draw: st.DrawFn) -> list[ContainerStatus]:
    out = []
    for spec in SPECS:
        for count in range(draw(st.integers(0, 2))):
            out.append(
                instance(
                    spec,
                    draw(STATES),
                    count=count,
                    code=draw(st.sampled_from([0, 1, 137])),
                    wait=draw(st.sampled_from([0, 10, 300])),
                )
            )
    return out


PODS = st.sampled_from(["Always", "OnFailure", "Never"]).map(
    lambda policy: pod(A, B, initContainers=[INIT, SIDE], restartPolicy=policy)
)
BOXES = st.sampled_from([(), (box(),), (box(ready=False),), (box(attempt=1), box())])


@given(PODS, instances(), BOXES)
def test_never_two_instances_of_a_container(p: Obj, found: list[ContainerStatus], boxes: tuple[object, ...]) -> None:
    """Whoever is started does not run, or is killed in the same plan before; and only once."""
    s = seen(*found, boxes=boxes)  # type: ignore[arg-type]
    ended: set[str] = set()
    for step in plan(p, s).steps:
        match step:
            case Kill(_, name, _, _):
                ended.add(name)
            case StopPod():
                ended |= {c.name for c in s.running()}
            case Start(_, name, _, _):
                newest = s.newest(name)
                assert newest is None or newest.state is not State.RUNNING or name in ended
                ended.discard(name)
    started = [step.name for step in plan(p, s).steps if isinstance(step, Start)]
    assert len(started) == len(set(started))


@given(PODS, instances())
def test_containers_start_only_in_a_sandbox(p: Obj, found: list[ContainerStatus]) -> None:
    for boxes in ((), (box(ready=False),)):
        got = plan(p, seen(*found, boxes=boxes)).steps
        kinds = [type(step) for step in got]
        assert Start not in kinds or CreateSandbox in kinds[: kinds.index(Start)]


@given(PODS, instances())
def test_containers_wait_for_the_init_containers(p: Obj, found: list[ContainerStatus]) -> None:
    """As long as an init container runs for the first time, no other container starts."""
    first = [c for c in found if c.name not in ("a", "b", "s")]
    s = seen(*first)
    newest = s.newest("i")
    if newest is None or newest.state is State.RUNNING:
        assert not [step for step in plan(p, s).steps if isinstance(step, Start) and step.kind == "app"]


@given(PODS, instances())
def test_restart_counts_only_grow(p: Obj, found: list[ContainerStatus]) -> None:
    s = seen(*found)
    for step in plan(p, s).steps:
        if isinstance(step, Start):
            newest = s.newest(step.name)
            assert newest is None or step.restart_count >= newest.restart_count
