"""How long a container that ended waits before its restart: at once, then 10 s, 20 s … 300 s; a good run resets.

The next wait is written on each container when it is made (`names.BACK_OFF`), so that it survives the agent; what it
is follows from the container before. Pure.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime (doBackOff), k8s.io/client-go util/flowcontrol/backoff.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from havre.node.agent.cri import ContainerStatus, State

FIRST: Final = 10.0  # seconds; kubelet's numbers
LONGEST: Final = 300.0
GOOD_RUN: Final = 600.0  # seconds, twice the longest wait: who ran longer has recovered


def next_wait(previous: ContainerStatus | None, hash: str, now: float) -> float:
    """What to write on the successor of `previous`: how long after its end *its* successor waits."""
    if previous is None or previous.hash != hash:
        return 0.0
    if _ran(previous, now) > GOOD_RUN or not previous.back_off:
        return FIRST
    return min(2 * previous.back_off, LONGEST)


def waits_until(newest: ContainerStatus | None, ended: ContainerStatus | None, hash: str, now: float) -> float:
    """When the container may be started (again), in seconds since the epoch; the past means now.

    `newest` is its last instance; `ended` the last that has ended, the same or the one before.
    """
    if newest is None or ended is None or newest.hash != hash:
        return 0.0
    if _ran(newest, now) > GOOD_RUN:
        return 0.0
    return ended.finished + newest.back_off


def _ran(container: ContainerStatus, now: float) -> float:
    end = container.finished if container.state is State.EXITED else now
    return end - container.started if container.started else 0.0


@dataclass(slots=True)
class Attempts:
    """Back-off of things that only the agent remembers (image pulls): by key, 10 s doubling to 300 s.

    Forgotten ten minutes after the last failure; `now` is the caller's monotonic clock.
    """

    _held: dict[str, tuple[float, float]] = field(default_factory=dict)  # key: (wait, failed at)

    def left(self, key: str, now: float) -> float:
        """Seconds until it may be tried again."""
        wait, at = self._held.get(key, (0.0, 0.0))
        return max(0.0, at + wait - now)

    def failed(self, key: str, now: float) -> float:
        """It was tried and failed: how long to wait."""
        self._held = {k: (wait, at) for k, (wait, at) in self._held.items() if now - at <= GOOD_RUN}
        wait = min(2 * self._held[key][0], LONGEST) if key in self._held else FIRST
        self._held[key] = wait, now
        return wait

    def forget(self, key: str) -> None:
        self._held.pop(key, None)
