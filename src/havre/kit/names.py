"""What may be a name: each check gives the list of complaints about a text, empty when it is fine.

The words are those that kubectl users already know, so a message can go into a `FieldError` as it stands. A length is
counted in bytes, as upstream does.

Source: k8s.io/apimachinery, pkg/util/validation/validation.go, ip.go, and pkg/api/validation/path/name.go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], list[str]]

QUALIFIED_NAME_MAX = 63
LABEL_VALUE_MAX = 63
DNS1123_LABEL_MAX = 63
DNS1035_LABEL_MAX = 63
DNS1123_SUBDOMAIN_MAX = 253
PORT_NAME_MAX = 15
ID_MAX = 2**31 - 1  # user and group ids

_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_DNS1123_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS1123_SUBDOMAIN = rf"{_DNS1123_LABEL}(\.{_DNS1123_LABEL})*"
_UNDERSCORE_LABEL = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_UNDERSCORE_SUBDOMAIN = rf"{_UNDERSCORE_LABEL}(\.{_UNDERSCORE_LABEL})*"
_WILDCARD_SUBDOMAIN = rf"\*\.{_DNS1123_SUBDOMAIN}"
_DNS1035_LABEL = "[a-z]([-a-z0-9]*[a-z0-9])?"
_C_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_ENV_VAR = "[-._a-zA-Z][-._a-zA-Z0-9]*"
_CONFIG_MAP_KEY = "[-._a-zA-Z0-9]+"
_HTTP_HEADER = "[-A-Za-z0-9]+"
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_PERCENT = "[0-9]+%"


def regex_error(what: str, pattern: str, *examples: str) -> str:
    """`what (e.g. 'a',  or 'b', regex used for validation is 'pattern')`, with upstream's two spaces before `or`."""
    if not examples:
        return f"{what} (regex used for validation is '{pattern}')"
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{what} (e.g. {shown}regex used for validation is '{pattern}')"


def max_length_error(limit: int) -> str:
    return f"must be no more than {limit} characters"


def range_error(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


EMPTY_ERROR = "must be non-empty"

_QUALIFIED_ERROR = regex_error(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    _QUALIFIED,
    "MyName",
    "my.name",
    "123-abc",
)
_LABEL_VALUE_ERROR = regex_error(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character",
    _LABEL_VALUE,
    "MyValue",
    "my_value",
    "12345",
)
_DNS1123_LABEL_ERROR = regex_error(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character",
    _DNS1123_LABEL,
    "my-name",
    "123-abc",
)
_DNS1123_SUBDOMAIN_ERROR = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character",
    _DNS1123_SUBDOMAIN,
    "example.com",
)
_UNDERSCORE_SUBDOMAIN_ERROR = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', "
    "and must start and end with an alphanumeric character",
    _UNDERSCORE_SUBDOMAIN,
    "example.com",
)
_WILDCARD_ERROR = regex_error(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, "
    "which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    _WILDCARD_SUBDOMAIN,
    "*.example.com",
)
_DNS1035_LABEL_ERROR = regex_error(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
    "start with an alphabetic character, and end with an alphanumeric character",
    _DNS1035_LABEL,
    "my-name",
    "abc-123",
)
_C_IDENTIFIER_ERROR = regex_error(
    "a valid C identifier must start with alphabetic character or '_', "
    "followed by a string of alphanumeric characters or '_'",
    _C_IDENTIFIER,
    "my_name",
    "MY_NAME",
    "MyName",
)
_ENV_VAR_ERROR = regex_error(
    "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', "
    "and must not start with a digit",
    _ENV_VAR,
    "my.env-name",
    "MY_ENV.NAME",
    "MyEnvName1",
)
_RELAXED_ENV_VAR_ERROR = (
    "a valid environment variable name must consist only of printable ASCII characters other than '='"
)
_CONFIG_MAP_KEY_ERROR = regex_error(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_MAP_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)
_HTTP_HEADER_ERROR = regex_error(
    "a valid HTTP header must consist of alphanumeric characters or '-'", _HTTP_HEADER, "X-Header-Name"
)
_PERCENT_ERROR = regex_error(
    "a valid percent string must be a numeric string followed by an ending '%'", _PERCENT, "1%", "93%"
)


def _check(pattern: str, error: str, limit: int | None = None) -> Check:
    """A check of length and form; the usual, valid text costs one match."""
    matches = re.compile(pattern).fullmatch

    def check(value: str) -> list[str]:
        # a valid text is ASCII, so its length in characters is its length in bytes
        if matches(value) and (limit is None or len(value) <= limit):
            return []
        errors = [max_length_error(limit)] if limit is not None and _bytes(value) > limit else []
        if not matches(value):
            errors.append(error)
        return errors

    return check


def _bytes(value: str) -> int:
    """Length in UTF-8; a lone surrogate, which only JSON escapes can bring, counts three."""
    return len(value.encode("utf-8", "surrogatepass"))


label_value: Check = _check(_LABEL_VALUE, _LABEL_VALUE_ERROR, LABEL_VALUE_MAX)
dns1123_subdomain: Check = _check(_DNS1123_SUBDOMAIN, _DNS1123_SUBDOMAIN_ERROR, DNS1123_SUBDOMAIN_MAX)
dns1123_subdomain_with_underscore: Check = _check(
    _UNDERSCORE_SUBDOMAIN, _UNDERSCORE_SUBDOMAIN_ERROR, DNS1123_SUBDOMAIN_MAX
)
wildcard_dns1123_subdomain: Check = _check(_WILDCARD_SUBDOMAIN, _WILDCARD_ERROR, DNS1123_SUBDOMAIN_MAX)
dns1035_label: Check = _check(_DNS1035_LABEL, _DNS1035_LABEL_ERROR, DNS1035_LABEL_MAX)
c_identifier: Check = _check(_C_IDENTIFIER, _C_IDENTIFIER_ERROR)
http_header_name: Check = _check(_HTTP_HEADER, _HTTP_HEADER_ERROR)
percent: Check = _check(_PERCENT, _PERCENT_ERROR)
_dns1123_label: Check = _check(_DNS1123_LABEL, _DNS1123_LABEL_ERROR, DNS1123_LABEL_MAX)
_env_var: Check = _check(_ENV_VAR, _ENV_VAR_ERROR)
_config_map_key: Check = _check(_CONFIG_MAP_KEY, _CONFIG_MAP_KEY_ERROR, DNS1123_SUBDOMAIN_MAX)
_name_part: Check = _check(_QUALIFIED, _QUALIFIED_ERROR, QUALIFIED_NAME_MAX)

_is_subdomain = re.compile(_DNS1123_SUBDOMAIN).fullmatch
_is_http_path = re.compile(_HTTP_PATH).fullmatch
_is_port_charset = re.compile("[-a-z0-9]+").fullmatch
_has_letter = re.compile("[a-z]").search


def dns1123_label(value: str) -> list[str]:
    errors = _dns1123_label(value)
    if errors and errors[-1] is _DNS1123_LABEL_ERROR and _is_subdomain(value):
        errors[-1] = "must not contain dots"
    return errors


def qualified_name(value: str) -> list[str]:
    """A label or annotation key: `name` or `example.com/name`."""
    prefix, slash, name = value.partition("/")
    if not slash:
        prefix, name = "", value
    elif "/" in name:
        return [
            f"a qualified name {_QUALIFIED_ERROR}"
            " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    errors: list[str] = []
    if slash:
        complaints = dns1123_subdomain(prefix) if prefix else [EMPTY_ERROR]
        errors += [f"prefix part {complaint}" for complaint in complaints]
    if not name:
        errors.append(f"name part {EMPTY_ERROR}")
    errors += [f"name part {complaint}" for complaint in _name_part(name)]
    return errors


def path_segment(value: str) -> list[str]:
    """A name that is put into a URL or a store key."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return path_segment_prefix(value)


def path_segment_prefix(value: str) -> list[str]:
    """The start of such a name, as `generateName` gives it."""
    return [f"may not contain '{text}'" for text in ("/", "%") if text in value]


def dns1123_subdomain_prefix(value: str) -> list[str]:
    """A `generateName` for a subdomain: a last dash will be followed by random characters."""
    return dns1123_subdomain(_masked(value))


def dns1123_label_prefix(value: str) -> list[str]:
    return dns1123_label(_masked(value))


def dns1035_label_prefix(value: str) -> list[str]:
    return dns1035_label(_masked(value))


def _masked(value: str) -> str:
    """The prefix with `a` for its last two characters if it ends in a dash; so `1-` passes, as upstream."""
    return f"{value[:-2]}a" if len(value) > 1 and value[-1] == "-" else value


def env_var_name(value: str) -> list[str]:
    return _env_var(value) + _parent_directory(value)


def relaxed_env_var_name(value: str) -> list[str]:
    """What a container's environment accepts since 1.34: anything printable but `=`."""
    if not value:
        return [f"environment variable name {EMPTY_ERROR}"]
    return [] if all(" " <= char <= "~" and char != "=" for char in value) else [_RELAXED_ENV_VAR_ERROR]


def config_map_key(value: str) -> list[str]:
    return _config_map_key(value) + _parent_directory(value)


def _parent_directory(value: str) -> list[str]:
    """Names become files: they must not lead out of their directory."""
    if value in (".", ".."):
        return [f"must not be '{value}'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def port_name(value: str) -> list[str]:
    """An IANA service name, as `targetPort: http` uses it."""
    errors = [max_length_error(PORT_NAME_MAX)] if _bytes(value) > PORT_NAME_MAX else []
    if not _is_port_charset(value):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not _has_letter(value):
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def port_number(value: int) -> list[str]:
    return in_range(value, 1, 65535)


def user_id(value: int) -> list[str]:
    return in_range(value, 0, ID_MAX)


def group_id(value: int) -> list[str]:
    return in_range(value, 0, ID_MAX)


def in_range(value: int, low: int, high: int) -> list[str]:
    return [] if low <= value <= high else [range_error(low, high)]


def fully_qualified_name(value: str) -> list[str]:
    """A name of three parts or more, as an APIService or a finalizer's domain."""
    errors = dns1123_subdomain(value)
    if errors:
        return [",".join(errors)]
    return [] if value.count(".") >= 2 else ["should be a domain with at least three segments separated by dots"]


def domain_prefixed_path(value: str) -> list[str]:
    """`acme.io/foo`, as signer names and finalizers use it."""
    host, _, path = value.partition("/")
    if not host or not path:
        return ['must be a domain-prefixed path (such as "acme.io/foo")']
    errors = dns1123_subdomain(host)
    return errors if _is_http_path(path) else [*errors, regex_error("Invalid path", _HTTP_PATH)]


_IP_ERROR = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_CIDR_ERROR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_leading_zeros = re.compile(r"(?<![0-9a-fA-F:.])0+(?=[0-9])|(?<=\.)0+(?=[0-9])").sub


def ip(value: str) -> list[str]:
    """An IP address as fields that predate strict parsing accept it: leading zeros and IPv4-mapped IPv6 are fine."""
    return [] if _sloppy_ip(value) is not None else [_IP_ERROR]


def strict_ip(value: str) -> list[str]:
    """An IP address in the one canonical form, as newer fields demand it."""
    address = _sloppy_ip(value)
    if address is None:
        return [_IP_ERROR]
    if _plain_ip(value) is None:
        return ["must not have leading 0s"]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return ["must not be an IPv4-mapped IPv6 address"]
    return [] if str(address) == value else [f'must be in canonical form ("{address}")']


def cidr(value: str) -> list[str]:
    """An IP network as fields that predate strict parsing accept it: bits after the prefix may be set."""
    return [] if _sloppy_interface(value) is not None else [_CIDR_ERROR]


def strict_cidr(value: str) -> list[str]:
    """An IP network in the one canonical form."""
    interface = _sloppy_interface(value)
    if interface is None:
        return [_CIDR_ERROR]
    address, _, length = value.partition("/")
    if _plain_ip(address) is None or length != str(int(length)):
        return ["must not have leading 0s in IP or prefix length"]
    if isinstance(interface, ipaddress.IPv6Interface) and interface.ip.ipv4_mapped:
        return ["must not have an IPv4-mapped IPv6 address"]
    if interface.ip != interface.network.network_address:
        return ["must not have bits set beyond the prefix length"]
    return [] if str(interface.network) == value else [f'must be in canonical form ("{interface.network}")']


def _plain_ip(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "%" in value or "/" in value or not value.isascii():  # Python takes scopes, Go's parser of addresses does not
        return None
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def _sloppy_ip(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    return _plain_ip(value) or (_plain_ip(_leading_zeros("", value)) if "." in value else None)


def _sloppy_interface(value: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    text, _, length = value.partition("/")
    address = _sloppy_ip(text)
    if address is None or not (length.isascii() and length.isdigit()) or len(length) > PORT_NAME_MAX:
        return None
    return ipaddress.ip_interface(f"{address}/{int(length)}") if int(length) <= address.max_prefixlen else None
