"""YAML exactly as kubectl, helm and flux understand it: libyaml's events, resolved the way sigs.k8s.io/yaml does.

No library resolves scalars as Go does, and manifests depend on it: `y` and `on` are booleans, also as keys; `014` and
`0o14` are 12; `1e3` and `1.0` are integers; `1:30` and dates stay strings; a later key wins, unless `strict`.

A text is bounded in size, depth (as JSON) and in how much of it may come from aliases, so that a small text cannot
become a large object. Values that come from an alias are copies: nothing in a loaded object stands in two places.

Source: sigs.k8s.io/yaml v1.6 and go.yaml.in/yaml/v2 (decode.go, resolve.go, encode.go, sorter.go);
k8s.io/apimachinery, pkg/util/yaml/decoder.go for streams of documents.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator
from datetime import date
from functools import cmp_to_key
from io import BytesIO
from typing import Any, Final

import yaml as pyyaml
from yaml._yaml import CEmitter, CParser
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from havre.lang import json

MAX_BYTES: Final = 16 * 1024 * 1024  # the largest published bundle of CRDs is 5 MB
MAX_DEPTH: Final = json.MAX_DEPTH


class YAMLError(ValueError):
    """A text that is not the YAML we take; the message is Go's, with the line (from 1) where Go gives one."""


def load(text: str | bytes, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> Any:
    """The value of the first document; None for an empty text. `strict` refuses repeated keys. Raises YAMLError."""
    raw = _utf8(text)
    if len(raw) > max_bytes:
        raise YAMLError(f"yaml: the text has {len(raw)} bytes, more than {max_bytes}; split it into several")
    try:
        return _Composer(raw, strict).document()
    except pyyaml.YAMLError as e:
        raise YAMLError(_in_go_words(e)) from e


def load_all(text: str | bytes, *, strict: bool = False, max_bytes: int = MAX_BYTES) -> list[Any]:
    """The values of a stream of documents, empty ones left out. Raises YAMLError."""
    raw = _utf8(text)
    if len(raw) > max_bytes:
        raise YAMLError(f"yaml: the text has {len(raw)} bytes, more than {max_bytes}; split it into several")
    values = (load(part, strict=strict, max_bytes=max_bytes) for part in _documents(raw))
    return [value for value in values if value is not None]


_separators = re.compile(rb"^---([^\n]*)", re.MULTILINE).finditer


def _documents(raw: bytes) -> Iterator[bytes]:
    """The texts between lines that begin with three dashes; only a comment may follow the dashes."""
    start = 0
    for separator in _separators(raw):
        rest = separator.group(1).strip()
        if rest and not rest.startswith(b"#"):
            raise YAMLError(f"invalid Yaml document separator: {rest.decode('utf-8', 'replace')}")
        yield raw[start : separator.start()]
        start = separator.end()
    yield raw[start:]


def _utf8(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise YAMLError("yaml: invalid Unicode character") from e


def _in_go_words(error: pyyaml.YAMLError) -> str:
    """`yaml: line 3: could not find expected ':'`."""
    problem = (
        getattr(error, "problem", None) or getattr(error, "reason", None) or "unknown problem parsing YAML content"
    )
    problem_mark, context_mark = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    line = problem_mark.line if problem_mark else 0
    if line:
        line += isinstance(error, pyyaml.scanner.ScannerError)
    elif context_mark:
        line = context_mark.line
    return f"yaml: line {line}: {problem}" if line else f"yaml: {problem}"


# --- scalars --------------------------------------------------------------------------------------------------------

_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], math.inf),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], -math.inf),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], math.nan),
}
_NUMERIC_STARTS: Final = frozenset("+-.0123456789")
_LONGEST_INTEGER: Final = 67  # -0b and 64 digits
_is_float = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?").fullmatch
_is_integer = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)").fullmatch
_INT64: Final = range(-(2**63), 2**63)
_INTEGERS: Final = range(-(2**63), 2**64)  # what Go's parser takes for an integer
_MISSING: Final = object()


def _resolve(text: str) -> Any:
    """The value of a plain scalar."""
    word = _WORDS.get(text, _MISSING)
    if word is not _MISSING:
        return word
    if text[0] not in _NUMERIC_STARTS:
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    if len(plain) <= _LONGEST_INTEGER and _is_integer(plain):
        number = _integer(plain)
        if number in _INTEGERS:
            return number
    if _is_float(plain):
        real = float(plain)
        return text if math.isinf(real) else real
    return text


def _integer(plain: str) -> int:
    """As Go's ParseInt with base 0: a leading zero means octal."""
    digits = plain.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        digits = f"0o{digits[1:]}"
    return -int(digits, 0) if plain[0] == "-" else int(digits, 0)


def _scalar(event: ScalarEvent) -> Any:
    """The value of a scalar, quoted or tagged or plain."""
    if event.implicit[0]:
        return _resolve(event.value)
    tag = event.tag
    return event.value if tag is None or tag == "!" else _tagged(tag, event.value)


_TAGS: Final = "tag:yaml.org,2002:"
_TYPES: Final[dict[str, type]] = {"int": int, "float": float, "bool": bool, "null": type(None)}


def _tagged(tag: str, text: str) -> Any:
    """The value of a scalar with an explicit tag; tags that are not YAML's own say nothing."""
    kind = tag.removeprefix(_TAGS) if tag.startswith(_TAGS) else ""
    if kind == "binary":
        try:
            return base64.b64decode(text.encode(), validate=False).decode("utf-8", "replace")
        except binascii.Error as e:
            raise YAMLError("yaml: !!binary value contains invalid base64 data") from e
    wanted = _TYPES.get(kind)
    if wanted is None:
        return text
    value = _resolve(text)
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise YAMLError(f"yaml: cannot decode {_tag_of(value)} `{text}` as a !!{kind}")
    return value


def _tag_of(value: Any) -> str:
    return next((f"!!{kind}" for kind, known in _TYPES.items() if type(value) is known), "!!str")


def _in_json(value: float) -> int | float:
    """A number on its way through JSON: what is whole and fits becomes an integer, infinities have no text."""
    if type(value) is float:
        if not math.isfinite(value):
            raise YAMLError(f"json: unsupported value: {json.go_float(value)}")
        return int(value) if value.is_integer() and int(value) in _INT64 else value
    return value if value in _INT64 else float(value)


def _key(value: Any) -> str:
    """A key as JSON has it. Raises YAMLError for null."""
    if type(value) is str:
        return value
    if value is None:
        raise YAMLError("unsupported map key of type: %!s(<nil>), key: <nil>")
    if type(value) in (dict, list):
        raise YAMLError(f"yaml: invalid map key: {json.dumps(value).decode()}; only scalars can be keys")
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float:
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan" if math.isnan(value) else json.go_float(value))
    return str(value)


# --- reading --------------------------------------------------------------------------------------------------------

_SMALL, _LARGE = 400_000, 4_000_000  # nodes: up to the first 99 % may come from aliases, from the second on 10 %


def _allowed_ratio(nodes: int) -> float:
    if nodes <= _SMALL:
        return 0.99
    return max(0.10, 0.99 - 0.89 * (nodes - _SMALL) / (_LARGE - _SMALL))


class _Composer:
    """Builds the value of one document from events; one frame a level."""

    __slots__ = ("_aliased", "_anchors", "_counted", "_next", "_open", "_parser", "_repeated", "_strict")

    def __init__(self, raw: bytes, strict: bool) -> None:
        self._parser = CParser(raw)
        self._next: Callable[[], Any] = self._parser.get_event  # events have no common type
        self._strict = strict
        self._anchors: dict[str, tuple[Any, int]] = {}  # value and number of nodes
        self._open: set[str] = set()  # anchors of nodes that are not finished
        self._counted = 0
        self._aliased = 0
        self._repeated: list[str] = []

    def document(self) -> Any:
        try:
            self._next()  # the stream starts
            start = self._next()
            if type(start) is StreamEndEvent:
                return None
            if start.version and start.version != (1, 1):
                raise YAMLError("yaml: found incompatible YAML document")
            value = self._value(self._next(), 0)
            self._next()  # the document must end well; what follows it is not read
            if self._repeated:
                raise YAMLError("yaml: unmarshal errors:\n  " + "\n  ".join(self._repeated))
            return value
        finally:
            self._parser.dispose()

    def _value(self, event: Any, depth: int) -> Any:
        """What stands in a list or as a member; numbers as JSON has them."""
        if type(event) is ScalarEvent and event.anchor is None:  # nearly all there is: spare them a call
            self._counted += 1
            value = _resolve(event.value) if event.implicit[0] else _scalar(event)
        else:
            value = self._node(event, depth)
        return _in_json(value) if type(value) is int or type(value) is float else value

    def _node(self, event: Any, depth: int) -> Any:
        """Any node; a number may still be a float or too large, since as a key it is written otherwise."""
        self._counted += 1
        kind = type(event)
        if kind is ScalarEvent:
            value = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            return value
        if kind is AliasEvent:
            return self._alias(event, depth)
        if depth >= MAX_DEPTH:
            raise YAMLError(f"yaml: exceeded max depth: the document nests more than {MAX_DEPTH} levels")
        anchor, before = event.anchor, self._counted
        if anchor:
            self._open.add(anchor)
        value = self._mapping(depth + 1) if kind is MappingStartEvent else self._sequence(depth + 1)
        if anchor:
            self._open.discard(anchor)
            self._anchors[anchor] = (value, self._counted - before + 1)
        return value

    def _sequence(self, depth: int) -> list[Any]:
        out: list[Any] = []
        while type(event := self._next()) is not SequenceEndEvent:
            out.append(self._value(event, depth))
        return out

    def _mapping(self, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        seen: set[Any] = set()  # (type, key), as 1 and "1" are two keys to Go; merged keys by their text
        while type(event := self._next()) is not MappingEndEvent:
            if type(event) is ScalarEvent and event.implicit[0] and event.anchor is None:
                self._counted += 1
                if event.value == "<<":
                    self._merge(out, seen, self._node(self._next(), depth), event)
                    continue
                key = _resolve(event.value)
            else:
                key = self._node(event, depth)
            if self._strict:
                self._see(seen, key, event)
            name = key if type(key) is str else _key(key)
            out[name] = self._value(self._next(), depth)
        return out

    def _merge(self, out: dict[str, Any], seen: set[Any], source: Any, event: Any) -> None:
        """`<<: *base`; of several sources the first wins, but all win over keys that stand before."""
        sources = [source] if isinstance(source, dict) else source
        if not isinstance(sources, list) or not all(isinstance(each, dict) for each in sources):
            raise YAMLError("yaml: map merge requires map or sequence of maps as the value")
        for each in reversed(sources):
            for key, value in each.items():
                if self._strict and key in out:
                    self._complain(key, event)
                seen.add(key)
                out[key] = value

    def _see(self, seen: set[Any], key: Any, event: Any) -> None:
        name = _key(key)
        if (type(key), key) in seen or name in seen:
            self._complain(key, event)
        seen.add((type(key), key))

    def _complain(self, key: Any, event: Any) -> None:
        shown = f'"{key}"' if type(key) is str else _key(key)
        self._repeated.append(f"line {event.start_mark.line + 1}: key {shown} already set in map")

    def _alias(self, event: Any, depth: int) -> Any:
        name = event.anchor
        if name in self._open:
            raise YAMLError(f"yaml: anchor '{name}' value contains itself")
        if name not in self._anchors:
            raise YAMLError(f"yaml: unknown anchor '{name}' referenced")
        value, nodes = self._anchors[name]
        self._counted += nodes
        self._aliased += nodes
        excess = self._aliased / self._counted > _allowed_ratio(self._counted)
        if self._aliased > 100 and self._counted > 1000 and excess:
            raise YAMLError("yaml: document contains excessive aliasing")
        if json.deeper_than(value, MAX_DEPTH - depth):
            raise YAMLError(f"yaml: exceeded max depth: the document nests more than {MAX_DEPTH} levels")
        return json.copied(value)


# --- writing --------------------------------------------------------------------------------------------------------

_BLANK = (None, None, (True, True))
_SEQUENCE = SequenceStartEvent(None, None, True, flow_style=False)
_EMPTY_SEQUENCE = SequenceStartEvent(None, None, True, flow_style=True)
_MAPPING = MappingStartEvent(None, None, True, flow_style=False)
_EMPTY_MAPPING = MappingStartEvent(None, None, True, flow_style=True)
_SEQUENCE_END = SequenceEndEvent()
_MAPPING_END = MappingEndEvent()
_is_sexagesimal = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?").fullmatch
_date = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:(?:[Tt](\d\d?):(\d\d?):(\d\d?)(?:[.,]\d+)?(?:Z|[-+]\d\d:\d\d))"
    r"|(?: (\d\d?):(\d\d?):(\d\d?)(?:[.,]\d+)?))?",
    re.ASCII,
).fullmatch


def dump(value: Any) -> str:
    """A JSON value in block style with sorted keys, as `kubectl get -o yaml` prints it. Raises YAMLError."""
    out = BytesIO()
    emitter: Any = CEmitter(out, allow_unicode=True, encoding="utf-8")
    try:
        emitter.emit(StreamStartEvent(encoding="utf-8"))
        emitter.emit(DocumentStartEvent(explicit=False))
        _emit(emitter.emit, value)
        emitter.emit(DocumentEndEvent(explicit=False))
        emitter.emit(StreamEndEvent())
    except (pyyaml.YAMLError, UnicodeEncodeError, RecursionError) as e:
        raise YAMLError(f"write YAML: {e}") from e
    finally:
        emitter.dispose()
    text = out.getvalue().decode()
    return text.removesuffix("...\n") if text.endswith("\n...\n") else text  # libyaml's mark of an open end


def _emit(emit: Any, value: Any) -> None:
    kind = type(value)
    if kind is str:
        emit(ScalarEvent(*_BLANK, value, style=_style(value)))
    elif kind is dict:
        emit(_MAPPING if value else _EMPTY_MAPPING)
        for key in _keys(value):
            # go-yaml leaves << plain and so loses a key of that name; quoted it is read as what it is
            emit(ScalarEvent(*_BLANK, key, style='"' if key == "<<" else _style(key)))
            _emit(emit, value[key])
        emit(_MAPPING_END)
    elif kind is list or kind is tuple:
        emit(_SEQUENCE if value else _EMPTY_SEQUENCE)
        for item in value:
            _emit(emit, item)
        emit(_SEQUENCE_END)
    else:
        emit(ScalarEvent(*_BLANK, _plain(value)))


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return str(int(value)) if whole and int(value) in _INTEGERS else json.go_float(float(value))
    raise YAMLError(f"write YAML: a {type(value).__name__} has no YAML form; use JSON values")


def _style(text: str) -> str | None:
    """Literal for several lines, double quotes where the plain text would not be this string again."""
    if "\n" in text:
        return "|"
    if not text or text in _WORDS:
        return '"'
    if text[0] in _NUMERIC_STARTS and (type(_resolve(text)) is not str or _is_sexagesimal(text) or _is_date(text)):
        return '"'
    return None


def _is_date(text: str) -> bool:
    """Whether YAML 1.1 would read a time."""
    found = _date(text)
    if found is None:
        return False
    try:
        year, month, day, *clock = [int(part) for part in found.groups() if part]
        date(year, month, day)
        return all(part < limit for part, limit in zip(clock, (24, 60, 60), strict=False))
    except ValueError:
        return False


def _keys(value: dict[str, Any]) -> list[str]:
    """The keys in the order of go-yaml; for letters alone that is the order of code points."""
    keys = sorted(value)
    return keys if "".join(keys).isalpha() else sorted(keys, key=_natural)


def _compare(left: str, right: str) -> int:
    """At the first difference: letters after anything else, digits as the number they begin, other characters first."""
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    if at is None:
        return len(left) - len(right)
    a, b = left[at], right[at]
    if a.isalpha() or b.isalpha():
        return ord(a) - ord(b) if a.isalpha() and b.isalpha() else a.isalpha() - b.isalpha()
    # a zero behind digits that are not all zero is part of their number: 10 comes after 1a, but 00 before 1
    within = "0" in (a, b) and any(char != "0" for char in _digits_before(left, at))
    a_number, a_end = _number(left, at, within)
    b_number, b_end = _number(right, at, within)
    return (a_number - b_number) or (a_end - b_end) or (ord(a) - ord(b))


def _digits_before(text: str, at: int) -> str:
    start = at
    while start and text[start - 1].isdecimal():
        start -= 1
    return text[start:at]


def _number(text: str, start: int, within: bool) -> tuple[int, int]:
    end = start
    while end < len(text) and text[end].isdecimal() and end - start < _LONGEST_INTEGER:
        end += 1
    return int(f"{'1' if within else ''}{text[start:end]}" or "0"), end


_natural = cmp_to_key(_compare)
