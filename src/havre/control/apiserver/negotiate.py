"""How the client wants its answer: JSON, YAML or protobuf; the object itself, a Table, or its metadata alone.

Source: k8s.io/apiserver, pkg/endpoints/handlers/negotiation; KEP-365 and KEP-3041 for the `as=` parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from havre.api.errors import NotAcceptable

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
SUPPORTED = (JSON, YAML, PROTOBUF)
_META_VERSIONS = frozenset({"v1", "v1beta1"})
_AS = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@dataclass(frozen=True, slots=True)
class Media:
    """A negotiated answer: `type` is one of SUPPORTED; `as_kind` is "" for the object itself."""

    type: str = JSON
    as_kind: str = ""
    as_version: str = ""
    params: tuple[tuple[str, str], ...] = ()
    pretty: bool = False

    def header(self, *, watch: bool = False) -> str:
        stream = ";stream=watch" if watch and self.type != JSON else ""
        return f"{self.type}{stream}"


PLAIN = Media()


@lru_cache(maxsize=512)
def clauses(accept: str) -> tuple[Media, ...]:
    """What the Accept header offers, best first; types that nobody here speaks are left out."""
    found: list[tuple[float, int, Media]] = []
    for place, clause in enumerate(accept.split(",")):
        kind, *rest = (part.strip() for part in clause.split(";"))
        params = tuple((k.strip(), v.strip()) for k, _, v in (part.partition("=") for part in rest))
        quality = _quality(dict(params).get("q", "1"))
        media_type = JSON if kind in ("*/*", "application/*") else kind
        if media_type in SUPPORTED and quality > 0:
            found.append((-quality, place, _media(media_type, params)))
    return tuple(media for _, _, media in sorted(found, key=lambda f: f[:2]))


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _media(media_type: str, params: tuple[tuple[str, str], ...]) -> Media:
    known = dict(params)
    return Media(
        media_type,
        known.get("as", ""),
        known.get("v", "") if "as" in known else "",
        params,
        known.get("pretty") == "1",
    )


def negotiate(accept: str, *, protobuf: bool, transforms: bool = True) -> Media:
    """The best clause that can be answered; `protobuf` says whether this kind has a wire message, `transforms` whether
    it can be shown as a Table or by its metadata alone. Raises NotAcceptable.

    A client that takes JSON gets JSON, even if it would rather have protobuf: those bytes are ready.
    """
    if not accept or accept == JSON:
        return PLAIN
    fallback: Media | None = None
    for media in clauses(accept):
        if media.as_kind and not (transforms and _transformable(media)):
            continue
        if media.type != PROTOBUF:
            return media
        if protobuf and not media.as_kind:
            fallback = fallback or media
    if fallback:
        return fallback
    offered = ", ".join(SUPPORTED)
    if not clauses(accept):
        raise NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {offered}", details={})
    raise NotAcceptable(f"only the following media types are accepted: {offered}")


def _transformable(media: Media) -> bool:
    group = dict(media.params).get("g", "")
    return media.as_kind in _AS and media.as_version in _META_VERSIONS and group == "meta.k8s.io"
