"""ConfigMaps and Secrets made of literals, files and environment files; the suffix that follows from their content.

Source: sigs.k8s.io/kustomize, api/internal/generators, api/kv, api/hasher, kyaml/yaml (datamap.go).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from havre.api.meta import Obj
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import Resource, append, strings

Read = Callable[[str, str], bytes]
"""The content of a path beside the kustomization; the second tells where it is written. Raises BuildError."""

BEHAVIORS: Final = ("", "create", "merge", "replace")
_is_key = re.compile(r"[-._a-zA-Z0-9]{1,253}").fullmatch
_LINE: Final = 70  # characters of base64 a line; a's longer value is written in several


@dataclass(frozen=True, slots=True)
class Options:
    """How all, or one, of the generators work."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    disable_suffix: bool = False
    immutable: bool = False

    def over(self, common: Options) -> Options:
        """These, on top of what is common to all."""
        return Options(
            {**common.labels, **self.labels},
            {**common.annotations, **self.annotations},
            self.disable_suffix or common.disable_suffix,
            self.immutable or common.immutable,
        )


@dataclass(frozen=True, slots=True)
class Generator:
    """One ConfigMap or Secret to be made."""

    kind: str
    name: str
    namespace: str = ""
    behavior: str = ""
    type: str = ""
    literals: Sequence[str] = ()
    files: Sequence[str] = ()
    envs: Sequence[str] = ()
    options: Options = Options()
    where: str = ""  # the file and field it stands in


def generate(generator: Generator, read: Read) -> Resource:
    """Raises BuildError."""
    where = generator.where
    if not generator.name:
        raise BuildError(f"{where}: a {generator.kind} must have a name")
    data = dict[str, bytes]()
    for key, value in _pairs(generator, read):
        if not _is_key(key) or key in (".", "..") or key.startswith(".."):
            raise BuildError(f"{where}: {key!r} is not a valid key: use letters, digits, '-', '_' and '.'")
        if key in data:
            raise BuildError(f"{where}: {generator.kind} {generator.name} illegally repeats the key `{key}`")
        data[key] = value
    obj = _object(generator, data)
    return Resource(obj, behavior=generator.behavior, hashed=not generator.options.disable_suffix)


def _object(generator: Generator, data: Mapping[str, bytes]) -> Obj:
    options = generator.options
    meta: Obj = {"name": generator.name}
    if generator.namespace:
        meta["namespace"] = generator.namespace
    for name, values in (("labels", options.labels), ("annotations", options.annotations)):
        if values:
            meta[name] = {**values}
    obj: Obj = {"apiVersion": "v1", "kind": generator.kind, "metadata": meta}
    if generator.kind == "Secret":
        obj["type"] = generator.type or "Opaque"
        obj.update(_parts(data={key: _encoded(value) for key, value in sorted(data.items())}))
    else:
        texts = {key: text for key, value in sorted(data.items()) if (text := _text(value)) is not None}
        binary = {key: _encoded(value) for key, value in sorted(data.items()) if key not in texts}
        obj.update(_parts(data=texts, binaryData=binary))
    if options.immutable:
        obj["immutable"] = True
    return obj


def _parts(**parts: dict[str, str]) -> Obj:
    return {name: part for name, part in parts.items() if part}


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _encoded(value: bytes) -> str:
    """Base64; what is longer than a line is broken into lines."""
    text = base64.b64encode(value).decode()
    if len(text) <= _LINE:
        return text
    return "".join(f"{text[at : at + _LINE]}\n" for at in range(0, len(text), _LINE))


def _pairs(generator: Generator, read: Read) -> Iterator[tuple[str, bytes]]:
    where = generator.where
    for path in generator.envs:
        yield from _env_file(read(path, f"{where}.envs"), f"{where}.envs: {path}")
    for literal in generator.literals:
        key, equals, value = literal.partition("=")
        if not key or not equals:
            raise BuildError(f"{where}.literals: invalid literal source {literal}, expected key=value")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        yield key, (value[1:-1] if quoted else value).encode()
    for source in generator.files:
        if source.count("=") > 1:
            raise BuildError(f"{where}.files: source \"{source}\" key name or file path contains '='")
        key, equals, path = source.partition("=")
        if equals and not (key and path):
            what = "file path for key name" if key else "key name for file path"
            raise BuildError(f'{where}.files: missing {what} "{key or path}" in source "{source}"')
        path = path if equals else source
        yield (key if equals else path.rsplit("/", 1)[-1]), read(path, f"{where}.files")


def _env_file(raw: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Lines `KEY=value`; no value is an empty one, `#` begins a comment."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError as e:
            raise BuildError(f"{where}: line {number} has invalid utf8 bytes") from e
        if not text or text[0] == "#":
            continue
        key, _, value = text.partition("=")
        yield key, value.encode()


# into the others


def absorb(resources: list[Resource], made: Resource, where: str) -> None:
    """Adds what was generated, or merges it into, or puts it in the place of, what is there. Raises BuildError."""
    id = made.id
    matches = [each for each in resources if each.id == id or id in each.former_ids]
    if not matches:
        if made.behavior in ("merge", "replace"):
            raise BuildError(f"{where}: id {id} does not exist; cannot merge or replace")
        append(resources, (made,), where)
        return
    if len(matches) > 1:
        raise BuildError(f"{where}: found multiple objects that could accept merge of {id}")
    if made.behavior not in ("merge", "replace"):
        shown = made.behavior or "unspecified"
        raise BuildError(f"{where}: id {id} exists; can not use behavior: '{shown}', behavior must be merge or replace")
    resources[resources.index(matches[0])] = _combined(matches[0], made)


def _combined(old: Resource, made: Resource) -> Resource:
    meta = made.obj["metadata"]
    for name in ("labels", "annotations"):
        both = {**strings(old.obj, name), **strings(made.obj, name)}
        if both:
            meta[name] = both
    meta["name"] = old.name
    if old.namespace:
        meta["namespace"] = old.namespace
    if made.behavior == "merge":
        before = _normal(old.obj) if made.gvk.kind == "Secret" else old.obj
        for name in ("data", "binaryData"):
            both = {**(before.get(name) or {}), **(made.obj.get(name) or {})}
            if both:
                made.obj[name] = dict(sorted(both.items()))
        made.origin = old.origin
    made.former, made.prefixes, made.suffixes = old.former, old.prefixes, old.suffixes
    made.hashed, made.behavior = made.hashed and old.hashed, old.behavior
    return made


def _normal(secret: Obj) -> Obj:
    """A Secret as the API server stores it: `stringData` has become `data`."""
    plain = secret.get("stringData") or {}
    encoded = {key: _encoded(str(value).encode()) for key, value in plain.items()}
    return {**secret, "data": {**(secret.get("data") or {}), **encoded}}


# the suffix

_ALPHABET: Final = str.maketrans("013ae", "ghkmt")  # no words by accident


def add_hash(resource: Resource) -> None:
    resource.remember()
    resource.obj["metadata"]["name"] = f"{resource.name}-{content_hash(resource.obj)}"


def content_hash(obj: Obj) -> str:
    """Ten characters that follow from what is in the object, as Go writes its JSON."""
    kind = obj["kind"]
    said: dict[str, Any] = {"kind": kind, "name": "", "data": obj.get("data") or ""}  # never the name, as upstream
    if kind == "Secret":
        said["type"] = obj.get("type") or ""
    extra = "stringData" if kind == "Secret" else "binaryData"
    if isinstance(obj.get(extra), dict):
        said[extra] = obj[extra]
    whole = said if kind in ("Secret", "ConfigMap") else obj
    return hashlib.sha256(_go_json(whole)).hexdigest()[:10].translate(_ALPHABET)


_ESCAPES: Final = (
    (b"&", rb"\u0026"),
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def _go_json(value: Any) -> bytes:
    raw = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    for char, escaped in _ESCAPES:
        raw = raw.replace(char, escaped)
    return raw
