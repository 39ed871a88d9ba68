"""Protobuf of the stable kinds: the descriptors, and what Go's struct tags add to turn a message into JSON.

A `.proto` file knows neither the name of a field in JSON, nor whether Go writes it when it is empty, nor that the
fields of an embedded struct appear in the outer object. Those facts are in the tags of the Go struct with the same
name.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from tools.generate.sources import Sources

META = "k8s.io/apimachinery/pkg/apis/meta/v1"
GNOSTIC = "github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto"
OTHERS = (GNOSTIC, f"{META}/generated.proto", "k8s.io/apimachinery/pkg/apis/meta/v1beta1/generated.proto")
# Kinds of meta/v1 that travel under the group of whatever they are about; discovery knows nothing of them.
META_KINDS = (
    "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "DeleteOptions", "List", "PartialObjectMetadata",
    "PartialObjectMetadataList", "Status", "WatchEvent",
)  # fmt: skip

_STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_WRAPPER = re.compile(r"^type (\w+) \[\](\w+)$", re.MULTILINE)
_FIELD = re.compile(r'^\t(?:\w+ +)?(\S+) +`json:"([^"]*)"[^`]* protobuf:"([^"]*)"', re.MULTILINE)

_TYPES = {
    FieldDescriptorProto.TYPE_STRING: "s",
    FieldDescriptorProto.TYPE_BYTES: "y",
    FieldDescriptorProto.TYPE_BOOL: "b",
    FieldDescriptorProto.TYPE_INT32: "i",
    FieldDescriptorProto.TYPE_INT64: "i",
    FieldDescriptorProto.TYPE_UINT32: "i",
    FieldDescriptorProto.TYPE_DOUBLE: "d",
    FieldDescriptorProto.TYPE_MESSAGE: "m",
}

Row = list[Any]


def descriptors(sources: Sources, definitions: list[str]) -> FileDescriptorSet:
    """The files that define these definitions (`io.k8s.api.apps.v1.Deployment`) and whatever they import."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for module, folder in sources.folders.items():
            (root / module).parent.mkdir(parents=True, exist_ok=True)
            (root / module).symlink_to(folder)
        wanted = {_proto_file(definition) for definition in definitions} | set(OTHERS)
        return compile_protos(root, sorted(file for file in wanted if (root / file).exists()))


def compile_protos(root: Path, files: list[str]) -> FileDescriptorSet:
    """The descriptors of these files and of all they import."""
    target = root / "descriptors.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--descriptor_set_out={target}"]
    done = subprocess.run([*command, "--include_imports", *files], capture_output=True, text=True, check=False)
    if done.returncode != 0:  # warnings of unused imports are usual
        raise RuntimeError(f"compile {len(files)} protobuf files: {done.stderr}")
    return FileDescriptorSet.FromString(target.read_bytes())


def kinds(found: FileDescriptorSet, by_kind: dict[str, str]) -> dict[str, str]:
    """`apps/v1/Deployment` → the full name of its message."""
    messages = {f"{file.package}.{message.name}" for file in found.file for message in file.message_type}
    named = {gvk: _message_name(definition) for gvk, definition in by_kind.items()}
    for kind in META_KINDS:
        for group_version in ("/v1", "meta.k8s.io/v1"):
            named[f"{group_version}/{kind}"] = f"{META.replace('/', '.')}.{kind}"
    named["meta.k8s.io/v1beta1/PartialObjectMetadataList"] = (
        "k8s.io.apimachinery.pkg.apis.meta.v1beta1.PartialObjectMetadataList"
    )
    return {gvk: name for gvk, name in sorted(named.items()) if name in messages}


def messages(sources: Sources, found: FileDescriptorSet) -> dict[str, Any]:
    """By message: rows of (number, name in JSON, flags, type, message); or `items` for a bare list in Go.

    Flags: `e` omitted when empty, `z` omitted when zero, `i` its fields are those of the outer object, `p` a pointer.
    Types: `s` string, `y` bytes, `b` bool, `i` integer, `d` double, `m` message; before it `r` repeated, `M` a map of.
    """
    table: dict[str, Any] = {}
    for file in found.file:
        go = "\n".join(_go_sources(sources, file.name)) if file.package.startswith("k8s.io.") else ""
        structs = {name: dict(_fields(body)) for name, body in _STRUCT.findall(go)}
        wrappers = {name for name, _ in _WRAPPER.findall(go)}
        for message in file.message_type:
            full = f"{file.package}.{message.name}"
            if message.name in wrappers and [field.name for field in message.field] == ["items"]:
                table[full] = "items"
            else:
                maps = {f".{full}.{entry.name}": entry.field[1] for entry in message.nested_type}
                table[full] = [_row(field, structs.get(message.name, {}), maps) for field in message.field]
    return dict(sorted(table.items()))


def check(table: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Raises ValueError unless the fields of every message are the properties of its definition."""
    for name, definition in definitions.items():
        rows = table.get(_message_name(name), "items")
        fields = {row[1] for row in rows} if rows != "items" and all(row[1] for row in rows) else None
        properties = definition.get("properties", {}).keys() - {"apiVersion", "kind"}
        if fields is not None and properties and fields - {"apiVersion", "kind"} != properties:
            raise ValueError(f"generate messages: {name} has {fields ^ properties} in Go or in OpenAPI, not in both")


def _row(field: FieldDescriptorProto, tags: dict[int, tuple[str, str]], maps: dict[str, FieldDescriptorProto]) -> Row:
    """A field no Go struct mentions belongs to a type with its own way to JSON (Time, Quantity, …)."""
    name, flags = tags.get(field.number, (field.name, ""))
    prefix = "r" if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    if field.type_name in maps:
        prefix, field = "M", _numbered(maps[field.type_name], field.number)
    return [field.number, name, flags, prefix + _TYPES[field.type], field.type_name.removeprefix(".")]


def _numbered(value: FieldDescriptorProto, number: int) -> FieldDescriptorProto:
    """The value of a map's entry, under the number of the map."""
    copied = FieldDescriptorProto()
    copied.CopyFrom(value)
    copied.number = number
    return copied


def _fields(body: str) -> Iterator[tuple[int, tuple[str, str]]]:
    for go_type, json_tag, protobuf_tag in _FIELD.findall(body):
        number = protobuf_tag.split(",")[1] if "," in protobuf_tag else ""
        name, *options = json_tag.split(",")
        if not number.isdigit() or name == "-":
            continue
        flags = "i" * ("inline" in options) + "e" * ("omitempty" in options) + "z" * ("omitzero" in options)
        yield int(number), (name, flags + "p" * go_type.startswith("*"))


def _go_sources(sources: Sources, proto: str) -> list[str]:
    module = next(module for module in sources.folders if proto.startswith(f"{module}/"))
    folder = (sources.folders[module] / proto.removeprefix(f"{module}/")).parent
    files = sorted(folder.glob("*.go"))
    return [file.read_text() for file in files if "_test" not in file.name and "generated" not in file.name]


def _proto_file(definition: str) -> str:
    """`k8s.io/api/apps/v1/generated.proto` of `io.k8s.api.apps.v1.Deployment`."""
    package = definition.removeprefix("io.k8s.").rpartition(".")[0]
    return f"k8s.io/{package.replace('.', '/')}/generated.proto"


def _message_name(definition: str) -> str:
    return f"k8s.io.{definition.removeprefix('io.k8s.')}".replace("-", "_")
