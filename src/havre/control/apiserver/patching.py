"""PATCH: the four patch types, each a function from the present object to the new one.

Source: k8s.io/apiserver, pkg/endpoints/handlers/patch.go.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from havre.api.errors import ApiError, BadRequest, Conflict, Invalid, TooLarge, UnsupportedMediaType
from havre.api.meta import Obj, rfc3339
from havre.control.apiserver import bodies, managed_fields
from havre.control.apiserver.objects import Options
from havre.control.apiserver.resources import Resource
from havre.kit.field import invalid
from havre.lang import json, jsonpatch, mergepatch, strategicmerge, yaml
from havre.lang.merge.ownership import Conflicts

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

Patch = Callable[[Obj], Obj]  # may change and return its argument


def accepted(resource: Resource) -> tuple[str, ...]:
    return (JSON_PATCH, MERGE, STRATEGIC, APPLY) if resource.builtin else (JSON_PATCH, MERGE, APPLY)


def compile_patch(resource: Resource, body: bytes, content_type: str, options: Options) -> Patch:
    """The patch as a function. Raises BadRequest for a body that is no patch of its type, Invalid where one does not
    fit.
    """
    media = bodies.media_of(content_type)
    if media not in accepted(resource) or media == APPLY:
        if media != STRATEGIC:
            raise UnsupportedMediaType("415: Unsupported Media Type", details={})
        names = ", ".join(accepted(resource))
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {names}"
        )
    try:
        raw = json.loads(body)
    except json.JSONError as e:
        raise BadRequest(f"error decoding patch: {e}") from e
    told = bodies.duplicates(body, raw, options)
    if media == JSON_PATCH:
        patch = _json_patch(resource, raw)
    elif not isinstance(raw, dict):
        what = "array" if isinstance(raw, list) else type(raw).__name__
        raise BadRequest(
            f"error decoding patch: json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
        )
    elif media == MERGE:
        patch = _merge_patch(raw)
    else:
        patch = _strategic(resource, raw)

    def apply(obj: Obj) -> Obj:
        uid, new = obj["metadata"]["uid"], patch(obj)
        _same_object(resource, new, uid)
        try:
            bodies.refine(resource, new, options, told)
        except BadRequest as e:  # the patch was fine, but not what it makes of the object
            raise _unfit(resource, new, e.message) from e
        return new

    return apply


def _json_patch(resource: Resource, raw: object) -> Patch:
    try:
        operations = jsonpatch.parse(raw)
    except jsonpatch.TooManyOperations as e:
        raise TooLarge(str(e)) from e
    except jsonpatch.PatchError as e:
        raise BadRequest(f"error decoding patch: {e}") from e

    def apply(obj: Obj) -> Obj:
        try:
            new = jsonpatch.apply(obj, operations)
        except jsonpatch.TooManyOperations as e:
            raise TooLarge(str(e)) from e
        except jsonpatch.PatchError as e:
            raise Invalid("the server rejected our request due to an error in our request", details={}) from e
        if not isinstance(new, dict):
            raise _unfit(resource, obj, "the patch replaces the whole object by something that is no object")
        return new

    return apply


def _merge_patch(raw: Obj) -> Patch:
    return lambda obj: mergepatch.apply(obj, raw)


def _strategic(resource: Resource, raw: Obj) -> Patch:
    def apply(obj: Obj) -> Obj:
        try:
            return strategicmerge.apply(obj, raw, resource.schema)
        except strategicmerge.PatchError as e:
            raise _misfit(resource, obj, e) from e

    return apply


def _misfit(resource: Resource, obj: Obj, error: strategicmerge.PatchError) -> ApiError:
    if error.code == 400:
        return BadRequest(str(error))
    return _unfit(resource, obj, str(error)) if error.code == 422 else ApiError(str(error))


def _unfit(resource: Resource, obj: Obj, why: str) -> ApiError:
    name = obj["metadata"].get("name", "")
    return Invalid.of(resource.group, resource.kind.kind, name, [invalid("patch", None, why)])


def _same_object(resource: Resource, new: Obj, uid: str) -> None:
    wanted, meta = resource.gvk, new.get("metadata")
    if not isinstance(meta, dict):
        raise BadRequest("the patch removes metadata; patch its fields instead")
    if (new.get("kind"), new.get("apiVersion")) != (wanted.kind, wanted.api_version):
        raise _unfit(
            resource,
            new,
            f"the patch changes the kind from {wanted.api_version} {wanted.kind} "
            f"to {new.get('apiVersion')} {new.get('kind')}; create an object of that kind instead",
        )
    if meta.get("uid") not in (None, "", uid):
        changed = invalid("metadata.uid", meta["uid"], "field is immutable")
        raise Invalid.of(resource.group, wanted.kind, meta.get("name", ""), [changed])


def parse_apply(resource: Resource, body: bytes, options: Options) -> Obj:
    """The configuration of a server-side apply: YAML or JSON, without managedFields."""
    try:
        applied = json.loads(body) if body.lstrip()[:1] == b"{" else yaml.load(body.decode())
    except (json.JSONError, yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadRequest(f"error decoding YAML: {e}") from e
    if not isinstance(applied, dict):
        raise BadRequest(
            "error decoding YAML: the configuration must be an object with apiVersion, kind and metadata.name"
        )
    wanted = resource.gvk
    if (applied.get("kind"), applied.get("apiVersion")) != (wanted.kind, wanted.api_version):
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {wanted.kind}): "
            f"apiVersion and kind must be {wanted.api_version} and {wanted.kind}"
        )
    meta = applied.setdefault("metadata", {})  # a name that is left out is the one on the URL
    if not isinstance(meta, dict):
        raise BadRequest(f"apply a {wanted.kind}: metadata must be an object")
    if meta.get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    _tell_duplicates(body, applied, options)
    return applied


def _tell_duplicates(body: bytes, applied: Obj, options: Options) -> None:
    """Keys that occur twice in one object: refused or warned about, as the client asked for."""
    if options.field_validation == "Ignore":
        return
    if body.lstrip()[:1] == b"{" and not json.duplicate_keys(body, applied):
        return
    try:
        yaml.load(body.decode(), strict=True)
    except yaml.YAMLError as e:
        if options.field_validation == "Strict":
            raise BadRequest(f"error strict decoding YAML: {e}") from e
        options.warnings += bodies.yaml_warnings(e)


def applier(resource: Resource, applied: Obj, options: Options, subresource: str) -> Callable[[Obj | None], Obj]:
    """From the live object (None: absent) to the merged one, managedFields written. Raises Conflict, BadRequest."""
    why = resource.rules.check_types(applied)
    if why:
        kind = resource.gvk
        raise BadRequest(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')
    dropped = resource.rules.prune(applied)
    if dropped:
        raise _not_declared(resource, applied, dropped)

    def apply(live: Obj | None) -> Obj:
        uid = applied["metadata"].get("uid")
        if live is None and uid:
            why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise Conflict.of(resource.plural, resource.group, applied["metadata"].get("name", ""), why)
        try:
            return managed_fields.apply(
                live,
                applied,
                schema=resource.schema,
                manager=options.manager,
                force=options.force,
                api_version=resource.gvk.api_version,
                subresource=subresource,
                structured=resource.builtin,
                now=rfc3339(time.time()),
                ignored=resource.rules.ignored(subresource),
            )
        except Conflicts as e:
            raise managed_fields.conflict_status(e) from e

    return apply


def _not_declared(resource: Resource, applied: Obj, dropped: list[str]) -> ApiError:
    """An apply takes no unknown field, whatever fieldValidation says: nobody could own it."""
    meta, gvk = applied["metadata"], resource.gvk
    what = f"({meta.get('namespace', '')}/{meta.get('name', '')}; {gvk.group}/{gvk.version}, Kind={gvk.kind})"
    paths = "\n".join(f".{path}: field not declared in schema" for path in dropped)
    return ApiError(f"failed to create typed patch object {what}: {paths}")
