"""Validation rules of a schema (`x-kubernetes-validations`) on an object, with the words of kube-apiserver.

A rule that reads `oldSelf` is a transition rule: it waits for an old value, which exists only on updates, and below
a list only where the list is a map. A rule that does not read it is forgiven when the value has not changed
(ratcheting).

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/cel/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from havre.kit.field import FieldError, Problem, invalid
from havre.lang.cel.expression import (
    CelError,
    Expression,
    OutOfBudget,
    activation,
    compile_expression,
    count,
)
from havre.lang.cel.values import Convert, converter
from havre.lang.schema import Compiler, Schema

MESSAGE_MAX: Final = 5 * 1024  # bytes of an evaluated message
NO_PATH: Final = "<nil>"
_REASONS = {
    "FieldValueForbidden": Problem.FORBIDDEN,
    "FieldValueRequired": Problem.REQUIRED,
    "FieldValueDuplicate": Problem.DUPLICATE,
}
_TOKEN = re.compile(r"\.(?P<name>[^.\[\]]+)|\['(?P<quoted>(?:\\.|[^\\'])*)'\]|(?P<other>.)", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "'": "'", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule. `evaluate` needs no object, `rules` runs them all."""

    text: str
    expression: Expression
    message: str
    message_expression: Expression | None
    reason: str
    field_path: str
    optional_old_self: bool

    def evaluate(self, value: Any, old: Any = None) -> bool:
        """Whether `value` (as expressions see it) obeys. Raises CelError."""
        size = count(value) if self.expression.loops > 1 else 0
        return self.expression.evaluate(activation(value, old), size) is True

    @property
    def words(self) -> str:
        """What the rule is called in an error."""
        return self.message or self.text.strip()

    @property
    def complaint(self) -> str:
        return self.message or f"failed rule: {self.text.strip()}"


def compile_rule(raw: str | Mapping[str, Any], schema: Schema) -> Rule:
    """A rule, or only its expression. Raises CelError with upstream's words."""
    rule: Mapping[str, Any] = {"rule": raw} if isinstance(raw, str) else raw
    optional = bool(rule.get("optionalOldSelf"))
    expression = compile_expression(rule["rule"], optional_old_self=optional)
    source = rule.get("messageExpression") or ""
    try:
        message = compile_expression(source, "STRING", optional_old_self=optional) if source else None
    except CelError as e:
        raise MessageError(str(e).replace("compilation failed", "messageExpression compilation failed", 1)) from e
    try:
        path = field_path(rule.get("fieldPath") or "", schema)[0]
    except ValueError:
        path = ""
    text = str(rule.get("message") or "").strip()
    return Rule(rule["rule"], expression, text, message, rule.get("reason") or "", path, optional)


class MessageError(CelError):
    """The messageExpression is at fault, not the rule."""


def field_path(text: str, schema: Schema, *, brackets: bool = True) -> tuple[str, Schema]:
    """`labels[a.b]` and its schema, of a path `.labels['a.b']`. Raises ValueError when it leads nowhere."""
    path = ""
    for token in _TOKEN.finditer(text):
        if token["other"]:
            raise ValueError(f"expected [ or . but got: {token['other']}")
        if token["quoted"] is not None and not brackets:
            raise ValueError("array notation is not allowed")
        name = token["name"] or re.sub(r"\\(.)", _unescape, token["quoted"])
        if schema.properties:
            if name not in schema.properties:
                raise ValueError("does not refer to a valid field")
            path, schema = f"{path}.{name}", schema.properties[name]
        elif schema.additional:
            path, schema = f"{path}[{name}]", schema.additional
        else:
            raise ValueError("does not refer to a valid field")
    return path.removeprefix("."), schema


def _unescape(found: re.Match[str]) -> str:
    if found[1] not in _ESCAPES:
        raise ValueError(f"invalid string literal: invalid escape char {found[0]}")
    return _ESCAPES[found[1]]


@dataclass(slots=True)
class _Node:
    """The rules of one place and of the places below it."""

    schema: Schema
    rules: list[Rule | CelError] = field(default_factory=list)
    convert: Convert | None = None
    fields: dict[str, _Node] = field(default_factory=dict)
    additional: _Node | None = None
    items: _Node | None = None
    all_of: list[_Node] = field(default_factory=list)


def rules(schema: Schema) -> Callable[[Any, Any], list[FieldError]]:
    """All broken rules of an object; on an update `old` is the stored object, otherwise None."""
    node = _compile(schema, schema)
    if node is None:
        return _nothing

    def run(obj: Any, old: Any = None) -> list[FieldError]:
        errors: list[FieldError] = []
        try:
            for error in _validate(node, obj, old, None, ""):
                errors.append(error)
        except _Exhausted as e:
            errors.append(e.error)
        return errors

    return run


def _nothing(obj: Any, old: Any = None) -> list[FieldError]:
    return []


class _Exhausted(Exception):
    def __init__(self, error: FieldError) -> None:
        super().__init__(str(error))
        self.error = error


def _compile(schema: Schema, shape: Schema) -> _Node | None:
    """`schema` has the rules, `shape` the types; they differ inside allOf."""
    node = _Node(shape, [_compiled(raw, shape) for raw in schema.raw.get("x-kubernetes-validations") or ()])
    node.convert = converter(shape) if node.rules else None
    for key, child in schema.properties.items():
        if key in shape.properties and (inner := _compile(child, shape.properties[key])):
            node.fields[key] = inner
    if schema.additional and shape.additional:
        node.additional = _compile(schema.additional, shape.additional)
    if schema.items and shape.items:
        node.items = _compile(schema.items, shape.items)
    for raw in schema.raw.get("allOf") or ():
        if inner := _compile(Compiler().compile(raw), shape):
            node.all_of.append(inner)
    return node if node.rules or node.fields or node.additional or node.items or node.all_of else None


def _compiled(raw: Mapping[str, Any], schema: Schema) -> Rule | CelError:
    """A stored rule that no longer compiles is reported for every object, as upstream does."""
    try:
        return compile_rule(raw, schema)
    except CelError as e:
        return e


def _validate(node: _Node, value: Any, old: Any, near: tuple[Any, Any] | None, path: str) -> Iterator[FieldError]:
    """`near`: the nearest place around that has an old value, and both values of it."""
    if value is None:
        return
    if node.rules:
        yield from _evaluate(node, value, old, near, path)
    for inner in node.all_of:
        yield from _validate(inner, value, old, near, path)
    around = (value, old) if old is not None else near
    if value.__class__ is dict:
        before = old if old.__class__ is dict else {}
        for key, child in value.items():
            if key in node.fields:
                yield from _validate(node.fields[key], child, before.get(key), around, f"{path}.{key}" if path else key)
            elif node.additional:
                yield from _validate(node.additional, child, before.get(key), around, f"{path}[{key}]")
    elif value.__class__ is list and node.items:
        find = _by_keys(node.schema, old)
        for index, child in enumerate(value):
            yield from _validate(node.items, child, find(child), around, f"{path}[{index}]")


def _by_keys(schema: Schema, old: Any) -> Callable[[Any], Any]:
    """Finds the old element with the same keys; finds nothing where the list is no map."""
    if schema.list_type != "map" or old.__class__ is not list:
        return lambda item: None
    keys = schema.list_map_keys
    known = {repr([item.get(k) for k in keys]): item for item in reversed(old) if item.__class__ is dict}
    return lambda item: known.get(repr([item.get(k) for k in keys])) if item.__class__ is dict else None


def _evaluate(node: _Node, value: Any, old: Any, near: tuple[Any, Any] | None, path: str) -> Iterator[FieldError]:
    seen, before = value, old
    if node.convert:
        seen, before = node.convert(value), node.convert(old) if old is not None else None
    variables = activation(seen, before)
    size = -1
    for rule in node.rules:
        if isinstance(rule, CelError):
            yield invalid(path or NO_PATH, node.schema.type, f"rule compile error: {rule}")
            continue
        expression = rule.expression
        if expression.uses_old_self and old is None and not rule.optional_old_self:
            continue
        if expression.loops > 1 and size < 0:
            size = count(value)
        try:
            if expression.evaluate(variables, size) is True:
                continue
        except OutOfBudget as e:
            raise _Exhausted(invalid(path or NO_PATH, node.schema.type, str(e))) from e
        except CelError as e:
            yield invalid(path or NO_PATH, node.schema.type, _failure(str(e), rule))
            continue
        if expression.uses_old_self or not _same(value, old, near):
            yield _broken(rule, node.schema, path, variables)


def _same(value: Any, old: Any, near: tuple[Any, Any] | None) -> bool:
    if old is not None:
        return bool(value == old)
    return near is not None and bool(near[0] == near[1])


def _failure(words: str, rule: Rule) -> str:
    if words.startswith("no such overload"):
        mismatch = "call arguments did not match a supported operator, function or macro signature"
        return f"'{words}': {mismatch} for rule: {rule.words}"
    return f"{words} evaluating rule: {rule.words}"


def _broken(rule: Rule, schema: Schema, path: str, variables: Any) -> FieldError:
    place = ".".join(part for part in (path, rule.field_path) if part) or NO_PATH
    words = _evaluated_message(rule, variables) or rule.complaint
    problem = _REASONS.get(rule.reason, Problem.INVALID)
    return FieldError(problem, place, schema.type, "" if problem is Problem.DUPLICATE else words)


def _evaluated_message(rule: Rule, variables: Any) -> str:
    """The text of the messageExpression; "" when it fails or is no good, then the message stands in."""
    if rule.message_expression is None:
        return ""
    try:
        text = rule.message_expression.evaluate(variables)
    except CelError:
        return ""
    text = text.strip() if isinstance(text, str) else ""
    return "" if "\n" in text or len(text.encode()) > MESSAGE_MAX else text
