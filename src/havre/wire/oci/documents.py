"""Descriptors, manifests, indexes and image configurations: JSON in, frozen values out, nothing ambiguous.

A document is a manifest or an index, never both: one that has the fields of the other is refused, and so is one whose
`mediaType` differs from what the registry or the descriptor said (CVE-2021-41190: the same bytes read as two things).
Unknown fields are ignored, as the specification asks; wrong types of known fields are errors.

Source: opencontainers/image-spec v1.1 (manifest.md, image-index.md, config.md, descriptor.md); Docker image manifest
v2 schema 2; containerd, core/images (the checks for confusion) and core/remotes/docker (the limit on size).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from havre.wire.oci.digest import Digest, parse_digest
from havre.wire.oci.errors import InvalidDocument, InvalidReference
from havre.wire.oci.media_types import (
    CONFIGS,
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
)
from havre.wire.oci.platform import Platform

MANIFEST_LIMIT = 4 * 1024 * 1024  # bytes of a manifest or index, as registries and containerd have it
CONFIG_LIMIT = 4 * 1024 * 1024  # bytes of a configuration; the largest seen in the field are some 100 KiB
MAX_LAYERS = 512  # of one manifest: Docker stops at 127, overlayfs at 500 lower directories
MAX_MANIFESTS = 1024  # of one index: 20 platforms with attestations are 40
MAX_STRINGS = 10_000  # environment, command, annotations: together bounded by the size, each by this
MAX_SIZE = 2**63 - 1

_T = TypeVar("_T")
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: its type, hash and length."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()  # of foreign layers; Havre never follows them
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.platform is not None:
            out["platform"] = {"os": self.platform.os, "architecture": self.platform.architecture}
            if self.platform.variant:
                out["platform"]["variant"] = self.platform.variant
        if self.urls:
            out["urls"] = list(self.urls)
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        return out


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image, or another artifact: a configuration and layers."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def is_image(self) -> bool:
        """It is something to run; others are charts, signatures, attestations."""
        return self.config.media_type in CONFIGS


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests to choose from, most often one for each platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    subject: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How to run an image, and the hashes of its layers when unpacked. Labels are shown, never acted on."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""

    @property
    def chain_ids(self) -> tuple[Digest, ...]:
        """The name of each state of the root filesystem, layer upon layer; the last is the whole image."""
        chain: list[Digest] = []
        for diff_id in self.diff_ids:
            below = chain[-1] if chain else None
            text = f"{below} {diff_id}".encode()
            chain.append(Digest("sha256:" + hashlib.sha256(text).hexdigest()) if below else diff_id)
        return tuple(chain)


# parsers of whole documents


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """The document that `data` is, which must be what `media_type` says, when given. Raises InvalidDocument."""
    document = _load(data, "manifest", MANIFEST_LIMIT)
    said = _string(document, "mediaType", "manifest")
    kind = _kind(document, said, media_type.partition(";")[0].strip())
    return _index(document, kind) if kind in INDEXES else _manifest(document, kind)


def parse_config(data: bytes) -> ImageConfig:
    """The configuration of an image. Raises InvalidDocument."""
    document = _load(data, "config", CONFIG_LIMIT)
    rootfs = _object(document, "rootfs", "config")
    if rootfs.get("type", "layers") != "layers":
        raise InvalidDocument(f"config: rootfs.type is {_shown(rootfs['type'])}, only layers are known")
    config = _object(document, "config", "config")
    return ImageConfig(
        platform=_platform(document, "config"),
        diff_ids=_list(rootfs, "diff_ids", "config.rootfs", _digest, MAX_LAYERS),
        user=_string(config, "User", "config.config"),
        env=_strings(config, "Env", "config.config"),
        entrypoint=_strings(config, "Entrypoint", "config.config"),
        cmd=_strings(config, "Cmd", "config.config"),
        working_dir=_string(config, "WorkingDir", "config.config"),
        volumes=tuple(_object(config, "Volumes", "config.config")),
        exposed_ports=tuple(_object(config, "ExposedPorts", "config.config")),
        stop_signal=_string(config, "StopSignal", "config.config"),
        labels=_map(config, "Labels", "config.config"),
        created=_string(document, "created", "config"),
    )


def parse_descriptor(value: object, where: str = "descriptor") -> Descriptor:
    """Raises InvalidDocument."""
    if not isinstance(value, dict):
        raise InvalidDocument(f"{where}: {_shown(value)} is not an object")
    size = value.get("size")
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise InvalidDocument(f"{where}.size: {_shown(size)} is not a number of bytes")
    return Descriptor(
        media_type=_string(value, "mediaType", where),
        digest=_digest(value.get("digest"), f"{where}.digest"),
        size=size,
        annotations=_map(value, "annotations", where),
        platform=_platform(value["platform"], f"{where}.platform") if value.get("platform") is not None else None,
        urls=_strings(value, "urls", where),
        artifact_type=_string(value, "artifactType", where),
    )


def check_image(manifest: Manifest, config: ImageConfig) -> None:
    """Every layer has its hash. Raises InvalidDocument."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidDocument(
            f"image: the manifest has {len(manifest.layers)} layers, its configuration {len(config.diff_ids)} diff_ids"
        )


# what a document is


def _kind(document: dict[str, Any], said: str, told: str) -> str:
    if "fsLayers" in document or document.get("schemaVersion") == 1:
        raise InvalidDocument("manifest: Docker schema 1 is not supported; push the image again with a current tool")
    if document.get("schemaVersion") != 2:
        raise InvalidDocument(f"manifest: schemaVersion is {_shown(document.get('schemaVersion'))}, it must be 2")
    as_index, as_manifest = "manifests" in document, "layers" in document or "config" in document
    if as_index and as_manifest:
        raise InvalidDocument("manifest: it has the fields of a manifest and of an index, so it means two things")
    if told in MANIFESTS | INDEXES and said and said != told:
        raise InvalidDocument(f"manifest: mediaType is {said[:100]!r}, but it was announced as {told!r}")
    kind = said or (told if told in MANIFESTS | INDEXES else (OCI_INDEX if as_index else OCI_MANIFEST))
    if kind not in MANIFESTS | INDEXES:
        raise InvalidDocument(f"manifest: mediaType {kind[:100]!r} is not known")
    if (kind in INDEXES and as_manifest) or (kind in MANIFESTS and as_index):
        raise InvalidDocument(f"manifest: its fields are not those of {kind}")
    return kind


def _manifest(document: dict[str, Any], kind: str) -> Manifest:
    config = parse_descriptor(document.get("config"), "manifest.config")
    usual = DOCKER_CONFIG if kind == DOCKER_MANIFEST else OCI_CONFIG
    if not config.media_type:
        raise InvalidDocument(f"manifest.config.mediaType is missing; an image has {usual}")
    if config.media_type in CONFIGS and config.size > CONFIG_LIMIT:
        raise InvalidDocument(f"manifest.config: {config.size} bytes, the limit is {CONFIG_LIMIT}")
    return Manifest(
        media_type=kind,
        config=config,
        layers=_list(document, "layers", "manifest", parse_descriptor, MAX_LAYERS),
        annotations=_map(document, "annotations", "manifest"),
        artifact_type=_string(document, "artifactType", "manifest"),
        subject=_subject(document),
    )


def _index(document: dict[str, Any], kind: str) -> Index:
    if not isinstance(document.get("manifests"), list) and kind == DOCKER_INDEX:
        raise InvalidDocument("index: manifests is missing")
    return Index(
        media_type=kind,
        manifests=_list(document, "manifests", "index", parse_descriptor, MAX_MANIFESTS),
        annotations=_map(document, "annotations", "index"),
        artifact_type=_string(document, "artifactType", "index"),
        subject=_subject(document),
    )


def _subject(document: dict[str, Any]) -> Descriptor | None:
    subject = document.get("subject")
    return None if subject is None else parse_descriptor(subject, "manifest.subject")


# fields


def _load(data: bytes, what: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise InvalidDocument(f"{what}: {len(data)} bytes, the limit is {limit}")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:  # which also bounds the depth
        raise InvalidDocument(f"{what}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidDocument(f"{what}: {_shown(document)} is not an object")
    return document


def _shown(value: object) -> str:
    """Short, whatever it is: a list of a million elements is not written out."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _string(holder: dict[str, Any], name: str, where: str) -> str:
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidDocument(f"{where}.{name}: {_shown(value)} is not a string")
    return value


def _object(holder: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidDocument(f"{where}.{name}: {_shown(value)} is not an object")
    if len(value) > MAX_STRINGS:
        raise InvalidDocument(f"{where}.{name}: {len(value)} entries, the limit is {MAX_STRINGS}")
    return value


def _map(holder: dict[str, Any], name: str, where: str) -> Mapping[str, str]:
    value = _object(holder, name, where)
    if not value:
        return _NOTHING
    for key, text in value.items():
        if not isinstance(text, str):
            raise InvalidDocument(f"{where}.{name}[{_shown(key)}]: {_shown(text)} is not a string")
    return value


def _list(
    holder: dict[str, Any], name: str, where: str, parse: Callable[[object, str], _T], limit: int
) -> tuple[_T, ...]:
    value = holder.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidDocument(f"{where}.{name}: {_shown(value)} is not a list")
    if len(value) > limit:
        raise InvalidDocument(f"{where}.{name}: {len(value)} elements, the limit is {limit}")
    return tuple(parse(element, f"{where}.{name}[{number}]") for number, element in enumerate(value))


def _strings(holder: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    return _list(holder, name, where, _text, MAX_STRINGS)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidDocument(f"{where}: {_shown(value)} is not a string")
    return value


def _digest(value: object, where: str) -> Digest:
    try:
        return parse_digest(value)
    except InvalidReference as error:
        raise InvalidDocument(f"{where}: {error}") from None


def _platform(value: object, where: str) -> Platform:
    if not isinstance(value, dict):
        raise InvalidDocument(f"{where}: {_shown(value)} is not an object")
    return Platform(
        _string(value, "os", where),
        _string(value, "architecture", where),
        _string(value, "variant", where),
        _string(value, "os.version", where),
    )
