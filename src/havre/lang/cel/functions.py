"""The functions that Kubernetes adds to CEL: quantities, IP addresses and CIDRs, URLs, semantic versions, lists,
regular expressions.

Every value of such a type is one protobuf message with a kind and a canonical text, because the evaluator picks an
implementation by kind of value and all messages are of one kind; a call with the wrong kind fails when it is
evaluated. Missing: `format`, whose `validate` gives an optional; `string(ip)`, because a built-in function cannot
be extended; `indexOf`, `lastIndexOf` and `reverse` of lists, because strings have these names already.

Source: k8s.io/apiserver, pkg/cel/library/{quantity,ip,cidr,urls,semverlib,lists,regex}.go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from havre.kit.quantity import Quantity, QuantityError
from havre.kit.quantity import parse as parse_quantity
from havre.lang.structural.formats import is_uri

CACHE_SIZE = 4096
FOUND_MAX = 100_000  # matches that findAll gives at most
RANGE_MAX = 1_000_000  # elements of lists.range, upstream's cost limit of one call
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def _file() -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name="havre/cel.proto", package="kubernetes", syntax="proto3")
    message = file.message_type.add(name="Opaque")
    for number, name in enumerate(("kind", "text"), 1):
        message.field.add(name=name, number=number, type=9, label=1)
    return file.SerializeToString()


OPAQUE_FILE: bytes = _file()
POOL: Any = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(OPAQUE_FILE)
Opaque: Any = message_factory.GetMessageClass(POOL.FindMessageTypeByName("kubernetes.Opaque"))
T = cel.Type
OPAQUE = T("kubernetes.Opaque")
_LIST = T.List(T.DYN)


def _text(value: Any, kind: str) -> str:
    if value.kind != kind:
        raise ValueError(f"no such overload: {value.kind} where {kind} is wanted")
    return str(value.text)


# Quantities


def _quantity(text: str) -> Any:
    return Opaque(kind="quantity", text=str(parse_quantity(text)))


def _is_quantity(text: str) -> bool:
    try:
        parse_quantity(text)
    except QuantityError:
        return False
    return True


def _value(value: Any) -> Fraction:
    return _parsed(value).amount


def _as_integer(value: Any) -> int:
    exact = _value(value)
    if exact.denominator != 1 or not _INT_MIN <= exact <= _INT_MAX:
        raise ValueError("cannot convert value to integer")
    return int(exact)


def _is_integer(value: Any) -> bool:
    exact = _value(value)
    return exact.denominator == 1 and _INT_MIN <= exact <= _INT_MAX


def _plus(left: Any, right: Any) -> Any:
    return Opaque(kind="quantity", text=str(_parsed(left) + _operand(right)))


def _minus(left: Any, right: Any) -> Any:
    return Opaque(kind="quantity", text=str(_parsed(left) - _operand(right)))


def _operand(right: Any) -> Quantity:
    return Quantity.of(right) if isinstance(right, int) else _parsed(right)


def _parsed(value: Any) -> Quantity:
    return parse_quantity(_text(value, "quantity"))


# Semantic versions


class _Semver(NamedTuple):
    major: int
    minor: int
    patch: int
    final: bool  # a pre-release comes before its release
    pre: tuple[tuple[int, int, str], ...]


_NUMBER = r"(0|[1-9]\d*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_LOOSE_SEMVER = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?([-+].*)?", re.ASCII)


@lru_cache(CACHE_SIZE)
def _parse_semver(text: str) -> _Semver:
    found = _SEMVER.fullmatch(text) if len(text) <= 256 else None
    parts = found[4].split(".") if found and found[4] else []
    if not found or any(p.isdigit() and len(p) > 1 and p[0] == "0" for p in parts):
        raise ValueError(f"{text!r} is not a semantic version")
    pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts)
    return _Semver(int(found[1]), int(found[2]), int(found[3]), not pre, pre)


def _semver(text: str, normalize: bool = False) -> Any:
    if normalize and (loose := _LOOSE_SEMVER.fullmatch(text[:256])):
        text = ".".join(str(int(part or "0")) for part in loose.groups()[:3]) + (loose[4] or "")
    _parse_semver(text)
    return Opaque(kind="semver", text=text)


def _is_semver(text: str, normalize: bool = False) -> bool:
    try:
        _semver(text, normalize)
    except ValueError:
        return False
    return True


def _version(value: Any) -> _Semver:
    return _parse_semver(_text(value, "semver"))


def _order(value: Any) -> Any:
    return _version(value) if value.kind == "semver" else _value(value)


def _compare(left: Any, right: Any) -> int:
    first, second = _order(left), _order(right)
    return 1 if first > second else -1 if first < second else 0


# IP addresses

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse_ip(text: str) -> _Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as e:
        raise ValueError(f"IP Address {text!r} parse error during conversion from string: {e}") from e
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"IP Address {text!r} with a zone or an IPv4-mapped value is not allowed")
    return address


def _is_ip(text: str) -> bool:
    try:
        _parse_ip(text)
    except ValueError:
        return False
    return True


def _ip(value: Any) -> Any:
    """`ip("10.0.0.1")`, and `cidr(…).ip()`."""
    if isinstance(value, str):
        return Opaque(kind="ip", text=str(_parse_ip(value)))
    return Opaque(kind="ip", text=_text(value, "cidr").partition("/")[0])


def _address(value: Any) -> _Address:
    return ipaddress.ip_address(_text(value, "ip"))


def _address_is(what: str) -> Callable[[Any], bool]:
    return lambda value: bool(getattr(_address(value), what))


def _is_global_unicast(value: Any) -> bool:
    a = _address(value)
    broadcast = a == ipaddress.IPv4Address("255.255.255.255")
    return not (broadcast or a.is_unspecified or a.is_loopback or a.is_multicast or a.is_link_local)


def _is_link_local_multicast(value: Any) -> bool:
    network = ipaddress.ip_network("224.0.0.0/24" if _address(value).version == 4 else "ff02::/16")
    return _address(value) in network


def _parse_cidr(text: str) -> tuple[_Address, _Network]:
    address, slash, bits = text.partition("/")
    if not slash or not re.fullmatch(r"0|[1-9]\d{0,2}", bits, re.ASCII):
        raise ValueError(f"network address parse error during conversion from string: {text!r} is no CIDR")
    return _parse_ip(address), ipaddress.ip_network(text, strict=False)


def _cidr(text: str) -> Any:
    address, network = _parse_cidr(text)
    return Opaque(kind="cidr", text=f"{address}/{network.prefixlen}")


def _is_cidr(text: str) -> bool:
    try:
        _parse_cidr(text)
    except ValueError:
        return False
    return True


def _network(value: Any) -> _Network:
    return ipaddress.ip_network(_text(value, "cidr"), strict=False)


def _contains_ip(value: Any, other: Any) -> bool:
    address = _parse_ip(other) if isinstance(other, str) else _address(other)
    return address in _network(value)


def _contains_cidr(value: Any, other: Any) -> bool:
    outer, inner = _network(value), _parse_cidr(other)[1] if isinstance(other, str) else _network(other)
    return outer.version == inner.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _masked(value: Any) -> Any:
    return Opaque(kind="cidr", text=str(_network(value)))


# URLs


def _url(text: str) -> Any:
    if not is_uri(text):
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    return Opaque(kind="url", text=text)


def _url_part(what: str) -> Callable[[Any], str]:
    def part(value: Any) -> str:
        url = urlsplit(_text(value, "url"))
        host = url.netloc.rpartition("@")[2]
        name, port = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(.*))?", host, re.DOTALL).groups()  # type: ignore[union-attr]
        parts = {
            "scheme": url.scheme,
            "host": host,
            "name": unquote(name.strip("[]")),
            "port": port or "",
            "path": url.path,
        }
        return parts[what]

    return part


def _query(value: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(_text(value, "url")).query, keep_blank_values=True)


# Lists


def _plain(values: Any) -> list[Any]:
    return [value.value() if isinstance(value, cel.Value) else value for value in values]


def encoded(value: Any) -> Any:
    """A value that the evaluator takes: times travel as messages."""
    if isinstance(value, timedelta):
        duration = Duration()
        duration.FromTimedelta(value)
        return duration
    if isinstance(value, datetime):
        timestamp = Timestamp()
        timestamp.FromDatetime(value)
        return timestamp
    return value


def _comparable(values: Any) -> list[Any]:
    plain = _plain(values)
    kinds = {type(v) for v in plain}
    if not kinds <= {int, float} and len(kinds) > 1:
        raise ValueError("no such overload")
    if kinds - {int, float, str, bool, bytes, timedelta, datetime}:
        raise ValueError("no such overload")
    return plain


def _extreme(pick: Callable[[list[Any]], Any], name: str) -> Callable[[Any], Any]:
    def run(values: Any) -> Any:
        plain = _comparable(values)
        if not plain:
            raise ValueError(f"{name} called on empty list")
        return encoded(pick(plain))

    return run


def _sum(values: Any) -> Any:
    plain = _comparable(values)
    total = sum(plain[1:], plain[0]) if plain else 0
    if isinstance(total, int) and not _INT_MIN <= total <= _INT_MAX:
        raise ValueError("integer overflow")
    return encoded(total)


def _is_sorted(values: Any) -> bool:
    plain = _comparable(values)
    return all(a <= b for a, b in pairwise(plain))


def _distinct(values: Any) -> list[Any]:
    kept: list[Any] = []
    for value in _plain(values):
        if value not in kept:
            kept.append(value)
    return [encoded(v) for v in kept]


def _slice(values: Any, start: int, end: int) -> list[Any]:
    plain = _plain(values)
    if start < 0 or end > len(plain) or start > end:
        raise ValueError(f"cannot slice({start}, {end}), the list has {len(plain)} elements")
    return [encoded(v) for v in plain[start:end]]


def _flatten(values: Any) -> list[Any]:
    flat: list[Any] = []
    for value in _plain(values):
        flat += _plain(value) if isinstance(value, list) else [value]
    return flat


def _range(size: int) -> list[int]:
    if not 0 <= size <= RANGE_MAX:
        raise ValueError(f"lists.range: {size} is not between 0 and {RANGE_MAX}")
    return list(range(size))


# Regular expressions: bounded text, RE2 is not within reach from here


def _found(text: str, pattern: str, limit: int) -> list[str]:
    try:
        matches = re.finditer(pattern, text, re.ASCII)
    except re.error as e:
        raise ValueError(f"Illegal regex: {e}") from e
    found: list[str] = []
    for match in matches:
        if len(found) >= limit:
            break
        found.append(match[0])
    return found


def _find(text: str, pattern: str) -> str:
    return next(iter(_found(text, pattern, 1)), "")


def _find_all(text: str, pattern: str, limit: int = FOUND_MAX) -> list[str]:
    return _found(text, pattern, FOUND_MAX if limit < 0 else min(limit, FOUND_MAX))


def _overloads(name: str, returns: Any, *overloads: tuple[list[Any], Callable[..., Any]], member: bool) -> Any:
    return [
        cel.Overload(
            f"havre_{name.replace('.', '_')}_{i}_{'m' if member else 'f'}", returns, args, is_member=member, impl=run
        )
        for i, (args, run) in enumerate(overloads)
    ]


def _declared() -> list[Any]:
    s, b, i, q = T.STRING, T.BOOL, T.INT, OPAQUE
    strings, dyn = T.List(T.STRING), T.DYN
    table: list[tuple[str, Any, bool, list[tuple[list[Any], Callable[..., Any]]]]] = [
        ("quantity", q, False, [([s], _quantity)]),
        ("isQuantity", b, False, [([s], _is_quantity)]),
        ("sign", i, True, [([q], lambda v: (_value(v) > 0) - (_value(v) < 0))]),
        ("isInteger", b, True, [([q], _is_integer)]),
        ("asInteger", i, True, [([q], _as_integer)]),
        ("asApproximateFloat", T.DOUBLE, True, [([q], lambda v: float(_value(v)))]),
        ("isGreaterThan", b, True, [([q, q], lambda x, y: _compare(x, y) > 0)]),
        ("isLessThan", b, True, [([q, q], lambda x, y: _compare(x, y) < 0)]),
        ("compareTo", i, True, [([q, q], _compare)]),
        ("add", q, True, [([q, q], _plus), ([q, i], _plus)]),
        ("sub", q, True, [([q, q], _minus), ([q, i], _minus)]),
        ("semver", q, False, [([s], _semver), ([s, b], _semver)]),
        ("isSemver", b, False, [([s], _is_semver), ([s, b], _is_semver)]),
        ("major", i, True, [([q], lambda v: _version(v).major)]),
        ("minor", i, True, [([q], lambda v: _version(v).minor)]),
        ("patch", i, True, [([q], lambda v: _version(v).patch)]),
        ("isIP", b, False, [([s], _is_ip)]),
        ("ip.isCanonical", b, False, [([s], lambda v: str(_parse_ip(v)) == v)]),
        ("family", i, True, [([q], lambda v: _address(v).version)]),
        ("isUnspecified", b, True, [([q], _address_is("is_unspecified"))]),
        ("isLoopback", b, True, [([q], _address_is("is_loopback"))]),
        ("isLinkLocalMulticast", b, True, [([q], _is_link_local_multicast)]),
        ("isLinkLocalUnicast", b, True, [([q], _address_is("is_link_local"))]),
        ("isGlobalUnicast", b, True, [([q], _is_global_unicast)]),
        ("cidr", q, False, [([s], _cidr)]),
        ("isCIDR", b, False, [([s], _is_cidr)]),
        ("containsIP", b, True, [([q, s], _contains_ip), ([q, q], _contains_ip)]),
        ("containsCIDR", b, True, [([q, s], _contains_cidr), ([q, q], _contains_cidr)]),
        ("masked", q, True, [([q], _masked)]),
        ("prefixLength", i, True, [([q], lambda v: _network(v).prefixlen)]),
        ("url", q, False, [([s], _url)]),
        ("isURL", b, False, [([s], is_uri)]),
        ("getScheme", s, True, [([q], _url_part("scheme"))]),
        ("getHost", s, True, [([q], _url_part("host"))]),
        ("getHostname", s, True, [([q], _url_part("name"))]),
        ("getPort", s, True, [([q], _url_part("port"))]),
        ("getEscapedPath", s, True, [([q], _url_part("path"))]),
        ("getQuery", T.Map(s, strings), True, [([q], _query)]),
        ("find", s, True, [([s, s], _find)]),
        ("findAll", strings, True, [([s, s], _find_all), ([s, s, i], _find_all)]),
        ("isSorted", b, True, [([_LIST], _is_sorted)]),
        ("sum", dyn, True, [([_LIST], _sum)]),
        ("min", dyn, True, [([_LIST], _extreme(min, "min"))]),
        ("max", dyn, True, [([_LIST], _extreme(max, "max"))]),
        ("distinct", _LIST, True, [([_LIST], _distinct)]),
        ("sort", _LIST, True, [([_LIST], lambda v: [encoded(x) for x in sorted(_comparable(v))])]),
        ("slice", _LIST, True, [([_LIST, i, i], _slice)]),
        ("flatten", _LIST, True, [([_LIST], _flatten)]),
        ("lists.range", T.List(i), False, [([i], _range)]),
    ]
    declared = [
        cel.FunctionDecl(name, _overloads(name, returns, *overloads, member=member))
        for name, returns, member, overloads in table
    ]
    ips = _overloads("ip", q, ([s], _ip), member=False) + _overloads("ip", q, ([q], _ip), member=True)
    return [*declared, cel.FunctionDecl("ip", ips)]


FUNCTIONS = _declared()
