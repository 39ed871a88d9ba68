"""The command line: help, wrong options, and an instance from start to stop."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from havre import cli
from havre.app import config as configuration
from havre.cli import up


@pytest.fixture(autouse=True)
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "SYSTEM_FILE", tmp_path / "absent.yaml")


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environment)


# words


def test_help_lists_the_commands() -> None:
    shown = call("--help").output
    assert "Havre turns one Linux machine into a small cloud-native platform" in shown
    for name in cli.COMMANDS:
        assert f"\n  {name} " in shown


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    shown = call(name, "--help")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: main {name}")
    assert "--data-dir" in shown.output or name == "completion"


def test_the_version_says_which_api() -> None:
    assert "(Kubernetes v1.34 API)" in call("--version").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["up", "--nonsense"], 2, "No such option '--nonsense'"),
        (["up", "--api-port", "x"], 2, "'x' is not a valid integer"),
        (["up", "--api-port", "70000"], 2, "--api-port 70000 is no port; choose one from 1 to 65535"),
        (["up", "--api-host", "example.org"], 2, "--api-host 'example.org' must be an IP address"),
        (["up", "--service-cidr", "10.0.0.0/30"], 2, "--service-cidr 10.0.0.0/30 must be an IPv4 network"),
        (["up", "--config", "nothing.yaml"], 2, "read the configuration nothing.yaml: No such file or directory"),
        (["run"], 2, "Missing argument 'PARTS...'"),
        (["run", "nonsense", "--data-dir", "x"], 2, "there is no part 'nonsense'; choose from control"),
        (
            ["kubeconfig", "--data-dir", "nowhere"],
            1,
            "no kubeconfig in nowhere/control; start Havre once with `havre up`",
        ),
        (["status", "--data-dir", "nowhere"], 3, "not running: nowhere"),
        (["down", "--data-dir", "nowhere"], 0, "nothing runs in nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_plainly(arguments: list[str], code: int, message: str) -> None:
    shown = call(*arguments)
    assert (shown.exit_code, message in shown.output) == (code, True), shown.output


def test_an_option_can_come_from_the_environment() -> None:
    assert "--api-port 70000 is no port" in call("up", HAVRE_UP_API_PORT="70000").output


def test_the_instance_in_the_background_gets_the_same_options() -> None:
    found = up._arguments(
        Path("c.yaml"), with_node=False, data_dir=Path("/d"), api_port=0, api_host=None, token_file=Path("/t")
    )
    assert found == ["--without-node", "--config=c.yaml", "--data-dir=/d", "--api-port=0", "--token-file=/t"]


def test_kubeconfig_prints_the_file_or_its_place(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "admin.kubeconfig").write_text("kind: Config\n")
    assert call("kubeconfig", "--data-dir", str(tmp_path)).output == "kind: Config\n"
    assert call("kubeconfig", "--path", "--data-dir", str(tmp_path)).output == f"{tmp_path}/control/admin.kubeconfig\n"


def test_logs_show_the_end_of_the_log_of_one_part(tmp_path: Path) -> None:
    lines = ["x INFO havre.control.a: one", "x INFO havre.node.b: two", "x INFO havre.node.b: three"]
    (tmp_path / "havre.log").write_text("\n".join(lines) + "\n")
    assert call("logs", "--data-dir", str(tmp_path), "-n", "2").output.splitlines() == lines[1:]
    assert call("logs", "--data-dir", str(tmp_path), "--part", "control").output.splitlines() == lines[:1]
    absent = call("logs", "--data-dir", str(tmp_path / "absent"))
    assert (absent.exit_code, "no log in" in absent.output) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_our_commands(shell: str) -> None:
    script = call("completion", shell).output
    assert "_HAVRE_COMPLETE" in script
    completed = havre(_HAVRE_COMPLETE="bash_complete", COMP_WORDS="havre kube", COMP_CWORD="1")
    assert completed.stdout.strip() == "plain,kubeconfig"


def test_uninstall_asks_and_removes_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "control").mkdir(parents=True)
    (data / "control" / "state.db").write_text("x")
    place = ["--data-dir", str(data), "--run-dir", str(tmp_path / "run")]
    assert call("uninstall", *place).exit_code == 1  # nobody said yes
    assert data.exists()
    assert f"removed {data}" in call("uninstall", "--yes", *place).output
    assert not data.exists()
    assert "nothing to remove" in call("uninstall", "--yes", *place).output


def test_the_doctor_names_what_is_missing_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = call("doctor", "--data-dir", str(tmp_path), "--registry-port", str(port))
    assert shown.exit_code == 1
    assert "MISSING conmon" in shown.output
    assert "→ apt-get install conmon" in shown.output
    assert "→ stop what listens there, or choose another --registry-port" in shown.output


# processes


def havre(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "havre", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=50, env=env, check=False)


def test_help_imports_nothing_heavy() -> None:
    heavy = "asyncio apsw uvloop httptools httpunk cryptography google cel_expr_python joserfc orjson"
    code = (
        "import sys; from havre.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules], file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, env=env, check=True
    )
    assert shown.stderr.strip() == "[]"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    havre("down", "--data-dir", str(tmp_path / "data"))


def pid_of(data: Path) -> int:
    shown = havre("status", "--data-dir", str(data))
    assert shown.returncode == 0, shown.stdout
    assert f"data in {data}" in shown.stdout
    return int(shown.stdout.split()[2].rstrip(","))


def test_an_instance_starts_once_survives_a_kill_and_stops(data: Path) -> None:
    place = ["--data-dir", str(data)]
    first = havre("up", "--detach", "--without-node", "--api-port", "0", *place)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "control: API at https://127.0.0.1:" in first.stdout
    assert f"Stop it with `havre down --data-dir {data}`" in first.stdout
    pid = pid_of(data)
    second = havre("up", "--detach", "--without-node", "--api-port", "0", *place)
    assert f"already running in {data}" in second.stdout
    assert pid_of(data) == pid
    other = havre("run", "control", "--api-port", "0", *place)
    assert (other.returncode, "in use by process " in other.stderr) == (1, True), other.stderr
    assert "Traceback" not in other.stderr

    killed = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([killed], [], [], 10)
    os.close(killed)
    assert "stopped" in havre("down", *place).stdout  # by its child, which takes its place
    assert havre("status", *place).returncode == 3
    third = havre("up", *place, HAVRE_UP_DETACH="1", HAVRE_UP_API_PORT="0", HAVRE_UP_WITH_NODE="0")
    assert third.returncode == 0, third.stdout + third.stderr
    assert pid_of(data) != pid
    assert "stopped" in havre("down", *place).stdout
    assert havre("status", *place).returncode == 3
    assert "nothing runs" in havre("down", *place).stdout


def test_a_start_that_fails_says_why(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = havre("up", "--detach", "--without-node", "--api-port", str(port), "--data-dir", str(data))
    assert shown.returncode == 1
    assert f"listen on 127.0.0.1:{port}: " in shown.stderr
    assert "choose another --api-port" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "open {file}: No such file or directory; check the path"), ("only-a-token\n", "{file}: ")],
)
def test_a_token_file_that_cannot_be_used_is_named(data: Path, tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "tokens.csv"
    if content is not None:
        file.write_text(content)
    shown = havre("run", "control", "--api-port", "0", "--data-dir", str(data), "--token-file", str(file))
    assert shown.returncode == 1
    assert message.format(file=file) in shown.stderr
    assert "Traceback" not in shown.stderr
