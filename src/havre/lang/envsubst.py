r"""`${name}` in a text, with bash's operators, as Flux substitutes variables. Pure.

    substitute("a: ${x:=1}", {}) == "a: 1"

| written                                          | gives                                       |
|--------------------------------------------------|---------------------------------------------|
| `${x}` `${#x}`                                   | the value; its length in bytes              |
| `${x:-d}` `${x:=d}` `${x=d}` `${x:?d}` `${x:+d}` | the value, or `d` if there is none          |
| `${x:1}` `${x:1:2}`                              | a part of it, counted in bytes              |
| `${x^}` `${x^^}` `${x,}` `${x,,}`                | its first letter or all in the other case   |
| `${x/a/b}` `${x//a/b}` `${x/#a/b}` `${x/%a/b}`   | with the first, every, leading, trailing a as b |
| `${x#p}` `${x##p}` `${x%p}` `${x%%p}`            | without the shortest, longest head or tail  |

`$x` is left alone, `$$` is a dollar, a default may hold substitutions. A name without a value is an error, unless the
operator gives one (or `strict` is off).

Source: github.com/fluxcd/pkg, envsubst (parse, funcs.go, template.go, path/match.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from havre.lang.structural.regex import PatternError, matcher

MAX_TEXT: Final = 16 * 1024 * 1024  # characters of the text, and of the result: as much as one YAML text may have
MAX_DEPTH: Final = 64  # of substitutions within defaults
MAX_TRIMMED: Final = 4096  # characters of a value that # and % look at: every head of it is matched, 4096²/2 steps
_DEFAULTS: Final = frozenset((":-", ":=", "=", ":?", ":+"))
_name = re.compile(r"\w+").match
_replacing = re.compile(r"/[/#%]?").match
_number = re.compile(r"[-+]?[0-9]+").fullmatch


class SubstitutionError(ValueError):
    """A text that is not well formed, or a variable without a value; the words are upstream's."""


def substitute(text: str, variables: Mapping[str, str], *, strict: bool = True) -> str:
    """Raises SubstitutionError."""
    if "$" not in text:
        return text
    if len(text) > MAX_TEXT:
        raise SubstitutionError(f"the text has {len(text)} characters, more than {MAX_TEXT}")
    return _Text(text, variables, strict).all()


class _Text:
    """Reads the text once from left to right, and gives what it becomes."""

    def __init__(self, text: str, variables: Mapping[str, str], strict: bool) -> None:
        self._text, self._variables, self._strict = text, variables, strict
        self._at = 0
        self._made = 0

    def all(self) -> str:
        parts: list[str] = []
        while (dollar := self._text.find("$", self._at)) >= 0:
            parts.append(self._text[self._at : dollar])
            following = self._text[dollar + 1 : dollar + 2]
            self._at = dollar + 2
            if following == "{":
                parts.append(self._expression(0))
            else:
                parts.append("$" if following == "$" else f"${following}")
        parts.append(self._text[self._at :])
        return "".join(parts)

    def _expression(self, depth: int) -> str:
        """From behind `${` to behind `}`."""
        if depth > MAX_DEPTH:
            raise SubstitutionError(f"bad substitution: more than {MAX_DEPTH} levels of defaults")
        if self._peek() == "#":
            self._at += 1
            value = self._value(self._word())
            self._close()
            return self._counted(str(len(value.encode())))
        return self._counted(self._operated(self._word(), depth))

    def _operated(self, name: str, depth: int) -> str:
        first, two = self._peek(), self._text[self._at : self._at + 2]
        if first == "=" or two in _DEFAULTS:
            self._at += 1 if first == "=" else 2
            return self._default(name, depth)
        if first == ":":
            return self._part(name, depth)
        if first and first in ",^":
            return self._cased(name)
        if first == "/":
            return self._replaced(name, depth)
        if first and first in "#%":
            return self._trimmed(name, depth)
        if first != "}":
            raise SubstitutionError(f"missing closing brace: ${{{name}{first}")
        self._at += 1
        return self._value(name)

    # operators

    def _default(self, name: str, depth: int) -> str:
        parts: list[str] = []
        while self._peek() != "}":
            parts.append(self._argument("}", depth))
        self._close()
        return self._variables.get(name) or "".join(parts)

    def _part(self, name: str, depth: int) -> str:
        self._at += 1
        start, length = self._argument(":}", depth), None
        if self._peek() == ":":
            self._at += 1
            length = self._argument("}", depth)
        self._close()
        return _part(self._value(name), start, length)

    def _cased(self, name: str) -> str:
        first = self._peek()
        both = self._text[self._at : self._at + 2] == first * 2
        self._at += 2 if both else 1
        self._close()
        value = self._value(name)
        change: Callable[[str], str] = str.upper if first == "^" else str.lower
        return change(value) if both else change(value[:1]) + value[1:]

    def _replaced(self, name: str, depth: int) -> str:
        found = _replacing(self._text, self._at)
        how = found[0] if found else "/"
        self._at += len(how)
        old = self._argument("/", depth, escapes=True)
        if self._peek() != "/":
            raise SubstitutionError(f"bad substitution: ${{{name}{how}: expected a second /")
        self._at += 1
        new = None if self._peek() == "}" else self._argument("}", depth, escapes=True)
        self._close()
        return _replaced(self._value(name), how, old, new)

    def _trimmed(self, name: str, depth: int) -> str:
        first = self._peek()
        both = self._text[self._at : self._at + 2] == first * 2
        self._at += 2 if both else 1
        pattern = self._argument("}", depth)
        self._close()
        return _trimmed(self._value(name), pattern, head=first == "#", longest=both)

    # reading

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _word(self) -> str:
        found = _name(self._text, self._at)
        if found is None:
            raise SubstitutionError(f"unable to parse variable name: ${{{self._text[self._at : self._at + 20]}")
        self._at = found.end()
        return found[0]

    def _close(self) -> None:
        if self._peek() != "}":
            raise SubstitutionError(f"bad substitution: expected }} before {self._text[self._at : self._at + 20]!r}")
        self._at += 1

    def _argument(self, ends: str, depth: int, *, escapes: bool = False) -> str:
        """A substitution, or a text up to one, or up to one of `ends`; not empty."""
        if self._text.startswith("${", self._at):
            self._at += 2
            return self._expression(depth + 1)
        parts: list[str] = []
        while (char := self._peek()) and char not in ends and not self._text.startswith("${", self._at):
            two = self._text[self._at : self._at + 2]
            escaped = escapes and two in ("\\/", "\\\\", "$$")
            parts.append(two[1] if escaped else char)
            self._at += 2 if escaped else 1
        if not parts:
            raise SubstitutionError("unable to parse substitution within function")
        return "".join(parts)

    def _value(self, name: str) -> str:
        value = self._variables.get(name)
        if value is None and self._strict:
            raise SubstitutionError(f'variable not set (strict mode): "{name}"')
        return value or ""

    def _counted(self, text: str) -> str:
        self._made += len(text)
        if self._made > MAX_TEXT:
            raise SubstitutionError(f"the values make more than {MAX_TEXT} characters")
        return text


# operators on values


def _part(value: str, start: str, length: str | None) -> str:
    """As bash; what is no number leaves the value as it is."""
    raw = value.encode()
    if not _number(start) or (length is not None and not _number(length)):
        return value
    begin = int(start) if int(start) >= 0 else max(len(raw) + int(start), 0)
    end = len(raw)
    if length is not None:
        end = min(begin + int(length), end) if int(length) >= 0 else end + int(length)
    return raw[begin:end].decode("utf-8", "replace") if end > begin else ""


def _replaced(value: str, how: str, old: str, new: str | None) -> str:
    if how == "/":
        return value.replace(old, new or "", 1)
    if how == "//":
        return value.replace(old, new or "") if old else value
    if new is None:
        return value
    if how == "/#":
        return new + value[len(old) :] if value.startswith(old) else value
    return value.removesuffix(old) + new if value.endswith(old) else value


def _trimmed(value: str, pattern: str, *, head: bool, longest: bool) -> str:
    if len(value) > MAX_TRIMMED:
        raise SubstitutionError(f"a value of {len(value)} characters is too long for # and %: at most {MAX_TRIMMED}")
    try:
        matches = matcher(_glob(pattern))
    except PatternError:
        return value
    sizes = range(len(value), 0, -1) if longest else range(1, len(value) + 1)
    for size in sizes:
        if matches(value[:size] if head else value[-size:]):
            return value[size:] if head else value[:-size]
    return value


_CLASS = re.compile(r"\[\^?[^\]]+\]")


def _glob(pattern: str) -> str:
    """`*` is anything, `?` one character, `[a-z]` one of these."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        found = _CLASS.match(pattern, at)
        char = pattern[at]
        if found:
            parts.append(found[0].replace("\\", "\\\\"))
            at = found.end()
            continue
        parts.append({"*": "(?s:.*)", "?": "(?s:.)"}.get(char) or re.escape(char))
        at += 1
    return f"^{''.join(parts)}$"
