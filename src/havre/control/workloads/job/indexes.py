"""Sets of completion indexes as the API writes them: `1,3-5,8`. Pure.

Source: k8s.io/kubernetes, pkg/controller/job/indexed_job_utils.go (orderedIntervals).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


def parse(text: str, below: int) -> frozenset[int]:
    """What cannot be read, and what is not below the number of completions, is left out."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            found.update(range(int(first), min(int(last or first), below - 1) + 1))
    return frozenset(found)


def write(indexes: Collection[int]) -> str:
    """Two neighbours are `1,2`, three are `1-3`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(_run(run) for run in runs)


def _run(run: list[int]) -> str:
    return f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run))


def first_free(count: int, below: int, taken: Iterable[int]) -> list[int]:
    """The lowest indexes that nobody has."""
    busy = set(taken)
    free: list[int] = []
    for index in range(below):
        if len(free) == count:
            break
        if index not in busy:
            free.append(index)
    return free
