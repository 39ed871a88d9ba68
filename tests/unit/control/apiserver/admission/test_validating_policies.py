"""ValidatingAdmissionPolicy: who is looked at, what is refused and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from havre.api.errors import ApiError, NotFound
from havre.api.meta import GVK, GVR, Obj
from havre.control.apiserver.admission.validating_policies import ValidatingPolicies
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import Operation, User

CREATE, UPDATE, DELETE = Operation.CREATE, Operation.UPDATE, Operation.DELETE
PODS = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
POD: Obj = {"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 3}}


class Kinds:
    """A registry with pods, of which there is a v2, and some kinds of parameters."""

    generation = 1

    def place(self, gvk: GVK) -> tuple[str, str, bool] | None:
        return {"ConfigMap": ("", "configmaps", True), "Node": ("", "nodes", False)}.get(gvk.kind)

    def equivalents(self, gvr: GVR, subresource: str, /) -> Sequence[tuple[GVR, GVK]]:
        return [(GVR("", v, "pods"), GVK("", v, "Pod")) for v in ("v1", "v2")] if gvr.resource == "pods" else []

    def convert(self, obj: Obj, gvk: GVK, /) -> Obj:
        return {**obj, "apiVersion": gvk.api_version}


class Cluster:
    """Policies over objects that a test adds."""

    def __init__(self, objects: Any, ask: Any) -> None:
        self.objects, self.ask, self.kinds = objects, ask, Kinds()
        self.authorizer = Authorizer()
        self.policies = ValidatingPolicies(objects, self.authorizer, self.kinds)

    def policy(self, *expressions: Any, name: str = "p", match: Obj | None = None, **spec: Any) -> None:
        validations = [{"expression": e} if isinstance(e, str) else e for e in expressions]
        constraints = {"resourceRules": [PODS], **(match or {})}
        full = {"matchConstraints": constraints, "validations": validations, "failurePolicy": "Fail", **spec}
        self.policies.upsert({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": full})

    def bind(self, *actions: str, name: str = "b", policy: str = "p", **spec: Any) -> None:
        full = {"policyName": policy, "validationActions": list(actions or ("Deny",)), **spec}
        self.policies.upsert({"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": full})

    async def refusal(self, *request: Any, **more: Any) -> ApiError | None:
        request = request or (CREATE, "pods", POD)
        try:
            await self.policies.validate(self.ask(*request, **more))
        except ApiError as e:
            return e
        return None

    async def words(self, *request: Any, **more: Any) -> str:
        """Why; "" when nobody refuses."""
        error = await self.refusal(*request, **more)
        return error.message.partition(" denied request: ")[2] or error.message if error else ""


@pytest.fixture
def cluster(objects: Any, ask: Any) -> Cluster:
    return Cluster(objects, ask)


async def test_a_refusal_names_policy_and_binding(cluster: Cluster) -> None:
    cluster.policy("object.spec.replicas < 3")
    cluster.bind()
    error = await cluster.refusal()
    assert error is not None
    why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.spec.replicas < 3"
    assert error.status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f'pods "web" is forbidden: {why}',
        "reason": "Invalid",
        "details": {"name": "web", "kind": "pods", "causes": [{"message": why}]},
        "code": 422,
    }


async def test_a_policy_without_binding_does_nothing(cluster: Cluster) -> None:
    cluster.policy("false")
    assert await cluster.words() == ""
    cluster.bind(policy="other")
    assert await cluster.words() == ""


async def test_a_change_counts_from_the_next_request_on(cluster: Cluster) -> None:
    cluster.policy("false")
    cluster.bind()
    assert await cluster.words() == "failed expression: false"
    cluster.policy("true")
    assert await cluster.words() == ""
    cluster.policy("false")
    cluster.bind(policy="other")  # the binding moves
    assert await cluster.words() == ""
    cluster.bind()
    cluster.policies.remove({"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"}})
    assert await cluster.words() == ""
    cluster.bind()
    cluster.policies.remove({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}})
    assert await cluster.words() == ""


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"message": " told you "}, "told you"),
        ({"message": "no", "messageExpression": "'has ' + string(object.spec.replicas)"}, "has 3"),
        ({"message": "no", "messageExpression": "object.spec.nope"}, "no"),
        ({"messageExpression": "'a\\nb'"}, "failed expression: false"),
        ({"messageExpression": "' '"}, "failed expression: false"),
        ({"message": "no", "messageExpression": "1 +"}, "no"),
    ],
)
async def test_the_message_is_what_the_policy_says(cluster: Cluster, validation: Obj, words: str) -> None:
    cluster.policy({"expression": "false", **validation})
    cluster.bind()
    assert await cluster.words() == words


@pytest.mark.parametrize(
    ("reason", "code"), [("Forbidden", 403), ("Unauthorized", 401), ("RequestEntityTooLarge", 413), ("Invalid", 422)]
)
async def test_the_reason_chooses_the_code(cluster: Cluster, reason: str, code: int) -> None:
    cluster.policy({"expression": "false", "reason": reason})
    cluster.bind()
    error = await cluster.refusal()
    assert error is not None
    assert (error.status()["reason"], error.status()["code"], error.status_code) == (reason, code, code)


async def test_a_warning_lets_the_write_through(cluster: Cluster) -> None:
    cluster.policy("false", {"expression": "true == false", "message": "second"})
    cluster.bind("Warn", "Audit")
    request = cluster.ask(CREATE, "pods", POD)
    await cluster.policies.validate(request)
    assert request.warnings == [
        "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false",
        "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': second",
    ]


async def test_a_failure_refuses_unless_failures_are_ignored(cluster: Cluster) -> None:
    cluster.policy("object.nope.x == 1")
    cluster.bind()
    assert await cluster.words() == "expression 'object.nope.x == 1' resulted in error: no such key: nope"
    cluster.policy("object.nope.x == 1", failurePolicy="Ignore")
    assert await cluster.words() == ""
    cluster.policy("object.nope.x == 1", "false", failurePolicy="Ignore")
    assert await cluster.words() == "failed expression: false"


async def test_a_stored_expression_that_does_not_compile_is_a_failure(cluster: Cluster) -> None:
    cluster.policy("1 +", variables=[{"name": "v", "expression": "nope"}])
    cluster.bind()
    assert (await cluster.words()).startswith("compilation error: compilation failed: ERROR: <input>:1:4: Syntax error")


async def test_match_conditions_decide_whether_a_policy_is_evaluated(cluster: Cluster) -> None:
    def conditions(*texts: str) -> list[Obj]:
        return [{"name": f"c{i}", "expression": text} for i, text in enumerate(texts)]

    cluster.bind()
    cluster.policy("false", matchConditions=conditions("object.nope.x", "request.operation == 'UPDATE'"))
    assert await cluster.words() == ""  # one that is false settles it
    cluster.policy("false", matchConditions=conditions("request.operation == 'CREATE'"))
    assert await cluster.words() == "failed expression: false"
    broken = "expression 'object.nope.x' resulted in error: no such key: nope"
    cluster.policy("false", matchConditions=conditions("object.nope.x", "true"))
    assert await cluster.words() == broken
    cluster.policy("false", matchConditions=conditions("object.nope.x", "object.nope.y"))
    assert await cluster.words() == f"[{broken}, {broken.replace('x', 'y', 2).replace('eypression', 'expression')}]"
    cluster.policy("false", matchConditions=conditions("object.nope.x"), failurePolicy="Ignore")
    assert await cluster.words() == ""


async def test_the_request_is_shown_without_the_objects(cluster: Cluster) -> None:
    shown = (
        "request.kind.kind + request.resource.resource + request.operation + request.name + request.namespace"
        " + string(request.dryRun) + request.userInfo.username + request.userInfo.groups[0]"
        " + string(has(request.subResource)) + string(has(request.object))"
    )
    cluster.policy({"expression": "false", "messageExpression": shown})
    cluster.bind()
    expected = "PodpodsCREATEwebdefaulttruebobsystem:authenticatedfalsefalse"
    assert await cluster.words(CREATE, "pods", POD, dry_run=True) == expected


async def test_the_namespace_is_shown_without_its_identity(cluster: Cluster, objects: Any) -> None:
    objects.add("namespaces", {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"a": "b"}, "x": 1}})
    hidden = "string(has(namespaceObject.kind)) + string(has(namespaceObject.metadata.x))"
    shown = f"namespaceObject.metadata.labels.a + {hidden}"
    cluster.policy({"expression": "false", "messageExpression": shown})
    cluster.bind()
    assert await cluster.words(CREATE, "pods", POD, namespace="shop") == "bfalsefalse"
    with pytest.raises(NotFound, match='namespaces "gone" not found'):
        await cluster.policies.validate(cluster.ask(CREATE, "pods", POD, namespace="gone"))


async def test_a_delete_has_only_an_old_object(cluster: Cluster) -> None:
    cluster.policy("object == null && oldObject.spec.replicas == 0")
    cluster.bind()
    assert await cluster.words(DELETE, "pods", None, POD) != ""
    assert await cluster.words(DELETE, "pods", None, {"metadata": {}, "spec": {"replicas": 0}}) == ""


async def test_the_authorizer_answers_for_the_sender(cluster: Cluster) -> None:
    cluster.policy("authorizer.group('').resource('pods').namespace('x').check('delete').allowed()")
    cluster.bind()
    assert await cluster.words() != ""
    assert await cluster.words(CREATE, "pods", POD, user=User("root", ("system:masters",))) == ""


async def test_the_authorizer_answers_for_a_service_account(cluster: Cluster) -> None:
    role = {"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}
    cluster.authorizer.upsert(role)
    subject = {"kind": "Group", "name": "system:serviceaccounts:ns"}
    ref = {"kind": "ClusterRole", "name": "r"}
    cluster.authorizer.upsert(
        {"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": ref, "subjects": [subject]}
    )
    cluster.policy("authorizer.serviceAccount('ns', 'sa').path('/x').check('get').allowed()")
    cluster.bind()
    assert await cluster.words() == ""


@pytest.mark.parametrize(
    ("match", "matched"),
    [
        ({}, True),
        ({"resourceRules": []}, True),
        ({"resourceRules": [{**PODS, "operations": ["UPDATE", "DELETE"]}]}, False),
        ({"resourceRules": [{**PODS, "apiGroups": ["apps"]}]}, False),
        ({"resourceRules": [{**PODS, "resources": ["pods/status", "services"]}]}, False),
        ({"resourceRules": [{**PODS, "resources": ["*/*"]}]}, True),
        ({"resourceRules": [{**PODS, "scope": "Cluster"}]}, False),
        ({"resourceRules": [{**PODS, "resourceNames": ["web", "x"]}]}, True),
        ({"resourceRules": [{**PODS, "resourceNames": ["x"]}]}, False),
        ({"resourceRules": [{**PODS, "apiVersions": ["v2"]}]}, True),
        ({"resourceRules": [{**PODS, "apiVersions": ["v2"]}], "matchPolicy": "Exact"}, False),
        ({"excludeResourceRules": [PODS]}, False),
        ({"excludeResourceRules": [{**PODS, "resourceNames": ["x"]}]}, True),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, True),
        ({"objectSelector": {"matchLabels": {"a": "c"}}}, False),
        ({"namespaceSelector": {"matchLabels": {"a": "b"}}}, False),
        ({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}, True),
    ],
)
async def test_constraints_choose_the_requests(cluster: Cluster, match: Obj, matched: bool) -> None:
    cluster.policy("false", match=match)
    cluster.bind()
    assert bool(await cluster.words()) is matched


async def test_a_binding_narrows_its_policy(cluster: Cluster) -> None:
    cluster.policy("false")
    cluster.bind(matchResources={"objectSelector": {"matchLabels": {"a": "c"}}})
    assert await cluster.words() == ""
    cluster.bind(name="wider", matchResources={"objectSelector": {"matchLabels": {"a": "b"}}})
    assert "with binding 'wider'" in str(await cluster.refusal())


async def test_an_equivalent_object_is_looked_at_in_the_version_of_the_rule(cluster: Cluster) -> None:
    shown = "object.apiVersion + request.kind.version + request.requestKind.version"
    match = {"resourceRules": [{**PODS, "apiVersions": ["v2"]}]}
    cluster.policy({"expression": "false", "messageExpression": shown}, match=match)
    cluster.bind()
    assert await cluster.words() == "v2v2v1"


async def test_policies_cannot_lock_out_their_own_removal(cluster: Cluster) -> None:
    cluster.policy("false", match={"resourceRules": []})
    cluster.bind()
    group = "admissionregistration.k8s.io"
    asked = (DELETE, "validatingadmissionpolicies", None, POD)
    assert await cluster.words(*asked, group=group, namespace="") == ""
    assert await cluster.words(CREATE, "nodes", POD, namespace="") != ""


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap"}


async def test_parameters_are_found_by_name_or_selector(cluster: Cluster, objects: Any) -> None:
    for name, number in (("one", "1"), ("two", "5")):
        labels = {"for": "pods"}
        meta = {"name": name, "namespace": "default", "labels": labels}
        objects.add("configmaps", {**CONFIG_MAP, "metadata": meta, "data": {"most": number}})
    most = {
        "expression": "object.spec.replicas <= int(params.data.most)",
        "messageExpression": "'<= ' + params.data.most",
    }
    cluster.policy({**most, "messageExpression": "'<= ' + string(params.data.most)"}, paramKind=CONFIG_MAP)
    cluster.bind(paramRef={"name": "two", "parameterNotFoundAction": "Deny"})
    assert await cluster.words() == ""
    cluster.bind(paramRef={"selector": {"matchLabels": {"for": "pods"}}, "parameterNotFoundAction": "Deny"})
    assert await cluster.words() == "<= 1"
    assert "no params found" in await cluster.words(CREATE, "pods", POD, namespace="elsewhere")
    cluster.bind(paramRef={"name": "one", "namespace": "default", "parameterNotFoundAction": "Deny"})
    assert "namespaces" in await cluster.words(CREATE, "pods", POD, namespace="elsewhere")  # which does not exist


@pytest.mark.parametrize(
    ("kind", "ref", "words"),
    [
        (
            CONFIG_MAP,
            {"name": "x", "parameterNotFoundAction": "Deny"},
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
        (CONFIG_MAP, {"name": "x", "parameterNotFoundAction": "Allow"}, ""),
        (CONFIG_MAP, None, "expression 'params.data.x == 1' resulted in error: no such key: data"),
        (
            {"apiVersion": "v1", "kind": "Node"},
            {"name": "x", "namespace": "y", "parameterNotFoundAction": "Allow"},
            "failed to configure binding: paramRef.namespace must not be provided for a cluster-scoped `paramKind`",
        ),
        (
            {"apiVersion": "a.b/v1", "kind": "Nope"},
            {"name": "x", "parameterNotFoundAction": "Allow"},
            "failed to configure policy: failed to find resource referenced by paramKind: 'a.b/v1, Kind=Nope'",
        ),
    ],
)
async def test_missing_parameters_are_reported(cluster: Cluster, kind: Obj, ref: Obj | None, words: str) -> None:
    cluster.policy("params.data.x == 1", paramKind=kind)
    more: dict[str, Any] = {"paramRef": ref} if ref else {}
    cluster.bind(**more)
    assert await cluster.words() == words
    cluster.policy("params.data.x == 1", paramKind=kind, failurePolicy="Ignore")
    assert await cluster.words() == ""


async def test_an_audit_annotation_that_fails_refuses_whatever_the_action(cluster: Cluster) -> None:
    annotations = [{"key": "k", "valueExpression": "object.nope + ''"}]
    cluster.policy("true", auditAnnotations=annotations)
    cluster.bind("Warn")
    assert await cluster.words() == "expression 'object.nope + ''' resulted in error: no such key: nope"
    cluster.policy("true", auditAnnotations=annotations, failurePolicy="Ignore")
    assert await cluster.words() == ""


async def test_of_several_policies_the_first_by_name_is_reported(cluster: Cluster) -> None:
    for name in ("z", "a", "m"):
        cluster.policy("false", name=name)
        cluster.bind(name=name, policy=name)
    assert "ValidatingAdmissionPolicy 'a' with binding 'a'" in str(await cluster.refusal())
