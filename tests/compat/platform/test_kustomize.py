"""The real kustomize as referee of our build: the same files, the same objects in the same order."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.kustomizations import Files, cases

from havre.lang import yaml
from havre.platform.gitops.kustomize import BuildError, build

GOOD, BAD = cases("good.txt"), cases("bad.txt")

KUSTOMIZE = os.environ.get("KUSTOMIZE") or shutil.which("kustomize") or ""
pytestmark = pytest.mark.skipif(not KUSTOMIZE, reason="no kustomize in PATH, and KUSTOMIZE does not name one")


def unsorted(files: Files) -> Files:
    """Its command line sorts unless it is told not to; what we follow never does."""
    top = files["o/kustomization.yaml"]
    if not top or "sortOptions" in top:
        return files
    return {**files, "o/kustomization.yaml": f"{top}sortOptions: {{order: fifo}}\n"}


def theirs(files: Files, directory: Path) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [KUSTOMIZE, "build", "--load-restrictor", "LoadRestrictionsNone", str(directory / "o")]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def ours(files: Files) -> str:
    built = build({name: text.encode() for name, text in files.items()}, "o")
    return "---\n".join(yaml.dump(obj) for obj in built)


@pytest.mark.parametrize("name", GOOD)
def test_the_same_files_give_the_same_text(name: str, tmp_path: Path) -> None:
    files = unsorted(GOOD[name])
    answer = theirs(files, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert ours(files) == answer.stdout


@pytest.mark.parametrize("name", BAD)
def test_what_they_refuse_we_refuse(name: str, tmp_path: Path) -> None:
    files = unsorted(BAD[name])
    assert theirs(files, tmp_path).returncode != 0
    with pytest.raises(BuildError):
        ours(files)
