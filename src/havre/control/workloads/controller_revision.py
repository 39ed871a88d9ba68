"""ControllerRevision: the templates that a DaemonSet or a StatefulSet has had, numbered, so that it can go back.

A revision holds the template as a patch that replaces it. The one that is equal to the template of now is the current
one and has the highest number; a template that comes back takes its old revision with a new number.

Source: k8s.io/kubernetes, pkg/controller/history/controller_history.go; pkg/controller/daemon/update.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.errors import AlreadyExists, ApiError, NotFound
from havre.api.meta import GVK, Obj, annotations_of, labels_of, name_of, namespace_of
from havre.control.workloads import dependents
from havre.control.workloads.dependents import MANAGER
from havre.control.workloads.pods import is_controlled_by
from havre.control.workloads.template_hash import same_template, template_hash
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.informer import look
from havre.machinery.owners import adopted

CONTROLLER_REVISION = GVK("apps", "v1", "ControllerRevision")
POD_LABEL = "controller-revision-hash"  # of pods
_NAME_CHARS = 223  # of the owner in the name of a revision


class Collision(Exception):
    """Another template has this hash: the owner counts it and hashes again."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Revisions:
    """`update` is of the template of now; `others` are older, the oldest first."""

    update: Obj
    others: tuple[Obj, ...]

    def named(self, name: str) -> Obj | None:
        return next((each for each in (self.update, *self.others) if name_of(each) == name), None)


def template_of(revision: Obj) -> Obj:
    template = revision["data"]["spec"]["template"]
    return {key: value for key, value in template.items() if key != "$patch"}


def ordered(revisions: Iterable[Obj]) -> list[Obj]:
    return sorted(revisions, key=lambda r: (r["revision"], r["metadata"].get("creationTimestamp", ""), name_of(r)))


def new_revision(owner: Obj, number: int, label: str) -> Obj:
    """`label` is the key under which the revision shows its hash."""
    template = owner["spec"]["template"]
    hash = template_hash(template, (owner.get("status") or {}).get("collisionCount"))
    labels = {**((template.get("metadata") or {}).get("labels") or {}), label: hash}
    meta: Obj = {"name": f"{name_of(owner)[:_NAME_CHARS]}-{hash}", "namespace": namespace_of(owner), "labels": labels}
    if annotations_of(owner):
        meta["annotations"] = annotations_of(owner)
    made = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": meta,
        "data": {"spec": {"template": _sorted({**template, "$patch": "replace"})}},
        "revision": number,
    }
    return adopted(made, owner)


def _sorted(value: Any) -> Any:
    """Keys in the order of Go's maps: clients compare a revision with the template of its owner byte by byte."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


async def revisions_of(owner: Obj, label: str, api: Api) -> Revisions:
    """Makes the revision of now if there is none, and gives it the highest number. Raises Collision."""
    held = await look(api, CONTROLLER_REVISION, namespace_of(owner))
    mine = ordered(await dependents.claim(owner, LabelSelector.of(owner["spec"]["selector"]), held, api))
    equal = [each for each in mine if same_template(template_of(each), owner["spec"]["template"])]
    others = [each for each in mine if not equal or each is not equal[-1]]
    number = max((each["revision"] for each in mine if each not in equal), default=0) + 1
    if not equal:
        return Revisions(await _create(owner, new_revision(owner, number, label), api), tuple(others))
    update = equal[-1]
    if update["revision"] < number:
        patch = {"metadata": {"uid": update["metadata"]["uid"]}, "revision": number}
        update = await api.patch(Ref.of(update), patch, kind="merge", manager=MANAGER)
    return Revisions(update, tuple(others))


async def _create(owner: Obj, revision: Obj, api: Api) -> Obj:
    try:
        return await api.create(revision, manager=MANAGER)
    except AlreadyExists as error:
        live = await api.get(Ref.of(revision))
        same = live and is_controlled_by(live, owner) and same_template(template_of(live), owner["spec"]["template"])
        if live is not None and same:
            return live
        raise Collision(error) from error


def surplus(revisions: Revisions, keep: int, used: Iterable[str]) -> list[Obj]:
    """The oldest that nobody uses, beyond the history. `used`: names and hashes."""
    busy = set(used)
    unused = [each for each in revisions.others if not busy & {name_of(each), *labels_of(each).values()}]
    return unused[: max(0, len(unused) - keep)]


async def delete(revisions: Sequence[Obj], api: Api) -> None:
    for each in revisions:
        try:
            await api.delete(Ref.of(each), uid=each["metadata"]["uid"])
        except NotFound:
            continue
