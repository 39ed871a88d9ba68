"""Patterns as Go's regexp (RE2) reads them, matched in linear time: a client's pattern cannot stall the server.

The engine is Rust's regex crate, reached through jsonschema-rs, whose syntax is nearly RE2's. Rewritten here: POSIX
classes, `\\Q…\\E` and a brace that repeats nothing. Known differences: `\\s` also takes a vertical tab, and the
words of a syntax error are ours.

Source: github.com/google/re2, wiki/Syntax; k8s.io/kube-openapi, pkg/validation/validate/rexp.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import jsonschema_rs

COMPILED_SIZE_MAX = 10 * 2**20  # bytes of one program; the crate's own default, enough for `x{1000}` twice nested
CACHE_SIZE = 4096  # distinct patterns, about 10 kB each

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS = re.compile(r"\[:([a-z]+):\]")
_LITERAL = re.compile(r"\\Q(.*?)(?:\\E|$)", re.DOTALL)
_LONE_BRACE = re.compile(r"(?<![\\pPxu])\{(?!\d+(,\d*)?\})")


class PatternError(ValueError):
    """A text that is no regular expression."""


@lru_cache(CACHE_SIZE)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text has a match anywhere. Raises PatternError."""
    text = _LITERAL.sub(lambda m: re.escape(m[1]), pattern)
    text = _POSIX_CLASS.sub(lambda m: _POSIX.get(m[1], m[0]), text)
    text = _LONE_BRACE.sub(r"\\{", text)
    try:
        validator = jsonschema_rs.Draft202012Validator(
            {"pattern": text}, pattern_options=jsonschema_rs.RegexOptions(size_limit=COMPILED_SIZE_MAX)
        )
    except jsonschema_rs.ValidationError as e:
        raise PatternError(f"error parsing regexp: `{pattern}` is not RE2 syntax, or is too large") from e
    found: Callable[[str], bool] = validator.is_valid
    return found
