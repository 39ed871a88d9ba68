from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from havre.node.agent import exposition, stats
from havre.node.agent.stats import Disk, Interface, Machine, Reading, Usage, machine_use, pod_use, summary
from havre.wire.grpc.messages import messages

CRI = messages("runtime.v1")
AT = 1_767_261_600_000_000_000  # 2026-01-01T10:00:00Z


def sandbox() -> Any:
    usage = {
        "cpu": {"timestamp": AT, "usage_core_nano_seconds": {"value": 2_500_000_000}, "usage_nano_cores": {"value": 7}},
        "memory": {"timestamp": AT, "working_set_bytes": {"value": 4096}, "usage_bytes": {"value": 8192}},
    }
    container = {
        "attributes": {"id": "c0", "metadata": {"name": "c"}, "labels": {"io.kubernetes.container.name": "c"}},
        "writable_layer": {"used_bytes": {"value": 100}, "inodes_used": {"value": 3}},
        "swap": {"swap_usage_bytes": {"value": 0}},
        **usage,
    }
    network = {"default_interface": {"name": "eth0", "rx_bytes": {"value": 1}, "tx_bytes": {"value": 2}}}
    linux = {"containers": [container], "network": network, "process": {"process_count": {"value": 5}}, **usage}
    attributes = {"id": "s0", "metadata": {"uid": "u", "name": "p", "namespace": "ns"}}
    return CRI.PodSandboxStats(attributes=attributes, linux=linux)


POD = {
    "metadata": {"uid": "u", "name": "p", "namespace": "ns"},
    "status": {
        "phase": "Running",
        "startTime": "2026-01-01T09:00:00Z",
        "containerStatuses": [
            {"name": "c", "image": "nginx:1", "state": {"running": {"startedAt": "2026-01-01T09:00:01Z"}}}
        ],
    },
}


def reading() -> Reading:
    usage = Usage(time=AT, cpu=3_000_000_000, working_set=50, memory=60, rss=40, available=10, swap=0)
    disk = Disk(used=1, capacity=4, available=3, inodes=10, inodes_free=9, inodes_used=1)
    machine = Machine(usage, disk, Disk(used=2), (Interface("eth0", 5, 0, 6, 0),), AT / 1e9 - 60, 2, 100, 32768, 200)
    return Reading(AT / 1e9, machine, (pod_use(sandbox()),))


def test_a_sandbox_of_cri_is_understood() -> None:
    found = pod_use(sandbox())
    assert (found.uid, found.namespace, found.name, found.sandbox, found.processes) == ("u", "ns", "p", "s0", 5)
    assert found.interfaces == (Interface("eth0", 1, 0, 2, 0),)
    assert found.usage == Usage(time=AT, cpu=2_500_000_000, nano_cores=7, working_set=4096, memory=8192)
    (container,) = found.containers
    assert (container.name, container.layer, container.usage.swap) == ("c", Disk(used=100, inodes_used=3), 0)


def test_what_a_runtime_does_not_say_is_unknown() -> None:
    found = pod_use(CRI.PodSandboxStats())
    assert (found.usage, found.interfaces, found.processes, found.containers) == (Usage(), (), None, ())


def test_the_summary_is_that_of_a_kubelet() -> None:
    shown = summary(reading(), "harbour", [POD])
    at = "2026-01-01T10:00:00Z"
    assert shown["node"]["nodeName"] == "harbour"
    assert shown["node"]["startTime"] == "2026-01-01T09:59:00Z"
    assert shown["node"]["cpu"] == {"time": at, "usageCoreNanoSeconds": 3_000_000_000}
    assert shown["node"]["runtime"]["imageFs"] == {"time": at, "usedBytes": 2}
    assert shown["node"]["rlimit"] == {"time": at, "maxpid": 32768, "curproc": 200}
    (pod,) = shown["pods"]
    assert pod["podRef"] == {"name": "p", "namespace": "ns", "uid": "u"}
    assert pod["startTime"] == "2026-01-01T09:00:00Z"
    assert pod["network"]["rxBytes"] == 1
    assert pod["ephemeral-storage"]["usedBytes"] == 100
    assert pod["containers"] == [
        {
            "name": "c",
            "startTime": "2026-01-01T09:00:01Z",
            "cpu": {"time": at, "usageNanoCores": 7, "usageCoreNanoSeconds": 2_500_000_000},
            "memory": {"time": at, "usageBytes": 8192, "workingSetBytes": 4096},
            "swap": {"time": at, "swapUsageBytes": 0},
            "rootfs": {"time": at, "usedBytes": 100, "inodesUsed": 3},
        }
    ]


def test_a_brief_summary_has_cpu_and_memory_alone() -> None:
    shown = summary(reading(), "harbour", [POD], only_cpu_and_memory=True)
    assert sorted(shown["node"]) == ["cpu", "memory", "nodeName", "startTime", "swap"]
    assert sorted(shown["pods"][0]) == ["containers", "cpu", "memory", "podRef", "startTime"]
    assert "rootfs" not in shown["pods"][0]["containers"][0]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    files = {
        "stat": "cpu  100 10 50 999 9 1 2 3 7 0\ncpu0 1 1\nbtime 1767200000\n",
        "meminfo": "MemTotal:  1000 kB\nMemFree:  400 kB\nInactive(file):  100 kB\nAnonPages:  200 kB\n"
        "SwapTotal:  50 kB\nSwapFree:  30 kB\nHugePages_Total:  0\n",
        "vmstat": "nr_free_pages 5\npgfault 77\npgmajfault 8\n",
        "loadavg": "0.1 0.2 0.3 1/234 5678\n",
        "sys/kernel/pid_max": "32768\n",
        "net/dev": "Inter-| Receive | Transmit\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
        "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_machine_is_read_from_proc(proc: Path) -> None:
    machine, usage = machine_use(proc, proc, Disk(used=5), None)
    assert usage.cpu == 166 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert (usage.nano_cores, usage.memory, usage.working_set, usage.available) == (None, 614400, 512000, 512000)
    assert (usage.page_faults, usage.major_page_faults, usage.swap, usage.swap_available) == (77, 8, 20480, 30720)
    assert machine.interfaces == (Interface("eth0", 1, 3, 9, 11),)
    assert (machine.booted, machine.processes, machine.max_pid) == (1767200000, 234, 32768)
    assert (machine.images.used, machine.images.capacity) == (5, machine.disk.capacity)


def test_two_looks_make_a_rate(proc: Path) -> None:
    _, before = machine_use(proc, proc, Disk(), None)
    earlier = Usage(time=before.time - 2_000_000_000, cpu=(before.cpu or 0) - 1_000_000_000)
    _, usage = machine_use(proc, proc, Disk(), earlier)
    assert usage.nano_cores is not None
    assert 100_000_000 < usage.nano_cores <= 500_000_000


def test_this_machine_can_be_read() -> None:
    machine, _ = machine_use(Path("/proc"), Path("/"), Disk(), None)
    assert 0 < (machine.usage.working_set or 0) < machine.memory_total


def test_resource_metrics_are_those_of_metrics_server() -> None:
    lines = exposition.resource(reading(), [POD]).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "node_cpu_usage_seconds_total 3.0 1767261600000",
        "node_memory_working_set_bytes 50 1767261600000",
        "node_swap_usage_bytes 0 1767261600000",
        'container_cpu_usage_seconds_total{container="c",pod="p",namespace="ns"} 2.5 1767261600000',
        'container_memory_working_set_bytes{container="c",pod="p",namespace="ns"} 4096 1767261600000',
        'container_swap_usage_bytes{container="c",pod="p",namespace="ns"} 0 1767261600000',
        'container_start_time_seconds{container="c",pod="p",namespace="ns"} 1767258001.0',
        'pod_cpu_usage_seconds_total{pod="p",namespace="ns"} 2.5 1767261600000',
        'pod_memory_working_set_bytes{pod="p",namespace="ns"} 4096 1767261600000',
        "resource_scrape_error 0",
        "scrape_error 0",
    ]
    assert b"resource_scrape_error 1\n" in exposition.resource(None, [])


def test_cadvisor_metrics_name_container_image_and_pod() -> None:
    text = exposition.cadvisor(reading(), [POD]).decode()
    labels = 'container="c",id="/kubepods/podu/c0",image="nginx:1",name="c0",namespace="ns",pod="p"'
    assert f'container_cpu_usage_seconds_total{{{labels},cpu="total"}} 2.5 1767261600000\n' in text
    assert f"container_fs_usage_bytes{{{labels}}} 100\n" in text
    pod = 'container="",id="/kubepods/podu",image="",name="s0",namespace="ns",pod="p"'
    assert f'container_network_receive_bytes_total{{{pod},interface="eth0"}} 1\n' in text
    assert "machine_cpu_cores 2\n" in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_the_agents_metrics_count_pods_and_containers() -> None:
    text = exposition.agent("harbour", "v1.34.4", [POD], None).decode()
    assert "kubelet_running_pods 1\n" in text
    assert 'kubelet_running_containers{container_state="running"} 1\n' in text


def test_labels_are_escaped() -> None:
    text = exposition.Text()
    text.add("a", "gauge", "A.", 1, {"b": 'x"\\\ny'})
    assert text.encode() == b'# HELP a A.\n# TYPE a gauge\na{b="x\\"\\\\\\ny"} 1\n'


def test_the_modules_agree_on_what_is_unknown() -> None:
    empty = Reading(0.0, reading().node, (pod_use(CRI.PodSandboxStats()),))
    assert stats.summary(empty, "n", [])["pods"][0]["containers"] == []
    assert b"pod_cpu" not in exposition.resource(empty, [])
