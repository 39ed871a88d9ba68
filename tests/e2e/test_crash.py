"""A server that is killed loses nothing it has acknowledged; one that cannot start says why; one that ends, ends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

import pytest
import yaml

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
KILLS = 3
BETWEEN_KILLS = 60  # acknowledged writes
STOP = 5.0  # seconds that a clean end may take


class Server(Protocol):
    data_dir: Path
    kubeconfig: Path
    log: Path
    port: int
    process: subprocess.Popen[str] | None

    def start(self, port: int = 0, before: Any = None) -> None: ...
    def end(self, number: signal.Signals = signal.SIGTERM) -> int: ...


class Client:
    """One HTTPS connection with the administrator's certificate."""

    def __init__(self, server: Server) -> None:
        config = yaml.safe_load(server.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority"))
        with NamedTemporaryFile("w", suffix=".pem") as both:
            both.write(_pem(user, "client-certificate") + "\n" + _pem(user, "client-key"))
            both.flush()
            context.load_cert_chain(both.name)
        self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=context)

    def open(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"content-type": "application/json"})
        return self._connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.open(method, path, body)
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


def _pem(entry: dict[str, Any], key: str) -> str:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return Path(entry[key]).read_text()


def configmap(name: str, size: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"x": "x" * size}}


@dataclass(slots=True)
class Writer:
    """Creates ConfigMaps one after the other until the server dies under it; remembers what was acknowledged."""

    said: list[tuple[str, int]] = field(default_factory=list)
    tried: int = 0
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self, client: Client) -> None:
        start = len(self.said)
        try:
            while True:
                self.tried += 1
                status, obj = client.ask("POST", CONFIGMAPS, configmap(f"c{self.tried:06d}", 200))
                assert status == 201, obj
                self.said.append((obj["metadata"]["name"], int(obj["metadata"]["resourceVersion"])))
                if len(self.said) - start == BETWEEN_KILLS:
                    self.enough.set()
        except (OSError, http.client.HTTPException):
            client.close()


def events(client: Client, since: int) -> Iterator[tuple[str, int]]:
    """(name, revision) of every addition since a revision."""
    answer = client.open("GET", f"{CONFIGMAPS}?watch=1&resourceVersion={since}&timeoutSeconds=20")
    for line in answer:
        event = json.loads(line)
        assert event["type"] == "ADDED", event
        yield event["object"]["metadata"]["name"], int(event["object"]["metadata"]["resourceVersion"])


def test_a_killed_server_loses_nothing_it_acknowledged(stopped: Server) -> None:
    writer, seen, since = Writer(), list[tuple[str, int]](), 0
    for _ in range(KILLS):
        stopped.start()
        client = Client(stopped)
        if not since:
            since = int(client.ask("GET", CONFIGMAPS)[1]["metadata"]["resourceVersion"])
        writer.enough.clear()
        writing = threading.Thread(target=writer.run, args=(client,))
        writing.start()
        assert writer.enough.wait(20)
        assert stopped.end(signal.SIGKILL) == -signal.SIGKILL
        writing.join()

        stopped.start()  # a watch that saw nothing yet of this round goes on where it was
        client = Client(stopped)
        last = writer.said[-1]
        for name, revision in events(client, seen[-1][1] if seen else since):
            if name.startswith("c0"):
                seen.append((name, revision))
            if revision >= last[1]:
                break
        client.close()
        stopped.end(signal.SIGKILL)

    stopped.start()
    client = Client(stopped)
    stored = {
        o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in client.ask("GET", CONFIGMAPS)[1]["items"]
    }
    assert [(name, revision) for name, revision in writer.said if stored.get(name) != revision] == []
    revisions = [revision for _, revision in writer.said]
    assert revisions == sorted(set(revisions))
    assert [pair for pair in writer.said if pair not in seen] == []
    assert len({name for name, _ in seen}) == len(seen)
    client.close()


def run(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    """A start that must fail."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "havre", "run", "control", "--data-dir", str(server.data_dir), *options]
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)


def test_a_second_instance_on_the_same_data_is_refused(stopped: Server) -> None:
    stopped.start()
    second = run(stopped, "--api-port", "0")
    assert second.returncode == 1
    assert stopped.process
    words = f"state.db: in use by process {stopped.process.pid}; stop it or choose another --data-dir\n"
    assert second.stderr.endswith(words)


def test_a_port_that_is_taken_is_named(stopped: Server, tmp_path: Path) -> None:
    stopped.start()
    other = type(stopped)(tmp_path / "other")  # type: ignore[call-arg]
    second = run(other, "--api-port", str(stopped.port))
    assert second.returncode == 1
    assert f"127.0.0.1:{stopped.port}" in second.stderr
    assert "choose another --api-port" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_data_directory_that_cannot_be_written_is_named(stopped: Server) -> None:
    stopped.data_dir.write_text("a file where a directory belongs")
    refused = run(stopped, "--api-port", "0")
    assert refused.returncode != 0
    assert str(stopped.data_dir) in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_directory_is_named(stopped: Server) -> None:
    stopped.data_dir.mkdir(mode=0o500)
    refused = run(stopped, "--api-port", "0")
    assert refused.returncode == 1
    assert str(stopped.data_dir) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_end_closes_open_watches_and_is_quick(stopped: Server) -> None:
    stopped.start()
    clients = [Client(stopped) for _ in range(5)]
    watches = [client.open("GET", f"{CONFIGMAPS}?watch=1&resourceVersion=0") for client in clients]
    assert [watch.status for watch in watches] == [200] * 5
    began = time.monotonic()
    assert stopped.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < STOP
    for client in clients:
        client.close()


def test_a_restart_takes_up_the_same_cluster(stopped: Server) -> None:
    stopped.start()
    client = Client(stopped)
    client.ask("POST", CONFIGMAPS, configmap("kept"))
    uid = client.ask("GET", "/api/v1/namespaces/kube-system")[1]["metadata"]["uid"]
    client.close()
    assert stopped.end() == 0
    stopped.start()
    client = Client(stopped)
    assert client.ask("GET", f"{CONFIGMAPS}/kept")[0] == 200
    assert client.ask("GET", "/api/v1/namespaces/kube-system")[1]["metadata"]["uid"] == uid
    client.close()


def test_a_full_disk_refuses_writes_and_the_server_lives(stopped: Server) -> None:
    limit = 8 << 20  # bytes of one file: the database and its log come to it after some writes

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    stopped.start(before=small_files)
    client = Client(stopped)
    refused: dict[str, Any] = {}
    for number in range(200):
        status, body = client.ask("POST", CONFIGMAPS, configmap(f"big-{number}", 200_000))
        if status != 201:
            refused = body
            break
    assert refused["kind"] == "Status"
    assert refused["code"] in (500, 507)
    assert number > 5
    assert client.ask("GET", f"{CONFIGMAPS}/big-0")[0] == 200
    assert client.ask("GET", CONFIGMAPS)[0] == 200
    client.close()
    stopped.end(signal.SIGKILL)
    stopped.start()
    client = Client(stopped)
    names = {o["metadata"]["name"] for o in client.ask("GET", CONFIGMAPS)[1]["items"]}
    assert {f"big-{n}" for n in range(number)} <= names
    assert client.ask("POST", CONFIGMAPS, configmap("after"))[0] == 201
    client.close()
