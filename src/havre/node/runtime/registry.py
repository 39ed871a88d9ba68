"""A registry on this machine: push an image to it, and pods can run it at once.

    server = await serve(images, content, "127.0.0.1", 5000)

It serves the content store that containers run from, so nothing is stored twice and nothing is pulled: a manifest whose
blobs are all there is unpacked and named when it is pushed. A push to `127.0.0.1:5000/hello:1` is the pod image
`127.0.0.1:5000/hello:1`; a registry on a loopback address is `localhost:5000` too. What was pushed is pinned: this is
the only copy, it goes when it is deleted, not for want of space.

A repository gives out only what was pushed or mounted into it: knowing a digest of an image that somebody pulled with a
secret is not enough to read it here. It listens on loopback, where every user of the machine may read; only root may
push or delete (`pushers`). It answers only to addresses and to its own names, so that a web page cannot reach it under
a name of its own (DNS rebinding).

Source: opencontainers/distribution-spec v1.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl as tls
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from havre.node.runtime.content import Content, ContentError, Mismatch, Writer
from havre.node.runtime.images import Images
from havre.node.runtime.names import Record
from havre.node.runtime.pushers import may_push
from havre.wire.http.files import send
from havre.wire.http.message import Answer, Headers, Request, Response, Stream, UploadBroken
from havre.wire.http.server import Limits, Server
from havre.wire.http.server import serve as listen
from havre.wire.oci import errors as oci
from havre.wire.oci.digest import Digest, digest_of, is_digest, matches
from havre.wire.oci.documents import MANIFEST_LIMIT, Descriptor, Index, Manifest, parse_manifest
from havre.wire.oci.media_types import OCI_INDEX
from havre.wire.oci.reference import is_repository, is_tag
from havre.wire.oci.registry import is_loopback

log = logging.getLogger(__name__)

MAX_UPLOADS = 256  # open at once; each holds a file
UPLOAD_SECONDS = 3600.0  # without a byte, then the upload is given up
UNNAMED_SECONDS = 3600.0  # how long a blob may wait for its manifest
SMALL = 64 * 1024  # bytes of a blob that is answered from memory
MAX_PAGE = 10_000  # tags of one answer
MAX_BLOB = 1 << 40

_ROUTE = re.compile(
    r"/v2/(?P<repository>.+?)/(?:(?P<kind>blobs/uploads|blobs|manifests|referrers)/(?P<what>[^/]*)|(?P<tags>tags/list))"
).fullmatch
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})").fullmatch
_SPAN = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/\S+)?").fullmatch
_READS = ("GET", "HEAD")
_HEADERS: Headers = [("docker-distribution-api-version", "registry/2.0")]


class _Refused(Exception):
    """The answer to a request that is not carried out."""

    def __init__(self, status: int, code: str, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.answer = _error(status, code, message, headers or [])


@dataclass(slots=True)
class _Upload:
    """A blob on its way in."""

    id: str
    repository: str
    writer: Writer
    touched: float
    busy: bool = False

    @property
    def headers(self) -> Headers:
        return [
            ("location", f"/v2/{self.repository}/blobs/uploads/{self.id}"),
            ("range", f"0-{max(0, self.writer.offset - 1)}"),
            ("docker-upload-uuid", self.id),
        ]


@dataclass(slots=True)
class _Repository:
    """What one repository may give out."""

    blobs: set[Digest] = field(default_factory=set)
    waiting: dict[Digest, float] = field(default_factory=dict)  # pushed, not named yet → until when they are kept


class Registry:
    """The handler; `serve` makes one and listens."""

    def __init__(
        self, images: Images, content: Content, names: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`names` are the registries (host:port) that this is; the first one keeps the books."""
        self._images = images
        self._content = content
        self._names = tuple(names)
        self._clock = clock
        self._uploads: dict[str, _Upload] = {}
        self._repositories: dict[str, _Repository] = {}
        self._writing = asyncio.Lock()  # one manifest at a time: its names change together
        self._hosts = frozenset(urlsplit(f"//{name}").hostname for name in names)
        for record in images.records():
            if record.name.startswith(f"{self._names[0]}/"):
                self._repository(_repository_of(record.name, self._names[0])).blobs |= images.reachable(record.target)

    async def close(self) -> None:
        """Keep unfinished uploads on the disk, let go of the rest."""
        for upload in self._uploads.values():
            await upload.writer.close()
        self._uploads.clear()

    @staticmethod
    def streams(request: Request) -> bool:
        """Which requests have bodies of any size."""
        return "/blobs/uploads/" in request.path

    async def handle(self, request: Request) -> Answer:
        try:
            self._check_host(request)
            answer = await self._route(request)
        except _Refused as refused:
            answer = refused.answer
        except oci.InvalidReference as error:
            answer = _error(400, "DIGEST_INVALID", str(error))
        except ContentError as error:
            answer = _error(500, "UNKNOWN", str(error))
        except UploadBroken:
            raise
        except OSError as error:
            log.warning("the registry could not use its disk", extra={"path": request.path, "error": str(error)})
            answer = _error(500, "UNKNOWN", f"the disk of the registry: {error.strerror}")
        answer.headers.extend(_HEADERS)
        return answer

    def _check_host(self, request: Request) -> None:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if host not in self._hosts and not is_loopback(host) and not _is_address(host):
            raise _Refused(421, "DENIED", f"this registry is not {host[:100]!r}")

    async def _route(self, request: Request) -> Response | Stream:
        if request.path in ("/v2/", "/v2"):
            return Response(200, [("content-type", "application/json")], b"{}")
        if request.path == "/v2/_catalog":
            return _json({"repositories": sorted(name for name, held in self._repositories.items() if held.blobs)})
        found = _ROUTE(request.path)
        if found is None:
            raise _Refused(404, "NAME_UNKNOWN", f"nothing is served at {request.path[:200]}")
        repository = found["repository"]
        if not is_repository(repository):
            raise _Refused(400, "NAME_INVALID", f"repository {repository[:200]!r} breaks the grammar")
        query = dict(parse_qsl(request.query, max_num_fields=16))
        if found["tags"]:
            return self._tags(repository, query)
        what = found["what"]
        match found["kind"]:
            case "blobs/uploads":
                return await self._upload(request, repository, what, query)
            case "blobs":
                return await self._blob(request, repository, what)
            case "manifests":
                return await self._manifest(request, repository, what)
            case _:
                return self._referrers(repository, what, query.get("artifactType", ""))

    # blobs

    async def _blob(self, request: Request, repository: str, what: str) -> Response | Stream:
        digest = _digest(what)
        held = self._repositories.get(repository)
        if held is None or digest not in held.blobs or not self._content.has(digest):
            raise _Refused(404, "BLOB_UNKNOWN", f"{repository} has no blob {digest}")
        if request.method == "DELETE":
            held.blobs.discard(digest)
            self._settle(held, digest)
            return Response(202, [])
        if request.method not in ("GET", "HEAD"):
            raise _unsupported(request)
        return self._part(digest, request.headers.get("range", ""))

    def _part(self, digest: Digest, wanted: str) -> Response | Stream:
        size = self._content.size(digest)
        headers = [
            ("content-type", "application/octet-stream"),
            ("docker-content-digest", digest),
            ("etag", f'"{digest}"'),
            ("accept-ranges", "bytes"),
            ("cache-control", "max-age=31536000"),
        ]
        start, end = _span(wanted, size)
        status = 206 if wanted and _RANGE(wanted) else 200
        if status == 206:
            headers.append(("content-range", f"bytes {start}-{end - 1}/{size}"))
        if end - start <= SMALL:
            with self._content.path(digest).open("rb") as file:
                file.seek(start)
                return Response(status, headers, file.read(end - start))
        return Stream(status, headers, send(self._content.path(digest), start, end - start), end - start)

    # uploads

    async def _upload(self, request: Request, repository: str, what: str, query: dict[str, str]) -> Response:
        if what == "":
            if request.method != "POST":
                raise _unsupported(request)
            return await self._begin(request, repository, query)
        upload = self._uploads.get(what)
        if upload is None or upload.repository != repository:
            raise _Refused(404, "BLOB_UPLOAD_UNKNOWN", f"{repository} has no upload {what[:100]!r}; start a new one")
        if request.method == "GET":
            return Response(204, upload.headers)
        if upload.busy:
            raise _Refused(416, "BLOB_UPLOAD_INVALID", "another request writes to this upload", upload.headers)
        match request.method:
            case "PATCH":
                await self._receive(request, upload)
                return Response(202, upload.headers)
            case "PUT":
                digest = _digest(query.get("digest", ""))
                await self._receive(request, upload)
                return await self._commit(upload, digest)
            case "DELETE":
                del self._uploads[upload.id]
                await upload.writer.abort()
                return Response(204, [])
        raise _unsupported(request)

    async def _begin(self, request: Request, repository: str, query: dict[str, str]) -> Response:
        await self._tidy()
        mounted = query.get("mount", "")
        if is_digest(mounted) and self._can_mount(Digest(mounted), query.get("from", "")):
            self._take(repository, Digest(mounted))
            return _created(repository, Digest(mounted))
        if len(self._uploads) >= MAX_UPLOADS:
            raise _Refused(429, "TOOMANYREQUESTS", f"{MAX_UPLOADS} uploads are open already; finish or delete some")
        key = uuid.uuid4().hex
        writer = await self._content.writer(f"upload-{key}", size=None)
        upload = _Upload(key, repository, writer, self._clock())
        self._uploads[key] = upload
        if "digest" not in query:
            return Response(202, upload.headers)
        digest = _digest(query["digest"])
        await self._receive(request, upload)
        return await self._commit(upload, digest)

    def _can_mount(self, digest: Digest, source: str) -> bool:
        held = self._repositories.get(source)
        return held is not None and digest in held.blobs and self._content.has(digest)

    async def _receive(self, request: Request, upload: _Upload) -> None:
        """Append the body of the request, where it says that it belongs."""
        span = request.headers.get("content-range", "")
        if span:
            parts = _SPAN(span)
            if parts is None or int(parts[1]) != upload.writer.offset or int(parts[2]) + 1 < int(parts[1]):
                raise _Refused(416, "BLOB_UPLOAD_INVALID", f"the next byte is {upload.writer.offset}", upload.headers)
        upload.busy = True
        try:
            while data := await request.upload.read() if request.upload is not None else b"":
                upload.touched = self._clock()
                if upload.writer.offset + len(data) > MAX_BLOB:
                    raise _Refused(413, "SIZE_INVALID", f"a blob has at most {MAX_BLOB} bytes")
                await upload.writer.write(data)
        finally:
            upload.busy = False

    async def _commit(self, upload: _Upload, digest: Digest) -> Response:
        del self._uploads[upload.id]
        try:
            await upload.writer.commit(digest)
        except Mismatch as error:
            raise _Refused(400, "DIGEST_INVALID", str(error)) from error
        except BaseException:
            await upload.writer.abort()
            raise
        self._take(upload.repository, digest)
        return _created(upload.repository, digest)

    async def _tidy(self) -> None:
        """Give up what nobody touched for long."""
        now = self._clock()
        for upload in [u for u in self._uploads.values() if not u.busy and now - u.touched > UPLOAD_SECONDS]:
            del self._uploads[upload.id]
            await upload.writer.abort()
        for held in self._repositories.values():
            for digest in [digest for digest, until in held.waiting.items() if until < now]:
                self._settle(held, digest)

    def _repository(self, name: str) -> _Repository:
        return self._repositories.setdefault(name, _Repository())

    def _take(self, repository: str, digest: Digest) -> None:
        """The blob belongs to the repository, and is kept until a manifest names it."""
        held = self._repository(repository)
        held.blobs.add(digest)
        if digest not in held.waiting:
            self._images.hold(digest)
        held.waiting[digest] = self._clock() + UNNAMED_SECONDS

    def _settle(self, held: _Repository, digest: Digest) -> None:
        if held.waiting.pop(digest, None) is not None:
            self._images.unhold(digest)

    # manifests

    async def _manifest(self, request: Request, repository: str, what: str) -> Response:
        if not (is_tag(what) or is_digest(what)):
            raise _Refused(400, "MANIFEST_INVALID", f"{what[:140]!r} is neither a tag nor a digest")
        match request.method:
            case "GET" | "HEAD":
                record = self._find(repository, what)
                data = self._content.read(record.target.digest, MANIFEST_LIMIT)
                digest = record.target.digest
                headers = [("content-type", record.target.media_type), ("docker-content-digest", digest)]
                return Response(200, [*headers, ("etag", f'"{digest}"')], data)
            case "PUT":
                async with self._writing:
                    return await self._put(request, repository, what)
            case "DELETE":
                async with self._writing:
                    return await self._delete(repository, what)
        raise _unsupported(request)

    def _name(self, repository: str, what: str, registry: str | None = None) -> str:
        return f"{registry or self._names[0]}/{repository}{'@' if is_digest(what) else ':'}{what}"

    def _find(self, repository: str, what: str) -> Record:
        record = self._images.record(self._name(repository, what))
        if record is None or not self._content.has(record.target.digest):
            raise _Refused(404, "MANIFEST_UNKNOWN", f"{repository} has no manifest {what}")
        return record

    async def _put(self, request: Request, repository: str, what: str) -> Response:
        data = request.body
        try:
            document = parse_manifest(data, request.headers.get("content-type", ""))
        except oci.InvalidDocument as error:
            raise _Refused(400, "MANIFEST_INVALID", str(error)) from error
        digest = Digest(what) if is_digest(what) else digest_of(data)
        if not matches(digest, data):
            raise _Refused(400, "DIGEST_INVALID", f"the manifest is not {digest}")
        self._check_blobs(repository, document)
        await self._content.put(data, digest)
        self._take(repository, digest)
        descriptor = Descriptor(document.media_type, digest, len(data))
        for registry in self._names:
            for key in dict.fromkeys((digest, what)):
                await self._images.put(self._name(repository, key, registry), descriptor, pinned=True)
        held = self._repository(repository)
        for named in self._images.reachable(descriptor):
            self._settle(held, named)
        subject = [("oci-subject", document.subject.digest)] if document.subject is not None else []
        place = f"/v2/{repository}/manifests/{what}"
        return Response(201, [("location", place), ("docker-content-digest", digest), *subject])

    def _check_blobs(self, repository: str, document: Manifest | Index) -> None:
        held = self._repository(repository)
        if isinstance(document, Index):
            wanted, code = document.manifests, "MANIFEST_UNKNOWN"
        else:
            wanted, code = (document.config, *document.layers), "MANIFEST_BLOB_UNKNOWN"
        for entry in wanted:
            if entry.digest not in held.blobs or not self._content.has(entry.digest):
                if entry.urls:
                    continue  # a foreign layer is not pushed
                raise _Refused(404, code, f"{repository} has no {entry.digest}; push it before what names it")
            if self._content.size(entry.digest) != entry.size:
                raise _Refused(400, "SIZE_INVALID", f"{entry.digest} has {self._content.size(entry.digest)} bytes")

    async def _delete(self, repository: str, what: str) -> Response:
        record = self._find(repository, what)
        keys = {what}
        if is_digest(what):
            same = (r for r in self._records(repository) if r.target.digest == record.target.digest)
            keys |= {r.name.removeprefix(f"{self._names[0]}/{repository}")[1:] for r in same}
        await self._images.forget([self._name(repository, key, registry) for registry in self._names for key in keys])
        if is_digest(what):
            self._repository(repository).blobs.discard(Digest(what))
        return Response(202, [])

    def _records(self, repository: str) -> list[Record]:
        prefix = f"{self._names[0]}/{repository}"
        return [r for r in self._images.records() if r.name.startswith((f"{prefix}:", f"{prefix}@"))]

    # lists

    def _tags(self, repository: str, query: dict[str, str]) -> Response:
        records = self._records(repository)
        if not records and not self._repository_known(repository):
            raise _Refused(404, "NAME_UNKNOWN", f"there is no repository {repository}")
        start = len(f"{self._names[0]}/{repository}:")
        tags = sorted(r.name[start:] for r in records if "@" not in r.name)
        last, count = query.get("last", ""), query.get("n", "")
        limit = int(count) if count.isascii() and count.isdigit() and len(count) < 10 else MAX_PAGE
        after = [tag for tag in tags if tag > last]
        page = after[: min(limit, MAX_PAGE)]
        more: Headers = []
        if len(page) < len(after) and page:
            following = urlencode({"n": len(page), "last": page[-1]})
            more = [("link", f'</v2/{repository}/tags/list?{following}>; rel="next"')]
        return _json({"name": repository, "tags": page}, headers=more)

    def _repository_known(self, repository: str) -> bool:
        held = self._repositories.get(repository)
        return held is not None and bool(held.blobs)

    def _referrers(self, repository: str, what: str, kind: str) -> Response:
        """Manifests whose subject is this one: signatures, attestations, inventories."""
        subject = _digest(what)
        found = []
        for record in self._records(repository):
            document = self._parsed(record) if "@" in record.name else None
            if document is None or document.subject is None or document.subject.digest != subject:
                continue
            artifact = document.artifact_type
            if not artifact and isinstance(document, Manifest):
                artifact = document.config.media_type
            if not kind or artifact == kind:
                target = record.target
                described = Descriptor(
                    target.media_type, target.digest, target.size, document.annotations, artifact_type=artifact
                )
                found.append(described.to_json())
        applied: Headers = [("oci-filters-applied", "artifactType")] if kind else []
        return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, OCI_INDEX, applied)

    def _parsed(self, record: Record) -> Manifest | Index | None:
        try:
            return parse_manifest(self._content.read(record.target.digest, MANIFEST_LIMIT))
        except (ContentError, oci.OciError):
            return None


class RegistryServer:
    """A running registry; `close` it."""

    def __init__(self, server: Server, registry: Registry) -> None:
        self._server = server
        self._registry = registry
        self.address = server.address
        self.port = server.port

    async def close(self, grace: float = 0.0) -> None:
        """Let running requests end within `grace` seconds; unfinished uploads stay on the disk for a day."""
        await self._server.close(grace)
        await self._registry.close()


async def serve(
    images: Images,
    content: Content,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl: tls.SSLContext | None = None,
    names: Sequence[str] = (),
) -> RegistryServer:
    """Listen; `names` are more registries (host:port) that this one is. Raises OSError when the address is taken."""
    registry: Registry | None = None
    server: Server | None = None

    async def handle(request: Request) -> Answer:
        assert registry is not None
        assert server is not None
        ends = (request.remote, request.port), (server.address, server.port)
        if request.method not in _READS and not await asyncio.to_thread(may_push, *ends):
            return _error(403, "DENIED", "only root may push to the registry of this machine; try again with sudo")
        return await registry.handle(request)

    server = await listen(
        handle,
        host=host,
        port=port,
        ssl=ssl,
        limits=Limits(body=MANIFEST_LIMIT),
        on_error=_on_error,
        uploads=Registry.streams,
    )
    shown = f"[{server.address}]" if ":" in server.address else server.address
    own = [f"{shown}:{server.port}"]
    if is_loopback(server.address):
        own.append(f"localhost:{server.port}")
    registry = Registry(images, content, [*own, *names])
    return RegistryServer(server, registry)


# pure


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _repository_of(name: str, registry: str) -> str:
    rest = name.removeprefix(f"{registry}/").partition("@")[0]
    return rest.rpartition(":")[0] if ":" in rest else rest


def _digest(text: str) -> Digest:
    if not is_digest(text):
        raise _Refused(400, "DIGEST_INVALID", f"{text[:140]!r} is not a digest")
    return Digest(text)


def _span(wanted: str, size: int) -> tuple[int, int]:
    """The first byte and the one after the last that a Range asks for; anything not understood is the whole."""
    found = _RANGE(wanted)
    if found is None or found[1] == found[2] == "":
        return 0, size
    if found[1] == "":
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    if start >= end:
        raise _Refused(416, "RANGE_INVALID", f"the blob has {size} bytes", [("content-range", f"bytes */{size}")])
    return start, end


def _created(repository: str, digest: Digest) -> Response:
    return Response(201, [("location", f"/v2/{repository}/blobs/{digest}"), ("docker-content-digest", digest)])


def _unsupported(request: Request) -> _Refused:
    return _Refused(405, "UNSUPPORTED", f"{request.method} is not supported at {request.path[:200]}")


def _json(value: object, media_type: str = "application/json", headers: Headers | None = None) -> Response:
    return Response(200, [("content-type", media_type), *(headers or [])], orjson.dumps(value))


def _error(status: int, code: str, message: str, headers: Headers | None = None) -> Response:
    body = orjson.dumps({"errors": [{"code": code, "message": message, "detail": None}]})
    return Response(status, [("content-type", "application/json"), *(headers or [])], body)


def _on_error(status: int, why: str) -> Response:
    return _error(status, {413: "SIZE_INVALID"}.get(status, "UNKNOWN"), why)
