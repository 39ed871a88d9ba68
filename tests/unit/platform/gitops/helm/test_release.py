"""Records in Helm's format."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.platform.gitops.helm.manifest import Hook
from havre.platform.gitops.helm.release import RecordError, Records, Release, decode, encode
from havre.testing import FakeApi, namespace

RELEASE = Release(
    name="web",
    namespace="shop",
    version=2,
    status="deployed",
    chart={"metadata": {"name": "c", "version": "1.0.0"}},
    config={"color": "red"},
    manifest="---\nkind: Secret\n",
    hooks=(Hook("a", "Job", "p", "m", ("test",)),),
    notes="hello",
    description="Upgrade complete",
    first_deployed="2026-01-01T00:00:00Z",
    last_deployed="2026-01-02T00:00:00Z",
    labels={"team": "a"},
    step="wait@5.0",
)


def test_a_record_comes_back_as_it_was() -> None:
    assert decode(encode(RELEASE, 5.0)) == RELEASE


def test_a_record_has_the_name_the_type_and_the_labels_that_helm_looks_for() -> None:
    secret = encode(RELEASE, 5.0)
    assert secret["metadata"]["name"] == "sh.helm.release.v1.web.v2"
    assert secret["type"] == "helm.sh/release.v1"
    assert secret["metadata"]["labels"] == {
        **{"team": "a", "name": "web", "owner": "helm", "status": "deployed", "version": "2"},
        "modifiedAt": "5",
    }


def test_the_json_has_helms_keys() -> None:
    packed = base64.b64decode(base64.b64decode(encode(RELEASE, 5.0)["data"]["release"]))
    record = json.loads(gzip.decompress(packed))
    assert record["info"] == {
        "first_deployed": "2026-01-01T00:00:00Z",
        "last_deployed": "2026-01-02T00:00:00Z",
        "deleted": "",
        "description": "Upgrade complete",
        "status": "deployed",
        "notes": "hello",
    }
    assert sorted(record) == [
        *("apply_method", "chart", "config", "hooks", "info", "manifest", "name", "namespace", "version")
    ]


def test_fields_of_a_newer_helm_are_kept() -> None:
    assert decode(encode(replace(RELEASE, rest={"sequencing": 1}), 5.0)).rest == {"sequencing": 1}


def test_a_record_that_unpacks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("havre.platform.gitops.helm.release.JSON_BYTES", 100)
    with pytest.raises(RecordError, match="larger than 100 bytes"):
        decode(encode(RELEASE, 5.0))


async def test_the_history_is_newest_first_and_leaves_out_what_is_no_record() -> None:
    api = FakeApi(namespace("shop"))
    records = Records(api, "shop")
    for version in (9, 10):
        await records.create(replace(RELEASE, version=version), 5.0)
    broken = encode(replace(RELEASE, version=11), 5.0)
    broken["metadata"]["namespace"] = "shop"
    await api.create({**broken, "data": {"release": "AAAA"}})
    assert [each.version for each in await records.history("web")] == [10, 9]
    assert await records.history("other") == []


@given(st.binary(max_size=100))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    secret = encode(RELEASE, 5.0)
    secret["data"]["release"] = base64.b64encode(base64.b64encode(data)).decode()
    with pytest.raises(RecordError, match=r"Secret sh\.helm\.release\.v1\.web\.v2"):
        decode(secret)
