"""The tree that a build reads: paths stay inside it, whatever a kustomization says. Pure.

Source: sigs.k8s.io/kustomize, api/internal/loader; fluxcd/pkg, kustomize/filesys, which roots it in the artifact.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.spec import FILE_NAMES

_is_remote = re.compile(r"(?:[a-z]+://|git@|git::|gh:|github\.com[:/]|[^/?]+\.[a-z]+/[^?]+\?ref=)", re.IGNORECASE).match
ROOT: Final = ""


class Files:
    """File contents by path from the root of the artifact, parts divided by slashes."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents

    @cached_property
    def _directories(self) -> frozenset[str]:
        found = {ROOT}
        for path in self._contents:
            while path and (path := posixpath.dirname(path)) not in found:
                found.add(path)
        return frozenset(found)

    def is_directory(self, path: str) -> bool:
        return path in self._directories

    def has(self, path: str) -> bool:
        return path in self._contents

    def read(self, path: str, where: str) -> bytes:
        content = self._contents.get(path)
        if content is None:
            what = "is a directory" if self.is_directory(path) else "no such file"
            raise BuildError(f"{where}: '{path}': {what}")
        return content

    def kustomization(self, directory: str) -> str | None:
        """The path of the kustomization file. Raises BuildError for several."""
        found = [path for name in FILE_NAMES if self.has(path := posixpath.join(directory, name))]
        if len(found) > 1:
            raise BuildError(f"found multiple kustomization files under: {directory or '.'}: {', '.join(found)}")
        return found[0] if found else None

    def under(self, directory: str) -> list[str]:
        """Every file below a directory, in the order of their paths."""
        return sorted(path for path in self._contents if not directory or path.startswith(f"{directory}/"))


def resolve(directory: str, path: str, where: str) -> str:
    """The path from the root. Raises BuildError for what is elsewhere."""
    if _is_remote(path):
        raise BuildError(
            f"{where}: '{path}': remote bases are not fetched; add it to the source, or use a GitRepository"
        )
    if path.startswith("/"):
        raise BuildError(f"{where}: '{path}': absolute paths lead out of the source; use a relative one")
    joined = posixpath.normpath(posixpath.join(directory, path)) if path else ".."
    if joined == ".." or joined.startswith("../"):
        raise BuildError(f"{where}: '{path}': leads out of the source")
    return ROOT if joined == "." else joined
