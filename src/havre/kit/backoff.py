"""How long to wait before the next attempt: exponential, capped, jittered; pure, so the caller owns clock and chance.

    wait = Backoff(base=1.0, factor=2.0, cap=300.0)
    [wait.delay(attempt) for attempt in range(4)]        # 1, 2, 4, 8 seconds

Source: k8s.io/apimachinery, pkg/util/wait (Backoff, Jitter); k8s.io/client-go, util/workqueue rate limiters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Chance = Callable[[], float]  # uniform in [0, 1), such as random.random


def delay(attempt: int, base: float, factor: float, cap: float) -> float:
    """Seconds before attempt number `attempt` + 1, counted from 0: base × factor^attempt, at most `cap`."""
    if attempt < 0:
        raise ValueError(f"back off before attempt {attempt}: attempts are counted from 0")
    try:
        return min(base * factor**attempt, cap)
    except OverflowError:  # factor^1100 is beyond a float; long before that the cap holds
        return cap


def jittered(seconds: float, jitter: float, chance: Chance) -> float:
    """Between `seconds` and `seconds` × (1 + jitter), so that those who failed together do not come back together."""
    return seconds * (1.0 + jitter * chance())


@dataclass(frozen=True, slots=True)
class Backoff:
    """One policy of waiting; `base` and `cap` in seconds, `jitter` as a share of the wait."""

    base: float
    factor: float = 2.0
    cap: float = 300.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.base < 0 or self.factor < 1 or self.cap < self.base or self.jitter < 0:
            raise ValueError(f"{self}: base and jitter must not be negative, factor at least 1, cap at least base")

    def delay(self, attempt: int, chance: Chance | None = None) -> float:
        """Seconds before the next attempt; without `chance` there is no jitter."""
        seconds = delay(attempt, self.base, self.factor, self.cap)
        return jittered(seconds, self.jitter, chance) if chance else seconds
