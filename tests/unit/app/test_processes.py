"""Which processes there are, and what they import before their turn."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from havre.app.config import Config
from havre.app.processes import processes

CONFIG = Config(Path("/nowhere"), with_node=True)


def test_without_a_node_the_truth_is_alone() -> None:
    names = [process.name for process in processes(replace(CONFIG, with_node=False))]
    assert "control" in names
    assert "node" not in names


def test_every_module_to_import_exists() -> None:
    """A name that is wrong costs time at each start, and nobody would notice."""
    named = {module for process in processes(CONFIG) for module in (*process.preload, *process.own)}
    assert {module for module in named if importlib.util.find_spec(module) is None} == set()
