"""What a `WWW-Authenticate` header asks for: a scheme and its parameters, of several challenges each.

    parse('Bearer realm="https://auth.example/token",service="registry"')
    → (Challenge("bearer", {"realm": "https://auth.example/token", "service": "registry"}),)

Source: RFC 9110, 11.6.1; distribution, docs/spec/auth/token.md. One pass over a bounded text, no backtracking.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from havre.wire.oci.errors import RegistryError

MAX_HEADER = 8 * 1024  # characters: a realm, a service and some scopes
MAX_PARAMETERS = 32

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPACE = re.compile(r"[ \t]*")
_COMMAS = re.compile(r"[ \t,]*")


class InvalidChallenge(RegistryError):
    """A header that breaks the grammar."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate; the scheme and the names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)


def parse(header: str) -> tuple[Challenge, ...]:
    """The challenges, in their order. Raises InvalidChallenge."""
    if len(header) > MAX_HEADER:
        raise InvalidChallenge(f"WWW-Authenticate: {len(header)} characters, the limit is {MAX_HEADER}")
    found: list[Challenge] = []
    place = _skip(_COMMAS, header, 0)
    while place < len(header):
        scheme = _match(_TOKEN, header, place)
        place = _skip(_SPACE, header, scheme.end())
        if blob := _TOKEN68.match(header, place):  # Negotiate, and what else is of no use here
            found.append(Challenge(scheme[0].lower()))
            place = _skip(_COMMAS, header, blob.end())
            continue
        if header[place : place + 1] == ",":
            found.append(Challenge(scheme[0].lower()))
            place = _skip(_COMMAS, header, place)
            continue
        parameters, place = _parameters(header, place)
        found.append(Challenge(scheme[0].lower(), parameters))
    return tuple(found)


def _parameters(header: str, place: int) -> tuple[dict[str, str], int]:
    """`name=value` pairs until the next scheme, and where that begins."""
    found: dict[str, str] = {}
    while name := _TOKEN.match(header, place):
        after = _skip(_SPACE, header, name.end())
        if header[after : after + 1] != "=":
            break  # a token without a value is the next scheme
        value, place = _value(header, _skip(_SPACE, header, after + 1))
        found.setdefault(name[0].lower(), value)
        if len(found) > MAX_PARAMETERS:
            raise InvalidChallenge(f"WWW-Authenticate: more than {MAX_PARAMETERS} parameters")
        place = _skip(_SPACE, header, place)
        if place < len(header) and header[place] != ",":
            raise InvalidChallenge(f"WWW-Authenticate: expected a comma at {header[place : place + 20]!r}")
        place = _skip(_COMMAS, header, place)
    else:
        if place < len(header):
            raise InvalidChallenge(f"WWW-Authenticate: expected a name at {header[place : place + 20]!r}")
    return found, place


def _value(header: str, place: int) -> tuple[str, int]:
    if quoted := _QUOTED.match(header, place):
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted.end()
    token = _match(_TOKEN, header, place)
    return token[0], token.end()


def _match(pattern: re.Pattern[str], header: str, place: int) -> re.Match[str]:
    found = pattern.match(header, place)
    if found is None:
        raise InvalidChallenge(f"WWW-Authenticate: cannot read {header[place : place + 20]!r}")
    return found


def _skip(pattern: re.Pattern[str], header: str, place: int) -> int:
    found = pattern.match(header, place)
    return found.end() if found else place
