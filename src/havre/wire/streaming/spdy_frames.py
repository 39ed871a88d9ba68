"""The wire format of SPDY/3.1, bytes to frames and back. Pure: no I/O.

    control  <u1 1><u15 version=3><u16 type><u8 flags><u24 length> payload
    data     <u1 0><u31 stream><u8 flags><u24 length> bytes
    headers  zlib, one stream for all frames of a direction: <u32 pairs>(<u32 n><name><u32 n><value>)…

Data frames are handed on in the pieces they arrive in, whatever length they announce; control frames and what their
headers decompress to have limits.

Source: "SPDY Protocol - Draft 3.1", dev.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from havre.wire.streaming.errors import ProtocolError

VERSION = 3
HEAD = 8  # bytes before the payload of every frame
CONTROL_LIMIT = 16 << 10  # bytes of a control frame: the specification asks for at least 8 KiB
HEADERS_LIMIT = 64 << 10  # bytes of a decompressed header block: a stream of kubectl has 4 fields, 100 bytes
PAIRS_LIMIT = 128  # header fields of one stream


class Type(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Flag(IntFlag):
    NONE = 0
    FIN = 1


class Reset(IntEnum):
    """Status of RST_STREAM."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9
    FRAME_TOO_LARGE = 11


class Leave(IntEnum):
    """Status of GOAWAY."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


INITIAL_WINDOW_SIZE = 7  # the one setting that matters here
WINDOW = 64 << 10  # bytes: of a stream and of the session until somebody says otherwise


@dataclass(frozen=True, slots=True)
class SynStream:
    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Headers:
    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of a data frame; `fin` with its last piece."""

    stream: int
    data: bytes = field(repr=False)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Settings:
    values: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream: int
    status: int


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    stream: int  # 0 is the whole session
    delta: int


Frame = SynStream | SynReply | Headers | Data | RstStream | Settings | Ping | GoAway | WindowUpdate

_U32 = struct.Struct(">I")
_TWO = struct.Struct(">II")
_CONTROL = struct.Struct(">HHI")  # version with the control bit, type, flags and length


_WORDS = (
    "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,accept-ranges,age,"
    "allow,authorization,cache-control,connection,content-base,content-encoding,content-language,content-length,"
    "content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,"
    "if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,"
    "proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,"
    "user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,"
    "keep-alive,origin"
)


def _dictionary() -> bytes:
    """What both sides' compressors know before the first byte: words with their length, then text without."""
    words = _WORDS.split(",")
    text = (
        "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
        "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
        "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
        "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
        "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
        "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
    )
    return b"".join(_U32.pack(len(word)) + word.encode() for word in words) + text.encode()


DICTIONARY = _dictionary()


class Encoder:
    """Frames to bytes; one for each connection, since the headers share a compressor."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def syn_stream(self, stream: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        payload = _TWO.pack(stream, 0) + b"\0\0" + self._block(headers)
        return _control(Type.SYN_STREAM, payload, Flag.FIN if fin else Flag.NONE)

    def syn_reply(self, stream: int, headers: Mapping[str, str]) -> bytes:
        return _control(Type.SYN_REPLY, _U32.pack(stream) + self._block(headers))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        parts = [_U32.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += (_U32.pack(len(text)), text)
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def data_head(stream: int, length: int, *, fin: bool = False) -> bytes:
    """What stands before the bytes of a data frame."""
    return _TWO.pack(stream, (Flag.FIN if fin else 0) << 24 | length)


def rst_stream(stream: int, status: Reset) -> bytes:
    return _control(Type.RST_STREAM, _TWO.pack(stream, status))


def ping(number: int) -> bytes:
    return _control(Type.PING, _U32.pack(number))


def go_away(last_stream: int, status: Leave) -> bytes:
    return _control(Type.GOAWAY, _TWO.pack(last_stream, status))


def window_update(stream: int, delta: int) -> bytes:
    return _control(Type.WINDOW_UPDATE, _TWO.pack(stream, delta))


def settings(values: Mapping[int, int]) -> bytes:
    entries = b"".join(_TWO.pack(number & 0xFFFFFF, value) for number, value in values.items())
    return _control(Type.SETTINGS, _U32.pack(len(values)) + entries)


def _control(kind: Type, payload: bytes, flags: Flag = Flag.NONE) -> bytes:
    return _CONTROL.pack(0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload


class Decoder:
    """Bytes to frames; keeps at most one control frame that is not complete."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()
        self._stream = 0  # of the data frame that is being received
        self._left = 0  # bytes of it that have not come
        self._fin = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames and pieces of data that these bytes complete. Raises ProtocolError."""
        if self._left > len(data) and not self._buffer:  # most of a large upload
            return [self._piece(data)] if data else []
        self._buffer += data
        frames: list[Frame] = []
        at = 0
        while len(self._buffer) - at >= (1 if self._left else HEAD):
            if self._left:
                piece = bytes(self._buffer[at : at + self._left])
                frames.append(self._piece(piece))
                at += len(piece)
                continue
            first, second = _TWO.unpack_from(self._buffer, at)
            length = second & 0xFFFFFF
            if first >> 31 == 0:
                at += HEAD
                self._begin(first, second >> 24, length, frames)
                continue
            if length > CONTROL_LIMIT:
                raise ProtocolError(Leave.PROTOCOL_ERROR, f"a control frame of {length} bytes: at most {CONTROL_LIMIT}")
            if len(self._buffer) - at < HEAD + length:
                break
            payload = bytes(self._buffer[at + HEAD : at + HEAD + length])
            at += HEAD + length
            if (frame := self._control(first, second >> 24, payload)) is not None:
                frames.append(frame)
        del self._buffer[:at]
        return frames

    def _begin(self, stream: int, flags: int, length: int, frames: list[Frame]) -> None:
        self._stream, self._left, self._fin = stream, length, bool(flags & Flag.FIN)
        if not length:
            frames.append(Data(stream, b"", fin=self._fin))

    def _piece(self, data: bytes) -> Data:
        self._left -= len(data)
        return Data(self._stream, data, fin=self._fin and not self._left)

    def _control(self, first: int, flags: int, payload: bytes) -> Frame | None:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"a frame of SPDY version {version}, not {VERSION}")
        try:
            return self._parse(kind, payload, fin=bool(flags & Flag.FIN))
        except struct.error as e:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"a control frame of type {kind} is too short: {e}") from e

    def _parse(self, kind: int, payload: bytes, *, fin: bool) -> Frame | None:
        """None for a type that is not known, which is to be ignored."""
        number = _U32.unpack_from(payload)[0] & 0x7FFFFFFF
        match kind:
            case Type.SYN_STREAM:
                if len(payload) < 10:
                    raise struct.error("10 bytes before the headers")
                return SynStream(number, self._headers(payload[10:]), fin)
            case Type.SYN_REPLY:
                return SynReply(number, self._headers(payload[4:]), fin)
            case Type.HEADERS:
                return Headers(number, self._headers(payload[4:]), fin)
            case Type.RST_STREAM:
                return RstStream(number, _U32.unpack_from(payload, 4)[0])
            case Type.SETTINGS:
                return Settings(_settings(payload))
            case Type.PING:
                return Ping(_U32.unpack_from(payload)[0])
            case Type.GOAWAY:
                return GoAway(number, _U32.unpack_from(payload, 4)[0])
            case Type.WINDOW_UPDATE:
                return WindowUpdate(number, _U32.unpack_from(payload, 4)[0] & 0x7FFFFFFF)
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, HEADERS_LIMIT)
        except zlib.error as e:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"headers that cannot be decompressed: {e}") from e
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"headers of more than {HEADERS_LIMIT} bytes, or their last")
        (count,) = _U32.unpack_from(plain)
        if count > PAIRS_LIMIT:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"{count} header fields: at most {PAIRS_LIMIT}")
        texts, at = [], 4
        for _ in range(2 * count):
            (length,) = _U32.unpack_from(plain, at)
            if at + 4 + length > len(plain):
                raise struct.error("a field ends behind the headers")
            texts.append(plain[at + 4 : at + 4 + length].decode("latin-1"))
            at += 4 + length
        return {name.lower(): value for name, value in zip(texts[::2], texts[1::2], strict=True)}


def _settings(payload: bytes) -> dict[int, int]:
    (count,) = _U32.unpack_from(payload)
    if count > PAIRS_LIMIT:
        raise struct.error("more settings than there are")
    pairs = [_TWO.unpack_from(payload, 4 + 8 * i) for i in range(count)]
    return {identity & 0xFFFFFF: value for identity, value in pairs}
