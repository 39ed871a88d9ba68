"""Settings: from a file, from the command line, refused with the place named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from havre.app import config
from havre.app.config import ConfigError, load


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture(autouse=True)
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "absent.yaml")


def test_a_file_sets_everything(write: Any) -> None:
    found = load(
        write("""
dataDir: /data
runDir: /running
instance: second
api: {host: 127.0.0.2, port: 7443, names: [a.example, b.example], serviceCIDR: 10.1.0.0/20, tokenFile: /tokens}
node: {enabled: false, name: n1, address: 192.0.2.7, podCIDR: 10.2.0.0/24, agentPort: 1, dnsPort: 2, registryPort: 3}
platform: {kubeconfig: /other, artifactPort: 4}
""")
    )
    assert found == config.Config(
        Path("/data"), "127.0.0.2", 7443, ("a.example", "b.example"), "10.1.0.0/20", Path("/tokens"),
        Path("/running"), "second", False, "n1", "192.0.2.7", "10.2.0.0/24", 1, 2, 3,
        Path("/other"), 4,
    )  # fmt: skip
    assert (found.gateway, found.cluster_dns) == ("10.2.0.1", "10.1.0.10")
    assert found.kubeconfig == Path("/data/control/admin.kubeconfig")


def test_the_command_line_overrules_the_file(write: Any) -> None:
    found = load(write("api: {port: 7443, host: 127.0.0.2}"), api_port=8443, api_host=None)
    assert (found.api_port, found.api_host) == (8443, "127.0.0.2")


def test_without_a_file_the_defaults_hold() -> None:
    found = load(None)
    assert (found.api_host, found.api_port, found.is_default) == ("127.0.0.1", 6443, True)


def test_an_empty_file_says_nothing(write: Any) -> None:
    assert load(write("")).api_port == 6443


def test_mirrors_of_registries_are_set_beside_the_configuration_or_the_data(tmp_path: Path) -> None:
    assert config.Config(config.SYSTEM_DATA).registry_hosts == tmp_path / "certs.d"
    assert config.Config(Path("/data")).registry_hosts == Path("/data/certs.d")


def test_the_data_of_a_user_lives_in_her_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert config.default_data_dir() == Path("/home/x/state/havre")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.default_data_dir() == Path("/var/lib/havre")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api: {prot: 1}", "unknown setting api.prot; known are host, port, names, serviceCIDR, tokenFile"),
        ("dataDri: /x", "unknown setting dataDri; known are dataDir, runDir, instance, api, node, platform"),
        ("node: {podCIDR: 10.96.1.0/24}", "node.podCIDR 10.96.1.0/24 and "),
        ("node: {name: A_b}", "node.name 'A_b' must be a DNS name"),
        ("node: {agentPort: 99999}", "node.agentPort 99999 is no port"),
        ("instance: too-long", "instance 'too-long' must be 1 to 10 letters"),
        ("api: {port: x}", "api.port must be a int, not 'x'"),
        ("api: {port: true}", "api.port must be a int, not True"),
        ("api: {port: 70000}", "api.port 70000 is no port; choose one from 1 to 65535"),
        ("api: {host: example.org}", "api.host 'example.org' must be an IP address of this machine"),
        ("api: {serviceCIDR: 10.0.0.1/16}", "api.serviceCIDR '10.0.0.1/16': "),
        ("api: {serviceCIDR: 'fd00::/112'}", "must be an IPv4 network from /12 to /28"),
        ("api: {serviceCIDR: 10.0.0.0/30}", "must be an IPv4 network from /12 to /28"),
        ("[1]", "the file must be a map of settings"),
        ("api: [1]", "api must be a dict, not"),
        ("a: 1\na: 2", "config.yaml"),
        ("a: [", "config.yaml"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_by_name(write: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(write(text))
    assert message in str(e.value)
    assert "config.yaml" in str(e.value)


def test_a_wrong_option_is_named_as_the_option() -> None:
    with pytest.raises(ConfigError, match=r"^--api-port 70000 is no port"):
        load(None, api_port=70000)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"read the configuration .*nothing.yaml: No such file"):
        load(tmp_path / "nothing.yaml")


def test_other_data_is_another_instance_with_its_own_run_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    first, second, system = load(None, data_dir="/a"), load(None, data_dir="/b"), load(None)
    assert len({first.instance, second.instance, "havre"}) == 3
    assert first.run_dir == Path("/run") / first.instance
    assert (system.instance, system.run_dir) == ("havre", Path("/run/havre"))
