"""CustomResourceDefinitions at work: each established one becomes served resources, a deleted one takes its objects
along.

reads   CustomResourceDefinition (through the cache, as every write commits)
writes  its status (accepted names, conditions, stored versions), its finalizer; deletes the custom objects
wakes   on every change of a CustomResourceDefinition
source  k8s.io/apiextensions-apiserver, pkg/controller/{status,establish,finalizer},
pkg/apiserver/customresource_handler.go

A definition is served in the moment in which it is established, before the client that waits for the condition reads
it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from havre.api import deletion, strategy
from havre.api.crd import convert
from havre.api.errors import ApiError, InternalError
from havre.api.meta import Obj, rfc3339
from havre.api.validation.metadata import validate_metadata, validate_metadata_update
from havre.control.apiserver import crd as definitions
from havre.control.apiserver import printers
from havre.control.apiserver.cache import Cache, Entry, Event
from havre.control.apiserver.crd import Served
from havre.control.apiserver.objects import Objects, Options
from havre.control.apiserver.openapi_custom import CustomKind
from havre.control.apiserver.resources import SPEC, STATUS, Registry, Resource, prefix_of
from havre.kit.field import FieldError
from havre.kit.names import dns1123_subdomain
from havre.lang.fieldset import EMPTY, FieldSet
from havre.machinery.admission import SUPERUSERS, User

log = logging.getLogger(__name__)

GROUP, PLURAL = "apiextensions.k8s.io", "customresourcedefinitions"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
ACTOR = User("system:apiserver", (SUPERUSERS,))
_AGAIN = 1.0  # seconds until the next look at a definition that could not be settled


class CustomRules:
    """What a write of a custom resource obeys: its schema and the rules of metadata."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def default(self, obj: Obj) -> None:
        self._served.default(obj)

    def prepare_create(self, obj: Obj, user: User) -> None:
        if self._served.status:
            obj.pop("status", None)
        obj["metadata"]["generation"] = 1

    def prepare_update(self, new: Obj, old: Obj, subresource: str) -> None:
        if subresource == "status":
            self._keep_all_but_status(new, old)
            return
        if self._served.status:
            _restore(new, old, "status")
        _bump(new, old, status=self._served.status)

    def _keep_all_but_status(self, new: Obj, old: Obj) -> None:
        for key in new.keys() | old.keys():
            if key not in ("apiVersion", "kind", "metadata", "status"):
                _restore(new, old, key)
        kept = {**old["metadata"], "managedFields": new["metadata"].get("managedFields", [])}
        new["metadata"] = kept

    def prune(self, obj: Obj) -> list[str]:
        dropped = self._served.prune(obj)
        return sorted(dropped, key=lambda path: not path.startswith("metadata."))  # upstream names those first

    def check_types(self, obj: Obj) -> str:
        return self._served.check_types(obj)

    def validate_create(self, obj: Obj) -> list[FieldError]:
        errors = validate_metadata(
            obj, namespaced=self._served.kind.namespaced, name_check=dns1123_subdomain, standard=False
        )
        return errors + self._served.validate(obj, None)

    def validate_update(self, new: Obj, old: Obj, subresource: str) -> list[FieldError]:
        errors = validate_metadata_update(new, old, standard=False)
        if subresource == "status":
            return errors + self._served.validate_status(new, old)
        return errors + self._served.validate(new, old)

    def warnings(self, obj: Obj, old: Obj | None) -> list[str]:
        return [self._served.warning] if self._served.warning else []

    def ignored(self, subresource: str) -> FieldSet:
        if subresource == "status":
            return SPEC
        return STATUS if self._served.status else EMPTY


def _restore(new: Obj, old: Obj, key: str) -> None:
    if key in old:
        new[key] = old[key]
    else:
        new.pop(key, None)


def _bump(new: Obj, old: Obj, *, status: bool) -> None:
    """`generation` counts the changes of what the user wants, i.e. of everything but metadata (and status)."""
    ignored = {"metadata", "status"} if status else {"metadata"}
    generation = old["metadata"].get("generation", 0)
    changed = any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - ignored)
    new["metadata"]["generation"] = generation + 1 if changed else generation


class CustomResources:
    """Keeps the registry in step with the definitions in the cache."""

    def __init__(self, registry: Registry, cache: Cache, objects: Objects) -> None:
        self._registry = registry
        self._cache = cache
        self._objects = objects
        self._definitions = registry.find(GROUP, "v1", PLURAL)
        self._work: asyncio.Queue[str] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve what is established, then follow the changes."""
        entries, _ = self._cache.range(self._definitions.prefix)
        for entry in entries:
            self._serve(entry.decode())
            self._work.put_nowait(entry.key)
        self._cache.watch(self._definitions.prefix, None, self._deliver)
        self._worker = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            obj = event.entry.decode()
            if event.type == "DELETED":
                self._withdraw(obj)
                for entry in self._all():  # whose names were taken may have them now
                    self._work.put_nowait(entry.key)
            else:
                self._serve(obj)
                self._work.put_nowait(event.entry.key)

    def _all(self) -> Sequence[Entry]:
        return self._cache.range(self._definitions.prefix)[0]

    def _withdraw(self, crd: Obj) -> None:
        if not self._shadowed(crd):
            self._registry.drop(crd["spec"]["group"], crd["spec"]["names"]["plural"])

    def _shadowed(self, crd: Obj) -> bool:
        """A built-in kind of that name is served instead, and its objects are none of ours."""
        group, names = crd["spec"]["group"], crd["spec"]["names"]
        same = (r for r in self._registry if r.builtin and r.group == group)
        return any(r.plural == names["plural"] or r.kind.kind == names["kind"] for r in same)

    def _serve(self, crd: Obj) -> None:
        """Replace the resources of a definition by what it says now."""
        if not definitions.established(crd) or self._shadowed(crd):
            return
        self._withdraw(crd)
        older = self._older(crd)
        for served in definitions.serve(crd):
            self._registry.add(_resource(served, crd, older=older))

    def _older(self, crd: Obj) -> bool:
        """Whether some objects were stored before the definition was what it is now, so perhaps by another schema."""
        spec, revision = crd["spec"], int(crd["metadata"]["resourceVersion"])
        entries, _ = self._cache.range(prefix_of(spec["group"], spec["names"]["plural"]))
        return any(entry.revision < revision for entry in entries)

    async def _run(self) -> None:
        while True:
            key = await self._work.get()
            try:
                await self._reconcile(key)
            except ApiError as e:
                log.warning("a definition could not be settled; will look again", extra={"key": key, "error": str(e)})
                asyncio.get_running_loop().call_later(_AGAIN, self._work.put_nowait, key)
            except Exception:  # a bug with one definition must not stop the others
                log.exception("a definition could not be settled", extra={"key": key})

    async def _reconcile(self, key: str) -> None:
        entry = self._cache.get(key)
        if entry is None:
            return
        crd = entry.decode()
        name = crd["metadata"]["name"]
        if deletion.marked(crd):
            await self._clean_up(crd)
            return
        if CLEANUP not in (crd["metadata"].get("finalizers") or ()):
            await self._change(name, "", _with_finalizer)
        others = [e.decode() for e in self._all() if e.key != key]
        await self._change(name, "status", lambda obj: definitions.settle(obj, others, rfc3339(time.time())))

    async def _change(self, name: str, subresource: str, edit: Callable[[Obj], Obj]) -> None:
        await self._objects.update(
            self._definitions, "", name, lambda live: edit(live.decode()), _options(), subresource=subresource
        )

    async def _clean_up(self, crd: Obj) -> None:
        """Delete every object of a definition that is being deleted, then let it go."""
        name, names = crd["metadata"]["name"], crd["spec"]["names"]
        if CLEANUP not in (crd["metadata"].get("finalizers") or ()):
            return
        await self._change(name, "status", lambda obj: definitions.terminating(obj, rfc3339(time.time())))
        group = crd["spec"]["group"]
        ours = (r for r in self._registry if not r.builtin and r.group == group and r.plural == names["plural"])
        resource = next(ours, None)
        if resource is not None:
            for entry in self._cache.range(resource.prefix)[0]:
                namespace, object_name = entry.key.rsplit("/", 2)[1:]
                await self._delete(resource, namespace, object_name)
            if self._cache.count(resource.prefix):
                # finalizers of others hold some objects: look again when they may be gone
                asyncio.get_running_loop().call_later(_AGAIN, self._work.put_nowait, self._definitions.key("", name))
                return
        await self._change(name, "", lambda obj: deletion.remove_finalizer(obj, CLEANUP))

    async def _delete(self, resource: Resource, namespace: str, name: str) -> None:
        try:
            await self._objects.delete(resource, namespace, name, {}, _options())
        except ApiError as e:
            if e.status_code != 404:
                raise


def _options() -> Options:
    return Options(ACTOR, manager="havre-apiserver", field_validation="Ignore")


def _with_finalizer(crd: Obj) -> Obj:
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if CLEANUP not in finalizers and not deletion.marked(crd):
        finalizers.append(CLEANUP)
    return crd


def _resource(served: Served, crd: Obj, *, older: bool) -> Resource:
    """`older`: what is stored may lack defaults, and have fields, that the schema has no more."""
    fields = {**strategy.field_values(served.kind.gvk), **served.selectable_fields}
    version, target = served.kind.version, served.kind.stored_as.version
    webhook = (crd["spec"].get("conversion") or {}).get("strategy") == "Webhook"
    stored = {target, *((crd.get("status") or {}).get("storedVersions") or ())}

    def decode(obj: Obj) -> Obj:
        if webhook and obj["apiVersion"] != served.kind.gvk.api_version:
            raise InternalError.of(_no_conversion(obj["apiVersion"], served))
        new = convert(obj, version, crd)
        served.prune(new)
        served.default(new)
        return new

    def encode(obj: Obj) -> Obj:
        return convert(obj, target, crd)

    return Resource(
        served.kind,
        lambda: served.schema,
        CustomRules(served),
        printers.custom(served.printer_columns),
        fields,
        decode if older or stored != {version} else None,
        encode if target != version else None,
        published=CustomKind(served.kind, served.raw, tuple(served.selectable_fields)),
        unserved=_no_conversion(served.kind.stored_as.api_version, served) if webhook and target != version else "",
        scale_paths=served.scale_paths,
        unconditional_update=False,
    )


def _no_conversion(origin: str, served: Served) -> str:
    kind = served.kind
    return (
        f"conversion webhook for {origin}, Kind={kind.kind} is not called by this server; "
        f"use {kind.stored_as.api_version}, the stored version"
    )
