"""Expressions about a request to the API: conditions of webhooks, validations of admission policies.

They see `object`, `oldObject`, `request`, `params`, `namespaceObject`, `authorizer` and, in policies, `variables`:
named expressions that are evaluated when they are first read, once for a request. All values are dynamic here; what an
author must obey is checked when a policy is written (`admission_types`).

One `Condition` serves every request. `Inputs` are one request, converted for the evaluator once; an `Evaluation` is one
policy that looks at it.

A read of `variables.x` becomes a call: the evaluator takes no value that is not there yet. A variable whose value
cannot travel through that call (an optional, a type) is written into the expressions that read it instead.

Bounds: those of `expression`; 256 variables, 64 of them below one another; 4 Mi elements and characters a variable.

Source: k8s.io/apiserver, pkg/admission/plugin/cel (compile.go, activation.go, composition.go, condition.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from cel_expr_python import cel

from havre.lang.cel import authorizer
from havre.lang.cel.authorizer import ASK, AUTHORIZER, RESOURCE, Ask, Question
from havre.lang.cel.expression import CACHE_SIZE, STRINGS, CelError, compiled, config, count, measured, run
from havre.lang.cel.functions import FUNCTIONS, OPAQUE, POOL, encoded

VARIABLES_MAX: Final = 256
DEPTH_MAX: Final = 64  # each is a call from the evaluator and back, about 10 kB of stack
INLINED_MAX: Final = 2048  # characters; 64 Ki / 14 reads of such a variable make 9 MB at most before it is refused
VALUE_MAX: Final = 4 * 1024 * 1024  # more than the largest object has

VARIABLE = re.compile(
    r"(?P<string>" + STRINGS.pattern.replace("(", "(?:", 1) + r")"
    r"|has\s*\(\s*variables\s*\.\s*(?P<had>[A-Za-z_]\w*)\s*\)"
    r"|(?<![\w.])variables\s*\.\s*(?P<read>[A-Za-z_]\w*)",
    re.DOTALL,
)
UNPORTABLE = ("optional_type", "TYPE")
_NO_FIELDS: Final = "Applying SELECT to non-message type"
_ROOT_FIELD = re.compile(r"\b(object|oldObject|params|namespaceObject)\.\??(\w+)")
_NAMES: Final = ("object", "oldObject", "request", "params", "namespaceObject")


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled expression; `kind` is the type of its value as far as it is known."""

    text: str
    loops: int
    program: Any
    kind: str


@lru_cache(CACHE_SIZE)
def compile_condition(text: str) -> Condition:
    """An expression without variables. Raises CelError."""
    return _condition(text, text)


def _condition(text: str, source: str) -> Condition:
    loops = measured(source)[1]
    program, kind = compiled(_environment(), source)
    return Condition(text, loops, program, kind)


class Composition:
    """The variables of a policy, each of which may read those before it; a broken one fails when it is read."""

    def __init__(self, variables: Iterable[tuple[str, str]] = ()) -> None:
        self.conditions: dict[str, Condition | CelError] = {}
        self._inlined: dict[str, str] = {}
        self._depths: dict[str, int] = {}
        for name, text in variables:
            self._add(name, text)

    def _add(self, name: str, text: str) -> None:
        try:
            if len(self.conditions) >= VARIABLES_MAX:
                raise CelError(f"compilation failed: more than {VARIABLES_MAX} variables")
            below = [self._depths.get(read, 0) for read in reads(text)]
            self._depths[name] = depth = 1 + max(below, default=0)
            if depth > DEPTH_MAX:
                raise CelError(f"compilation failed: more than {DEPTH_MAX} variables read one another")
            condition = self.compile(text)
            if condition.kind.startswith(UNPORTABLE):
                self._inlined[name] = inlined(self.source(text))
        except CelError as e:
            self.conditions[name] = e
            return
        self.conditions[name] = condition

    def compile(self, text: str) -> Condition:
        """An expression that may read these variables. Raises CelError."""
        source = self.source(text)
        return compile_condition(text) if source == text else _condition(text, source)

    def source(self, text: str) -> str:
        """The expression with reads of variables replaced. Raises CelError for one that does not exist."""

        def replaced(found: re.Match[str]) -> str:
            name = found["read"] or found["had"]
            if not name:
                return found[0]
            if name not in self.conditions:
                raise CelError(f"compilation failed: undefined field '{name}'")
            value = self._inlined.get(name) or f"variable_('{name}')"
            return f"(size([{value}]) == 1)" if found["had"] else value  # a variable exists, unless it fails

        return VARIABLE.sub(replaced, text)


def inlined(source: str) -> str:
    """A variable in parentheses, to stand where it is read. Raises CelError when it is too long for that."""
    if len(source) > INLINED_MAX:
        raise CelError(f"compilation failed: an optional variable exceeds {INLINED_MAX} characters")
    return f"({source})"


def reads(text: str) -> list[str]:
    """Names of the variables that an expression reads."""
    return [found["read"] for found in VARIABLE.finditer(text) if found["read"]]


NO_VARIABLES: Final = Composition()


class Inputs:
    """What the names in expressions stand for; those not in `values` are null. Converted for the evaluator once."""

    def __init__(self, values: Mapping[str, Any], resource: Question | None = None) -> None:
        self.values = values
        self._resource = resource or Question()
        self._activation: Any = None
        self._size = 0

    @property
    def activation(self) -> Any:
        if self._activation is None:
            data = {name: self.values.get(name) for name in _NAMES}
            data["authorizer"] = authorizer.value(AUTHORIZER, Question())
            data["authorizer.requestResource"] = authorizer.value(RESOURCE, self._resource)
            self._activation = _environment().Activation(data)
        return self._activation

    @property
    def size(self) -> int:
        """Elements of all values."""
        self._size = self._size or sum(count(self.values.get(name)) for name in _NAMES)
        return self._size


class Evaluation:
    """The conditions of one policy or webhook about one request; its variables are evaluated once."""

    def __init__(self, inputs: Inputs, ask: Ask, composition: Composition = NO_VARIABLES) -> None:
        self._inputs = inputs
        self._ask = ask
        self._conditions = composition.conditions
        self._known: dict[str, Any] = {}
        self._more = 0  # elements and characters of variables

    def evaluate(self, condition: Condition) -> Any:
        """The plain value. Raises CelError, whose text is what failed, without the expression."""
        size = self._size(condition) if condition.loops > 1 else 0
        asking, evaluating = ASK.set(self._ask), _EVALUATION.set(self)
        try:
            return run(condition.program, self._inputs.activation, condition.loops, size)
        except CelError as e:
            raise self._named(condition, e) from e
        finally:
            _EVALUATION.reset(evaluating)
            ASK.reset(asking)

    def _size(self, condition: Condition) -> int:
        """Elements that the loops could run over; the variables that they read are evaluated for it."""
        for name in reads(condition.text):
            with suppress(ValueError):
                self.variable(name)
        return self._inputs.size + self._more

    def _named(self, condition: Condition, problem: CelError) -> CelError:
        """The evaluator does not say which key of null was read: most likely the first one in the text."""
        if str(problem) == _NO_FIELDS:
            for found in _ROOT_FIELD.finditer(condition.text):
                if self._inputs.values.get(found[1]) is None:
                    return CelError(f"no such key: {found[2]}")
            return CelError("no such key")
        return problem

    def variable(self, name: str) -> Any:
        """The value of a variable, for the evaluator. Raises ValueError."""
        if name not in self._known:
            self._known[name] = self._variable(name)
        found = self._known[name]
        if isinstance(found, ValueError):
            raise found
        return found

    def _variable(self, name: str) -> Any:
        condition = self._conditions.get(name, _UNKNOWN)
        if isinstance(condition, CelError):
            return ValueError(f'composited variable "{name}" fails to compile: {condition}')
        try:
            value = _travelling(self.evaluate(condition))
        except CelError as e:
            return ValueError(f'composited variable "{name}" fails to evaluate: {e}')
        weight = _weight(value)
        if weight > VALUE_MAX:
            return ValueError(f'composited variable "{name}" fails to evaluate: its value is too large')
        self._more += weight
        return value


_UNKNOWN: Final = CelError("no such variable")
_EVALUATION: ContextVar[Evaluation] = ContextVar("evaluation")


def _read(name: str) -> Any:
    return _EVALUATION.get().variable(name)


def _travelling(value: Any) -> Any:
    """A plain value as the evaluator takes it back: times inside lists and maps too."""
    if isinstance(value, list):
        return [_travelling(v) for v in value]
    if isinstance(value, dict):
        return {key: _travelling(v) for key, v in value.items()}
    return bytes(value) if isinstance(value, bytearray) else encoded(value)


def _weight(value: Any) -> int:
    """Elements and characters of a value."""
    if isinstance(value, list):
        return 1 + sum(map(_weight, value))
    if isinstance(value, dict):
        return 1 + sum(map(_weight, value)) + sum(map(_weight, value.values()))
    return 1 + len(value) if isinstance(value, str | bytes) else 1


@cache
def _environment() -> Any:
    dyn = cel.Type.DYN
    variables = {**dict.fromkeys(_NAMES, dyn), "authorizer": OPAQUE, "authorizer.requestResource": OPAQUE}
    read = cel.FunctionDecl("variable_", [cel.Overload("havre_variable", dyn, [cel.Type.STRING], impl=_read)])
    functions = [*FUNCTIONS, *authorizer.functions(), read]
    return cel.NewEnv(POOL, config=config(), variables=variables, functions=functions)


def failed(condition: Condition, problem: CelError) -> str:
    """How a failed evaluation is reported."""
    return f"expression '{condition.text}' resulted in error: {problem}"
