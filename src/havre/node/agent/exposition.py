"""The agent's metrics in the text format that Prometheus scrapes, under the names that dashboards know.

    /metrics/resource   what metrics-server and autoscalers read: CPU time and working set by container, pod, node
    /metrics/cadvisor   the core of what cAdvisor shows of containers, and of the machine
    /metrics            the agent itself

Source: prometheus.io, "Exposition formats"; k8s.io/kubernetes, pkg/kubelet/metrics; github.com/google/cadvisor,
metrics/prometheus.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from havre.api.meta import Obj
from havre.node.agent.stats import ContainerUse, Interface, PodUse, Reading, Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NANO = 1_000_000_000


@dataclass(slots=True)
class Text:
    """Samples by metric, in the order they are first said."""

    _families: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self, name: str, kind: str, about: str, value: float | None, labels: Mapping[str, str] | None = None,
        at: int = 0,
    ) -> None:  # fmt: skip
        """One sample, `at` milliseconds since the epoch (0: when it is scraped); nothing when the value is unknown."""
        if value is None:
            return
        lines = self._families.setdefault(name, [f"# HELP {name} {about}", f"# TYPE {name} {kind}"])
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in (labels or {}).items())
        stamp = f" {at}" if at else ""
        lines.append(f"{name}{{{inner}}} {_number(value)}{stamp}" if inner else f"{name} {_number(value)}{stamp}")

    def encode(self) -> bytes:
        return "".join(f"{line}\n" for lines in self._families.values() for line in lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def resource(reading: Reading | None, pods: Sequence[Obj]) -> bytes:
    """Of `/metrics/resource`; without a reading only that there is none."""
    text = Text()
    if reading is not None:
        known = {pod["metadata"]["uid"]: pod for pod in pods}
        _usage(text, "node", {}, reading.node.usage)
        for pod in reading.pods:
            labels = {"pod": pod.name, "namespace": pod.namespace}
            starts = container_starts(known.get(pod.uid))
            for container in pod.containers:
                named = {"container": container.name, **labels}
                _usage(text, "container", named, container.usage)
                about = "Start time of the container since unix epoch in seconds"
                text.add("container_start_time_seconds", "gauge", about, starts.get(container.name), named)
            _usage(text, "pod", labels, pod.usage)
    about = "1 if there was an error while getting container metrics, 0 otherwise"
    failed = int(reading is None)
    text.add("resource_scrape_error", "gauge", about, failed)
    text.add("scrape_error", "gauge", f"(Deprecated since 1.29.0) {about}", failed)
    return text.encode()


def _usage(text: Text, who: str, labels: Mapping[str, str], usage: Usage) -> None:
    at = usage.time // 1_000_000
    cpu = usage.cpu / _NANO if usage.cpu is not None else None
    text.add(
        f"{who}_cpu_usage_seconds_total", "counter",
        f"Cumulative cpu time consumed by the {who} in core-seconds", cpu, labels, at,
    )  # fmt: skip
    about = f"Current working set of the {who} in bytes"
    text.add(f"{who}_memory_working_set_bytes", "gauge", about, usage.working_set, labels, at)
    about = f"Current swap usage of the {who} in bytes. Reported only on non-windows systems"
    text.add(f"{who}_swap_usage_bytes", "gauge", about, usage.swap, labels, at)


_Of = Callable[[Usage], float | None]
_CADVISOR: tuple[tuple[str, str, str, _Of], ...] = (
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.",
     lambda u: u.cpu / _NANO if u.cpu is not None else None),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when "
     "it was accessed", lambda u: u.memory),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", lambda u: u.working_set),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", lambda u: u.rss),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", lambda u: u.swap),
    ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.",
     lambda u: u.major_page_faults),
)  # fmt: skip


def cadvisor(reading: Reading, pods: Sequence[Obj]) -> bytes:
    """Of `/metrics/cadvisor`: containers, pods (with an empty `container`), and the machine."""
    text = Text()
    machine = reading.node
    known = {pod["metadata"]["uid"]: pod for pod in pods}
    text.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", machine.cpus)
    text.add("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", machine.memory_total)
    _container_metrics(
        text, {"container": "", "id": "/", "image": "", "name": "", "namespace": "", "pod": ""}, machine.usage
    )
    for pod in reading.pods:
        images, starts = container_images(known.get(pod.uid)), container_starts(known.get(pod.uid))
        for container in pod.containers:
            _container(text, pod, container, images.get(container.name, ""), starts.get(container.name))
        labels = _labels(pod, "", pod.sandbox, "")
        _container_metrics(text, labels, pod.usage)
        text.add(
            "container_processes", "gauge", "Number of processes running inside the container.", pod.processes, labels
        )
        for interface in pod.interfaces:
            _interface_metrics(text, {**labels, "interface": interface.name}, interface)
    return text.encode()


def _interface_metrics(text: Text, labels: Mapping[str, str], interface: Interface) -> None:
    for name, about, value in (
        ("receive_bytes", "bytes received", interface.rx_bytes),
        ("receive_errors", "errors encountered while receiving", interface.rx_errors),
        ("transmit_bytes", "bytes transmitted", interface.tx_bytes),
        ("transmit_errors", "errors encountered while transmitting", interface.tx_errors),
    ):
        text.add(f"container_network_{name}_total", "counter", f"Cumulative count of {about}", value, labels)


def _container(text: Text, pod: PodUse, container: ContainerUse, image: str, start: float | None) -> None:
    labels = _labels(pod, container.name, container.id, image)
    _container_metrics(text, labels, container.usage)
    about = "Number of bytes that are consumed by the container on this filesystem."
    text.add("container_fs_usage_bytes", "gauge", about, container.layer.used, labels)
    about = "Start time of the container since unix epoch in seconds."
    text.add("container_start_time_seconds", "gauge", about, start, labels)


def _container_metrics(text: Text, labels: Mapping[str, str], usage: Usage) -> None:
    for name, kind, about, of in _CADVISOR:
        extra = {"failure_type": "pgmajfault", "scope": "container"} if name.endswith("failures_total") else {}
        if name == "container_cpu_usage_seconds_total":
            extra = {"cpu": "total"}
        text.add(name, kind, about, of(usage), {**labels, **extra}, usage.time // 1_000_000)


def _labels(pod: PodUse, container: str, id: str, image: str) -> dict[str, str]:
    return {
        "container": container,
        "id": f"/kubepods/pod{pod.uid}" + (f"/{id}" if container else ""),
        "image": image,
        "name": id,
        "namespace": pod.namespace,
        "pod": pod.name,
    }


def agent(node: str, version: str, pods: Sequence[Obj], reading: Reading | None) -> bytes:
    """Of `/metrics`."""
    text = Text()
    text.add("kubelet_node_name", "gauge", "The node's name. The count is always 1.", 1, {"node": node})
    about = "A metric with a constant '1' value, labelled by the version that was built."
    text.add("kubernetes_build_info", "gauge", about, 1, {"git_version": version})
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    text.add("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", len(running))
    states: dict[str, int] = {}
    for status in statuses(pods):
        state = next(iter(status.get("state") or {}), "")
        name = {"running": "running", "terminated": "exited", "waiting": "created"}.get(state, "unknown")
        states[name] = states.get(name, 0) + 1
    for name, count in sorted(states.items()):
        text.add("kubelet_running_containers", "gauge", "Number of containers", count, {"container_state": name})
    if reading is not None:
        booted = "Start time of the machine since unix epoch in seconds."
        text.add("node_boot_time_seconds", "gauge", booted, reading.node.booted)
    return text.encode()


def statuses(pods: Iterable[Obj]) -> Iterable[Obj]:
    for pod in pods:
        status = pod.get("status") or {}
        for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
            yield from status.get(kind) or ()


def container_starts(pod: Obj | None) -> dict[str, float]:
    """Seconds since the epoch by container, of those that run."""
    found = {}
    for status in statuses([pod] if pod else ()):
        if started := ((status.get("state") or {}).get("running") or {}).get("startedAt"):
            found[status["name"]] = datetime.fromisoformat(started).timestamp()
    return found


def container_images(pod: Obj | None) -> dict[str, str]:
    return {status["name"]: status.get("image", "") for status in statuses([pod] if pod else ())}
