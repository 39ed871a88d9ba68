"""Lists and watches: pages of one moment, selections that are left and entered, bookmarks, slow readers."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.errors import BadRequest
from havre.api.meta import Obj
from havre.control.apiserver import handlers, reading
from havre.control.apiserver.cache import ADDED, DELETED, MODIFIED, Entry, Event, TooOld
from havre.control.apiserver.reading import Place, Selection, as_seen
from havre.lang.selector import FieldSelector, LabelSelector

pytestmark = pytest.mark.asyncio(loop_scope="module")


def maps(namespace: str, rest: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps{rest}"


async def fill(plane: Any, namespace: str, count: int, **labels: str) -> None:
    bodies = [{"metadata": {"name": f"m{i:03}", "labels": labels}} for i in range(count)]
    await asyncio.gather(*(plane.make(maps(namespace), body) for body in bodies))


def names(listed: Obj) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def pages(plane: Any, url: str, limit: int, between: Any = None) -> tuple[list[str], list[Obj]]:
    """All names of a paged list, and the metadata of its pages; `between` is awaited after each page."""
    found: list[str] = []
    metas: list[Obj] = []
    token = ""
    while True:
        listed = (await plane.ask("GET", f"{url}limit={limit}&continue={token}")).json()
        found += names(listed)
        metas.append(listed["metadata"])
        token = listed["metadata"].get("continue", "")
        if not token:
            return found, metas
        if between:
            await between(len(metas))


# pages


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 100])
async def test_any_limit_gives_the_whole_list(plane: Any, namespace: str, limit: int) -> None:
    await fill(plane, namespace, 7)
    found, metas = await pages(plane, maps(namespace, "?"), limit)
    assert found == [f"m{i:03}" for i in range(7)]
    assert len({m["resourceVersion"] for m in metas}) == 1


async def test_the_first_page_says_how_many_are_left(plane: Any, namespace: str) -> None:
    await fill(plane, namespace, 5)
    _, metas = await pages(plane, maps(namespace, "?"), 2)
    assert metas[0]["remainingItemCount"] == 3


@pytest.mark.parametrize("selector", ["", "labelSelector=app%3Dx&"])
@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_pages_show_the_moment_of_the_first_while_others_write(
    plane: Any, namespace: str, limit: int, selector: str
) -> None:
    await fill(plane, namespace, 6, app="x")

    async def disturb(page: int) -> None:
        await plane.ask("DELETE", maps(namespace, f"/m{5 - page % 6:03}"))
        await plane.ask("POST", maps(namespace), {"metadata": {"name": f"m000-{page}", "labels": {"app": "x"}}})
        await plane.ask(
            "PATCH",
            maps(namespace, "/m001"),
            {"metadata": {"labels": {"app": f"y{page}"}}},
            content_type="application/merge-patch+json",
        )

    found, metas = await pages(plane, maps(namespace, f"?{selector}"), limit, disturb)
    assert found == [f"m{i:03}" for i in range(6)]
    assert len({m["resourceVersion"] for m in metas}) == 1


async def test_a_token_that_is_too_old_offers_one_that_goes_on(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(plane, namespace, 3)
    first = (await plane.ask("GET", maps(namespace, "?limit=2"))).json()
    token = first["metadata"]["continue"]
    await plane.ask("DELETE", maps(namespace, "/m000"))
    plane.cache._history.forget(plane.cache.revision)
    expired = await plane.ask("GET", maps(namespace, f"?limit=2&continue={token}"))
    assert (expired.status, expired.json()["reason"]) == (410, "Expired")
    fresh = expired.json()["metadata"]["continue"]
    assert names((await plane.ask("GET", maps(namespace, f"?limit=2&continue={fresh}"))).json()) == ["m002"]


@given(st.integers(1, 2**60), st.text(alphabet="abz-./0", max_size=30))
async def test_a_place_survives_its_token(revision: int, after: str) -> None:
    place = Place(revision, after.replace("..", "."))
    assert Place.of(place.token()) == place


@given(
    st.text(max_size=60)
    | st.dictionaries(st.sampled_from(["v", "rv", "start"]), st.one_of(st.text(), st.integers(), st.none())).map(
        lambda d: base64.urlsafe_b64encode(
            orjson.dumps(d, default=str) if all(not isinstance(v, int) or abs(v) < 2**63 for v in d.values()) else b"x"
        ).decode()
    )
)
async def test_any_other_token_is_refused(token: str) -> None:
    with suppress(BadRequest):
        assert Place.of(token).token()


async def test_a_token_cannot_leave_its_resource() -> None:
    with pytest.raises(BadRequest, match="it leaves the resource"):
        Place.of(Place(5, "a/../../secrets/x").token())


@pytest.mark.parametrize("path", ["a/%2e%2e/b", "\x00", "z" * 5000])
async def test_a_strange_place_stays_in_its_resource(plane: Any, namespace: str, path: str) -> None:
    await fill(plane, namespace, 2)
    token = Place(plane.cache.revision, path).token()
    listed = (await plane.ask("GET", maps(namespace, f"?continue={token}"))).json()
    assert set(names(listed)) <= {"m000", "m001"}


# options


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("resourceVersion=x", 400),
        ("resourceVersion=-1", 400),
        ("resourceVersion=99999999", 504),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("resourceVersionMatch=Sometimes&resourceVersion=1", 422),
        ("sendInitialEvents=true", 422),
        ("limit=x", 400),
        ("limit=-5", 200),
        ("labelSelector=%3D%3D", 400),
        ("fieldSelector=spec.unknown%3Dx", 400),
        ("continue=x", 400),
        ("resourceVersion=0", 200),
    ],
)  # fmt: skip
async def test_list_options_are_checked(plane: Any, namespace: str, query: str, status: int) -> None:
    assert (await plane.ask("GET", maps(namespace, f"?{query}"))).status == status


async def test_a_list_at_an_exact_revision_shows_that_moment(plane: Any, namespace: str) -> None:
    await fill(plane, namespace, 2)
    then = plane.cache.revision
    await plane.ask("DELETE", maps(namespace, "/m000"))
    listed = (await plane.ask("GET", maps(namespace, f"?resourceVersion={then}&resourceVersionMatch=Exact"))).json()
    assert (names(listed), listed["metadata"]["resourceVersion"]) == (["m000", "m001"], str(then))


# watches


async def test_a_watch_tells_what_happens_to_what_it_selects(plane: Any, namespace: str) -> None:
    label = {"metadata": {"labels": {"app": "x"}}}
    merge = {"content_type": "application/merge-patch+json"}
    sink = await plane.watch(maps(namespace, f"?watch=1&labelSelector=app%3Dx&resourceVersion={plane.cache.revision}"))
    await plane.make(maps(namespace), {"metadata": {"name": "a"}})
    await plane.ask("PATCH", maps(namespace, "/a"), label, **merge)
    await plane.ask("PATCH", maps(namespace, "/a"), {"data": {"k": "v"}}, **merge)
    await plane.ask("PATCH", maps(namespace, "/a"), {"metadata": {"labels": None}}, **merge)
    left = plane.cache.revision
    await plane.ask("DELETE", maps(namespace, "/a"))
    events = await sink.until(3)
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert events[2][1]["metadata"]["labels"] == {"app": "x"}  # as it was when it was last selected
    assert events[2][1]["metadata"]["resourceVersion"] == str(left)
    sink.close()


async def test_a_watch_without_a_revision_begins_with_what_is_there(plane: Any, namespace: str) -> None:
    await fill(plane, namespace, 2)
    sink = await plane.watch(maps(namespace, "?watch=1"))
    assert [(kind, obj["metadata"]["name"]) for kind, obj in sink.events] == [("ADDED", "m000"), ("ADDED", "m001")]
    sink.close()


async def test_a_large_present_state_is_sent_in_steps_and_no_change_between_them_is_lost(
    plane: Any, namespace: str, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(plane, namespace, 5)
    monkeypatch.setattr(reading, "STEP", 2)
    await plane.watch(maps(namespace, "?watch=1"), sink)
    first = [(kind, obj["metadata"]["name"]) for kind, obj in sink.events]
    await plane.make(maps(namespace), {"metadata": {"name": "z"}})
    seen = [(kind, obj["metadata"]["name"]) for kind, obj in sink.events]
    assert (len(first) < 5, seen) == (True, [("ADDED", name) for name in ("m000", "m001", "m002", "m003", "m004", "z")])
    sink.close()


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "application/vnd.kubernetes.protobuf",
    ],
)
async def test_a_long_list_is_made_in_steps_and_is_the_same(
    plane: Any, namespace: str, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(plane, namespace, 5)
    at_once = (await plane.ask("GET", maps(namespace), headers={"accept": accept})).body
    monkeypatch.setattr(reading, "STEP", 2)
    monkeypatch.setattr(reading, "COPIES", 2)
    turns = 0

    async def turn(_seconds: float) -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(reading, "sleep", turn)
    assert ((await plane.ask("GET", maps(namespace), headers={"accept": accept})).body, turns) == (at_once, 3)


async def test_initial_events_end_with_a_bookmark(plane: Any, namespace: str) -> None:
    await fill(plane, namespace, 1)
    query = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    sink = await plane.watch(maps(namespace, query))
    assert [kind for kind, _ in sink.events] == ["ADDED", "BOOKMARK"]
    meta = sink.events[1][1]["metadata"]
    assert (meta["annotations"], meta["resourceVersion"]) == (
        {"k8s.io/initial-events-end": "true"},
        str(plane.cache.revision),
    )
    sink.close()


async def test_bookmarks_come_by_the_clock_to_those_who_asked(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BOOKMARK_SECONDS", 0.01)
    if plane.api.handlers._timer:  # of an earlier watch, for the usual time
        plane.api.handlers._timer.cancel()
        plane.api.handlers._timer = None
    asked = await plane.watch(
        maps(namespace, f"?watch=1&allowWatchBookmarks=true&resourceVersion={plane.cache.revision}")
    )
    other = await plane.watch(maps(namespace, f"?watch=1&resourceVersion={plane.cache.revision}"))
    events = await asked.until(2)
    assert [kind for kind, _ in events[:2]] == ["BOOKMARK", "BOOKMARK"]
    asked.close()
    assert other.events == []
    other.close()
    assert plane.api.handlers._bookmarked == set()


async def test_a_watch_from_a_forgotten_revision_is_an_error_event(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old(*_: Any) -> Any:
        raise TooOld(5, 100)

    monkeypatch.setattr(plane.cache, "watch", too_old)
    sink = await plane.watch(maps(namespace, "?watch=1&resourceVersion=5"))
    ((kind, status),) = sink.events
    assert (kind, status["code"], status["reason"], sink.closed) == ("ERROR", 410, "Expired", True)


async def test_a_watch_ends_after_its_time(plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "LONGEST_WATCH", 0.01)
    sink = await plane.watch(maps(namespace, "?watch=1"))
    async with asyncio.timeout(5):
        while not sink.closed:
            await sink.more.wait()
    assert not sink.aborted


async def test_a_closed_watch_leaves_nothing_behind(plane: Any, namespace: str) -> None:
    scope = f"core/configmaps/{namespace}/"
    sink = await plane.watch(maps(namespace, "?watch=1"))
    assert len(plane.cache._watches[scope]) == 1
    sink.close()
    assert scope not in plane.cache._watches


async def test_a_watch_whose_client_has_gone_before_it_began_leaves_nothing_behind(
    plane: Any, namespace: str, sink: Any
) -> None:
    sink.closed = True
    await plane.watch(maps(namespace, "?watch=1"), sink)
    assert f"core/configmaps/{namespace}/" not in plane.cache._watches


async def test_a_reader_that_is_too_slow_is_cut_off(plane: Any, namespace: str) -> None:
    sink = await plane.watch(maps(namespace, f"?watch=1&resourceVersion={plane.cache.revision}"))
    sink.held = 17 << 20
    await fill(plane, namespace, 1)
    assert (sink.aborted, f"core/configmaps/{namespace}/" in plane.cache._watches) == (True, False)


async def test_a_large_present_state_is_not_slowness(
    plane: Any, namespace: str, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sink), "buffered", property(lambda self: sum(map(len, self.chunks))))
    big = "x" * 900_000
    await asyncio.gather(
        *(plane.make(maps(namespace), {"metadata": {"name": f"b{i}"}, "data": {"a": big}}) for i in range(20))
    )
    query = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    await plane.watch(maps(namespace, query), sink)
    assert not sink.aborted
    assert [kind for kind, _ in sink.events] == ["ADDED"] * 20 + ["BOOKMARK"]
    sink.close()


# the law of selections


def entry(name: str, revision: int, app: str) -> Entry:
    meta = {"name": name, "namespace": "n", "labels": {"app": app}, "resourceVersion": str(revision)}
    value = orjson.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta})
    return Entry(f"core/configmaps/n/{name}", revision, 1, value)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "gone"])), max_size=25),
    st.sampled_from(["app=x", "app!=x", "app in (x,y)", ""]),
)
async def test_replaying_the_events_of_a_selection_gives_the_selected_list(
    writes: list[tuple[str, str]], text: str
) -> None:
    selection = Selection(LabelSelector.parse(text), FieldSelector.parse(""), lambda e, f: "")
    live: dict[str, Entry] = {}
    replayed: dict[str, int] = {}
    for revision, (name, app) in enumerate(writes, 1):
        prev = live.get(name)
        if app == "gone":
            if prev is None:
                continue
            event = Event(DELETED, entry(name, revision, prev.labels["app"]), prev)
            del live[name]
        else:
            live[name] = entry(name, revision, app)
            event = Event(MODIFIED if prev else ADDED, live[name], prev)
        seen = as_seen(event, selection)
        if seen is None:
            continue
        kind, shown = seen
        assert (kind == "ADDED") == (name not in replayed)
        assert shown.revision == revision
        if kind == "DELETED":
            del replayed[name]
        else:
            replayed[name] = revision
    assert replayed == {name: e.revision for name, e in live.items() if selection.matches(e)}
