from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from havre.control.store.log import PUT, Row, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    store = Store.open(path)
    store.start(lambda rows: None)
    yield store
    await store.close()


@pytest.fixture
def put() -> Callable[..., Awaitable[Row]]:
    async def put(store: Store, key: str, prev: Row | None = None, size: int = 8) -> Row:
        created, superseded = (prev.created, prev.revision) if prev else (0, 0)
        return await store.append(key, PUT, created, superseded, lambda revision: b"%d:" % revision + b"x" * size)

    return put
