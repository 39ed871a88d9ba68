"""The rules of server-side apply over several owners: who gets a field, who conflicts, what an applier gives up.

An owner updates (it owns what it changed) or applies (it owns what it last sent). Updating takes fields from everybody.
Applying a value that differs from the live one of another owner is a conflict, unless forced; the same value is shared.
A field that an applier no longer sends goes away if nobody else owns it.

Owners may speak different API versions of one object. `Convert` gives an object, whatever version it is in now, and its
shape in the version asked for; without it every version is read as the same shape.

Source: structured-merge-diff v6, merge/update.go and merge/conflict.go.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from havre.lang.fieldset import EMPTY, FieldSet, show_path
from havre.lang.merge.combine import combine, named, remove, reshaped, shed
from havre.lang.merge.compare import Comparison, compare
from havre.lang.merge.fields import field_set
from havre.lang.merge.shape import Shape

Owner = TypeVar("Owner", bound=Hashable)
Convert = Callable[[Any, str], "tuple[Any, Shape] | None"]  # (object, to version); None when the version is gone


@dataclass(frozen=True, slots=True)
class Owned:
    """What one owner holds, as of an API version."""

    fields: FieldSet
    version: str
    applied: bool = False


class Conflicts(Exception):
    """An apply that would change fields of others; `fields` holds the contested ones of each owner."""

    def __init__(self, fields: Mapping[Any, FieldSet]) -> None:
        self.fields = dict(fields)
        lines = [f"conflict with {owner}: {show_path(path)}" for owner, held in fields.items() for path in held]
        super().__init__("; ".join(lines))


@dataclass(frozen=True, slots=True)
class Rules:
    """How one resource merges: the shape of the version in the request, other versions, fields nobody may own.

    `ignored` are fields the resource resets, with all below them; `nobodys` are such as name and uid, one by one.
    """

    shape: Shape
    version: str
    convert: Convert | None = None
    ignored: FieldSet = EMPTY
    nobodys: FieldSet = EMPTY

    def view(self, value: Any, version: str) -> tuple[Any, Shape] | None:
        """The value in a version; None when that version does not exist any more."""
        return (value, self.shape) if self.convert is None else self.convert(value, version)


def update(rules: Rules, live: Any, new: Any, owners: Mapping[Owner, Owned], updater: Owner) -> dict[Owner, Owned]:
    """The owners after `updater` replaced `live` by `new`."""
    after, delta = _settle(rules, live, new, _reshape(rules, live, owners), updater, force=True)
    held = after.get(updater)
    fields = ((held.fields if held else EMPTY) - delta.removed | delta.changed).without(rules.ignored) - rules.nobodys
    after.pop(updater, None)
    if fields:
        after[updater] = Owned(fields, rules.version)
    return after


def apply(
    rules: Rules, live: Any, applied: Any, owners: Mapping[Owner, Owned], applier: Owner, *, force: bool = False
) -> tuple[Any, dict[Owner, Owned]]:
    """The merged object, `live` itself if nothing changed, and the owners. Raises Conflicts, Mistyped."""
    claimed = field_set(rules.shape, applied).without(rules.ignored)
    owned = claimed - rules.nobodys
    after = _reshape(rules, live, owners)
    last = after.pop(applier, None)
    same = last is not None and last.version == rules.version and last.fields.root == owned.root
    if last is not None and same:
        owned = last.fields
    merged = combine(rules.shape, live, applied)
    if last is not None and not same:
        merged = _give_up(rules, merged, {**after, applier: Owned(claimed, rules.version, applied=True)}, last)
    if after:
        after, _ = _settle(rules, live, merged, after, applier, force=force)
    if owned:
        after[applier] = Owned(owned, rules.version, applied=True)
    return merged, after


def _settle(
    rules: Rules, live: Any, new: Any, owners: dict[Owner, Owned], actor: Owner, *, force: bool
) -> tuple[dict[Owner, Owned], Comparison]:
    """Takes what changed from everybody but `actor`, what is gone too. Raises Conflicts unless `force`."""
    delta = compare(rules.shape, live, new)
    deltas: dict[str, Comparison | None] = {rules.version: delta.without(rules.ignored) if rules.ignored else delta}
    after: dict[Owner, Owned] = {}
    conflicts: dict[Owner, FieldSet] = {}
    for owner, held in owners.items():
        if owner == actor:
            if held.fields:
                after[owner] = held
            continue
        if held.version not in deltas:
            deltas[held.version] = _delta_in(rules, live, new, held.version)
        change = deltas[held.version]
        if change is None:
            continue
        left = held.fields
        if change:
            contested = left & change.changed
            if contested:
                conflicts[owner] = contested
            left = left - contested - change.removed
        if left:
            after[owner] = held if left is held.fields else Owned(left, held.version, held.applied)
    if conflicts and not force:
        raise Conflicts(conflicts)
    return after, delta


def _delta_in(rules: Rules, live: Any, new: Any, version: str) -> Comparison | None:
    """The change as seen in another version; None when the version is gone."""
    old, now = rules.view(live, version), rules.view(new, version)
    if old is None or now is None:
        return None
    return compare(now[1], old[0], now[0]).without(rules.ignored)


def _reshape(rules: Rules, live: Any, owners: Mapping[Owner, Owned]) -> dict[Owner, Owned]:
    """Owners after changes of the schema; those of a version that is gone are forgotten."""
    out: dict[Owner, Owned] = {}
    for owner, held in owners.items():
        view = rules.view(live, held.version)
        if view is None:
            continue
        fields = reshaped(view[1], held.fields)
        out[owner] = held if fields is held.fields else Owned(fields, held.version, held.applied)
    return out


# What an applier gives up


def _give_up(rules: Rules, merged: Any, owners: Mapping[Owner, Owned], last: Owned) -> Any:
    """`merged` without what its applier claimed last time and nobody, itself included, claims now."""
    if rules.convert is None or all(held.version == rules.version for held in (last, *owners.values())):
        kept = EMPTY
        for held in owners.values():
            kept = kept | held.fields
        return shed(rules.shape, merged, last.fields, kept)
    return _give_up_across(rules, merged, owners, last)


# The same over several versions, in which one field may have several names: what a version lost is found by looking at
# the object before and after in that version.


def _give_up_across(rules: Rules, merged: Any, owners: Mapping[Owner, Owned], last: Owned) -> Any:
    view = rules.view(merged, last.version)
    if view is None:
        return merged
    there, shape = view
    pruned = remove(shape, there, named(shape, last.fields))
    pruned = _add_back_owned(rules, there, pruned, last.version, owners)
    pruned = _add_back_dangling(rules, there, pruned, last)
    back = rules.view(pruned, rules.version)
    return merged if back is None else back[0]


def _add_back_owned(rules: Rules, merged: Any, pruned: Any, version: str, owners: Mapping[Owner, Owned]) -> Any:
    """`merged` less those of its fields that `pruned` lost and no owner holds, in each version somebody uses."""
    held: dict[str, FieldSet] = {}
    for owned in owners.values():
        held[owned.version] = held.get(owned.version, EMPTY) | owned.fields
    for spoken in sorted(held, key=lambda name: name != version):
        pruned = _keep(rules, merged, pruned, spoken, held[spoken])
    return pruned


def _keep(rules: Rules, merged: Any, pruned: Any, version: str, fields: FieldSet) -> Any:
    whole, less = rules.view(merged, version), rules.view(pruned, version)
    if whole is None or less is None:
        return pruned
    value, shape = whole
    all_there = named(shape, field_set(shape, value, duplicates=True))
    left = named(shape, field_set(shape, less[0], duplicates=True))
    return remove(shape, value, all_there - (left | named(shape, fields)))


def _add_back_dangling(rules: Rules, merged: Any, pruned: Any, last: Owned) -> Any:
    """`merged` less only such fields as the applier itself had claimed: what nobody owned stays."""
    view = rules.view(pruned, last.version)
    whole = rules.view(merged, last.version)
    if view is None or whole is None:
        return merged
    value, shape = whole
    left = named(shape, field_set(shape, view[0], duplicates=True))
    all_there = named(shape, field_set(shape, value, duplicates=True))
    return remove(shape, value, (all_there - left) & named(shape, last.fields))
