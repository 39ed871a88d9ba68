"""JSONPath: client-go's tables, and what kubectl 1.32 printed for a Deployment."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import jsonpath

STORE = {
    "Name": "jsonpath",
    "Book": [
        {"Category": "reference", "Author": "Nigel Rees", "Price": 8.95},
        {"Category": "fiction", "Author": "Evelyn Waugh", "Price": 12.99},
        {"Category": "fiction", "Author": "Herman Melville", "Price": 8.99},
    ],
    "Bicycle": [{"Color": "red", "Price": 19.95, "IsNew": True}, {"Color": "green", "Price": 20.01, "IsNew": False}],
    "Labels": {"engieer": 10, "web/html": 15, "k8s-app": 20, "a.b/c": 5},
}
POINTS = [{"id": "i1", "x": 4}, {"id": "i2", "x": -2, "z": 1}, {"id": "i5", "z": 1}, {"id": "i7", "x": None}]
NODES = {
    "kind": "List",
    "items": [
        {
            "kind": "None",
            "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
            "status": {
                "capacity": {"cpu": "4"},
                "ready": True,
                "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}],
            },
        },
        {
            "kind": "None",
            "metadata": {"name": "127.0.0.2", "labels": {"kubernetes.io/hostname": "127.0.0.2"}},
            "status": {
                "capacity": {"cpu": "8"},
                "ready": False,
                "addresses": [
                    {"type": "LegacyHostIP", "address": "127.0.0.2"},
                    {"type": "another", "address": "127.0.0.3"},
                ],
            },
        },
    ],
    "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"password": "secret"}}],
}
LISTS = {"bools": [True, False, True, False], "floats": [1.0, 2.2, 3.3, 4.0], "mixed": [True, "one", 1, 1.1, None]}


@pytest.mark.parametrize(
    ("template", "obj", "text"),
    [
        ("hello jsonpath", None, "hello jsonpath"),
        ("{..}", [1, 2, 3], "[1,2,3]"),
        ("{[?(@<5)]}", [2, 6, 3, 7], "2 3"),
        ('{"{"}', None, "{"),
        ("{[1,3,4]}", [0, 1, 2, 3, 4], "1 3 4"),
        ("{[0:2]}", ["Monday", "Tuesday"], "Monday Tuesday"),
        ("hello {.Name}", STORE, "hello jsonpath"),
        ("{$.Labels.web/html}", STORE, "15"),
        ("{.Labels.k8s-app}", STORE, "20"),
        (r"{.Labels.a\.b/c}", STORE, "5"),
        ("{.Bicycle[*].Color}", STORE, "red green"),
        ('{range .Bicycle[*]}{ "{" }{ @.* }{ "} " }{end}', STORE, "{red 19.95 true} {green 20.01 false} "),
        ("{..Price}", STORE, "8.95 12.99 8.99 19.95 20.01"),
        ("{...Price}", STORE, "8.95 12.99 8.99 19.95 20.01"),
        ('{range .Bicycle[*]}{ @ }{ " " }{end}', {"Bicycle": [{"b": 1, "a": "<"}]}, '{"a":"\\u003c","b":1} '),
        ("{.Book[-1:].Author}", STORE, "Herman Melville"),
        ("{..Book[2].Author}", STORE, "Herman Melville"),
        ("{.Bicycle[?(@.IsNew==true)].Color}", STORE, "red"),
        ("{.Book[?(@.Price>=8.99)].Price}", STORE, "12.99 8.99"),
        ("{.Book[?(@.Author!='Nigel Rees')].Price}", STORE, "12.99 8.99"),
        ('{.Book[?(@.Author=="a)")].Price}x', STORE, "x"),
        ("{[?(@.z)].id}", POINTS, "i2 i5"),
        ("{[0]['id']}", POINTS, "i1"),
        ("{[-1]['x']}", POINTS, "null"),
        ("{range .items[*]}{.metadata.name}, {end}{.kind}", NODES, "127.0.0.1, 127.0.0.2, List"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{end}', NODES, "127.0.0.1\t127.0.0.2\t"),
        ("{range .items[*]}{.metadata.name};", NODES, "127.0.0.1;127.0.0.2;"),
        (
            "{range .items[*]}{range .status.addresses[*]}{.address}, {end}{end}",
            NODES,
            "127.0.0.1, 127.0.0.2, 127.0.0.3, ",
        ),
        (
            "{.items[*]['metadata.name', 'status.capacity']}",
            NODES,
            '127.0.0.1 127.0.0.2 {"cpu":"4"} {"cpu":"8"}',
        ),
        ('{.users[?(@.name=="e2e")].user.password}', NODES, "secret"),
        (r"{.items[0].metadata.labels.kubernetes\.io/hostname}", NODES, "127.0.0.1"),
        (r'{.items[?(@.metadata.labels.kubernetes\.io/hostname=="127.0.0.2")].kind}', NODES, "None"),
        ("{.items[?(@..ready==true)].metadata.name}", NODES, "127.0.0.1"),
        ("{range .items[*]}{.nope}{range @.also[*]}{.x}{end}+{end}", {"items": []}, ""),
        ("{ .bools }", LISTS, "[true,false,true,false]"),
        ("{ .bools[-1] }", LISTS, "false"),
        ("{ .bools[:4:2] }", LISTS, "true true"),
        ("{ .bools[1::2] }", LISTS, "false false"),
        ("{ .bools[1:1] }", LISTS, ""),
        ("{ .floats[1:3] }", LISTS, "2.2 3.3"),
        ("{ .floats[0:2] }", LISTS, "1 2.2"),
        ("{ .mixed[*] }", LISTS, "true one 1 1.1 null"),
        (r"""{"a\"b"}{'c\'d'}{"\u00e9\x41\101\n"}""", None, "a\"bc'déAA\n"),
        ("{3}{-1.5}{true}", None, "3-1.5true"),
        ("{}", 5, "5"),
        ("", None, ""),
    ],
)
def test_a_template_is_rendered_as_kubectl_renders_it(template: str, obj: Any, text: str) -> None:
    assert jsonpath.Template.parse(template).render(obj) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{hello}", "unrecognized identifier hello"),
        ("{.hello}", "hello is not found"),
        ("{.Labels[0]}", "map[string]interface {} is not array or slice"),
        ("{.Name[?(@.x)]}", "jsonpath is not array or slice and cannot be filtered"),
        ("{.Book[?(@.Price<>10)]}", "unrecognized filter operator <>"),
        ("{range .Labels.*}{@}{end}{end}", "not in range, nothing to end"),
        ("{............Price}", "invalid multiple recursive descent"),
        ("{.Name", "unclosed action"),
        ("{.Book[", "unterminated array"),
        ("{.Book[a]}", "invalid array index a"),
        ("{.Book[5]}", "array index out of bounds: index 5, length 3"),
        ("{.Book[0:9]}", "array index out of bounds: index 8, length 3"),
        ("{.Book[2:1]}", "starting index 2 is greater than ending index 1"),
        ("{.Book[::0]}", "step must be > 0"),
        ("{.Book[?(@.Price}", "unterminated filter"),
        ("{.Book[?(@.Price)}", "unclosed array expect ]"),
        ("{.Book[?(@.Price=='x')]}", "incompatible types for comparison"),
        ("{.Book[?(@.*==1)]}", "can only compare one element at a time"),
        ('{"open}', "unterminated quoted string"),
        (r'{"\q"}', r'unquote string "\q" error invalid syntax'),
        ("{-}", "cannot parse number -"),
        ("{!}", "unrecognized character in action: U+0021 '!'"),
    ],
)
def test_a_bad_template_is_refused_in_the_words_of_kubectl(template: str, message: str) -> None:
    with pytest.raises(jsonpath.JSONPathError) as error:
        jsonpath.Template.parse(template).render(STORE)
    assert str(error.value) == message


def test_missing_keys_may_be_allowed() -> None:
    assert jsonpath.Template.parse("before-{.hello}after", allow_missing=True).render(STORE) == "before-after"
    assert jsonpath.Template.parse("{.a}{.b}", allow_missing=True).find({"b": 1}) == [[], [1]]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".Name", ["jsonpath"]),
        (".Labels.k8s-app", [20]),
        (".nope.deeper", []),
        (".Name.deeper", []),
        (".Book[*].Price", [8.95, 12.99, 8.99]),
        ('.Book[?(@.Category=="reference")].Author', ["Nigel Rees"]),
        (".Book[0]['Author']", ["Nigel Rees"]),
        (r".Labels.a\.b/c", [5]),
    ],
)
def test_a_column_gives_the_values_at_its_path(path: str, values: list[Any]) -> None:
    assert jsonpath.compile(path)(STORE) == values


def test_a_column_is_one_path() -> None:
    with pytest.raises(jsonpath.JSONPathError, match="it must be one path"):
        jsonpath.compile(".a}{.b")
    with pytest.raises(jsonpath.JSONPathError, match="x is not found"):
        jsonpath.compile(".x", allow_missing=False)({})


def test_templates_are_bounded() -> None:
    with pytest.raises(jsonpath.JSONPathError, match="at most 16384 are read"):
        jsonpath.Template.parse("x" * 20_000)
    with pytest.raises(jsonpath.JSONPathError, match="ranges nest more than 16 levels"):
        jsonpath.Template.parse("{range .a}" * 100)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert len(jsonpath.Template.parse("{..}").find(deep)[0]) == 5000


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from(
            [
                "{",
                "}",
                ".a",
                "..",
                "[*]",
                "[0]",
                "[-1:]",
                "[?(@.a",
                "==",
                '"x"',
                ")]",
                "range ",
                "end",
                "['a',1]",
                "1",
                "\\",
            ]
        )
        | st.text(max_size=2),
        max_size=10,
    ).map("".join),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        max_leaves=8,
    ),
)
def test_any_template_is_rendered_or_refused_with_the_one_error(text: str, obj: Any) -> None:
    for template in (text, f"{{{text}}}"):
        with contextlib.suppress(jsonpath.JSONPathError):
            jsonpath.Template.parse(template).render(obj)
