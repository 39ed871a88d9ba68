"""Every problem of a custom resource against its schema, in the words of kube-apiserver.

A check returns None when a value is fine, and a list of `Fault` otherwise; a fault learns its place on the way up
and is put into words at the root. A leaf that only has a type costs one dictionary look-up and one comparison.

On an update a problem is forgiven when the value it is about has not changed (ratcheting): the schema may have become
stricter after the object was stored. An element of a list is followed only where the list is a map.

Source: k8s.io/kube-openapi, pkg/validation/validate; k8s.io/apiextensions-apiserver, pkg/apiserver/validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from havre.kit.field import FieldError, Problem
from havre.lang.schema import Compiler, Schema
from havre.lang.structural.formats import check_of
from havre.lang.structural.regex import PatternError, matcher

Obj = dict[str, Any]
AT = "\0"  # stands for the path until it is known; JSON text cannot hold it unescaped
NO_PATH = "<nil>"  # how upstream prints the path of a problem that has none

_TYPE_NAMES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_CLASSES: dict[str, type] = {"boolean": bool, "integer": int, "string": str, "object": dict, "array": list}
_GO_FORMATS: dict[type, str] = {int: "int64", float: "float64"}
_EXACT_FLOAT_MAX = 2.0**53 - 1
_GO_INT_MIN, _GO_INT_MAX = -(2**63), 2**63 - 1


@dataclass(slots=True)
class Fault:
    """A problem that does not know its place yet; `at` is the path to the value, innermost step first."""

    problem: Problem
    value: Any
    detail: str  # AT stands for the path
    tail: str = ""  # .name of a missing field
    at: list[str | int] = field(default_factory=list)
    placed: bool = True  # alternatives (oneOf, …) are reported without a path

    def error(self) -> FieldError:
        path = path_of(reversed(self.at)) + self.tail
        path = path.removeprefix(".")
        detail = self.detail.replace(AT, path, 1)
        return FieldError(self.problem, (path or NO_PATH) if self.placed else NO_PATH, self.value, detail)


Faults = list[Fault]
Check = Callable[[Any], "Faults | None"]


def path_of(steps: Iterable[str | int]) -> str:
    """`.spec.tags[1]` of ("spec", "tags", 1)."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def validate(schema: Schema) -> Callable[[Any, Any], list[FieldError]]:
    """All problems of `obj`; on an update `old` is the stored object, otherwise None."""
    check = check_node(schema) or (lambda value: None)

    def run(obj: Any, old: Any = None) -> list[FieldError]:
        faults = check(obj)
        if not faults:
            return []
        if old is not None:
            faults = [f for f in faults if not unchanged(schema, obj, old, list(reversed(f.at)))]
        return list({str(error): error for error in (f.error() for f in faults)}.values())

    return run


def unchanged(schema: Schema | None, new: Any, old: Any, steps: list[str | int]) -> bool:
    """Whether the value at the end of `steps`, or one around it, is as it was."""
    for depth, step in enumerate([*steps, None]):
        if new == old:
            return True
        if step is None or schema is None or new.__class__ is not old.__class__:
            return False
        if isinstance(step, int):
            found = _same_key(schema, new[step], old)
            new, old, schema = new[step], found, schema.items
        elif (
            new.__class__ is not dict
            or step not in new
            or step not in old
            or (depth == 0 and step in ("kind", "apiVersion"))
        ):
            return False
        else:
            new, old, schema = new[step], old[step], schema.child(step)
        if old is None:
            return False
    return False


def _same_key(schema: Schema, item: Any, old: list[Any]) -> Any:
    """The element of `old` with the keys of `item`; None where elements cannot be told apart."""
    if schema.list_type != "map" or item.__class__ is not dict:
        return None
    key = [item.get(k) for k in schema.list_map_keys]
    return next((o for o in old if o.__class__ is dict and [o.get(k) for k in schema.list_map_keys] == key), None)


def check_node(schema: Schema) -> Check | None:
    """The check of one node and all below it, None when anything goes."""
    raw = schema.raw
    strings = list(_string_checks(raw))
    numbers = list(_number_checks(raw))
    lists = _list_check(schema)
    objects = _object_check(schema)
    common = [c for c in (_type_check(schema), _alternatives(raw)) if c]
    enum = _enum_check(raw.get("enum"))
    plain = not (common[1:] or enum or strings or numbers or lists or objects)
    if plain:
        return common[0] if common else None
    by_class: dict[type, list[Check]] = {
        str: [*common, *strings, *([enum] if enum else [])],
        int: [*common, *numbers, *([enum] if enum else [])],
        float: [*common, *numbers, *([enum] if enum else [])],
        bool: [*common, *([enum] if enum else [])],
        type(None): [*common[: 1 if _type_check(schema) else 0], *([enum] if enum else [])],
        list: [*common, *([lists] if lists else []), *([enum] if enum else [])],
        dict: [*common, *([enum] if enum else []), *([objects] if objects else [])],
    }
    if objects and schema.type == "object" and len(by_class[dict]) == 2:
        return _fast(dict, objects, by_class)
    if lists and schema.type == "array" and len(by_class[list]) == 2:
        return _fast(list, lists, by_class)
    return lambda value: _run(by_class[value.__class__], value)


def _fast(cls: type, check: Check, by_class: dict[type, list[Check]]) -> Check:
    """The usual object or list: right type, one check."""
    return lambda value: check(value) if value.__class__ is cls else _run(by_class[value.__class__], value)


def _run(checks: list[Check], value: Any) -> Faults | None:
    faults: Faults | None = None
    for check in checks:
        found = check(value)
        if found:
            faults = faults + found if faults else found
    return faults


def _type_check(schema: Schema) -> Check | None:
    types = ("integer", "string") if schema.int_or_string else (schema.type,) if schema.type else ()
    name = str(schema.raw.get("format") or "")
    if not check_of(name):
        name = ""
    if not types and not name:
        return None
    free = bool(name) and not {"number", "integer"} & set(types)  # a format says more than the type string
    wanted = ",".join(types)

    def check(value: Any) -> Faults | None:
        cls = value.__class__
        kind = _TYPE_NAMES[cls]
        if value is None:
            return None if schema.nullable or not types else [_mistyped(wanted, kind)]
        fits = kind in types or (cls is int and "number" in types)
        fits = fits or (cls is float and "integer" in types and _is_whole(value))
        if fits or (free and cls in (str, list)):
            return None
        return [_mistyped(name, _GO_FORMATS.get(cls, ""))] if name and cls is not list else [_mistyped(wanted, kind)]

    return check


def _mistyped(wanted: str, kind: str) -> Fault:
    return Fault(Problem.TYPE_INVALID, kind, f"{AT} in body must be of type {wanted}: {json.dumps(kind)}")


def _is_whole(value: float) -> bool:
    """Go's reading of a JSON number as an integer, with a tolerance of one in a billion."""
    if not -_EXACT_FLOAT_MAX <= value <= _EXACT_FLOAT_MAX:
        return False
    whole = float(round(value))
    return value == whole or abs(value - whole) / (abs(value) + abs(whole)) < 1e-9


def _string_checks(raw: Mapping[str, Any]) -> Iterator[Check]:
    low, high, pattern, name = (
        raw.get("minLength"),
        raw.get("maxLength"),
        raw.get("pattern"),
        str(raw.get("format") or ""),
    )
    if low is not None or high is not None or pattern:
        yield _text_check(low or 0, high, pattern or "")
    if fits := check_of(name):
        yield (
            lambda value: (
                None
                if fits(value)
                else [Fault(Problem.TYPE_INVALID, value, f"{AT} in body must be of type {name}: {_go_quoted(value)}")]
            )
        )


def _text_check(low: int, high: int | None, pattern: str) -> Check:
    """Length, then pattern; the first problem ends it."""
    try:
        matches = matcher(pattern) if pattern else None
    except PatternError as e:
        why = f"{AT} in body should match '{pattern}, but pattern is invalid: {e}'"
        return lambda value: [Fault(Problem.INVALID, value, why)]

    def check(value: Any) -> Faults | None:
        size = len(value)
        if high is not None and size > high:
            return [Fault(Problem.TOO_LONG, None, f"may not be more than {high} bytes")]
        if size < low:
            return [Fault(Problem.INVALID, value, f"{AT} in body should be at least {low} chars long")]
        if matches and not matches(value):
            return [Fault(Problem.INVALID, value, f"{AT} in body should match '{pattern}'")]
        return None

    return check


def _number_checks(raw: Mapping[str, Any]) -> Iterator[Check]:
    if (factor := raw.get("multipleOf")) is not None:
        yield _multiple_check(factor)
    for limit, sign, strictly, words in (
        (raw.get("minimum"), 1, bool(raw.get("exclusiveMinimum")), "greater than"),
        (raw.get("maximum"), -1, bool(raw.get("exclusiveMaximum")), "less than"),
    ):
        if limit is not None:
            yield _limit_check(limit, sign, strictly, words if strictly else f"{words} or equal to")


def _limit_check(limit: float, sign: int, strictly: bool, words: str) -> Check:
    whole = max(_GO_INT_MIN, min(_GO_INT_MAX, int(limit)))  # an integer is compared with the integer part

    def check(value: Any) -> Faults | None:
        bound = whole if value.__class__ is int else limit
        distance = (value - bound) * sign
        if distance > 0 or (distance == 0 and not strictly):
            return None
        return [Fault(Problem.INVALID, value, f"{AT} in body should be {words} {_go_number(bound)}")]

    return check


def _multiple_check(multiple: float) -> Check:
    def check(value: Any) -> Faults | None:
        factor = int(multiple) if value.__class__ is int else multiple
        if factor <= 0:
            words = f"factor MultipleOf declared for {AT} must be positive: {_go_number(factor)}"
            return [Fault(Problem.INVALID, factor, words)]
        quotient = 1 / factor * value if factor < 1 else value / factor
        if value % factor == 0 if value.__class__ is int else _is_whole(quotient):
            return None
        return [Fault(Problem.INVALID, value, f"{AT} in body should be a multiple of {_go_number(factor)}")]

    return check


def _go_number(value: float) -> str:
    """As `%v` prints it: 5 for 5.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e21 else repr(value)


def _go_quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _enum_check(allowed: list[Any] | None) -> Check | None:
    if not allowed:
        return None
    names = [a if isinstance(a, str) else json.dumps(a, separators=(",", ":"), sort_keys=True) for a in allowed]
    words = "supported values: " + ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
    texts = frozenset(a for a in allowed if isinstance(a, str))
    others = [a for a in allowed if not isinstance(a, str) and a is not None]

    def check(value: Any) -> Faults | None:
        if value.__class__ is str:
            fits = value in texts
        else:
            fits = any(value == a and (value.__class__ is bool) == (a.__class__ is bool) for a in others)
        return None if fits else [Fault(Problem.NOT_SUPPORTED, value, words)]

    return check


def _list_check(schema: Schema) -> Check | None:
    raw = schema.raw
    element = check_node(schema.items) if schema.items else None
    low, high, unique = raw.get("minItems"), raw.get("maxItems"), raw.get("uniqueItems")
    if element is None and low is None and high is None and not unique:
        return None

    def check(values: Any) -> Faults | None:
        faults: Faults | None = None
        if element:
            for index, value in enumerate(values):
                if found := element(value):
                    for fault in found:
                        fault.at.append(index)
                    faults = faults + found if faults else found
        size = len(values)
        if low is not None and size < low:
            faults = [*(faults or ()), Fault(Problem.INVALID, size, f"{AT} in body should have at least {low} items")]
        if high is not None and size > high:
            faults = [*(faults or ()), Fault(Problem.TOO_MANY, size, f"{size}: must have at most {high} items")]
        if unique and any(value in values[:index] for index, value in enumerate(values)):
            faults = [*(faults or ()), Fault(Problem.INVALID, "", f"{AT} in body shouldn't contain duplicates")]
        return faults

    return check


def _object_check(schema: Schema) -> Check | None:
    raw = schema.raw
    checks = {key: found for key, child in schema.properties.items() if (found := check_node(child))}
    plain: dict[str, Any] = {key: _plain_class(schema.properties[key]) or check for key, check in checks.items()}
    known = frozenset(schema.properties)
    extra = check_node(schema.additional) if schema.additional else None
    extra_class: Any = (_plain_class(schema.additional) if schema.additional else None) or extra
    required = frozenset(schema.required)
    low, high = raw.get("minProperties"), raw.get("maxProperties")
    if not checks and not extra and not required and low is None and high is None:
        return None

    def check(obj: Any) -> Faults | None:
        faults: Faults | None = None
        if low is not None and len(obj) < low:
            faults = [Fault(Problem.INVALID, len(obj), f"{AT} in body should have at least {low} properties")]
        if high is not None and len(obj) > high:
            faults = [*(faults or ()), Fault(Problem.TOO_MANY, len(obj), f"{len(obj)}: must have at most {high} items")]
        for key, value in obj.items():
            expected = plain.get(key)
            if expected is value.__class__:
                continue
            if expected is None:
                if extra is None or key in known or extra_class is value.__class__:
                    continue
                found = extra(value)
            else:
                found = checks[key](value)
            if found:
                for fault in found:
                    fault.at.append(key)
                faults = faults + found if faults else found
        if required and not required <= obj.keys():
            missing = [Fault(Problem.REQUIRED, None, "", f".{k}") for k in schema.required if k not in obj]
            faults = faults + missing if faults else missing
        return faults

    return check


def _plain_class(schema: Schema) -> type | None:
    """The class that says all about a leaf without further conditions."""
    raw = schema.raw
    if schema.int_or_string or raw.keys() & _CONDITIONS or check_of(str(raw.get("format") or "")):
        return None
    return _CLASSES.get(schema.type)


_CONDITIONS = frozenset(
    [
        "enum",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "required",
        "items",
        "properties",
        "additionalProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ]
)


def _alternatives(raw: Mapping[str, Any]) -> Check | None:
    compiled = {key: [_Alternative.of(r) for r in raw.get(key) or ()] for key in ("anyOf", "oneOf", "allOf")}
    not_schema = _Alternative.of(raw["not"]) if raw.get("not") is not None else None
    any_of, one_of, all_of = compiled.values()
    if not (any_of or one_of or all_of or not_schema):
        return None

    def check(value: Any) -> Faults | None:
        faults: Faults = []
        if any_of and (failed := _failures(any_of, value, enough=True)):
            faults += [_lack("must validate at least one schema (anyOf)"), *_closest(any_of, failed, value)]
        if one_of:
            failed = _failures(one_of, value, enough=False)
            valid = len(one_of) - len(failed)
            if valid == 0:
                words = "must validate one and only one schema (oneOf). Found none valid"
                faults += [_lack(words), *_closest(one_of, failed, value)]
            elif valid > 1:
                faults.append(_lack(f"must validate one and only one schema (oneOf). Found {valid} valid alternatives"))
        if all_of and (failed := _failures(all_of, value, enough=False)):
            faults += [fault for found in failed for fault in found]
            faults.append(
                _lack(f"must validate all the schemas (allOf){'. None validated' * (len(failed) == len(all_of))}")
            )
        if not_schema and not not_schema.check(value):
            faults.append(_lack("must not validate the schema (not)"))
        return faults or None

    return check


@dataclass(frozen=True, slots=True)
class _Alternative:
    schema: Schema
    check: Check

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> _Alternative:
        schema = Compiler().compile(raw)
        return cls(schema, check_node(schema) or (lambda value: None))


def _failures(alternatives: list[_Alternative], value: Any, *, enough: bool) -> list[Faults]:
    """The faults of each alternative that failed; nothing when one that fits is `enough`."""
    failed: list[Faults] = []
    for alternative in alternatives:
        found = alternative.check(value)
        if found:
            failed.append(found)
        elif enough:
            return []
    return failed


def _lack(words: str) -> Fault:
    return Fault(Problem.INVALID, "", f'"{AT}" {words}', placed=False)


def _closest(alternatives: list[_Alternative], failed: list[Faults], value: Any) -> Faults:
    """The faults of the alternative that knows most of the value; only these help a reader."""
    scores = [_score(alternative.schema, value) for alternative in alternatives]
    return failed[scores.index(max(scores))]


def _score(schema: Schema, value: Any) -> int:
    """How much of a value a schema speaks about and agrees with, an approximation of upstream's match count."""
    check = _type_check(schema)
    score = 1 + bool(check and not check(value))
    if value.__class__ is dict:
        score += sum(3 + _score(child, value[key]) for key, child in schema.properties.items() if key in value)
    if value.__class__ is list and schema.items:
        score += sum(_score(schema.items, item) for item in value)
    return score
