"""Objects on their way through a build: the object, what it was called before, and who made it.

A name may change many times (prefix, suffix, hash, namespace); references to it are put right only at the very end, so
every former identity is kept here, beside the object and not in annotations of it.

Source: sigs.k8s.io/kustomize, api/resource (resource.go, factory.go), kyaml/resid, kyaml/kio.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any, Final, NamedTuple

from havre.api.kinds import KINDS
from havre.api.meta import Obj, split_api_version
from havre.lang import json, yaml
from havre.platform.gitops.kustomize.errors import BuildError

MAX_OBJECTS: Final = 20_000  # of one build, repeated bases counted each time; the largest seen in public have 3,000
LOCAL_CONFIG: Final = "config.kubernetes.io/local-config"
_PARSER_ERROR: Final[Any] = yaml.pyyaml.YAMLError  # type: ignore[attr-defined]  # its home is there
CLUSTER: Final = "_non_namespaceable_"  # in the place of a namespace


class Gvk(NamedTuple):
    """A group, version and kind; as a selector an empty part means any."""

    group: str = ""
    version: str = ""
    kind: str = ""

    def selects(self, other: Gvk) -> bool:
        return (
            (not self.kind or self.kind == other.kind)
            and (not self.group or self.group == other.group)
            and (not self.version or self.version == other.version)
        )

    def __str__(self) -> str:
        return f"{self.kind or '[noKind]'}.{self.version or '[noVer]'}.{self.group or '[noGrp]'}"


class Id(NamedTuple):
    """What an object is called; two of the same must not be in one result."""

    gvk: Gvk
    name: str
    namespace: str  # as one compares: "default" where there is none, CLUSTER where there cannot be one

    def __str__(self) -> str:
        where = "[noNs]" if self.namespace in ("default", CLUSTER) else self.namespace
        return f"{self.gvk}/{self.name or '[noName]'}.{where}"


@cache
def _cluster_wide() -> frozenset[tuple[str, str]]:
    """Built-in kinds without a namespace, of whatever version; a custom kind is taken to have one."""
    return frozenset((kind.group, kind.kind) for kind in KINDS if not kind.namespaced)


def cluster_wide(gvk: Gvk) -> bool:
    return (gvk.group, gvk.kind) in _cluster_wide()


def identity(gvk: Gvk, name: str, namespace: str) -> Id:
    return Id(gvk, name, CLUSTER if cluster_wide(gvk) else namespace or "default")


@dataclass(slots=True, eq=False)
class Resource:
    """One object and its history; compared by identity."""

    obj: Obj
    former: list[tuple[str, str, str]] = field(default_factory=list)  # (kind, name, namespace), the first is original
    prefixes: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    behavior: str = ""  # of a generated one: create, merge, replace
    hashed: bool = False  # its name gets a suffix made from its content
    origin: Obj | None = None

    @property
    def gvk(self) -> Gvk:
        return Gvk(*split_api_version(str(self.obj.get("apiVersion") or "")), str(self.obj.get("kind") or ""))

    @property
    def name(self) -> str:
        return str(metadata(self.obj).get("name") or "")

    @property
    def namespace(self) -> str:
        return str(metadata(self.obj).get("namespace") or "")

    @property
    def id(self) -> Id:
        return identity(self.gvk, self.name, self.namespace)

    @property
    def former_ids(self) -> list[Id]:
        group, version, _ = self.gvk
        return [
            identity(Gvk(group, version, kind), name, "" if space == CLUSTER else space)
            for kind, name, space in self.former
        ]

    @property
    def original(self) -> Id:
        return self.former_ids[0] if self.former else self.id

    def remember(self) -> None:
        """What it is called now will be something it was called before."""
        self.former.append((self.gvk.kind, self.name, self.id.namespace))


def metadata(obj: Obj) -> Obj:
    """For reading."""
    found = obj.get("metadata")
    return found if isinstance(found, dict) else {}


def strings(obj: Obj, name: str) -> dict[str, Any]:
    """The labels or annotations, for reading."""
    found = metadata(obj).get(name)
    return found if isinstance(found, dict) else {}


# reading manifests


def load(raw: bytes, file: str) -> list[Obj]:
    """The objects of a file of documents; what is in lists comes after the rest. Raises BuildError."""
    waiting = deque(documents(raw, file))
    objects: list[Obj] = []
    while waiting:
        value = waiting.popleft()
        if not isinstance(value, dict):
            raise BuildError(f"{file}: expected an object, found {type(value).__name__}: {str(value)[:80]}")
        items = _items(value, file)
        if items is None:
            _check(value, file)
            objects.append(value)
        else:
            waiting.extend(items)
    return objects


def documents(raw: bytes, file: str) -> Iterator[Any]:
    """The values of a stream of documents that are not empty. Raises BuildError."""
    if len(raw) > yaml.MAX_BYTES:
        raise BuildError(f"{file}: the file has {len(raw)} bytes, more than {yaml.MAX_BYTES}; split it")
    for part in _separator.split(raw.removeprefix(b"\xef\xbb\xbf")):
        value = value_of(part, file)
        if value is not None and value != {}:
            yield value


_separator = re.compile(rb"(?m)^---(?=[ \t\r\n]|\Z)")


def value_of(raw: bytes, file: str) -> Any:
    """The first document of a text. Raises BuildError."""
    composer = _Composer(raw, strict=True)
    try:
        value = composer.document()
    except yaml.YAMLError as e:
        raise BuildError(f"{file}: malformed YAML: {e}") from e
    except _PARSER_ERROR as e:
        raise BuildError(f"{file}: malformed YAML: {yaml._in_go_words(e)}") from e
    return _timed(value, ()) if composer.times else value


def _items(value: Obj, file: str) -> list[Any] | None:
    """Of a list of objects; None for an object."""
    kind = value.get("kind")
    if not isinstance(kind, str) or not kind.endswith("List") or "items" not in value:
        return None
    items = value["items"]
    if items is not None and not isinstance(items, list):
        raise BuildError(f"{file}: {kind}: items: expected a list, found {type(items).__name__}")
    return items or []


def _check(obj: Obj, file: str) -> None:
    """What every object needs, said before anything is done with it."""
    if not isinstance(obj.get("kind"), str) or not obj["kind"]:
        raise BuildError(f"{file}: missing kind in object {_shown(obj)}")
    if not isinstance(obj.get("metadata", {}), dict | None):
        raise BuildError(f"{file}: {obj['kind']}: metadata: expected an object")
    name = metadata(obj).get("name")
    if not isinstance(name, str) or not name:
        raise BuildError(f"{file}: missing metadata.name in object {_shown(obj)}")


def _shown(obj: Obj) -> str:
    shown = json.dumps(obj).decode()
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


# scalars of YAML 1.2 as kustomize's YAML library reads them: `yes`, `on` and `y` are words, a date is a time

_WORDS: Final = frozenset(
    ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF")
)
_a_time = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:(?:T| )(\d\d?):(\d\d?):(\d\d?)(\.\d{1,9})?(Z|[-+]\d\d:\d\d)?)?", re.ASCII
).fullmatch


class _Time(str):
    """A bare time as it was written."""

    __slots__ = ()


class _Composer(yaml._Composer):
    """Turns what YAML 1.2 reads otherwise into quoted scalars, before they are resolved."""

    def __init__(self, raw: bytes, strict: bool) -> None:
        super().__init__(raw, strict)
        self.times = False
        source = self._next

        def following() -> Any:
            event = source()
            # only a scalar has two flags, the first of which means that it is plain
            flags = getattr(event, "implicit", None)
            if type(flags) is not tuple or not flags[0] or not event.value:
                return event
            if event.value not in _WORDS:
                if not event.value[0].isdigit() or _as_time(event.value) is None:
                    return event
                event.value, self.times = _Time(event.value), True
            event.implicit, event.tag = (False, True), None
            return event

        self._next = following


def _timed(value: Any, path: tuple[str, ...]) -> Any:
    """Times as JSON has them; those of annotations as they were written."""
    if isinstance(value, dict):
        return {str(key): _timed(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_timed(item, path) for item in value]
    if isinstance(value, _Time):
        return str(value) if path[:2] == ("metadata", "annotations") else _as_time(value)
    return value


def _as_time(text: str) -> str | None:
    """The text that a bare time has in JSON; None for anything else."""
    found = _a_time(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        at = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=_zone(zone)
        )
    except ValueError:
        return None
    shown = at.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{shown}{(fraction or '').rstrip('0').rstrip('.')}{'Z' if zone in (None, 'Z') else zone}"


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:])))


# a set of them


def append(resources: list[Resource], more: Iterable[Resource], where: str, taken: set[Id] | None = None) -> None:
    """Raises BuildError when one of that identity is there; `taken` are those of `resources`, kept up to date."""
    taken = {each.id for each in resources} if taken is None else taken
    for each in more:
        id = each.id
        if id in taken:
            raise BuildError(f"{where}: may not add resource with an already registered id: {id}")
        taken.add(id)
        resources.append(each)
    if len(resources) > MAX_OBJECTS:
        raise BuildError(f"{where}: more than {MAX_OBJECTS} objects; split this into several Kustomizations")
