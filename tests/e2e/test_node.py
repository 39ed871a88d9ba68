"""A whole machine: images pushed, pods run, Services answer, and nothing is left when it goes down."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import images
from tests.support.machine import Machine, eventually, kill, machine, missing

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "-"), pytest.mark.timeout(240)]

IMAGE = "127.0.0.1:5000/web:1"
SERVE = ["/bin/sh", "-c", "hostname > /www/index.html; exec httpd -f -v -h /www -p 8080"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine")) as started:
        source = images.archive(started.home / "web.tar", "registry.example/web:1", cmd=SERVE)
        images.push(source, IMAGE, *started.inside)
        yield started


def deployment(name: str, replicas: int = 2, **container: Any) -> dict[str, Any]:
    labels = {"app": name}
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    one = {"name": "web", "image": IMAGE, "ports": [{"containerPort": 8080}], "readinessProbe": probe, **container}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [one], "terminationGracePeriodSeconds": 1},
            },
        },
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


@pytest.fixture(scope="module")
def web(host: Machine) -> Machine:
    """Two replicas behind a Service with a node port."""
    host.apply(deployment("web"), service("web", type="NodePort"))
    host.kubectl("rollout", "status", "deployment/web", "--timeout=60s", seconds=70)
    return host


def pods(host: Machine, app: str = "web") -> list[dict[str, Any]]:
    return [p for p in host.get("pods", "-l", f"app={app}")["items"] if not p["metadata"].get("deletionTimestamp")]


def answers(host: Machine, url: str) -> set[str]:
    return {host.curl(url).strip() for _ in range(20)}


def test_a_service_answers_from_the_host_by_address_and_node_port(web: Machine) -> None:
    found = web.get("service", "web")["spec"]
    names = {pod["metadata"]["name"] for pod in pods(web)}
    assert len(names) == 2
    eventually("both replicas answer", lambda: answers(web, f"http://{found['clusterIP']}/") == names)
    assert answers(web, f"http://127.0.0.1:{found['ports'][0]['nodePort']}/") == names


def test_a_pod_reaches_services_and_pods_by_name(web: Machine) -> None:
    names = {pod["metadata"]["name"] for pod in pods(web)}
    inside = web.kubectl("exec", "deploy/web", "--", "wget", "-qO-", "http://web.default.svc.cluster.local/").strip()
    assert inside in names
    assert web.kubectl("exec", "deploy/web", "--", "wget", "-qO-", "http://web/").strip() in names


def test_a_pod_reaches_the_api_with_its_token(web: Machine) -> None:
    script = (
        "cd /var/run/secrets/kubernetes.io/serviceaccount; "
        "echo | nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT && "
        "cut -c1-2 token; head -1 ca.crt; cat namespace"
    )
    said = web.kubectl("exec", "deploy/web", "--", "sh", "-c", script)
    assert "ey\n-----BEGIN CERTIFICATE-----\ndefault" in said


def test_a_service_without_endpoints_refuses_at_once(host: Machine) -> None:
    host.apply(service("nobody"))
    address = host.get("service", "nobody")["spec"]["clusterIP"]
    eventually(
        "refused",
        lambda: (
            "Connection refused" in host.run("curl", "-sS", "--max-time", "2", f"http://{address}/", check=False).stderr
            or "Failed to connect"
            in host.run("curl", "-sS", "--max-time", "2", f"http://{address}/", check=False).stderr
        ),
    )


def test_logs_exec_copy_and_port_forward(web: Machine, tmp_path: Path) -> None:
    name = pods(web)[0]["metadata"]["name"]
    web.curl(f"http://{pods(web)[0]['status']['podIP']}:8080/absent")
    eventually("the request is logged", lambda: "404" in web.kubectl("logs", name))
    (tmp_path / "sent").write_text("here\n")
    web.kubectl("cp", str(tmp_path / "sent"), f"{name}:/var/sent")
    assert web.kubectl("exec", name, "--", "cat", "/var/sent") == "here\n"
    failed = web.run("kubectl", "exec", name, "--", "sh", "-c", "exit 7", check=False)
    assert failed.returncode == 7
    forward = subprocess.Popen(
        [*web.inside, "kubectl", "port-forward", name, "0:8080"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=web.env,
    )
    try:
        assert forward.stdout
        line = forward.stdout.readline()
        assert line.startswith("Forwarding from 127.0.0.1:"), line
        port = line.split("->")[0].rpartition(":")[2].strip()
        assert web.curl(f"http://127.0.0.1:{port}/").strip() == name
    finally:
        forward.terminate()
        forward.communicate(timeout=10)


def test_a_rollout_replaces_pods_and_can_be_undone(host: Machine) -> None:
    host.apply(deployment("rolling", 2))
    host.kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", seconds=70)
    before = {pod["metadata"]["name"] for pod in pods(host, "rolling")}
    host.kubectl("set", "env", "deployment/rolling", "COLOUR=green")
    host.kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", seconds=70)
    assert host.kubectl("exec", "deploy/rolling", "--", "sh", "-c", "echo $COLOUR") == "green\n"
    host.kubectl("rollout", "undo", "deployment/rolling")
    host.kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", seconds=70)
    eventually("the old pods are gone", lambda: len(host.get("pods", "-l", "app=rolling")["items"]) == 2)
    assert not before & {pod["metadata"]["name"] for pod in pods(host, "rolling")}
    host.kubectl("scale", "deployment/rolling", "--replicas=0")
    eventually("nothing runs", lambda: not host.get("pods", "-l", "app=rolling")["items"])
    host.kubectl("delete", "deployment", "rolling")


def test_a_job_completes_and_a_failing_container_backs_off(host: Machine) -> None:
    def pod(name: str, script: str) -> dict[str, Any]:
        return {
            "restartPolicy": "Never",
            "containers": [{"name": name, "image": IMAGE, "command": ["sh", "-c", script]}],
        }

    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sums", "namespace": "default"}}
    host.apply(
        {**job, "spec": {"completions": 3, "parallelism": 2, "template": {"spec": pod("sum", "echo $((6 * 7))")}}}
    )
    host.kubectl("wait", "--for=condition=Complete", "job/sums", "--timeout=60s", seconds=70)
    assert host.kubectl("logs", "job/sums").strip() == "42"
    assert host.get("job", "sums")["status"]["succeeded"] == 3
    crashing = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crash", "namespace": "default"}}
    host.apply({**crashing, "spec": {**pod("crash", "echo no; exit 3"), "restartPolicy": "Always"}})

    def waiting() -> bool:
        statuses = host.get("pod", "crash")["status"].get("containerStatuses") or [{}]
        reason: str = (statuses[0].get("state") or {}).get("waiting", {}).get("reason", "")
        return reason == "CrashLoopBackOff"

    eventually("it backs off", waiting)
    last = host.get("pod", "crash")["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (3, "Error")
    host.kubectl("delete", "pod", "crash", "--now")


def test_limits_reach_the_kernel_and_a_greedy_container_is_killed(host: Machine) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy", "namespace": "default"}}
    container = {
        "name": "greedy",
        "image": IMAGE,
        "command": ["sh", "-c", "head -c 200m /dev/zero | tail"],
        "resources": {"limits": {"memory": "32Mi", "cpu": "500m"}},
    }
    host.apply({**pod, "spec": {"restartPolicy": "Never", "containers": [container]}})
    eventually("it ended", lambda: host.get("pod", "greedy")["status"]["phase"] in ("Failed", "Succeeded"))
    state = host.get("pod", "greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert state["reason"] == "OOMKilled"
    host.kubectl("delete", "pod", "greedy", "--now")


def test_an_image_that_is_not_there_says_so(host: Machine) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "absent", "namespace": "default"}}
    host.apply({**pod, "spec": {"containers": [{"name": "a", "image": "127.0.0.1:5000/absent:1"}]}})

    def waiting() -> str:
        statuses = host.get("pod", "absent")["status"].get("containerStatuses") or [{}]
        reason: str = (statuses[0].get("state") or {}).get("waiting", {}).get("reason", "")
        return reason

    eventually("the reason is told", lambda: waiting() in ("ErrImagePull", "ImagePullBackOff"))
    host.kubectl("delete", "pod", "absent", "--now")


def test_killing_any_process_fails_no_request_and_restarts_no_container(web: Machine) -> None:
    address = web.get("service", "web")["spec"]["clusterIP"]
    before = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["containerID"] for p in pods(web)}
    request = f"curl -sS --max-time 2 -o /dev/null http://{address}/ || echo failed"
    script = f"while [ ! -e {web.home}/enough ]; do {request}; done"
    load = subprocess.Popen(
        [*web.inside, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for name in ("node", "control", "platform", "supervisor"):
            killed = web.processes()[name]
            kill(killed)
            eventually(f"{name} is back", lambda n=name, k=killed: web.processes().get(n, k) != k, 60)  # type: ignore[misc]
            eventually("the API answers", lambda: web.run("kubectl", "get", "nodes", check=False).returncode == 0)
    finally:
        (web.home / "enough").touch()
        said = load.communicate(timeout=20)[0]
    assert said == ""
    web.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s", seconds=70)
    assert {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["containerID"] for p in pods(web)} == before
    assert [p["status"]["containerStatuses"][0]["restartCount"] for p in pods(web)] == [0, 0]


def test_an_image_comes_through_a_mirror(web: Machine) -> None:
    mirror = web.data / "certs.d/_default/hosts.toml"
    mirror.parent.mkdir(parents=True)
    mirror.write_text('[host."http://127.0.0.1:5000"]\n')
    body = deployment("mirrored", replicas=1, image="registry.example/web:1")
    web.apply(body)
    web.kubectl("rollout", "status", "deployment/mirrored", "--timeout=30s", seconds=40)
    web.kubectl("delete", "deployment", "mirrored", "--wait=false")


def leftovers(host: Machine) -> list[str]:
    """What an instance leaves on the machine: its home is in the path of all its mounts and processes."""
    home = str(host.home)
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line]
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if home in command and "pytest" not in command:
                processes.append(command)
    links = subprocess.run(["ip", "-n", host.name, "-br", "link"], capture_output=True, text=True, check=True).stdout
    tables = subprocess.run([*host.inside, "nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    interfaces = [line for line in links.splitlines() if not line.startswith("lo ")]
    return [*mounts, *processes, *interfaces, *tables.splitlines()]


def test_down_leaves_nothing_and_up_finds_the_world_again(web: Machine) -> None:
    cgroups = sorted(Path("/sys/fs/cgroup").rglob("kubepods"))
    web.down()
    assert leftovers(web) == []
    assert len(sorted(Path("/sys/fs/cgroup").rglob("kubepods"))) < len(cgroups)
    web.up()
    web.kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=60s", seconds=70)
    address = web.get("service", "web")["spec"]["clusterIP"]
    eventually("it answers again", lambda: web.run("curl", "-sS", f"http://{address}/", check=False).returncode == 0)


def test_uninstall_leaves_nothing_of_the_instance(web: Machine) -> None:
    done = subprocess.run(web.havre("uninstall", "--yes"), capture_output=True, text=True, env=web.env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert leftovers(web) == []
    assert not web.data.exists()
    assert not (web.home / "run").exists()
