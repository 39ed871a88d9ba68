"""Where the tables come from: the Go modules of one Kubernetes release, fetched by name through the go command."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

KUBERNETES = "v1.34.4"
STAGING = "v0.34.4"  # the same release, of the libraries
GNOSTIC = "v0.7.0"  # the version kubernetes v1.34.4 requires

MODULES = {
    "k8s.io/kubernetes": KUBERNETES,
    "k8s.io/api": STAGING,
    "k8s.io/apimachinery": STAGING,
    "k8s.io/apiextensions-apiserver": STAGING,
    "k8s.io/kube-aggregator": STAGING,
    "github.com/google/gnostic-models": GNOSTIC,
}
HEADER = f"make generate, from the Go modules of Kubernetes {KUBERNETES}; see docs/adr/0007-generated-tables.md"


@dataclass(frozen=True)
class Sources:
    """Folders of the fetched modules, by module path."""

    folders: dict[str, Path]

    @classmethod
    def fetch(cls) -> Sources:
        return cls({module: _download(module, version) for module, version in MODULES.items()})

    def discovery(self, name: str) -> dict[str, Any]:
        return _json(self.folders["k8s.io/kubernetes"] / "api/discovery" / name)

    def swagger(self) -> dict[str, Any]:
        return _json(self.folders["k8s.io/kubernetes"] / "api/openapi-spec/swagger.json")

    def openapi(self) -> dict[str, dict[str, Any]]:
        """All OpenAPI v3 documents by their path under /openapi/v3: `apis/apps/v1`."""
        folder = self.folders["k8s.io/kubernetes"] / "api/openapi-spec/v3"
        files = sorted(folder.glob("*_openapi.json"), key=lambda file: file.name)
        files += sorted(folder.glob(".*_openapi.json"))
        named = {file.name.removesuffix("_openapi.json").replace("__", "/"): file for file in files}
        return {path: _json(file) for path, file in sorted(named.items())}

    @cached_property
    def openapi_go(self) -> str:
        """The Go source of the definitions: it has the enumerations, which the published documents leave out."""
        return (self.folders["k8s.io/kubernetes"] / "pkg/generated/openapi/zz_generated.openapi.go").read_text()


def _download(module: str, version: str) -> Path:
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"], check=True, capture_output=True, text=True
    )
    return Path(json.loads(done.stdout)["Dir"])


def _json(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded
