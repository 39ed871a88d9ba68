"""What a blob is, in the words of Docker and of OCI.

Source: opencontainers/image-spec, media-types.md; distribution, manifest v2 schema 2.
"""

from __future__ import annotations

from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
# `foreign` and `nondistributable` only say where a layer comes from; what it is stays the same.
LAYERS: Final = frozenset(
    {
        *(OCI_LAYER + suffix for suffix in ("", "+gzip", "+zstd")),
        *(f"application/vnd.oci.image.layer.nondistributable.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(DOCKER_LAYER + suffix for suffix in ("", ".gzip", ".zstd")),
        *(f"application/vnd.docker.image.rootfs.foreign.diff.tar{suffix}" for suffix in ("", ".gzip")),
    }
)
ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))


def compression(media_type: str) -> str:
    """How a layer of this type is packed: `gzip`, `zstd` or "" (a plain archive)."""
    for kind in ("gzip", "zstd"):
        if media_type.endswith((f"+{kind}", f".{kind}")):
            return kind
    return ""
