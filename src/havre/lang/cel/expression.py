"""One expression: compiled once, evaluated with `self` and `oldSelf`; the only module that knows the evaluator's
errors.

Bounds: length and nesting of the text; for loops within loops the size of the value to the power of the nesting.
What runs inside one call of the evaluator cannot be interrupted.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/cel/compilation.go; k8s.io/apiserver,
pkg/apis/cel/config.go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from cel_expr_python import cel

from havre.lang.cel.functions import FUNCTIONS, POOL

TEXT_MAX: Final = 64 * 1024  # characters of one expression; the longest seen in the wild has 2,300
DEPTH_MAX: Final = 100  # brackets; the parser recurses in C++
STEP_MAX: Final = 10_000_000  # steps of loops within loops, as upstream's cost budget of one object
CACHE_SIZE: Final = 4096  # distinct expressions, about 5 kB each

_CONFIG = """name: kubernetes
extensions:
- name: sets
- name: two-var-comprehensions
- name: optional
- name: bindings
- name: strings
- name: math
- name: encoders
"""
STRINGS: Final = re.compile(
    r'[rR]?("""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')|//[^\n]*',
    re.DOTALL,
)
_OLD_SELF = re.compile(r"(?<![\w.])oldSelf\b")
_LOOP = re.compile(r"\.\s*(?:all|exists|exists_one|existsOne|map|filter|transform\w+|sortBy)\s*\(|[()\[\]{}]")
_MIXED = re.compile(
    r"found no matching overload for '_(?:<|>|<=|>=)_' applied to '\((?:int|uint|double), (?:int|uint|double)\)'"
)
_CODE = re.compile(r"^[A-Z_]+: ")
_CLOSING_CODE = re.compile(r" \[[A-Z_]+\]$")
_REWORDED = (
    (re.compile(r"^divide by zero"), "division by zero"),
    (re.compile(r'^Key not found in map : "?(.*?)"?$'), r"no such key: \1"),
    (re.compile(r"^Index error: index=(-?\d+) size=\d+"), r"index out of bounds: \1"),
    (re.compile(r"^No matching overloads found : .*"), "no such overload"),
    (
        re.compile(r"^cannot convert (string|double|u?int|bytes) to (string|double|u?int|bool)$"),
        r"type conversion error from '\1' to '\2'",
    ),
)


class CelError(Exception):
    """An expression that does not compile, or whose evaluation fails."""


class OutOfBudget(CelError):
    """An evaluation that would take too long; no further rule of the object is evaluated."""


@dataclass(frozen=True, slots=True)
class Expression:
    text: str
    uses_old_self: bool
    loops: int  # how deep loops are nested
    program: Any

    def evaluate(self, activation: Any, size: int = 0) -> Any:
        """The plain value. `size`: elements of `self`, needed when loops are nested. Raises CelError."""
        return run(self.program, activation, self.loops, size)


def run(program: Any, activation: Any, loops: int, size: int) -> Any:
    """The plain value of a program over `size` elements. Raises CelError."""
    if loops > 1 and size**loops > STEP_MAX:
        raise OutOfBudget(
            "validation failed due to running out of cost budget, no further validation rules will be run"
        )
    try:
        value = program.eval(activation)
        if value.type() == cel.Type.ERROR:
            raise CelError(reworded(str(value.value())))
        return value.plain_value()
    except (RuntimeError, ValueError, TypeError) as e:
        raise CelError(reworded(str(e))) from e


@cache
def _environment() -> Any:
    dyn = cel.Type.DYN
    variables = {"self": dyn, "oldSelf": dyn, "hasOldSelf_": cel.Type.BOOL, "oldSelf_": dyn}
    return cel.NewEnv(POOL, config=config(), variables=variables, functions=FUNCTIONS)


def activation(value: Any, old: Any = None) -> Any:
    """The variables of an evaluation; reusable for every expression about the same value."""
    data = {"self": value, "oldSelf": old, "oldSelf_": old, "hasOldSelf_": old is not None}
    return _environment().Activation(data)


@lru_cache(CACHE_SIZE)
def compile_expression(text: str, returns: str = "BOOL", *, optional_old_self: bool = False) -> Expression:
    """Compiles an expression that gives a BOOL or a STRING. Raises CelError."""
    bare, loops = measured(text)
    source = text
    if optional_old_self:
        source = with_optional_old_self(text)
    program, kind = compiled(_environment(), source)
    if kind not in (returns, "DYN", "UNCHECKED"):
        raise CelError(WRONG_TYPE[returns])
    return Expression(text, bool(_OLD_SELF.search(bare)), loops, program)


def measured(text: str) -> tuple[str, int]:
    """The text without its strings, and how deep its loops are nested. Raises CelError for one too large to parse."""
    bare = STRINGS.sub('""', text)
    loops, depth = _nesting(bare)
    if len(text) > TEXT_MAX or depth > DEPTH_MAX:
        raise CelError(f"compilation failed: expression exceeds {TEXT_MAX} characters or {DEPTH_MAX} nested brackets")
    return bare, loops


WRONG_TYPE = {
    "BOOL": "cel expression must evaluate to a bool",
    "STRING": "messageExpression must evaluate to a string",
}


def with_optional_old_self(text: str) -> str:
    """The expression with `oldSelf` as an optional, which cannot be passed in as a value."""
    return f"cel.bind(oldSelf, hasOldSelf_ ? optional.of(oldSelf_) : optional.none(), (\n{text}\n))"


def config() -> Any:
    """The extensions of the language that Kubernetes switches on."""
    return cel.NewEnvConfigFromYaml(_CONFIG)


def compiled(environment: Any, source: str) -> tuple[Any, str]:
    """The program and its type; a comparison of different numbers, fine in Kubernetes, is left to the evaluation."""
    try:
        program = environment.compile(source)
        return program, program.return_type().name()
    except (RuntimeError, ValueError) as e:
        words = _CLOSING_CODE.sub("", _CODE.sub("", str(e)))
        if not words or len(_MIXED.findall(words)) != words.count("ERROR:"):
            raise CelError(f"compilation failed: {words}") from e
    try:
        return environment.compile(source, disable_check=True), "UNCHECKED"
    except (RuntimeError, ValueError) as e:
        raise CelError(f"compilation failed: {_CLOSING_CODE.sub('', _CODE.sub('', str(e)))}") from e


def _nesting(bare: str) -> tuple[int, int]:
    """How deep loops and brackets are nested, strings left out."""
    open_loops: list[bool] = []
    loops = depth = 0
    for found in _LOOP.finditer(bare):
        if found[0] in ")]}":
            if open_loops:
                open_loops.pop()
            continue
        open_loops.append(len(found[0]) > 1)
        loops, depth = max(loops, sum(open_loops)), max(depth, len(open_loops))
    return loops, depth


def reworded(words: str) -> str:
    """The evaluator's words as cel-go says them."""
    words = _CLOSING_CODE.sub("", _CODE.sub("", words))
    for pattern, better in _REWORDED:
        words = pattern.sub(better, words)
    return words


def count(value: Any) -> int:
    """Elements of a value, itself included."""
    return sum(1 for _ in _elements(value))


def _elements(value: Any) -> Iterator[Any]:
    yield value
    children = value.values() if value.__class__ is dict else value if value.__class__ is list else ()
    for child in children:
        yield from _elements(child)
