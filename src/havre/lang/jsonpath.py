"""JSONPath as kubectl knows it: `{.items[*].metadata.name}`, `{range .items[*]}{.a}{"\\n"}{end}`, and CRD columns.

A text is compiled once. `compile` gives the function of one path (`.spec.replicas`, as printer columns write it);
`Template` renders text with actions in braces. Only values of JSON are looked at.

    .field  .a\\.b  ['field']  .*        members            [0]  [-1]  [1:3]  [::2]  [*]   elements
    ['a','b']  [0,2]                    several at once    ..name                         at any depth
    [?(@.x == "y")]  [?(@.x)]           those for which    {range …} … {end}              once for each

Source: k8s.io/client-go, util/jsonpath (parser.go, jsonpath.go), whose corner cases and words are kept: a name in
brackets is read as a path, so `['a.b']` means `.a.b`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from havre.lang import json

MAX_LENGTH: Final = 16 * 1024  # characters of a template; those people write have hundreds
_MAX_NESTING: Final = 16  # filters in filters

Values = list[Any]
Step = Callable[[Values], Values]


class JSONPathError(ValueError):
    """A path that cannot be read, or that does not fit the object."""


def compile(path: str, *, allow_missing: bool = True) -> Callable[[Any], Values]:
    """The function from an object to the values at `path`, written without braces. Raises JSONPathError, also later."""
    if allow_missing and (names := _plain_names(path)) is not None:
        return lambda obj: _walk(obj, names)
    parts = Template.parse(f"{{{path}}}", allow_missing=allow_missing).parts
    if len(parts) != 1 or not isinstance(parts[0], _Action):
        raise JSONPathError(f"read path {path!r}: it must be one path, without text around it")
    step = parts[0].step
    return lambda obj: step([obj])


_is_plain = re.compile(r"(\.[A-Za-z_][A-Za-z0-9_-]*)+").fullmatch


def _plain_names(path: str) -> list[str] | None:
    """`["spec", "replicas"]` of `.spec.replicas`; nearly every column is such a path."""
    return path.split(".")[1:] if _is_plain(path) else None


def _walk(obj: Any, names: list[str]) -> Values:
    for name in names:
        if type(obj) is not dict or name not in obj:
            return []
        obj = obj[name]
    return [obj]


# --- templates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Action:
    step: Step


@dataclass(frozen=True, slots=True)
class _Range:
    step: Step
    body: list[_Part] = field(default_factory=list)


_Part = _Text | _Action | _Range


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template."""

    parts: list[_Part]

    @classmethod
    def parse(cls, text: str, *, allow_missing: bool = False) -> Template:
        """The template of a text. Raises JSONPathError."""
        if len(text) > MAX_LENGTH:
            raise JSONPathError(f"read template: {len(text)} characters, at most {MAX_LENGTH} are read")
        return cls(_nested(_Parser(text, allow_missing, 0).template()))

    def find(self, obj: Any) -> list[Values]:
        """The values of each part, in the order of the text. Raises JSONPathError."""
        return list(_find(self.parts, obj))

    def render(self, obj: Any) -> str:
        """The text with every action replaced by its values. Raises JSONPathError."""
        return "".join(" ".join(map(_printed, values)) for values in _find(self.parts, obj))


def _find(parts: list[_Part], obj: Any) -> Iterator[Values]:
    for part in parts:
        if isinstance(part, _Text):
            yield [part.text]
        elif isinstance(part, _Action):
            yield part.step([obj])
        else:
            for value in part.step([obj]):
                yield from _find(part.body, value)


def _nested(parts: Iterator[_Part | str]) -> list[_Part]:
    """Puts what stands between `{range}` and `{end}` into its range; a range without end goes to the end."""
    root: list[_Part] = []
    stack = [root]
    for part in parts:
        if isinstance(part, str):
            if len(stack) == 1:
                raise JSONPathError("not in range, nothing to end")
            stack.pop()
            continue
        stack[-1].append(part)
        if isinstance(part, _Range):
            if len(stack) > _MAX_NESTING:
                raise JSONPathError(f"read template: ranges nest more than {_MAX_NESTING} levels")
            stack.append(part.body)
    return root


def _printed(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return json.go_float(value)
    if isinstance(value, dict | list):
        text = json.dumps_sorted(value).decode()
        return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")  # as Go's encoder
    return str(value)


# --- reading --------------------------------------------------------------------------------------------------------

_name = re.compile(r"(?:\\.|[^\\\s.,\[\]$@{}])*", re.DOTALL).match
_number = re.compile(r"[-+]?[0-9.]*").match
_word = re.compile(r"[^\s.,\[\]$@{}]+").match
_quoted = re.compile(r"""(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""").match
_comparison = re.compile(r"([^!<>=]+)([!<>=]+)(.+)", re.DOTALL).fullmatch
_slice = re.compile(r"(-?[0-9]*)(:-?[0-9]*)?(:-?[0-9]*)?").fullmatch
_dict_key = re.compile(r"'([^']*)'").fullmatch


class _Parser:
    """Reads text and actions; each action becomes one chain of steps."""

    def __init__(self, text: str, allow_missing: bool, depth: int) -> None:
        if depth > _MAX_NESTING:
            raise JSONPathError(f"read path: filters and unions nest more than {_MAX_NESTING} levels")
        self._text = text
        self._at = 0
        self._allow_missing = allow_missing
        self._depth = depth

    def template(self) -> Iterator[_Part | str]:
        """Parts in their order; the string "end" closes a range."""
        text = self._text
        while self._at < len(text):
            start = text.find("{", self._at)
            if start < 0:
                yield _Text(text[self._at :])
                return
            if start > self._at:
                yield _Text(text[self._at : start])
            self._at = start + 1
            yield self._action()

    def _action(self) -> _Part | str:
        steps: list[Step] = []
        words = set()
        recursive = False
        while not self._text.startswith("}", self._at):
            if self._at >= len(self._text) or self._text[self._at] in "\r\n":
                raise JSONPathError("unclosed action")
            if self._text.startswith("..", self._at):
                if recursive:
                    raise JSONPathError("invalid multiple recursive descent")
                recursive = True
                steps.append(_descend)
                self._at += 1 if _is_name_start(self._text[self._at + 2 : self._at + 3]) else 2
                continue
            step = self._step()
            if isinstance(step, str):
                words.add(step)
            elif step is not None:
                recursive = False
                steps.append(step)
        self._at += 1
        return "end" if "end" in words else _Range(_chain(steps)) if words else _Action(_chain(steps))

    def _step(self) -> Step | str | None:
        """The next step; the words range and end; None for what changes nothing."""
        char = self._text[self._at]
        if char in " @$":
            self._at += 1
            return None
        if self._text.startswith("[?(", self._at):
            return self._filter()
        if char == "[":
            return self._array()
        if char in "\"'":
            return _constant(self._quote())
        if char == ".":
            self._at += 1
            return self._field()
        if char in "+-" or char.isdecimal():
            return self._literal()
        if _is_name_start(char):
            return self._identifier()
        raise JSONPathError(f"unrecognized character in action: U+{ord(char):04X} '{char}'")

    def _take(self, match: re.Match[str] | None) -> str:
        text = match.group() if match else ""
        self._at += len(text)
        return text

    def _field(self) -> Step:
        name = self._take(_name(self._text, self._at))
        return _wildcard if name == "*" else _member(name.replace("\\", ""), allow_missing=self._allow_missing)

    def _literal(self) -> Step:
        text = self._take(_number(self._text, self._at))
        try:
            return _literal(int(text))
        except ValueError:
            pass  # not whole: a float, or nothing
        try:
            return _literal(float(text))
        except ValueError as e:
            raise JSONPathError(f"cannot parse number {text}") from e

    def _identifier(self) -> Step | str:
        word = self._take(_word(self._text, self._at))
        if word in ("true", "false"):
            return _literal(word == "true")
        if word not in ("range", "end"):
            raise JSONPathError(f"unrecognized identifier {word}")
        return word

    def _quote(self) -> str:
        found = _quoted(self._text, self._at)
        if not found:
            raise JSONPathError("unterminated quoted string")
        return _unquoted(self._take(found))

    def _inner(self, path: str) -> Step:
        """The steps of a path inside this one."""
        parts = list(_Parser(f"{{{path}}}", self._allow_missing, self._depth + 1).template())
        if len(parts) != 1 or not isinstance(parts[0], _Action):
            raise JSONPathError(f"invalid path {path}")
        return parts[0].step

    def _array(self) -> Step:
        end = re.compile(r"[\]\n]").search(self._text, self._at)
        if not end or end.group() == "\n":
            raise JSONPathError("unterminated array")
        inside = self._text[self._at + 1 : end.start()]
        self._at = end.end()
        if inside == "*":
            inside = ":"
        if "," in inside:
            return _union([self._inner(f"[{each.strip(' ')}]") for each in inside.split(",")])
        if key := _dict_key(inside):
            return self._inner(f".{key.group(1)}")
        return _elements(inside)

    def _filter(self) -> Step:
        end = self._filter_end()
        inside = self._text[self._at + 3 : end]
        self._at = end + 1
        if not self._text.startswith("]", self._at):
            raise JSONPathError("unclosed array expect ]")
        self._at += 1
        found = _comparison(inside)
        if not found:
            return _existing(self._inner(inside))
        left, operator, right = found.groups()
        if operator not in _COMPARISONS:
            raise JSONPathError(f"unrecognized filter operator {operator}")
        return _comparing(self._inner(left), operator, self._inner(right))

    def _filter_end(self) -> int:
        """The place of the bracket that closes the filter; brackets in a quoted text do not count."""
        at = self._at + 3
        while at < len(self._text) and self._text[at] != "\n":
            if self._text[at] == ")":
                return at
            quoted = _quoted(self._text, at)
            at = quoted.end() if quoted else at + 1
        raise JSONPathError("unterminated filter")


def _is_name_start(char: str) -> bool:
    return char.isalnum() or char == "_"


_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_escape = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL).sub


def _unquoted(text: str) -> str:
    def char(match: re.Match[str]) -> str:
        x, u, wide, octal, single = match.groups()
        code = int(octal, 8) if octal else int(x or u or wide, 16) if x or u or wide else -1
        if single in _ESCAPED and (single not in "'\"" or single == text[0]):
            return _ESCAPED[single]
        if not 0 <= code <= 0x10FFFF or 0xD800 <= code < 0xE000:
            raise JSONPathError(f"unquote string {text} error invalid syntax")
        return chr(code)

    return _escape(char, text[1:-1])


# --- steps ----------------------------------------------------------------------------------------------------------


def _chain(steps: list[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]

    def chain(values: Values) -> Values:
        for step in steps:
            values = step(values)
        return values

    return chain


def _constant(text: str) -> Step:
    return lambda _: [text]


def _literal(value: float | bool) -> Step:
    return lambda values: [value] * len(values)


def _member(name: str, *, allow_missing: bool) -> Step:
    def member(values: Values) -> Values:
        found = [value[name] for value in values if type(value) is dict and name in value]
        if values and not found and not allow_missing:
            raise JSONPathError(f"{name} is not found")
        return found

    return member


def _children(value: Any) -> Values:
    return list(value.values()) if type(value) is dict else value if type(value) is list else []


def _wildcard(values: Values) -> Values:
    return [child for value in values for child in _children(value)]


def _descend(values: Values) -> Values:
    """Everything that has parts, itself first."""
    out: Values = []
    waiting = values[::-1]
    while waiting:
        value = waiting.pop()
        children = _children(value)
        if children:
            out.append(value)
            waiting.extend(reversed(children))
    return out


def _union(steps: list[Step]) -> Step:
    return lambda values: [found for step in steps for found in step(values)]


def _elements(text: str) -> Step:
    """`2`, `-1`, `1:`, `:-1`, `::2` between brackets."""
    found = _slice(text)
    if not found:
        raise JSONPathError(f"invalid array index {text}")
    start_text, stop_text, step_text = found.groups()
    start = _integer(start_text) or 0
    stop = _integer(stop_text[1:]) if stop_text else start + 1
    every = _integer(step_text[1:]) if step_text and step_text[1:] else 1
    one = not stop_text

    def elements(values: Values) -> Values:
        out: Values = []
        for value in values:
            if type(value) is list:
                out.extend(_cut(value, start, stop, one, every or 0))
            elif value is not None:
                _wrong(f"{_go_type(value)} is not array or slice")
        return out

    return elements


def _integer(text: str) -> int | None:
    if not text:
        return None
    if text == "-" or len(text) > 18:
        raise JSONPathError(f"array index {text} is not a number")
    return int(text)


def _cut(items: Values, start: int, stop: int | None, one: bool, every: int) -> Values:
    size = len(items)
    first = start + size if start < 0 else start
    last = size if stop is None else stop + size if stop < 0 or (stop == 0 and one) else stop
    if first == last:
        return []
    if not 0 <= first < size:
        _wrong(f"array index out of bounds: index {first}, length {size}")
    if not 0 <= last <= size:
        _wrong(f"array index out of bounds: index {last - 1}, length {size}")
    if first > last:
        _wrong(f"starting index {first} is greater than ending index {last}")
    if every <= 0:
        _wrong("step must be > 0")
    return items[first:last:every]


def _wrong(message: str) -> NoReturn:
    raise JSONPathError(message)


def _existing(path: Step) -> Step:
    def exists(item: Any) -> bool:
        try:
            return bool(path([item]))
        except JSONPathError:
            return False

    return lambda values: [item for value in values for item in _filterable(value) if exists(item)]


def _filterable(value: Any) -> Values:
    if type(value) is not list:
        _wrong(f"{_printed(value)} is not array or slice and cannot be filtered")
    return list(value)


def _comparing(left: Step, operator: str, right: Step) -> Step:
    compare = _COMPARISONS[operator]

    def passes(item: Any) -> bool:
        lefts = left([item])
        if not lefts:
            return False
        rights = right([item])
        if not rights:
            return False
        if len(lefts) > 1 or len(rights) > 1:
            _wrong("can only compare one element at a time")
        one, other = lefts[0], rights[0]
        if _sort(one) != _sort(other):
            _wrong("incompatible types for comparison")
        return compare(one, other)

    return lambda values: [item for value in values for item in _filterable(value) if passes(item)]


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}


def _sort(value: Any) -> str:
    """What may be compared with each other: texts, numbers, booleans."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    _wrong("invalid type for comparison")


_GO_TYPES = {dict: "map[string]interface {}", int: "int64", float: "float64", str: "string", bool: "bool"}


def _go_type(value: Any) -> str:
    return _GO_TYPES.get(type(value), type(value).__name__)
