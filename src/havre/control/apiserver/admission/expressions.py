"""Expressions of webhooks and admission policies are compiled and checked when they are written.

Upstream does this in the validation of these kinds; here it comes after it, because `api` knows no CEL: an object with
both sorts of mistakes is told of the others first. Match conditions that an update leaves as they were are let through
if all of them are.

Source: k8s.io/kubernetes, pkg/apis/admissionregistration/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from havre.api.errors import Invalid
from havre.api.meta import Obj
from havre.control.apiserver.admission.refusal import name_in
from havre.control.apiserver.admission.validating_policies import GROUP, POLICIES
from havre.kit import names
from havre.kit.field import FieldError, Problem, duplicate, invalid, not_supported, required
from havre.lang.cel.admission import VARIABLES_MAX, Composition
from havre.lang.cel.admission_types import Checker
from havre.lang.cel.expression import CelError
from havre.machinery.admission import AdmissionRequest, Operation

CONDITIONS_MAX: Final = 64
ANNOTATIONS_MAX: Final = 20
ANNOTATION_LENGTH_MAX: Final = 5 * 1024  # bytes of a valueExpression
_REASONS: Final = ("Forbidden", "Invalid", "RequestEntityTooLarge")
_WEBHOOKS: Final = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")

Errors = Iterator[FieldError]


class Expressions:
    """A Validator. Raises Invalid."""

    concerns = frozenset((GROUP, plural) for plural in (POLICIES, *_WEBHOOKS))

    async def validate(self, req: AdmissionRequest) -> None:
        if req.obj is None or req.operation is Operation.DELETE or req.attributes.subresource:
            return
        check = _policy if req.attributes.resource == POLICIES else _webhooks
        errors = list(check(req.obj, req.old or {}))
        if errors:
            raise Invalid.of(GROUP, req.gvk.kind, name_in(req), errors)


def _webhooks(obj: Obj, old: Obj) -> Errors:
    webhooks = obj.get("webhooks") or []
    before = [hook.get("matchConditions") for hook in old.get("webhooks") or ()]
    if before and before == [hook.get("matchConditions") for hook in webhooks]:
        return
    checker = Checker()
    for i, hook in enumerate(webhooks):
        yield from _conditions(f"webhooks[{i}].matchConditions", hook.get("matchConditions") or [], checker)


def _policy(obj: Obj, old: Obj) -> Errors:
    spec = obj.get("spec") or {}
    params = spec.get("paramKind") is not None
    conditions = spec.get("matchConditions") or []
    if not old or conditions != ((old.get("spec") or {}).get("matchConditions") or []):
        yield from _conditions("spec.matchConditions", conditions, Checker(params=params))
    variables = spec.get("variables") or []
    if len(variables) > VARIABLES_MAX:
        yield FieldError(Problem.TOO_MANY, "spec.variables", len(variables), f"must have at most {VARIABLES_MAX} items")
        return  # every variable costs an environment
    checker = Checker(params=params)
    yield from _variables(variables, checker)
    for i, validation in enumerate(spec.get("validations") or ()):
        yield from _validation(f"spec.validations[{i}]", validation, checker)
    yield from _annotations("spec.auditAnnotations", obj, spec.get("auditAnnotations") or [], checker)


def _variables(variables: list[Obj], checker: Checker) -> Errors:
    """Their types; and, of those that fit, what the evaluation would refuse (how deep they read one another)."""
    conditions = Composition((variable["name"], variable["expression"]) for variable in variables).conditions
    for i, variable in enumerate(variables):
        path, text, unfit = f"spec.variables[{i}].expression", variable["expression"], False
        for error in _checked(path, text, _declaring(checker, variable)):
            unfit = True
            yield error
        condition = conditions[variable["name"]]
        if isinstance(condition, CelError) and not unfit:
            yield invalid(path, text, str(condition))


def _declaring(checker: Checker, variable: Obj) -> Any:
    return lambda text: checker.declare(variable["name"], text)


def _conditions(path: str, conditions: list[Obj], checker: Checker) -> Errors:
    if len(conditions) > CONDITIONS_MAX:
        words = f"must have at most {CONDITIONS_MAX} items"
        yield FieldError(Problem.TOO_MANY, path, len(conditions), words)
    for i, condition in enumerate(conditions):
        text = condition["expression"].strip()
        yield from _checked(f"{path}[{i}].expression", text, lambda text: checker.check(text, "bool"))


def _validation(path: str, validation: Obj, checker: Checker) -> Errors:
    yield from _checked(f"{path}.expression", validation["expression"], lambda text: checker.check(text, "bool"))
    source, message = validation.get("messageExpression") or "", validation.get("message") or ""
    if source and not source.strip():
        yield invalid(f"{path}.messageExpression", source, "must be non-empty if specified")
    elif source:
        yield from _checked(
            f"{path}.messageExpression", source, lambda text: checker.check(text, "string", authorizer_known=False)
        )
    if message and not message.strip():
        yield invalid(f"{path}.message", message, "must be non-empty if specified")
    elif "\n" in message.strip() or "\r" in message.strip():
        yield invalid(f"{path}.message", message, "must not contain line breaks")
    reason = validation.get("reason")
    if reason is not None and reason not in _REASONS:
        yield not_supported(f"{path}.reason", reason, _REASONS)


def _annotations(path: str, obj: Obj, annotations: list[Obj], checker: Checker) -> Errors:
    if len(annotations) > ANNOTATIONS_MAX:
        yield invalid(path, annotations, f"must not have more than {ANNOTATIONS_MAX} auditAnnotations")
    seen: set[str] = set()
    for i, annotation in enumerate(annotations):
        here, key, text = f"{path}[{i}]", annotation["key"], annotation["valueExpression"].strip()
        name = f"{obj['metadata'].get('name', '')}/{key}"
        for problem in names.qualified_name(name):
            yield invalid(f"{here}.key", name, problem)
        if len(text.encode()) > ANNOTATION_LENGTH_MAX:
            yield required(f"{here}.valueExpression", f"must not exceed {ANNOTATION_LENGTH_MAX} bytes in length")
        else:
            yield from _checked(
                f"{here}.valueExpression", text, lambda text: checker.check(text, "string", "null_type")
            )
        if key in seen:
            yield duplicate(f"{here}.key", key)
        seen.add(key)


def _checked(path: str, text: str, check: Any) -> Errors:
    try:
        check(text)
    except CelError as e:
        yield invalid(path, text, str(e))
