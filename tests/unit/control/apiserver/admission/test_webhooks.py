"""Admission webhooks: who is asked, what, and what an answer does."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from havre.api.errors import ApiError, BadRequest, Forbidden, InternalError, NotFound
from havre.api.meta import GVK, GVR
from havre.control.apiserver.admission.chain import Chain
from havre.control.apiserver.admission.webhooks import CallFailed, Reinvocation, Webhooks, denied
from havre.machinery.admission import AdmissionRequest, Operation

CREATE, UPDATE, DELETE = Operation.CREATE, Operation.UPDATE, Operation.DELETE
GROUP = "admissionregistration.k8s.io"
ALL_PODS = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}


class Hooks:
    """Webhooks that answer what a test says, and remember what they were asked."""

    def __init__(self, objects: Any) -> None:
        self.objects = objects
        self.asked: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.webhooks = Webhooks(objects, self.call, self.patch)

    def add(self, name: str, *, mutating: bool = False, **more: Any) -> None:
        hook = {"name": name, "clientConfig": {"url": name}, "rules": [ALL_PODS], "sideEffects": "None", **more}
        kind = "mutatingwebhookconfigurations" if mutating else "validatingwebhookconfigurations"
        self.objects.add(kind, {"metadata": {"name": name, "resourceVersion": "1"}, "webhooks": [hook]}, GROUP)

    async def call(self, client_config: Any, review: Any, _seconds: float) -> Any:
        name = client_config["url"]
        self.asked.append((name, review["request"]))
        answer = self.answers.get(name, {"allowed": True})
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(review["request"])
        response = {"uid": review["request"]["uid"], **answer}
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}

    @staticmethod
    def patch(obj: Any, operations: list[Any]) -> Any:
        """Enough of RFC 6902 for these tests: add a label."""
        out = json.loads(json.dumps(obj))
        for operation in operations:
            if operation["op"] != "add":
                raise ValueError(f"unexpected operation {operation['op']}")
            out["metadata"].setdefault("labels", {})[operation["path"].rpartition("/")[2]] = operation["value"]
        return out

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


def label(key: str, value: str) -> dict[str, Any]:
    patch = json.dumps([{"op": "add", "path": f"/metadata/labels/{key}", "value": value}]).encode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}


@pytest.fixture
def hooks(objects: Any) -> Hooks:
    return Hooks(objects)


async def test_a_webhook_is_asked_with_an_admission_review(hooks: Hooks, ask: Any) -> None:
    hooks.add("check")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}
    await hooks.webhooks.validate(ask(CREATE, "pods", pod))
    ((_, request),) = hooks.asked
    assert len(request.pop("uid")) == 36
    assert request == {
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "name": "web",
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "bob", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": None,
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, True),
        ({"operations": ["UPDATE"]}, False),
        ({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}, True),
        ({"resources": ["*/*"]}, True),
        ({"resources": ["pods/status"]}, False),
        ({"resources": ["pods/*"]}, True),
        ({"apiVersions": ["v2"]}, False),
        ({"scope": "Namespaced"}, True),
        ({"scope": "Cluster"}, False),
    ],
)
async def test_rules_choose_requests(hooks: Hooks, ask: Any, rule: Any, expected: bool) -> None:
    hooks.add("check", rules=[{**ALL_PODS, **rule}])
    await hooks.webhooks.validate(ask(CREATE, "pods", {"metadata": {}}))
    assert bool(hooks.asked) is expected


@pytest.mark.parametrize(
    ("resources", "subresource", "expected"),
    [
        (["pods"], "status", False),
        (["pods/status"], "status", True),
        (["*/status"], "status", True),
        (["*"], "exec", False),
    ],
)
async def test_a_subresource_is_meant_only_when_it_is_named(
    hooks: Hooks, ask: Any, resources: list[str], subresource: str, expected: bool
) -> None:
    hooks.add("check", rules=[{**ALL_PODS, "resources": resources}])
    await hooks.webhooks.validate(ask(UPDATE, "pods", {"metadata": {}}, {"metadata": {}}, subresource=subresource))
    assert bool(hooks.asked) is expected


async def test_selectors_look_at_labels_of_namespace_and_object(hooks: Hooks, objects: Any, ask: Any) -> None:
    objects.add("namespaces", {"metadata": {"name": "team", "labels": {"env": "prod"}}})
    selector = {"matchLabels": {"env": "prod"}}
    hooks.add(
        "check", namespaceSelector=selector, objectSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}
    )
    marked: Any = {"metadata": {"labels": {"a": "1"}}}
    plain: Any = {"metadata": {}}
    for namespace, new, old, times in (
        ("default", marked, None, 0),
        ("team", plain, None, 0),
        ("team", marked, None, 1),
        ("team", plain, marked, 2),
    ):
        await hooks.webhooks.validate(ask(UPDATE if old else CREATE, "pods", new, old, namespace=namespace))
        assert len(hooks.asked) == times
    with pytest.raises(NotFound, match='namespaces "gone" not found'):
        await hooks.webhooks.validate(ask(CREATE, "pods", marked, namespace="gone"))


async def test_a_new_namespace_is_selected_by_its_own_labels(hooks: Hooks, ask: Any) -> None:
    rules = [{**ALL_PODS, "resources": ["namespaces"]}]
    hooks.add("check", rules=rules, namespaceSelector={"matchLabels": {"env": "prod"}})
    fresh = {"metadata": {"name": "new", "labels": {"env": "prod"}}}
    await hooks.webhooks.validate(ask(CREATE, "namespaces", fresh, namespace="new", name="new"))
    assert hooks.names() == ["check"]


async def test_no_webhook_is_asked_about_webhooks(hooks: Hooks, ask: Any) -> None:
    everything = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}
    hooks.add("check", rules=[everything])
    await hooks.webhooks.validate(ask(DELETE, "validatingwebhookconfigurations", None, {}, group=GROUP, namespace=""))
    assert hooks.asked == []


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        ({"message": "no", "code": 403}, 403, 'admission webhook "x" denied the request: no'),
        ({"reason": "Bad", "details": {"name": "q"}}, 400, 'admission webhook "x" denied the request: Bad'),
        ({}, 400, 'admission webhook "x" denied the request without explanation'),
        ({"message": "fine", "code": 200}, 400, 'admission webhook "x" denied the request: fine'),
    ],
)
def test_a_denial_says_who_and_why(status: Any, code: int, text: str) -> None:
    error = denied("x", status)
    assert (error.status_code, error.message) == (code, text)
    assert error.status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        **status,
        "status": "Failure",
        "message": text,
        "code": code,
    }


async def test_the_first_denial_in_order_counts_and_warnings_of_all_are_kept(hooks: Hooks, ask: Any) -> None:
    for name in ("a", "b", "c"):
        hooks.add(name)
        hooks.answers[name] = {"allowed": name == "a", "warnings": [f"careful, {name}"], "status": {"message": name}}
    req = ask(CREATE, "pods", {"metadata": {}})
    with pytest.raises(ApiError, match='admission webhook "b" denied the request: b'):
        await hooks.webhooks.validate(req)
    assert sorted(req.warnings) == ["careful, a", "careful, b", "careful, c"]


async def test_a_webhook_that_cannot_be_asked_fails_the_request_unless_that_is_to_be_ignored(
    hooks: Hooks, ask: Any
) -> None:
    hooks.answers["down"] = CallFailed("failed to call webhook: connection refused")
    hooks.add("down", failurePolicy="Ignore")
    await hooks.webhooks.validate(ask(CREATE, "pods", {"metadata": {}}))
    hooks.objects.add("validatingwebhookconfigurations", {"metadata": {"name": "down"}, "webhooks": []}, GROUP)
    hooks.add("fails")
    hooks.answers["fails"] = hooks.answers["down"]
    with pytest.raises(InternalError) as refused:
        await hooks.webhooks.validate(ask(CREATE, "pods", {"metadata": {}}))
    assert refused.value.message == (
        'Internal error occurred: failed calling webhook "fails": failed to call webhook: connection refused'
    )


async def test_a_webhook_has_its_time_and_no_more(hooks: Hooks, ask: Any) -> None:
    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    hooks.add("slow", timeoutSeconds=0.001)
    slow = Webhooks(hooks.objects, never, hooks.patch)
    with pytest.raises(InternalError, match='failed calling webhook "slow": failed to call webhook: context deadline'):
        await slow.validate(ask(CREATE, "pods", {"metadata": {}}))


@pytest.mark.parametrize(
    ("answer", "mutating", "why"),
    [
        (
            {"uid": "other", "allowed": True},
            False,
            'failed calling webhook "odd": received invalid webhook response: expected response.uid=',
        ),
        ({"allowed": True, "patch": "W10="}, True, "webhook returned response.patch but not response.patchType"),
        (
            {"allowed": True, "patchType": "JSONPatch"},
            True,
            "webhook returned response.patchType but not response.patch",
        ),
        ({"allowed": True, "patch": "W10="}, False, "validating webhook may not return response.patch"),
        ({"allowed": True, "patchType": "JSONPatch"}, False, "validating webhook may not return response.patchType"),
        ({"allowed": True, "patchType": "Merge", "patch": "W3t9XQ=="}, True, 'unsupported patch type "Merge"'),
        (
            {"allowed": True, "patchType": "JSONPatch", "patch": "ew=="},
            True,
            'failed calling webhook "odd": received undecodable patch in webhook response',
        ),
        ({"allowed": True, "patchType": "JSONPatch", "patch": "e30="}, True, "a JSON patch is an array of operations"),
    ],
)
async def test_an_answer_that_is_not_well_formed_is_a_failed_call(
    hooks: Hooks, ask: Any, answer: Any, mutating: bool, why: str
) -> None:
    hooks.add("odd", mutating=mutating)
    hooks.answers["odd"] = answer
    req = ask(CREATE, "pods", {"metadata": {}})
    with pytest.raises(InternalError, match=why):
        await (hooks.webhooks.mutate(req, Reinvocation()) if mutating else hooks.webhooks.validate(req))


async def test_a_dry_run_asks_only_webhooks_without_side_effects(hooks: Hooks, ask: Any) -> None:
    hooks.add("quiet", sideEffects="NoneOnDryRun")
    hooks.add("writes", sideEffects="Unknown")
    with pytest.raises(BadRequest, match='admission webhook "writes" does not support dry run'):
        await hooks.webhooks.validate(ask(CREATE, "pods", {"metadata": {}}, dry_run=True))


async def test_mutating_webhooks_see_what_those_before_them_made(hooks: Hooks, ask: Any) -> None:
    for name in ("b", "a"):
        hooks.add(name, mutating=True)
        hooks.answers[name] = label(name, "1")
    req = ask(CREATE, "pods", {"metadata": {"name": "web"}})
    await Chain((), (), hooks.webhooks).admit(req)
    assert req.obj["metadata"]["labels"] == {"a": "1", "b": "1"}
    assert [request["object"]["metadata"].get("labels") for _, request in hooks.asked] == [None, {"a": "1"}]


async def test_after_a_change_plugs_and_webhooks_that_want_it_look_again(hooks: Hooks, ask: Any) -> None:
    looks: list[Any] = []

    class Plug:
        async def admit(self, req: AdmissionRequest) -> None:
            looks.append(dict((req.obj or {})["metadata"].get("labels") or {}))

    hooks.add("a", mutating=True, reinvocationPolicy="IfNeeded")
    hooks.add("b", mutating=True)
    hooks.add("c", mutating=True, reinvocationPolicy="IfNeeded")
    hooks.answers["b"] = label("b", "1")
    await Chain((Plug(),), (), hooks.webhooks).admit(ask(CREATE, "pods", {"metadata": {"name": "web"}}))
    assert looks == [{}, {"b": "1"}]
    assert hooks.names() == ["a", "b", "c", "a"]


async def test_a_patch_that_does_not_apply_is_an_internal_error(hooks: Hooks, ask: Any) -> None:
    hooks.add("odd", mutating=True)
    patch = base64.b64encode(b'[{"op":"test"}]').decode()
    hooks.answers["odd"] = {"allowed": True, "patchType": "JSONPatch", "patch": patch}
    with pytest.raises(InternalError, match="Internal error occurred: unexpected operation test"):
        await Chain((), (), hooks.webhooks).admit(ask(CREATE, "pods", {"metadata": {"name": "web"}}))


async def test_an_equivalent_version_matches_and_is_sent_converted(hooks: Hooks, objects: Any, ask: Any) -> None:
    def equivalents(gvr: GVR, _subresource: str) -> list[tuple[GVR, GVK]]:
        return [(GVR(gvr.group, "v9", gvr.resource), GVK(gvr.group, "v9", "Pod"))]

    def convert(obj: Any, gvk: GVK) -> Any:
        return {**obj, "apiVersion": gvk.api_version}

    hooks.add("later", mutating=True, rules=[{**ALL_PODS, "apiVersions": ["v9"]}])
    hooks.answers["later"] = label("seen", "yes")
    webhooks = Webhooks(objects, hooks.call, hooks.patch, equivalents=equivalents, convert=convert)
    req = ask(CREATE, "pods", {"apiVersion": "v1", "metadata": {"name": "web"}})
    await webhooks.mutate(req, Reinvocation())
    ((_, request),) = hooks.asked
    assert (request["kind"]["version"], request["object"]["apiVersion"]) == ("v9", "v9")
    assert req.obj == {"apiVersion": "v1", "metadata": {"name": "web", "labels": {"seen": "yes"}}}
    hooks.add("later", mutating=True, rules=[{**ALL_PODS, "apiVersions": ["v9"]}], matchPolicy="Exact")
    objects.get(GROUP, "mutatingwebhookconfigurations", "", "later")["metadata"]["resourceVersion"] = "2"
    await webhooks.mutate(ask(CREATE, "pods", {"metadata": {}}), Reinvocation())
    assert len(hooks.asked) == 1


async def test_match_conditions_need_an_interpreter_and_fail_as_the_policy_says(hooks: Hooks, ask: Any) -> None:
    conditions = [{"name": "one", "expression": "object.metadata.name == 'web'"}]
    hooks.add("check", matchConditions=conditions)
    with pytest.raises(Forbidden, match="matchConditions cannot be evaluated"):
        await hooks.webhooks.validate(ask(CREATE, "pods", {"metadata": {"name": "web"}}))

    def by_name(request: Any, _conditions: Any) -> bool:
        return bool(request["object"]["metadata"]["name"] == "web")

    webhooks = Webhooks(hooks.objects, hooks.call, hooks.patch, conditions=by_name)
    await webhooks.validate(ask(CREATE, "pods", {"metadata": {"name": "web"}}))
    await webhooks.validate(ask(CREATE, "pods", {"metadata": {"name": "other"}}))
    assert len(hooks.asked) == 1
