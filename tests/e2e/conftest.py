"""A whole Havre in processes of its own, and the real clients that people use against it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venv/clients.d"
CALL = 60.0  # seconds that a client may take


@dataclass(slots=True)
class Server:
    """`havre run control` on a free port."""

    data_dir: Path
    options: Sequence[str] = ()
    process: subprocess.Popen[str] | None = None
    url: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.data_dir.parent / f"{self.data_dir.name}.log"

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "control/admin.kubeconfig"

    def start(self, port: int = 0, before: Callable[[], None] | None = None) -> None:
        """Returns when it says that it serves. `before` runs in the new process, to limit it."""
        command = [sys.executable, "-m", "havre", "run", "control", "--data-dir", str(self.data_dir)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--api-port", str(port), *self.options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                preexec_fn=before,  # noqa: PLW1509  no threads run in the tests that use it
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("control: API at https://"), line + self.log.read_text()
        self.url = line.split()[3].rstrip(",")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after this signal."""
        assert self.process
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.end(signal.SIGKILL)


@contextmanager
def running(data_dir: Path) -> Iterator[Server]:
    server = Server(data_dir)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("havre") / "data") as started:
        yield started


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Server]:
    """A server that the test starts itself."""
    server = Server(tmp_path / "data")
    yield server
    server.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said."""

    code: int
    out: str
    err: str

    def ok(self) -> str:
        assert self.code == 0, self.err or self.out
        return self.out

    def failed(self) -> str:
        assert self.code != 0, self.out
        return self.err


def program(name: str) -> Path:
    """A client of `make install-clients`, else one on the PATH; the test is skipped when there is neither."""
    found = CLIENTS / name
    if found.exists():
        return found
    on_path = shutil.which(name)
    if on_path is None:
        pytest.skip(f"{name} is neither in {CLIENTS} nor on the PATH")
    return Path(on_path)


@dataclass(frozen=True, slots=True)
class Tool:
    """A client that talks to one server, with a home of its own."""

    path: Path
    env: Mapping[str, str]
    cwd: Path

    @classmethod
    def of(cls, name: str, server: Server, home: Path) -> Tool:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(server.kubeconfig), "TZ": "UTC"}
        return cls(program(name), env, home)

    def __call__(self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Answer:
        done = subprocess.run(
            [str(self.path), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.cwd,
            timeout=CALL,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def tool(server: Server, tmp_path: Path) -> Callable[[str], Tool]:
    """`tool("kubectl")`: that client against the server of this module."""
    return lambda name: Tool.of(name, server, tmp_path)
