"""What a part may raise at its start."""

from __future__ import annotations


class StartFailed(Exception):
    """A part could not start; the message says what was attempted, on what, and what to do."""
