"""The verbs over HTTP: a checked request in, the answer out. Reads answer at once; writes are awaited.

Source: k8s.io/apiserver, pkg/endpoints/handlers.
"""

from __future__ import annotations

from asyncio import TimerHandle, get_running_loop
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from havre.api import deletion
from havre.api.errors import ApiError, BadRequest, Invalid, MethodNotAllowed, NotAcceptable
from havre.api.meta import Obj
from havre.control.apiserver import answers, bodies, patching, reading
from havre.control.apiserver.cache import Cache, Entry
from havre.control.apiserver.negotiate import JSON, PROTOBUF, YAML, Media, negotiate
from havre.control.apiserver.objects import Objects, Options
from havre.control.apiserver.reading import Page, Watcher
from havre.control.apiserver.request import Target, flag
from havre.control.apiserver.resources import Registry, Resource
from havre.control.apiserver.table import INCLUDES
from havre.kit.field import required
from havre.machinery.admission import User
from havre.wire.http.message import Answer, Request, Response, Stream, Writer

LONGEST_WATCH = 1800.0  # seconds; upstream ends a watch after 30 to 60 minutes

Reply = Answer | Awaitable[Answer]


@dataclass(slots=True)
class Call:
    """One request after authentication and authorization."""

    request: Request
    target: Target
    params: dict[str, str]
    verb: str
    user: User
    may_create: Callable[[], None]  # raises Forbidden; asked when an update or an apply finds nothing to change

    @property
    def namespace(self) -> str:
        """Where the object lives. A Namespace lives nowhere, though its requests are authorized inside it."""
        return "" if self.target.resource == "namespaces" and not self.target.group else self.target.namespace

    @property
    def accept(self) -> str:
        return self.request.headers.get("accept", "")

    @property
    def encodings(self) -> str:
        return self.request.headers.get("accept-encoding", "")

    @property
    def content_type(self) -> str:
        return self.request.headers.get("content-type", "")

    def options(self, kind: str) -> Options:
        """The options of a write. Raises Invalid."""
        bodies.check_options(self.params, kind)
        agent = self.request.headers.get("user-agent", "").partition("/")[0] or "unknown"
        manager = self.params.get("fieldManager") or agent
        raw: Obj = {"kind": kind, "apiVersion": "meta.k8s.io/v1"}
        dry_run = self.params.get("dryRun") == "All"
        if dry_run:
            raw["dryRun"] = ["All"]
        for key in ("fieldManager", "fieldValidation"):
            if self.params.get(key):
                raw[key] = self.params[key]
        return Options(
            self.user,
            manager[: bodies.MAX_MANAGER],
            dry_run,
            flag(self.params, "force"),
            self.params.get("fieldValidation") or "Warn",
            [],
            raw,
        )


class Handlers:
    """The verbs on any resource."""

    def __init__(self, registry: Registry, cache: Cache, objects: Objects) -> None:
        self._registry = registry
        self._cache = cache
        self._objects = objects
        self._bookmarked: set[Watcher] = set()
        self._timer: TimerHandle | None = None

    def get(self, resource: Resource, call: Call) -> Reply:
        target = call.target
        if version := call.params.get("resourceVersion"):
            reading.check_reached(self._cache, reading.revision_of(version))
        entry = self._cache.get(resource.key(call.namespace, target.name))
        if entry is None:
            raise resource.not_found(target.name)
        return self.one(200, resource, entry, call, _lifecycle(resource))

    def list(self, resource: Resource, call: Call) -> Reply:
        media = self._media(resource, call, many=True)
        selection = reading.select(resource, call.params)
        page = reading.list_page(self._cache, resource, call.namespace, call.params, selection)
        return self.many(resource, page, media, call, _lifecycle(resource))

    def watch(self, resource: Resource, call: Call) -> Reply:
        target = call.target
        media = self._media(resource, call, many=False)
        if media.type == YAML:
            raise NotAcceptable(f"only the following media types are accepted: {JSON}, {PROTOBUF}")
        selection = reading.select(resource, call.params, target.name)
        plan = reading.plan_watch(self._cache, call.params)
        include = _include(call)

        def start(writer: Writer) -> None:
            watcher = Watcher(resource, selection, media, include, writer, plan.bookmarks, self._bookmarked.discard)
            reading.open_watch(self._cache, call.namespace, plan, watcher, LONGEST_WATCH)
            if plan.bookmarks and not writer.closed:
                self._bookmarked.add(watcher)
                self._tick()

        return Stream(200, answers.headers(media.header(watch=True), _lifecycle(resource)), start)

    def _tick(self) -> None:
        """One timer serves the bookmarks of all watchers; it runs only while there are some."""
        if self._timer is None and self._bookmarked:
            self._timer = get_running_loop().call_later(reading.BOOKMARK_SECONDS, self._send_bookmarks)

    def _send_bookmarks(self) -> None:
        self._timer = None
        for watcher in tuple(self._bookmarked):
            watcher.bookmark(self._cache.revision)
        self._tick()

    async def create(self, resource: Resource, call: Call) -> Answer:
        options = call.options("CreateOptions")
        obj = bodies.decode(self._registry, resource, call.request.body, call.content_type, options)
        _check_place(obj, call.target)
        entry = await self._objects.create(resource, call.namespace, obj, options)
        return await self.sent(201, resource, entry, call, options)

    async def update(self, resource: Resource, call: Call, subresource: str = "") -> Answer:
        target, options = call.target, call.options("UpdateOptions")
        body = bodies.decode(self._registry, resource, call.request.body, call.content_type, options)
        _check_place(body, target)
        unused: Obj | None = body  # a retry needs a fresh copy: the first was consumed

        def change(_live: Entry) -> Obj:
            nonlocal unused
            new, unused = unused, None
            return new or bodies.decode(self._registry, resource, call.request.body, call.content_type, options)

        async def absent() -> Entry:
            call.may_create()
            return await self._objects.create(resource, call.namespace, change(_NOTHING), options)

        creatable = resource.create_on_update and not subresource and not body["metadata"].get("resourceVersion")
        entry, created = await self._objects.update(
            resource,
            call.namespace,
            target.name,
            change,
            options,
            subresource=subresource,
            absent=absent if creatable else None,
        )
        return await self.sent(201 if created else 200, resource, entry, call, options)

    async def patch(self, resource: Resource, call: Call, subresource: str = "") -> Answer:
        if bodies.media_of(call.content_type) == patching.APPLY:
            return await self._apply(resource, call, subresource)
        target, options = call.target, call.options("PatchOptions")
        if options.force:
            raise _bad_patch_options("force", "may not be specified for non-apply patch")
        patch = patching.compile_patch(resource, call.request.body, call.content_type, options)

        def change(live: Entry) -> Obj:
            new = patch(self._objects.served(resource, live))
            _check_place(new, target)
            return new

        entry, _ = await self._objects.update(
            resource, call.namespace, target.name, change, options, subresource=subresource
        )
        return await self.sent(200, resource, entry, call, options)

    async def _apply(self, resource: Resource, call: Call, subresource: str) -> Answer:
        target, options = call.target, call.options("PatchOptions")
        if not call.params.get("fieldManager"):
            missing = required("fieldManager", "is required for apply patch")
            raise Invalid.of("meta.k8s.io", "PatchOptions", "", [missing])
        applied = patching.parse_apply(resource, call.request.body, options)
        applied["metadata"].setdefault("name", target.name)
        _check_place(applied, target)
        apply = patching.applier(resource, applied, options, subresource)

        def change(live: Entry) -> Obj:
            return apply(self._objects.served(resource, live))

        async def absent() -> Entry:
            call.may_create()
            return await self._objects.create(resource, call.namespace, apply(None), options, track=False)

        entry, created = await self._objects.update(
            resource,
            call.namespace,
            target.name,
            change,
            options,
            subresource=subresource,
            track=False,
            absent=None if subresource else absent,
        )
        return await self.sent(201 if created else 200, resource, entry, call, options)

    async def delete(self, resource: Resource, call: Call) -> Answer:
        target = call.target
        body, options = self._delete_options(call)
        entry, gone = await self._objects.delete(resource, call.namespace, target.name, body, options)
        if gone and not resource.returns_deleted:
            uid = entry.decode()["metadata"]["uid"]
            status = answers.deleted(resource.plural, resource.group, target.name, uid)
            return await _settled(answers.send(200, status, warnings=options.warnings))
        return await self.sent(200, resource, entry, call, options)

    async def deletecollection(self, resource: Resource, call: Call) -> Answer:
        body, options = self._delete_options(call)
        selection = reading.select(resource, call.params)
        page = reading.list_page(self._cache, resource, call.namespace, call.params, selection)
        for entry in page.entries:
            namespace, name = entry.key.rsplit("/", 2)[1:]
            try:
                await self._objects.delete(resource, namespace, name, body, options)
            except ApiError as e:
                if e.status_code != 404:  # somebody else was faster: as wanted
                    raise
        media = self._media(resource, call, many=True)
        return await _settled(self.many(resource, page, media, call, options.warnings))

    def _delete_options(self, call: Call) -> tuple[Obj, Options]:
        """DeleteOptions from the body, else from the query."""
        options = call.options("DeleteOptions")
        body: Obj = {}
        if call.request.body:
            parsed = bodies.parse(call.request.body, call.content_type, "DeleteOptions")
            if not isinstance(parsed, dict) or parsed.get("kind") not in (None, "", "DeleteOptions"):
                raise BadRequest("decode DeleteOptions: the body must be an object of that kind, or empty")
            body = parsed
        else:
            for key in ("propagationPolicy", "gracePeriodSeconds", "orphanDependents"):
                if key in call.params:
                    body[key] = _query_value(key, call.params[key])
        deletion.validate_options(body)
        options.raw = {**options.raw, **body, "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}
        options.dry_run = options.dry_run or body.get("dryRun") == ["All"]
        return body, options

    # answers

    async def sent(self, status: int, resource: Resource, entry: Entry, call: Call, options: Options) -> Answer:
        return await _settled(self.one(status, resource, entry, call, options.warnings))

    def one(
        self, status: int, resource: Resource, entry: Entry, call: Call, warnings: Sequence[str] = ()
    ) -> Response | Awaitable[Response]:
        """One object as the client wants it."""
        media = self._media(resource, call, many=False)
        if media.type == PROTOBUF:
            body = reading.protobuf_of(resource, entry)
        else:
            body = reading.body_of(resource, entry, media, _include(call))
        return answers.send(status, body, media=media, warnings=warnings, encodings=call.encodings)

    def many(
        self, resource: Resource, page: Page, media: Media, call: Call, warnings: Sequence[str] = ()
    ) -> Response | Awaitable[Response]:
        if len(page.entries) > (reading.COPIES if reading.copied(resource, media) else reading.STEP):
            return self._long(resource, page, media, call, warnings)
        body = reading.list_body(resource, page, media, _include(call))
        return answers.send(200, body, media=media, warnings=warnings, encodings=call.encodings)

    async def _long(
        self, resource: Resource, page: Page, media: Media, call: Call, warnings: Sequence[str]
    ) -> Response:
        body = await reading.list_body_in_steps(resource, page, media, _include(call))
        return await _settled(answers.send(200, body, media=media, warnings=warnings, encodings=call.encodings))

    def _media(self, resource: Resource, call: Call, *, many: bool) -> Media:
        media = negotiate(call.accept, protobuf=resource.builtin)
        if media.as_kind == "PartialObjectMetadata" + ("" if many else "List"):
            found = f"a list ({resource.kind.list_kind})" if many else f"not a list ({resource.kind.kind})"
            raise NotAcceptable(f"you requested {media.as_kind}, but the requested object is {found}")
        return media


def _lifecycle(resource: Resource) -> Sequence[str]:
    """What a read of a deprecated kind or version is told."""
    if resource.builtin and resource.kind.kind != "Endpoints":
        return ()
    gvk = resource.gvk
    return resource.rules.warnings({"kind": gvk.kind, "apiVersion": gvk.api_version, "metadata": {}}, None)


_NOTHING = Entry("", 0, 0, b"")  # what `change` gets when there is no live object: it does not look


async def _settled(reply: Response | Awaitable[Response]) -> Response:
    return reply if isinstance(reply, Response) else await reply


def _include(call: Call) -> str:
    include = call.params.get("includeObject", "Metadata")
    if include not in INCLUDES:
        raise BadRequest(
            f'Unable to convert to Table as requested: includeObject: Invalid value: "{include}": '
            "must be 'Metadata', 'Object', 'None', or empty"
        )
    return include


def _check_place(obj: Obj, target: Target) -> None:
    """The object must name the place that the URL names. Raises BadRequest."""
    meta = obj["metadata"]
    if target.namespace and target.resource != "namespaces":
        if meta.get("namespace") not in (None, "", target.namespace):
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    else:
        meta.pop("namespace", None)
    if target.name and target.subresource not in ("eviction", "binding"):
        if not meta.get("name"):
            raise BadRequest(
                f"the name of the object ({target.name} based on URL) was undeterminable: name must be provided"
            )
        if meta["name"] != target.name:
            raise BadRequest(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})"
            )


def _bad_patch_options(field: str, why: str) -> ApiError:
    from havre.kit.field import forbidden

    return Invalid.of("meta.k8s.io", "PatchOptions", "", [forbidden(field, why)])


def _query_value(key: str, text: str) -> object:
    if key == "gracePeriodSeconds":
        try:
            return int(text)
        except ValueError:
            raise BadRequest(f'strconv.ParseInt: parsing "{quote(text)}": invalid syntax') from None
    return text in ("true", "1") if key == "orphanDependents" else text


def not_allowed() -> ApiError:
    return MethodNotAllowed("the server does not allow this method on the requested resource", details={})
