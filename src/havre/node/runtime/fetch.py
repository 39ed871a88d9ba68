"""Fetching blobs from a registry into the content store: verified, resumed, and never the same twice at once.

Two pulls that need one blob share the lock of its digest: the second finds it there. If the first fails, the second
tries with its own credentials. A blob that arrives with another hash is thrown away and asked for once more from the
other endpoints: a broken mirror must not spoil what the registry itself has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from havre.node.runtime.content import Content, Mismatch
from havre.wire.oci import errors as oci
from havre.wire.oci.digest import Digest
from havre.wire.oci.documents import MANIFEST_LIMIT, Descriptor, Index, Manifest, parse_manifest
from havre.wire.oci.registry import Endpoint, RegistryClient

LAYERS_AT_ONCE = 3  # of one pull, as containerd and Docker do: more only divide the same line


class Fetcher:
    """Brings blobs into one content store."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}  # with the number of those who want it

    async def manifest(self, client: RegistryClient, repository: str, wanted: Descriptor) -> Manifest | Index:
        """Raises OciError, ContentError."""
        if wanted.size > MANIFEST_LIMIT:
            raise oci.InvalidDocument(f"manifest {wanted.digest}: {wanted.size} bytes, the limit is {MANIFEST_LIMIT}")
        if self._content.has(wanted.digest):
            try:
                return parse_manifest(self._content.read(wanted.digest, MANIFEST_LIMIT), wanted.media_type)
            except Mismatch:
                await self._content.delete(wanted.digest)
        fetched = await client.manifest(repository, wanted.digest)
        if len(fetched.data) != wanted.size:
            raise oci.BadContent(f"manifest {wanted.digest}: {len(fetched.data)} bytes, {wanted.size} were promised")
        document = parse_manifest(fetched.data, wanted.media_type or fetched.descriptor.media_type)
        await self._content.put(fetched.data, wanted.digest)
        return document

    async def blob(self, client: RegistryClient, repository: str, wanted: Descriptor) -> None:
        """Raises OciError, ContentError."""
        lock, wanting = self._locks.get(wanted.digest, (asyncio.Lock(), 0))
        self._locks[wanted.digest] = (lock, wanting + 1)
        try:
            async with lock:
                if not self._there(wanted):
                    await self._fetch(client, repository, wanted)
        finally:
            lock, wanting = self._locks[wanted.digest]
            if wanting == 1:
                del self._locks[wanted.digest]
            else:
                self._locks[wanted.digest] = (lock, wanting - 1)

    def _there(self, wanted: Descriptor) -> bool:
        if not self._content.has(wanted.digest):
            return False
        size = self._content.size(wanted.digest)
        if size != wanted.size:
            raise oci.InvalidDocument(f"blob {wanted.digest}: it has {size} bytes, the manifest says {wanted.size}")
        return True

    async def _fetch(self, client: RegistryClient, repository: str, wanted: Descriptor) -> None:
        avoid: list[Endpoint] = []
        while True:
            ref = f"fetch-{wanted.digest}"
            async with await self._content.writer(ref, expected=wanted.digest, size=wanted.size) as writer:
                try:
                    avoid.append(await client.blob(repository, wanted, writer, avoid))
                    await writer.commit()
                    return
                except Mismatch:
                    if all(endpoint in avoid for endpoint in client.endpoints):
                        raise


async def fetch_all(
    fetcher: Fetcher, client: RegistryClient, repository: str, layers: Sequence[Descriptor], at_once: int
) -> AsyncGenerator[int, None]:
    """Fetch the layers, `at_once` at a time; says how many from the bottom are there, whenever that grows.

    The first failure ends the others.
    """
    slots = asyncio.Semaphore(at_once)

    async def fetch(layer: Descriptor) -> None:
        async with slots:
            await fetcher.blob(client, repository, layer)

    tasks = [asyncio.create_task(fetch(layer)) for layer in layers]
    pending = set(tasks)
    ready = 0
    try:
        while ready < len(tasks):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            before = ready
            while ready < len(tasks) and tasks[ready].done():
                ready += 1
            if ready > before:
                yield ready
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
