"""/etc/hosts, /etc/resolv.conf and host names of pods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import Obj
from havre.node.agent.configs import Dns
from havre.node.agent.host_files import (
    ClusterDns,
    HostNameError,
    host_name,
    hosts,
    kernel_name,
    parse_resolver,
    resolver,
    wants_hosts,
)

CLUSTER = ClusterDns(("10.96.0.10",), "cluster.local")
HOST = Dns(("192.0.2.53",), ("example.com",), ("edns0",))


def pod(name: str = "web", **spec: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def test_the_hosts_file_names_the_pod_and_its_aliases() -> None:
    made = pod(subdomain="db", hostAliases=[{"ip": "192.0.2.9", "hostnames": ["foo", "bar"]}])
    assert hosts(made, ["10.42.0.7", "fd00::7"], "cluster.local") == (
        "# Kubernetes-managed hosts file.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n"
        "10.42.0.7\tweb.db.shop.svc.cluster.local\tweb\n"
        "fd00::7\tweb.db.shop.svc.cluster.local\tweb\n"
        "\n# Entries added by HostAliases.\n"
        "192.0.2.9\tfoo\tbar\n"
    )


def test_a_pod_without_a_domain_has_one_name() -> None:
    assert hosts(pod(), ["10.42.0.7"], "cluster.local").endswith("ip6-allrouters\n10.42.0.7\tweb\n")


def test_on_the_host_s_network_the_machine_s_own_file_is_seen() -> None:
    text = hosts(pod(hostNetwork=True), ["192.0.2.1"], "cluster.local", "127.0.0.1 localhost\n")
    assert text == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"


def test_a_container_with_a_hosts_file_of_its_own_keeps_it() -> None:
    assert wants_hosts({}, ["10.42.0.7"])
    assert not wants_hosts({}, [])
    assert not wants_hosts({"volumeMounts": [{"mountPath": "/etc/hosts"}]}, ["10.42.0.7"])


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (pod("web"), "web"),
        (pod("web", hostname="db"), "db"),
        (pod("x" * 62 + ".yz"), "x" * 62),
        (pod("web", subdomain="s", setHostnameAsFQDN=True), "web.s.shop.svc.cluster.local"),
        (pod("web", setHostnameAsFQDN=True), "web"),
        (pod("web", subdomain="s"), "web"),
    ],
)
def test_the_kernel_s_host_name(made: Obj, name: str) -> None:
    assert kernel_name(made, "cluster.local") == name


def test_a_full_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(HostNameError, match=r"too long \(64 characters is the max, 66 characters requested\)"):
        kernel_name(pod("x" * 40, subdomain="s" * 2, setHostnameAsFQDN=True), "cluster.local")


@pytest.mark.parametrize(
    ("spec", "dns"),
    [
        (
            {"dnsPolicy": "ClusterFirst"},
            Dns(
                ("10.96.0.10",),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"),
                ("ndots:5",),
            ),
        ),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, HOST),
        (
            {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True},
            Dns(
                ("10.96.0.10",),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"),
                ("ndots:5",),
            ),
        ),
        ({"dnsPolicy": "Default"}, HOST),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["1.1.1.1"],
                    "searches": ["a.b"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                },
            },
            Dns(("1.1.1.1",), ("a.b",), ("ndots:2", "edns0")),
        ),
        (
            {"dnsPolicy": "ClusterFirst", "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}},
            Dns(
                ("10.96.0.10",),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"),
                ("ndots:1",),
            ),
        ),
    ],
)
def test_resolv_conf_by_policy(spec: Obj, dns: Dns) -> None:
    assert resolver(pod(**spec), CLUSTER, HOST) == dns


def test_a_machine_without_a_resolver_gives_its_loopback() -> None:
    assert resolver(pod(dnsPolicy="Default"), CLUSTER, Dns()) == Dns(("127.0.0.1",), (".",), ())


def test_no_more_servers_and_domains_than_libc_takes() -> None:
    config = {"nameservers": [f"1.1.1.{i}" for i in range(5)], "searches": [f"{'x' * 60}.{i}" for i in range(40)]}
    found = resolver(pod(dnsPolicy="None", dnsConfig=config), CLUSTER, HOST)
    assert found.servers == ("1.1.1.0", "1.1.1.1", "1.1.1.2")
    assert len(found.searches) == 32
    long = resolver(
        pod(dnsPolicy="None", dnsConfig={"searches": [f"{'x' * 200}.{i}" for i in range(40)]}), CLUSTER, HOST
    )
    assert len(" ".join(long.searches)) <= 2048


def test_the_machine_s_file_is_read() -> None:
    text = (
        "# c\nnameserver 192.0.2.53 # x\nnameserver ::1\nsearch a.\nsearch b.com. c\noptions ndots:2 rotate\ndomain x\n"
    )
    assert parse_resolver(text) == Dns(("192.0.2.53", "::1"), ("b.com", "c"), ("ndots:2", "rotate"))


@given(st.text(max_size=200))
def test_any_text_is_a_resolver(text: str) -> None:
    assert isinstance(parse_resolver(text), Dns)


def test_a_name_never_ends_in_a_dot() -> None:
    assert host_name(pod("a" * 62 + "-b")) == "a" * 62
