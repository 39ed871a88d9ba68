"""Nodes and the pods on them, as a scheduler sees them: sums are kept, not counted again for every pod.

A pod is here from the moment it is assumed to run on a node (decided, not yet written) until it is finished or gone.

Source: k8s.io/kubernetes, pkg/scheduler/backend/cache, pkg/scheduler/framework/types.go (NodeInfo).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from havre.api.amounts import read
from havre.api.meta import Obj, labels_of
from havre.api.pod_resources import pod_total
from havre.kit.quantity import Quantity
from havre.machinery.api import Ref

Ints = dict[str, int]  # cpu in thousandths, all else in units
Port = tuple[str, str, int]  # host IP, protocol, port
_UNSET_CPU, _UNSET_MEMORY = 100, 200 * 1024 * 1024  # what a container that asks for nothing counts for in scores
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def ints(amounts: Mapping[str, Quantity]) -> Ints:
    return {name: amount.milli_value() if name == "cpu" else amount.value() for name, amount in amounts.items()}


@dataclass(frozen=True, slots=True)
class Pod:
    """What decides about a pod."""

    ref: Ref
    uid: str
    obj: Obj
    labels: Mapping[str, str]
    priority: int
    node: str
    requests: Ints
    counted: Ints  # for scores: nobody counts for nothing
    ports: frozenset[Port]

    @classmethod
    def of(cls, obj: Obj) -> Pod:
        spec = obj.get("spec") or {}
        requests = ints(pod_total(obj, "requests", overhead=True))
        return cls(
            ref=Ref.of(obj),
            uid=obj["metadata"]["uid"],
            obj=obj,
            labels=labels_of(obj),
            priority=spec.get("priority") or 0,
            node=spec.get("nodeName") or "",
            requests=requests,
            counted=_counted(spec, requests),
            ports=frozenset(_ports(spec)),
        )

    @property
    def spec(self) -> Obj:
        return self.obj.get("spec") or {}

    @property
    def tolerations(self) -> list[Obj]:
        return self.spec.get("tolerations") or []

    @property
    def namespace(self) -> str:
        return self.ref.namespace

    @property
    def nominated(self) -> str:
        """The node on which room was made for it."""
        return (self.obj.get("status") or {}).get("nominatedNodeName") or ""

    @property
    def leaving(self) -> bool:
        return bool(self.obj["metadata"].get("deletionTimestamp"))


def _counted(spec: Obj, requests: Ints) -> Ints:
    unset = {"cpu": 0, "memory": 0}
    for container in spec.get("containers") or ():
        asked = (container.get("resources") or {}).get("requests") or {}
        unset["cpu"] += 0 if "cpu" in asked else _UNSET_CPU
        unset["memory"] += 0 if "memory" in asked else _UNSET_MEMORY
    return {name: requests.get(name, 0) + unset[name] for name in unset}


def _ports(spec: Obj) -> Iterable[Port]:
    restarting = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *restarting]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("hostIP") or "", port.get("protocol") or "TCP", port["hostPort"]


def clash(one: Port, other: Port) -> bool:
    """The same port, on the same address or on every address."""
    anywhere = one[0] in _ANY_ADDRESS or other[0] in _ANY_ADDRESS
    return one[1:] == other[1:] and (anywhere or one[0] == other[0])


@dataclass(slots=True)
class Node:
    """A node and its pods."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Obj, ...] = ()
    unschedulable: bool = False
    allocatable: Ints = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)  # bytes by name
    known: bool = False  # there is a Node object
    pods: dict[str, Pod] = field(default_factory=dict)
    requested: Ints = field(default_factory=dict)
    counted: Ints = field(default_factory=dict)

    def describe(self, obj: Obj) -> bool:
        """Takes what the Node object says; True if that makes a difference to a waiting pod."""
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        before = (self.known, self.labels, self.taints, self.unschedulable, self.allocatable)
        self.known, self.labels = True, labels_of(obj)
        self.taints = tuple(spec.get("taints") or ())
        self.unschedulable = bool(spec.get("unschedulable"))
        self.allocatable = ints(read(status.get("allocatable") or status.get("capacity")))
        self.images = {n: i.get("sizeBytes", 0) for i in status.get("images") or () for n in i.get("names") or ()}
        return before != (self.known, self.labels, self.taints, self.unschedulable, self.allocatable)

    def add(self, pod: Pod) -> None:
        self.remove(pod.uid)
        self.pods[pod.uid] = pod
        _sum(self.requested, pod.requests, 1)
        _sum(self.counted, pod.counted, 1)

    def remove(self, uid: str) -> None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            _sum(self.requested, pod.requests, -1)
            _sum(self.counted, pod.counted, -1)

    def free(self, name: str) -> int:
        return self.allocatable.get(name, 0) - self.requested.get(name, 0)

    def copy(self) -> Node:
        """To try on it what would be."""
        tried = Node(self.name, self.labels, self.taints, self.unschedulable, self.allocatable, self.images, self.known)
        tried.pods, tried.requested, tried.counted = dict(self.pods), dict(self.requested), dict(self.counted)
        return tried


def _sum(total: Ints, part: Ints, sign: int) -> None:
    for name, amount in part.items():
        total[name] = total.get(name, 0) + sign * amount


class Cluster:
    """All nodes by name; where each pod is."""

    def __init__(self) -> None:
        self.by_name: dict[str, Node] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}  # labels
        self._at: dict[str, str] = {}  # pod uid → node
        self._assumed: set[str] = set()

    @property
    def nodes(self) -> list[Node]:
        return [node for node in self.by_name.values() if node.known]

    def node(self, name: str) -> Node:
        return self.by_name.setdefault(name, Node(name))

    def forget_node(self, name: str) -> None:
        """Its pods stay counted until they are gone, in case it comes back."""
        node = self.by_name.get(name)
        if node is not None:
            node.known = False
            if not node.pods:
                del self.by_name[name]

    def put(self, pod: Pod) -> None:
        """A pod that has its node."""
        if self._at.get(pod.uid) not in (None, pod.node):
            self.drop(pod.uid)
        self._assumed.discard(pod.uid)
        self._at[pod.uid] = pod.node
        self.node(pod.node).add(pod)

    def assume(self, pod: Pod, node: str) -> None:
        """Decided; from now on the next pod sees it there."""
        self._at[pod.uid] = node
        self._assumed.add(pod.uid)
        self.node(node).add(pod)

    def give_up(self, uid: str) -> None:
        """What was assumed did not come true."""
        if uid in self._assumed:
            self.drop(uid)

    def drop(self, uid: str) -> bool:
        """The pod is finished or gone; True if it was on a node."""
        self._assumed.discard(uid)
        name = self._at.pop(uid, None)
        if name is None:
            return False
        self.by_name[name].remove(uid)
        return True

    def has(self, uid: str) -> bool:
        return uid in self._at

    def pods(self) -> Iterable[tuple[Node, Pod]]:
        for node in self.nodes:
            for pod in node.pods.values():
                yield node, pod

    def with_node(self, tried: Node) -> Cluster:
        """The same cluster with another state of one node."""
        other = Cluster()
        other.by_name = {**self.by_name, tried.name: tried}
        other.namespaces = self.namespaces
        return other


def spec_list(spec: Mapping[str, Any], *path: str) -> list[Obj]:
    """`spec.a.b.c` as a list; [] where something is missing."""
    at: Any = spec
    for key in path:
        at = (at or {}).get(key)
    return list(at or ())
