from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.control.apiserver.cache import Entry
from havre.control.apiserver.shelf import Shelf

names = st.sampled_from(["a", "a-", "a.b", "ab", "b"])  # few, so that keys are met again


@given(st.lists(st.tuples(st.booleans(), names, names), max_size=40), names, names, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_shelf_is_a_sorted_dict(steps: list[tuple[bool, str, str]], namespace: str, after: str, limit: int) -> None:
    class Small(Shelf[Entry]):
        CHUNK = 2

    shelf, model = Small(), dict[str, Entry]()
    for adds, ns, name in steps:
        key = f"g/r/{ns}/{name}"
        if adds:
            model[key] = Entry(key, 1, 1, b"")
            shelf.put(model[key])
        elif key in model:
            shelf.remove(key)
            del model[key]
        else:
            with pytest.raises(KeyError):
                shelf.remove(key)
    for prefix in ("g/r/", f"g/r/{namespace}/", f"g/r/{namespace}/{after}"):
        inside = [model[k] for k in sorted(model) if k == prefix or (prefix.endswith("/") and k.startswith(prefix))]
        behind = [e for e in inside if e.key > f"g/r/{namespace}/{after}"]
        assert shelf.count(prefix) == len(inside)
        assert shelf.range(prefix, "", None) == (inside, False)
        assert shelf.range(prefix, f"g/r/{namespace}/{after}", limit) == (behind[:limit], len(behind) > limit)


def test_a_shelf_from_which_everything_was_removed_can_be_filled_again() -> None:
    shelf = Shelf([Entry("g/r/n/a", 1, 1, b"")])
    shelf.remove("g/r/n/a")
    again = Entry("g/r/n/a", 3, 3, b"")
    shelf.put(again)
    assert shelf.range("g/r/", "", None) == ([again], False)


def test_a_shelf_is_true_while_something_is_on_it() -> None:
    shelf = Shelf[Entry]()
    assert not shelf
    shelf.put(Entry("a", 1, 1, b""))
    assert shelf
    shelf.remove("a")
    assert not shelf
