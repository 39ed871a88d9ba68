"""A Havre API server of its own process, and a client that sends requests byte by byte as the tables say."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml


@dataclass(slots=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(slots=True)
class Client:
    """Requests over one kept connection, with the administrator's certificate or without."""

    server: str
    context: ssl.SSLContext
    anonymous: ssl.SSLContext
    _open: dict[bool, http.client.HTTPSConnection] = field(default_factory=dict)

    @classmethod
    def of(cls, kubeconfig: Path) -> Client:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        ca = _pem(cluster, "certificate-authority")
        context, anonymous = (ssl.create_default_context(cadata=ca) for _ in range(2))
        with NamedTemporaryFile("w", suffix=".pem") as both:
            both.write(_pem(user, "client-certificate") + "\n" + _pem(user, "client-key"))
            both.flush()
            context.load_cert_chain(both.name)
        return cls(cluster["server"], context, anonymous)

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
        *,
        certificate: bool = True,
        lines: int = 0,
    ) -> Reply:
        """The answer; with `lines`, only so many lines of its body, then the connection is dropped."""
        for fresh in (False, True):
            connection = self._connection(certificate)
            try:
                _write(connection, method, path, headers, body)
                answer = connection.getresponse()
            except (http.client.HTTPException, OSError):
                self._drop(certificate)
                if fresh:
                    raise
                continue
            data = b"".join(answer.readline() for _ in range(lines)) if lines else answer.read()
            if lines or answer.will_close:
                self._drop(certificate)
            return Reply(answer.status, answer.getheaders(), data)
        raise AssertionError("unreachable: the second try returns or raises")

    def _connection(self, certificate: bool) -> http.client.HTTPSConnection:
        found = self._open.get(certificate)
        if found is None:
            where = urlsplit(self.server)
            context = self.context if certificate else self.anonymous
            found = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=30, context=context)
            self._open[certificate] = found
        return found

    def _drop(self, certificate: bool) -> None:
        self._open.pop(certificate).close()

    def close(self) -> None:
        for certificate in tuple(self._open):
            self._drop(certificate)


def _write(
    connection: http.client.HTTPSConnection, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> None:
    """Sends a request with exactly these headers. A server may refuse a long body before it has read it."""
    connection.putrequest(method, path, skip_accept_encoding=True)
    for key, value in headers.items():
        connection.putheader(key, value)
    if body is not None:
        connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    try:
        if body:
            connection.send(body)
    except OSError:
        return  # the answer is already there


def _pem(entry: dict[str, Any], key: str) -> str:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return Path(entry[key]).read_text()


@contextmanager
def havre(data_dir: Path) -> Iterator[Path]:
    """The kubeconfig of a server that runs inside the block."""
    command = [sys.executable, "-m", "havre", "run", "control", "--data-dir", str(data_dir), "--api-port", "0"]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    with (data_dir.parent / "server.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        try:
            assert process.stdout
            line = process.stdout.readline()
            log.seek(0)
            assert line.startswith("control: API at https://"), line + log.read()
            yield data_dir / "control/admin.kubeconfig"
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with havre(tmp_path_factory.mktemp("havre") / "data") as kubeconfig:
        client = Client.of(kubeconfig)
        yield client
        client.close()


@pytest.fixture(scope="session")
def reference() -> Iterator[Client]:
    """A real kube-apiserver: a throw-away cluster, for the tests create and delete in it."""
    config = os.environ.get("HAVRE_REFERENCE_KUBECONFIG", "")
    if not config:
        pytest.skip("HAVRE_REFERENCE_KUBECONFIG names no cluster to compare with")
    client = Client.of(Path(config))
    yield client
    client.close()


def decoded(body: bytes) -> Any:
    """The value of a JSON body; other bytes as text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
