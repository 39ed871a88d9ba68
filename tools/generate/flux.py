"""The custom resource definitions of Flux, from the Go modules of its controllers.

Writes `src/havre/platform/gitops/data/crds.json.zst`. The definitions are those of the release, with the labels that
Flux's own installation puts on them; the `flux` command looks for these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import zstandard
from tools.generate.sources import _download

from havre.lang import yaml

FLUX = "v2.9.4"
CONTROLLERS = {"source-controller": "v1.9.1", "kustomize-controller": "v1.9.4", "helm-controller": "v1.6.2"}
DATA = Path(__file__).parents[2] / "src/havre/platform/gitops/data"


def main() -> None:
    raw = orjson.dumps({"generated": f"make generate, from the Go modules of Flux {FLUX}", "crds": definitions()})
    packed = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(raw)
    (DATA / "crds.json.zst").write_bytes(packed)
    print(f"crds.json.zst: {len(packed):,} bytes of {len(raw):,}")


def definitions() -> list[dict[str, Any]]:
    """Every definition, in the order of the controllers and of names."""
    return [
        _labelled(yaml.load(file.read_bytes()), controller)
        for controller, version in CONTROLLERS.items()
        for file in sorted((_download(f"github.com/fluxcd/{controller}", version) / "config/crd/bases").glob("*.yaml"))
    ]


def _labelled(crd: dict[str, Any], controller: str) -> dict[str, Any]:
    crd["metadata"]["labels"] = {
        "app.kubernetes.io/component": controller,
        "app.kubernetes.io/instance": "flux-system",
        "app.kubernetes.io/part-of": "flux",
        "app.kubernetes.io/version": FLUX,
    }
    return crd
