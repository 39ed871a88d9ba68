"""String formats that a custom resource's schema can ask for; any other name is ignored.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/validation/formats.go; k8s.io/kube-openapi, pkg/validation/strfmt.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from functools import cache

from havre.lang.structural.regex import matcher

Check = Callable[[str], bool]

_HEX4 = "[0-9a-f]{4}"
_GO_DURATION = re.compile(r"[-+]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_SCALA_DURATION = re.compile(r"(\d+)\s*([A-Za-zµ]+)")
_DURATION_UNITS = ("n", "us", "µs", "micro", "m", "s", "h", "d", "w")
_TIME = re.compile(r"(\d{2}):(\d{2}):(\d{2})(\.\d+)?(z|([+-]\d{2}:\d{2}))", re.ASCII)
_CARD = re.compile(
    r"4\d{12}(\d{3})?|5[1-5]\d{14}|(222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}|6(011|5\d\d)\d{12}|3[47]\d{13}"
    r"|3(0[0-5]|[68]\d)\d{11}|(2131|1800|35\d{3})\d{11}|6[27]\d{14}",
    re.ASCII,
)


def _regex(pattern: str) -> Check:
    """Compiled when it is first needed: all of them together take 60 ms."""

    @cache
    def compiled() -> Check:
        return matcher(pattern)

    def check(text: str) -> bool:
        return compiled()(text)

    return check


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == len("2006-01-02")


def _is_datetime(text: str) -> bool:
    day, mark, rest = text.lower().partition("t")
    if not mark or not _is_date(day) or not (found := _TIME.search(rest)):
        return False
    return found[1] <= "23" and found[2] <= "59" and found[3] <= "59"


def _is_duration(text: str) -> bool:
    if _GO_DURATION.fullmatch(text):
        return True
    return any(unit.lower().startswith(_DURATION_UNITS) for _, unit in _SCALA_DURATION.findall(text))


def _is_ip(text: str) -> bool:
    """Go's old parser: leading zeros in a part are fine."""
    if re.fullmatch(r"\d{1,10}(\.\d{1,10}){3}", text, re.ASCII):
        return all(int(part) < 256 for part in text.split("."))
    try:
        return ipaddress.ip_address(text).version == 6 and "%" not in text
    except ValueError:
        return False


def _is_cidr(text: str) -> bool:
    address, slash, bits = text.partition("/")
    if not slash or not _is_ip(address) or not (bits.isascii() and bits.isdigit() and len(bits) <= 3):
        return False
    return int(bits) <= (128 if ":" in address else 32)


def _is_mac(text: str) -> bool:
    """6, 8 or 20 bytes as `aa:bb:…`, `aa-bb-…` or `aabb.ccdd.…`."""
    for mark, size in ((":", 2), ("-", 2), (".", 4)):
        parts = text.split(mark)
        if len(parts) * size in (12, 16, 40) and len(parts) > 1:
            return all(len(p) == size and re.fullmatch("[0-9a-fA-F]+", p) for p in parts)
    return False


def is_uri(text: str) -> bool:
    """What Go's url.ParseRequestURI takes: an absolute path or a scheme, no control characters, whole escapes."""
    if text == "*":
        return True
    if any(c < " " or c == "\x7f" for c in text) or re.search("%(?![0-9a-fA-F]{2})", text.partition("?")[0]):
        return False
    if text.startswith("/"):
        return True
    scheme = re.match(r"[A-Za-z][-A-Za-z0-9+.]*:", text)
    if not scheme or not text[scheme.end() :]:
        return bool(scheme)
    host = re.match(r"//([^/?#]*)", text[scheme.end() :])
    return not host or not re.search(r"[ <>\"\\^`{|}]", host[1])


def _is_hostname(text: str) -> bool:
    return len(text) <= 255 and all(len(p) <= 63 for p in text.split(".")) and _HOSTNAME(text)


def _is_email(text: str) -> bool:
    bracketed = re.fullmatch(r"[^<>]*<([^<>]+)>\s*", text)
    return bool(
        re.fullmatch(
            r'(?:[^\s@<>()\[\],;:"\\.]+\.?)+(?<!\.)@[^\s@<>(),;:"]+', bracketed[1] if bracketed else text.strip()
        )
    )


def _is_isbn10(text: str) -> bool:
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"\d{9}[\dX]", digits, re.ASCII):
        return False
    return sum((i + 1) * (10 if c == "X" else int(c)) for i, c in enumerate(digits)) % 11 == 0


def _is_isbn13(text: str) -> bool:
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"\d{13}", digits, re.ASCII):
        return False
    return sum(int(c) * (1, 3)[i % 2] for i, c in enumerate(digits)) % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"[^0-9]", "", text)
    if not _CARD.fullmatch(digits):
        return False
    doubled = (int(c) * (1 + i % 2) for i, c in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


_HOSTNAME = _regex(
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)"
    r"|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
)
_SHORT_NAME = _regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_LONG_NAME = _regex(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")

FORMATS: dict[str, Check] = {  # names without dashes
    "bsonobjectid": _regex("^[0-9a-fA-F]{24}$"),
    "uri": is_uri,
    "email": _is_email,
    "hostname": _is_hostname,
    "ipv4": lambda text: "." in text and _is_ip(text),
    "ipv6": lambda text: ":" in text and _is_ip(text),
    "cidr": _is_cidr,
    "mac": _is_mac,
    "uuid": _regex(f"(?i)^[0-9a-f]{{8}}-?{_HEX4}-?{_HEX4}-?{_HEX4}-?[0-9a-f]{{12}}$"),
    "uuid3": _regex(f"(?i)^[0-9a-f]{{8}}-?{_HEX4}-?3[0-9a-f]{{3}}-?{_HEX4}-?[0-9a-f]{{12}}$"),
    "uuid4": _regex(f"(?i)^[0-9a-f]{{8}}-?{_HEX4}-?4[0-9a-f]{{3}}-?[89ab][0-9a-f]{{3}}-?[0-9a-f]{{12}}$"),
    "uuid5": _regex(f"(?i)^[0-9a-f]{{8}}-?{_HEX4}-?5[0-9a-f]{{3}}-?[89ab][0-9a-f]{{3}}-?[0-9a-f]{{12}}$"),
    "isbn": lambda text: _is_isbn10(text) or _is_isbn13(text),
    "isbn10": _is_isbn10,
    "isbn13": _is_isbn13,
    "creditcard": _is_card,
    "ssn": _regex(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
    "hexcolor": _regex("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
    "rgbcolor": _regex(
        r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,"
        r"\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
    ),
    "byte": _regex("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"),
    "password": lambda text: True,
    "date": _is_date,
    "duration": _is_duration,
    "datetime": _is_datetime,
    "k8sshortname": lambda text: len(text) <= 63 and _SHORT_NAME(text),
    "k8slongname": lambda text: len(text) <= 253 and _LONG_NAME(text),
}


def check_of(name: str) -> Check | None:
    """The check of a format, None when it has no meaning here."""
    return FORMATS.get(name.replace("-", ""))
