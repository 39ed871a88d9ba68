"""The last five builds of a Kustomization: `status.history`. Pure.

Source: fluxcd/pkg, apis/meta (history.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from havre.api.meta import Obj, rfc3339
from havre.kit import duration

KEPT: Final = 5


def repeats(old: Sequence[Obj], digest: str, outcome: str, metadata: Mapping[str, str]) -> bool:
    """Whether the newest entry says the same."""
    return bool(old) and (old[0].get("digest"), old[0].get("lastReconciledStatus"), old[0].get("metadata")) == (
        digest,
        outcome,
        dict(metadata),
    )


def told(
    old: Sequence[Obj], digest: str, outcome: str, metadata: Mapping[str, str], now: float, seconds: float
) -> list[Obj]:
    """With one more reconciliation; the one of the same digest comes first and counts on."""
    same = next((each for each in old if each.get("digest") == digest), None)
    entry = {
        "digest": digest,
        "firstReconciled": same["firstReconciled"] if same else rfc3339(now),
        "lastReconciled": rfc3339(now),
        "lastReconciledDuration": duration.format(round(seconds, 6)),
        "lastReconciledStatus": outcome,
        "totalReconciliations": (same["totalReconciliations"] if same else 0) + 1,
        "metadata": dict(metadata),
    }
    return [entry, *(each for each in old if each is not same)][:KEPT]
