"""Descriptors of the gRPC services that the node speaks: CRI, containerd, and what containerd packs into Any.

Writes `src/havre/wire/grpc/data/<set>.bin`, serialized FileDescriptorSets that name only what the wire needs: messages,
fields, enumerations, services. Comments, options for Go and JSON names are left out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from tools.generate.protos import compile_protos
from tools.generate.sources import STAGING, _download

CONTAINERD = "v1.12.0"  # the API of containerd 2.x: a superset of the one that 1.6 speaks
CGROUPS = "v3.1.3"  # metrics, as containerd answers them
DATA = Path(__file__).parents[2] / "src/havre/wire/grpc/data"

# Part of googleapis, of which there is no Go module with sources; three fields that have not changed since 2015.
STATUS = """syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";
message Status { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }
"""
# Options that make field paths in Go, and what they extend: nothing of it is on the wire.
DROPPED = ("types/fieldpath.proto", "google/protobuf/descriptor.proto")


@dataclass(frozen=True)
class Source:
    """Folders of one module that hold `.proto` files; their imports start at the module's root."""

    module: str
    version: str
    folders: tuple[str, ...]


SETS = {
    "cri": (Source("k8s.io/cri-api", STAGING, ("pkg/apis/runtime/v1",)),),
    "containerd": (
        Source("github.com/containerd/containerd/api", CONTAINERD, ("services", "types", "events", "runtime")),
        Source("github.com/containerd/cgroups/v3", CGROUPS, ("cgroup1/stats", "cgroup2/stats")),
    ),
}


def main() -> None:
    for name, sources in SETS.items():
        packed = compact(_compile(sources)).SerializeToString(deterministic=True)
        (DATA / f"{name}.bin").write_bytes(packed)
        print(f"{name}.bin: {len(packed):,} bytes")


def _compile(sources: tuple[Source, ...]) -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files: list[str] = []
        for source in sources:
            module = _download(source.module, source.version)
            for part in source.folders:
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                (root / part).symlink_to(module / part)
                found = sorted((module / part).rglob("*.proto"))
                files += [str(file.relative_to(module)) for file in found]
        (root / "google/rpc").mkdir(parents=True)
        (root / "google/rpc/status.proto").write_text(STATUS)
        return compile_protos(root, files)


def compact(found: FileDescriptorSet) -> FileDescriptorSet:
    """Without options, extensions, JSON names and the files that only define options."""
    kept = FileDescriptorSet()
    for file in found.file:
        if file.name not in DROPPED:
            kept.file.append(_bare_file(file))
    return kept


def _bare_file(file: FileDescriptorProto) -> FileDescriptorProto:
    bare = FileDescriptorProto()
    bare.CopyFrom(file)
    dependencies = [name for name in file.dependency if name not in DROPPED]
    for field in ("options", "extension", "source_code_info", "public_dependency", "weak_dependency", "dependency"):
        bare.ClearField(field)
    bare.dependency.extend(dependencies)
    for message in bare.message_type:
        _strip(message)
    for enum in bare.enum_type:
        enum.ClearField("options")
    for service in bare.service:
        service.ClearField("options")
        for method in service.method:
            method.ClearField("options")
    return bare


def _strip(message: DescriptorProto) -> None:
    """In place; that an entry belongs to a map is the one option that says what a message is."""
    is_map = message.options.map_entry
    message.ClearField("options")
    if is_map:
        message.options.map_entry = True
    for field in message.field:
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        field.ClearField("json_name")
        if packed is not None:
            field.options.packed = packed
    for enum in message.enum_type:
        enum.ClearField("options")
        for value in enum.value:
            value.ClearField("options")
    for nested in message.nested_type:
        _strip(nested)


if __name__ == "__main__":
    main()
