"""How a property name is written in an expression: `foo-bar` is `self.foo__dash__bar`, `namespace` is
`self.__namespace__`.

Source: k8s.io/apiserver, pkg/cel/escaping.go.
"""

from __future__ import annotations

import re

RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_ESCAPED = re.compile(r"__|[-./]")
_PLAIN = re.compile(r"[a-zA-Z_][a-zA-Z0-9_./-]*", re.ASCII)


def escape(name: str) -> str | None:
    """The identifier for a property; None when no expression can name it."""
    if name in RESERVED:
        return f"__{name}__"
    if not _PLAIN.fullmatch(name) and not re.fullmatch(r"[./-][a-zA-Z0-9_./-]*", name, re.ASCII):
        return None
    return _ESCAPED.sub(lambda found: _ESCAPES[found[0]], name)
