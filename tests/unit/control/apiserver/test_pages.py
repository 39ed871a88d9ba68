"""Pages beside the resources: health, version, discovery, OpenAPI, metrics."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


async def test_health_is_one_word_or_a_list(plane: Any) -> None:
    assert (await plane.ask("GET", "/livez")).body == b"ok"
    shown = await plane.ask("GET", "/readyz?verbose")
    assert shown.body == b"[+]ping ok\n[+]store ok\n[+]started ok\nreadyz check passed\n"


async def test_a_server_that_stops_is_not_ready_but_alive(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane.api.pages, "_ready", lambda: False)
    shown = await plane.ask("GET", "/readyz")
    assert (shown.status, "[-]started failed" in shown.body.decode()) == (500, True)
    assert (await plane.ask("GET", "/livez")).status == 200


async def test_the_version_is_that_of_the_api(plane: Any) -> None:
    version = (await plane.ask("GET", "/version")).json()
    assert (version["major"], version["minor"], version["gitVersion"]) == ("1", "34", "v1.34.4+havre")


async def test_discovery_is_kept_by_its_etag(plane: Any) -> None:
    first = await plane.ask("GET", "/apis", headers={"accept": AGGREGATED})
    assert (first.json()["kind"], "apidiscovery.k8s.io" in first.headers["content-type"]) == (
        "APIGroupDiscoveryList",
        True,
    )
    again = await plane.ask("GET", "/apis", headers={"accept": AGGREGATED, "if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert (await plane.ask("GET", "/apis")).json()["kind"] == "APIGroupList"
    assert (await plane.ask("GET", "/api")).json()["kind"] == "APIVersions"


async def test_openapi_is_found_by_its_hash_and_packed_on_request(plane: Any) -> None:
    paths = (await plane.ask("GET", "/openapi/v3")).json()["paths"]
    url = paths["api/v1"]["serverRelativeURL"]
    plain = await plane.ask("GET", url)
    assert (plain.headers["cache-control"], "openapi" in plain.json()) == ("public, immutable", True)
    packed = await plane.ask("GET", url, headers={"accept-encoding": "gzip"})
    assert gzip.decompress(packed.body) == plain.body
    moved = await plane.ask("GET", "/openapi/v3/api/v1?hash=OLD")
    assert (moved.status, moved.headers["location"]) == (301, url)
    assert (await plane.ask("GET", "/openapi/v3/nonsense")).status == 404
    assert (await plane.ask("GET", "/openapi/v9")).status == 404


async def test_metrics_count_the_objects(plane: Any, namespace: str) -> None:
    await plane.make(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "c"}})
    lines = (await plane.ask("GET", "/metrics")).body.decode().splitlines()
    assert 'apiserver_storage_objects{resource="configmaps"} 1' in lines
    assert f"havre_store_revision {plane.cache.revision}" in lines


async def test_the_index_lists_what_is_served(plane: Any) -> None:
    paths = (await plane.ask("GET", "/")).json()["paths"]
    assert {"/api/v1", "/apis/apps/v1", "/version", "/readyz"} <= set(paths)


async def test_keys_and_issuer_of_tokens_are_published(plane: Any) -> None:
    found = (await plane.ask("GET", "/.well-known/openid-configuration")).json()
    assert found["issuer"] == "https://issuer.example"
    assert (await plane.ask("GET", "/openid/v1/jwks")).json()["keys"]
