"""Does an expression of an admission policy or webhook fit the types of its variables? Asked once, when it is written.

`request` and `namespaceObject` have fixed fields, `authorizer` and what it gives have types of their own; `object`,
`oldObject` and `params` may be anything. A variable has the type of its expression.

Source: k8s.io/apiserver, pkg/admission/plugin/cel/compile.go; the words of cel-go.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2, timestamp_pb2

from havre.lang.cel import authorizer
from havre.lang.cel.admission import UNPORTABLE, VARIABLE, inlined
from havre.lang.cel.authorizer import AUTHORIZER, KINDS, RESOURCE
from havre.lang.cel.expression import CelError, compiled, config, measured
from havre.lang.cel.functions import FUNCTIONS, OPAQUE_FILE

_Field = descriptor_pb2.FieldDescriptorProto
_ANYTHING: Final = ".google.protobuf.Value"
_TIME: Final = ".google.protobuf.Timestamp"
_VERSIONED = {"group": "string", "version": "string"}
# A type of a field: a scalar, a message, `[scalar or message]` for a list, `{string}` for a map of strings.
_MESSAGES: dict[str, dict[str, str]] = {
    "GroupVersionKind": {**_VERSIONED, "kind": "string"},
    "GroupVersionResource": {**_VERSIONED, "resource": "string"},
    "UserInfo": {"username": "string", "uid": "string", "groups": "[string]", "extra": _ANYTHING},
    "AdmissionRequest": {
        "kind": "GroupVersionKind",
        "resource": "GroupVersionResource",
        "subResource": "string",
        "requestKind": "GroupVersionKind",
        "requestResource": "GroupVersionResource",
        "requestSubResource": "string",
        "name": "string",
        "namespace": "string",
        "operation": "string",
        "userInfo": "UserInfo",
        "dryRun": "bool",
        "options": _ANYTHING,
    },
    "NamespaceSpec": {"finalizers": "[string]"},
    "NamespaceCondition": {
        "status": "string",
        "type": "string",
        "lastTransitionTime": _TIME,
        "message": "string",
        "reason": "string",
    },
    "NamespaceStatus": {"conditions": "[NamespaceCondition]", "phase": "string"},
    "NamespaceMetadata": {
        "name": "string",
        "generateName": "string",
        "namespace": "string",
        "labels": "{string}",
        "annotations": "{string}",
        "UID": "string",
        "creationTimestamp": _TIME,
        "deletionGracePeriodSeconds": "int",
        "deletionTimestamp": _TIME,
        "generation": "int",
        "resourceVersion": "string",
        "finalizers": "[string]",
    },
    "Namespace": {"metadata": "NamespaceMetadata", "spec": "NamespaceSpec", "status": "NamespaceStatus"},
    **{kind.removeprefix("kubernetes."): {} for kind in KINDS},
}
_SCALARS: Final = {"string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL, "int": _Field.TYPE_INT64}

_GO_NAMES: Final = {
    "NULL": "null_type",
    "TIMESTAMP": "google.protobuf.Timestamp",
    "DURATION": "google.protobuf.Duration",
}
_TYPE_WORD = re.compile(r"\b[A-Z]+\b(?!\.)")
_UNDECLARED = re.compile(  # of a field: the evaluator names the whole path, and where its last dot is
    r"ERROR: <input>:(?P<line>\d+):(?P<column>\d+): undeclared reference to '(?P<name>\w+\.[\w.]+)' \(in container ''\)"
    r"\n \| (?P<text>.*)\n \| \.*\^"
)
_IN_STRUCT = re.compile(r"(undefined field '\w+') not found in struct '[^']*'")
_MEMBER = re.compile(r"(found no matching overload for '(\w+)' applied to ')\(([^,()]+)(?:, )?(.*)\)'")


class Checker:
    """The types of one policy or webhook; `declare` its variables in order, then `check` what reads them."""

    def __init__(self, *, params: bool = False) -> None:
        self._types: dict[str, Any] = {
            "object": cel.Type.DYN,
            "oldObject": cel.Type.DYN,
            "request": cel.Type("kubernetes.AdmissionRequest"),
            "namespaceObject": cel.Type("kubernetes.Namespace"),
        }
        if params:
            self._types["params"] = cel.Type.DYN
        self._environments: dict[bool, Any] = {}
        self._inlined: dict[str, str] = {}  # optionals: a variable cannot be declared as one

    def declare(self, name: str, text: str) -> None:
        """Later expressions may read `variables.name`. Raises CelError."""
        kind: Any = cel.Type.DYN
        try:
            kind = self._type(text, authorizer_known=True) or kind
            if kind.name().startswith(UNPORTABLE):
                self._inlined[name], kind = inlined(self._source(text)), cel.Type.DYN
        finally:
            self._types[f"variables.{name}"] = kind
            self._environments.clear()

    def _source(self, text: str) -> str:
        """Optionals written out; `has` of a variable is true, at the same length so that columns stay."""

        def replaced(found: re.Match[str]) -> str:
            if found["had"] and f"variables.{found['had']}" in self._types:
                return "true".ljust(len(found[0]))
            return self._inlined.get(found["read"], found[0])

        return VARIABLE.sub(replaced, text)

    def check(self, text: str, *returns: str, authorizer_known: bool = True) -> None:
        """Raises CelError unless the value is of one of these types (`bool`, `string`, `null_type`)."""
        kind = self._type(text, authorizer_known=authorizer_known)
        if kind is None:
            return
        name = go_name(kind.name())
        if name not in returns:
            wanted = returns[0] if len(returns) == 1 else f"one of [{' '.join(returns)}]"
            raise CelError(f"must evaluate to {wanted} but got {name}")

    def _type(self, text: str, *, authorizer_known: bool) -> Any:
        """The type of a value; None when only an evaluation can tell."""
        text = self._source(text)
        measured(text)
        environment = self._environments.get(authorizer_known)
        if environment is None:
            environment = self._environments[authorizer_known] = self._environment(authorizer_known)
        try:
            program, kind = compiled(environment, text)
        except CelError as e:
            raise CelError(
                _reworded(str(e), composed=any(name.startswith("variables.") for name in self._types))
            ) from e
        return None if kind == "UNCHECKED" else program.return_type()

    def _environment(self, authorizer_known: bool) -> Any:
        types = dict(self._types)
        if authorizer_known:
            types |= {"authorizer": cel.Type(AUTHORIZER), "authorizer.requestResource": cel.Type(RESOURCE)}
        functions = [*FUNCTIONS, *authorizer.typed_functions()]
        return cel.NewEnv(_pool(), config=config(), variables=types, functions=functions)


def go_name(name: str) -> str:
    """A type as cel-go writes it: `list(int)` for `LIST<INT>`."""
    name = _TYPE_WORD.sub(lambda found: _GO_NAMES.get(found[0], found[0].lower()), name)
    return name.replace("<", "(").replace(">", ")")


def _reworded(words: str, *, composed: bool) -> str:
    """The words of cel-go for those of the evaluator."""

    def undeclared(found: re.Match[str]) -> str:
        root, _, field = found["name"].partition(".")
        line, column, text = found["line"], int(found["column"]), found["text"]
        if root == "variables" and composed:
            return found[0].replace(
                f"undeclared reference to '{found['name']}' (in container '')", f"undefined field '{field}'"
            )
        column = max(text.rfind(root, 0, column), 0)
        problem = f"undeclared reference to '{root}' (in container '')"
        return f"ERROR: <input>:{line}:{column + 1}: {problem}\n | {text}\n | {'.' * column}^"

    return _MEMBER.sub(_member, _IN_STRUCT.sub(r"\1", _UNDECLARED.sub(undeclared, words))).replace("null_type", "null")


def _member(found: re.Match[str]) -> str:
    """A call on a value: `T.(string)` where the evaluator says `(T, string)`."""
    return f"{found[1]}{found[3]}.({found[4]})'" if found[2] in _MEMBERS else found[0]


_MEMBERS: Final = authorizer.MEMBERS | {
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "orValue",
    "startsWith",
}


@cache
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="admission.proto",
        package="kubernetes",
        syntax="proto3",
        dependency=[struct_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name],
    )
    checks = descriptor_pb2.FileDescriptorProto(
        name="checks.proto", package="kubernetes.authorization", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        if "." in name:
            checks.message_type.add(name=name.partition(".")[2])
            continue
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    for module in (struct_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(OPAQUE_FILE)
    pool.AddSerializedFile(file.SerializeToString())
    pool.AddSerializedFile(checks.SerializeToString())
    return pool


def _add_field(message: Any, number: int, name: str, kind: str) -> None:
    label = _Field.LABEL_REPEATED if kind[0] in "[{" else _Field.LABEL_OPTIONAL
    if kind == "{string}":
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        for index, key in enumerate(("key", "value"), 1):
            entry.field.add(name=key, number=index, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
        kind = f".kubernetes.{message.name}.{entry.name}"
    kind = kind.strip("[]")
    if kind in _SCALARS:
        message.field.add(name=name, number=number, type=_SCALARS[kind], label=label)
        return
    type_name = kind if kind.startswith(".") else f".kubernetes.{kind}"
    message.field.add(name=name, number=number, type=_Field.TYPE_MESSAGE, type_name=type_name, label=label)
