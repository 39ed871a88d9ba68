"""Write the table of objects that every new cluster has, from what a real one of the same version shows.

    python -m tools.generate.bootstrap --kubeconfig ADMIN.kubeconfig

Reads, through kubectl, the roles and bindings labelled as bootstrap defaults, the priority classes, the flow schemas
and priority levels of a fresh cluster; drops what is particular to it (uids, times, managed fields, status); writes
`src/havre/control/apiserver/data/bootstrap.json.zst`, the same bytes for the same cluster version.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import zstandard

TARGET = Path(__file__).parents[2] / "src/havre/control/apiserver/data/bootstrap.json.zst"
PARTICULAR = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")
RBAC = "clusterroles,clusterrolebindings,roles,rolebindings"
OTHERS = "priorityclasses,flowschemas,prioritylevelconfigurations"


def fetch(kubeconfig: str, *arguments: str) -> list[dict[str, Any]]:
    command = ["kubectl", "--kubeconfig", kubeconfig, "get", *arguments, "--all-namespaces", "-o", "json"]
    answer = subprocess.run(command, check=True, capture_output=True)
    items: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
    return items


def generic(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in PARTICULAR}
    return {key: value for key, value in {**obj, "metadata": metadata}.items() if key != "status"}


def order(obj: dict[str, Any]) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    kubeconfig = parser.parse_args().kubeconfig
    found = fetch(kubeconfig, RBAC, "-l", "kubernetes.io/bootstrapping=rbac-defaults") + fetch(kubeconfig, OTHERS)
    table = sorted(map(generic, found), key=order)
    text = json.dumps(table, separators=(",", ":"), sort_keys=True)
    TARGET.write_bytes(zstandard.ZstdCompressor(level=19).compress(text.encode()))
    print(f"{TARGET.name}: {len(table)} objects, {len(text)} bytes, {TARGET.stat().st_size} compressed")


if __name__ == "__main__":
    main()
