"""Objects in protobuf, as kubectl, controllers and kubelets send them: to and from the JSON shape of the same object.

A body is the four bytes `k8s\\0` and a `runtime.Unknown`: apiVersion, kind, and the message of that kind. Reading and
writing (`protobuf_reader`, `protobuf_writer`) follow plans compiled once per message from the table `messages`: names
in JSON, types, what Go leaves out when it is empty, which fields belong to the outer object. An absent list stays
absent, where Go may write null.

Source: k8s.io/apimachinery, pkg/runtime/serializer/protobuf; the generated.proto files and struct tags of the API.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from typing import Final

from havre.api.meta import GVK, Obj
from havre.api.protobuf_reader import MAX_DEPTH, META, delimited_fields, message_table, reader
from havre.api.protobuf_writer import length, text, varint, writer

MAGIC: Final = b"k8s\0"
MAX_BYTES: Final = 3 << 20  # the API's own bound of a request body: 3 MiB
# Nesting: messages MAX_DEPTH deep, JSON inside them 1024 (orjson); objects inside the raw extensions of objects end at
# the interpreter's recursion limit, which is caught.

_UNKNOWN: Final = "k8s.io.apimachinery.pkg.runtime.Unknown"
_PROTOBUF: Final = "application/vnd.kubernetes.protobuf"


class ProtobufError(ValueError):
    """Bytes that are not a message of their kind, or an object that does not fit its message."""


@cache
def _message_name(gvk: GVK) -> str | None:
    """Full name of the message of a kind; deletion options come under the group of what they delete."""
    if gvk.kind == "DeleteOptions":
        return f"{META}DeleteOptions"
    name: str | None = message_table()["kinds"].get(f"{gvk.group}/{gvk.version}/{gvk.kind}")
    return name


def supports(gvk: GVK) -> bool:
    """Whether objects of this kind have a protobuf form; custom resources have none."""
    return _message_name(gvk) is not None


# ---- reading -------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> Obj:
    """The object of a `k8s\\0` body, with apiVersion and kind. Raises ProtobufError."""
    return decode_raw(*open_envelope(data))


def decode_raw(gvk: GVK, raw: bytes) -> Obj:
    """The object of a message without an envelope, with apiVersion and kind. Raises ProtobufError."""
    name = _message_name(gvk)
    what = f"decode {gvk.api_version} {gvk.kind}"
    if name is None:
        raise ProtobufError(f"{what}: this kind has no protobuf form; send it as JSON")
    return {"kind": gvk.kind, "apiVersion": gvk.api_version, **decode_message(name, raw, what)}


def decode_message(name: str, raw: bytes, what: str = "") -> Obj:
    """The JSON of any packaged message; `what` is said to be tried if it fails. Raises ProtobufError."""
    try:
        message: Obj = reader(name)(raw, 0, len(raw), MAX_DEPTH)
    except ProtobufError:  # of an object inside this one, which says more
        raise
    except IndexError as error:
        raise ProtobufError(f"{what or f'decode {name}'}: the message is cut short") from error
    except (ValueError, OverflowError, RecursionError, struct.error) as error:
        raise ProtobufError(f"{what or f'decode {name}'}: {error}") from error
    return message


def open_envelope(data: bytes) -> tuple[GVK, bytes]:
    """Identity and message of a `k8s\\0` body. Raises ProtobufError."""
    if not data.startswith(MAGIC):
        raise ProtobufError(f"decode a protobuf body: it begins with {data[:4]!r}, not {MAGIC!r}")
    if len(data) > MAX_BYTES:
        raise ProtobufError(f"decode a protobuf body: {len(data)} bytes are more than {MAX_BYTES}")
    try:
        whole = _strings(data, len(MAGIC))
        meta = _strings(whole.get(1, b""), 0)
        api_version, kind = meta.get(1, b"").decode(), meta.get(2, b"").decode()
        content_type = whole.get(4, b"").decode()
    except (ValueError, IndexError) as error:
        raise ProtobufError(f"decode a protobuf body: its envelope is broken: {error}") from error
    if whole.get(3) or content_type not in ("", _PROTOBUF):
        raise ProtobufError(f"decode {api_version} {kind}: content encodings and other content types are not supported")
    group, _, version = api_version.rpartition("/")
    return GVK(group, version, kind), whole.get(2, b"")


def _strings(message: bytes, at: int) -> dict[int, bytes]:
    return {number: message[start:stop] for number, start, stop in delimited_fields(message, at, len(message))}


# ---- writing -------------------------------------------------------------------------------------------------------


def envelope(gvk: GVK, raw: bytes) -> bytes:
    """A body of an encoded message: what `encode` gives, when the message is there already."""
    return _envelope_head(gvk) + b"\x12" + length(raw) + raw + _PLAIN


_PLAIN: Final = b'\x1a\x00"\x00'  # no content encoding, no content type


@cache
def _envelope_head(gvk: GVK) -> bytes:
    api_version, kind = gvk.api_version.encode(), gvk.kind.encode()
    meta = b"\x0a" + length(api_version) + api_version + b"\x12" + length(kind) + kind
    return MAGIC + b"\x0a" + length(meta) + meta


def encode(obj: Obj) -> bytes:
    """The `k8s\\0` body of an object of a built-in kind. Raises ProtobufError."""
    return envelope(GVK.of(obj), encode_raw(obj))


def encode_raw(obj: Obj) -> bytes:
    """The message of an object, without the envelope; fields unknown to its kind are left out. Raises ProtobufError."""
    gvk = GVK.of(obj)
    name = _message_name(gvk)
    what = f"encode {gvk.api_version} {gvk.kind}"
    if name is None:
        raise ProtobufError(f"{what}: this kind has no protobuf form; send it as JSON")
    return encode_message(name, {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}, what)


def encode_message(name: str, value: Obj, what: str = "") -> bytes:
    """The bytes of any packaged message; `what` is said to be tried if it fails. Raises ProtobufError."""
    try:
        return writer(name)(value)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise ProtobufError(f"{what or f'encode {name}'}: a value does not fit its field: {error}") from error


def encode_list(
    list_gvk: GVK, resource_version: str, continue_: str, raws: Iterable[bytes], remaining: int | None = None
) -> bytes:
    """The body of a list whose items are encoded already, as `encode_raw` gives them."""
    meta = [b"\x0a\x00", b"\x12", text(resource_version), b"\x1a", text(continue_)]
    if remaining is not None:
        meta += [b"\x20", varint(remaining)]
    metadata = b"".join(meta)
    parts = [b"\x0a", length(metadata), metadata]
    for raw in raws:
        parts += (b"\x12", length(raw), raw)
    return envelope(list_gvk, b"".join(parts))


def watch_frame(event: str, body: bytes) -> bytes:
    """One event of a protobuf watch: a length in four bytes and a WatchEvent around a `k8s\\0` body."""
    kind = event.encode()
    extension = b"\x0a" + length(body) + body
    frame = b"\x0a" + length(kind) + kind + b"\x12" + length(extension) + extension
    return len(frame).to_bytes(4, "big") + frame
