"""Expressions are checked when a policy or a webhook is written."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Invalid
from havre.api.meta import GVK, Obj
from havre.control.apiserver.admission.expressions import Expressions
from havre.machinery.admission import AdmissionRequest, Attributes, Operation, User

GROUP = "admissionregistration.k8s.io"


async def problems(plural: str, obj: Obj, old: Obj | None = None) -> list[str]:
    a = Attributes(User("bob"), "create", GROUP, "v1", plural, name="x")
    operation = Operation.CREATE if old is None else Operation.UPDATE
    try:
        await Expressions().validate(AdmissionRequest(a, operation, GVK(GROUP, "v1", "Thing"), obj, old))
    except Invalid as e:
        return [f"{cause['field']}: {cause['message']}" for cause in (e.details or {})["causes"]]
    return []


def policy(**spec: Any) -> Obj:
    return {"metadata": {"name": "p"}, "spec": spec}


async def of_policy(old: Obj | None = None, **spec: Any) -> list[str]:
    return await problems("validatingadmissionpolicies", policy(**spec), old)


async def test_what_does_not_compile_is_reported_with_its_place() -> None:
    found = await of_policy(
        variables=[{"name": "a", "expression": "1"}, {"name": "b", "expression": "variables.c"}],
        validations=[{"expression": "object."}, {"expression": "variables.a"}, {"expression": "variables.a == 1"}],
        auditAnnotations=[{"key": "k", "valueExpression": "1"}],
    )
    assert found == [
        'spec.variables[1].expression: Invalid value: "variables.c": compilation failed: '
        "ERROR: <input>:1:10: undefined field 'c'\n | variables.c\n | .........^",
        'spec.validations[0].expression: Invalid value: "object.": compilation failed: '
        "ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^",
        'spec.validations[1].expression: Invalid value: "variables.a": must evaluate to bool but got int',
        'spec.auditAnnotations[0].valueExpression: Invalid value: "1": '
        "must evaluate to one of [string null_type] but got int",
    ]


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"message": "a\nb"}, 'message: Invalid value: "a\\nb": must not contain line breaks'),
        ({"message": " "}, 'message: Invalid value: " ": must be non-empty if specified'),
        ({"messageExpression": " "}, 'messageExpression: Invalid value: " ": must be non-empty if specified'),
        ({"messageExpression": "1"}, 'messageExpression: Invalid value: "1": must evaluate to string but got int'),
        (
            {"reason": "Nope"},
            'reason: Unsupported value: "Nope": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"',
        ),
    ],
)
async def test_the_words_of_a_validation_are_checked(validation: Obj, words: str) -> None:
    assert await of_policy(validations=[{"expression": "true", **validation}]) == [f"spec.validations[0].{words}"]


async def test_params_exist_only_with_a_kind() -> None:
    validations = [{"expression": "params.x == 1"}]
    assert "undeclared reference to 'params'" in (await of_policy(validations=validations))[0]
    assert await of_policy(validations=validations, paramKind={"apiVersion": "v1", "kind": "ConfigMap"}) == []


async def test_audit_annotations_have_distinct_qualified_keys() -> None:
    good = {"key": "k", "valueExpression": "'a'"}
    found = await of_policy(auditAnnotations=[good, good, {**good, "key": "a b"}])
    assert found[0] == 'spec.auditAnnotations[1].key: Duplicate value: "k"'
    assert found[1].startswith('spec.auditAnnotations[2].key: Invalid value: "p/a b": name part must consist of')


async def test_match_conditions_do_not_see_variables() -> None:
    conditions = [{"name": "c", "expression": " variables.a == 1 "}]
    found = await of_policy(variables=[{"name": "a", "expression": "1"}], matchConditions=conditions)
    assert found[0].startswith('spec.matchConditions[0].expression: Invalid value: "variables.a == 1": compilation')


async def test_match_conditions_that_stay_are_not_checked_again() -> None:
    conditions = [{"name": "c", "expression": "nope"}]
    assert await of_policy(policy(matchConditions=conditions), matchConditions=conditions) == []
    assert await of_policy(policy(), matchConditions=conditions) != []
    hooks = {"metadata": {"name": "w"}, "webhooks": [{"name": "h", "matchConditions": conditions}]}
    assert await problems("validatingwebhookconfigurations", hooks, hooks) == []


async def test_conditions_of_webhooks_are_checked() -> None:
    conditions = [{"name": "c", "expression": "object.x"}] * 65
    hooks = {"metadata": {"name": "w"}, "webhooks": [{"name": "h"}, {"name": "i", "matchConditions": conditions}]}
    found = await problems("mutatingwebhookconfigurations", hooks)
    assert found[0] == "webhooks[1].matchConditions: Too many: must have at most 64 items"
    words = 'webhooks[1].matchConditions[64].expression: Invalid value: "object.x": must evaluate to bool but got dyn'
    assert found[-1] == words


async def test_variables_are_bounded_in_number_and_depth() -> None:
    many = [{"name": f"v{i}", "expression": "1"} for i in range(257)]
    assert await of_policy(variables=many) == ["spec.variables: Too many: must have at most 256 items"]
    first = {"name": "v0", "expression": "1"}
    deep = [first, *({"name": f"v{i}", "expression": f"variables.v{i - 1}"} for i in range(1, 65))]
    words = "compilation failed: more than 64 variables read one another"
    assert await of_policy(variables=deep) == [
        f'spec.variables[64].expression: Invalid value: "variables.v63": {words}'
    ]
