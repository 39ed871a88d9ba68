"""Match conditions of webhooks, as Webhooks calls them."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.api.meta import Obj
from havre.control.apiserver.admission.match_conditions import ConditionsFailed, MatchConditions
from havre.control.apiserver.admission.webhooks import Webhooks
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import Operation

REQUEST: Obj = {
    "uid": "u",
    "kind": {"group": "", "version": "v1", "kind": "Pod"},
    "resource": {"group": "", "version": "v1", "resource": "pods"},
    "requestResource": {"group": "", "version": "v1", "resource": "pods"},
    "namespace": "shop",
    "operation": "CREATE",
    "userInfo": {"username": "root", "groups": ["system:masters"], "extra": {"a": ["b"]}},
    "object": {"metadata": {"name": "web"}},
    "oldObject": None,
}


def holds(*texts: str) -> bool:
    conditions = [{"name": f"c{i}", "expression": text} for i, text in enumerate(texts)]
    return MatchConditions(Authorizer())(REQUEST, conditions)


@pytest.mark.parametrize(
    "text",
    [
        "object.metadata.name == 'web' && oldObject == null",
        "request.namespace == 'shop' && !has(request.object) && !has(request.uid)",
        "'system:masters' in request.userInfo.groups && request.userInfo.extra.a == ['b']",
        "authorizer.requestResource.check('create').allowed()",
        "!authorizer.serviceAccount('a', 'b').path('/x').check('get').allowed()",
        "namespaceObject == null",
    ],
)
def test_a_condition_sees_the_request(text: str) -> None:
    assert holds(text)


def test_all_conditions_must_hold() -> None:
    assert holds("true", "true")
    assert not holds("true", "false")


def test_a_failure_counts_only_when_no_condition_is_false() -> None:
    assert not holds("object.nope == 1", "1 +", "false")
    with pytest.raises(ConditionsFailed) as caught:
        holds("object.nope == 1", "true")
    assert str(caught.value) == "expression 'object.nope == 1' resulted in error: no such key: nope"


async def test_a_webhook_whose_conditions_fail_refuses_or_is_skipped(objects: Any, ask: Any) -> None:
    async def call(_config: Obj, _review: Obj, _seconds: float) -> Obj:
        raise AssertionError("not to be asked")

    hooks = Webhooks(objects, call, lambda obj, _patch: obj, conditions=MatchConditions(Authorizer()))
    rule = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}

    def add(text: str, policy: str) -> None:
        hook = {"name": "h", "clientConfig": {}, "rules": [rule], "sideEffects": "None", "failurePolicy": policy}
        hook["matchConditions"] = [{"name": "c", "expression": text}]
        made = {"metadata": {"name": "h"}, "webhooks": [hook]}
        objects.add("validatingwebhookconfigurations", made, "admissionregistration.k8s.io")

    request = ask(Operation.CREATE, "pods", {"metadata": {"name": "web"}})
    for text, policy in (("object.nope", "Ignore"), ("request.operation == 'DELETE'", "Fail")):
        add(text, policy)
        await hooks.validate(request)
    add("object.nope == 1", "Fail")
    with pytest.raises(Forbidden) as caught:
        await hooks.validate(request)
    words = "expression 'object.nope == 1' resulted in error: no such key: nope"
    assert caught.value.message == f'pods "web" is forbidden: {words}'
