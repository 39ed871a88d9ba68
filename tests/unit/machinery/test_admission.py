"""The shared words of admission: users, and what a request targets."""

from __future__ import annotations

import pytest

from havre.api.meta import GVK
from havre.machinery.admission import AdmissionRequest, Attributes, Operation, User


def test_users_are_equal_by_name_groups_and_uid_whatever_extra_they_carry() -> None:
    one, other = User("bob", ("a",), "1", {"k": ("v",)}), User("bob", ("a",), "1")
    assert one == other
    assert hash(one) == hash(other)
    assert one != User("bob", ("b",), "1")


def test_a_user_is_told_without_its_empty_parts() -> None:
    assert User("bob").info() == {"username": "bob"}
    assert User("bob", ("a",), "1", {"k": ("v",)}).info() == {
        "username": "bob",
        "uid": "1",
        "groups": ["a"],
        "extra": {"k": ["v"]},
    }


@pytest.mark.parametrize(
    ("user", "node"),
    [
        (User("system:node:n1", ("system:nodes",)), "n1"),
        (User("system:node:n1"), ""),
        (User("n1", ("system:nodes",)), ""),
    ],
)
def test_a_node_is_known_by_name_and_group_together(user: User, node: str) -> None:
    assert user.node == node


def test_only_members_of_system_masters_are_superusers() -> None:
    assert User("x", ("system:masters",)).is_superuser
    assert not User("system:masters").is_superuser


def test_a_request_targets_one_resource_and_subresource() -> None:
    a = Attributes(User("bob"), "update", "", "v1", "pods", "status")
    req = AdmissionRequest(a, Operation.UPDATE, GVK("", "v1", "Pod"), {})
    assert req.targets("", "pods", "status")
    assert not req.targets("", "pods")
    assert not req.targets("apps", "pods", "status")
