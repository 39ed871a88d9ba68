"""What is wrong with the schema of a version of a CustomResourceDefinition, in the words of kube-apiserver.

Not judged, unlike upstream: the estimated cost of rules (see docs/adr/0006-cel.md).

Source: k8s.io/apiextensions-apiserver, pkg/apis/apiextensions/validation/validation.go,
pkg/apiserver/schema/defaulting/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from havre.api.meta import Obj
from havre.kit.field import FieldError, Problem, Structure, forbidden, invalid, required
from havre.lang.cel.expression import CelError
from havre.lang.cel.rules import MessageError, Rule, compile_rule, field_path, rules
from havre.lang.cel.typecheck import Check, checker
from havre.lang.schema import Compiler, Schema
from havre.lang.structural.defaults import copied
from havre.lang.structural.prune import prune
from havre.lang.structural.shape import is_schema, structural_errors
from havre.lang.structural.validate import NO_PATH, validate

Raw = Mapping[str, Any]
Errors = Iterator[FieldError]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_META = ("apiVersion", "kind", "metadata")
_ROOT_FIELDS = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
]
_ROOT_KEYS = {name[0].lower() + name[1:] for name in _ROOT_FIELDS} | {
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
_UNSUPPORTED = {
    "id": "id is not supported",
    "additionalItems": "additionalItems is not supported",
    "patternProperties": "patternProperties is not supported",
    "definitions": "definitions is not supported",
    "dependencies": "dependencies is not supported",
    "$ref": "$ref is not supported",
}
_LIST_TYPE, _LIST_KEYS, _MAP_TYPE = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
_PRESERVE, _EMBEDDED, _RULES = (
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-validations",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is allowed depends on where in the schema one is."""

    root: bool = True
    in_metadata: bool = False
    no_default: str = ""  # why there must be no default
    uncorrelated: str = ""  # path of the list whose elements have no old value
    rules: bool = True  # rules are compiled here


def unsupported(path: str, value: Any, allowed: Sequence[str]) -> FieldError:
    words = ", ".join(f'"{a}"' for a in allowed)
    return FieldError(Problem.NOT_SUPPORTED, path, value, f"supported values: {words}")


def schema_errors(raw: Raw, path: str, *, status: bool) -> list[FieldError]:
    """Every problem of the schema of a version."""
    errors: list[FieldError] = []
    extra = [key for key, value in raw.items() if value and key not in _ROOT_KEYS]
    if status and extra:
        where = "at the root of the schema if the status subresource is enabled"
        errors.append(invalid(path, dict(raw), f"only [{' '.join(_ROOT_FIELDS)}] fields are allowed {where}"))
    if raw.get("nullable"):
        errors.append(forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    found = structural_errors(raw, path) or list(_defaults(raw, path, root=True))
    errors += found
    return [*errors, *_node(raw, path, _Place(rules=not found))]


def _defaults(raw: Raw, path: str, *, root: bool = False) -> Errors:
    """Defaults must obey the schema they stand in."""
    if raw.get("default") is not None:
        yield from _default(raw, f"{path}.default", embedded=root or bool(raw.get(_EMBEDDED)))
    for key, child in (raw.get("properties") or {}).items():
        yield from _defaults(child, f"{path}.properties[{key}]")
    for key in ("items", "additionalProperties"):
        if is_schema(raw.get(key)):
            yield from _defaults(raw[key], f"{path}.{key}")


def _default(raw: Raw, path: str, *, embedded: bool) -> Errors:
    schema = Compiler().compile(raw)
    value = copied(raw["default"])
    pruner: Callable[[Any], list[str]] = prune(schema) if embedded or schema.embedded else prune_inner(schema)
    if value.__class__ in (dict, list) and pruner(value):
        yield invalid(path, raw["default"], "must not have unknown fields")
    found = validate(schema)(raw["default"], None) or rules(schema)(raw["default"], raw["default"])
    for error in found:
        inner = "" if error.path == NO_PATH else f".{error.path}"
        yield replace(error, path=path + inner)


def prune_inner(schema: Schema) -> Callable[[Any], list[str]]:
    """Prunes a value that is no whole object: it has no apiVersion, kind and metadata of its own."""
    wrapped = Schema(type="object", properties={"value": schema})
    pruner = prune(wrapped)
    return lambda value: pruner({"value": value})


def _node(raw: Raw, path: str, place: _Place) -> Errors:
    own = [*_keywords(raw, path, place), *_lists(raw, path)]
    yield from own
    children = [error for child, where, inside in _children(raw, path, place) for error in _node(child, where, inside)]
    yield from children
    written = list(_rule_texts(raw, path))
    yield from written
    if place.rules and not (own or children or written):
        yield from _compiled_rules(raw, path, place)


def _keywords(raw: Raw, path: str, place: _Place) -> Errors:
    kind = raw.get("type") or ""
    if kind and kind not in _TYPES:
        yield unsupported(f"{path}.type", kind, _TYPES)
    if raw.get("default") is not None and place.no_default:
        yield forbidden(f"{path}.default", f"must not be set {place.no_default}")
    yield from (forbidden(f"{path}.{key}", words) for key, words in _UNSUPPORTED.items() if raw.get(key))
    if kind == "null":
        yield forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if isinstance(raw.get("items"), list) and raw["items"]:
        yield forbidden(f"{path}.items", "items must be a schema object and not an array")
    if place.in_metadata and raw.get(_EMBEDDED):
        yield forbidden(f"{path}.{_EMBEDDED}", "must not be used inside of resource meta")
    if raw.get("uniqueItems"):
        words = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield forbidden(f"{path}.uniqueItems", words)
    extra = raw.get("additionalProperties")
    if raw.get("properties") and extra is not None and extra is not True:
        yield forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if raw.get(_PRESERVE) is False:
        yield invalid(f"{path}.{_PRESERVE}", False, "must be true or undefined")


def _children(raw: Raw, path: str, place: _Place) -> Iterator[tuple[Raw, str, _Place]]:
    below = replace(place, root=False)
    if is_schema(raw.get("additionalProperties")):
        reason = "inside additionalProperties applying to object metadata" if place.in_metadata else place.no_default
        yield raw["additionalProperties"], f"{path}.additionalProperties", replace(below, no_default=reason)
    for key, child in (raw.get("properties") or {}).items():
        inside = below
        if key in _META and (place.root or raw.get(_EMBEDDED)):
            inside = replace(
                below, in_metadata=True, no_default=f"in top-level {key}" if place.root else below.no_default
            )
        yield child, f"{path}.properties[{key}]", inside
    nested = replace(below, rules=False)
    if is_schema(raw.get("not")):
        yield raw["not"], f"{path}.not", nested
    for key in ("allOf", "oneOf", "anyOf"):
        yield from ((child, f"{path}.{key}[{i}]", nested) for i, child in enumerate(raw.get(key) or ()))
    if is_schema(raw.get("items")):
        inside = below if raw.get(_LIST_TYPE) == "map" else replace(below, uncorrelated=below.uncorrelated or path)
        yield raw["items"], f"{path}.items", inside


def _lists(raw: Raw, path: str) -> Errors:
    kind, list_type, map_type = raw.get("type") or "", raw.get(_LIST_TYPE), raw.get(_MAP_TYPE)
    items: Raw = raw["items"] if is_schema(raw.get("items")) else {}
    if map_type is not None:
        yield from _typed(kind, "object", f"{path}.type", f"must be object if {_MAP_TYPE} is specified")
        if map_type not in ("atomic", "granular"):
            yield unsupported(f"{path}.{_MAP_TYPE}", map_type, ("atomic", "granular"))
    if list_type is not None and kind != "array":
        yield from _typed(kind, "array", f"{path}.type", f"must be array if {_LIST_TYPE} is specified")
    elif list_type == "set":
        words = f"must be atomic as item of a list with {_LIST_TYPE}=set"
        if items.get("type") == "array" and items.get(_LIST_TYPE, "atomic") != "atomic":
            yield invalid(f"{path}.items.{_LIST_TYPE}", items[_LIST_TYPE], words)
        if items.get("type") == "object" and items.get(_MAP_TYPE) != "atomic":
            yield invalid(f"{path}.items.{_MAP_TYPE}", items.get(_LIST_TYPE), words)
    if list_type not in (None, "atomic", "set", "map"):
        yield unsupported(f"{path}.{_LIST_TYPE}", list_type, ("atomic", "set", "map"))
    if raw.get(_LIST_KEYS) and list_type != "map":
        yield from _typed(list_type or "", "map", f"{path}.{_LIST_TYPE}", f"must be map if {_LIST_KEYS} is non-empty")
    if list_type == "map":
        yield from _map_list(raw, items, path)
    if list_type in ("set", "map") and items.get("nullable"):
        yield forbidden(f"{path}.items.nullable", f"cannot be nullable when {_LIST_TYPE} is {list_type}")
    if list_type == "map":
        yield from _map_keys(raw, items, path)


def _typed(value: str, wanted: str, path: str, words: str) -> Errors:
    if not value:
        yield required(path, words)
    elif value != wanted:
        yield invalid(path, value, words)


def _map_list(raw: Raw, items: Raw, path: str) -> Errors:
    keys = raw.get(_LIST_KEYS) or []
    if not keys:
        yield required(f"{path}.{_LIST_KEYS}", f"must not be empty if {_LIST_TYPE} is map")
    if not raw.get("items"):
        yield required(f"{path}.items", f"must have a schema if {_LIST_TYPE} is map")
    elif items.get("type") != "object":
        yield invalid(
            f"{path}.items.type", items.get("type") or "", f"must be object if parent array's {_LIST_TYPE} is map"
        )
    if items.get("type") != "object":
        return
    known = items.get("properties") or {}
    for index, key in enumerate(keys):
        if key not in known:
            yield invalid(f"{path}.{_LIST_KEYS}", keys, "entries must all be names of item properties")
        elif known[key].get("type") in ("array", "object"):
            words = f"must be a scalar type if parent array's {_LIST_TYPE} is map"
            yield invalid(f"{path}.items.properties[{key}].type", "object", words)
        if key in keys[:index]:
            yield invalid(f"{path}.{_LIST_KEYS}", keys, "must not contain duplicate entries")


def _map_keys(raw: Raw, items: Raw, path: str) -> Errors:
    known = items.get("properties") or {}
    for key in raw.get(_LIST_KEYS) or ():
        if key not in known:
            continue
        place = f"{path}.items.properties[{key}]"
        if key not in (items.get("required") or ()) and known[key].get("default") is None:
            words = f"this property is in {_LIST_KEYS}, so it must have a default or be a required property"
            yield required(f"{place}.default", words)
        if known[key].get("nullable"):
            yield forbidden(f"{place}.nullable", f"this property is in {_LIST_KEYS}, so it cannot be nullable")


def _rule_texts(raw: Raw, path: str) -> Errors:
    for index, rule in enumerate(raw.get(_RULES) or ()):
        place = f"{path}.{_RULES}[{index}]"
        text, message, expression = (rule.get(key) or "" for key in ("rule", "message", "messageExpression"))
        if not text.strip():
            yield required(f"{place}.rule", "rule is not specified")
        elif message and not message.strip():
            yield invalid(f"{place}.message", message, "must be non-empty if specified")
        elif re.search(r"[\n\r]", message.strip()):
            yield invalid(f"{place}.message", message, "must not contain line breaks")
        elif re.search(r"[\n\r]", text.strip()) and not message.strip():
            yield required(f"{place}.message", "message must be specified if rule contains line breaks")
        if expression and not expression.strip():
            yield required(f"{place}.messageExpression", "messageExpression must be non-empty if specified")
        if rule.get("reason") is not None and rule["reason"] not in _REASONS:
            yield unsupported(f"{place}.reason", rule["reason"], _REASONS)
        yield from _rule_path(rule.get("fieldPath") or "", raw, f"{place}.fieldPath")


def _rule_path(text: str, raw: Raw, path: str) -> Errors:
    if not text:
        return
    if not text.strip():
        yield invalid(path, text, "must be non-empty if specified")
    if re.search(r"[\n\r]", text):
        yield invalid(path, text, "must not contain line breaks")
    try:
        field_path(text, Compiler().compile(raw))
    except ValueError:
        yield invalid(path, text, "must be a valid path")


def _compiled_rules(raw: Raw, path: str, place: _Place) -> Errors:
    if not raw.get(_RULES):
        return
    schema = Compiler().compile(raw)
    check = checker(schema, root=place.root)
    for index, rule in enumerate(raw[_RULES]):
        where = f"{path}.{_RULES}[{index}]"
        compiled, at, words = _compile_checked(rule, schema, check)
        if compiled is None:
            yield invalid(f"{where}.{at}", _internal(rule), words)
        elif compiled.expression.uses_old_self and place.uncorrelated:
            words = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {place.uncorrelated}"
            yield invalid(f"{where}.rule", rule["rule"], words)
        elif not compiled.expression.uses_old_self and rule.get("optionalOldSelf") is not None:
            words = "may not be set if oldSelf is not used in rule"
            yield invalid(f"{where}.optionalOldSelf", rule["optionalOldSelf"], words)


def _compile_checked(rule: Raw, schema: Schema, check: Check) -> tuple[Rule | None, str, str]:
    """The rule, or which of its expressions is at fault and why."""
    optional = bool(rule.get("optionalOldSelf"))
    try:
        check(rule["rule"], "BOOL", optional_old_self=optional)
    except CelError as e:
        return None, "rule", str(e)
    try:
        if rule.get("messageExpression"):
            check(rule["messageExpression"], "STRING", optional_old_self=optional)
        return compile_rule(rule, schema), "", ""
    except MessageError as e:
        return None, "messageExpression", str(e)
    except CelError as e:
        words = str(e).replace("compilation failed", "messageExpression compilation failed", 1)
        return None, "messageExpression", words


def _internal(rule: Raw) -> Obj:
    """A rule as upstream prints it."""
    fields = {
        "Rule": rule.get("rule") or "",
        "Message": rule.get("message") or "",
        "MessageExpression": rule.get("messageExpression") or "",
        "Reason": rule.get("reason"),
        "FieldPath": rule.get("fieldPath") or "",
        "OptionalOldSelf": rule.get("optionalOldSelf"),
    }
    return Structure(fields)
