"""PodSecurity: levels, versions and texts of the Pod Security Standards."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden, Invalid
from havre.control.apiserver.admission.pod_security import PodSecurity, policy_of
from havre.control.apiserver.admission.pod_security_checks import violations
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
PREFIX = "pod-security.kubernetes.io/"
GOOD = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def spec_of(security: Any = None, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "securityContext": security or {}}], **spec}}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (spec_of(hostNetwork=True, hostPID=True), "host namespaces (hostNetwork=true, hostPID=true)"),
        (spec_of({"privileged": True}), 'privileged (container "c" must not set securityContext.privileged=true)'),
        (
            spec_of({"capabilities": {"add": ["NET_RAW", "KILL", "BPF"]}}),
            'non-default capabilities (container "c" must not include "BPF", "NET_RAW" in '
            "securityContext.capabilities.add)",
        ),
        (
            spec_of(volumes=[{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]),
            'hostPath volumes (volumes "a", "b")',
        ),
        (
            {"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}},
            'hostPort (container "c" uses hostPorts 443, 80)',
        ),
        (
            {"spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "h"}}}]}},
            'probe or lifecycle host (container "c" uses probe or lifecycle host "h")',
        ),
        (
            spec_of({"procMount": "Unmasked"}),
            'procMount (container "c" must not set securityContext.procMount to "Unmasked")',
        ),
        (
            spec_of({"seLinuxOptions": {"type": "x", "user": "u"}}, securityContext={"seLinuxOptions": {"role": "r"}}),
            'seLinuxOptions (pod and container "c" set forbidden securityContext.seLinuxOptions: type "x"; user may '
            "not be set; role may not be set)",
        ),
        (
            spec_of({"seccompProfile": {"type": "Unconfined"}}),
            'seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")',
        ),
        (spec_of(securityContext={"sysctls": [{"name": "kernel.msgmax"}]}), "forbidden sysctls (kernel.msgmax)"),
        (
            spec_of({"appArmorProfile": {"type": "Unconfined"}}),
            'forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")',
        ),
        (
            spec_of(securityContext={"windowsOptions": {"hostProcess": True}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (spec_of(), ""),
    ],
)
def test_baseline_forbids_what_breaks_out(template: Any, expected: str) -> None:
    assert ", ".join(map(str, violations("baseline", 34, template))) == expected
    assert violations("privileged", 34, template) == []


def test_restricted_wants_everything_said() -> None:
    assert ", ".join(map(str, violations("restricted", 34, spec_of()))) == (
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or '
        '"Localhost")'
    )
    assert violations("restricted", 34, spec_of(GOOD)) == []
    volumes = [{"name": "v", "nfs": {}}, {"name": "w", "secret": {}}]
    assert [str(v) for v in violations("restricted", 34, spec_of({**GOOD, "runAsUser": 0}, volumes=volumes))] == [
        'restricted volume types (volume "v" uses restricted volume type "nfs")',
        'runAsUser=0 (container "c" must not set runAsUser=0)',
    ]


def test_a_version_keeps_the_rules_of_its_time() -> None:
    sysctl = spec_of(securityContext={"sysctls": [{"name": "net.ipv4.tcp_rmem"}]})
    assert [len(violations("baseline", minor, sysctl)) for minor in (31, 32, 99)] == [1, 0, 0]
    windows = spec_of({"runAsNonRoot": True}, os={"name": "windows"})
    assert [len(violations("restricted", minor, windows)) for minor in (7, 8, 19, 22, 25)] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("labels", "enforce", "warn"),
    [
        ({}, "privileged:latest", "privileged:latest"),
        ({"enforce": "baseline"}, "baseline:latest", "baseline:latest"),
        ({"enforce": "baseline", "enforce-version": "v1.24"}, "baseline:v1.24", "baseline:v1.24"),
        ({"enforce": "baseline", "warn": "restricted"}, "baseline:latest", "restricted:latest"),
        ({"enforce": "restricted", "warn": "privileged"}, "restricted:latest", "privileged:latest"),
        ({"enforce": "nonsense"}, "restricted:latest", "privileged:latest"),
    ],
)
def test_labels_choose_the_standard(labels: dict[str, str], enforce: str, warn: str) -> None:
    policy, _ = policy_of({PREFIX + key: value for key, value in labels.items()})
    assert (str(policy.enforce), str(policy.warn)) == (enforce, warn)


def label(objects: Any, **labels: str) -> dict[str, Any]:
    namespace = {
        "metadata": {"name": "default", "labels": {PREFIX + k.replace("_", "-"): v for k, v in labels.items()}}
    }
    objects.add("namespaces", namespace)
    return namespace


async def test_a_pod_that_violates_is_refused_and_one_that_would_is_warned_of(objects: Any, ask: Any, pod: Any) -> None:
    label(objects, enforce="baseline", warn="restricted")
    with pytest.raises(Forbidden) as refused:
        await PodSecurity(objects).validate(ask(CREATE, "pods", pod({"hostPID": True})))
    assert refused.value.message == (
        'pods "web" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)'
    )
    req = ask(CREATE, "pods", pod({"securityContext": {"runAsUser": 0}}, securityContext=GOOD))
    await PodSecurity(objects).validate(req)
    assert req.warnings == ['would violate PodSecurity "restricted:latest": runAsUser=0 (pod must not set runAsUser=0)']


async def test_a_workload_is_never_refused_only_warned_of(objects: Any, ask: Any) -> None:
    label(objects, enforce="baseline")
    job = {"metadata": {"name": "j"}, "spec": {"jobTemplate": {"spec": {"template": spec_of(hostIPC=True)}}}}
    req = ask(CREATE, "cronjobs", job, group="batch")
    await PodSecurity(objects).validate(req)
    assert req.warnings == ['would violate PodSecurity "baseline:latest": host namespaces (hostIPC=true)']


async def test_an_update_that_changes_no_container_is_not_judged_again(objects: Any, ask: Any, pod: Any) -> None:
    label(objects, enforce="baseline")
    plug, old = PodSecurity(objects), pod({"hostPID": True})
    await plug.validate(ask(UPDATE, "pods", pod({"hostPID": True}), old))
    with pytest.raises(Forbidden):
        await plug.validate(ask(UPDATE, "pods", pod({"hostPID": True}, image="new"), old))
    ephemeral = pod({"hostPID": True, "ephemeralContainers": [{"name": "debug", "image": "i"}]})
    with pytest.raises(Forbidden):
        await plug.validate(ask(UPDATE, "pods", ephemeral, old, subresource="ephemeralcontainers"))


async def test_a_stricter_namespace_warns_about_the_pods_it_has(objects: Any, ask: Any, pod: Any) -> None:
    old = label(objects)
    for name in ("b", "a", "c"):
        bad = pod({"hostPID": name != "c", "hostIPC": name == "c"}, securityContext={"privileged": name == "c"})
        objects.add("pods", {**bad, "metadata": {"name": name, "namespace": "default"}})
    req = ask(UPDATE, "namespaces", label(objects, enforce="baseline"), old, name="default")
    await PodSecurity(objects).validate(req)
    assert req.warnings == [
        'existing pods in namespace "default" violate the new PodSecurity enforce level "baseline:latest"',
        "a (and 1 other pod): host namespaces",
        "c: host namespaces, privileged",
    ]


async def test_a_label_that_means_nothing_is_refused_when_it_is_new(objects: Any, ask: Any) -> None:
    bad = label(objects, enforce="hard", warn_version="1.2")
    with pytest.raises(Invalid) as refused:
        await PodSecurity(objects).validate(ask(CREATE, "namespaces", bad, name="default"))
    assert refused.value.message == (
        'Namespace "default" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "hard": '
        "must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: "
        'Invalid value: "1.2": must be "latest" or "v1.x"]'
    )
    await PodSecurity(objects).validate(ask(UPDATE, "namespaces", bad, bad, name="default"))
