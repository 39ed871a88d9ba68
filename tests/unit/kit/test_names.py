"""Names: the cases of apimachinery's validation tests, and the words of the API server."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.kit import names

ACCEPTED: dict[names.Check, list[str]] = {
    names.dns1123_label: ["a", "ab", "a1", "a-1", "a--1--2--b", "0", "01", "0a", "0--1--2", "a" * 63],
    names.dns1035_label: ["a", "ab", "abc", "a1", "a-1", "a--1--2--b", "a" * 63],
    names.dns1123_subdomain: ["a", "a-1", "0", "a.a", "ab.a-1.0", "a1.b2.c-3.4", "a" * 253],
    names.dns1123_subdomain_with_underscore: ["a", "_a.b", "ab_c.d"],
    names.wildcard_dns1123_subdomain: ["*.example.com", "*.a", "*.bar.com"],
    names.c_identifier: ["a", "_", "A", "a_1", "__init__"],
    names.qualified_name: [
        "simple",
        "now-with-dashes",
        "1-starts-with-num",
        "1234",
        "simple/simple",
        "a.b/c_d.e",
        "1/2",
    ],
    names.label_value: ["", "simple", "with_under.dot-dash", "1234", "a" * 63],
    names.path_segment: ["a", "a.b", ":", "x..", "a b"],
    names.env_var_name: ["my.env", "_A", "-x", "A1"],
    names.relaxed_env_var_name: ["1", "a b", "$(x)", "a~"],
    names.config_map_key: ["a", "good", ".dot", "a..b", "x" * 253],
    names.port_name: ["a", "http", "1a", "a-b", "a" * 15],
    names.http_header_name: ["X-Requested-With", "a"],
    names.percent: ["0%", "99%", "100%"],
    names.ip: ["1.2.3.4", "::1", "010.002.003.004", "::ffff:1.2.3.4", "FE80::0abc"],
    names.strict_ip: ["1.2.3.4", "fe80::abc", "::"],
    names.cidr: ["1.2.3.0/24", "10.0.0.5/8", "010.0.0.0/08", "::/0"],
    names.strict_cidr: ["1.2.3.0/24", "::/0", "fd00::/8"],
    names.fully_qualified_name: ["a.b.c", "v1.apps.example.com"],
    names.domain_prefixed_path: ["a/b", "acme.io/foo", "acme.io/foo/bar"],
    names.dns1123_subdomain_prefix: ["web-", "web"],
    names.dns1123_label_prefix: ["web-", "web"],
    names.dns1035_label_prefix: ["web-", "web"],
    names.path_segment_prefix: [".", "..", "x-"],
}
REFUSED: dict[names.Check, list[str]] = {
    names.dns1123_label: ["", "A", "a-", "-a", "a.b", "a_b", "a b", "é", "a\n", "a" * 64],
    names.dns1035_label: ["", "0", "01", "0a", "A", "a-", "-", "a.", "a" * 64],
    names.dns1123_subdomain: ["", "A", "aBc", "a.", ".a", "a..b", "-a", "a/b", "a@b", "1 ", "a" * 254],
    names.dns1123_subdomain_with_underscore: ["", "__a", "a_"],
    names.wildcard_dns1123_subdomain: ["example.com", "*", "*.", "*.*.com", "f*.com"],
    names.c_identifier: ["", "1", "-", "a.b", "a b", "é"],
    names.qualified_name: [
        "",
        "nospecialchars%^=@",
        "cantendwithadash-",
        "-a",
        "only/one/slash",
        "Example.com/a",
        "/a",
        "a/",
    ],
    names.label_value: ["a" * 64, "-a", "a-", "a b", "a/b", "ü"],
    names.path_segment: [".", "..", "a/b", "a%b"],
    names.env_var_name: ["", "1", "a b", "a=b", "..", ".."],
    names.relaxed_env_var_name: ["", "a=b", "a\n", "é"],
    names.config_map_key: ["", ".", "..", "..x", "a b", "x" * 254],
    names.port_name: ["", "a" * 16, "A", "1", "80", "a--b", "-a", "a-", "*"],
    names.http_header_name: ["", "a b", "a:b"],
    names.percent: ["", "1", "1%%", "-1%", "a%"],
    names.ip: ["", "a", "1.2.3", "1.2.3.256", "::1%eth0", "1.2.3.4/32", "[::1]"],
    names.strict_ip: ["1.2.3.04", "::ffff:1.2.3.4", "FE80::1", "fe80:0::1", "x"],
    names.cidr: ["1.2.3.4", "1.2.3.0/33", "a/8", "1.2.3.0/a", "1.2.3.0/-1", "1.2.3.0/" + "9" * 5000],
    names.strict_cidr: ["1.2.3.4/24", "01.2.3.0/24", "1.2.3.0/024", "FD00::/8", "::ffff:1.2.3.0/120", "x"],
    names.fully_qualified_name: ["", "a.b", "A.b.c"],
    names.domain_prefixed_path: ["", "a", "/a", "a/", "A/b", "a/b c"],
    names.dns1123_subdomain_prefix: ["-", "Web-", ""],
    names.dns1123_label_prefix: ["-", "Web-", ""],
    names.dns1035_label_prefix: ["-", "12-", ""],
    names.path_segment_prefix: ["a/", "%"],
}


@pytest.mark.parametrize(("check", "value"), [(c, v) for c, values in ACCEPTED.items() for v in values])
def test_a_good_name_raises_no_complaint(check: names.Check, value: str) -> None:
    assert check(value) == []


@pytest.mark.parametrize(("check", "value"), [(c, v) for c, values in REFUSED.items() for v in values])
def test_a_bad_name_raises_a_complaint(check: names.Check, value: str) -> None:
    assert check(value)


def test_a_capital_in_a_subdomain_is_told_in_the_words_of_the_api_server() -> None:
    assert names.dns1123_subdomain("Web") == [
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ]


def test_several_examples_are_joined_with_the_two_spaces_of_upstream() -> None:
    assert names.dns1123_label("-") == [
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
        "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    ]


def test_a_subdomain_where_a_label_is_wanted_is_told_about_its_dots() -> None:
    assert names.dns1123_label("a.b") == ["must not contain dots"]
    assert names.dns1123_label("a." * 40 + "b") == ["must be no more than 63 characters", "must not contain dots"]


def test_length_is_counted_in_bytes() -> None:
    assert names.label_value("ü" * 32)[0] == "must be no more than 63 characters"


def test_each_part_of_a_label_key_is_named_in_its_complaints() -> None:
    errors = names.qualified_name("Bad/")
    assert [text.split(" must")[0] for text in errors] == [
        "prefix part a lowercase RFC 1123 subdomain",
        "name part",
        "name part",
    ]
    assert names.qualified_name("a/b/c")[0].startswith("a qualified name must consist of alphanumeric characters")
    assert names.qualified_name("/x") == ["prefix part must be non-empty"]


def test_names_that_leave_their_directory_are_refused_by_name() -> None:
    assert names.config_map_key("..") == ["must not be '..'"]
    assert names.config_map_key("..a") == ["must not start with '..'"]
    assert names.path_segment(".") == ["may not be '.'"]
    assert names.path_segment("a/%") == ["may not contain '/'", "may not contain '%'"]


def test_a_port_name_gathers_all_its_complaints() -> None:
    assert names.port_name("--") == [
        "must contain at least one letter (a-z)",
        "must not contain consecutive hyphens",
        "must not begin or end with a hyphen",
    ]


def test_numbers_have_inclusive_ranges() -> None:
    assert names.port_number(65535) == []
    assert names.port_number(0) == ["must be between 1 and 65535, inclusive"]
    assert names.user_id(2**31) == ["must be between 0 and 2147483647, inclusive"]
    assert names.group_id(-1) == ["must be between 0 and 2147483647, inclusive"]


def test_a_strict_address_is_told_its_canonical_form() -> None:
    assert names.strict_ip("FE80::1") == ['must be in canonical form ("fe80::1")']
    assert names.strict_ip("1.2.3.04") == ["must not have leading 0s"]
    assert names.strict_cidr("10.1.2.3/8") == ["must not have bits set beyond the prefix length"]


@settings(max_examples=50)
@given(st.text(max_size=300))
def test_a_valid_label_is_a_valid_subdomain_and_label_value(text: str) -> None:
    if not names.dns1123_label(text):
        assert names.dns1123_subdomain(text) == names.label_value(text) == names.path_segment(text) == []


@settings(max_examples=50)
@given(st.sampled_from(sorted(REFUSED, key=str)), st.text(max_size=300))
def test_no_text_breaks_a_check(check: names.Check, text: str) -> None:
    assert all(isinstance(complaint, str) for complaint in check(text))
