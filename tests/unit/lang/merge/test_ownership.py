"""Several owners of one object: the rules as a table, then laws, then several versions."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.fieldset import FieldSet
from havre.lang.merge.combine import reshaped
from havre.lang.merge.compare import compare
from havre.lang.merge.fields import field_set
from havre.lang.merge.ownership import Conflicts, Owned, Rules, apply, update
from havre.lang.merge.shape import Shape, shape_of
from havre.lang.merge.validate import Mistyped
from havre.lang.schema import Compiler

TEXT = {"type": "string"}
ITEM = {"type": "object", "properties": {"name": TEXT, "value": TEXT, "kind": {**TEXT, "default": "A"}}}
NESTED = {"type": "array", "items": ITEM, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
RAW = {
    "type": "object",
    "properties": {
        "text": TEXT,
        "number": {"type": "number"},
        "flag": {"type": "boolean"},
        "set": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"},
        "list": {"type": "array", "items": TEXT},
        "map": {"type": "object", "additionalProperties": TEXT},
        "whole": {"type": "object", "additionalProperties": TEXT, "x-kubernetes-map-type": "atomic"},
        "struct": {"type": "object", "properties": {"text": TEXT, "other": TEXT}},
        "items": NESTED,
        "pairs": {**NESTED, "x-kubernetes-list-map-keys": ["name", "kind"]},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "any": {},
    },
}
SHAPE = shape_of(Compiler().compile(RAW))
RULES = Rules(SHAPE, "v1")
QUICK = settings(max_examples=50, deadline=None)

Step = tuple[str, str, dict[str, Any]]  # verb, owner, object; a verb with ! is forced


def run(steps: list[Step]) -> tuple[Any, dict[str, Owned]]:
    live: Any = {}
    owners: dict[str, Owned] = {}
    for verb, owner, obj in steps:
        if verb == "update":
            owners = update(RULES, live, obj, owners, owner)
            live = obj
        else:
            live, owners = apply(RULES, live, obj, owners, owner, force=verb.endswith("!"))
    return live, owners


def shown(owners: dict[str, Owned]) -> dict[str, Any]:
    return {owner: json.loads(json.dumps(held.fields.ordered().root)) for owner, held in owners.items()}


TABLE: dict[str, tuple[list[Step], Any, dict[str, Any]]] = {
    "an applier owns what it sends": (
        [("apply", "a", {"text": "1", "struct": {"text": "x"}, "map": {"k": "v"}})],
        {"text": "1", "struct": {"text": "x"}, "map": {"k": "v"}},
        {"a": {"f:map": {"f:k": {}}, "f:struct": {"f:text": {}}, "f:text": {}}},
    ),
    "an updater owns what it changes, with the containers it makes": (
        [("update", "a", {"struct": {"text": "x"}, "items": [{"name": "n"}], "set": ["s"], "list": ["l"]})],
        {"struct": {"text": "x"}, "items": [{"name": "n"}], "set": ["s"], "list": ["l"]},
        {
            "a": {
                "f:items": {".": {}, 'k:{"name":"n"}': {".": {}, "f:name": {}}},
                "f:list": {},
                "f:set": {".": {}, 'v:"s"': {}},
                "f:struct": {".": {}, "f:text": {}},
            }
        },
    ),
    "equal values are shared": (
        [("apply", "a", {"text": "1"}), ("apply", "b", {"text": "1"})],
        {"text": "1"},
        {"a": {"f:text": {}}, "b": {"f:text": {}}},
    ),
    "a shared value stays when one owner gives it up": (
        [("apply", "a", {"text": "1", "flag": True}), ("apply", "b", {"text": "1"}), ("apply", "a", {"flag": True})],
        {"text": "1", "flag": True},
        {"a": {"f:flag": {}}, "b": {"f:text": {}}},
    ),
    "a value given up by its only owner goes": (
        [("apply", "a", {"text": "1", "struct": {"text": "x"}}), ("apply", "a", {"text": "1"})],
        {"text": "1"},
        {"a": {"f:text": {}}},
    ),
    "what nobody owned stays in a struct given up": (
        [("update", "u", {"struct": {"other": "o"}}), ("apply", "a", {"struct": {"text": "x"}}), ("apply", "a", {})],
        {"struct": {"other": "o"}},
        {"u": {"f:struct": {".": {}, "f:other": {}}}},
    ),
    "force takes the field": (
        [("apply", "a", {"text": "1", "flag": True}), ("apply!", "b", {"text": "2"})],
        {"text": "2", "flag": True},
        {"a": {"f:flag": {}}, "b": {"f:text": {}}},
    ),
    "an update takes the field": (
        [("apply", "a", {"text": "1"}), ("update", "b", {"text": "2"})],
        {"text": "2"},
        {"b": {"f:text": {}}},
    ),
    "a removed field is nobody's": (
        [("apply", "a", {"text": "1", "flag": True}), ("update", "b", {"flag": True})],
        {"flag": True},
        {"a": {"f:flag": {}}},
    ),
    "items of two appliers live side by side": (
        [
            ("apply", "a", {"items": [{"name": "1", "value": "x"}]}),
            ("apply", "b", {"items": [{"name": "2"}, {"name": "1"}]}),
            ("apply", "a", {"items": []}),
        ],
        {"items": [{"name": "2"}, {"name": "1"}]},
        {"b": {"f:items": {'k:{"name":"1"}': {".": {}, "f:name": {}}, 'k:{"name":"2"}': {".": {}, "f:name": {}}}}},
    ),
    "an item goes with all that others had put into it unowned": (
        [
            ("apply", "a", {"items": [{"name": "1"}, {"name": "2"}]}),
            ("update", "b", {"items": [{"name": "1", "value": "v"}, {"name": "2"}]}),
            ("apply", "a", {"items": [{"name": "2"}]}),
        ],
        {"items": [{"name": "2"}]},
        {"a": {"f:items": {'k:{"name":"2"}': {".": {}, "f:name": {}}}}},
    ),
    "a key that is left out has its default": (
        [
            ("apply", "a", {"pairs": [{"name": "n"}]}),
            ("apply", "b", {"pairs": [{"name": "n", "kind": "B"}, {"name": "n", "kind": "A", "value": "v"}]}),
        ],
        {"pairs": [{"name": "n", "kind": "B"}, {"name": "n", "kind": "A", "value": "v"}]},
        {
            "a": {"f:pairs": {'k:{"kind":"A","name":"n"}': {".": {}, "f:name": {}}}},
            "b": {
                "f:pairs": {
                    'k:{"kind":"A","name":"n"}': {".": {}, "f:kind": {}, "f:name": {}, "f:value": {}},
                    'k:{"kind":"B","name":"n"}': {".": {}, "f:kind": {}, "f:name": {}},
                }
            },
        },
    ),
    "sets are united": (
        [("apply", "a", {"set": ["x", "y"]}), ("apply", "b", {"set": ["z", "y"]}), ("apply", "a", {"set": ["y"]})],
        {"set": ["z", "y"]},
        {"a": {"f:set": {'v:"y"': {}}}, "b": {"f:set": {'v:"y"': {}, 'v:"z"': {}}}},
    ),
    "atomic values are owned whole": (
        [("apply", "a", {"list": ["x"], "whole": {"k": "v"}}), ("apply!", "b", {"whole": {"l": "w"}})],
        {"list": ["x"], "whole": {"l": "w"}},
        {"a": {"f:list": {}}, "b": {"f:whole": {}}},
    ),
    "free fields merge as deep as they are maps": (
        [("apply", "a", {"free": {"m": {"x": 1}, "l": [{"y": 1}]}}), ("apply", "b", {"free": {"m": {"z": 2}}})],
        {"free": {"m": {"x": 1, "z": 2}, "l": [{"y": 1}]}},
        {
            "a": {"f:free": {"f:l": {}, "f:m": {".": {}, "f:x": {}}}},
            "b": {"f:free": {"f:m": {".": {}, "f:z": {}}}},
        },
    ),
    "a free field may change its kind": (
        [("apply", "a", {"any": {"x": 1}}), ("apply", "a", {"any": [1]}), ("apply", "a", {"any": "text"})],
        {"any": "text"},
        {"a": {"f:any": {}}},
    ),
    "true is not one": (
        [("apply", "a", {"any": 1, "free": {"x": 1}}), ("update", "b", {"any": True, "free": {"x": True}})],
        {"any": True, "free": {"x": True}},
        {"b": {"f:any": {}, "f:free": {"f:x": {}}}},
    ),
    "a null is owned and an empty list is not": (
        [("apply", "a", {"text": None, "set": [], "map": {}, "list": []})],
        {"text": None, "set": [], "map": {}, "list": []},
        {"a": {"f:list": {}, "f:map": {}, "f:text": {}}},
    ),
    "an updater that takes nothing is no owner": (
        [("apply", "a", {"text": "1"}), ("update", "b", {"text": "1"})],
        {"text": "1"},
        {"a": {"f:text": {}}},
    ),
}


@pytest.mark.parametrize(("steps", "live", "owners"), TABLE.values(), ids=TABLE)
def test_owners_and_object_after(steps: list[Step], live: Any, owners: dict[str, Any]) -> None:
    got, held = run(copy.deepcopy(steps))
    assert got == live
    assert shown(held) == owners


@pytest.mark.parametrize(
    ("live", "applied", "contested"),
    [
        ({"text": "1"}, {"text": "2"}, [("f:text",)]),
        ({"struct": {"text": "1", "other": "1"}}, {"struct": {"text": "2"}}, [("f:struct", "f:text")]),
        ({"list": ["x"]}, {"list": ["x", "y"]}, [("f:list",)]),
        ({"items": [{"name": "n", "value": "1"}]}, {"items": [{"name": "n", "value": "2"}]}, [
            ("f:items", 'k:{"name":"n"}', "f:value")
        ]),
        ({"any": {"x": 1}}, {"any": [1]}, [("f:any",)]),
    ],
)  # fmt: skip
def test_changing_what_another_owns_is_a_conflict(live: Any, applied: Any, contested: list[tuple[str, ...]]) -> None:
    owners = update(RULES, {}, live, dict[str, Owned](), "u")
    with pytest.raises(Conflicts) as refused:
        apply(RULES, live, applied, owners, "a")
    assert {owner: list(fields) for owner, fields in refused.value.fields.items()} == {"u": contested}


@pytest.mark.parametrize(
    ("live", "applied", "order"),
    [
        ("abc", "abc", "abc"),
        ("abc", "ca", "bca"),
        ("abc", "xcya", "bxcya"),
        ("abcd", "dx", "abcdx"),
        ("", "ab", "ab"),
        ("ab", "xy", "abxy"),
        ("abc", "bxa", "bcxa"),
        ("abcde", "edcba", "edcba"),
    ],
)
def test_the_applied_order_rules_and_others_keep_their_place(live: str, applied: str, order: str) -> None:
    merged, _ = apply(RULES, {"set": list(live)}, {"set": list(applied)}, dict[str, Owned](), "a")
    assert "".join(merged["set"]) == order


def test_repeated_items_of_a_stored_list_are_replaced_by_one_applied() -> None:
    live = {"items": [{"name": "n", "value": "1"}, {"name": "m"}, {"name": "n", "value": "2"}]}
    owners = update(RULES, {}, live, dict[str, Owned](), "u")
    assert shown(owners)["u"]["f:items"]['k:{"name":"n"}'] == {}
    merged, after = apply(RULES, live, {"items": [{"name": "n", "value": "3"}]}, owners, "a", force=True)
    assert merged == {"items": [{"name": "n", "value": "3"}, {"name": "m"}]}
    assert 'k:{"name":"n"}' not in shown(after)["u"]["f:items"]


def test_ignored_fields_are_never_owned() -> None:
    rules = Rules(SHAPE, "v1", ignored=FieldSet.of(("f:struct",)))
    owners = update(rules, {}, {"struct": {"text": "x"}, "flag": True}, dict[str, Owned](), "u")
    _, after = apply(rules, {}, {"struct": {"text": "x"}}, dict[str, Owned](), "a")
    assert (shown(owners), after) == ({"u": {"f:flag": {}}}, {})


def test_fields_below_what_became_atomic_become_the_whole() -> None:
    fields = FieldSet.decode({"f:whole": {"f:k": {}}, "f:list": {"i:0": {}}, "f:set": {'v:"x"': {}}, "f:text": {}})
    assert reshaped(SHAPE, fields).root == {"f:whole": {}, "f:list": {}, "f:set": {'v:"x"': {}}, "f:text": {}}
    clean = FieldSet.decode({"f:whole": {}, "f:set": {'v:"x"': {}}})
    assert reshaped(SHAPE, clean) is clean


# Several versions: v2 calls `text` `title`, and v0 is gone


def titled(name: str) -> Shape:
    entries = {"type": "object", "additionalProperties": TEXT}
    return shape_of(Compiler().compile({"type": "object", "properties": {"v": TEXT, name: TEXT, "map": entries}}))


PLAIN, TITLED = titled("text"), titled("title")


def convert(value: Any, version: str) -> tuple[Any, Shape] | None:
    if version not in ("v1", "v2"):
        return None
    shape = PLAIN if version == "v1" else TITLED
    if value.get("v", version) == version:
        return value, shape
    old, new = ("title", "text") if version == "v1" else ("text", "title")
    return {"v": version, **{new if key == old else key: item for key, item in value.items() if key != "v"}}, shape


NOBODYS = FieldSet.of(("f:v",))
V1, V2 = Rules(PLAIN, "v1", convert, nobodys=NOBODYS), Rules(TITLED, "v2", convert, nobodys=NOBODYS)


def test_an_owner_in_another_version_conflicts_under_its_own_name() -> None:
    live, owners = apply(V1, {"v": "v1"}, {"v": "v1", "text": "1"}, dict[str, Owned](), "a")
    with pytest.raises(Conflicts) as refused:
        apply(V2, {"v": "v2", "title": "1"}, {"v": "v2", "title": "2"}, owners, "b")
    assert ("f:text",) in refused.value.fields["a"]
    assert live == {"v": "v1", "text": "1"}


def test_an_applier_that_changes_its_version_gives_up_what_it_sends_no_more() -> None:
    _, owners = apply(V1, {"v": "v1"}, {"v": "v1", "text": "1", "map": {"a": "1"}}, dict[str, Owned](), "a")
    live = {"v": "v2", "title": "1", "map": {"a": "1"}}
    merged, after = apply(V2, live, {"v": "v2", "map": {"a": "1"}}, owners, "a", force=True)
    assert merged == {"v": "v2", "map": {"a": "1"}}
    assert after["a"].version == "v2"
    assert shown(after)["a"] == {"f:map": {"f:a": {}}}


def test_what_an_owner_in_another_version_holds_is_not_given_up() -> None:
    _, owners = apply(V1, {"v": "v1"}, {"v": "v1", "text": "1"}, dict[str, Owned](), "a")
    live = {"v": "v2", "title": "1"}
    live, owners = apply(V2, live, {"v": "v2", "title": "1"}, owners, "b", force=True)
    merged, after = apply(V2, live, {"v": "v2"}, owners, "b", force=True)
    assert merged["title"] == "1"
    assert ("f:text",) in after["a"].fields


def test_owners_of_a_version_that_is_gone_are_forgotten() -> None:
    owners = {"old": Owned(FieldSet.of(("f:text",)), "v0"), "new": Owned(FieldSet.of(("f:text",)), "v1")}
    after = update(V1, {"v": "v1", "text": "1"}, {"v": "v1", "text": "1"}, owners, "u")
    assert set(after) == {"new"}
    _, after = apply(V1, {"v": "v1", "text": "1"}, {"v": "v1"}, {"a": Owned(FieldSet.of(("f:text",)), "v0", True)}, "a")
    assert after == {}


# Laws

NAMES = st.sampled_from("xyz")
FITTING = st.fixed_dictionaries(
    {},
    optional={
        "text": NAMES,
        "flag": st.booleans(),
        "set": st.lists(NAMES, unique=True),
        "list": st.lists(NAMES),
        "map": st.dictionaries(NAMES, NAMES),
        "struct": st.fixed_dictionaries({}, optional={"text": NAMES, "other": NAMES}),
        "items": st.lists(
            st.fixed_dictionaries({"name": NAMES}, optional={"value": NAMES}), unique_by=lambda i: i["name"]
        ),
        "free": st.recursive(
            st.dictionaries(NAMES, NAMES | st.integers() | st.booleans() | st.none()),
            lambda inner: st.dictionaries(NAMES, inner | st.lists(inner, max_size=2)),
            max_leaves=5,
        ),
    },
)
HISTORY = st.lists(
    st.tuples(st.sampled_from(["apply!", "update"]), st.sampled_from("abc"), FITTING), min_size=1, max_size=5
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RAW["properties"], "name"]), inner),
    max_leaves=12,
)


@QUICK
@given(HISTORY, FITTING)
def test_applying_twice_changes_nothing(history: list[Step], applied: Any) -> None:
    live, owners = run(history)
    once, after = apply(RULES, live, applied, owners, "z", force=True)
    twice, again = apply(RULES, once, copy.deepcopy(applied), after, "z")
    assert twice is once
    assert again == after


@QUICK
@given(HISTORY, FITTING)
def test_what_is_applied_is_in_the_object_and_owned(history: list[Step], applied: Any) -> None:
    live, owners = run(history)
    before = copy.deepcopy((live, applied, shown(owners)))
    merged, after = apply(RULES, live, applied, owners, "z", force=True)
    claimed = field_set(SHAPE, applied)
    assert (after["z"].fields if "z" in after else FieldSet({})) == claimed
    changed = compare(SHAPE, merged, apply(RULES, merged, applied, dict[str, Owned](), "y")[0])
    assert not changed
    assert (live, applied, shown(owners)) == before


@QUICK
@given(FITTING, FITTING)
def test_a_comparison_is_empty_only_between_equals_and_turns_around(one: Any, two: Any) -> None:
    there, back = compare(SHAPE, one, two), compare(SHAPE, two, one)
    assert bool(there) == (one != two)
    assert there.removed - back.changed == FieldSet({})
    assert back.removed - there.changed == FieldSet({})


@QUICK
@given(ANYTHING, ANYTHING, ANYTHING)
def test_random_json_is_merged_or_refused_as_mistyped(live: Any, applied: Any, new: Any) -> None:
    owners: dict[str, Owned] = {}
    try:
        owners = update(RULES, {}, live, owners, "u")
        merged, owners = apply(RULES, live, applied, owners, "a", force=True)
        update(RULES, merged, new, owners, "w")
    except Mistyped as err:
        assert err.problems  # noqa: PT017


def test_a_value_nested_too_deep_is_refused() -> None:
    deep: Any = "x"
    for _ in range(1500):
        deep = {"x": deep}
    with pytest.raises(Mistyped, match="nested too deep"):
        apply(RULES, {}, {"free": deep}, dict[str, Owned](), "a")
    with pytest.raises(Mistyped, match="nested too deep"):
        update(RULES, {}, {"free": deep}, dict[str, Owned](), "u")
