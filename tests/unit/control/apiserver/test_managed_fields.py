"""managedFields: recorded answers of a real kube-apiserver, then the special cases one by one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.errors import ApiError, BadRequest
from havre.control.apiserver.managed_fields import (
    apply,
    conflict_status,
    keep_times,
    update,
)
from havre.lang.fieldset import FieldSet
from havre.lang.merge.ownership import Conflicts
from havre.lang.schema import Compiler, Schema

Obj = dict[str, Any]

DATA = Path(__file__).parents[3] / "data/ssa"
NOW = "2026-01-01T00:00:00Z"
RECORDED = json.loads((DATA / "scenarios.json").read_text())
DEFINITIONS = Compiler(json.loads((DATA / "openapi.json").read_text()))


def _widget() -> Schema:
    text = {"type": "string"}
    meta = {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    head = {"apiVersion": text, "kind": text, "metadata": meta}
    return DEFINITIONS.compile({**RECORDED["widget"], "properties": {**head, **RECORDED["widget"]["properties"]}})


ALLOCATED = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")  # of a Service, after its owners are settled
REFUSED_LATER = ("is invalid: ", "failed to convert new object", "is forbidden: ")  # by validation and decoding
STATUS = FieldSet.of(("f:status",))
# kind: version, schema, fields that a write of the object resets, fields that a write of its status resets
KINDS: dict[str, tuple[str, Schema, FieldSet, FieldSet]] = {
    "ConfigMap": ("v1", DEFINITIONS.named("io.k8s.api.core.v1.ConfigMap"), FieldSet({}), FieldSet({})),
    "Service": ("v1", DEFINITIONS.named("io.k8s.api.core.v1.Service"), STATUS, FieldSet.of(("f:spec",))),
    "Deployment": (
        "apps/v1",
        DEFINITIONS.named("io.k8s.api.apps.v1.Deployment"),
        STATUS,
        FieldSet.of(("f:spec",), ("f:metadata", "f:labels")),
    ),
    "Widget": ("ssa.havre.test/v1", _widget(), STATUS, FieldSet.of(("f:spec",))),
}


def play(kind: str, step: Obj) -> Obj:
    """What ours makes of a recorded step: the object after it, or the Status."""
    version, schema, main, status = KINDS[kind]
    live, sub = step["live"], step.get("sub", "")
    how: Obj = {
        "schema": schema,
        "manager": step["manager"],
        "api_version": version,
        "subresource": sub,
        "now": NOW,
        "structured": kind != "Widget",
        "ignored": status if sub else main,
    }
    if step["verb"] == "apply":
        body = {"apiVersion": version, "kind": kind, **step["body"]}
        body["metadata"] = {"name": step["name"], **body.get("metadata", {})}
        try:
            return apply(live, body, force=step.get("force", False), **how)
        except Conflicts as err:
            return conflict_status(err).status()
        except ApiError as err:
            return err.status()
    new: Obj = copy.deepcopy(step["answer"])
    new["metadata"].pop("managedFields", None)
    if kind == "Service" and step["verb"] == "create":
        new["spec"] = {name: value for name, value in new["spec"].items() if name not in ALLOCATED}
        for port in new["spec"]["ports"]:
            port.pop("nodePort", None)
    sent = _sent(step)
    if sent is not None:
        new["metadata"]["managedFields"] = sent
    update(None if step["verb"] == "create" else live, new, **how)
    return new


def _sent(step: Obj) -> Any:
    """The entries in the request, as the server's patch made them."""
    if step["live"] is None:
        return None
    entries = copy.deepcopy(step["live"]["metadata"].get("managedFields"))
    if step["verb"] == "json":
        for op in step["body"]:
            if op["path"] == "/metadata/managedFields":
                entries = op["value"]
            elif op["path"].startswith("/metadata/managedFields/"):
                entries[int(op["path"].split("/")[3])][op["path"].split("/")[4]] = op["value"]
    return step["body"].get("metadata", {}).get("managedFields", entries) if step["verb"] == "merge" else entries


def entries_of(obj: Obj) -> list[Obj]:
    entries = obj["metadata"].get("managedFields") or []
    return sorted(entries, key=lambda e: json.dumps([e["manager"], e["operation"], e.get("subresource")]))


def steps() -> list[Any]:
    out = []
    for scenario in RECORDED["scenarios"]:
        before = None
        stored_as = next(step["answer"]["metadata"]["name"] for step in scenario["steps"] if step["code"] < 300)
        for number, step in enumerate(scenario["steps"]):
            live = step.get("live", before)
            before = step["answer"] if step["code"] < 300 else live
            name = f"{scenario['name']}, step {number}"
            if _kept(step):
                out.append(pytest.param(scenario["kind"], {**step, "live": live, "name": stored_as}, id=name))
    return out


def _kept(step: Obj) -> bool:
    """Is this step about ownership: not refused before it is looked at, nor for other reasons after?"""
    if step["code"] < 300:
        return True
    return step["verb"] == "apply" and not any(words in step["answer"]["message"] for words in REFUSED_LATER)


@pytest.mark.parametrize(("kind", "step"), steps())
def test_the_owners_are_those_that_the_real_server_names(kind: str, step: Obj) -> None:
    ours = play(kind, step)
    if step["code"] >= 300:
        assert _status(ours) == _status(step["answer"])
    else:
        assert entries_of(ours) == entries_of(step["answer"])
        if step["verb"] == "apply" and "sub" not in step:
            assert difference(ours, step["answer"], kind) == []


def _status(status: Obj) -> Obj:
    causes = status.get("details", {}).get("causes", [])
    return {
        "message": status.get("message"),
        "reason": status.get("reason"),
        "code": status.get("code"),
        "causes": sorted(causes, key=lambda cause: json.dumps(cause, sort_keys=True)),
    }


def difference(ours: Any, theirs: Any, kind: str, path: str = "") -> list[str]:
    """Where the merged object and the stored one differ, other than by defaults and what the server itself writes."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        gone = [f"{path}.{key} should be gone" for key in ours if key not in theirs and ours[key] not in ({}, [])]
        back = [
            f"{path}.{key} should be there"
            for key in theirs
            if key not in ours and kind == "Widget" and key != "protocol" and not path.startswith(".metadata")
        ]
        common = [key for key in ours if key in theirs and (path, key) not in SERVERS]
        return gone + back + [d for key in common for d in difference(ours[key], theirs[key], kind, f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for n, (a, b) in pairs for d in difference(a, b, kind, f"{path}[{n}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} should be {theirs!r}"]


SERVERS = {("", "status"), (".metadata", "generation"), (".metadata", "managedFields")}


# Runs of upstream's field manager on random objects

RANDOM = json.loads((DATA / "random.json").read_text())
HEAD = {"apiVersion": "ssa.havre.test/v1", "kind": "Widget"}


def _random_schema() -> Schema:
    defs = json.loads((DATA / "openapi.json").read_text())
    return Compiler({**defs, "Widget": RANDOM["model"]}).named("Widget")


RANDOM_SCHEMA = _random_schema()


@pytest.mark.parametrize("run", RANDOM["runs"], ids=[f"run {n}" for n in range(len(RANDOM["runs"]))])
def test_a_random_history_ends_as_upstreams(run: Obj) -> None:
    live: Obj | None = None
    for step in run["steps"]:
        obj = {**HEAD, **{key: step[key] for key in ("metadata", "spec") if key in step}}
        how = {"schema": RANDOM_SCHEMA, "manager": step["manager"], "api_version": HEAD["apiVersion"], "now": NOW}
        error = None
        try:
            if step["op"] == "apply":
                live = apply(live or {**HEAD, "metadata": {}}, obj, force=step["force"], structured=False, **how)
            else:
                update(live, obj, structured=False, **how)
                live = obj
        except Conflicts as err:
            error = conflict_status(err).message
        except ApiError as err:
            error = err.message
        assert error == step.get("error")
    assert live is not None
    ours = {**live, "metadata": {**live["metadata"], "managedFields": None}}
    theirs = {**run["live"], "metadata": {**run["live"]["metadata"], "managedFields": None}}
    assert ours == theirs
    timeless = [{key: value for key, value in entry.items() if key != "time"} for entry in entries_of(live)]
    assert timeless == entries_of(run["live"])


# Special cases

CONFIG = DEFINITIONS.named("io.k8s.api.core.v1.ConfigMap")
V1: Obj = {"schema": CONFIG, "api_version": "v1"}
LATER = "2026-01-01T00:00:09Z"


def config(data: Obj | None = None, **meta: Any) -> Obj:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **meta}}
    return obj if data is None else {**obj, "data": data}


def stored(obj: Obj) -> Obj:
    """The object as a store would give it back."""
    out: Obj = json.loads(json.dumps(obj))
    out["metadata"].setdefault("uid", "u")
    return out


def applied(live: Obj | None, obj: Obj, manager: str, now: str = NOW, **how: Any) -> Obj:
    return apply(live, obj, manager=manager, now=now, **{**V1, **how})


def updated(live: Obj | None, obj: Obj, manager: str, now: str = NOW, **how: Any) -> Obj:
    new = copy.deepcopy(obj)
    update(live, new, manager=manager, now=now, **{**V1, **how})
    return new


def managers(obj: Obj) -> list[tuple[str, str | None]]:
    return [(entry["manager"], entry.get("time")) for entry in obj["metadata"].get("managedFields", [])]


def test_an_entry_has_everything_that_a_client_looks_at() -> None:
    assert applied(None, config({"x": "1"}), "a")["metadata"]["managedFields"] == [
        {
            "manager": "a",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": NOW,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:x": {}}},
        }
    ]


def test_an_apply_that_changes_nothing_gives_back_the_live_object_itself() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    assert applied(live, config({"x": "1"}), "a", LATER) is live


def test_times_move_only_when_something_does() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    same = updated(live, {**live, "metadata": {**live["metadata"], "resourceVersion": "7"}}, "b", LATER)
    assert managers(same) == [("a", NOW)]
    assert managers(updated(live, config({"x": "1", "y": "2"}, uid="u"), "b", LATER)) == [("a", NOW), ("b", LATER)]
    assert managers(applied(live, config({"x": "1", "y": "2"}), "a", LATER)) == [("a", LATER)]


def test_what_is_returned_shares_nothing_with_the_applied_object() -> None:
    body = config({"x": "1"}, labels={"l": "1"})
    merged = applied(None, body, "a")
    merged["data"]["y"] = merged["metadata"]["labels"]["m"] = "a default"
    assert body == config({"x": "1"}, labels={"l": "1"})


def test_an_object_nested_too_deep_is_a_bad_request() -> None:
    deep: Any = "x"
    for _ in range(1500):
        deep = {"x": deep}
    with pytest.raises(BadRequest, match="nested too deep"):
        applied(None, config(deep), "a")


def test_an_integer_beyond_64_bits_is_taken() -> None:
    widget = {**HEAD, "metadata": {"name": "w"}, "spec": {"free": {"big": 2**70}}}
    merged = apply(
        None, widget, schema=KINDS["Widget"][1], manager="a", api_version=HEAD["apiVersion"], now=NOW, structured=False
    )
    assert merged["spec"] == {"free": {"big": 2**70}}
    assert merged["metadata"]["managedFields"][0]["fieldsV1"] == {"f:spec": {"f:free": {"f:big": {}}}}


def test_inputs_are_left_alone() -> None:
    live = stored(applied(None, config({"x": "1"}, labels={"l": "1"}), "a"))
    body = config({"y": "2"}, labels={"l": "2"})
    before = copy.deepcopy((live, body))
    applied(live, body, "b", force=True)
    applied(live, body, "a")
    assert (live, body) == before


def test_nobody_owns_the_name() -> None:
    assert "managedFields" not in applied(None, config(), "a")["metadata"]
    assert "managedFields" not in updated(None, config(uid="u", resourceVersion="1"), "a")["metadata"]


def test_a_nameless_manager_is_unknown() -> None:
    assert managers(updated(None, config({"x": "1"}), "")) == [("unknown", NOW)]


def test_an_object_without_entries_is_not_tracked_until_its_first_apply() -> None:
    live = config({"x": "1", "y": "1"}, uid="u")
    assert "managedFields" not in updated(live, config({"x": "2"}, uid="u"), "a")["metadata"]
    merged = applied(live, config({"z": "1"}), "a", LATER)
    assert managers(merged) == [("a", LATER), ("before-first-apply", LATER)]
    with pytest.raises(Conflicts, match="before-first-apply"):
        applied(live, config({"x": "2"}), "a")


@pytest.mark.parametrize("reset", [[], [{}]])
def test_a_client_may_reset_the_entries(reset: list[Obj]) -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    assert managers(updated(live, config({"x": "1"}, uid="u", managedFields=reset), "b")) == []


def test_invalid_entries_of_a_client_are_those_of_the_live_object() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    for bad in ([{"operation": "Nope"}], [7], "text", [{**live["metadata"]["managedFields"][0], "time": "noon"}]):
        assert managers(updated(live, config({"x": "1"}, uid="u", managedFields=bad), "b")) == [("a", NOW)]


def test_a_subresource_does_not_take_entries_from_the_client() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    sent = config({"x": "1"}, uid="u", managedFields=[])
    assert managers(updated(live, sent, "b", subresource="status")) == [("a", NOW)]


def test_the_same_manager_may_apply_and_update_and_touch_the_status() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    live = stored(updated(live, config({"x": "1", "y": "1"}, uid="u"), "a"))
    live = stored(updated(live, config({"x": "1", "y": "1", "z": "1"}, uid="u"), "a", subresource="status"))
    found = [(entry["operation"], entry.get("subresource")) for entry in live["metadata"]["managedFields"]]
    assert found == [("Apply", None), ("Update", None), ("Update", "status")]


def test_more_than_ten_updaters_melt_into_ancient_changes() -> None:
    data, live = {}, None
    for n in range(13):
        data[f"k{n:02}"] = "1"
        live = stored(
            updated(live, config(dict(data), uid="u" if live else None), f"m{n:02}", f"2026-01-01T00:00:{n:02}Z")
        )
    assert live is not None
    names = [name for name, _ in managers(live)]
    assert names == ["ancient-changes", *(f"m{n:02}" for n in range(4, 13))]
    ancient = live["metadata"]["managedFields"][0]
    assert ancient["fieldsV1"]["f:data"] == {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}, "f:k03": {}}
    assert ancient["time"] == "2026-01-01T00:00:03Z"


def test_entries_are_sorted_by_operation_then_time_then_manager() -> None:
    live = stored(updated(None, config({"x": "1"}), "z", "2026-01-01T00:00:05Z"))
    live = stored(updated(live, config({"x": "1", "y": "1"}, uid="u"), "b", "2026-01-01T00:00:07Z"))
    live = stored(updated(live, config({"x": "1", "y": "1", "w": "1"}, uid="u"), "a", "2026-01-01T00:00:07Z"))
    live = stored(applied(live, config({"v": "1"}), "q", LATER))
    assert [name for name, _ in managers(live)] == ["q", "z", "a", "b"]


def test_one_conflict_is_told_in_one_line() -> None:
    live = stored(updated(None, config({"x": "1"}), "kubectl-client-side-apply"))
    with pytest.raises(Conflicts) as refused:
        applied(live, config({"x": "2"}), "a")
    status = conflict_status(refused.value).status()
    assert status["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.x'
    )
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert status["details"] == {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "kubectl-client-side-apply" using v1',
                "field": ".data.x",
            }
        ]
    }


def test_several_conflicts_are_listed_by_manager() -> None:
    live = stored(applied(None, config({"x": "1", "y": "1"}), "b"))
    live = stored(updated(live, config({"x": "1", "y": "1", "z": "1"}, uid="u"), "a", subresource="status"))
    with pytest.raises(Conflicts) as refused:
        applied(live, config({"x": "2", "y": "2", "z": "2"}), "c")
    assert conflict_status(refused.value).message == (
        'Apply failed with 3 conflicts: conflicts with "a" with subresource "status" using v1:\n- .data.z\n'
        'conflicts with "b":\n- .data.x\n- .data.y'
    )


def test_an_apply_of_another_version_or_with_entries_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="invalid object type: /v2, Kind=ConfigMap"):
        applied(None, {**config(), "apiVersion": "v2"}, "a")
    with pytest.raises(BadRequest, match=r"metadata\.managedFields must be nil"):
        applied(None, config(managedFields=[]), "a")


def test_a_null_that_an_applier_sends_leaves_a_struct_field_out_and_a_map_entry_empty() -> None:
    merged = applied(None, {**config({"x": None}), "immutable": None}, "a")
    assert merged["data"] == {"x": ""}
    assert "immutable" not in merged
    assert merged["metadata"]["managedFields"][0]["fieldsV1"] == {"f:data": {"f:x": {}}, "f:immutable": {}}


def test_the_annotation_of_client_side_apply_is_kept_in_step_for_kubectl() -> None:
    note = "kubectl.kubernetes.io/last-applied-configuration"
    live = stored(updated(None, config({"x": "1"}, annotations={note: "{}"}), "kubectl-client-side-apply"))
    merged = applied(live, config({"y": "<1>"}), "kubectl")
    assert merged["metadata"]["annotations"][note] == (
        '{"apiVersion":"v1","data":{"y":"\\u003c1\\u003e"},"kind":"ConfigMap","metadata":{"name":"c"}}\n'
    )
    huge = applied(live, config({"y": "x" * 300_000}), "kubectl")
    assert note not in huge["metadata"]["annotations"]


def test_a_write_that_a_webhook_undid_keeps_its_times() -> None:
    live = stored(applied(None, config({"x": "1"}), "a"))
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"][0]["time"] = LATER
    assert keep_times(live, new)
    assert managers(new) == [("a", NOW)]
    new["data"]["x"] = "2"
    new["metadata"]["managedFields"][0]["time"] = LATER
    assert not keep_times(live, new)
    assert managers(new) == [("a", LATER)]


WORDS = ["data", "x", "metadata", "labels", "finalizers", "managedFields", "immutable", "uid", "f:x", "."]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(JSON, JSON, JSON)
def test_random_objects_are_tracked_or_refused(body: Any, meta: Any, entries: Any) -> None:
    obj = config(body, labels=meta, finalizers=body, annotations=entries)
    live = stored(applied(None, config({"x": "1"}), "a"))
    updated(live, {**obj, "metadata": {**obj["metadata"], "managedFields": entries, "uid": "u"}}, "b")
    try:
        merged = applied(live, obj, "c", force=True)
    except ApiError:
        return
    assert applied(stored(merged), obj, "c", LATER)["metadata"].get("managedFields") == (
        stored(merged)["metadata"].get("managedFields")
    )
