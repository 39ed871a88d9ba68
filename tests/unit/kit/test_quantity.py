"""Quantities: what apimachinery's resource package makes of these texts (v0.34.4), and the laws of amounts."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.kit.quantity import NANO, ZERO, Format, Quantity, QuantityError, parse

# text, as it is shown, as it is shown after a calculation, format, whole units, thousandths
QUANTITIES = [
    ("0", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("0n", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("0u", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("0m", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("0Ki", "0", "0", Format.BINARY_SI, 0, 0),
    ("0k", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("0E", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("1", "1", "1", Format.DECIMAL_SI, 1, 1000),
    ("+1", "+1", "1", Format.DECIMAL_SI, 1, 1000),
    ("-1", "-1", "-1", Format.DECIMAL_SI, -1, -1000),
    ("1Ki", "1Ki", "1Ki", Format.BINARY_SI, 1024, 1024000),
    ("8Ki", "8Ki", "8Ki", Format.BINARY_SI, 8192, 8192000),
    ("-8Ki", "-8Ki", "-8Ki", Format.BINARY_SI, -8192, -8192000),
    ("7Mi", "7Mi", "7Mi", Format.BINARY_SI, 7340032, 7340032000),
    ("6Gi", "6Gi", "6Gi", Format.BINARY_SI, 6442450944, 6442450944000),
    ("5Ti", "5Ti", "5Ti", Format.BINARY_SI, 5497558138880, 5497558138880000),
    ("4Pi", "4Pi", "4Pi", Format.BINARY_SI, 4503599627370496, 4503599627370496000),
    ("3Ei", "3Ei", "3Ei", Format.BINARY_SI, 3458764513820540928, 3458764513820540928000),
    ("7Ei", "7Ei", "7Ei", Format.BINARY_SI, 8070450532247928832, 8070450532247928832000),
    (
        "8Ei",
        "9223372036854775807",
        "9223372036854775807",
        Format.BINARY_SI,
        9223372036854775807,
        9223372036854775807000,
    ),
    (
        "9Ei",
        "9223372036854775807",
        "9223372036854775807",
        Format.BINARY_SI,
        9223372036854775807,
        9223372036854775807000,
    ),
    ("10Ti", "10Ti", "10Ti", Format.BINARY_SI, 10995116277760, 10995116277760000),
    ("5n", "5n", "5n", Format.DECIMAL_SI, 1, 1),
    ("4u", "4u", "4u", Format.DECIMAL_SI, 1, 1),
    ("3m", "3m", "3m", Format.DECIMAL_SI, 1, 3),
    ("9", "9", "9", Format.DECIMAL_SI, 9, 9000),
    ("8k", "8k", "8k", Format.DECIMAL_SI, 8000, 8000000),
    ("50k", "50k", "50k", Format.DECIMAL_SI, 50000, 50000000),
    ("7M", "7M", "7M", Format.DECIMAL_SI, 7000000, 7000000000),
    ("6G", "6G", "6G", Format.DECIMAL_SI, 6000000000, 6000000000000),
    ("5T", "5T", "5T", Format.DECIMAL_SI, 5000000000000, 5000000000000000),
    ("40T", "40T", "40T", Format.DECIMAL_SI, 40000000000000, 40000000000000000),
    ("300T", "300T", "300T", Format.DECIMAL_SI, 300000000000000, 300000000000000000),
    ("2P", "2P", "2P", Format.DECIMAL_SI, 2000000000000000, 2000000000000000000),
    ("1E", "1E", "1E", Format.DECIMAL_SI, 1000000000000000000, 1000000000000000000000),
    ("9E", "9E", "9E", Format.DECIMAL_SI, 9000000000000000000, 9000000000000000000000),
    ("10E", "10E", "10E", Format.DECIMAL_SI, 10000000000000000000, 10000000000000000000000),
    ("1E-3", "1E-3", "1e-3", Format.DECIMAL_EXPONENT, 1, 1),
    ("1e3", "1e3", "1e3", Format.DECIMAL_EXPONENT, 1000, 1000000),
    ("1E6", "1E6", "1e6", Format.DECIMAL_EXPONENT, 1000000, 1000000000),
    ("1e9", "1e9", "1e9", Format.DECIMAL_EXPONENT, 1000000000, 1000000000000),
    ("1E12", "1E12", "1e12", Format.DECIMAL_EXPONENT, 1000000000000, 1000000000000000),
    ("1e15", "1e15", "1e15", Format.DECIMAL_EXPONENT, 1000000000000000, 1000000000000000000),
    ("1E18", "1E18", "1e18", Format.DECIMAL_EXPONENT, 1000000000000000000, 1000000000000000000000),
    ("1e14", "100e12", "100e12", Format.DECIMAL_EXPONENT, 100000000000000, 100000000000000000),
    ("1e13", "10e12", "10e12", Format.DECIMAL_EXPONENT, 10000000000000, 10000000000000000),
    ("1e-1", "100e-3", "100e-3", Format.DECIMAL_EXPONENT, 1, 100),
    ("1e-2", "10e-3", "10e-3", Format.DECIMAL_EXPONENT, 1, 10),
    ("100.035k", "100.035k", "100035", Format.DECIMAL_SI, 100035, 100035000),
    ("1.2Ki", "1228800m", "1228800m", Format.BINARY_SI, 1229, 1228800),
    ("1.5Gi", "1536Mi", "1536Mi", Format.BINARY_SI, 1610612736, 1610612736000),
    ("1.1Ki", "1126400m", "1126400m", Format.BINARY_SI, 1127, 1126400),
    ("0.5Ki", "512", "512", Format.BINARY_SI, 512, 512000),
    ("0.5Mi", "512Ki", "512Ki", Format.BINARY_SI, 524288, 524288000),
    ("0.0001Ki", "102400u", "102400u", Format.DECIMAL_SI, 1, 103),
    ("0.001", "1m", "1m", Format.DECIMAL_SI, 1, 1),
    ("0.0005", "500u", "500u", Format.DECIMAL_SI, 1, 1),
    ("1.500", "1.500", "1500m", Format.DECIMAL_SI, 2, 1500),
    ("1.5", "1500m", "1500m", Format.DECIMAL_SI, 2, 1500),
    ("1.50", "1500m", "1500m", Format.DECIMAL_SI, 2, 1500),
    ("0.500", "500m", "500m", Format.DECIMAL_SI, 1, 500),
    ("0.5", "500m", "500m", Format.DECIMAL_SI, 1, 500),
    (".5", "500m", "500m", Format.DECIMAL_SI, 1, 500),
    ("5.", "5.", "5", Format.DECIMAL_SI, 5, 5000),
    (".", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("-.", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("1.0", "1", "1", Format.DECIMAL_SI, 1, 1000),
    ("1.000", "1", "1", Format.DECIMAL_SI, 1, 1000),
    ("1000", "1k", "1k", Format.DECIMAL_SI, 1000, 1000000),
    ("1100", "1100", "1100", Format.DECIMAL_SI, 1100, 1100000),
    ("1000000", "1M", "1M", Format.DECIMAL_SI, 1000000, 1000000000),
    ("1000m", "1", "1", Format.DECIMAL_SI, 1, 1000),
    ("1500m", "1500m", "1500m", Format.DECIMAL_SI, 2, 1500),
    ("1Mi", "1Mi", "1Mi", Format.BINARY_SI, 1048576, 1048576000),
    ("1024", "1024", "1024", Format.DECIMAL_SI, 1024, 1024000),
    ("1024Ki", "1Mi", "1Mi", Format.BINARY_SI, 1048576, 1048576000),
    ("1025Ki", "1025Ki", "1025Ki", Format.BINARY_SI, 1049600, 1049600000),
    ("1023Ki", "1023Ki", "1023Ki", Format.BINARY_SI, 1047552, 1047552000),
    ("512Ki", "512Ki", "512Ki", Format.BINARY_SI, 524288, 524288000),
    ("1536Ki", "1536Ki", "1536Ki", Format.BINARY_SI, 1572864, 1572864000),
    ("0.9Ki", "921600m", "921600m", Format.BINARY_SI, 922, 921600),
    ("1.001Ki", "1025024m", "1025024m", Format.BINARY_SI, 1026, 1025024),
    ("007", "007", "7", Format.DECIMAL_SI, 7, 7000),
    ("007Ki", "007Ki", "7Ki", Format.BINARY_SI, 7168, 7168000),
    ("1n", "1n", "1n", Format.DECIMAL_SI, 1, 1),
    ("0.1n", "1n", "1n", Format.DECIMAL_SI, 1, 1),
    ("0.01n", "1n", "1n", Format.DECIMAL_SI, 1, 1),
    ("1e-9", "1e-9", "1e-9", Format.DECIMAL_EXPONENT, 1, 1),
    ("1e-10", "1e-9", "1e-9", Format.DECIMAL_EXPONENT, 1, 1),
    ("1.0000000001", "1000000001n", "1000000001n", Format.DECIMAL_SI, 2, 1001),
    (
        "9223372036854775807",
        "9223372036854775807",
        "9223372036854775807",
        Format.DECIMAL_SI,
        9223372036854775807,
        9223372036854775807000,
    ),
    (
        "9223372036854775808",
        "9223372036854775808",
        "9223372036854775808",
        Format.DECIMAL_SI,
        9223372036854775808,
        9223372036854775808000,
    ),
    (
        "-9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775808",
        Format.DECIMAL_SI,
        -9223372036854775808,
        -9223372036854775808000,
    ),
    (
        "9223372036854775807Ki",
        "9223372036854775807",
        "9223372036854775807",
        Format.BINARY_SI,
        9223372036854775807,
        9223372036854775807000,
    ),
    (
        "92233720368547758070",
        "92233720368547758070",
        "92233720368547758070",
        Format.DECIMAL_SI,
        92233720368547758070,
        92233720368547758070000,
    ),
    ("1e19", "10e18", "10e18", Format.DECIMAL_EXPONENT, 10000000000000000000, 10000000000000000000000),
    ("1e21", "1e21", "1e21", Format.DECIMAL_EXPONENT, 1000000000000000000000, 1000000000000000000000000),
    ("1e20", "100e18", "100e18", Format.DECIMAL_EXPONENT, 100000000000000000000, 100000000000000000000000),
    (
        "12345678901234567890123",
        "12345678901234567890123",
        "12345678901234567890123",
        Format.DECIMAL_SI,
        12345678901234567890123,
        12345678901234567890123000,
    ),
    ("100000000000000000000", "100E", "100E", Format.DECIMAL_SI, 100000000000000000000, 100000000000000000000000),
    ("1.1E", "1100P", "1100P", Format.DECIMAL_SI, 1100000000000000000, 1100000000000000000000),
    ("1.1E1", "1.1E1", "11", Format.DECIMAL_EXPONENT, 11, 11000),
    ("1e+3", "1e+3", "1e3", Format.DECIMAL_EXPONENT, 1000, 1000000),
    ("-", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("+", "0", "0", Format.DECIMAL_SI, 0, 0),
    (
        "1e99",
        "1e99",
        "1e99",
        Format.DECIMAL_EXPONENT,
        1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000,
        1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000,
    ),
    (
        "1E100",
        "10e99",
        "10e99",
        Format.DECIMAL_EXPONENT,
        10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000,
        10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000,
    ),
    ("-1Ki", "-1Ki", "-1Ki", Format.BINARY_SI, -1024, -1024000),
    ("-0.5Ki", "-512", "-512", Format.BINARY_SI, -512, -512000),
    ("-1.5Gi", "-1536Mi", "-1536Mi", Format.BINARY_SI, -1610612736, -1610612736000),
    ("-1.1", "-1100m", "-1100m", Format.DECIMAL_SI, -2, -1100),
    ("-1.0000000001", "-1000000001n", "-1000000001n", Format.DECIMAL_SI, -2, -1001),
    ("-0.1n", "-1n", "-1n", Format.DECIMAL_SI, -1, -1),
    ("1.5k", "1500", "1500", Format.DECIMAL_SI, 1500, 1500000),
    ("0.1k", "100", "100", Format.DECIMAL_SI, 100, 100000),
    ("10k", "10k", "10k", Format.DECIMAL_SI, 10000, 10000000),
    ("1000k", "1M", "1M", Format.DECIMAL_SI, 1000000, 1000000000),
    ("999", "999", "999", Format.DECIMAL_SI, 999, 999000),
    ("999999", "999999", "999999", Format.DECIMAL_SI, 999999, 999999000),
    ("1000001m", "1000001m", "1000001m", Format.DECIMAL_SI, 1001, 1000001),
    ("100m", "100m", "100m", Format.DECIMAL_SI, 1, 100),
    ("10m", "10m", "10m", Format.DECIMAL_SI, 1, 10),
    ("1m", "1m", "1m", Format.DECIMAL_SI, 1, 1),
    ("250m", "250m", "250m", Format.DECIMAL_SI, 1, 250),
    ("0.25", "250m", "250m", Format.DECIMAL_SI, 1, 250),
    ("0.0000001", "100n", "100n", Format.DECIMAL_SI, 1, 1),
    ("123.456m", "123.456m", "123456u", Format.DECIMAL_SI, 1, 124),
    (
        "1234567890.123456789",
        "1234567890123456789n",
        "1234567890123456789n",
        Format.DECIMAL_SI,
        1234567891,
        1234567890124,
    ),
    (
        "1234567890.1234567891",
        "1234567890123456790n",
        "1234567890123456790n",
        Format.DECIMAL_SI,
        1234567891,
        1234567890124,
    ),
    ("1.123456789", "1.123456789", "1123456789n", Format.DECIMAL_SI, 2, 1124),
    ("12Mi", "12Mi", "12Mi", Format.BINARY_SI, 12582912, 12582912000),
    ("1000Ki", "1000Ki", "1000Ki", Format.BINARY_SI, 1024000, 1024000000),
    ("1024Mi", "1Gi", "1Gi", Format.BINARY_SI, 1073741824, 1073741824000),
    ("100Gi", "100Gi", "100Gi", Format.BINARY_SI, 107374182400, 107374182400000),
    ("1000Gi", "1000Gi", "1000Gi", Format.BINARY_SI, 1073741824000, 1073741824000000),
    ("2048", "2048", "2048", Format.DECIMAL_SI, 2048, 2048000),
    ("3Ki", "3Ki", "3Ki", Format.BINARY_SI, 3072, 3072000),
    ("16Ki", "16Ki", "16Ki", Format.BINARY_SI, 16384, 16384000),
    ("0.3Gi", "322122547200m", "322122547200m", Format.BINARY_SI, 322122548, 322122547200),
    ("0.3", "300m", "300m", Format.DECIMAL_SI, 1, 300),
    ("0e5", "0", "0", Format.DECIMAL_EXPONENT, 0, 0),
    ("0.0", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("00", "0", "0", Format.DECIMAL_SI, 0, 0),
    ("000.00Ki", "0", "0", Format.BINARY_SI, 0, 0),
    ("1e0", "1e0", "1", Format.DECIMAL_EXPONENT, 1, 1000),
    ("12e6", "12e6", "12e6", Format.DECIMAL_EXPONENT, 12000000, 12000000000),
    ("12e7", "120e6", "120e6", Format.DECIMAL_EXPONENT, 120000000, 120000000000),
    ("5e-1", "500e-3", "500e-3", Format.DECIMAL_EXPONENT, 1, 500),
    ("3.0000", "3", "3", Format.DECIMAL_SI, 3, 3000),
]
MALFORMED = ["1.1.1", "1,000", "", "a", "1a", "1e1a", "1e1.5", "0x10", "1_0", "٣", "1e-3Ki"]
BAD_SUFFIX = ["1e", "1ee3", "1em", "1i", "1K", "1mi", "1kk", "1iK", "1Ki1", "--1", "+-1"]


@pytest.mark.parametrize(("text", "shown", "canonical", "format_", "value", "milli"), QUANTITIES)
def test_a_text_is_read_as_upstream_reads_it(
    text: str, shown: str, canonical: str, format_: Format, value: int, milli: int
) -> None:
    quantity = parse(text)
    assert (str(quantity), str(quantity + ZERO), quantity.format) == (shown, canonical, format_)
    assert (quantity.value(), quantity.milli_value()) == (value, milli)


@pytest.mark.parametrize("text", MALFORMED)
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(QuantityError) as error:
        parse(text)
    assert str(error.value) == "quantities must match the regular expression " + (
        "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )


@pytest.mark.parametrize("text", [*BAD_SUFFIX, "1e999999999", "1e-257"])
def test_an_unknown_suffix_is_refused(text: str) -> None:
    with pytest.raises(QuantityError) as error:
        parse(text)
    assert str(error.value) == "unable to parse quantity's suffix"


def test_a_text_too_long_to_be_a_number_of_anything_is_refused() -> None:
    with pytest.raises(QuantityError, match="unable to parse numeric part of quantity: 5000 characters"):
        parse("9" * 5000)


def test_beyond_the_last_suffix_an_exponent_is_written() -> None:
    assert str(parse("1000E")) == "1e21"


@pytest.mark.parametrize(
    ("left", "right", "total", "rest"),
    [
        ("0", "100m", "100m", "-100m"),
        ("100m", "0", "100m", "100m"),
        ("0", "1Gi", "1Gi", "-1Gi"),
        ("1Gi", "512Mi", "1536Mi", "512Mi"),
        ("1Gi", "1k", "1073742824", "1073740824"),
        ("500m", "1500m", "2", "-1"),
        ("1", "1Ki", "1025", "-1023"),
        ("1e3", "1k", "2e3", "0"),
    ],
)
def test_sums_keep_the_format_of_the_first_that_is_not_zero(left: str, right: str, total: str, rest: str) -> None:
    assert str(parse(left) + parse(right)) == total
    assert str(parse(left) - parse(right)) == rest


@pytest.mark.parametrize(
    ("left", "right", "order"), [("100m", "50m", 1), ("50m", "0.1", -1), ("10000T", "100Gi", 1), ("1024", "1Ki", 0)]
)
def test_quantities_compare_by_amount(left: str, right: str, order: int) -> None:
    one, other = parse(left), parse(right)
    assert (one > other) - (one < other) == order
    assert (one == other) == (order == 0)
    assert order or hash(one) == hash(other)


def test_amounts_can_be_made_without_text() -> None:
    assert str(Quantity.of(3)) == "3"
    assert str(Quantity.of(2**30, Format.BINARY_SI)) == "1Gi"
    assert str(Quantity.of_milli(1500)) == "1500m"
    assert str(Quantity.of(250) * 4) == "1k"
    assert not ZERO
    assert parse("1500m").amount == Fraction(3, 2)


AMOUNTS = st.builds(Quantity, st.integers(-(10**30), 10**30), st.sampled_from(Format))


@settings(max_examples=50)
@given(AMOUNTS)
def test_what_is_written_is_read_back(quantity: Quantity) -> None:
    again = parse(str(quantity))
    in_bounds = quantity.format is not Format.BINARY_SI or abs(quantity.nano) < 2**63 * NANO
    assert again == quantity or not in_bounds
    assert str(again) == str(quantity) or not in_bounds


@settings(max_examples=50)
@given(AMOUNTS, AMOUNTS)
def test_what_is_added_can_be_taken_away(left: Quantity, right: Quantity) -> None:
    assert left + right - right == left
    assert (left < right) is (left.nano < right.nano)
    assert abs(left.value()) * NANO - abs(left.nano) in range(NANO)


@settings(max_examples=50)
@given(st.text(alphabet="0123456789.+-eEinumkKMGTP x", max_size=12) | st.text(max_size=300))
def test_any_text_is_read_or_refused_with_the_one_error(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert parse(str(parse(text))) == parse(text)
