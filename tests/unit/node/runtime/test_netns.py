from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.node.runtime.errors import Invalid
from havre.node.runtime.netns import Interface, alone, parse_interfaces, sysctl_file

EVERY = {"network", "ipc", "uts"}

DEV = """\
Inter-|   Receive                             |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0: 2000 20 1 0 0 0 0 0 3000 30 2 0 0 0 0 0
"""


def test_interfaces_are_all_but_the_loopback() -> None:
    assert parse_interfaces(DEV) == [Interface("eth0", 2000, 1, 3000, 2)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shmmax", "/proc/sys/kernel/shmmax"),
        ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"),
    ],
)
def test_a_sysctl_of_a_namespace_has_its_file(name: str, path: str) -> None:
    assert sysctl_file(name, EVERY) == Path(path)


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "netfilter.x", "fs.file-max", "kernel.hostname"])
def test_a_sysctl_of_the_host_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="it would change the host"):
        sysctl_file(name, EVERY)


@pytest.mark.parametrize("name", ["", "net", "net..x", "net/../kernel/panic", "net.ipv4.x\n", "/net/x", "net.a b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="sysctl"):
        sysctl_file(name, EVERY)


def test_a_namespace_that_is_the_hosts_is_not_touched() -> None:
    with pytest.raises(Invalid, match="network namespace of the host"):
        sysctl_file("net.ipv4.ip_forward", {"ipc"})


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="net./-_.kshm*", max_size=30))
def test_no_name_leads_out_of_the_sysctls(name: str) -> None:
    try:
        path = sysctl_file(name, EVERY)
    except Invalid:
        return
    assert str(path).startswith("/proc/sys/")
    assert ".." not in path.parts


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_no_text_breaks_the_list_of_interfaces(text: str) -> None:
    try:
        parse_interfaces("a\nb\n" + text)
    except ValueError:
        assert any(len(line.partition(":")[2].split()) == 16 for line in text.splitlines())


def test_what_a_thread_raises_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        alone(lambda: 1 // 0)
    assert alone(lambda: 5) == 5
