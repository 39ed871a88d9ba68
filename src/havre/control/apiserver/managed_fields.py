"""`metadata.managedFields`: who owns which field, kept on every write, and server-side apply, which it makes possible.

A write by create, update or patch (`update`) gives its manager what it changed and takes that from everybody else. An
apply (`apply`) merges the applied object into the live one, refuses to change what others own unless forced, and
removes what its manager applied before and applies no more. The rules are `lang.merge.ownership`; here are the entries:
their identity (manager, operation, version, subresource), times, order, and the special cases of Kubernetes:

    stripped        name, uid, resourceVersion and the like belong to nobody
    at most ten     managers that update; older ones melt into `ancient-changes`
    first apply     to an object without entries: its fields go to `before-first-apply`
    kubectl         may take over what its own last-applied-configuration annotation says

Both are pure: the time is given, objects are dicts. What `apply` returns shares unchanged parts with `live`, never with
the applied object, which a caller may have to apply again to a newer one.

Source: k8s.io/apimachinery, pkg/util/managedfields and internal/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from havre.api.errors import ApiError, BadRequest, Conflict
from havre.api.meta import GVK, Obj, parse_time, rfc3339
from havre.lang.fieldset import EMPTY, BadFields, FieldSet, scalar_json, show_path
from havre.lang.merge import ownership
from havre.lang.merge.compare import compare, equal
from havre.lang.merge.fields import field_set
from havre.lang.merge.ownership import Conflicts, Convert, Owned, Rules
from havre.lang.merge.shape import Shape, shape_of
from havre.lang.merge.validate import Mistyped
from havre.lang.schema import Schema

UPDATE: Final = "Update"
APPLY: Final = "Apply"
MAX_UPDATERS: Final = 10
KUBECTL: Final = "kubectl"
ANCIENT: Final = "ancient-changes"
BEFORE_FIRST_APPLY: Final = "before-first-apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
MAX_ANNOTATIONS: Final = 256 * 1024  # bytes of all keys and values, upstream's TotalAnnotationSizeLimitB
_NOBODYS_META: Final = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
)
_NOBODYS: Final = FieldSet.of(
    ("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", f"f:{name}") for name in _NOBODYS_META)
)


class Id(NamedTuple):
    """What tells one entry from another; appliers are one whatever version they speak, so theirs is ""."""

    manager: str
    operation: str
    version: str
    subresource: str

    def __str__(self) -> str:
        """As conflicts show it: `"x" with subresource "status" using apps/v1`."""
        words = scalar_json(self.manager)
        if self.subresource:
            words += f" with subresource {scalar_json(self.subresource)}"
        return f"{words} using {self.version}" if self.operation == UPDATE else words


_SELF: Final = Id("current-operation", UPDATE, "", "")


@dataclass(slots=True)
class Managed:
    """Decoded entries. `entries` are those the object came with, given back unchanged where nothing changed."""

    owners: dict[Id, Owned]
    times: dict[Id, str]
    entries: dict[Id, Obj]


# Writes


def update(
    live: Obj | None,
    new: Obj,
    *,
    schema: Schema,
    manager: str,
    api_version: str,
    now: str,
    subresource: str = "",
    structured: bool = True,
    ignored: FieldSet = EMPTY,
    convert: Convert | None = None,
) -> None:
    """Sets `new["metadata"]["managedFields"]` after a create (`live` is None), update or patch.

    `structured` is true for built-in kinds and false for custom resources; `ignored` are the fields the resource's
    strategy resets (a write of the main resource does not own `status`). `new` may carry entries that the client sent.
    """
    meta = new["metadata"]
    sent = meta.pop("managedFields", None)
    managed = _live_or_sent(live, sent, subresource)
    if not managed.owners and live is not None and live["metadata"].get("uid"):
        return  # an object that is not tracked stays so until its first apply
    rules = Rules(shape_of(schema, structured), api_version, convert, ignored, _NOBODYS)
    me = Id(manager or "unknown", UPDATE, api_version, subresource)
    try:
        _track(rules, (_nothing(new) if live is None else _bare(live), new), managed, me, now)
    except Mistyped:
        return  # as upstream: an object that does not fit its schema is stored, but without owners
    _cap(managed)
    entries = _encode(managed)
    if entries:
        meta["managedFields"] = entries


def apply(
    live: Obj | None,
    applied: Obj,
    *,
    schema: Schema,
    manager: str,
    api_version: str,
    now: str,
    force: bool = False,
    subresource: str = "",
    structured: bool = True,
    ignored: FieldSet = EMPTY,
    convert: Convert | None = None,
) -> Obj:
    """The object after an apply, with its entries; `live` itself when nothing at all changed.

    Raises Conflicts (`conflict_status` makes the answer), BadRequest, and ApiError 500 for an object that does not fit.
    """
    _check_applied(applied, api_version)
    applied = _copy(applied)
    managed = _decode_live(live)
    rules = Rules(shape_of(schema, structured), api_version, convert, ignored, _NOBODYS)
    old = _nothing(applied) if live is None else _bare(live)
    if not managed.owners and live is not None:
        first = Id(BEFORE_FIRST_APPLY, UPDATE, api_version, subresource)
        _track(rules, (_nothing(live), old), managed, first, now)
        _cap(managed)
    me = Id(manager or "unknown", APPLY, "", subresource)
    merged, owners = _apply(rules, (old, applied), managed.owners, me, force=force)
    managed.owners = owners
    if structured and merged is not old and _has_nulls(merged):
        merged = _go_nulls(rules.shape, merged)
    changed = merged is not old and not (merged == old and equal(merged, old))
    if changed or live is None:
        managed.times[me] = now
    entries = _encode(managed)
    if not changed and live is not None and entries == (live["metadata"].get("managedFields") or []):
        return live
    out = {**merged, "metadata": {**(merged.get("metadata") or {})}}
    if entries:
        out["metadata"]["managedFields"] = entries
    if manager == KUBECTL:
        _note_last_applied(out, applied)
    return out


def keep_times(live: Obj, new: Obj) -> bool:
    """Gives `new` the entries of `live` if nothing but their times differs; True means the write changes nothing.

    To be asked after admission, because a webhook may undo what an apply did.
    Source: k8s.io/apiserver, handlers/fieldmanager/equality.go.
    """
    was, now = live["metadata"].get("managedFields") or [], new["metadata"].get("managedFields") or []
    if len(was) != len(now) or [_timeless(entry) for entry in was] != [_timeless(entry) for entry in now]:
        return False
    if not equal(_bare(live), _bare(new)):
        return False
    if was:
        new["metadata"]["managedFields"] = was
    return True


def conflict_status(conflicts: Conflicts) -> Conflict:
    """The 409 of a refused apply, in upstream's words."""
    pairs = [(owner, path) for owner in sorted(conflicts.fields) for path in conflicts.fields[owner]]
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": show_path(path)}
        for owner, path in pairs
    ]
    if len(pairs) == 1:
        owner, path = pairs[0]
        words = f"Apply failed with 1 conflict: conflict with {owner}: {show_path(path)}"
        return Conflict(words, details={"causes": causes})
    lines = []
    for owner in sorted(conflicts.fields):
        lines.append(f"conflicts with {owner}:")
        lines += [f"- {show_path(path)}" for path in conflicts.fields[owner]]
    words = f"Apply failed with {len(pairs)} conflicts: " + "\n".join(lines)
    return Conflict(words, details={"causes": causes})


def _track(rules: Rules, objects: tuple[Obj, Obj], managed: Managed, me: Id, now: str) -> None:
    """One write: what changed goes from everybody to `me`, at `now`."""
    live, new = objects
    owners = ownership.update(rules, live, new, managed.owners, _SELF)
    mine = owners.pop(_SELF, None)
    if mine is not None:
        before = owners.get(me)
        owners[me] = mine if before is None else Owned(before.fields | mine.fields, mine.version)
        managed.times[me] = now
    managed.owners = owners


def _nothing(obj: Obj) -> Obj:
    """What a create starts from."""
    return {key: obj[key] for key in ("apiVersion", "kind") if key in obj}


def _bare(obj: Obj) -> Obj:
    """The object less its entries."""
    meta = obj.get("metadata")
    if not isinstance(meta, dict) or "managedFields" not in meta:
        return obj
    return {**obj, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}


def _check_applied(applied: Obj, api_version: str) -> None:
    if applied.get("apiVersion") != api_version:
        raise BadRequest(f"invalid object type: {_kind_of(applied)}")
    meta = applied.get("metadata")
    if isinstance(meta, dict) and meta.get("managedFields") is not None:
        raise BadRequest("metadata.managedFields must be nil")


def _kind_of(obj: Obj) -> str:
    gvk = GVK.of({key: str(obj.get(key) or "") for key in ("apiVersion", "kind")})
    return f"{gvk.group}/{gvk.version}, Kind={gvk.kind}"


def _copy(obj: Obj) -> Obj:
    """A copy that shares nothing: a round through JSON is several times faster than `deepcopy`."""
    try:
        out: Obj = orjson.loads(orjson.dumps(obj))
    except (TypeError, orjson.JSONDecodeError):  # an integer beyond 64 bits, or deeper than orjson goes
        try:
            out = deepcopy(obj)
        except RecursionError:
            raise BadRequest("the applied object is nested too deep; no kind needs more than 200 levels") from None
    return out


def _has_nulls(value: Any) -> bool:
    """Is there a null anywhere? Looking at the JSON is several times faster than walking the object."""
    try:
        return b"null" in orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits
        return True


def _go_nulls(shape: Shape, value: Any) -> Any:
    """Nulls as a struct takes them: a field is left out, an entry of a map of scalars becomes its zero value."""
    kind = type(value)
    if kind is dict and shape.is_map and not shape.exact:
        return _go_nulls_of_map(shape, value)
    if kind is list and shape.item is not None and not shape.item.exact:
        items = [_go_nulls(shape.item, item) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value


def _go_nulls_of_map(shape: Shape, value: Obj) -> Obj:
    out: Obj | None = None
    for name, item in value.items():
        kind = type(item)
        if kind is str or kind is int or kind is bool:
            continue
        below = shape.child(name)
        if item is None:
            known = name in shape.fields or below is None
            fixed = shape.zeros.get(name) if below is None or known else _ZEROS.get(below.scalar)
        else:
            fixed = item if below is None else _go_nulls(below, item)
            if fixed is item:
                continue
        out = dict(value) if out is None else out
        if fixed is None:
            del out[name]
        else:
            out[name] = fixed
    return value if out is None else out


_ZEROS: Final[dict[str, Any]] = {"string": "", "numeric": 0, "boolean": False}


# kubectl and its annotation


def _apply(
    rules: Rules, objects: tuple[Obj, Obj], owners: Mapping[Id, Owned], me: Id, *, force: bool
) -> tuple[Obj, dict[Id, Owned]]:
    live, applied = objects
    try:
        return ownership.apply(rules, live, applied, owners, me, force=force)
    except Mistyped as err:
        meta = applied.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        where = f"{meta.get('namespace') or ''}/{meta.get('name') or ''}; {_kind_of(applied)}"
        raise ApiError(f"failed to create typed patch object ({where}): {err}") from None
    except Conflicts as err:
        if me.manager != KUBECTL:
            raise
        allowed = _allowed_by_last_applied(rules, live)
        left = {owner: fields - allowed for owner, fields in err.fields.items()}
        if any(left.values()):
            raise Conflicts({owner: fields for owner, fields in left.items() if fields}) from None
        return ownership.apply(rules, live, applied, owners, me, force=True)


def _allowed_by_last_applied(rules: Rules, live: Obj) -> FieldSet:
    """Fields that the annotation of client-side apply set and that nobody changed since: kubectl may take them."""
    note = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    if not note:
        return EMPTY
    try:
        last = orjson.loads(note)
        if last.get("apiVersion") != rules.version:
            return EMPTY
        claimed = field_set(rules.shape, last)
        delta = compare(rules.shape, last, live)
    except (orjson.JSONDecodeError, AttributeError, Mistyped):
        return EMPTY
    return claimed - delta.changed - delta.removed


def _note_last_applied(out: Obj, applied: Obj) -> None:
    """Keeps the annotation in step for a later client-side apply, if the object has it."""
    notes = out["metadata"].get("annotations") or {}
    if not notes.get(LAST_APPLIED):
        return
    meta = applied.get("metadata") or {}
    others = {key: value for key, value in (meta.get("annotations") or {}).items() if key != LAST_APPLIED}
    shown = {key: value for key, value in meta.items() if key != "annotations"} | (
        {"annotations": others} if others else {}
    )
    text = scalar_json({**applied, "metadata": shown}) + "\n"
    notes = {**notes, LAST_APPLIED: text}
    if sum(len(key.encode()) + len(str(value).encode()) for key, value in notes.items()) > MAX_ANNOTATIONS:
        del notes[LAST_APPLIED]
    out["metadata"]["annotations"] = notes


# Entries


def decode(entries: Sequence[Obj]) -> Managed:
    """The owners that `metadata.managedFields` names. Raises BadFields."""
    managed = Managed({}, {}, {})
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise BadFields(f"decode managedFields: entry {place} must be an object, got {type(entry).__name__}")
        operation, version = entry.get("operation"), entry.get("apiVersion")
        if operation not in (APPLY, UPDATE):
            raise BadFields("operation must be `Apply` or `Update`")
        if not version or not isinstance(version, str):
            raise BadFields("apiVersion must not be empty")
        if entry.get("fieldsType") != "FieldsV1":
            if not entry.get("fieldsType"):
                raise BadFields(f"missing fieldsType in managed fields entry {place}")
            raise BadFields(f'invalid fieldsType "{entry["fieldsType"]}" in managed fields entry {place}')
        applied = operation == APPLY
        owner = Id(
            str(entry.get("manager") or ""), operation, "" if applied else version, str(entry.get("subresource") or "")
        )
        managed.owners[owner] = Owned(FieldSet.decode(entry.get("fieldsV1")), version, applied)
        managed.entries[owner] = entry
        at = entry.get("time")
        if at is not None:
            managed.times[owner] = _time(at)
    return managed


def _time(at: object) -> str:
    """An RFC 3339 time in whole seconds of UTC, so that text order is time order."""
    if isinstance(at, str):
        if len(at) == 20 and at[19] == "Z":
            return at
        try:
            return rfc3339(parse_time(at))
        except (ValueError, OverflowError, OSError):
            pass
    raise BadFields(f"decode managedFields: {at!r} is not an RFC 3339 time")


def _live_or_sent(live: Obj | None, sent: object, subresource: str) -> Managed:
    """The entries to go on from: those the client sent, if any and valid, else the live ones; `[]` resets them."""
    if subresource or sent is None:
        return _of_live(live)
    if sent in ([], [{}]):
        return Managed({}, {}, {})
    if live is not None and sent == live["metadata"].get("managedFields"):
        return _of_live(live)
    try:
        managed = decode(sent if isinstance(sent, list) else [])
    except BadFields:
        return _of_live(live)
    return managed if managed.owners else _of_live(live)


def _of_live(live: Obj | None) -> Managed:
    try:
        return decode(((live or {}).get("metadata") or {}).get("managedFields") or [])
    except BadFields:
        return Managed({}, {}, {})


def _decode_live(live: Obj | None) -> Managed:
    try:
        return decode(((live or {}).get("metadata") or {}).get("managedFields") or [])
    except BadFields as err:
        raise ApiError(f"failed to decode managed fields: {err}") from None


def _encode(managed: Managed) -> list[Obj]:
    entries = []
    for owner, held in managed.owners.items():
        entry, at = managed.entries.get(owner), managed.times.get(owner)
        known = entry is not None and entry.get("fieldsV1") is held.fields.root
        if not known or entry is None or entry.get("time") != at or entry["apiVersion"] != held.version:
            entry = _entry(owner, held, at)
        entries.append(entry)
    return sorted(entries, key=_order) if len(entries) > 1 else entries


def _entry(owner: Id, held: Owned, at: str | None) -> Obj:
    entry: Obj = {"manager": owner.manager, "operation": owner.operation, "apiVersion": held.version}
    if at is not None:
        entry["time"] = at
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": held.fields.root}
    if owner.subresource:
        entry["subresource"] = owner.subresource
    return entry


def _order(entry: Obj) -> tuple[str, ...]:
    return (
        entry["operation"],
        entry.get("time") or "",
        entry.get("manager") or "",
        entry["apiVersion"],
        entry.get("subresource") or "",
    )


def _timeless(entry: Obj) -> Obj:
    return {key: value for key, value in entry.items() if key != "time"}


def _cap(managed: Managed) -> None:
    """Melts the oldest updaters of each version together until ten are left."""
    updaters = [owner for owner, held in managed.owners.items() if not held.applied]
    excess = len(updaters) - MAX_UPDATERS
    if excess <= 0:
        return
    owners, first = managed.owners, dict[str, Id]()
    for owner in sorted(updaters, key=lambda owner: (managed.times.get(owner, ""), owner)):
        if excess <= 0:
            return
        held = owners[owner]
        bucket = Id(ANCIENT, UPDATE, held.version, "")
        if held.version not in first:
            first[held.version] = owner
            continue
        if bucket not in owners:
            owners[bucket] = owners.pop(first[held.version])
        owners[bucket] = Owned(owners[bucket].fields | held.fields, held.version)
        owners.pop(owner, None)
        excess -= 1
        managed.times.pop(bucket, None)
        if owner in managed.times:
            managed.times[bucket] = managed.times[owner]
