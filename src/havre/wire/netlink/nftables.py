"""nftables over netlink: one table with its chains and rules, replaced or removed as a whole, in one transaction.

    table = Table("havre", (Chain("outgoing", NAT, POSTROUTING, SOURCE_NAT, (
        rule(source_in(pods), destination_not_in(pods), masquerade()),)),))
    replace(connection, table)

A rule is a list of expressions that load into registers, compare, and act; the first comparison that fails ends it.
Only what Havre uses is here: IPv4 tables, matches on addresses, masquerade, and lists of what is there.

Source: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from havre.wire.netlink.connection import NETFILTER, Connection
from havre.wire.netlink.message import (
    ACK,
    APPEND,
    CREATE,
    Message,
    Refused,
    Request,
    attribute,
    attributes,
    nested,
    text,
)

SUBSYSTEM = 10  # nf_tables within nfnetlink
BATCH_BEGIN, BATCH_END = 16, 17
NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = (SUBSYSTEM << 8 | kind for kind in (0, 1, 2, 3, 6))
GET_CHAIN = SUBSYSTEM << 8 | 4

NAT, FILTER = "nat", "filter"  # types of a chain
FORWARD, POSTROUTING = 2, 4  # hooks
SOURCE_NAT = 100  # priority of source NAT; filters stand at 0
ACCEPT, DROP = 1, 0  # policies

INET = 1  # the family of tables for IPv4 and IPv6
_NETWORK_HEADER = 1
_SOURCE, _DESTINATION = 12, 16  # offsets of the addresses in an IPv4 header
_EQUAL, _UNEQUAL = 0, 1
_REGISTER = 1


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain at a hook of the packet path; `rules` are lists of expressions."""

    name: str
    kind: str
    hook: int
    priority: int
    rules: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """An IPv4 table of ours, by its name."""

    name: str
    chains: tuple[Chain, ...]


def rule(*expressions: bytes) -> bytes:
    return b"".join(expressions)


def source_in(network: ipaddress.IPv4Network) -> bytes:
    return _address(_SOURCE, network, _EQUAL)


def destination_not_in(network: ipaddress.IPv4Network) -> bytes:
    return _address(_DESTINATION, network, _UNEQUAL)


def masquerade() -> bytes:
    """Leave with the address of the interface through which the packet leaves."""
    return _expression("masq")


def replace(connection: Connection, table: Table) -> None:
    """Afterwards the table is as given, whatever it was; other tables are not touched. Raises Refused."""
    named = text(1, table.name)
    steps = [
        Request(f"make table {table.name}", NEW_TABLE, CREATE, _head() + named),  # so that there is one to delete
        Request(f"empty table {table.name}", DELETE_TABLE, 0, _head() + named),
        Request(f"make table {table.name}", NEW_TABLE, CREATE, _head() + named),
    ]
    for chain in table.chains:
        steps += _chain(table.name, chain)
    _transact(connection, steps)


def delete(connection: Connection, name: str) -> None:
    """Remove a table with all that is in it; that there is none is fine. Raises Refused."""
    try:
        _transact(connection, [Request(f"delete table {name}", DELETE_TABLE, 0, _head() + text(1, name))])
    except Refused as refused:
        if refused.errno != errno.ENOENT:
            raise


def tables(connection: Connection) -> list[str]:
    """The names of all IPv4 tables."""
    found = connection.dump(Request("list tables", GET_TABLE, 0, _head()))
    return [_string(message, 1) for message in found if message.kind == NEW_TABLE]


def dropping(connection: Connection, besides: str = "") -> list[str]:
    """Base chains of IPv4 and mixed tables at the forward hook whose policy is drop, as "table/chain"."""
    found = connection.dump(Request("list chains", GET_CHAIN, 0, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)))
    return [
        f"{_string(message, 1)}/{_string(message, 3)}"
        for message in found
        if message.kind == NEW_CHAIN and _drops(message) and _string(message, 1) != besides
    ]


def connect(inside: int | None = None) -> Connection:
    return Connection(NETFILTER, inside=inside)


def _chain(table: str, chain: Chain) -> list[Request]:
    hook = nested(4, _u32(1, chain.hook), _u32(2, chain.priority))
    body = text(1, table) + text(3, chain.name) + hook + _u32(5, ACCEPT) + text(7, chain.kind)
    made = Request(f"make chain {table}/{chain.name}", NEW_CHAIN, CREATE, _head() + body)
    return [made, *(_rule(table, chain.name, expressions) for expressions in chain.rules)]


def _rule(table: str, chain: str, expressions: bytes) -> Request:
    body = text(1, table) + text(2, chain) + nested(4, expressions)
    return Request(f"add a rule to {table}/{chain}", NEW_RULE, CREATE | APPEND, _head() + body)


def _address(offset: int, network: ipaddress.IPv4Network, compare: int) -> bytes:
    """Load an address of the packet, keep the bits of the network, compare."""
    return (
        _expression("payload", _u32(1, _REGISTER), _u32(2, _NETWORK_HEADER), _u32(3, offset), _u32(4, 4))
        + _expression(
            "bitwise",
            _u32(1, _REGISTER),
            _u32(2, _REGISTER),
            _u32(3, 4),
            nested(4, attribute(1, network.netmask.packed)),
            nested(5, attribute(1, bytes(4))),
        )
        + _expression(
            "cmp", _u32(1, _REGISTER), _u32(2, compare), nested(3, attribute(1, network.network_address.packed))
        )
    )


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _u32(kind: int, value: int) -> bytes:
    """Numbers of nfnetlink are in network order, unlike those of rtnetlink."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _head(resource: int = 0) -> bytes:
    return struct.pack("=BB", socket.AF_INET, 0) + struct.pack(">H", resource)


def _transact(connection: Connection, steps: Sequence[Request]) -> None:
    """All of them or none; the kernel acknowledges each after the whole is done."""
    expected = {connection.next_sequence(): step for step in steps}
    begin, end = (Request("", kind, 0, _head(SUBSYSTEM)) for kind in (BATCH_BEGIN, BATCH_END))
    parts = [begin.encode(connection.next_sequence())]
    parts += [step.encode(number, ACK) for number, step in expected.items()]
    parts.append(end.encode(connection.next_sequence()))
    connection.exchange(b"".join(parts), {number: step.what for number, step in expected.items()})


def _drops(message: Message) -> bool:
    family, found = message.body[0], message.attributes(4)
    hook = attributes(found.get(4, b"")).get(1, b"")
    dropped = found.get(5, b"") == struct.pack(">I", DROP)
    return family in (INET, socket.AF_INET) and hook == struct.pack(">I", FORWARD) and dropped


def _string(message: Message, kind: int) -> str:
    return message.attributes(4).get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")
