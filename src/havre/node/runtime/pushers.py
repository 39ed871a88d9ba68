"""Whose program is at the other end of a connection on this machine: a registry on loopback has no other passport.

Every user of a machine may connect to 127.0.0.1. Who may replace an image decides what runs as root in pods, so that
the kernel is asked for the owner of the client's socket. Only a connection whose client still holds it counts: the
kernel shows what was closed as root's.

Source: proc(5) /proc/net/tcp (`local remote state … uid … inode`); linux/net/ipv4/tcp_ipv4.c (get_tcp4_sock).
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["may_push", "owner"]

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"
_MAPPED = "0000000000000000FFFF0000"  # an IPv4 address in a socket of IPv6


def may_push(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Root, and whoever runs this process. Blocks for as long as the kernel takes to list its connections."""
    uid = owner(client, server)
    return uid is not None and uid in {0, os.geteuid()}


def owner(client: tuple[str, int], server: tuple[str, int], tables: Iterable[Path] = _TABLES) -> int | None:
    """The user whose socket the client's end is; None when it is not on this machine, or closed."""
    ends = zip(_written(client), _written(server), strict=False)
    wanted = tuple(f" {local} {remote} {_ESTABLISHED} " for local, remote in ends)
    for table in tables:
        try:
            with table.open() as lines:
                found = next((line for line in lines if any(words in line for words in wanted)), None)
        except FileNotFoundError:  # no IPv6
            continue
        if found is not None:
            fields = found.split()
            return int(fields[7]) if fields[9] != "0" else None
    return None


def _written(end: tuple[str, int]) -> list[str]:
    """The address as the tables have it: words of four bytes in the machine's order, and as one of IPv6."""
    address, port = ipaddress.ip_address(end[0]), end[1]
    words = "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", address.packed))
    forms = [words] if len(words) > 8 else [words, _MAPPED + words]
    return [f"{form}:{port:04X}" for form in forms]
