"""How a build fails: one exception, whose message names the file and the field."""

from __future__ import annotations


class BuildError(ValueError):
    """What was read, where, what is wrong with it, and where it helps, what to do."""
