"""YAML: 179 texts and 13 values as sigs.k8s.io/yaml v1.6.0 reads and writes them, and the bounds.

The expected values in tests/data/yaml were made with that Go library: `load.json` with YAMLToJSON and YAMLToJSONStrict,
`dump.json` with JSONToYAML.
"""

from __future__ import annotations

import contextlib
import json as stdlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import json, yaml

DATA = Path(__file__).parents[2] / "data" / "yaml"
LOADED = stdlib.loads((DATA / "load.json").read_text())
DUMPED = stdlib.loads((DATA / "dump.json").read_text())

# errors there too, in words of Go's types, or with the line of the merged key instead of the line of the merge
OTHER_WORDS = {"key:null", "key:~", "merge-after", "merge-list", "nonstr-key-map", "seq-key"}


@pytest.mark.parametrize("name", sorted(LOADED))
def test_a_text_is_read_as_go_reads_it(name: str) -> None:
    case = LOADED[name]
    if "error" in case:
        with pytest.raises(yaml.YAMLError) as error:
            yaml.load(case["text"])
        assert name in OTHER_WORDS or str(error.value) == case["error"]
    else:
        value = yaml.load(case["text"])
        wanted = json.loads(stdlib.dumps(case["value"]))
        assert repr(value) == repr(wanted) or value == wanted


@pytest.mark.parametrize("name", sorted(name for name, case in LOADED.items() if "error" not in case))
def test_strict_reading_refuses_what_go_refuses(name: str) -> None:
    case = LOADED[name]
    if "strict" not in case:
        assert yaml.load(case["text"], strict=True) == yaml.load(case["text"])
        return
    with pytest.raises(yaml.YAMLError) as error:
        yaml.load(case["text"], strict=True)
    assert name in OTHER_WORDS or str(error.value) == case["strict"]


@pytest.mark.parametrize("name", sorted(set(DUMPED) - {"strings"}))
def test_a_value_is_written_as_go_writes_it(name: str) -> None:
    assert yaml.dump(DUMPED[name]["value"]) == DUMPED[name]["text"]
    assert yaml.load(DUMPED[name]["text"]) == DUMPED[name]["value"]


def test_strings_are_quoted_where_go_quotes_them() -> None:
    value = DUMPED["strings"]["value"]
    assert yaml.load(yaml.dump(value)) == value
    leading_break = {"61"}  # libyaml indents the closing quote of a string that begins with a line break
    wanted = dict(
        line.split(": ", 1) for line in DUMPED["strings"]["text"].splitlines() if line.startswith('"') and ": " in line
    )
    written = dict(
        line.split(": ", 1) for line in yaml.dump(value).splitlines() if line.startswith('"') and ": " in line
    )
    assert len(wanted) > 100
    assert {k: v for k, v in written.items() if k not in leading_break} == {
        k: v for k, v in wanted.items() if k not in leading_break
    }


def test_keys_are_sorted_with_numbers_by_value() -> None:
    keys = ["b", "a10", "a2", "a_b", "aB", "AB", "10", "2", "1", "a.b", "é", "ab", "-a", "x1-", "x10", "x1"]
    assert list(yaml.load(yaml.dump(dict.fromkeys(keys)))) == [
        *["-a", "1", "2", "10", "AB", "a.b", "a_b", "a2", "a10", "aB", "ab", "b", "x1", "x1-", "x10", "é"]
    ]


def test_a_stream_is_split_as_kubectl_splits_it() -> None:
    text = "# header\n---\na: 1\n--- # two\nb: |\n  ---\n  x\n---\n---\n# only a comment\n---\n- c\n"
    assert yaml.load_all(text) == [{"a": 1}, {"b": "---\nx\n"}, ["c"]]
    assert yaml.load_all("a: 1\r\n---\r\nb: 2\r\n") == [{"a": 1}, {"b": 2}]
    assert yaml.load_all("") == []
    with pytest.raises(yaml.YAMLError, match="invalid Yaml document separator: x"):
        yaml.load_all("a: 1\n--- x\n")
    with pytest.raises(yaml.YAMLError, match="already set in map"):
        yaml.load_all("a: 1\n---\nb: 1\nb: 2\n", strict=True)


def test_bytes_are_read_as_well_as_text() -> None:
    assert yaml.load("a: é\n".encode()) == {"a": "é"}
    with pytest.raises(yaml.YAMLError):
        yaml.load(b"a: \xff\n")
    with pytest.raises(yaml.YAMLError, match="invalid Unicode"):
        yaml.load("a: \ud800")


def test_a_value_from_an_alias_is_a_copy() -> None:
    value = yaml.load("a: &x {l: [1]}\nb: *x\nc:\n  <<: *x\n")
    value["b"]["l"].append(2)
    assert value["a"] == {"l": [1]}
    assert value["c"] == {"l": [1]}


def test_aliases_cannot_make_a_large_object_of_a_small_text() -> None:
    laughs = ["a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]"]
    laughs += [
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match="document contains excessive aliasing"):
        yaml.load("\n".join(laughs))
    assert time.process_time() - start < 2


def test_depth_is_bounded_with_and_without_aliases() -> None:
    assert yaml.load("[" * 250 + "]" * 250) is not None
    with pytest.raises(yaml.YAMLError, match="more than 250 levels"):
        yaml.load("[" * 251 + "]" * 251)
    with pytest.raises(yaml.YAMLError, match="more than 250 levels"):
        yaml.load(f"a: &a {'[' * 200}{']' * 200}\nb: {'[' * 100}*a{']' * 100}\n")
    with pytest.raises(yaml.YAMLError):
        yaml.load("- " * 20_000)


def test_size_is_bounded() -> None:
    with pytest.raises(yaml.YAMLError, match="has 8 bytes, more than 7"):
        yaml.load("a: 12345", max_bytes=7)
    with pytest.raises(yaml.YAMLError, match="split it"):
        yaml.load_all("a: 12345", max_bytes=7)


def test_long_digits_are_no_trouble() -> None:
    assert yaml.load("9" * 10_000) == "9" * 10_000
    assert yaml.load("1" * 30) == 1.111111111111111e29


def test_what_has_no_yaml_form_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="a set has no YAML form"):
        yaml.dump({"a": {1}})
    with pytest.raises(yaml.YAMLError):
        yaml.dump("\ud800")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: not f.is_integer())
    | st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"),
        max_size=8,
    )
    | st.sampled_from(
        ["yes", "0o7", "1e3", "1:30", "2001-01-01", "a\nb", "a\n\n", " a", "a: b", "<<", "-", "~", "'", '"']
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "y", "1", "<<", "a b", ""]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=50)
@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert yaml.load(yaml.dump(value)) == value
    assert yaml.load(yaml.dump(value), strict=True) == value


@settings(max_examples=50)
@given(st.text(alphabet="ab1:-?&*!|>'\"[]{},#% \n\t~<.e\\x", max_size=40) | st.binary(max_size=20))
def test_any_text_is_read_or_refused_with_the_one_error(text: str | bytes) -> None:
    for strict in (False, True):
        with contextlib.suppress(yaml.YAMLError):
            yaml.load_all(text, strict=strict)
