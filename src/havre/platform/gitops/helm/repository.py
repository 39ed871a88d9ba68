"""Charts from a Helm repository: an index over HTTP, or tags of an OCI registry.

    found = await find(Repository("https://charts.example"), "shop", ">=1.0.0")
    data = await download(found)

The newest version that the range allows is taken; a pre-release only when the range names one. Credentials go to the
host of the repository alone, unless it says otherwise. Sizes are bounded, digests verified where there are any.

Source: helm.sh/helm v4, pkg/repo/v1 (index.go, chartrepo.go), pkg/registry; fluxcd/source-controller, internal/helm.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import orjson

from havre.lang import yaml
from havre.lang.yaml import YAMLError
from havre.platform.gitops.semver import Constraint, InvalidVersion, Version
from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError
from havre.wire.oci.auth import Auth
from havre.wire.oci.digest import Digest
from havre.wire.oci.documents import Descriptor
from havre.wire.oci.errors import OciError
from havre.wire.oci.registry import Endpoint, RegistryClient

INDEX_BYTES = 50 << 20  # upstream's --helm-index-max-size
CHART_BYTES = 10 << 20  # upstream's --helm-chart-max-size
TIMEOUT = 60.0  # seconds of one download
REDIRECTS = 5
CHART_LAYER: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


class RepositoryError(Exception):
    """A repository that does not answer, or a chart that it does not have."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where, and as whom."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    pass_credentials: bool = False
    insecure: bool = False  # plain HTTP for OCI

    @property
    def oci(self) -> bool:
        return self.url.startswith("oci://")


@dataclass(frozen=True, slots=True)
class Found:
    """One version of a chart."""

    repository: Repository
    name: str
    version: str
    url: str  # of the archive; the tag of an OCI registry
    digest: str = ""  # sha256 in hex; "" when the index has none


async def find(repository: Repository, name: str, wanted: str) -> Found:
    """The newest version that is allowed. Raises RepositoryError."""
    try:
        constraint = Constraint.parse(wanted or "*")
    except InvalidVersion as error:
        raise RepositoryError(f"invalid chart version {wanted!r}: {error}") from error
    if repository.oci:
        tags = await _tags(repository, name)
        versions = {tag.replace("_", "+"): Found(repository, name, tag.replace("_", "+"), tag) for tag in tags}
    else:
        versions = _entries(repository, name, await _index(repository))
    exact = versions.get(wanted)
    if exact is not None:
        return exact
    allowed = [(version, text) for text in versions if (version := _version(text)) and constraint.allows(version)]
    if not allowed:
        raise RepositoryError(f"no '{name}' chart with version matching '{wanted or '*'}' found")
    return versions[max(allowed, key=lambda pair: pair[0])[1]]


async def download(found: Found) -> bytes:
    """The packed chart. Raises RepositoryError."""
    if found.repository.oci:
        return await _pull(found)
    data = await _get(found.repository, found.url, CHART_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if found.digest and digest != found.digest.removeprefix("sha256:").lower():
        raise RepositoryError(f"download {found.url}: the digest is {digest}, the index says {found.digest}")
    return data


def _version(text: str) -> Version | None:
    try:
        return Version.parse(text)
    except InvalidVersion:
        return None


# an index over HTTP


async def index(repository: Repository) -> bytes:
    """The index, which can be read. Raises RepositoryError."""
    data = await _get(repository, _index_url(repository), INDEX_BYTES)
    await _read(repository, data)
    return data


def _index_url(repository: Repository) -> str:
    return f"{repository.url.rstrip('/')}/index.yaml"


async def _index(repository: Repository) -> Mapping[str, Any]:
    return await _read(repository, await _get(repository, _index_url(repository), INDEX_BYTES))


async def _read(repository: Repository, data: bytes) -> Mapping[str, Any]:
    url = _index_url(repository)
    try:  # big indexes often are JSON, which is read a hundred times faster
        found = (
            orjson.loads(data) if data[:1] == b"{" else await asyncio.to_thread(yaml.load, data, max_bytes=INDEX_BYTES)
        )
    except (YAMLError, orjson.JSONDecodeError) as error:
        raise RepositoryError(f"read {url}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("entries"), dict):
        raise RepositoryError(f"read {url}: it is no index of charts")
    return found


def _entries(repository: Repository, name: str, index: Mapping[str, Any]) -> dict[str, Found]:
    versions: dict[str, Found] = {}
    for entry in index["entries"].get(name) or ():
        urls = entry.get("urls") if isinstance(entry, dict) else None
        if not isinstance(urls, list) or not urls or not isinstance(entry.get("version"), str):
            continue
        url = urljoin(f"{repository.url.rstrip('/')}/", str(urls[0]))
        found = Found(repository, name, entry["version"], url, str(entry.get("digest") or ""))
        versions.setdefault(entry["version"], found)
    if not versions:
        raise RepositoryError(f"chart '{name}' not found in {repository.url}")
    return versions


async def _get(repository: Repository, url: str, limit: int) -> bytes:
    """Follows redirects; credentials stay with the host they are for."""
    for _ in range(REDIRECTS + 1):
        status, place, data = await _once(repository, url, limit)
        if status in (301, 302, 303, 307, 308) and place:
            url = urljoin(url, place)
            continue
        if status != 200:
            raise RepositoryError(f"fetch {url}: the server answered {status}")
        return data
    raise RepositoryError(f"fetch {url}: more than {REDIRECTS} redirects")


async def _once(repository: Repository, url: str, limit: int) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RepositoryError(f"fetch {url!r}: not an http or https URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = _authorization(repository, parts.netloc)
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            Client(f"{parts.scheme}://{parts.netloc}", headers=headers) as client,
            client.stream("GET", target, timeout=TIMEOUT) as reply,
        ):
            data = bytearray()
            async for chunk in reply.chunks:
                data += chunk
                if len(data) > limit:
                    raise RepositoryError(f"fetch {url}: longer than {limit} bytes")
            return reply.status, reply.headers.get("location", ""), bytes(data)
    except TimeoutError:
        raise RepositoryError(f"fetch {url}: not complete within {TIMEOUT:g} s") from None
    except (HttpError, ValueError) as error:
        raise RepositoryError(f"fetch {url}: {error}") from error


def _authorization(repository: Repository, netloc: str) -> dict[str, str]:
    ours = repository.pass_credentials or netloc == urlsplit(repository.url).netloc
    if not repository.username or not ours:
        return {}
    pair = base64.b64encode(f"{repository.username}:{repository.password}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


# an OCI registry


def _place(repository: Repository, name: str) -> tuple[RegistryClient, str]:
    parts = urlsplit(repository.url)
    scheme = "http" if repository.insecure else "https"
    auth = Auth(repository.username, repository.password) if repository.username else None
    client = RegistryClient(parts.netloc, [Endpoint(f"{scheme}://{parts.netloc}/v2")], auth)
    return client, f"{parts.path.strip('/')}/{name}".strip("/")


async def _tags(repository: Repository, name: str) -> list[str]:
    client, path = _place(repository, name)
    try:
        async with client:
            return await client.tags(path)
    except OciError as error:
        raise RepositoryError(f"list the versions of '{name}' in {repository.url}: {error}") from error


@dataclass(slots=True)
class _Buffer:
    """Where a blob goes."""

    offset: int = 0
    kept: bytearray = field(default_factory=bytearray)

    async def write(self, data: bytes) -> None:
        self.kept += data
        self.offset += len(data)


async def _pull(found: Found) -> bytes:
    client, path = _place(found.repository, found.name)
    what = f"pull {found.repository.url}/{found.name}:{found.url}"
    try:
        async with client:
            manifest = orjson.loads((await client.manifest(path, found.url)).data)
            layer = next((each for each in manifest.get("layers") or () if each.get("mediaType") == CHART_LAYER), None)
            if layer is None or int(layer["size"]) > CHART_BYTES:
                raise RepositoryError(f"{what}: no chart in it, or larger than {CHART_BYTES} bytes")
            buffer, digest = _Buffer(), str(layer["digest"])
            await client.blob(path, Descriptor(CHART_LAYER, Digest(digest), int(layer["size"])), buffer)
    except (OciError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RepositoryError(f"{what}: {error}") from error
    data = bytes(buffer.kept)
    if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
        raise RepositoryError(f"{what}: the chart is not what its digest {digest} promises")
    return data
