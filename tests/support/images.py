"""Images made on the spot, from Debian's static busybox: what tests run in containers."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/www:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
GROUP = "root:x:0:\nwww-data:x:33:\nstaff:x:50:www-data\nnogroup:x:65534:\n"
DIRECTORIES = ("bin", "etc", "root", "tmp", "www", "proc", "sys", "dev", "var", "var/run")


@cache
def busybox() -> Path:
    """The program; the test is skipped where Debian's busybox-static is missing."""
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("busybox is missing: apt-get install busybox-static")
    return Path(found)


@cache
def _applets() -> tuple[str, ...]:
    listed = subprocess.run([busybox(), "--list"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(name for name in listed if name != "busybox")


def layer(files: Mapping[str, str] | None = None) -> bytes:
    """A file system with busybox under all its names, and these text files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in DIRECTORIES:
            _add(tar, directory, kind=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
        _add(tar, "bin/busybox", busybox().read_bytes(), mode=0o755)
        for applet in _applets():
            _add(tar, f"bin/{applet}", kind=tarfile.LNKTYPE, target="bin/busybox", mode=0o755)
        for name, text in {"etc/passwd": PASSWD, "etc/group": GROUP, **(files or {})}.items():
            _add(tar, name, text.encode())
    return out.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    mode: int = 0o644,
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, len(data)
    tar.addfile(info, io.BytesIO(data))


def archive(
    path: Path,
    name: str,
    *,
    files: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    cmd: Sequence[str] = ("/bin/sh",),
) -> Path:
    """What `docker save` would write: one image `name` in one file."""
    content = layer(files)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(cmd), "Env": ["PATH=/bin"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    raw = json.dumps(document).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for member, data in (
            ("config.json", raw),
            ("layer.tar", content),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            _add(tar, member, data)
    return path


def push(source: Path, target: str, *prefix: str) -> None:
    """`skopeo copy` of an archive to `target` (registry/name:tag), run behind `prefix` (nsenter …)."""
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is missing: apt-get install skopeo")
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"]
    done = subprocess.run(
        [*prefix, *command, f"docker-archive:{source}", f"docker://{target}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
