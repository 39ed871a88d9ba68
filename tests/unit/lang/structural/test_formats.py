"""Formats of strings, as upstream's strfmt judges them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.structural.formats import FORMATS, check_of


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29"], ["2023-02-29", "20240229", "x"]),
        (
            "date-time",
            ["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
            ["2014-12-15", "2014-12-15T25:00:00Z", "T"],
        ),
        ("duration", ["1h30m", "22 ns", "0", "-1.5s", "3 days"], ["x", "1", ""]),
        ("ipv4", ["1.2.3.4", "01.2.3.4"], ["256.1.1.1", "::1", "1.2.3"]),
        ("ipv6", ["::1", "::ffff:1.2.3.4"], ["1.2.3.4", ":::", "fe80::1%eth0"]),
        ("cidr", ["10.0.0.0/8", "::/0"], ["10.0.0.0", "10.0.0.0/33", "x/8"]),
        ("mac", ["00:11:22:aa:bb:cc", "0011.22aa.bbcc"], ["00:11:22", "00:11:22:aa:bb:cg"]),
        ("uri", ["https://a.b/c?d", "/x", "mailto:a"], ["x y", "a b://c", "https://a b/"]),
        ("uuid", ["0B5CE1F2-3f3a-4b3c-8b1e-000000000000"], ["x", "0B5CE1F2"]),
        ("uuid4", ["0b5ce1f2-3f3a-4b3c-8b1e-000000000000"], ["0b5ce1f2-3f3a-1b3c-8b1e-000000000000"]),
        ("byte", ["YQ==", "YWJj"], ["%", "YQ", ""]),
        ("email", ["a@b.c", "A <a@b>"], ["x", "a@", "@b"]),
        ("hostname", ["a-b.example", "host"], ["_x", "a b", "x" * 300]),
        ("isbn", ["0321751043", "978-0321751041"], ["0321751044"]),
        ("creditcard", ["4111 1111 1111 1111"], ["4111 1111 1111 1112"]),
        ("hexcolor", ["#FFFFFF", "abc"], ["#FFFF"]),
        ("rgbcolor", ["rgb(255,0,1)"], ["rgb(256,0,0)"]),
        ("password", ["anything"], []),
        ("k8s-short-name", ["a-b"], ["a.b", "A"]),
        ("k8s-long-name", ["a.b"], ["a..b"]),
    ],
)
def test_format_takes_what_is_good_and_nothing_else(name: str, good: list[str], bad: list[str]) -> None:
    check = check_of(name)
    assert check is not None
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


def test_format_that_upstream_does_not_know_means_nothing() -> None:
    assert check_of("int32") is None


@settings(max_examples=50)
@given(st.sampled_from(sorted(FORMATS)), st.text(max_size=30) | st.from_regex("[0-9a-f:./@#%()-]{0,30}"))
def test_no_text_makes_a_check_fail(name: str, text: str) -> None:
    assert FORMATS[name](text) in (True, False)
