"""What is reported of a pod: phases, conditions, container statuses; as tables, and two laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.agent.pods import NOW, box, container, instance, pod, seen, sidecar

from havre.api.meta import Obj
from havre.node.agent.container_status import Reason
from havre.node.agent.cri import ContainerStatus, State
from havre.node.agent.seen import Probed, Seen
from havre.node.agent.status import Facts, Verdict, last, patch, status

A, B = container("a"), container("b")
INIT, SIDE = container("i"), sidecar("s")
EXITED, CREATED = State.EXITED, State.CREATED
FACTS = Facts(("192.0.2.7",))


def phase(p: Obj, s: Seen, facts: Facts = FACTS) -> str:
    return str(status(p, s, facts)["phase"])


def conditions(new: Obj) -> dict[str, str]:
    return {c["type"]: f"{c['status']} {c.get('reason', '')}".strip() for c in new["conditions"]}


@pytest.mark.parametrize(
    ("policy", "found", "expected"),
    [
        ("Always", [], "Pending"),
        ("Always", [instance(A)], "Pending"),
        ("Always", [instance(A), instance(B, CREATED)], "Pending"),
        ("Always", [instance(A), instance(B)], "Running"),
        ("Always", [instance(A), instance(B, EXITED)], "Running"),
        ("Always", [instance(A, EXITED), instance(B, EXITED, code=1)], "Running"),
        ("OnFailure", [instance(A, EXITED), instance(B, EXITED, code=1)], "Running"),
        ("OnFailure", [instance(A, EXITED), instance(B, EXITED)], "Succeeded"),
        ("Never", [instance(A), instance(B, EXITED, code=1)], "Running"),
        ("Never", [instance(A, EXITED), instance(B, EXITED, code=1)], "Failed"),
        ("Never", [instance(A, EXITED), instance(B, EXITED)], "Succeeded"),
    ],
)
def test_phase_of_two_containers(policy: str, found: list[ContainerStatus], expected: str) -> None:
    assert phase(pod(A, B, restartPolicy=policy), seen(*found)) == expected


@pytest.mark.parametrize(
    ("policy", "found", "expected"),
    [
        ("Always", [instance(INIT)], "Pending"),
        ("Always", [instance(INIT, EXITED, code=1)], "Pending"),
        ("Never", [instance(INIT, EXITED, code=1)], "Failed"),
        ("Never", [instance(INIT, EXITED)], "Pending"),
        ("Never", [instance(INIT, EXITED), instance(A)], "Running"),
    ],
)
def test_phase_with_an_init_container(policy: str, found: list[ContainerStatus], expected: str) -> None:
    assert phase(pod(A, initContainers=[INIT], restartPolicy=policy), seen(*found)) == expected


def test_sidecar_never_decides_the_phase() -> None:
    p = pod(A, initContainers=[SIDE], restartPolicy="Never")
    assert phase(p, seen(instance(SIDE, EXITED, code=1), instance(A, EXITED))) == "Succeeded"
    assert phase(p, seen(instance(SIDE), instance(A))) == "Running"
    assert phase(p, seen(instance(SIDE))) == "Pending"


def test_phase_never_leaves_its_end() -> None:
    assert phase(pod(A, status={"phase": "Succeeded"}), seen(instance(A))) == "Succeeded"
    assert phase(pod(A, status={"phase": "Failed"}), seen()) == "Failed"


def test_pod_does_not_end_while_something_of_it_runs() -> None:
    p = pod(A, initContainers=[INIT, SIDE], restartPolicy="Never", status={"phase": "Pending"})
    assert phase(p, seen(instance(INIT, EXITED, code=1), instance(SIDE))) == "Pending"
    assert phase(p, seen(instance(INIT, EXITED, code=1), instance(SIDE, EXITED))) == "Failed"


def test_stopped_pod_with_ended_containers_is_over_whatever_its_policy() -> None:
    stopped = Facts(("192.0.2.7",), stopped=True)
    assert phase(pod(A), seen(instance(A, EXITED, code=143)), stopped) == "Failed"
    assert phase(pod(A), seen(instance(A, EXITED)), stopped) == "Succeeded"


def test_verdict_decides_and_is_told() -> None:
    facts = Facts(("192.0.2.7",), verdict=Verdict("DeadlineExceeded", "too long"))
    new = status(pod(A, status={"phase": "Running"}), seen(instance(A, EXITED)), facts)
    assert (new["phase"], new["reason"], new["message"]) == ("Failed", "DeadlineExceeded", "too long")


def test_first_report_has_a_status_of_every_container() -> None:
    new = status(pod(A, B, initContainers=[INIT]), seen(boxes=()), FACTS)
    assert [s["state"] for s in new["containerStatuses"]] == [{"waiting": {"reason": "PodInitializing"}}] * 2
    assert [s["name"] for s in new["initContainerStatuses"]] == ["i"]
    new = status(pod(A), seen(boxes=()), FACTS)
    assert new["containerStatuses"] == [
        {
            "name": "a",
            "image": "registry.example/a:1",
            "imageID": "",
            "ready": False,
            "started": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
            "lastState": {},
        }
    ]


def test_conditions_of_a_pod_from_its_binding_to_readiness() -> None:
    p = pod(A, initContainers=[INIT])
    assert conditions(status(p, seen(boxes=()), FACTS)) == {
        "PodReadyToStartContainers": "False",
        "Initialized": "False ContainersNotInitialized",
        "Ready": "False ContainersNotReady",
        "ContainersReady": "False ContainersNotReady",
        "PodScheduled": "True",
    }
    assert conditions(status(p, seen(instance(INIT, EXITED), instance(A)), FACTS)) == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }


def test_transition_time_moves_only_with_the_status() -> None:
    p = pod(A)
    first = status(p, seen(instance(A)), FACTS)
    later = replace(seen(instance(A)), now=NOW + 100)
    second = status({**p, "status": first}, later, FACTS)
    assert first["conditions"] == second["conditions"]
    third = status({**p, "status": first}, replace(seen(instance(A, EXITED)), now=NOW + 100), FACTS)
    times = {c["type"]: c["lastTransitionTime"] for c in third["conditions"]}
    assert (times["Ready"], times["PodScheduled"]) == ("2023-11-14T22:15:00Z", "2023-11-14T22:13:20Z")


def test_conditions_of_others_are_kept() -> None:
    theirs = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    new = status(pod(A, status={"conditions": [theirs]}), seen(instance(A)), FACTS)
    assert new["conditions"][0] == theirs


def test_waiting_container_shows_its_reason_and_its_last_end() -> None:
    why = {"a": Reason("CrashLoopBackOff", "back-off 10s")}
    new = status(pod(A), seen(instance(A, EXITED, code=3, count=1)), Facts(("192.0.2.7",), why))
    [a] = new["containerStatuses"]
    assert a["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert a["lastState"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "startedAt": "2023-11-14T22:12:30Z",
        "finishedAt": "2023-11-14T22:13:19Z",
        "containerID": "containerd://a-1",
    }
    assert a["restartCount"] == 1


def test_instance_before_is_the_last_state() -> None:
    before = instance(A, EXITED, code=3, created=NOW - 90)
    [a] = status(pod(A), seen(before, instance(A, count=1)), FACTS)["containerStatuses"]
    assert (list(a["state"]), a["lastState"]["terminated"]["exitCode"]) == (["running"], 3)


def test_last_state_outlives_the_removal_of_the_instance_before() -> None:
    told = status(pod(A), seen(instance(A, EXITED, code=3, created=NOW - 90), instance(A, count=1)), FACTS)
    [a] = status(pod(A, status=told), seen(instance(A, count=1)), FACTS)["containerStatuses"]
    assert a["lastState"]["terminated"]["exitCode"] == 3


def test_end_that_was_told_stays_when_the_runtime_forgets() -> None:
    told = status(pod(A, restartPolicy="Never"), seen(instance(A, EXITED, code=3)), FACTS)
    forgotten = status(pod(A, restartPolicy="Never", status=told), seen(boxes=()), FACTS)
    assert forgotten["containerStatuses"] == told["containerStatuses"]


def test_running_container_that_disappeared_counts_as_ended() -> None:
    told = status(pod(A), seen(instance(A)), FACTS)
    [a] = status(pod(A, status=told), seen(), FACTS)["containerStatuses"]
    assert a["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert (a["restartCount"], a["state"]) == (1, {"waiting": {"reason": "ContainerCreating"}})
    assert phase(pod(A, status=told), seen()) == "Running"


def test_ready_needs_every_probe() -> None:
    watched = container("a", readinessProbe={}, startupProbe={"tcpSocket": {"port": 1}})
    watched["readinessProbe"] = {"tcpSocket": {"port": 1}}
    table = [
        (Probed(), (False, False)),
        (Probed(started=True), (True, False)),
        (Probed(started=True, ready=True), (True, True)),
        (Probed(started=True, ready=False), (True, False)),
        (Probed(started=False, ready=True), (False, False)),
    ]
    for probed, expected in table:
        [a] = status(pod(watched), seen(instance(watched), a=probed), FACTS)["containerStatuses"]
        assert (a["started"], a["ready"]) == expected, probed


def test_readiness_is_what_was_told_of_the_same_instance_until_a_probe_answers() -> None:
    watched = container("a", readinessProbe={"tcpSocket": {"port": 1}})
    told = status(pod(watched), seen(instance(watched), a=Probed(ready=True)), FACTS)
    p = pod(watched, status=told)
    assert status(p, seen(instance(watched)), FACTS)["containerStatuses"][0]["ready"] is True
    assert status(p, seen(instance(watched, count=1)), FACTS)["containerStatuses"][0]["ready"] is False


def test_long_message_is_cut() -> None:
    long = replace(instance(A, EXITED, code=1), message="x" * 9000)
    [a] = status(pod(A, restartPolicy="Never"), seen(long), FACTS)["containerStatuses"]
    assert len(a["state"]["terminated"]["message"]) == 4096
    many = [container(f"c{n}") for n in range(6)]
    found = [replace(instance(c, EXITED, code=1), message="x" * 9000) for c in many]
    new = status(pod(*many, restartPolicy="Never"), seen(*found), FACTS)
    assert {len(s["state"]["terminated"]["message"]) for s in new["containerStatuses"]} == {2048}


def test_user_of_a_container_is_shown() -> None:
    found = replace(instance(A), user=(1000, 1000, (1000, 4)))
    [a] = status(pod(A), seen(found), FACTS)["containerStatuses"]
    assert a["user"] == {"linux": {"uid": 1000, "gid": 1000, "supplementalGroups": [1000, 4]}}


def test_last_status_leaves_nothing_open() -> None:
    p = pod(A, B, status={"phase": "Running"})
    new = last(p, status(p, seen(instance(A, EXITED), boxes=(box(ready=False),)), FACTS))
    assert new["phase"] == "Failed"
    assert new["containerStatuses"][1]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_patch_of_a_status_that_is_reported_is_empty() -> None:
    new = status(pod(A), seen(instance(A)), FACTS)
    assert patch(new, new) == {}
    assert set(patch({"phase": "Pending"}, new)) >= {"phase", "containerStatuses", "conditions", "podIPs"}


def test_patch_takes_back_reason_and_message_of_a_condition() -> None:
    before = status(pod(A), seen(boxes=()), FACTS)
    after = status(pod(A, status=before), seen(instance(A)), FACTS)
    [ready] = [c for c in patch(before, after)["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"], ready["message"]) == ("True", None, None)


STATES = st.sampled_from([*State])


@st.composite
def moments(draw: st.DrawFn) -> Seen:
    found = []
    for spec in (INIT, SIDE, A, B):
        for count in range(draw(st.integers(0, 2))):
            found.append(instance(spec, draw(STATES), count=count, code=draw(st.sampled_from([0, 1]))))
    boxes = draw(st.sampled_from([(), (box(),), (box(ready=False),)]))
    return seen(*found, boxes=boxes)


POLICIES = st.sampled_from(["Always", "OnFailure", "Never"])


@given(POLICIES, st.lists(moments(), min_size=1, max_size=4))
def test_reporting_twice_changes_nothing_and_the_end_is_final(policy: str, path: list[Seen]) -> None:
    p = pod(A, B, initContainers=[INIT, SIDE], restartPolicy=policy)
    ended = ""
    for moment in path:
        new = status(p, moment, FACTS)
        p = {**p, "status": new}
        assert not ended or new["phase"] == ended
        ended = new["phase"] if new["phase"] in ("Succeeded", "Failed") else ""
        again = status(p, moment, FACTS)
        assert patch(new, again) == {}


@given(POLICIES, moments())
def test_ready_pod_has_only_ready_containers(policy: str, moment: Seen) -> None:
    new = status(pod(A, B, initContainers=[INIT, SIDE], restartPolicy=policy), moment, FACTS)
    if conditions(new)["Ready"] == "True":
        assert all(s["ready"] for s in new["containerStatuses"])
        assert new["phase"] == "Running"
