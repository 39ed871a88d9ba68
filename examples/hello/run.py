"""Delivers an application from Git: makes an image and a repository, tells the cluster of them, waits until it answers.

    python examples/hello/run.py --repository /var/lib/havre/examples/hello [--registry http://127.0.0.1:5000]

Everything can be repeated: what is there stays. kubectl and git are used as anybody would; KUBECONFIG says which
cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import image

HERE = Path(__file__).parent
SYSTEM = "flux-system"
PATIENCE = 120.0  # seconds until everything must be ready
COMMIT = ["-c", "user.name=Havre", "-c", "user.email=havre@localhost", "commit", "-q"]


class Failed(Exception):
    """What was attempted and why it did not work."""


def call(*command: str, stdin: str | None = None) -> str:
    """What the program says. Raises Failed."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is missing: apt-get install {command[0]}") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:4])} …: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def make_repository(place: Path) -> None:
    """A Git repository with a work tree, from the folder `repository`; one that is there belongs to its owner."""
    if (place / ".git").exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE / "repository", place)
    call("git", "init", "-q", "-b", "main", str(place))
    call("git", "-C", str(place), "add", "-A")
    call("git", "-C", str(place), *COMMIT, "-m", "hello: a page that greets")


def sync(place: Path) -> list[dict[str, Any]]:
    """What tells the cluster of the repository."""
    named = {"name": "hello", "namespace": SYSTEM}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": named,
            "spec": {"interval": "5s", "url": f"file://{place.resolve()}", "ref": {"branch": "main"}},
        },
        {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "metadata": named,
            "spec": {
                "interval": "10m",
                "path": "./apps",
                "prune": True,
                "sourceRef": {"kind": "GitRepository", "name": "hello"},
            },
        },
    ]


WAITS = (
    ("source", "gitrepository", SYSTEM),
    ("manifests", "kustomization", SYSTEM),
    ("release", "helmrelease", "hello"),
    ("pods", "deployment", "hello"),
)


def ready(kind: str, namespace: str) -> tuple[bool, str]:
    """Whether it is, and what it says of itself."""
    done = subprocess.run(
        ["kubectl", "get", kind, "hello", "-n", namespace, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return False, "not there yet"
    obj = json.loads(done.stdout)
    wanted = "Available" if kind == "deployment" else "Ready"
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == wanted:
            return condition["status"] == "True", condition.get("message", "")
    return False, "waiting"


def wait() -> None:
    """One line per step, as it comes true. Raises Failed with what the slowest says."""
    until = time.monotonic() + PATIENCE
    for step, kind, namespace in WAITS:
        said = ""
        for true, message in looks(kind, namespace):
            if true:
                print(f"  ✓ {step:10} {message}", flush=True)
                break
            if message != said:
                said = message
                print(f"    {step:10} {message}", flush=True)
            if time.monotonic() > until:
                raise Failed(f"{kind} {namespace}/hello was not ready within {PATIENCE:g} s: {message}")


def looks(kind: str, namespace: str) -> Iterator[tuple[bool, str]]:
    """A look every now and then: the command has nothing else to do."""
    while True:
        yield ready(kind, namespace)
        time.sleep(0.3)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repository", type=Path, required=True, help="where the Git repository is made")
    options.add_argument("--registry", default="http://127.0.0.1:5000", help="where the image goes")
    chosen = options.parse_args()
    try:
        image.push(chosen.registry, "hello", "1")
        make_repository(chosen.repository)
        call(
            "kubectl",
            "apply",
            "--server-side",
            "-f",
            "-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": sync(chosen.repository)}),
        )
        wait()
        address = call("kubectl", "get", "service", "hello", "-n", "hello", "-o", "jsonpath={.spec.clusterIP}")
    except (Failed, image.Missing, OSError) as e:
        sys.exit(f"the example: {e}")
    print(f"""
  the page      curl http://{address}/     (or http://127.0.0.1:30080/, or http://hello.hello/ from a pod)
  another page  edit {chosen.repository / "apps" / "hello.yaml"}, then
                git -C {chosen.repository} commit -am 'another greeting'""")


if __name__ == "__main__":
    os.environ.setdefault("GIT_CONFIG_NOSYSTEM", "1")
    main()
