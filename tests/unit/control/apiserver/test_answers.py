"""Bytes and headers of answers."""

from __future__ import annotations

import gzip
import inspect
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.errors import BadRequest, TooManyRequests
from havre.control.apiserver import answers
from havre.control.apiserver.negotiate import JSON, YAML, Media
from havre.wire.http.message import Response


def head(response: Any) -> dict[str, str]:
    assert isinstance(response, Response)
    return dict(response.headers)


def test_an_answer_says_that_it_must_not_be_kept() -> None:
    found = head(answers.send(200, b"{}"))
    assert (found["content-type"], found["cache-control"]) == ("application/json", "no-cache, private")
    assert found["audit-id"] != head(answers.send(200, b"{}"))["audit-id"]


def test_yaml_and_pretty_json_are_made_from_json() -> None:
    yaml = answers.send(200, b'{"a":[1]}', media=Media(YAML))
    pretty = answers.send(200, b'{"a":1}', media=Media(JSON, pretty=True))
    assert isinstance(yaml, Response)
    assert isinstance(pretty, Response)
    assert (yaml.body, pretty.body) == (b"a:\n- 1\n", b'{\n  "a": 1\n}\n')


@pytest.mark.parametrize(
    ("size", "encodings", "packed"), [(100, "gzip", False), (200_000, "", False), (200_000, "gzip, br", True)]
)
def test_a_large_body_is_packed_for_who_can_unpack_it(size: int, encodings: str, packed: bool) -> None:
    body = b"x" * size
    reply = answers.send(200, body, encodings=encodings)
    assert isinstance(reply, Response)
    assert isinstance(reply.body, bytes)
    assert ("content-encoding" in head(reply)) is packed
    assert (gzip.decompress(reply.body) if packed else reply.body) == body


async def test_a_very_large_body_is_packed_beside_the_loop() -> None:
    body = b"x" * (2 << 20)
    reply = answers.send(200, body, encodings="gzip")
    assert inspect.isawaitable(reply)
    done = await reply
    assert isinstance(done.body, bytes)
    assert gzip.decompress(done.body) == body


async def test_a_long_yaml_is_made_beside_the_loop() -> None:
    reply = answers.send(200, orjson.dumps({"a": "x" * (64 << 10)}), media=Media(YAML))
    assert inspect.isawaitable(reply)
    assert (await reply).body == b"a: " + b"x" * (64 << 10) + b"\n"


# what a real server 1.34 sends for unknown fields of these names
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('unknown field "spec.x"', '299 - "unknown field \\"spec.x\\""'),
        ('unknown field "a\rb"', '299 - "unknown field \\"a\\\\rb\\""'),
        ('unknown field "hé"', '299 - "unknown field \\"hé\\""'),
    ],
)
def test_a_warning_is_quoted(text: str, value: str) -> None:
    assert dict(answers.headers(warnings=[text]))["warning"] == value


@given(st.lists(st.text(max_size=50), max_size=5))
def test_no_warning_ends_its_line(warnings: list[str]) -> None:
    for name, value in answers.headers(warnings=warnings):
        assert name != "warning" or not set(value) & set(map(chr, [*range(32), 127]))


def test_warnings_are_told_once_and_not_without_end() -> None:
    found = [v for k, v in answers.headers(warnings=["a", "a", *(f"{i:0>1000}" for i in range(9))]) if k == "warning"]
    assert found[0] == '299 - "a"'
    assert len(found) == 5


def test_an_error_says_when_to_come_back() -> None:
    reply = answers.error(TooManyRequests("busy", details={"retryAfterSeconds": 7}))
    assert (reply.status, head(reply)["retry-after"]) == (429, "7")
    assert "retry-after" not in head(answers.error(BadRequest("x")))


def test_a_complete_deletion_names_what_is_gone() -> None:
    assert orjson.loads(answers.deleted("deployments", "apps", "d", "u")) == {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "d", "group": "apps", "kind": "deployments", "uid": "u"},
    }  # fmt: skip
