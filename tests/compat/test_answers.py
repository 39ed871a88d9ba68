"""The same requests to Havre and to a real kube-apiserver 1.34.4: status, headers and body must be the same.

tests/data/answers/NAME.yaml is a scenario, a list of requests in order; NAME.json holds what the real server answered,
a line each. What differs in every run (uids, times, revisions, tokens) is normalized away; what differs for a reason
stands in KNOWN.

With HAVRE_REFERENCE_KUBECONFIG (a throw-away cluster) the recording is checked against that server, and with
HAVRE_ANSWERS_RECORD=1 written anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

DATA = Path(__file__).parent.parent / "data/answers"
SCENARIOS = sorted(path.stem for path in DATA.glob("*.yaml"))
RECORD = os.environ.get("HAVRE_ANSWERS_RECORD") == "1"
HEADERS = ("content-type", "warning", "retry-after", "allow", "location")
PATIENCE = 10.0  # seconds that a step with `until` may take: the real server establishes a CRD in about one

# "scenario/step" → (the paths that may differ, why). A path that ends in * covers everything below.
_GO = "names Go types or source lines"
_SANE = "upstream answers 500 to a mistake of the client, or takes what it should refuse"
_REVIEWS = "who set which field of an object that is never stored helps nobody"
_GET_ONLY = "discovery and health answer GET and HEAD alone"
_STRICT = "upstream loses kind and name of the object and quotes it whole"
_METHOD = "the HTTP parser knows no invented methods"
_TYPED = "upstream sends the empty parts of its structs"
_STATUS = ("status", "body.code", "body.reason", "body.message", "body.details")
KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "access/a bad token is reviewed": (("body.metadata.managedFields",), _REVIEWS),
    "access/impersonated without a user": (("content-type.0", "body"), _GO),
    "access/may I": (("body.metadata.managedFields",), _REVIEWS),
    "access/may she in this namespace": (("body.metadata.managedFields",), _REVIEWS),
    "access/may the account": (("body.metadata.managedFields",), _REVIEWS),
    "access/may the account not": (("body.metadata.managedFields",), _REVIEWS),
    "bodies/a bad apiVersion": (("body.message",), "upstream quotes part of the body"),
    "bodies/a list": (("body.message",), _GO),
    "bodies/a number": (("body.message",), _GO),
    "bodies/a string": (("body.message",), _GO),
    "bodies/an error asked for in protobuf": (("content-type.0",), "a Status is JSON; whoever takes protobuf takes it"),
    "bodies/an unknown kind": (("body.message",), _GO),
    "bodies/an unknown version": (("body.message",), _GO),
    "bodies/another group": (("body.message",), _GO),
    "bodies/metadata list of one object": (("body.message",), _GO),
    "custom/get by the old version": (("warning.0",), "the successor is not named yet"),
    "custom/kind is served": (("body.metadata.continue",), _TYPED),
    "custom/list by field": (("body.metadata.continue",), _TYPED),
    "custom/protobuf": (("content-type.0", "body"), "a Status is JSON; whoever takes protobuf takes it"),
    "custom/scale of a version without": (
        ("body.message", "body.details*", "warning"),
        "no such page, as for other kinds",
    ),
    "custom/several faults": (("body.message",), "upstream walks maps in no order"),
    "custom/wrong types": (("body.message",), "upstream walks maps in no order"),
    "deletion/options of a wrong type": (_STATUS, _SANE),
    "deletion/options of another kind": (_STATUS, _SANE),
    "deletion/options that are none": (_STATUS, _SANE),
    "lists/metadata in protobuf": (
        ("status", "content-type.0"),
        "metadata alone is sent as JSON, which its clients take",
    ),
    "lists/metadata of one asked of a list": (("body.message",), _GO),
    "lists/table of an old version": (("body.rows.0.object.apiVersion",), "a client of v1beta1 reads v1 metadata too"),
    "lists/token that is no base64": (("body.message",), _GO),
    "lists/token that is none": (("body.message",), _GO),
    "lists/token with revision 0": (("body.metadata*", "body.items"), "upstream forgets the limit at revision 0"),
    "patches/apply twice the same key": (("warning*",), "worded by the YAML reader"),
    "patches/strategic that is a list": (("body.message",), _GO),
    "patches/strict merge with a duplicate": (("body.details*", "body.message"), _STRICT),
    "patches/strict merge with an unknown field": (("body.details*", "body.message"), _STRICT),
    "paths/component statuses are old": (("warning",), "a request that fails warns of nothing"),
    "paths/delete health": (("status", "content-type.0", "body"), _GET_ONLY),
    "paths/keys": (("status", "content-type.0"), "keys are sent whatever the client accepts"),
    "paths/kinds of crds": (("body.resources.0.storageVersionHash",), "an opaque word"),
    "paths/openapi index": (("content-type.0",), "it is JSON"),
    "paths/openapi of nothing": (("content-type", "body"), "upstream sends no body"),
    "paths/post to a group": (("status", "body*"), _GET_ONLY),
    "paths/unknown method": (_STATUS, _METHOD),
    "paths/unknown method on discovery": (_STATUS, _METHOD),
    "subresources/binding without a target": (_STATUS, _SANE),
    "subresources/pod status is patched": (("body.status.podIPs",), "podIPs do not follow podIP yet"),
    "subresources/pod status is set": (("body.status.podIPs",), "podIPs do not follow podIP yet"),
    "subresources/pod status with an unknown field": (("body.details*", "body.message"), _STRICT),
    "subresources/token": (("body.metadata.managedFields",), _REVIEWS),
    "subresources/token with an audience": (("body.metadata.managedFields",), _REVIEWS),
    "verbs/create with a bad fieldManager": (
        ("body.message", "body.details*"),
        "Go and JSON escape a bell differently",
    ),
    "verbs/create with a resourceVersion": (_STATUS, _SANE),
    "verbs/get at a bad revision": (_STATUS, _SANE),
    "verbs/names differ by case": (("warning",), "a request that fails warns of nothing"),
    "verbs/update with a bad revision": (_STATUS, _SANE),
    "verbs/update with a wrong uid": (("body.message",), "upstream speaks of its storage"),
    "watches/in HTML": (("body*",), "upstream lists the streams apart"),
    "watches/in YAML": (("content-type.0",), "a Status is JSON"),
    "watches/revision that is none": (("status", "body.0*"), _SANE),
    "watches/with initial events": (("body.1.object.spec",), _TYPED),
}

Obj = dict[str, Any]


class Reply(Protocol):
    status: int
    body: bytes

    def header(self, name: str) -> list[str]: ...


class Client(Protocol):
    def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, *, certificate: bool, lines: int
    ) -> Reply: ...


@dataclass(slots=True)
class Run:
    """One scenario on one server; `saved` are the values that later requests refer to as $name."""

    client: Client
    namespace: str
    saved: dict[str, str] = field(default_factory=dict)

    def ask(self, step: Obj) -> Obj:
        """The normalized answer of one step."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self._send(step)
            if "until" not in step or _holds(step["until"], reply) or time.monotonic() > deadline:
                break
            time.sleep(0.05)  # the other server works on it in the background and says no when it is done
        for name, path in step.get("save", {}).items():
            self.saved[name] = str(_at(json.loads(reply.body), path))
        return {} if step.get("quiet") else self._normal(reply, step)

    def _send(self, step: Obj) -> Reply:
        method, path = self._filled(step["ask"]).split(" ", 1)
        headers = {"user-agent": "answers/1", "accept": step.get("accept", "application/json")}
        body = self._body(step)
        if body is not None:
            headers["content-type"] = step.get("type", "application/json")
        headers |= {key: self._filled(value) for key, value in step.get("headers", {}).items()}
        certificate = "authorization" not in headers and not step.get("anonymous")
        return self.client.send(
            method,
            path,
            {k: v for k, v in headers.items() if v},
            body,
            certificate=certificate,
            lines=step.get("lines", 0),
        )

    def _body(self, step: Obj) -> bytes | None:
        if "bytes" in step:
            return base64.b64decode(step["bytes"])
        if "raw" in step:
            raw = step["raw"]
            return (raw["repeat"] * raw["times"] if isinstance(raw, dict) else self._filled(raw)).encode()
        return self._filled(json.dumps(step["body"])).encode() if "body" in step else None

    def _filled(self, text: str) -> str:
        for name in sorted(self.saved, key=len, reverse=True):
            text = text.replace(f"${name}", self.saved[name])
        return text.replace("$ns", self.namespace)

    def _normal(self, reply: Reply, step: Obj) -> Obj:
        found: Obj = {"status": reply.status}
        for name in HEADERS:
            if values := reply.header(name):
                found[name] = [self._text(value) for value in values]
        if reply.body and not step.get("headonly"):
            found["body"] = self._value(_parsed(reply.body, step))
        if only := step.get("only"):
            found["body"] = {path: _at(found["body"], path) for path in only}
        return found

    def _value(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if value.get("kind") == "Table" and "rows" in value:
                value = _table(value)
            if isinstance(value.get("causes"), list):  # upstream says some twice, and walks maps in no order
                causes = {json.dumps(c, sort_keys=True): c for c in value["causes"]}
                value = {**value, "causes": [causes[key] for key in sorted(causes)]}
            return {k: _FIXED[k] if k in _FIXED and v else self._value(v, k) for k, v in value.items()}
        if isinstance(value, list):
            items = [self._value(item, key) for item in value]
            return sorted(items, key=json.dumps) if key in _UNORDERED else items
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        text = text.replace(self.namespace, "$ns")
        for pattern, word in _PATTERNS:
            text = pattern.sub(word, text)
        return text


_UNORDERED = frozenset({"nonResourceRules", "nonResourceURLs"})  # upstream walks maps
_FIXED = {
    "resourceVersion": "<rv>",
    "uid": "<uid>",
    "continue": "<token>",
    "creationTimestamp": "<time>",
    "deletionTimestamp": "<time>",
    "token": "<token>",
    "hash": "<hash>",
}
_PATTERNS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"(?<=resource version: )\d+( \(\d+\))?|(?<=current: )\d+|(?<=in record \()\d+", "<rv>"),
        (r"(?<=gen-)[bcdfghjklmnpqrstvwxz2456789]{5}\b", "<5>"),
        (r"10\.96\.\d+\.\d+", "<ip>"),
        (r"127\.0\.0\.1:\d+|192\.0\.2\.\d+:\d+", "<server>"),
    )
)


def _table(table: Obj) -> Obj:
    """The structure of a table; its columns and cells have tests of their own."""
    rows = [{**row, "cells": len(row["cells"])} for row in table["rows"] or []]
    columns = table.get("columnDefinitions")
    return {
        **table,
        "columnDefinitions": columns and [c["name"] for c in columns],
        "rows": [r | {"cells": "…"} for r in rows],
    }


def _parsed(body: bytes, step: Obj) -> Any:
    """JSON, the events of a watch, or text."""
    for parse in ([_events] if "watch" in step["ask"] else []) + [json.loads]:
        try:
            return parse(body)
        except ValueError:
            continue
    return body.decode(errors="replace")


def _events(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def _holds(wanted: Any, reply: Reply) -> bool:
    """`until: 200` waits for a status, `until: {path: value}` for a part of the body."""
    if isinstance(wanted, int):
        return reply.status == wanted
    body = json.loads(reply.body)
    return all(_at(body, path) == value for path, value in wanted.items())


def _at(value: Any, path: str) -> Any:
    """`items.0.metadata.name`; None where there is nothing. `conditions[Established].status` picks by type."""
    for key in re.findall(r"\[[^\]]+\]|[^.\[\]]+", path):
        if key.startswith("["):
            value = next((c for c in value or [] if c["type"] == key[1:-1]), None)
        elif isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, what) of every place where two answers disagree."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from differences(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), f"{path}.{key}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(mine, yours, f"{path}.{at}")
    elif ours != theirs or type(ours) is not type(theirs):
        yield path, f"havre {_short(ours)}, kube-apiserver {_short(theirs)}"


_ABSENT = object()


def _short(value: Any) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value)[:600]


def _explained(step: str, path: str) -> bool:
    paths, _ = KNOWN.get(step, ((), ""))
    return any(path == p or (p.endswith("*") and path.startswith(p[:-1])) for p in paths)


def _steps(scenario: str) -> list[Obj]:
    steps = yaml.safe_load((DATA / f"{scenario}.yaml").read_text())
    labels = [step["step"] for step in steps]
    assert len(set(labels)) == len(labels), f"{scenario}.yaml names a step twice"
    return list(steps)


def _play(client: Client, scenario: str) -> dict[str, Obj]:
    run = Run(client, f"answers-{scenario}")
    namespace = {"metadata": {"name": run.namespace}}
    run.ask({"ask": "DELETE /api/v1/namespaces/$ns", "quiet": True})
    run.ask({"ask": "POST /api/v1/namespaces", "body": namespace, "until": 201, "quiet": True})
    account = {"metadata": {"name": "default"}}  # a controller makes it too, sooner or later; pods need it
    run.ask({"ask": "POST /api/v1/namespaces/$ns/serviceaccounts", "body": account, "quiet": True})
    try:
        return {step["step"]: answer for step in _steps(scenario) if (answer := run.ask(step))}
    finally:
        run.ask({"ask": "DELETE /api/v1/namespaces/$ns", "quiet": True})


def _recorded(scenario: str) -> dict[str, Obj]:
    recorded: dict[str, Obj] = json.loads((DATA / f"{scenario}.json").read_text())
    return recorded


def _write(scenario: str, answers: dict[str, Obj]) -> None:
    lines = [
        f"{json.dumps(step)}: {json.dumps(answer, sort_keys=True, separators=(',', ':'), ensure_ascii=False)}"
        for step, answer in answers.items()
    ]
    (DATA / f"{scenario}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_havre_answers_as_the_real_server_did(scenario: str, ours: Client) -> None:
    recorded = _recorded(scenario)
    told = [
        f"{step}: {path}: {what}"
        for step, answer in _play(ours, scenario).items()
        for path, what in differences(answer, recorded.get(step))
        if not _explained(f"{scenario}/{step}", path)
    ]
    assert not told, "\n" + "\n".join(told)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_recording_is_what_the_real_server_answers(scenario: str, reference: Client) -> None:
    answers = _play(reference, scenario)
    if RECORD:
        _write(scenario, answers)
    recorded = _recorded(scenario)
    assert list(answers) == list(recorded)
    assert [
        f"{step}: {path}: {what}"
        for step, answer in answers.items()
        for path, what in differences(answer, recorded[step])
        if not _explained(f"{scenario}/{step}", path)
    ] == []


def test_every_known_difference_has_a_step_and_a_reason() -> None:
    for place, (paths, why) in KNOWN.items():
        scenario, _, step = place.partition("/")
        assert step in _recorded(scenario)
        assert paths
        assert why
