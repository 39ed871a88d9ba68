"""NamespaceLifecycle, in the words of kube-apiserver."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden, NotFound
from havre.control.apiserver.admission.namespaces import NamespaceLifecycle
from havre.machinery.admission import Operation

CREATE, UPDATE, DELETE = Operation.CREATE, Operation.UPDATE, Operation.DELETE


async def test_nothing_is_made_in_a_namespace_that_is_not_there(objects: Any, ask: Any) -> None:
    with pytest.raises(NotFound) as refused:
        await NamespaceLifecycle(objects).admit(ask(CREATE, "configmaps", {}, namespace="nosuch"))
    assert refused.value.message == 'namespaces "nosuch" not found'
    assert refused.value.details == {"name": "nosuch", "kind": "namespaces"}


async def test_nothing_new_is_made_in_a_namespace_that_is_going_away(objects: Any, ask: Any) -> None:
    objects.add("namespaces", {"metadata": {"name": "old"}, "status": {"phase": "Terminating"}})
    plug = NamespaceLifecycle(objects)
    with pytest.raises(Forbidden) as refused:
        await plug.admit(ask(CREATE, "configmaps", {}, namespace="old", name="s"))
    why = "unable to create new content in namespace old because it is being terminated"
    assert refused.value.message == f'configmaps "s" is forbidden: {why}'
    assert refused.value.details == {
        "name": "s",
        "kind": "configmaps",
        "causes": [
            {
                "reason": "NamespaceTerminating",
                "message": "namespace old is being terminated",
                "field": "metadata.namespace",
            }
        ],
    }
    await plug.admit(ask(UPDATE, "configmaps", {}, {}, namespace="old"))
    await plug.admit(ask(DELETE, "configmaps", None, {}, namespace="old"))


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_the_first_namespaces_stay(objects: Any, ask: Any, name: str) -> None:
    with pytest.raises(Forbidden, match=f'namespaces "{name}" is forbidden: this namespace may not be deleted'):
        await NamespaceLifecycle(objects).admit(ask(DELETE, "namespaces", None, {}, namespace=name, name=name))


async def test_other_namespaces_and_objects_without_one_pass(objects: Any, ask: Any) -> None:
    plug = NamespaceLifecycle(objects)
    await plug.admit(ask(DELETE, "namespaces", None, {}, namespace="mine", name="mine"))
    await plug.admit(ask(CREATE, "namespaces", {}, namespace="new", name="new"))
    await plug.admit(ask(CREATE, "nodes", {}, namespace=""))
    await plug.admit(ask(CREATE, "localsubjectaccessreviews", {}, group="authorization.k8s.io", namespace="secret"))
