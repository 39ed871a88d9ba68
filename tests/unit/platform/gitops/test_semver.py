from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.platform.gitops.semver import Constraint, InvalidVersion, Version


@pytest.mark.parametrize(
    ("constraint", "yes", "no"),
    [
        ("*", "0.0.1 1.2.3", "1.0.0-rc.1"),
        ("1.2.3", "1.2.3 1.2.3+b v1.2.3", "1.2.4 1.2.3-rc.1"),
        ("1.2", "1.2.0 1.2.9", "1.3.0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("~1", "1.9.0", "2.0.0"),
        ("^1.2.3", "1.2.3 1.9.0", "2.0.0 1.2.2"),
        ("^0.2.3", "0.2.9", "0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("^0", "0.9.9", "1.0.0"),
        (">=1.0 <2", "1.0.0 1.9.9", "2.0.0 0.9.9"),
        (">=1.0, !=1.5.0", "1.4.0", "1.5.0"),
        (">11", "12.0.0", "11.1.0"),
        ("<=11", "11.9.0", "12.0.0"),
        ("1.2 - 1.4.5", "1.2.0 1.4.5", "1.4.6"),
        ("1.x || >=3", "1.1.0 3.0.0", "2.0.0"),
        (">=1.0.0-0", "1.0.0-rc.1 2.0.0-alpha", "0.9.0"),
        ("!=1.2", "1.3.0", "1.2.7"),
    ],
)
def test_a_range_holds_what_upstream_says(constraint: str, yes: str, no: str) -> None:
    parsed = Constraint.parse(constraint)
    assert [v for v in yes.split() if not parsed.allows(Version.parse(v))] == []
    assert [v for v in no.split() if parsed.allows(Version.parse(v))] == []


def test_versions_are_ordered_as_the_standard_says() -> None:
    ordered = [
        "1.0.0-1",
        "1.0.0-2",
        "1.0.0-10",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-beta",
        "1.0.0",
        "1.0.1",
        "1.10.0",
    ]
    versions = [Version.parse(text) for text in ordered]
    assert sorted([*versions[4:], *versions[:4]]) == versions
    assert Version.parse("1.0.0+a") == Version.parse("v1.0.0+b")


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "01.2.3", "1.2.3-01", "1.2.3.4", "latest", "vv1.2.3", "1.2.3 ", "1" * 300]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidVersion):
        Version.parse(text)


@pytest.mark.parametrize("text", ["", "what", ">1 || what", "1.2.3.4", "1 -", "^1.2.3,", ">" * 5000])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidVersion):
        Constraint.parse(text)


@settings(max_examples=50, deadline=None)
@given(st.text("0123456789.xX*v-+<>=!~^|, ab", max_size=60))
def test_any_text_is_a_range_or_refused(text: str) -> None:
    try:
        parsed = Constraint.parse(text)
    except InvalidVersion:
        return
    parsed.allows(Version.parse("1.2.3"))
