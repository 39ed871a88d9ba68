"""CustomResourceDefinitions; every expected text was printed by kube-apiserver 1.34."""

# ruff: noqa: E501 — the texts of the server are as long as they are

from __future__ import annotations

import copy
from typing import Any

import pytest

from havre.api import crd as api
from havre.api import strategy
from havre.api.crd import ConversionError
from havre.control.apiserver import crd as definitions

Obj = dict[str, Any]
SPEC = ("versions", 0, "schema", "openAPIV3Schema", "properties", "spec")
AT = "spec.validation.openAPIV3Schema.properties[spec]"
BASE: Obj = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "foos.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "a": {"type": "string", "minLength": 2},
                                    "n": {"type": "integer", "default": 1},
                                    "tags": {
                                        "type": "array",
                                        "items": {"type": "string"},
                                        "x-kubernetes-list-type": "set",
                                    },
                                },
                                "x-kubernetes-validations": [{"rule": "self.n > 0"}],
                            },
                            "status": {"type": "object", "properties": {"n": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    },
}


def definition(*steps: Any) -> Obj:
    """The base with the value at `steps[:-1]` below `spec` replaced by the last."""
    crd = copy.deepcopy(BASE)
    if steps:
        place: Any = crd["spec"]
        for step in steps[:-2]:
            place = place[step]
        place[steps[-2]] = steps[-1]
    definitions.default_crd(crd)
    strategy.prepare_create(crd)
    return crd


def problems(*steps: Any) -> list[str]:
    return [str(e) for e in definitions.validate_crd(definition(*steps))]


def field(raw: Obj) -> tuple[Any, ...]:
    return (*SPEC, "properties", "a", raw)


def rule(**raw: Any) -> tuple[Any, ...]:
    return (*SPEC, "x-kubernetes-validations", [raw])


def test_good_definition_has_no_problem_and_its_defaults() -> None:
    assert problems() == []
    assert definition()["spec"]["names"]["singular"] == "foo"
    assert definition()["spec"]["names"]["listKind"] == "FooList"
    assert definition()["spec"]["conversion"] == {"strategy": "None"}
    empty = {"acceptedNames": {"kind": "", "plural": ""}, "conditions": None}  # as the real server shows it
    assert definition()["status"] == {**empty, "storedVersions": ["v1"]}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            ("group", "nodot"),
            [
                'metadata.name: Invalid value: "foos.example.com": must be spec.names.plural+"."+spec.group',
                'spec.group: Invalid value: "nodot": should be a domain with at least one dot',
            ],
        ),
        (("scope", "Foo"), ['spec.scope: Unsupported value: "Foo": supported values: "Cluster", "Namespaced"']),
        (("scope", ""), ["spec.scope: Required value"]),
        (
            ("names", {"plural": "foos"}),
            [
                "spec.names.singular: Required value",
                "spec.names.kind: Required value",
                "spec.names.listKind: Required value",
            ],
        ),
        (
            ("names", "listKind", "Foo"),
            ['spec.names.listKind: Invalid value: "Foo": kind and listKind may not be the same'],
        ),
        (("versions", 0, "schema", None), ["spec.versions[0].schema.openAPIV3Schema: Required value"]),
        (
            ("versions", 0, "subresources", {"scale": {"specReplicasPath": "spec.x", "statusReplicasPath": ".spec.x"}}),
            [
                'spec.subresources.scale.specReplicasPath: Invalid value: "spec.x": must be a simple json path starting with .',
                'spec.subresources.scale.statusReplicasPath: Invalid value: ".spec.x": should be a json path under .status',
            ],
        ),
        (
            ("versions", 0, "additionalPrinterColumns", [{"name": "a", "type": "x", "jsonPath": "x"}]),
            [
                'spec.additionalPrinterColumns[0].type: Invalid value: "x": must be one of boolean,date,integer,number,string',
                'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "x": must be a simple json path starting with .',
            ],
        ),
        (
            (
                "versions",
                0,
                "selectableFields",
                [{"jsonPath": ".spec.zz"}, {"jsonPath": ".spec.a"}, {"jsonPath": ".spec.a"}],
            ),
            [
                'spec.selectableFields[0].jsonPath: Invalid value: ".spec.zz": is an invalid path: '
                "does not refer to a valid field",
                'spec.selectableFields[2].jsonPath: Duplicate value: ".spec.a"',
            ],
        ),
        (
            ("versions", 0, "deprecationWarning", "x"),
            ['spec.versions[0].deprecationWarning: Invalid value: "x": can only be set for deprecated versions'],
        ),
        (field({}), [f"{AT}.properties[a].type: Required value: must not be empty for specified object fields"]),
        (
            field({"type": "string", "default": 1}),
            [f'{AT}.properties[a].default: Invalid value: "integer":  in body must be of type string: "integer"'],
        ),
        (
            field({"type": "object", "default": {"x": 1}}),
            [f'{AT}.properties[a].default: Invalid value: {{"x":1}}: must not have unknown fields'],
        ),
        (field({"type": "string", "$ref": "#/x"}), [f"{AT}.properties[a].$ref: Forbidden: $ref is not supported"]),
        (
            field({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
            [
                f"{AT}.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if "
                "x-kubernetes-list-type is map",
                f'{AT}.properties[a].items.type: Invalid value: "string": must be object if parent array\'s '
                "x-kubernetes-list-type is map",
            ],
        ),
        (
            rule(rule="self.a =="),
            [
                f'{AT}.x-kubernetes-validations[0].rule: Invalid value: {{"Rule":"self.a ==","Message":"",'
                '"MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: '
                "<input>:1:10: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', "
                "'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.a ==\n | .........^"
            ],
        ),
        (rule(rule=""), [f"{AT}.x-kubernetes-validations[0].rule: Required value: rule is not specified"]),
        (
            rule(rule="true", optionalOldSelf=True),
            [
                f"{AT}.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is "
                "not used in rule"
            ],
        ),
        (
            ("conversion", {"strategy": "Webhook"}),
            [
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
                "spec.conversion.conversionReviewVersions: Required value",
            ],
        ),
        (
            ("preserveUnknownFields", True),
            [
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set "
                "x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
            ],
        ),
    ],
)
def test_each_problem_has_upstreams_words(steps: tuple[Any, ...], expected: list[str]) -> None:
    assert problems(*steps) == expected


def test_protected_group_needs_an_approval() -> None:
    crd = definition("group", "x.k8s.io")
    crd["metadata"]["name"] = "foos.x.k8s.io"
    assert [str(e) for e in definitions.validate_crd(crd)] == [
        "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation "
        '"api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111'
    ]
    crd["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, test"}
    assert definitions.validate_crd(crd) == []


def test_names_of_an_established_definition_stay() -> None:
    old = definitions.settle(definition(), [], "t")
    new = copy.deepcopy(old)
    new["spec"]["scope"] = "Cluster"
    assert [str(e) for e in definitions.validate_crd(new, old)] == [
        'spec.scope: Invalid value: "Cluster": field is immutable'
    ]


def test_version_that_objects_were_stored_in_stays() -> None:
    crd = definition()
    crd["status"]["storedVersions"] = ["v0", "v1"]
    assert str(definitions.validate_crd(crd)[0]).startswith(
        'status.storedVersions[0]: Invalid value: "v0": missing from'
    )


def test_settled_definition_is_established_once() -> None:
    crd = definitions.settle(definition(), [], "2026-01-01T00:00:00Z")
    assert definitions.established(crd)
    assert [(c["type"], c["status"], c["reason"], c["message"]) for c in crd["status"]["conditions"]] == [
        ("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
    ]
    assert definitions.settle(crd, [crd], "2027-01-01T00:00:00Z") == crd


def test_taken_name_keeps_a_definition_from_being_served() -> None:
    first = definitions.settle(definition(), [], "t")
    second = definition("names", {"plural": "bars", "kind": "Foo", "singular": "bar", "listKind": "BarList"})
    second["metadata"]["name"] = "bars.example.com"
    second = definitions.settle(second, [first], "t")
    assert not definitions.established(second)
    assert second["status"]["conditions"][0]["reason"] == "KindConflict"
    assert second["status"]["conditions"][0]["message"] == '"Foo" is already in use'
    assert second["status"]["conditions"][1]["reason"] == "NotAccepted"


def served(**version: Any) -> definitions.Served:
    crd = definition()
    crd["spec"]["versions"][0] |= version
    return definitions.serve(definitions.settle(crd, [], "t"))[0]


def foo(spec: Any) -> Obj:
    return {"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec}


def test_served_version_says_what_discovery_needs() -> None:
    kind = served(subresources={"status": {}}).kind
    assert (kind.gvk, kind.plural, kind.singular, kind.short_names) == (
        ("example.com", "v1", "Foo"),
        "foos",
        "foo",
        ("fo",),
    )
    assert kind.namespaced
    assert kind.custom
    assert [s.name for s in kind.subresources] == ["status"]


def test_object_is_pruned_defaulted_and_validated() -> None:
    version = served()
    obj = foo({"a": "b", "x": 1, "tags": ["t", "t"]})
    obj["metadata"]["y"] = 1
    assert version.check_types(obj) == ""
    assert version.prune(obj) == ["spec.x", "metadata.y"]
    version.default(obj)
    assert obj["spec"] == {"a": "b", "tags": ["t", "t"], "n": 1}
    assert [str(e) for e in version.validate(obj, None)] == [
        'spec.a: Invalid value: "b": spec.a in body should be at least 2 chars long',
        'spec.tags[1]: Duplicate value: "t"',
    ]
    assert version.validate(obj, copy.deepcopy(obj)) == []


def test_rules_are_not_asked_about_an_object_of_the_wrong_shape() -> None:
    assert [str(e) for e in served().validate(foo({"n": "x"}), None)] == [
        'spec.n: Invalid value: "string": spec.n in body must be of type integer: "string"',
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the "
        "existing errors to complete validation",
    ]
    assert [str(e) for e in served().validate(foo({"n": 0}), None)] == [
        'spec: Invalid value: "object": failed rule: self.n > 0'
    ]


def test_object_of_another_kind_is_refused() -> None:
    assert [str(e) for e in served().validate({**foo({}), "kind": "Bar"}, None)] == [
        'kind: Invalid value: "Bar": must be Foo'
    ]


def test_replicas_of_a_scalable_kind_are_a_number() -> None:
    version = served(subresources={"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}})
    assert version.scale_paths == (".spec.n", ".status.n", "")
    obj = {**foo({"n": -1}), "status": {"n": 2**31}}
    texts = [str(e) for e in version.validate(obj, None)]
    assert ".spec.n: Invalid value: -1: should be a non-negative integer" in texts
    assert ".status.n: Invalid value: 2147483648: should be less than or equal to 2147483647" in texts


def test_status_is_judged_by_its_own_schema() -> None:
    version = served(subresources={"status": {}})
    new = {**foo({"n": 1}), "status": {"n": "x"}}
    assert str(version.validate_status(new, foo({"n": 1}))[0]) == (
        'status.n: Invalid value: "string": n in body must be of type integer: "string"'
    )


def test_selectable_fields_give_text() -> None:
    extract = served(selectableFields=[{"jsonPath": ".spec.n"}]).selectable_fields["spec.n"]
    assert (extract(foo({"n": 3})), extract(foo({})), extract(foo(1))) == ("3", "", "")


def test_deprecated_version_warns() -> None:
    assert served(deprecated=True).warning == "example.com/v1 Foo is deprecated"
    assert served().warning == ""


def test_published_schema_has_identity_and_kind() -> None:
    openapi = served().openapi
    assert openapi["x-kubernetes-group-version-kind"] == [{"group": "example.com", "kind": "Foo", "version": "v1"}]
    assert set(openapi["properties"]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert "labels" in served().schema.properties["metadata"].properties


def test_conversion_without_webhook_renames_the_version() -> None:
    obj = foo({})
    assert definitions.convert(obj, "v2", BASE) == {**obj, "apiVersion": "example.com/v2"}
    assert definitions.convert(obj, "v1", BASE) is obj


WEBHOOK = {"spec": {"group": "example.com", "conversion": {"webhook": {"conversionReviewVersions": ["v9", "v1"]}}}}


def answer(obj: Obj, **changes: Any) -> Obj:
    response = {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [obj], **changes}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}


def test_webhook_may_change_labels_but_no_other_metadata() -> None:
    review = api.conversion_review([foo({})], "v2", WEBHOOK, "u")
    assert review["request"] == {"uid": "u", "desiredAPIVersion": "example.com/v2", "objects": [foo({})]}
    made = {**foo({"new": 1}), "apiVersion": "example.com/v2"}
    made["metadata"] = {"name": "a", "labels": {"l": "1"}, "generation": 9}
    assert api.converted_objects([foo({})], review, answer(made)) == [
        {**made, "metadata": {"name": "a", "labels": {"l": "1"}}}
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uid": "other"}, 'expected response.uid="u", got "other"'),
        ({"result": {"status": "Failure", "message": "no"}}, "failed: no"),
        ({"convertedObjects": []}, "returned 0 objects, expected 1"),
        ({"convertedObjects": [foo({})]}, r"invalid groupVersion \(expected example.com/v2, received example.com/v1\)"),
        ({"convertedObjects": [1]}, "invalid groupVersion"),
        (
            {"convertedObjects": [{"apiVersion": "example.com/v2", "kind": "Foo", "metadata": {"name": "b"}}]},
            "must have the same name: a != b",
        ),
    ],
)
def test_wrong_answer_of_a_webhook_is_refused(changes: Obj, words: str) -> None:
    review = api.conversion_review([foo({})], "v2", WEBHOOK, "u")
    with pytest.raises(ConversionError, match=words):
        api.converted_objects([foo({})], review, answer({}, **changes))
