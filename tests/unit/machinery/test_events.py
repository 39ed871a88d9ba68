"""Events: one object per piece of news, a count for the rest, and never in the way."""

from __future__ import annotations

import pytest

from havre.api.errors import Forbidden, Unavailable
from havre.api.meta import GVK, Obj
from havre.machinery.api import Ref
from havre.machinery.events import Note, Recorder, render
from havre.testing import FakeApi

EVENT = GVK("", "v1", "Event")
NAMESPACE: Obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
POD: Obj = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "a", "uid": "u1", "resourceVersion": "7"},
}


def test_an_event_says_of_what_it_speaks() -> None:
    event = render(POD, Note("Pulled", "image"), "me", "2026-01-01T00:00:00Z")
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "a", "uid": "u1", "resourceVersion": "7",
    }  # fmt: skip
    assert event["metadata"]["namespace"] == "a"
    assert event["metadata"]["name"].startswith("p.")
    cluster_wide: Obj = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}}
    assert render(cluster_wide, Note("R", "m"), "me", "now")["metadata"]["namespace"] == "default"


async def test_the_same_news_is_counted_also_after_a_restart() -> None:
    api = FakeApi(NAMESPACE)
    for at in (1000.0, 2000.0):
        await Recorder(api, "me", lambda at=at: at).record(POD, Note("Failed", "why", "Warning"))  # type: ignore[misc]
    await Recorder(api, "me").record(POD, Note("Failed", "why else", "Warning"))
    first = next(e for e in api.all(EVENT) if e["message"] == "why")
    assert (len(api.all(EVENT)), first["count"], first["type"]) == (2, 2, "Warning")
    assert (first["firstTimestamp"], first["lastTimestamp"]) == ("1970-01-01T00:16:40Z", "1970-01-01T00:33:20Z")


@pytest.mark.looptime
async def test_a_flood_is_cut_off() -> None:
    api = FakeApi(NAMESPACE)
    recorder = Recorder(api, "me")
    for i in range(40):
        await recorder.record(POD, Note("Noise", str(i)))
    assert len(api.all(EVENT)) == 25


async def test_an_event_that_cannot_be_written_stops_nobody() -> None:
    class Broken(FakeApi):
        async def create(self, obj: Obj, *, manager: str = "", dry_run: bool = False) -> Obj:
            raise Unavailable("down")

    await Recorder(Broken(), "me").record(POD, Note("R", "m"))


async def test_an_event_is_counted_on_by_who_may_not_read_events() -> None:
    class Blind(FakeApi):
        async def get(self, ref: Ref) -> Obj | None:
            raise Forbidden("events are not for you")

    api = Blind(NAMESPACE)
    first, second = Recorder(api, "me"), Recorder(api, "me")  # the second: after a restart
    for recorder in (first, first, second, second):
        await recorder.record(POD, Note("Failed", "why"))
    (event,) = (await api.list(EVENT)).items
    assert event["count"] == 4


async def test_an_event_that_expired_begins_again() -> None:
    api = FakeApi(NAMESPACE)
    recorder = Recorder(api, "me")
    await recorder.record(POD, Note("Failed", "why"))
    (event,) = (await api.list(EVENT)).items
    await api.delete(Ref.of(event))
    await recorder.record(POD, Note("Failed", "why"))
    assert [e["count"] for e in (await api.list(EVENT)).items] == [1]
