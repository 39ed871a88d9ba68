from __future__ import annotations

from pathlib import Path

import pytest

from havre.machinery.client import HttpApi
from havre.machinery.kubeconfig import Connection
from havre.platform.gitops import crds
from havre.platform.gitops.artifacts import Storage
from havre.platform.gitops.git_repository import Means
from havre.platform.gitops.helm.engine import Engine
from havre.platform.gitops.run import Config, _host, _prepare, controllers, service_accounts


def test_every_controller_of_delivery_is_started_once(tmp_path: Path) -> None:
    found = controllers(Config(tmp_path), Storage(tmp_path, ""), Engine(tmp_path))
    kinds = [each.kind for each in found]
    assert {crds.GIT_REPOSITORY, crds.KUSTOMIZATION, crds.HELM_CHART, crds.HELM_RELEASE} <= set(kinds)
    assert len(kinds) == len(set(kinds))
    assert {each.finalizer_name for each in found} == {"finalizers.fluxcd.io"}


@pytest.mark.parametrize(("allowed", "schemes"), [(False, set()), (True, {"file"})])
def test_repositories_of_this_machine_are_read_only_when_allowed(
    tmp_path: Path, allowed: bool, schemes: set[str]
) -> None:
    first = controllers(Config(tmp_path, file_urls=allowed), Storage(tmp_path, ""), Engine(tmp_path))[0]
    means = first.reconcile.keywords["means"]  # type: ignore[attr-defined] # it is a partial
    assert isinstance(means, Means)
    assert means.schemes == {"http", "https", "ssh"} | schemes


def test_a_start_makes_private_directories_and_forgets_what_was_half_done(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "git" / "git-abc" / "repository").mkdir(parents=True)
    half = data / "artifacts" / "gitrepository" / "apps" / "app" / ".tmp-x"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    _prepare(data)
    _prepare(data)
    assert [*(data / "git").iterdir()] == []
    assert not half.exists()
    assert (data / "work").stat().st_mode & 0o777 == 0o700


async def test_a_service_account_is_one_client_that_says_who_it_is() -> None:
    async with service_accounts(Connection("http://127.0.0.1:1")) as impersonate:
        api = impersonate("apps", "deployer")
        assert isinstance(api, HttpApi)
        assert api._connection.impersonate == "system:serviceaccount:apps:deployer"
        assert impersonate("apps", "deployer") is api
        assert impersonate("apps", "other") is not api


def test_an_address_of_version_six_is_in_brackets() -> None:
    assert (_host("::1"), _host("127.0.0.1")) == ("[::1]", "127.0.0.1")
