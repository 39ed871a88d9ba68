"""`authorizer` in expressions: may the sender of the request do this or that?

`authorizer.group('').resource('pods').namespace('x').check('create').allowed()` collects a `Question` step by step;
`check` asks it. Who answers is said by the evaluation (`ASK`), so that a compiled expression is nobody's in
particular. Selectors of fields and labels are taken and not used: no rule of RBAC knows them.

Source: k8s.io/apiserver, pkg/cel/library/authz.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from cel_expr_python import cel

from havre.kit import names
from havre.lang.cel.functions import OPAQUE, Opaque

AUTHORIZER: Final = "kubernetes.authorization.Authorizer"
PATH: Final = "kubernetes.authorization.PathCheck"
GROUP: Final = "kubernetes.authorization.GroupCheck"
RESOURCE: Final = "kubernetes.authorization.ResourceCheck"
DECISION: Final = "kubernetes.authorization.Decision"
KINDS: Final = (AUTHORIZER, PATH, GROUP, RESOURCE, DECISION)


@dataclass(frozen=True, slots=True)
class Question:
    """May somebody do this? `account` is a service account (namespace/name), "" the sender of the request."""

    account: str = ""
    verb: str = ""
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` is why the question could not be answered."""

    allowed: bool
    reason: str = ""
    error: str = ""


Ask = Callable[[Question], Answer]
ASK: ContextVar[Ask] = ContextVar("ask")


def value(kind: str, what: Question | Answer) -> Any:
    """A question or an answer as the evaluator carries it: one text."""
    return Opaque(kind=kind, text=json.dumps(asdict(what)))


def _question(receiver: Any, *kinds: str) -> Question:
    if receiver.kind not in kinds:
        raise ValueError("no such overload")
    return Question(**json.loads(receiver.text))


def _path(receiver: Any, path: str) -> Any:
    question = _question(receiver, AUTHORIZER)
    if not path.strip():
        raise ValueError("path must not be empty")
    return value(PATH, replace(question, path=path))


def _group(receiver: Any, group: str) -> Any:
    return value(GROUP, replace(_question(receiver, AUTHORIZER), group=group))


def _service_account(receiver: Any, namespace: str, name: str) -> Any:
    question = _question(receiver, AUTHORIZER)
    if names.dns1123_subdomain(name):
        raise ValueError("Invalid service account name")
    if names.dns1123_label(namespace):
        raise ValueError("Invalid service account namespace")
    return value(AUTHORIZER, replace(question, account=f"{namespace}/{name}"))


def _resource(receiver: Any, resource: str) -> Any:
    question = _question(receiver, GROUP)
    if not resource.strip():
        raise ValueError("resource must not be empty")
    return value(RESOURCE, replace(question, resource=resource))


def _subresource(receiver: Any, subresource: str) -> Any:
    return value(RESOURCE, replace(_question(receiver, RESOURCE), subresource=subresource))


def _namespace(receiver: Any, namespace: str) -> Any:
    return value(RESOURCE, replace(_question(receiver, RESOURCE), namespace=namespace))


def _name(receiver: Any, name: str) -> Any:
    return value(RESOURCE, replace(_question(receiver, RESOURCE), name=name))


def _selector(receiver: Any, _selector: str) -> Any:
    return value(RESOURCE, _question(receiver, RESOURCE))


def _check(receiver: Any, verb: str) -> Any:
    question = replace(_question(receiver, RESOURCE, PATH), verb=verb)
    return value(DECISION, ASK.get()(question))


def _answer(receiver: Any) -> Answer:
    if receiver.kind != DECISION:
        raise ValueError("no such overload")
    return Answer(**json.loads(receiver.text))


_TEXT, _FLAG = cel.Type.STRING, cel.Type.BOOL
# name, kinds of value that have it, how many texts it takes, what it gives, how
_TABLE: tuple[tuple[str, tuple[str, ...], int, Any, Callable[..., Any]], ...] = (
    ("path", (AUTHORIZER,), 1, PATH, _path),
    ("group", (AUTHORIZER,), 1, GROUP, _group),
    ("serviceAccount", (AUTHORIZER,), 2, AUTHORIZER, _service_account),
    ("resource", (GROUP,), 1, RESOURCE, _resource),
    ("subresource", (RESOURCE,), 1, RESOURCE, _subresource),
    ("namespace", (RESOURCE,), 1, RESOURCE, _namespace),
    ("name", (RESOURCE,), 1, RESOURCE, _name),
    ("fieldSelector", (RESOURCE,), 1, RESOURCE, _selector),
    ("labelSelector", (RESOURCE,), 1, RESOURCE, _selector),
    ("check", (PATH, RESOURCE), 1, DECISION, _check),
    ("allowed", (DECISION,), 0, _FLAG, lambda v: _answer(v).allowed),
    ("errored", (DECISION,), 0, _FLAG, lambda v: bool(_answer(v).error)),
    ("error", (DECISION,), 0, _TEXT, lambda v: _answer(v).error),
    ("reason", (DECISION,), 0, _TEXT, lambda v: _answer(v).reason),
)
MEMBERS: Final = frozenset(row[0] for row in _TABLE)


def functions() -> list[Any]:
    """For evaluation, where all these values are of one type: the kind is looked at when a function is called."""
    return [
        cel.FunctionDecl(name, _overloads(name, (OPAQUE,), texts, OPAQUE if isinstance(gives, str) else gives, run))
        for name, _kinds, texts, gives, run in _TABLE
    ]


def typed_functions() -> list[Any]:
    """For checking, where every kind is a type of its own. Needs messages of these names."""
    return [
        cel.FunctionDecl(
            name,
            _overloads(name, map(cel.Type, kinds), texts, cel.Type(gives) if isinstance(gives, str) else gives, run),
        )
        for name, kinds, texts, gives, run in _TABLE
    ]


def _overloads(name: str, receivers: Iterable[Any], texts: int, gives: Any, run: Callable[..., Any]) -> list[Any]:
    return [
        cel.Overload(f"havre_authz_{name}_{i}", gives, [receiver, *[_TEXT] * texts], is_member=True, impl=run)
        for i, receiver in enumerate(receivers)
    ]
