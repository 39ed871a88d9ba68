"""A problem with one field of an object: where, what kind, which value, why.

Every check of the API (schema, defaults, admission, CRDs) yields these, so that a client sees all problems of an object
at once, in the words that kubectl users know.

Source: k8s.io/apimachinery, pkg/util/validation/field (errors.go, path.go).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Problem(Enum):
    """Kind of a problem: (reason in the Status cause, words before the value)."""

    NOT_FOUND = ("FieldValueNotFound", "Not found")
    REQUIRED = ("FieldValueRequired", "Required value")
    DUPLICATE = ("FieldValueDuplicate", "Duplicate value")
    INVALID = ("FieldValueInvalid", "Invalid value")
    NOT_SUPPORTED = ("FieldValueNotSupported", "Unsupported value")
    FORBIDDEN = ("FieldValueForbidden", "Forbidden")
    TOO_LONG = ("FieldValueTooLong", "Too long")
    TOO_MANY = ("FieldValueTooMany", "Too many")
    INTERNAL = ("InternalError", "Internal error")
    TYPE_INVALID = ("FieldValueTypeInvalid", "Invalid value")


_VALUELESS = frozenset({Problem.REQUIRED, Problem.FORBIDDEN, Problem.TOO_LONG, Problem.INTERNAL, Problem.TOO_MANY})


@dataclass(frozen=True, slots=True)
class FieldError:
    """One problem; `str()` gives `spec.replicas: Invalid value: -1: must be greater than or equal to 0`."""

    problem: Problem
    path: str  # spec.containers[0].name, metadata.labels[app]
    value: Any = None
    detail: str = ""

    @property
    def reason(self) -> str:
        return self.problem.value[0]

    @property
    def message(self) -> str:
        """The text without the path, as a Status cause carries it."""
        words = self.problem.value[1]
        if self.problem not in _VALUELESS:
            words = f"{words}: {_shown(self.value)}"
        return f"{words}: {self.detail}" if self.detail else words

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Structure(dict[str, Any]):
    """A bad value that is a structure upstream: messages show its fields in their order, and sort the keys of maps."""


def _shown(value: Any) -> str:
    """As Go prints it there: strings quoted, structures as JSON, null as null."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = value if isinstance(value, Structure) else sorted(value)
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def invalid(path: str, value: Any, detail: str) -> FieldError:
    return FieldError(Problem.INVALID, path, value, detail)


def type_invalid(path: str, value: Any, detail: str) -> FieldError:
    return FieldError(Problem.TYPE_INVALID, path, value, detail)


def required(path: str, detail: str = "") -> FieldError:
    return FieldError(Problem.REQUIRED, path, None, detail)


def duplicate(path: str, value: Any) -> FieldError:
    return FieldError(Problem.DUPLICATE, path, value)


def forbidden(path: str, detail: str) -> FieldError:
    return FieldError(Problem.FORBIDDEN, path, None, detail)


def not_found(path: str, value: Any) -> FieldError:
    return FieldError(Problem.NOT_FOUND, path, value)


def not_supported(path: str, value: Any, allowed: Iterable[str]) -> FieldError:
    names = ", ".join(json.dumps(a) for a in sorted(allowed))
    return FieldError(Problem.NOT_SUPPORTED, path, value, f"supported values: {names}" if names else "")


def too_long(path: str, limit: int) -> FieldError:
    return FieldError(Problem.TOO_LONG, path, None, f"may not be more than {limit} bytes")


def too_many(path: str, actual: int, limit: int) -> FieldError:
    return FieldError(Problem.TOO_MANY, path, actual, f"{actual}: must have at most {limit} items")


def internal(path: str, detail: str) -> FieldError:
    return FieldError(Problem.INTERNAL, path, None, detail)
