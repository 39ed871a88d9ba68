"""Certificates: made once, renewed for a reason, and a kubeconfig that holds them."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from havre.control.apiserver import pki
from havre.lang import yaml
from havre.wire import tls


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "pki"
    pki.ensure(directory, ["127.0.0.1"])
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy of its own: keys take time to make."""
    shutil.copytree(made, tmp_path / "pki")
    return tmp_path / "pki"


def content(directory: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in directory.iterdir()}


def test_a_second_start_keeps_everything(directory: Path) -> None:
    before = content(directory)
    pki.ensure(directory, ["127.0.0.1"])
    assert content(directory) == before
    assert {name for name in before if name.endswith(".key")} == {
        "ca.key",
        "apiserver.key",
        "admin.key",
        "apiserver-kubelet-client.key",
        "sa.key",
    }


def test_keys_are_for_their_owner_only(directory: Path) -> None:
    assert {f.stat().st_mode & 0o777 for f in directory.glob("*.key")} == {0o600}


def test_a_new_name_renews_the_listener_and_nothing_else(directory: Path) -> None:
    before = content(directory)
    pki.ensure(directory, ["127.0.0.1", "havre.example", "10.0.0.7"])
    after = content(directory)
    assert {name for name in after if after[name] != before[name]} == {"apiserver.crt", "apiserver.key"}
    names = tls.read(after["apiserver.crt"]).names
    assert {"havre.example", "10.0.0.7", "127.0.0.1", "localhost", "kubernetes.default.svc"} <= set(names)


def test_another_authority_renews_what_the_old_one_signed(directory: Path) -> None:
    before = content(directory)
    (directory / "ca.crt").unlink()
    (directory / "ca.key").unlink()
    pki.ensure(directory, ["127.0.0.1"])
    assert {name for name, data in content(directory).items() if data == before[name]} == {"sa.key"}


def test_the_operator_is_a_superuser_and_shows_it_by_certificate(directory: Path) -> None:
    found = pki.ensure(directory, ["127.0.0.1"])
    assert tls.verify(found.admin.certificate, found.authority.certificate)
    assert tls.read(found.admin.certificate).subject == tls.Subject("admin", ("system:masters",))


def test_a_kubeconfig_can_be_carried_to_another_machine(directory: Path) -> None:
    found = pki.ensure(directory, ["127.0.0.1"])
    config = yaml.load(pki.kubeconfig("https://h:6443", found.authority.certificate, found.admin))
    assert config["current-context"] == config["contexts"][0]["name"] == "havre"
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    assert cluster["server"] == "https://h:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == found.authority.certificate
    assert base64.b64decode(user["client-key-data"]) == found.admin.key
