from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from havre.node.runtime.errors import Invalid
from havre.node.runtime.seccomp import default, read


def rules(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_what_is_not_listed_is_not_permitted() -> None:
    profile = default([], "x86_64")
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    for name in ("mount", "setns", "unshare", "bpf", "keyctl", "add_key", "io_uring_setup", "userfaultfd", "reboot"):
        assert rules(profile, name) == []


@pytest.mark.parametrize("name", ["read", "openat2", "futex", "execve", "clone", "statx", "epoll_pwait2", "arch_prctl"])
def test_ordinary_calls_are_allowed(name: str) -> None:
    assert {rule["action"] for rule in rules(default([], "x86_64"), name)} == {"SCMP_ACT_ALLOW"}


def test_capabilities_open_what_they_guard() -> None:
    assert rules(default(["CAP_SYS_ADMIN"], "x86_64"), "mount")
    assert rules(default(["CAP_SYS_CHROOT"], "x86_64"), "chroot")


def test_new_namespaces_need_the_capability() -> None:
    (clone,) = rules(default([], "x86_64"), "clone")
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = rules(default([], "x86_64"), "clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    (free,) = rules(default(["CAP_SYS_ADMIN"], "x86_64"), "clone")
    assert "args" not in free


def test_sockets_of_the_hypervisor_are_closed() -> None:
    (socket,) = rules(default([], "x86_64"), "socket")
    assert socket["args"] == [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]


def test_no_call_is_listed_twice_without_a_condition() -> None:
    names = [name for rule in default([], "x86_64")["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(names) == len(set(names))


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    assert read(tmp_path / "p.json") == {"defaultAction": "SCMP_ACT_LOG"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"defaultAction": 1}', "{" * 10000])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(Invalid, match=r"p\.json"):
        read(tmp_path / "p.json")


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        read(tmp_path / "none")
