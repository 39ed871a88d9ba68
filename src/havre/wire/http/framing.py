"""The pure half of both protocols: heads, targets, bodies in parts, and the length of HTTP/2 header blocks.

Source: RFC 9110, RFC 9112, RFC 9113.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from havre.wire.http.message import BadAnswer, Headers

PIECE = 64 * 1024  # bytes handed to the transport at once for a body in parts: several TLS records, one system call

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}
BODYLESS = frozenset({204, 304})
# Both usual spellings, so that no name has to be lowered for each answer.
FRAMING = frozenset(
    spelling
    for name in ("content-length", "transfer-encoding", "connection", "keep-alive")
    for spelling in (name, name.title())
)
_USUAL = (
    *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "expect", "host"),
    *("impersonate-user", "origin", "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version"),
    *("transfer-encoding", "upgrade", "user-agent", "x-forwarded-for", "x-stream-protocol-version"),
)
NAMES = {spelling.encode(): name for name in _USUAL for spelling in (name, name.title())}


def text(value: bytes) -> str:
    """A header value; UTF-8 as Go clients send it, else byte by byte."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def split_target(target: bytes) -> tuple[str, str]:
    """(path, query) of a request target in origin, absolute or asterisk form; the path is "" for another."""
    whole = target.decode("latin-1")
    if whole[:7].lower() == "http://" or whole[:8].lower() == "https://":
        rest = whole.split("//", 1)[1]
        start = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
        whole = rest[start:] if rest[start : start + 1] == "/" else "/" + rest[start:]
    if not whole.startswith("/") and whole != "*":
        return "", ""
    path, _, query = whole.partition("#")[0].partition("?")
    return path, query


def head(status: int, headers: Headers, framing: str) -> bytes:
    """Status line, `headers` without their own framing, `framing`, empty line. Raises BadAnswer."""
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    fields = [f"{name}: {value}\r\n" for name, value in headers if name not in FRAMING]
    whole = f"{line}{''.join(fields)}{framing}\r\n"
    if whole.count("\n") != len(fields) + framing.count("\n") + 2 or whole.count("\r") != whole.count("\n"):
        raise BadAnswer(f"answer {status}: a header contains a line break; encode or remove it")
    return whole.encode()


def pieces(parts: Sequence[bytes]) -> list[bytes]:
    """The parts, small ones joined up to `PIECE`: few records, and never a second copy of the whole."""
    out: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > PIECE and small:
            out.append(b"".join(small))
            small, size = [], 0
        if len(part) >= PIECE:
            out.append(part)
            continue
        small.append(part)
        size += len(part)
    if small:
        out.append(b"".join(small))
    return out


def long_head(limit: int) -> str:
    return f"request header fields are too large: the limit is {limit} bytes"


def long_body(limit: int) -> str:
    return f"request body is too large: the limit is {limit} bytes"


# HTTP/2

CONTINUATION = 0x9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16 * 1024  # the smallest maximum of the protocol
HEADER_LIST = 1024 * 1024  # above what a block within `HeaderBlocks` decodes to, see there


class HeaderBlocks:
    """Watches the frame headers that pass, and counts the CONTINUATION frames of one header block.

    The state machine drops a header field that does not fit its limit and delivers the rest: an oversized
    `impersonate-user` would vanish. So its limit is set where it cannot be reached by one field: a block of N frames of
    16 KiB holds no field longer than N × 16 KiB × 8/5 (the shortest Huffman code has 5 bits), and whoever passes
    `HEADER_LIST` with several has delivered more than the real limit by then, and is refused for that.
    """

    __slots__ = ("_allowed", "_count", "_part", "_skip")

    def __init__(self, limit: int) -> None:
        self._allowed = max(1, limit // FRAME)
        self._count = 0
        self._part = b""  # of a frame header that arrives in two reads
        self._skip = len(PREFACE)  # bytes still to come before the next frame header

    def fits(self, data: bytes) -> bool:
        """False when a header block is longer than allowed."""
        if self._part:
            data, self._part = self._part + data, b""
        place, end = self._skip, len(data)
        while place + 9 <= end:
            self._count = self._count + 1 if data[place + 3] == CONTINUATION else 0
            if self._count > self._allowed:
                return False
            place += 9 + (data[place] << 16 | data[place + 1] << 8 | data[place + 2])
        if place < end:
            self._part, place = data[place:], end
        self._skip = place - end
        return True
