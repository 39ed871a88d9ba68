from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.platform.gitops.ignore import Ignore, IgnoreError, glob, ignore_of, patterns


def kept(ignore: Ignore, *paths: str) -> list[str]:
    return [path for path in paths if ignore.wanted(path)]


def test_without_patterns_pictures_archives_and_ci_files_stay_out() -> None:
    ignore = ignore_of({}, None)
    assert kept(
        ignore,
        "app.yaml",
        "docs/logo.png",
        "a.tar.gz",
        ".github/workflows/x.yaml",
        ".gitignore",
        "deep/.sops.yaml",
        ".sourceignore",
        "deep/.git/config",
    ) == ["app.yaml", ".sourceignore"]


def test_with_a_pattern_of_ones_own_only_the_files_of_git_stay_out() -> None:
    ignore = ignore_of({}, "*.txt")
    assert kept(ignore, "a.png", "b.txt", ".gitmodules", ".github/x") == ["a.png", ".github/x"]


def test_a_comment_is_no_pattern_and_a_blank_spec_keeps_the_built_in_ones() -> None:
    assert kept(ignore_of({}, "# all\n\n  \n"), "a.png", "a") == ["a"]


def test_everything_but_one_directory() -> None:
    ignore = ignore_of({}, "/*\n!/deploy\n/deploy/*.md\n")
    assert kept(ignore, "a", "src/deploy/b", "deploy/c.yaml", "deploy/d.md", "deploy/e/f.md") == [
        "deploy/c.yaml",
        "deploy/e/f.md",
    ]


def test_a_file_of_patterns_speaks_for_its_directory_and_spec_has_the_last_word() -> None:
    ignore = ignore_of({".sourceignore": b"*.md\n", "a/.sourceignore": b"!keep.md\nsecret\n"}, "!always.md")
    assert kept(ignore, "x.md", "keep.md", "a/keep.md", "a/secret", "secret", "b/always.md") == [
        "a/keep.md",
        "secret",
        "b/always.md",
    ]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("build/", "build/x a/build/x", "build a/build"),
        ("a/b", "a/b a/b/c", "x/a/b"),
        ("**/b", "a/b a/x/b b/c", "ab"),
        ("a/**/z", "a/z a/x/z a/x/y/z", "z b/z"),
        ("a/**", "a/x a/x/y", "b"),
        ("A.md", "A.md", "a.md"),
        ("[a-c]?.y*ml", "ab.yaml cd.yml", "dd.yaml a.yaml"),
        ("[^a]x", "bx", "ax"),
        ("\\!x", "!x", "x"),
        ("x  ", "x", "y"),
    ],
)
def test_a_pattern_matches_what_upstream_says(pattern: str, yes: str, no: str) -> None:
    ignore = Ignore(patterns(pattern))
    assert kept(ignore, *yes.split()) == []
    assert kept(ignore, *no.split()) == no.split()


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(IgnoreError):
        ignore_of({}, "a\n" * 10_001)


def test_stars_do_not_take_for_ever() -> None:
    assert not glob("*a" * 50 + "b", "a" * 200)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.text("ab/.", min_size=1, max_size=20))
def test_any_text_is_a_pattern(text: str, path: str) -> None:
    ignore_of({".sourceignore": text.encode(errors="replace")}, text).wanted(path)
