"""The images that the suite's pods run, made from Debian's programs and pushed: images.py PROGRAMS [REGISTRY].

Their upstream names are data of the suite (`e2e.test --list-images`). A push to REGISTRY/e2e-test-images/agnhost:2.56
is what the machine gets when it pulls registry.k8s.io/e2e-test-images/agnhost:2.56, by this file:

    certs.d/_default/hosts.toml      [host."http://127.0.0.1:5000"]

What is upstream's own is built from its Go modules (see programs.sh): agnhost, nonewprivs, sample-apiserver, etcd.
The rest stands in for it: busybox (1.35, from its source) for 1.37, for Alpine's shell and for the web servers of httpd
and nginx (same paths, same ports, no modules); dig, curl, getent and nc are Debian's, with their libraries.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORIES = ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "run", "uploads", "usr/bin", "usr/local/bin")
TOOLS = ("dig", "curl", "ss", "nc", "getent")
USERS = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
user-defined-in-image:x:1000:1000::/:/bin/sh
"""
GROUPS = """root:x:0:
daemon:x:1:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
nogroup:x:65533:
nobody:x:65534:
"""
SYSTEM = {"etc/passwd": USERS.encode(), "etc/group": GROUPS.encode(), "etc/nsswitch.conf": b"hosts: files dns\n"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAGE = b"<html><body><h1>It works!</h1></body></html>\n"
HTTPD = "usr/local/apache2/htdocs"
NGINX = "usr/share/nginx/html"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: what is in it besides the shell, and how it starts."""

    names: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)  # path in the image → name in PROGRAMS
    links: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("/bin/sh",)
    user: str = ""
    texts: tuple[str, ...] = ()  # files of PROGRAMS
    tools: bool = False  # whether TOOLS are in it
    setuid: bool = False
    workdir: str = ""


def _server(root: str) -> tuple[str, ...]:
    """busybox's server ends on no signal when it is the first process."""
    return ("/bin/sh", "-c", f"trap 'exit 0' TERM QUIT; httpd -f -p 80 -h /{root} & wait")


AGNHOST = {"agnhost": "agnhost"}
RECIPES = (
    Recipe(
        ("e2e-test-images/agnhost:2.56",),
        programs=AGNHOST,
        links={"agnhost-2": "agnhost"},
        entrypoint=("/agnhost",),
        cmd=("pause",),
        texts=("localhost.crt", "localhost.key"),
        tools=True,
    ),
    Recipe(("e2e-test-images/busybox:1.37.0-1", "e2e-test-images/busybox:1.36.1-1")),
    Recipe(("e2e-test-images/jessie-dnsutils:1.7",), tools=True),
    Recipe(("e2e-test-images/httpd:2.4.38-4",), {f"{HTTPD}/index.html": PAGE}, cmd=_server(HTTPD)),
    Recipe(("e2e-test-images/httpd:2.4.39-4",), {f"{HTTPD}/index.html": PAGE, "new": b""}, cmd=_server(HTTPD)),
    Recipe(("e2e-test-images/nginx:1.14-4",), {f"{NGINX}/index.html": PAGE}, cmd=_server(NGINX)),
    Recipe(("e2e-test-images/nginx:1.15-4",), {f"{NGINX}/index.html": PAGE, "new": b""}, cmd=_server(NGINX)),
    Recipe(
        ("e2e-test-images/nautilus:1.7",),
        {"data.json": b'{\n"image": "nautilus.jpg"\n}\n', "nautilus.jpg": b"\xff\xd8\xff\xd9"},
        programs=AGNHOST,
        entrypoint=("/agnhost",),
        cmd=("test-webserver",),
    ),
    Recipe(("pause:3.10.1",), programs=AGNHOST, cmd=("/agnhost", "pause")),
    Recipe(("e2e-test-images/nonroot:1.4",), user="1234"),
    Recipe(("e2e-test-images/nonewprivs:1.3",), programs={"usr/local/bin/nnp": "nnp"}, cmd=("nnp",), setuid=True),
    Recipe(
        ("e2e-test-images/sample-apiserver:1.29.2",),
        programs={"sample-apiserver": "sample-apiserver"},
        entrypoint=("/sample-apiserver",),
    ),
    Recipe(("etcd:3.6.4-0",), programs={"usr/local/bin/etcd": "etcd"}),
)


def main(programs: Path, registry: str = "127.0.0.1:5000") -> None:
    """Make every image, and push it under each of its names."""
    busybox = programs / "busybox"
    shell = _layer({"bin/busybox": busybox.read_bytes()}, _applets(busybox), SYSTEM)
    tools = _layer(_debian(programs, *TOOLS), {}, {})
    with tempfile.TemporaryDirectory() as work:
        for recipe in RECIPES:
            own = {path: (programs / name).read_bytes() for path, name in recipe.programs.items()}
            files = {**recipe.files, **{name: (programs / name).read_bytes() for name in recipe.texts}}
            mode = 0o4755 if recipe.setuid else 0o755
            layers = [shell, *([tools] if recipe.tools else []), _layer(own, recipe.links, files, mode)]
            archive = Path(work) / "image.tar"
            _save(archive, recipe, layers)
            for name in recipe.names:
                _push(archive, f"{registry}/{name}")


def _applets(busybox: Path) -> dict[str, str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return {f"bin/{name}": "/bin/busybox" for name in listed if name != "busybox"}


def _debian(programs: Path, *names: str) -> dict[str, bytes]:
    """Programs of `programs` or of this machine, with the libraries they load."""
    found: dict[str, bytes] = {}
    for name in names:
        program = shutil.which(name, path=f"{programs}:{os.environ['PATH']}")
        if program is None:
            raise SystemExit(f"{name} is neither in {programs} nor on the PATH")
        found[f"usr/bin/{name}"] = Path(program).read_bytes()
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            found[library.removeprefix("/")] = Path(library).read_bytes()
    return found


def _layer(
    programs: Mapping[str, bytes], links: Mapping[str, str], files: Mapping[str, bytes], mode: int = 0o755
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        if "etc/passwd" in files:
            for directory in DIRECTORIES:
                _add(tar, directory, kind=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
        for path, data in programs.items():
            _add(tar, path, data, mode=mode)
        for path, target in links.items():
            _add(tar, path, kind=tarfile.SYMTYPE, target=target)
        for path, data in files.items():
            _add(tar, path, data)
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


def _save(path: Path, recipe: Recipe, layers: Sequence[bytes]) -> None:
    """What `docker save` would write."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = {
        "Env": [PATH],
        "Entrypoint": list(recipe.entrypoint),
        "Cmd": list(recipe.cmd),
        "User": recipe.user,
        "WorkingDir": recipe.workdir,
    }
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }
    names = [f"{digest}.tar" for digest in digests]
    manifest = [{"Config": "config.json", "RepoTags": [recipe.names[0]], "Layers": names}]
    with tarfile.open(path, "w") as tar:
        _add(tar, "config.json", json.dumps(document).encode())
        for name, data in zip(names, layers, strict=True):
            _add(tar, name, data)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _push(archive: Path, target: str) -> None:
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"docker-archive:{archive}"]
    subprocess.run([*command, f"docker://{target}"], check=True, timeout=300)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
