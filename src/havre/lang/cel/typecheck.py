"""Does a rule fit the types of its schema? Asked once, when a definition is written.

The schema becomes protobuf messages, whose fields the evaluator knows how to check; evaluation itself stays dynamic.
Where protobuf cannot say a type (lists of lists, anything at all) or null may stand, the value is dynamic here too.

Source: k8s.io/apiserver, pkg/cel/common/schemas.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, struct_pb2, timestamp_pb2

from havre.lang.cel.expression import WRONG_TYPE, CelError, compiled, config, with_optional_old_self
from havre.lang.cel.functions import FUNCTIONS, OPAQUE_FILE
from havre.lang.cel.names import escape
from havre.lang.schema import Schema

Check = Callable[..., None]

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "object"
_FILES: Final = (struct_pb2, timestamp_pb2, duration_pb2)
_ANYTHING: Final = ".google.protobuf.Value"
_MESSAGES: Final = {
    "date": ".google.protobuf.Timestamp",
    "date-time": ".google.protobuf.Timestamp",
    "datetime": ".google.protobuf.Timestamp",
    "duration": ".google.protobuf.Duration",
}
_SCALARS: Final = {
    "string": (_Field.TYPE_STRING, cel.Type.STRING),
    "integer": (_Field.TYPE_INT64, cel.Type.INT),
    "number": (_Field.TYPE_DOUBLE, cel.Type.DOUBLE),
    "boolean": (_Field.TYPE_BOOL, cel.Type.BOOL),
    "byte": (_Field.TYPE_BYTES, cel.Type.BYTES),
}
_IN_STRUCT = re.compile(r"(undefined field '\w+') not found in struct '[^']*'")


def checker(schema: Schema, *, root: bool = False) -> Check:
    """`check(text, returns, optional_old_self=…)` raises CelError for an expression that does not fit."""
    builder = _Builder()
    try:
        variable = builder.cel_type(schema, whole=root or schema.embedded)
        pool = builder.pool()
    except TypeError:  # names that protobuf cannot tell apart
        return _anything_goes
    variables = {"self": variable, "oldSelf": variable, "oldSelf_": variable, "hasOldSelf_": cel.Type.BOOL}
    environment = cel.NewEnv(pool, config=config(), variables=variables, functions=FUNCTIONS)
    if not builder.understood(environment):
        return _anything_goes

    def check(text: str, returns: str = "BOOL", *, optional_old_self: bool = False) -> None:
        source = with_optional_old_self(text) if optional_old_self else text
        try:
            kind = compiled(environment, source)[1]
        except CelError as e:
            raise CelError(_IN_STRUCT.sub(r"\1", str(e))) from e
        if kind not in (returns, "UNCHECKED"):
            raise CelError(WRONG_TYPE[returns])

    return check


def _anything_goes(text: str, returns: str = "BOOL", *, optional_old_self: bool = False) -> None:
    """For a schema that cannot be said in protobuf: its rules are checked when they are evaluated."""


class _Builder:
    def __init__(self) -> None:
        names = [module.DESCRIPTOR.name for module in _FILES]
        self._file = descriptor_pb2.FileDescriptorProto(
            name="object.proto",  # proto2, where foo_bar may stand beside fooBar
            package=_PACKAGE,
            syntax="proto2",
            dependency=names,
        )

    def pool(self) -> Any:
        """The descriptors of everything seen. Raises TypeError."""
        pool = descriptor_pool.DescriptorPool()
        for module in _FILES:
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        pool.AddSerializedFile(OPAQUE_FILE)
        pool.AddSerializedFile(self._file.SerializeToString())
        return pool

    def understood(self, environment: Any) -> bool:
        """The evaluator builds messages late and in silence; without them it would refuse every rule."""
        try:
            for message in self._file.message_type:
                environment.compile(f"{_PACKAGE}.{message.name}{{}} == {_PACKAGE}.{message.name}{{}}")
        except RuntimeError:
            return False
        return True

    def cel_type(self, schema: Schema, *, whole: bool = False) -> Any:
        if schema.type == "array" and schema.items and not schema.int_or_string:
            return cel.Type.List(self.cel_type(schema.items, whole=schema.items.embedded))
        if schema.type == "object" and schema.additional and not schema.properties:
            return cel.Type.Map(cel.Type.STRING, self.cel_type(schema.additional, whole=schema.additional.embedded))
        number, message = self._value(schema, whole=whole)
        if message == _ANYTHING:
            return cel.Type.DYN
        if message:
            return cel.Type(message.removeprefix("."))
        return next(kind for n, kind in _SCALARS.values() if n == number)

    def _value(self, schema: Schema, *, whole: bool = False) -> tuple[int, str]:
        """Protobuf's type of a value that is neither a list nor a map, and the name of its message."""
        name = str(schema.raw.get("format") or "")
        if schema.type == "object" and (schema.properties or whole) and not schema.nullable:
            return _Field.TYPE_MESSAGE, self._message(schema, whole=whole)
        if schema.type not in _SCALARS or schema.int_or_string or schema.nullable:
            return _Field.TYPE_MESSAGE, _ANYTHING
        if schema.type == "string" and name in _MESSAGES:
            return _Field.TYPE_MESSAGE, _MESSAGES[name]
        return _SCALARS["byte" if schema.type == "string" and name == "byte" else schema.type][0], ""

    def _message(self, schema: Schema, *, whole: bool) -> str:
        message = self._file.message_type.add(name=f"Type{len(self._file.message_type)}")
        properties = schema.properties
        if whole:
            text = Schema(type="string")
            metadata = Schema(type="object", properties={"name": text, "generateName": text})
            properties = {**properties, "apiVersion": text, "kind": text, "metadata": metadata}
        for number, (key, child) in enumerate(properties.items(), 1):
            name = escape(key)
            if name:
                self._field(message, name, number + 20_000 if number > 18_000 else number, child)
        return f".{_PACKAGE}.{message.name}"

    def _field(self, message: Any, name: str, number: int, schema: Schema) -> None:
        label, entry = _Field.LABEL_OPTIONAL, ""
        value: Schema = schema
        if schema.type == "array" and schema.items and _single(schema.items) and not schema.nullable:
            label, value = _Field.LABEL_REPEATED, schema.items
        elif _is_map(schema) and schema.additional and _single(schema.additional) and not schema.nullable:
            label, value = _Field.LABEL_REPEATED, schema.additional
            entry = "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry"
        kind, type_name = self._value(value, whole=value.embedded)
        if entry:
            nested = message.nested_type.add(name=entry)
            nested.options.map_entry = True
            nested.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
            nested.field.add(
                name="value", number=2, type=kind, type_name=type_name or None, label=_Field.LABEL_OPTIONAL
            )
            kind, type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry}"
        added = message.field.add(name=name, number=number, type=kind, type_name=type_name or None, label=label)
        added.json_name = f"f{number}"  # else foo_bar and fooBar would have the same


def _is_map(schema: Schema) -> bool:
    return schema.type == "object" and not schema.properties


def _single(schema: Schema) -> bool:
    """Whether a value fits one element of a repeated field: protobuf has no lists of lists."""
    return not (schema.type == "array" or (_is_map(schema) and schema.additional))
