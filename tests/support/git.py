"""Git repositories for tests: one that somebody works on, and Debian's `git http-backend` behind our server."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from pathlib import Path

from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import Server, serve

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "a"), ("EMAIL", "a@b"))
    },
}


class Upstream:
    """A repository that somebody works on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 1_700_000_000
        subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True, env=ENVIRONMENT)

    def git(self, *arguments: str) -> str:
        date = f"{self.clock} +0000"
        env = {**ENVIRONMENT, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        done = subprocess.run(["git", *arguments], cwd=self.path, check=True, env=env, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str = "change", **files: str) -> str:
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.clock += 1
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return f"file://{self.path}"


async def serve_git(root: Path) -> Server:
    """Every repository under `root`; one named `private` asks who it is."""

    async def handle(request: Request) -> Answer:
        wanted = "Basic " + base64.b64encode(b"flux:s3cret").decode()
        allowed = request.headers.get("authorization") in (wanted, "Bearer t0ken")
        if request.path.startswith("/private") and not allowed:
            return Response(401, [("www-authenticate", "Basic realm=x")], b"")
        environment = {
            **ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate(request.body)
        head, _, body = out.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        return Response(status, [(name.lower(), value) for name, value in fields if name != "Status"], body)

    return await serve(handle)
