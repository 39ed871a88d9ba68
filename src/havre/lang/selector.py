"""Selectors: which objects a list, a watch or a workload means.

A label selector is a text (`app=web,tier in (a,b),!canary,rank>5`) or the LabelSelector of an object (`matchLabels`,
`matchExpressions`); a field selector is a text (`metadata.name=x,status.phase!=Running`). Both are compiled once to one
function, so that a list of thousands pays a dictionary look-up for each object. Every parser here runs in linear time.

Source: k8s.io/apimachinery, pkg/labels/selector.go, pkg/fields/selector.go, pkg/apis/meta/v1/helpers.go and validation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn

from havre.kit import names
from havre.kit.field import FieldError, invalid, not_supported

Labels = Mapping[str, str]
Matcher = Callable[[Labels], bool]
Lookup = Callable[[str], str]  # the value of a field of the object in question, "" if it has none

_INT64 = range(-(2**63), 2**63)
_is_integer = re.compile(r"[-+]?[0-9]{1,19}").fullmatch


class SelectorError(ValueError):
    """A selector that cannot be read; the words are upstream's."""


# --- labels ---------------------------------------------------------------------------------------------------------

_SIGNS = {"in": " in ", "notin": " notin ", "gt": ">", "lt": "<"}  # operator: how it is written, if differently
_BINARY = ("in", "notin", "=", "==", "!=", "gt", "lt")
_OPERATORS = (*_BINARY, "exists", "!")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label; `operator` is one of in, notin, =, ==, !=, gt, lt, exists, !."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator == "exists":
            return self.key
        if self.operator == "!":
            return f"!{self.key}"
        values = ",".join(sorted(self.values))
        if self.operator in ("in", "notin"):
            values = f"({values})"
        return f"{self.key}{_SIGNS.get(self.operator, self.operator)}{values}"

    def problems(self) -> list[FieldError]:
        """What upstream's constructor complains about, before it lets the requirement be used."""
        found = _key_problems(self.key, "key")
        values = list(self.values)
        match self.operator:
            case "in" | "notin":
                if not values:
                    found.append(invalid("values", values, "for 'in', 'notin' operators, values set can't be empty"))
            case "=" | "==" | "!=":
                if len(values) != 1:
                    found.append(invalid("values", values, "exact-match compatibility requires one single value"))
            case "exists" | "!":
                if values:
                    found.append(invalid("values", values, "values set must be empty for exists and does not exist"))
            case "gt" | "lt":
                found += _bound_problems(values)
            case _:
                found.append(not_supported("operator", self.operator, _OPERATORS))
        for index, value in enumerate(values):
            if complaints := names.label_value(value):
                found.append(invalid(f"values[{index}][{self.key}]", value, "; ".join(complaints)))
        return found


def _bound_problems(values: Sequence[str]) -> list[FieldError]:
    found = []
    if len(values) != 1:
        found.append(invalid("values", list(values), "for 'Gt', 'Lt' operators, exactly one value is required"))
    for index, value in enumerate(values):
        if _integer(value) is None:
            found.append(invalid(f"values[{index}]", value, "for 'Gt', 'Lt' operators, the value must be an integer"))
    return found


def _key_problems(key: str, path: str) -> list[FieldError]:
    complaints = names.qualified_name(key)
    return [invalid(path, key, "; ".join(complaints))] if complaints else []


def _integer(text: str) -> int | None:
    """As Go's ParseInt in 64 bits."""
    if not _is_integer(text):
        return None
    number = int(text)
    return number if number in _INT64 else None


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A compiled selector: call `matches(labels)`. `requirements` is None for the selector that matches nothing."""

    requirements: tuple[Requirement, ...] | None = ()
    matches: Matcher = field(init=False, repr=False, compare=False)
    everything: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", _compile(self.requirements))
        object.__setattr__(self, "everything", self.requirements == ())

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """The selector of a text; "" is everything. Raises SelectorError."""
        return cls(_sorted(_Parser(text).selector())) if text else EVERYTHING

    @classmethod
    def of(cls, selector: Mapping[str, Any] | None) -> LabelSelector:
        """The selector of a LabelSelector object: None selects nothing, `{}` everything. Raises SelectorError."""
        if selector is None:
            return NOTHING
        requirements = [Requirement(k, "=", (v,)) for k, v in (selector.get("matchLabels") or {}).items()]
        requirements += [_from_expression(term) for term in selector.get("matchExpressions") or ()]
        for requirement in requirements:
            _check(requirement)
        return cls(_sorted(requirements))

    @classmethod
    def of_labels(cls, labels: Labels | None) -> LabelSelector:
        """The selector of a plain map (Service, ReplicationController): unchecked, empty is everything."""
        return cls(_sorted(Requirement(k, "=", (v,)) for k, v in (labels or {}).items()))

    def requires(self, label: str) -> str | None:
        """The one value that `label` must have to match; None if several would do."""
        for requirement in self.requirements or ():
            if requirement.key == label:
                single = requirement.operator in ("=", "==", "in") and len(requirement.values) == 1
                return requirement.values[0] if single else None
        return None

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements or ()))


def _sorted(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    return tuple(sorted(requirements, key=lambda requirement: requirement.key))


_EXPRESSION_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def _from_expression(term: Mapping[str, Any]) -> Requirement:
    word = term.get("operator", "")
    operator = _EXPRESSION_OPERATORS.get(word)
    if operator is None:
        raise SelectorError(f'"{word}" is not a valid label selector operator')
    return Requirement(term.get("key", ""), operator, tuple(term.get("values") or ()))


def _check(requirement: Requirement) -> None:
    texts = list(dict.fromkeys(map(str, requirement.problems())))
    if texts:
        raise SelectorError(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")


def _compile(requirements: tuple[Requirement, ...] | None) -> Matcher:
    if requirements is None:
        return lambda _: False
    if not requirements:
        return lambda _: True
    tests = [_matcher(requirement) for requirement in requirements]
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda labels: first(labels) and second(labels)

    def matches(labels: Labels) -> bool:
        for test in tests:  # noqa: SIM110 - all() with a generator is twice as slow
            if not test(labels):
                return False
        return True

    return matches


def _matcher(requirement: Requirement) -> Matcher:
    key, values = requirement.key, frozenset(requirement.values)
    match requirement.operator:
        case "=" | "==" | "in":
            if len(values) == 1:
                (value,) = values
                return lambda labels: labels.get(key) == value
            return lambda labels: labels.get(key) in values
        case "!=" | "notin":
            return lambda labels: labels.get(key) not in values
        case "exists":
            return lambda labels: key in labels
        case "!":
            return lambda labels: key not in labels
    bound = _integer(requirement.values[0]) or 0

    def above(labels: Labels) -> bool:
        number = _integer(labels.get(key, ""))
        return number is not None and number > bound

    def below(labels: Labels) -> bool:
        number = _integer(labels.get(key, ""))
        return number is not None and number < bound

    return above if requirement.operator == "gt" else below


EVERYTHING: Final = LabelSelector(())
NOTHING: Final = LabelSelector(None)


class _Token(NamedTuple):
    kind: str  # the symbol or keyword itself, "name", or "" at the end
    text: str


_END = _Token("", "")
_tokens = re.compile(r"[ \t\r\n]+|(==|!=|[=!(),<>])|([^=!(),<> \t\r\n]+)").finditer
_OPERATOR_TOKENS = {"in": "in", "notin": "notin", "=": "=", "==": "==", "!=": "!=", ">": "gt", "<": "lt"}


def _scan(text: str) -> list[_Token]:
    found = []
    for match in _tokens(text):
        symbol, word = match.groups()
        if symbol:
            found.append(_Token(symbol, symbol))
        elif word:
            found.append(_Token(word if word in ("in", "notin") else "name", word))
    found.append(_END)
    return found


class _Parser:
    """Recursive descent over the tokens; outside the place of an operator, `in` and `notin` are names."""

    def __init__(self, text: str) -> None:
        self._tokens = _scan(text)
        self._at = 0

    def _peek(self) -> _Token:
        token = self._tokens[min(self._at, len(self._tokens) - 1)]
        return _Token("name", token.text) if token.kind in ("in", "notin") else token

    def _next(self) -> _Token:
        token = self._peek()
        self._at += 1
        return token

    def selector(self) -> list[Requirement]:
        requirements: list[Requirement] = []
        while (start := self._peek()).kind:
            if start.kind not in ("name", "!"):
                _expected(start, "!, identifier, or 'end of string'")
            try:
                requirements.append(self._requirement())
            except SelectorError as e:
                raise SelectorError(f"unable to parse requirement: {e}") from e
            after = self._next()
            if not after.kind:
                break
            if after.kind != ",":
                _expected(after, "',' or 'end of string'")
            if self._peek().kind not in ("name", "!"):
                _expected(self._peek(), "identifier after ','")
        return requirements

    def _requirement(self) -> Requirement:
        token = self._next()
        absent = token.kind == "!"
        if absent:
            token = self._next()
        if token.kind != "name":
            _expected(token, "identifier")
        for problem in _key_problems(token.text, "<nil>"):
            raise SelectorError(str(problem))
        if absent or self._peek().kind in ("", ","):
            requirement = Requirement(token.text, "!" if absent else "exists")
        else:
            operator = self._operator()
            values = self._values() if operator in ("in", "notin") else {self._value()}
            requirement = Requirement(token.text, operator, tuple(sorted(values)))
        _check(requirement)
        return requirement

    def _operator(self) -> str:
        token = self._tokens[self._at]
        self._at += 1
        if token.kind not in _OPERATOR_TOKENS:
            _expected(token, ", ".join(_BINARY))
        return _OPERATOR_TOKENS[token.kind]

    def _value(self) -> str:
        if self._peek().kind in ("", ","):
            return ""
        token = self._next()
        if token.kind != "name":
            _expected(token, "identifier")
        return token.text

    def _values(self) -> set[str]:
        token = self._next()
        if token.kind != "(":
            raise SelectorError(f"found '{token.text}' expected: '('")
        token = self._peek()
        if token.kind == ")":
            self._next()
            return {""}
        if token.kind not in ("name", ","):
            _expected(token, "',', ')' or identifier")
        return self._names()

    def _names(self) -> set[str]:
        """Names up to the closing bracket; an empty place between commas is the empty value."""
        found: set[str] = set()
        place_is_empty = True
        while True:
            token = self._next()
            if token.kind == "name" and place_is_empty:
                found.add(token.text)
                place_is_empty = False
                if self._peek().kind not in (",", ")"):
                    _expected(self._peek(), "',' or ')'")
            elif token.kind == ",":
                if place_is_empty:
                    found.add("")
                place_is_empty = True
            elif token.kind == ")":
                return found | {""} if place_is_empty else found
            else:
                _expected(token, "',', or identifier")


def _expected(found: _Token, what: str) -> NoReturn:
    raise SelectorError(f"found '{found.text}', expected: {what}")


# --- fields ---------------------------------------------------------------------------------------------------------


class FieldTerm(NamedTuple):
    """`field=value` or, if not `equal`, `field!=value`; the value is unescaped."""

    field: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        return f"{self.field}{'=' if self.equal else '!='}{escape(self.value)}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A parsed field selector. Which fields exist is for the caller to say: look at `terms`."""

    terms: tuple[FieldTerm, ...] = ()

    @classmethod
    def parse(cls, text: str) -> FieldSelector:
        """The selector of a text; "" is everything. Raises SelectorError."""
        return cls(tuple(_field_term(part, text) for part in sorted(_split_terms(text)) if part))

    @property
    def everything(self) -> bool:
        return not self.terms

    def matches(self, value_of: Lookup) -> bool:
        """Whether the object whose field `f` is `value_of(f)` is meant."""
        for name, value, equal in self.terms:  # noqa: SIM110 - all() with a generator is twice as slow
            if (value_of(name) == value) is not equal:
                return False
        return True

    def requires(self, name: str) -> str | None:
        """The value that `name` must have to match; None if it is not fixed."""
        return next((term.value for term in self.terms if term.field == name and term.equal), None)

    def narrowed(self, name: str, value: str) -> FieldSelector:
        """This selector and `name=value`."""
        return FieldSelector((*self.terms, FieldTerm(name, value)))

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))


_split_terms = re.compile(r"((?:[^\\,]|\\.|\\\Z)+)", re.DOTALL).findall  # a comma behind a backslash is data
_operator = re.compile("!=|==|=").search
_ESCAPES = str.maketrans({"\\": r"\\", ",": r"\,", "=": r"\="})


def escape(value: str) -> str:
    """Any text as the value of a field selector."""
    return value.translate(_ESCAPES)


def _field_term(part: str, whole: str) -> FieldTerm:
    found = _operator(part)
    if not found:
        raise SelectorError(f"invalid selector: '{whole}'; can't understand '{part}'")
    return FieldTerm(part[: found.start()], _unescape(part[found.end() :]), found.group() != "!=")


def _unescape(value: str) -> str:
    out = []
    chars = iter(value)
    for char in chars:
        if char == "\\":
            escaped = next(chars, "")
            if escaped not in ("\\", ",", "="):
                raise SelectorError(f"invalid field selector: invalid escape sequence: \\{escaped}")
            out.append(escaped)
        elif char in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in value: {ord(char)}")
        else:
            out.append(char)
    return "".join(out)
