"""Log lines show what happened and to what."""

from __future__ import annotations

import logging
import sys

import pytest

from havre.app import log


@pytest.fixture
def formatted() -> logging.Formatter:
    return log._Fields("%(levelname)s %(message)s")


def test_fields_follow_the_event(formatted: logging.Formatter) -> None:
    record = logging.getLogger("x").makeRecord(
        "x", logging.INFO, "f", 1, "pulled %s", ("a",), None, extra={"seconds": 0.5, "why": "two words", "none": ""}
    )
    assert formatted.format(record) == "INFO pulled a seconds=0.5 why='two words' none=''"


def test_an_exception_comes_after_the_fields(formatted: logging.Formatter) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "failed", (), sys.exc_info(), extra={"part": "node"}
        )
    first, *_, last = formatted.format(record).splitlines()
    assert (first, last) == ("ERROR failed part=node", "ValueError: no")
