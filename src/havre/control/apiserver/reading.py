"""Get, list and watch: stored bytes on their way out, unchanged where the client wants the object as it is.

Source: k8s.io/apiserver, pkg/endpoints/handlers/{get,watch,response}.go, pkg/storage/{continue,selection_predicate}.go;
the rules of resourceVersion: pkg/apis/meta/internalversion/validation.
"""

from __future__ import annotations

import base64
import time
from asyncio import TimerHandle, get_running_loop, sleep
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from havre.api import protobuf
from havre.api.errors import ApiError, BadRequest, Expired, Invalid, Timeout
from havre.api.meta import GVK, Obj
from havre.control.apiserver import table
from havre.control.apiserver.cache import Cache, Entry, Event, TooOld, Watch
from havre.control.apiserver.negotiate import PROTOBUF, Media
from havre.control.apiserver.request import flag
from havre.control.apiserver.resources import Resource, dump
from havre.kit.field import FieldError, Problem, forbidden, not_supported
from havre.lang import json
from havre.lang.selector import FieldSelector, LabelSelector, SelectorError
from havre.wire.http.message import Writer

Params = dict[str, str]
STEP = 200  # items made in one turn of the loop, 20 to 100 µs each when they are not kept from before
COPIES = 2000  # and of stored bytes, about 1 µs each
_SCAN = 500  # entries looked at per step of a limited list with selectors
_EXACT, _NOT_OLDER = "Exact", "NotOlderThan"
_SLOW = 16 << 20  # bytes that may wait for one watcher: then it is cut off and lists anew, as upstream does
BOOKMARK_SECONDS = 60.0
_TOO_OLD_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The selectors of a list or watch."""

    labels: LabelSelector
    fields: FieldSelector
    extract: Callable[[Entry, str], str]

    @property
    def everything(self) -> bool:
        return self.labels.everything and self.fields.everything

    def matches(self, entry: Entry) -> bool:
        if not self.labels.everything and not self.labels.matches(entry.labels):
            return False
        return self.fields.everything or self.fields.matches(lambda name: self.extract(entry, name))


def select(resource: Resource, params: Params, name: str = "") -> Selection:
    """The compiled selectors; `name` narrows to one object. Raises BadRequest in upstream's words."""
    try:
        labels = LabelSelector.parse(params.get("labelSelector", ""))
        fields = FieldSelector.parse(params.get("fieldSelector", ""))
    except SelectorError as e:
        raise BadRequest(str(e)) from e
    for term in fields.terms:
        if term.field not in resource.fields:
            raise BadRequest(_unknown_field(resource, term.field))
    if name:
        fields = fields.narrowed("metadata.name", name)

    def extract(entry: Entry, path: str) -> str:
        return _field(resource, entry, path)

    return Selection(labels, fields, extract)


def _unknown_field(resource: Resource, name: str) -> str:
    """Upstream says it in three ways, by where the fields of the kind are declared."""
    if len(resource.fields) == 2:
        known = ", ".join(f'"{f}"' for f in resource.fields)
        return f'"{name}" is not a known field selector: only {known}'
    if resource.kind.kind == "Job":
        return f'field label "{name}" not supported for Job'
    return f"field label not supported: {name}"


def _field(resource: Resource, entry: Entry, path: str) -> str:
    """The value of a selectable field; name and namespace come from the key, without decoding."""
    if path == "metadata.name":
        return entry.key.rsplit("/", 1)[1]
    if path == "metadata.namespace":
        return entry.key.rsplit("/", 2)[1]
    if entry.memo is None:
        entry.memo = {}
    known: tuple[Resource, dict[str, str]] | None = entry.memo.get("fields")
    if known is None or known[0] is not resource:  # two groups share the events; a definition changes its fields
        obj = entry.decode()
        if resource.decode:
            obj = resource.decode(obj)
        known = entry.memo["fields"] = resource, {key: get(obj) for key, get in resource.fields.items()}
    return known[1][path]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list stands: the revision it shows, and the key after which it goes on."""

    revision: int | None
    after: str

    def token(self) -> str:
        raw = orjson.dumps({"v": "meta.k8s.io/v1", "rv": self.revision or -1, "start": self.after + "\0"})
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def of(cls, token: str) -> Place:
        """Raises BadRequest. A revision of -1 means: go on from there, whatever has changed meanwhile."""
        try:
            raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            revision, start = raw["rv"], raw["start"]
            if raw["v"] != "meta.k8s.io/v1" or not isinstance(revision, int) or not isinstance(start, str):
                raise ValueError("unknown version")
        except (ValueError, KeyError, TypeError) as e:
            raise BadRequest(f"invalid continue token: continue key is not valid: {e}") from e
        if ".." in start.split("/"):
            raise BadRequest("invalid continue token: continue key is not valid: it leaves the resource")
        return cls(revision if revision > 0 else None, start.rstrip("\0"))


def revision_of(text: str) -> int:
    """A resourceVersion parameter; "" is 0. Raises BadRequest."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        why = f'strconv.ParseUint: parsing "{text}": invalid syntax'
        raise BadRequest(f'invalid resource version: resourceVersion: Invalid value: "{text}": {why}')
    return int(text)


def check_list_options(params: Params, *, watch: bool) -> None:
    """The combinations that the API refuses. Source: ValidateListOptions."""
    match, version = params.get("resourceVersionMatch", ""), params.get("resourceVersion", "")
    errors: list[FieldError] = []

    def no(why: str, path: str = "resourceVersionMatch") -> None:
        errors.append(forbidden(path, f"{path} {why}"))

    initial = params.get("sendInitialEvents")
    if initial is not None and not watch:
        no("is forbidden for list", "sendInitialEvents")
    elif watch:
        errors += _watch_match(match, initial is not None)
    elif match:
        if not version:
            no("is forbidden unless resourceVersion is provided")
        if params.get("continue"):
            no("is forbidden when continue is provided")
        if match not in (_EXACT, _NOT_OLDER):
            why = f'supported values: "{_EXACT}", "{_NOT_OLDER}", ""'
            errors.append(FieldError(Problem.NOT_SUPPORTED, "resourceVersionMatch", match, why))
        if match == _EXACT and version == "0":
            no('"exact" is forbidden for resourceVersion "0"')
    if errors:
        raise Invalid.of("meta.k8s.io", "ListOptions", "", errors)


def _watch_match(match: str, initial: bool) -> Iterator[FieldError]:
    path = "resourceVersionMatch"
    if initial and match != _NOT_OLDER:
        yield forbidden(path, f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER}")
    if match and not initial:
        yield forbidden(path, f"{path} is forbidden for watch unless sendInitialEvents is provided")
    if match and match != _NOT_OLDER:
        yield not_supported(path, match, (_NOT_OLDER,))


@dataclass(slots=True)
class Page:
    """One answer of a list."""

    entries: Sequence[Entry]
    revision: int
    token: str = ""
    remaining: int | None = None

    def meta(self) -> bytes:
        meta: Obj = {"resourceVersion": str(self.revision)}
        if self.token:
            meta["continue"] = self.token
            if self.remaining:
                meta["remainingItemCount"] = self.remaining
        return orjson.dumps(meta)


def list_page(cache: Cache, resource: Resource, namespace: str, params: Params, selection: Selection) -> Page:
    """The entries that a list asks for. Raises BadRequest, Invalid, Expired, Timeout."""
    check_list_options(params, watch=False)
    limit = max(_integer(params, "limit"), 0)
    place = _start(cache, resource, params)
    scope = resource.scope(namespace)
    revision = place.revision or cache.revision
    at = place.revision if place.revision is not None and place.revision < cache.revision else None
    try:
        entries, more = _scan(cache, scope, place.after and resource.prefix + place.after, limit, at, selection)
    except TooOld:
        raise _expired(params, place) from None
    if not more:
        return Page(entries, revision)
    last = entries[-1].key.removeprefix(resource.prefix)
    page = Page(entries, revision, Place(revision, last).token())
    if selection.everything:  # with selectors nobody knows without looking at all the others
        page.remaining = cache.count(scope, after=entries[-1].key, at=at)
    return page


def _integer(params: Params, key: str) -> int:
    text = params.get(key, "")
    try:
        return int(text) if text else 0
    except ValueError:
        raise BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _start(cache: Cache, resource: Resource, params: Params) -> Place:
    version = revision_of(params.get("resourceVersion", ""))
    if token := params.get("continue", ""):
        if version:
            raise BadRequest("specifying resource version is not allowed when using continue")
        return Place.of(token)
    check_reached(cache, version)
    exact = params.get("resourceVersionMatch") == _EXACT
    return Place(version if exact else None, "")


def check_reached(cache: Cache, version: int) -> None:
    """Raises Timeout for a revision that is still to come."""
    if version > cache.revision:
        raise Timeout(
            f"Timeout: Too large resource version: {version}, current: {cache.revision}",
            details={
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            },
        )


def _scan(
    cache: Cache, scope: str, after: str, limit: int, at: int | None, selection: Selection
) -> tuple[Sequence[Entry], bool]:
    """Up to `limit` matching entries (0 is all) and whether there are more."""
    if selection.everything:
        return cache.range(scope, after=after, limit=limit or None, at=at)
    if not limit:
        entries, _ = cache.range(scope, after=after, at=at)
        return [e for e in entries if selection.matches(e)], False
    found: list[Entry] = []
    for entry in _steps(cache, scope, after, at):
        if selection.matches(entry):
            if len(found) == limit:
                return found, True
            found.append(entry)
    return found, False


def _steps(cache: Cache, scope: str, after: str, at: int | None) -> Iterator[Entry]:
    more = True
    while more:
        entries, more = cache.range(scope, after=after, limit=_SCAN, at=at)
        yield from entries
        after = entries[-1].key if entries else after


def _expired(params: Params, place: Place) -> ApiError:
    if not params.get("continue"):
        return Expired(f"The resourceVersion for the provided list is too old: {place.revision}")
    error = ContinueExpired(_TOO_OLD_CONTINUE)
    error.token = Place(None, place.after).token()
    return error


class ContinueExpired(Expired):
    """A continue token whose revision is compacted; the Status offers one that goes on from now."""

    code, reason = Expired.code, Expired.reason
    token = ""

    def status(self) -> Obj:
        return {**super().status(), "metadata": {"continue": self.token}}


def body_of(resource: Resource, entry: Entry, media: Media, include: str = "Metadata") -> bytes:
    """One object as the client wants it, in JSON."""
    if media.as_kind == "Table":
        rendered = table.row(resource, entry, served(resource, entry), include).render(time.time())
        meta = orjson.dumps({"resourceVersion": str(entry.revision)} if entry.revision else {})
        return table.document(resource, [rendered], meta, version=media.as_version, columns=True)
    if media.as_kind == "PartialObjectMetadata":
        return table.metadata_only(entry.value, media.as_version)
    obj = served(resource, entry)
    return entry.value if obj is None else dump(obj)


def served(resource: Resource, entry: Entry) -> Obj | None:
    """The object in the version of `resource`; None when the stored bytes are it."""
    return resource.decode(entry.decode()) if resource.decode else None


def list_body(resource: Resource, page: Page, media: Media, include: str = "Metadata") -> bytes:
    """The whole list as the client wants it."""
    return list_document(resource, page, media, list(map(list_item(resource, media, include), page.entries)))


async def list_body_in_steps(resource: Resource, page: Page, media: Media, include: str = "Metadata") -> bytes:
    """The same, of a list so long that others must be served meanwhile."""
    item, items = list_item(resource, media, include), list[bytes]()
    step = COPIES if copied(resource, media) else STEP
    for start in range(0, len(page.entries), step):
        items += map(item, page.entries[start : start + step])
        await sleep(0)
    return list_document(resource, page, media, items)


def copied(resource: Resource, media: Media) -> bool:
    """Whether a list is made of stored bytes as they are."""
    return media.type != PROTOBUF and not media.as_kind and not resource.decode


def list_item(resource: Resource, media: Media, include: str) -> Callable[[Entry], bytes]:
    """One entry as it stands in a list."""
    if media.type == PROTOBUF:
        return lambda e: _message(resource, e)
    if media.as_kind == "Table":
        now = time.time()
        return lambda e: table.row(resource, e, served(resource, e), include).render(now)
    if media.as_kind == "PartialObjectMetadataList":
        return lambda e: table.metadata_only(e.value, media.as_version)
    decode = resource.decode
    if decode:
        return lambda e: dump(decode(e.decode()))
    if resource.builtin:  # built-in lists leave out what every item would repeat
        skip = len(resource.item_head)
        return lambda e: b"{" + e.value[skip:]
    return lambda e: e.value


def list_document(resource: Resource, page: Page, media: Media, items: list[bytes]) -> bytes:
    """The list around its items."""
    kind = resource.kind
    if media.type == PROTOBUF:
        gvk = resource.gvk._replace(kind=kind.list_kind)
        return protobuf.encode_list(gvk, str(page.revision), page.token, items, page.remaining)
    if media.as_kind == "Table":
        return table.document(resource, items, page.meta(), version=media.as_version, columns=True)
    if media.as_kind == "PartialObjectMetadataList":
        return _joined("PartialObjectMetadataList", f"meta.k8s.io/{media.as_version}", page, items)
    return _joined(kind.list_kind, f"{kind.group}/{kind.version}" if kind.group else kind.version, page, items)


def protobuf_of(resource: Resource, entry: Entry) -> bytes:
    """One object in its envelope."""
    return protobuf.envelope(resource.gvk, _message(resource, entry))


def _message(resource: Resource, entry: Entry) -> bytes:
    """The bare message of an object, kept with it."""
    if entry.memo is None:
        entry.memo = {}
    memo_key = ("protobuf", resource.gvk)
    raw: bytes | None = entry.memo.get(memo_key)
    if raw is None:
        raw = entry.memo[memo_key] = protobuf.encode_raw(served(resource, entry) or entry.decode())
    return raw


def _joined(kind: str, api_version: str, page: Page, items: Iterable[bytes]) -> bytes:
    """One copy of the whole list: the head goes into its first item, the end into its last."""
    names = (kind.encode(), api_version.encode(), page.meta())
    head = b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % names
    parts = list(items)
    if not parts:
        return head + b"]}"
    parts[0] = head + parts[0]
    parts[-1] += b"]}"
    return b",".join(parts)


@dataclass(slots=True, eq=False)
class Watcher:
    """One open watch: events in, framed lines out. Called from the cache, never awaits."""

    resource: Resource
    selection: Selection
    media: Media
    include: str
    writer: Writer
    bookmarks: bool
    forget: Callable[[Watcher], None]
    watch: Watch | None = None
    timer: TimerHandle | None = None
    _columns_sent: bool = field(default=False)
    _room: int = field(default=_SLOW)

    def deliver(self, events: Sequence[Event]) -> None:
        if self.writer.closed:
            return
        if self.selection.everything and self._plain:
            self._send(b"".join([event.line for event in events]))
            return
        lines = [line for line in map(self._line, events) if line]
        if lines:
            self._send(b"".join(lines))

    @property
    def _plain(self) -> bool:
        return not (self.media.as_kind or self.resource.decode or self.media.type == PROTOBUF)

    def _send(self, data: bytes) -> None:
        if self.writer.buffered > self._room:
            self.writer.abort()  # on_close stops the watch
            return
        self.writer.write(data)

    def _line(self, event: Event) -> bytes:
        seen = as_seen(event, self.selection)
        return self.frame(*seen) if seen else b""

    def frame(self, kind: str, entry: Entry) -> bytes:
        if self.media.type == PROTOBUF:
            return protobuf.watch_frame(kind, protobuf_of(self.resource, entry))
        if self.media.as_kind == "Table":
            first, self._columns_sent = not self._columns_sent, True
            rendered = table.row(self.resource, entry, served(self.resource, entry), self.include).render(time.time())
            meta = orjson.dumps({"resourceVersion": str(entry.revision)})
            body = table.document(self.resource, [rendered], meta, version=self.media.as_version, columns=first)
        else:
            body = body_of(self.resource, entry, self.media)
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)

    def initial(self, entries: Iterable[Entry]) -> None:
        """The present state as additions, for a watch that does not say where it begins."""
        if lines := [self.frame("ADDED", e) for e in entries if self.selection.matches(e)]:
            data = b"".join(lines)
            self._room += len(data)  # a large present state is not the reader's slowness
            self._send(data)

    def bookmark(self, revision: int, *, initial: bool = False) -> None:
        """How far this watcher has come, so that it can resume from there."""
        meta: Obj = {"resourceVersion": str(revision)}
        if initial:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj = self._bookmark_object(meta)
        if self.media.type == PROTOBUF:
            self._send(protobuf.watch_frame("BOOKMARK", protobuf.encode(obj)))
        else:
            self._send(b'{"type":"BOOKMARK","object":%b}\n' % orjson.dumps(obj))

    def _bookmark_object(self, meta: Obj) -> Obj:
        if self.media.as_kind == "Table":
            cells = {"cells": [None] * len(self.resource.table.columns), "object": _partial(meta)}
            gvk = GVK("meta.k8s.io", self.media.as_version, "Table")
            rest: Obj = {
                "metadata": {"resourceVersion": meta["resourceVersion"]},
                "columnDefinitions": None,
                "rows": [cells],
            }
            return {"kind": gvk.kind, "apiVersion": gvk.api_version, **rest}
        if self.media.as_kind:
            return _partial(meta)
        gvk = self.resource.gvk
        return {"kind": gvk.kind, "apiVersion": gvk.api_version, "metadata": meta}

    def stop(self) -> None:
        self.forget(self)
        if self.watch:
            self.watch.cancel()
        if self.timer:
            self.timer.cancel()


def _partial(meta: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}


def as_seen(event: Event, selection: Selection) -> tuple[str, Entry] | None:
    """The event in the eyes of a selection: leaving it is a deletion, entering it an addition; None is not seen at
    all.
    """
    if selection.everything:
        return event.type, event.entry
    now = event.type != "DELETED" and selection.matches(event.entry)
    before = event.prev is not None and selection.matches(event.prev)
    if now:
        return "MODIFIED" if before else "ADDED", event.entry
    if not before:
        return None
    return "DELETED", event.entry if event.type == "DELETED" else _left(event)


def _left(event: Event) -> Entry:
    """The object as it was when it still matched, at the revision at which it left."""
    assert event.prev is not None
    obj = event.prev.decode()
    obj["metadata"]["resourceVersion"] = str(event.revision)
    return Entry(event.prev.key, event.revision, event.prev.created, dump(obj))


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What a watch request asks for, checked before the stream opens."""

    since: int | None  # None: begin with the present state
    initial_bookmark: bool
    bookmarks: bool
    timeout: float  # seconds; 0 is the server's own limit


def plan_watch(cache: Cache, params: Params) -> WatchPlan:
    """Raises BadRequest, Invalid, Timeout."""
    check_list_options(params, watch=True)
    version = revision_of(params.get("resourceVersion", ""))
    initial = flag(params, "sendInitialEvents") if "sendInitialEvents" in params else version == 0
    bookmarks = flag(params, "allowWatchBookmarks")
    end_bookmark = bookmarks and flag(params, "sendInitialEvents")
    return WatchPlan(
        None if initial else version or cache.revision, end_bookmark, bookmarks, _integer(params, "timeoutSeconds")
    )


def open_watch(cache: Cache, namespace: str, plan: WatchPlan, watcher: Watcher, longest: float) -> None:
    """Connects a watcher whose head is sent; a revision that is too old becomes an ERROR event, as upstream sends
    it.
    """
    scope = watcher.resource.scope(namespace)
    watcher.writer.on_close = watcher.stop
    watcher.timer = get_running_loop().call_later(plan.timeout or longest, watcher.writer.close)
    if plan.since is not None:
        _follow(cache, scope, plan.since, watcher)
        return
    revision, (entries, _) = cache.revision, cache.range(scope)

    def send(start: int) -> None:
        """The present state in steps, so that others are served between them; then what has changed since."""
        watcher.initial(entries[start : start + STEP])
        if watcher.writer.closed:
            return
        if start + STEP < len(entries):
            get_running_loop().call_soon(send, start + STEP)
            return
        if plan.initial_bookmark:
            watcher.bookmark(revision, initial=True)
        _follow(cache, scope, revision, watcher)

    send(0)


def _follow(cache: Cache, scope: str, since: int, watcher: Watcher) -> None:
    writer = watcher.writer
    if writer.closed:  # while the present state was sent: nobody is left to end the watch
        return
    try:
        watcher.watch = cache.watch(scope, since, watcher.deliver, lambda _error: writer.abort())
    except TooOld:
        error = Expired(f"too old resource version: {since} ({cache.oldest})")
        writer.write(b'{"type":"ERROR","object":%b}\n' % orjson.dumps(error.status()))
        writer.close()
