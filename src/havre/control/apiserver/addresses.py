"""What a Service is given and nobody else may have: cluster addresses and node ports.

What is in use is read from the Services themselves (through the cache), so there is no second record that could
disagree and nothing to repair after a crash; what is given to a write that is still on its way is held until it lands
or fails.

Source: k8s.io/kubernetes, pkg/registry/core/service/storage/alloc.go; the texts of its errors.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Iterator

from havre.api.errors import InternalError, Invalid
from havre.api.meta import Obj
from havre.control.apiserver.cache import Entry, Event
from havre.kit.field import FieldError, invalid

NODE_PORTS = range(30000, 32768)
_NONE = "None"
_WITH_IP = frozenset({"ClusterIP", "NodePort", "LoadBalancer", None, ""})
_WITH_NODE_PORTS = frozenset({"NodePort", "LoadBalancer"})


class Addresses:
    """Allocates from one IPv4 network and one range of ports; lives in the loop thread, so it needs no lock."""

    def __init__(self, cidr: str, ports: range = NODE_PORTS) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._ports = ports
        self._used: dict[str, set[str]] = {}  # service key → what it holds: "10.96.0.10", "30080"
        self._taken: dict[str, int] = {}  # how often each is held; more than 1 only while a write is on its way
        self._random = random.Random()  # noqa: S311  spread, not secrecy

    def load(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._set(entry.key, set(_held(entry.decode())))

    def deliver(self, events: Iterable[Event]) -> None:
        """The Services changed."""
        for event in events:
            self._set(event.entry.key, set() if event.type == "DELETED" else set(_held(event.entry.decode())))

    def _set(self, key: str, held: set[str]) -> None:
        before = self._used.get(key, set())
        self._take(held - before)
        self._give_back(before - held)
        if held:
            self._used[key] = held
        else:
            self._used.pop(key, None)

    def _take(self, items: Iterable[str]) -> None:
        for item in items:
            self._taken[item] = self._taken.get(item, 0) + 1

    def _give_back(self, items: Iterable[str]) -> None:
        for item in items:
            left = self._taken.get(item, 0) - 1
            if left > 0:
                self._taken[item] = left
            else:
                self._taken.pop(item, None)

    def assign(self, obj: Obj, old: Obj | None) -> Callable[[], None]:
        """Fills in clusterIP(s) and node ports of a Service; the returned function ends the hold. Raises Invalid."""
        if obj["kind"] != "Service" or obj["apiVersion"] != "v1":
            return _nothing
        spec = obj.setdefault("spec", {})
        before = (old or {}).get("spec") or {}
        own = set(_held(old)) if old else set()
        errors: list[FieldError] = []
        held: set[str] = set()
        self._assign_ip(spec, before, own, held, errors)
        self._assign_ports(spec, before, own, held, errors)
        if errors:
            raise Invalid.of("", "Service", obj["metadata"].get("name", ""), errors)
        self._assign_health_check(spec, before, own, held)
        if not held:
            return _nothing
        self._take(held)
        done = False

        def release() -> None:
            nonlocal done
            if not done:
                self._give_back(held)
            done = True

        return release

    def _assign_ip(self, spec: Obj, old: Obj, own: set[str], held: set[str], errors: list[FieldError]) -> None:
        if spec.get("type") not in _WITH_IP:
            return
        wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
        if not wanted:
            wanted = old.get("clusterIP") or self._free_ip()
        spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]
        _set_families(spec, errors)
        if wanted == _NONE or wanted in own:
            return
        path = "spec.clusterIPs"
        try:
            address = ipaddress.ip_address(wanted)
        except ValueError:
            return  # the address itself is judged by validation
        if address not in self._network or address in (self._network[0], self._network[-1]):
            why = f"failed to allocate IP {wanted}: the provided network does not match the current range"
            errors.append(invalid(path, [wanted], why))
        elif wanted in self._taken:
            errors.append(invalid(path, [wanted], f"failed to allocate IP {wanted}: provided IP is already allocated"))
        else:
            held.add(wanted)

    def _free_ip(self) -> str:
        """A free address; the first 16 … 256 of a larger network are left to those who choose (KEP-3070)."""
        size = self._network.num_addresses - 2
        offset = min(max(16, size // 16), 256) if size > 16 else 0
        for candidate in self._candidates(range(offset + 1, size + 1), range(1, offset + 1)):
            address = str(self._network[candidate])
            if address not in self._taken:
                return address
        raise Invalid.of("", "Service", "", [invalid("spec.clusterIPs", [], f"no address is free in {self._network}")])

    def _candidates(self, *ranges: range) -> Iterator[int]:
        for numbers in ranges:
            if numbers:
                start = self._random.randrange(len(numbers))
                yield from numbers[start:]
                yield from numbers[:start]

    def _assign_ports(self, spec: Obj, old: Obj, own: set[str], held: set[str], errors: list[FieldError]) -> None:
        """A number belongs to one Service, whatever the protocol; its ports of one number share a node port."""
        if spec.get("type") not in _WITH_NODE_PORTS:
            return
        ports = spec.get("ports") or ()
        fresh = spec.get("allocateLoadBalancerNodePorts") is not False
        before = {(p.get("port"), p.get("protocol", "TCP")): p.get("nodePort") for p in old.get("ports") or ()}
        shared = {p.get("port"): p["nodePort"] for p in reversed(ports) if p.get("nodePort")}
        for index, port in enumerate(ports):
            number = port.get("nodePort") or before.get((port.get("port"), port.get("protocol", "TCP")))
            if not number:
                if not fresh:
                    continue
                number = shared.get(port.get("port")) or self._free_port(held)
            port["nodePort"] = shared[port.get("port")] = number
            item = str(number)
            if item in own or item in held:
                continue
            path = f"spec.ports[{index}].nodePort"
            if number not in self._ports:
                valid = f"The range of valid ports is {self._ports[0]}-{self._ports[-1]}"
                errors.append(invalid(path, number, f"provided port is not in the valid range. {valid}"))
            elif item in self._taken:
                errors.append(invalid(path, number, "provided port is already allocated"))
            else:
                held.add(item)

    def _assign_health_check(self, spec: Obj, old: Obj, own: set[str], held: set[str]) -> None:
        """Where a load balancer asks which nodes have local endpoints. Raises InternalError, as upstream does."""
        if spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
            return
        number = spec.get("healthCheckNodePort") or old.get("healthCheckNodePort") or self._free_port(held)
        spec["healthCheckNodePort"] = number
        item = str(number)
        if item in own:
            return
        if number not in self._ports or item in self._taken or item in held:
            why = "already allocated" if number in self._ports else "not in the valid range"
            raise InternalError.of(
                f"failed to allocate requested HealthCheck NodePort {number}: provided port is {why}"
            )
        held.add(item)

    def _free_port(self, held: set[str]) -> int:
        for number in self._candidates(self._ports):
            item = str(number)
            if item not in self._taken and item not in held:
                return number
        raise Invalid.of(
            "", "Service", "", [invalid("spec.ports", [], "no node port is free; delete a Service or set other ports")]
        )


def _set_families(spec: Obj, errors: list[FieldError]) -> None:
    """This cluster has IPv4 alone; a headless Service without selector names endpoints of any family."""
    if spec["clusterIP"] == _NONE and not spec.get("selector"):
        spec.setdefault("ipFamilies", ["IPv4", "IPv6"])
        spec.setdefault("ipFamilyPolicy", "RequireDualStack")
        return
    if spec.setdefault("ipFamilyPolicy", "SingleStack") == "RequireDualStack":
        why = "this cluster is not configured for dual-stack services"
        errors.append(invalid("spec.ipFamilyPolicy", "RequireDualStack", why))
    families = spec.setdefault("ipFamilies", ["IPv4"])
    for index, family in enumerate(families):
        if family == "IPv6":
            errors.append(invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))


def _held(service: Obj) -> Iterator[str]:
    spec = service.get("spec") or {}
    yield from (ip for ip in spec.get("clusterIPs") or () if ip and ip != _NONE)
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            yield str(port["nodePort"])
    if spec.get("healthCheckNodePort"):
        yield str(spec["healthCheckNodePort"])


def _nothing() -> None:
    """Nothing was held."""
