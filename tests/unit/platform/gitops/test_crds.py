from __future__ import annotations

import pytest

from havre.machinery.api import Ref
from havre.platform.gitops import crds
from havre.testing import FakeApi


def test_the_kinds_are_those_of_the_release() -> None:
    found = {
        (crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"])
        for crd in crds.definitions()
        for version in crd["spec"]["versions"]
    }
    assert found == {
        tuple(gvk)
        for gvk in (
            crds.GIT_REPOSITORY,
            crds.OCI_REPOSITORY,
            crds.BUCKET,
            crds.HELM_REPOSITORY,
            crds.HELM_CHART,
            crds.EXTERNAL_ARTIFACT,
            crds.KUSTOMIZATION,
            crds.HELM_RELEASE,
        )
    }


async def test_installing_makes_the_kinds_usable_and_again_changes_nothing() -> None:
    api = FakeApi()
    await crds.install(api)
    made = await api.create(
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {"interval": "1m", "url": "https://git.example/a"},
        }
    )
    assert made["spec"]["timeout"] == "60s"
    assert api.now(Ref(crds.CRD, "", "gitrepositories.source.toolkit.fluxcd.io"))
    before = api.revision
    await crds.install(api)
    assert api.revision == before


async def test_a_definition_that_is_never_served_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crds, "is_established", lambda _crd: False)
    with pytest.raises(crds.NotEstablished, match="buckets"):
        await crds.install(FakeApi(), timeout=0.05)


def test_files_are_admitted_beside_what_upstream_admits() -> None:
    crd = next(crd for crd in crds.definitions() if crd["spec"]["names"]["kind"] == "GitRepository")
    crds.admit_files(crd)
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert spec["properties"]["url"]["pattern"] == "^(http|https|ssh|file)://.*$"
