"""Create, update, patch and delete: the one pipeline through which every write reaches the store.

create   defaults → managedFields → mutating admission → prepare → validate → validating admission → store
update   read → change → the same, against the old object; a lost race reads again
delete   preconditions → validating admission → finalizers and grace: marked, or removed at once

Nothing is half-applied: the store takes one whole object or nothing. A dry run goes the same way and stops before the
store.

Source: k8s.io/apiserver, pkg/registry/generic/registry/store.go, pkg/registry/rest/{create,update,delete}.go and
pkg/endpoints/handlers/{create,update,patch,delete}.go.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from havre.api import deletion
from havre.api.errors import AlreadyExists, BadRequest, Conflict, InternalError, Invalid, NotFound
from havre.api.meta import GVK, Obj, labels_of, rfc3339
from havre.control.apiserver import managed_fields
from havre.control.apiserver.cache import Cache, Entry, Moved
from havre.control.apiserver.resources import Resource, dump, prefix_of
from havre.kit.field import FieldError, invalid
from havre.machinery.admission import AdmissionRequest, Attributes, Operation, User

RETRIES = 12  # of a lost race; each retry lost means that somebody else's write won, so the system makes progress
NAME_TRIES = 8  # of generateName: 27^5 = 14 million names, so a second collision is already unlikely
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no look-alikes: upstream's, so that names look the same
_MAX_GENERATED = 63 - 5
_NAMESPACES = prefix_of("", "namespaces")
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(slots=True)
class Options:
    """What a write carries beside the object."""

    user: User
    manager: str = "unknown"
    dry_run: bool = False
    force: bool = False
    field_validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)
    raw: Obj = field(default_factory=dict)  # CreateOptions, … as webhooks see them


class Admission(Protocol):
    async def admit(self, req: AdmissionRequest) -> None: ...
    async def validate(self, req: AdmissionRequest) -> None: ...


class Allocator(Protocol):
    """Gives out what must be unique in the cluster (a Service's addresses and ports)."""

    def assign(self, obj: Obj, old: Obj | None) -> Callable[[], None]:
        """Fills in `obj`; call the returned function when the write has landed or failed. Raises ApiError."""
        ...


Change = Callable[[Entry], Obj]


class Objects:
    """The write side of the API, for HTTP requests and for callers in this process."""

    def __init__(self, cache: Cache, admission: Admission, allocator: Allocator) -> None:
        self.cache = cache
        self.admission = admission
        self._allocator = allocator
        self._landing: set[asyncio.Task[None]] = set()

    async def create(
        self, resource: Resource, namespace: str, obj: Obj, options: Options, *, track: bool = True
    ) -> Entry:
        """Stores a new object. Raises AlreadyExists, Invalid, Forbidden …

        `track=False`: the caller (server-side apply) has written managedFields itself.
        """
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        if namespace:
            meta["namespace"] = namespace
        base = meta.get("generateName", "")
        if meta.get("name") or not base:
            return await self._create(resource, namespace, obj, options, track=track)
        for left in reversed(range(NAME_TRIES)):
            meta["name"] = base[:_MAX_GENERATED] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
            try:
                return await self._create(resource, namespace, obj, options, track=track)
            except AlreadyExists:
                if not left:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def _create(self, resource: Resource, namespace: str, obj: Obj, options: Options, *, track: bool) -> Entry:
        rules, meta = resource.rules, obj["metadata"]
        name = meta.get("name", "")
        now = rfc3339(time.time())
        for stale in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "uid", "creationTimestamp"):
            meta.pop(stale, None)
        if track:
            self._track(None, obj, resource, options, "", now)
        else:
            rules.default(obj)  # as a decoded body is; what was applied has no spec where nobody sets a field of it
        request = self._request(resource, Operation.CREATE, namespace, name, options, "")
        request.obj = obj
        await self.admission.admit(request)
        obj = self._admitted(request, resource)
        meta = obj["metadata"]
        rules.default(obj)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now
        rules.prepare_create(obj, options.user)
        hold = self._allocator.assign(obj, None)
        try:
            self._refuse(resource, name, rules.validate_create(obj))
            await self.admission.validate(request)
            options.warnings += rules.warnings(obj, None)
            key = resource.key(namespace, name)
            if await self.cache.settled(key) is not None:
                raise AlreadyExists.of(resource.plural, resource.group, name)
            # a namespace that went while admission was asking must not keep an orphan
            if namespace and await self.cache.settled(f"{_NAMESPACES}/{namespace}") is None:
                raise NotFound.of("namespaces", "", namespace)
            if options.dry_run:
                return _unsaved(key, self._stored(resource, obj))
            return await self.cache.put(key, None, self._encoder(resource, obj), labels_of(obj))
        except Moved:
            raise AlreadyExists.of(resource.plural, resource.group, name) from None
        except asyncio.CancelledError:
            hold = self._once_settled(resource.key(namespace, name), hold)
            raise
        finally:
            hold()  # what was written is in use by now, what was not is free again

    async def admitted(
        self, resource: Resource, namespace: str, name: str, body: Obj, options: Options, subresource: str
    ) -> Obj:
        """What admission makes of a body that is answered and not stored (a TokenRequest). Raises ApiError."""
        request = self._request(resource, Operation.CREATE, namespace, name, options, subresource)
        request.gvk, request.obj = GVK.of(body), body
        await self.admission.admit(request)
        await self.admission.validate(request)
        return self._admitted(request, resource)

    async def connected(
        self, resource: Resource, namespace: str, name: str, body: Obj, user: User, subresource: str
    ) -> None:
        """Ask admission about a connection into a pod, service or node; `body` are its options. Raises ApiError."""
        request = self._request(resource, Operation.CONNECT, namespace, name, Options(user), subresource)
        request.gvk, request.obj = GVK.of(body), body
        await self.admission.admit(request)
        await self.admission.validate(request)

    async def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Change,
        options: Options,
        *,
        subresource: str = "",
        track: bool = True,
        absent: Callable[[], Awaitable[Entry]] | None = None,
    ) -> tuple[Entry, bool]:
        """Changes the stored object: `change` gives the new one, and is called again after a lost race.

        `track=False`: `change` (server-side apply) has written managedFields itself. `absent` makes the object when
        there is none. Returns the entry and whether it was created. When nothing changed there is no write, so no
        watcher wakes.
        """
        key = resource.key(namespace, name)
        for _ in range(RETRIES):
            live = await self.cache.settled(key)
            if live is None:
                if absent is None:
                    raise resource.not_found(name)
                return await absent(), True
            try:
                entry = await self._update(resource, namespace, name, live, change, options, subresource, track=track)
                return entry, False
            except Moved:
                continue
        raise Conflict.of(resource.plural, resource.group, name, MODIFIED)

    async def _update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        live: Entry,
        change: Change,
        options: Options,
        subresource: str,
        *,
        track: bool,
    ) -> Entry:
        rules = resource.rules
        old, new = self.served(resource, live), change(live)
        _keep_identity(resource, new, old, name)
        rules.default(new)
        if track:
            self._track(old, new, resource, options, subresource, rfc3339(time.time()))
        request = self._request(resource, Operation.UPDATE, namespace, name, options, subresource)
        request.obj, request.old = new, old
        await self.admission.admit(request)
        new = self._admitted(request, resource)
        rules.default(new)
        rules.prepare_update(new, old, subresource)
        hold = self._allocator.assign(new, old)
        try:
            errors = rules.validate_update(new, old, subresource)
            self._refuse(resource, name, errors + deletion.keep_marked_rules(new, old))
            await self.admission.validate(request)
            options.warnings += rules.warnings(new, old)
            if new == old or (not track and managed_fields.keep_times(old, new)):
                return live
            if options.dry_run:
                return _unsaved(live.key, self._stored(resource, new))
            if deletion.marked(new) and not deletion.held(new):
                return await self._remove(resource, live, new)
            return await self.cache.put(live.key, live, self._encoder(resource, new), labels_of(new))
        except asyncio.CancelledError:
            hold = self._once_settled(live.key, hold)
            raise
        finally:
            hold()

    def _once_settled(self, key: str, hold: Callable[[], None]) -> Callable[[], None]:
        """A write goes on when its caller is cancelled: what it was given stays held until it has landed."""

        async def wait() -> None:
            await self.cache.settled(key)
            hold()

        task = asyncio.get_running_loop().create_task(wait())
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
        return _nothing

    async def delete(
        self, resource: Resource, namespace: str, name: str, body: Obj, options: Options
    ) -> tuple[Entry, bool]:
        """Deletes, or marks for deletion what finalizers or a grace period still hold. True: it is gone."""
        key = resource.key(namespace, name)
        for _ in range(RETRIES):
            live = await self.cache.settled(key)
            if live is None:
                raise resource.not_found(name)
            try:
                return await self._delete(resource, namespace, name, live, body, options)
            except Moved:
                continue
        raise Conflict.of(resource.plural, resource.group, name, MODIFIED)

    async def _delete(
        self, resource: Resource, namespace: str, name: str, live: Entry, body: Obj, options: Options
    ) -> tuple[Entry, bool]:
        old = self.served(resource, live)
        deletion.check_preconditions(old, body)
        request = self._request(resource, Operation.DELETE, namespace, name, options, "")
        request.old = old
        await self.admission.admit(request)
        await self.admission.validate(request)
        new = deletion.mark(self.served(resource, live), body, rfc3339(time.time()), time.time())
        gone = not deletion.held(new)
        if options.dry_run:
            return _unsaved(live.key, self._stored(resource, new)), gone
        if gone:
            return await self._remove(resource, live, new), True
        if new == old:
            return live, False
        return await self.cache.put(live.key, live, self._encoder(resource, new)), False

    async def _remove(self, resource: Resource, live: Entry, final: Obj) -> Entry:
        return await self.cache.remove(live.key, live, self._encoder(resource, final))

    def served(self, resource: Resource, entry: Entry) -> Obj:
        """A fresh copy of the object, in the version of `resource`."""
        obj = entry.decode()
        return resource.decode(obj) if resource.decode else obj

    def _stored(self, resource: Resource, obj: Obj) -> bytes:
        # The encoder's bytes keep the buffer they were written to, 16 kB and more: what stays in memory is a copy.
        return b"".join((dump(resource.encode(obj) if resource.encode else obj), b""))

    def _encoder(self, resource: Resource, obj: Obj) -> Callable[[int], bytes]:
        def encode(revision: int) -> bytes:
            obj["metadata"]["resourceVersion"] = str(revision)
            return self._stored(resource, obj)

        return encode

    def _track(
        self, old: Obj | None, new: Obj, resource: Resource, options: Options, subresource: str, now: str
    ) -> None:
        managed_fields.update(
            old,
            new,
            schema=resource.schema,
            manager=options.manager,
            api_version=resource.gvk.api_version,
            subresource=subresource,
            now=now,
            structured=resource.builtin,
            ignored=resource.rules.ignored(subresource),
        )

    def _request(
        self,
        resource: Resource,
        operation: Operation,
        namespace: str,
        name: str,
        options: Options,
        subresource: str,
    ) -> AdmissionRequest:
        kind = resource.kind
        attributes = Attributes(
            options.user, operation.lower(), kind.group, kind.version, kind.plural, subresource, namespace, name
        )
        return AdmissionRequest(
            attributes,
            operation,
            resource.gvk,
            None,
            options=options.raw,
            dry_run=options.dry_run,
            warnings=options.warnings,
        )

    @staticmethod
    def _admitted(request: AdmissionRequest, resource: Resource) -> Obj:
        if request.obj is None:
            raise InternalError.of(f"admission took the {resource.kind.kind} away instead of refusing it")
        meta, asked = request.obj.get("metadata"), request.attributes
        if asked.subresource:
            return request.obj  # what is posted there (a TokenRequest) names nothing
        same = isinstance(meta, dict) and (meta.get("name") or "", meta.get("namespace") or "")
        if same != (asked.name, asked.namespace):
            raise InternalError.of(f"admission gave the {resource.kind.kind} another name or namespace")
        return request.obj

    @staticmethod
    def _refuse(resource: Resource, name: str, errors: list[FieldError]) -> None:
        if errors:
            raise Invalid.of(resource.group, resource.kind.kind, name, errors)


def _nothing() -> None:
    """Nothing is held."""


def _unsaved(key: str, value: bytes) -> Entry:
    """What a dry run answers with: an entry that is in no store."""
    return Entry(key, 0, 0, value)


def _keep_identity(resource: Resource, new: Obj, old: Obj, name: str) -> None:
    """Checks preconditions in `new` and restores what no update may change."""
    mine, was = new.setdefault("metadata", {}), old["metadata"]
    if mine.get("uid") and mine["uid"] != was["uid"]:
        why = f"Precondition failed: UID in precondition: {mine['uid']}, UID in object meta: {was['uid']}"
        raise Conflict.of(resource.plural, resource.group, name, why)
    version = mine.get("resourceVersion")
    if version and version != was["resourceVersion"]:
        raise Conflict.of(resource.plural, resource.group, name, MODIFIED)
    if not version and not resource.unconditional_update:
        missing = invalid("metadata.resourceVersion", 0, "must be specified for an update")
        raise Invalid.of(resource.group, resource.plural, name, [missing])
    for key in ("uid", "resourceVersion", "creationTimestamp", "generation", "namespace", "name"):
        if key in was:
            mine.setdefault(key, was[key])
            if not mine[key]:
                mine[key] = was[key]
    marks = ("deletionTimestamp", "deletionGracePeriodSeconds")
    changed = [k for k in marks if mine.get(k) is not None and mine[k] != was.get(k)]
    if changed:
        errors = [invalid(f"metadata.{k}", mine[k], "field is immutable") for k in changed]
        raise Invalid.of(resource.group, resource.kind.kind, name, errors)
    for key in marks:
        if key in was:
            mine[key] = was[key]
        else:
            mine.pop(key, None)
    mine.pop("selfLink", None)
