"""Conditions: what changes the time of a transition, and what leaves others alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.machinery.conditions import Condition, find, merge, remove, shortened

OLD = "2026-01-01T00:00:00Z"
NOW = "2026-02-02T00:00:00Z"


def live(type: str, status: str = "True") -> Obj:
    return {"type": type, "status": status, "reason": "R", "message": "", "lastTransitionTime": OLD}


def test_a_new_condition_begins_now() -> None:
    assert merge([], [Condition("Ready", True, "Succeeded", "fine")], now=NOW, generation=3) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": "fine",
            "lastTransitionTime": NOW,
            "observedGeneration": 3,
        }
    ]


def test_only_a_change_of_status_is_a_transition() -> None:
    (same,) = merge([live("Ready")], [Condition("Ready", True, "Other", "words")], now=NOW)
    assert (same["reason"], same["message"], same["lastTransitionTime"]) == ("Other", "words", OLD)
    (other,) = merge([live("Ready")], [Condition("Ready", None, "R")], now=NOW)
    assert (other["status"], other["lastTransitionTime"]) == ("Unknown", NOW)


def test_conditions_of_others_keep_their_place_and_transient_ones_go() -> None:
    before = [live("Theirs"), live("Stalled"), live("Ready"), live("Reconciling")]
    after = merge(before, [Condition("Ready", True, "R"), Condition("Reconciling", True, "R")], now=NOW)
    assert [c["type"] for c in after] == ["Theirs", "Ready", "Reconciling"]
    assert after[0] == live("Theirs")


def test_find_and_remove() -> None:
    assert find([live("A"), live("B")], "B") == live("B")
    assert find([live("A")], "B") is None
    assert remove([live("A"), live("B"), live("C")], "A", "C") == [live("B")]


def test_a_long_message_is_cut_between_characters() -> None:
    assert shortened("ok", 10) == "ok"
    cut = shortened("é" * 10, 10)
    assert (cut, len(cut.encode())) == ("ééé…", 9)


CONDITIONS = st.lists(
    st.builds(
        Condition, st.sampled_from("ABC"), st.sampled_from([True, False, None]), st.just("R"), st.text(max_size=3)
    ),
    max_size=4,
    unique_by=lambda c: c.type,
)


@settings(max_examples=50)
@given(CONDITIONS, CONDITIONS)
def test_saying_the_same_again_changes_nothing(first: list[Condition], second: list[Condition]) -> None:
    once = merge(merge([], first, now=OLD), second, now=NOW)
    assert merge(once, second, now="later") == once
    assert len({c["type"] for c in once}) == len(once)
