"""Fixtures of the tests that run containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.kernel.runtime.node import Node, running_node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node() as made:
        yield made
