"""Writes an image as `docker save` would: Debian's static busybox under all its names, serving a page that greets.

python3 examples/web/image.py web.tar      # needs: apt-get install busybox-static
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

SERVE = 'echo "${GREETING:-hello} from $(hostname)" > /www/index.html; exec httpd -f -v -h /www -p 8080'


def layer(busybox: Path) -> bytes:
    """One file system: busybox, a hard link per applet, and the directories that it wants."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.size = kind, target, 0o755, len(data)
            tar.addfile(info, io.BytesIO(data))

        for directory in ("bin", "etc", "tmp", "www", "proc", "sys", "dev"):
            add(directory, kind=tarfile.DIRTYPE)
        add("bin/busybox", busybox.read_bytes())
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", kind=tarfile.LNKTYPE, target="bin/busybox")
        add("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    return out.getvalue()


def main(target: str) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox is missing: apt-get install busybox-static")
    files = layer(Path(busybox))
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64"),
        "os": "linux",
        "config": {"Cmd": ["/bin/sh", "-c", SERVE], "Env": ["PATH=/bin"], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(files).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["web:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        for name, data in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", files),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:] or sys.exit(__doc__))
