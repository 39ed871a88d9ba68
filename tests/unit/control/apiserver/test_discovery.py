from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.api.kinds import KINDS, Kind, Subresource
from havre.api.meta import GVK
from havre.control.apiserver import discovery
from havre.control.apiserver.discovery import Served, aggregated, aggregated_version, priority, resource_list

DATA = Path(__file__).parent / "data"
RECORDED = orjson.loads(zstandard.decompress((DATA / "discovery.json.zst").read_bytes()))
CUSTOM = orjson.loads(zstandard.decompress((DATA / "custom.json.zst").read_bytes()))
GROUP = "vocab.example"
VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
STATUS = Subresource("status", GVK(GROUP, "v1", "V"), ("get", "patch", "update"))
SCALE = Subresource("scale", GVK("autoscaling", "v1", "Scale"), ("get", "patch", "update"))


def thing(version: str, subresources: tuple[Subresource, ...] = ()) -> Kind:
    return Kind(
        GROUP, version, "V", "vs", "vv", True, VERBS, "", "v1", GROUP, ("vx",), ("all",), subresources, "VList", True
    )


WIDE = Kind(GROUP, "v1", "W", "ws", "w", False, VERBS, "", "v1", GROUP, list_kind="WList", custom=True)
BUILT_IN = Served.of(KINDS)
BOTH = Served.of([thing("v1beta1"), *KINDS, thing("v1", (STATUS, SCALE)), WIDE])


def test_the_core_group_is_listed_as_by_the_real_server() -> None:
    assert resource_list(BUILT_IN, "", "v1") == RECORDED["v1"]
    assert "apiVersion" not in RECORDED["v1"]


def test_a_group_version_is_listed_as_by_the_real_server() -> None:
    assert resource_list(BUILT_IN, "apps", "v1") == RECORDED["apps"]


def test_groups_come_in_the_order_of_the_real_server() -> None:
    assert discovery.group_list(BUILT_IN) == RECORDED["list"]


@pytest.mark.parametrize(("root", "recorded"), [("api", "core"), ("apis", "groups")])
def test_everything_at_once_is_what_the_real_server_says(root: str, recorded: str) -> None:
    assert orjson.dumps(aggregated(BUILT_IN, root)) == orjson.dumps(RECORDED[recorded])


def test_the_older_form_of_the_whole_differs_in_its_version_only() -> None:
    older = aggregated(BUILT_IN, "apis", "v2beta1")
    assert older.pop("apiVersion") == "apidiscovery.k8s.io/v2beta1"
    newer = aggregated(BUILT_IN, "apis")
    del newer["apiVersion"]
    assert older == newer


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_custom_kinds_are_listed_as_by_the_real_server(version: str) -> None:
    assert resource_list(BOTH, GROUP, version) == CUSTOM["lists"][version]


def test_a_custom_group_follows_the_built_in_ones_and_prefers_its_stable_version() -> None:
    assert discovery.group(BOTH, GROUP) == CUSTOM["group"]
    assert aggregated(BOTH, "apis")["items"][-1] == CUSTOM["aggregated"]
    assert list(BOTH.groups)[-1] == GROUP


def test_the_address_of_the_server_is_told_with_the_core_versions() -> None:
    assert discovery.api_versions(BUILT_IN, "127.0.0.1:6443") == {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:6443"}],
    }


def test_what_is_not_served_is_not_found() -> None:
    assert discovery.group(BUILT_IN, "example.com") is None
    assert discovery.group(BUILT_IN, "") is None
    assert resource_list(BUILT_IN, "apps", "v1beta1") is None


def test_versions_are_ordered_as_kubernetes_prefers_them() -> None:
    wanted = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
    assert sorted(set(wanted), key=priority) == wanted


def test_the_tag_changes_with_the_content_and_only_with_it() -> None:
    assert discovery.etag({"a": 1, "b": 2}) == discovery.etag({"b": 2, "a": 1})
    assert discovery.etag(aggregated(BUILT_IN, "apis")) != discovery.etag(aggregated(BOTH, "apis"))


V2, V2BETA1 = (discovery.AGGREGATED.format(version=version) for version in ("v2", "v2beta1"))


@pytest.mark.parametrize(
    ("accept", "version"),
    [
        (f"{V2},{V2BETA1},application/json", "v2"),
        (f"{V2BETA1},application/json", "v2beta1"),
        ("application/json", None),
        (f"application/json, {V2}", None),
        ("application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json", None),
        (f"application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,{V2}", "v2"),
        ("", None),
    ],
)
def test_a_client_gets_the_form_it_accepts_first(accept: str, version: str | None) -> None:
    assert aggregated_version(accept) == version


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("aA=;, /*gvs.k8"), max_size=60))
def test_any_accept_header_is_read_without_error(accept: str) -> None:
    assert aggregated_version(accept) is None
