"""How log lines look: the event first, then its fields as `key=value`.

2026-01-31 12:00:00,000 INFO    havre.node.runtime.images: pulled reference=registry.example/a:1 seconds=0.8
"""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Fields(logging.Formatter):
    """The standard line, and what was given as `extra`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        line = super().formatMessage(record)
        fields = " ".join(f"{key}={_plain(value)}" for key, value in vars(record).items() if key not in _STANDARD)
        return f"{line} {fields}" if fields else line


def _plain(value: object) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "\n') else repr(text)


def setup(*, verbose: bool = False) -> None:
    """To the standard error stream; `verbose` logs decisions too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields(_FORMAT))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
