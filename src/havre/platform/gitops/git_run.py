"""The git program, started so that neither a server nor a repository can do harm with it.

Each call has an empty home, no configuration but ours, no prompt, only the transports we name, limits on file size,
memory and CPU, a time limit, and a process group that is killed when it ends. Secrets are in the environment or in
private files, never on a command line. Should we die, git gets SIGKILL and a stalled transfer ends by itself.

Measured over HTTP on the last commit of a repository of 2,000 files, CPU seconds: this program 0.4–0.6 with packing the
artifact, dulwich 1.0–2.2 and pygit2 1.4 for the checkout alone. Only the program has shallow fetches of one commit,
protocol 2 and every transport; and it is a process of its own already.

Source: git(1), git-config(1), prlimit(1), setpriv(1).
"""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

FILE_BYTES = 2 << 30  # a pack of a whole history; the Linux kernel's is 3 GB, its last commit 250 MB
DATA_BYTES = 2 << 30  # memory of one git process; index-pack of a large repository takes some hundred MB
CPU_SECONDS = 600
OUTPUT_BYTES = 64 << 20  # a million references of 64 bytes
ERROR_BYTES = 16 * 1024
SLOW_BYTES, SLOW_SECONDS = 1000, 30  # a transfer slower than this for so long ends
SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")  # Debian's
_PASSED = ("PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "LD_LIBRARY_PATH")

# What a file of the tree is must not depend on attributes inside the tree: no line endings, no keywords, no encodings.
ATTRIBUTES = "* -text !eol -ident -filter !working-tree-encoding -export-subst -export-ignore\n"

SETTINGS: Final = {
    "protocol.version": "2",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "fetch.unpackLimit": "1",  # keep the pack: no thousand loose objects
    "pack.threads": "1",
    "safe.directory": "*",
    "uploadpack.allowAnySHA1InWant": "true",  # of file:// repositories
    "http.followRedirects": "initial",
    "http.lowSpeedLimit": str(SLOW_BYTES),
    "http.lowSpeedTime": str(SLOW_SECONDS),
}


class GitError(Exception):
    """git did not do it; the message is for people and holds no secret."""


class GitTimeout(GitError):
    """The time ran out."""


class AuthError(GitError):
    """Credentials that do not fit the URL."""


@dataclass(frozen=True, slots=True)
class Auth:
    """What a Secret says; fields that are not there are empty."""

    username: str = ""
    password: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    identity: bytes = field(default=b"", repr=False)  # private key, PEM
    known_hosts: bytes = b""
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    proxy: str = field(default="", repr=False)  # URL, with user and password

    @classmethod
    def of(cls, url: str, data: dict[str, bytes], proxy: str = "") -> Auth:
        """Of the data of a Secret, and of the user in the URL. Raises AuthError with upstream's words."""
        parts = urlsplit(url)
        scheme, user, password = parts.scheme, parts.username or "", parts.password or ""
        if scheme == "ssh":
            for name in ("identity", "known_hosts"):
                if not data.get(name):
                    raise AuthError(f"invalid 'ssh' auth option: '{name}' is required")
            phrase = data.get("password", b"").decode(errors="replace")
            return cls(user or "git", phrase, "", data["identity"], data["known_hosts"], proxy=proxy)
        if "bearerToken" not in data:
            user = data.get("username", b"").decode(errors="replace") or user
            password = data.get("password", b"").decode(errors="replace") or password
        if not user and password:
            raise AuthError(f"invalid '{scheme}' auth option: 'password' requires 'username' to be set")
        return cls(
            user,
            password,
            data.get("bearerToken", b"").decode(errors="replace"),
            ca=data.get("ca.crt") or data.get("caFile", b""),
            certificate=data.get("tls.crt", b""),
            key=data.get("tls.key", b""),
            proxy=proxy,
        )


def bare(url: str, auth: Auth) -> str:
    """The URL without password, and without user where a header says it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "ssh":
        host = f"{quote(auth.username)}@{host}"
    return urlunsplit(parts._replace(netloc=host))


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs git for one source; `home` is a private directory of its own."""

    home: Path
    schemes: frozenset[str]
    environment: dict[str, str]

    @classmethod
    def make(cls, home: Path, url: str, auth: Auth, schemes: frozenset[str]) -> Runner:
        """Writes the private files; blocks."""
        settings = {**SETTINGS, **_transport(home, url, auth)}
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {
            "HOME": str(home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_ALLOW_PROTOCOL": ":".join(sorted(schemes)),
            "GIT_SSH_COMMAND": _ssh(home, auth),
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        if auth.identity and auth.password:
            environment |= {"SSH_ASKPASS": str(home / "askpass"), "SSH_ASKPASS_REQUIRE": "force"}
        for number, (key, value) in enumerate(settings.items()):
            environment[f"GIT_CONFIG_KEY_{number}"], environment[f"GIT_CONFIG_VALUE_{number}"] = key, value
        return cls(home, schemes, environment)

    def with_variable(self, name: str, value: str) -> Runner:
        return replace(self, environment={**self.environment, name: value})

    def with_setting(self, key: str, value: str) -> Runner:
        number = int(self.environment["GIT_CONFIG_COUNT"])
        more = {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return replace(self, environment={**self.environment, **more, "GIT_CONFIG_COUNT": str(number + 1)})

    def command(self, program: str, *arguments: str) -> list[str]:
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("prlimit", f"--fsize={FILE_BYTES}", f"--data={DATA_BYTES}", f"--cpu={CPU_SECONDS}", "--core=0", "--"),
            *(program, *arguments),
        ]

    async def run(self, *arguments: str, cwd: Path) -> bytes:
        """What git printed. Raises GitError with what it said. Cancelling kills it."""
        return (await self.program("git", *arguments, cwd=cwd))[0]

    async def program(self, program: str, *arguments: str, cwd: Path, stdin: bytes = b"") -> tuple[bytes, bytes]:
        """Output and errors of a program that ended well. Raises GitError. Cancelling kills it."""
        process = await asyncio.create_subprocess_exec(
            *self.command(program, *arguments),
            cwd=cwd,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, error = await _communicate(process, stdin)
            status = await process.wait()
        finally:
            with suppress(ProcessLookupError):  # what it started may outlive it
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:
                await process.wait()
        if status:
            raise GitError(said(error.decode(errors="replace")) or f"{program} ended with status {status}")
        return out, error


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(ConnectionError):
        process.stdin.write(stdin)
        process.stdin.close()
    (out, more), (error, _) = await asyncio.gather(
        _read(process.stdout, OUTPUT_BYTES), _read(process.stderr, ERROR_BYTES)
    )
    if more:
        raise GitError(f"git printed more than {OUTPUT_BYTES} bytes")
    return out, error


async def _read(stream: asyncio.StreamReader, limit: int) -> tuple[bytes, bool]:
    """The first `limit` bytes, and whether there were more; the rest is read and forgotten."""
    parts, size = [], 0
    while chunk := await stream.read(256 * 1024):
        if size < limit:
            parts.append(chunk[: limit - size])
        size += len(chunk)
    return b"".join(parts), size > limit


_NOISE = ("warning:", "hint:", "Please make sure you have", "and the repository exists", "debug", "Warning:")
SAID_LINES = 8


def said(text: str) -> str:
    """The lines that tell why, of git and of what it started, without git's prefixes."""
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)][-SAID_LINES:]
    shown = [line.removeprefix("fatal:").removeprefix("error:").strip() for line in telling]
    return "; ".join(dict.fromkeys(shown))[:1024]


def _transport(home: Path, url: str, auth: Auth) -> dict[str, str]:
    """Credentials of HTTP, for the host of the URL alone."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return {}
    scope = f"http.{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    settings = {}
    if auth.bearer_token:
        settings[f"{scope}.extraHeader"] = f"Authorization: Bearer {auth.bearer_token}"
    elif auth.username:
        basic = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        settings[f"{scope}.extraHeader"] = f"Authorization: Basic {basic}"
    if auth.ca:
        system = SYSTEM_CA.read_bytes() if SYSTEM_CA.exists() else b""
        settings[f"{scope}.sslCAInfo"] = _private(home / "ca.pem", system + b"\n" + auth.ca)
    if auth.certificate and auth.key:
        settings[f"{scope}.sslCert"] = _private(home / "client.pem", auth.certificate)
        settings[f"{scope}.sslKey"] = _private(home / "client.key", auth.key)
    if auth.proxy:
        settings["http.proxy"] = auth.proxy
    return settings


def _ssh(home: Path, auth: Auth) -> str:
    """The ssh client with our key and hosts and nothing of this machine's; git splits it as a shell would."""
    options = [
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
    ]
    options += ["PasswordAuthentication=no", "KbdInteractiveAuthentication=no", "NumberOfPasswordPrompts=1"]
    options += ["ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=2", "ControlMaster=no"]
    options += ["PermitLocalCommand=no", "ClearAllForwardings=yes"]
    if auth.identity:
        hosts = _private(home / "known_hosts", auth.known_hosts.rstrip() + b"\n")
        identity = _private(home / "identity", auth.identity.rstrip() + b"\n")
        options += [f"UserKnownHostsFile={hosts}", f"IdentityFile={identity}"]
        if auth.password:
            _private(home / "phrase", auth.password.encode())
            _private(home / "askpass", f"#!/bin/sh\nexec cat {shlex.quote(str(home / 'phrase'))}\n".encode(), 0o700)
    if not auth.password:
        options.append("BatchMode=yes")
    return "ssh -F none " + " ".join(f"-o {shlex.quote(option)}" for option in options)


def _private(path: Path, data: bytes, mode: int = 0o600) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return str(path)
