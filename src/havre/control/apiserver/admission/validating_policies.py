"""ValidatingAdmissionPolicy: expressions that writes must satisfy; bindings say which writes and which parameters.

`control_plane` feeds `upsert` and `remove` from the events of the watch cache. A policy is compiled once, when it
arrives. Which policies could concern a request is remembered by its place (operation, resource, scope), so that other
requests pay one look into a table.

A refusal is that of the first policy by name, of its first binding by name, of its first failed validation; upstream
picks any policy. `Audit` does nothing: there is no audit log. Audit annotations are evaluated, since a failure refuses.

Source: k8s.io/apiserver, pkg/admission/plugin/policy/validating (dispatcher, validator) and policy/generic.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from havre.api.errors import ApiError, NotFound
from havre.api.meta import GVK, GVR, Obj, labels_of, name_of, split_api_version
from havre.control.apiserver import rbac
from havre.control.apiserver.admission.match_conditions import Compiled, ConditionsFailed, asker, hold, resource_of
from havre.control.apiserver.admission.match_resources import (
    Match,
    MatchResources,
    Place,
    is_namespace,
    place_of,
)
from havre.control.apiserver.admission.refusal import forbidden
from havre.control.apiserver.authz import Authorizer
from havre.lang.cel.admission import Composition, Evaluation, Inputs, failed
from havre.lang.cel.authorizer import Ask
from havre.lang.cel.expression import CelError, OutOfBudget
from havre.machinery.admission import AdmissionRequest, Lister

log = logging.getLogger(__name__)

GROUP: Final = "admissionregistration.k8s.io"
POLICIES: Final = "validatingadmissionpolicies"
BINDINGS: Final = "validatingadmissionpolicybindings"
MESSAGE_MAX: Final = 5 * 1024  # bytes of an evaluated message
PLACES_MAX: Final = 4096  # remembered; a cluster has some hundreds

# A policy that could stop its own removal would lock everybody out; reviews are questions, not writes.
_EXEMPT: Final = frozenset(
    {
        *((GROUP, f"{kind}webhookconfigurations") for kind in ("mutating", "validating")),
        *((GROUP, f"{kind}admissionpolicies") for kind in ("mutating", "validating")),
        *((GROUP, f"{kind}admissionpolicybindings") for kind in ("mutating", "validating")),
        ("authentication.k8s.io", "selfsubjectreviews"),
        ("authentication.k8s.io", "tokenreviews"),
        ("authorization.k8s.io", "localsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authorization.k8s.io", "subjectaccessreviews"),
    }
)
_CODES: Final = {"Forbidden": 403, "Unauthorized": 401, "RequestEntityTooLarge": 413}
_NAMESPACE_FIELDS: Final = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "finalizers",
)


class Served(Protocol):
    """What is asked of the registry (`served.ServedKinds`)."""

    @property
    def generation(self) -> int: ...
    def place(self, gvk: GVK) -> tuple[str, str, bool] | None: ...
    def equivalents(self, gvr: GVR, subresource: str, /) -> Sequence[tuple[GVR, GVK]]: ...
    def convert(self, obj: Obj, gvk: GVK, /) -> Obj: ...


class Refused(ApiError):
    """A policy says no, with the reason that it chose."""

    def __init__(self, req: AdmissionRequest, why: str, reason: str) -> None:
        error = forbidden(req, why)
        details = {**(error.details or {}), "causes": [{"message": why}]}
        super().__init__(error.message, details=details, code=_CODES.get(reason, 422))
        self._reason = reason

    def status(self) -> Obj:
        status = super().status()
        code = status.pop("code")
        return {**status, "reason": self._reason, "code": code}


class _Misconfigured(Exception):
    """A policy or binding that cannot be applied to this request."""


@dataclass(frozen=True, slots=True)
class _Denial:
    message: str
    reason: str = "Invalid"


@dataclass(frozen=True, slots=True)
class _Validation:
    text: str
    condition: Compiled
    message: str
    message_condition: Compiled | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Binding:
    name: str
    param_ref: Obj | None
    match: MatchResources | None
    actions: tuple[str, ...]

    @classmethod
    def of(cls, obj: Obj) -> _Binding:
        spec = obj["spec"]
        match = spec.get("matchResources")
        return cls(
            name_of(obj),
            spec.get("paramRef"),
            MatchResources.of(match) if match is not None else None,
            tuple(spec.get("validationActions") or ()),
        )


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    match: MatchResources
    param_kind: GVK | None
    ignores_failures: bool
    composition: Composition
    conditions: tuple[Compiled, ...]
    validations: tuple[_Validation, ...]
    annotations: tuple[tuple[str, Compiled], ...]

    @classmethod
    def of(cls, obj: Obj) -> _Policy:
        spec = obj["spec"]
        composition = Composition((v["name"], v["expression"]) for v in spec.get("variables") or ())

        def compiled(text: str) -> Compiled:
            try:
                return composition.compile(text)
            except CelError as e:
                return f"compilation error: {e}"

        def validation(raw: Obj) -> _Validation:
            source = raw.get("messageExpression") or ""
            message = (raw.get("message") or "").strip() or f"failed expression: {raw['expression'].strip()}"
            reason = raw.get("reason") or "Invalid"
            return _Validation(
                raw["expression"], compiled(raw["expression"]), message, compiled(source) if source else None, reason
            )

        kind = spec.get("paramKind")
        return cls(
            name_of(obj),
            MatchResources.of(spec.get("matchConstraints") or {}),
            GVK(*split_api_version(kind["apiVersion"]), kind["kind"]) if kind else None,
            spec.get("failurePolicy") == "Ignore",
            composition,
            tuple(compiled(c["expression"]) for c in spec.get("matchConditions") or ()),
            tuple(validation(v) for v in spec.get("validations") or ()),
            tuple((a["valueExpression"], compiled(a["valueExpression"])) for a in spec.get("auditAnnotations") or ()),
        )


_Hook = tuple[_Policy, tuple[_Binding, ...]]


class ValidatingPolicies:
    """A Validator."""

    def __init__(self, lister: Lister, authorizer: Authorizer, served: Served) -> None:
        self._lister = lister
        self._authorizer = authorizer
        self._served = served
        self._policies: dict[str, _Policy] = {}
        self._bindings: dict[str, dict[str, _Binding]] = {}  # policy → binding → it
        self._policy_of: dict[str, str] = {}  # binding → policy
        self._hooks: tuple[_Hook, ...] = ()
        self._places: dict[tuple[str, str, str, str, str, bool, int], tuple[_Hook, ...]] = {}

    # the cache speaks

    def upsert(self, obj: Obj) -> None:
        """A policy or a binding appeared or changed."""
        name = name_of(obj)
        if obj["kind"] == "ValidatingAdmissionPolicy":
            self._policies[name] = _Policy.of(obj)
        else:
            self._unbind(name)
            policy = obj["spec"]["policyName"]
            self._policy_of[name] = policy
            self._bindings.setdefault(policy, {})[name] = _Binding.of(obj)
        self._join()

    def remove(self, obj: Obj) -> None:
        if obj["kind"] == "ValidatingAdmissionPolicy":
            self._policies.pop(name_of(obj), None)
        else:
            self._unbind(name_of(obj))
        self._join()

    def _unbind(self, name: str) -> None:
        policy = self._policy_of.pop(name, None)
        if policy is not None:
            del self._bindings[policy][name]

    def _join(self) -> None:
        """Policies that are bound, by name."""
        self._places.clear()
        self._hooks = tuple(
            (policy, tuple(binding for _, binding in sorted(bindings.items())))
            for name, policy in sorted(self._policies.items())
            if (bindings := self._bindings.get(name))
        )

    # a request asks

    async def validate(self, req: AdmissionRequest) -> None:
        """Raises Refused; warns of what bindings with `Warn` found."""
        if not self._hooks:
            return
        a = req.attributes
        generation = self._served.generation  # versions come and go, and with them what is equivalent
        key = (req.operation, a.group, a.version, a.resource, a.subresource, bool(a.namespace), generation)
        hooks = self._places.get(key)
        if hooks is None:
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            hooks = self._places[key] = self._concerned(req)
        if hooks:
            self._judge(req, hooks)

    def _concerned(self, req: AdmissionRequest) -> tuple[_Hook, ...]:
        if (req.attributes.group, req.attributes.resource) in _EXEMPT:
            return ()
        place = place_of(req)
        return tuple(hook for hook in self._hooks if hook[0].match.may_match(place, self._served.equivalents))

    def _judge(self, req: AdmissionRequest, hooks: tuple[_Hook, ...]) -> None:
        look = _Look(req, place_of(req), self._lister, self._served, asker(self._authorizer, req.attributes.user))
        first: tuple[str, _Denial] | None = None
        for policy, bindings in hooks:
            for where, denial in self._denials(look, policy, bindings):
                first = first or (where, denial)  # the others may still warn
        if first is not None:
            raise Refused(req, f"{first[0]} denied request: {first[1].message}", first[1].reason)

    def _denials(self, look: _Look, policy: _Policy, bindings: tuple[_Binding, ...]) -> Iterator[tuple[str, _Denial]]:
        """Who refuses and why."""
        where = f"ValidatingAdmissionPolicy '{policy.name}'"
        try:
            match = look.match(policy.match)
            if match is None:
                return
            scope = self._scope(policy)
        except (_Misconfigured, NotFound) as e:
            if not policy.ignores_failures:
                yield where, _Denial(f"failed to configure policy: {e}")
            return
        for binding in bindings:
            here = f"{where} with binding '{binding.name}'"
            try:
                if binding.match and look.match(binding.match) is None:
                    continue
                params = [self._param(p, policy) for p in self._params(binding.param_ref, scope, look.req)]
            except (_Misconfigured, NotFound) as e:
                if not policy.ignores_failures:
                    yield here, _Denial(f"failed to configure binding: {e}")
                continue
            for param in params:
                evaluation = Evaluation(look.inputs(match, param), look.ask, policy.composition)
                for denial in _judged(policy, evaluation):
                    yield from _acted(here, denial, binding, look.req)

    # parameters

    def _scope(self, policy: _Policy) -> tuple[str, str, bool] | None:
        """Where the parameters are; None when the policy has none. Raises _Misconfigured."""
        kind = policy.param_kind
        if kind is None:
            return None
        found = self._served.place(kind)
        if found is None:
            named = f"{kind.group}/{kind.version}, Kind={kind.kind}"
            raise _Misconfigured(f"failed to find resource referenced by paramKind: '{named}'")
        return found

    def _params(self, ref: Obj | None, scope: tuple[str, str, bool] | None, req: AdmissionRequest) -> list[Obj | None]:
        """Each value of `params` with which the policy is evaluated. Raises _Misconfigured."""
        if scope is None or ref is None:
            return [None]
        group, plural, namespaced = scope
        namespace = ref.get("namespace") or ""
        if namespace and not namespaced:
            raise _Misconfigured("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
        if namespaced:
            namespace = namespace or ("" if is_namespace(req) else req.attributes.namespace)
            if not namespace:
                raise _Misconfigured(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                )
        found: list[Obj | None]
        if name := ref.get("name"):
            param = self._lister.get(group, plural, namespace, name)
            found = [] if param is None else [param]
        else:
            selector = ref.get("selector") or {}
            everything = self._lister.list(group, plural, namespace)
            found = [obj for obj in everything if rbac.selects(selector, labels_of(obj))]
        if not found and ref.get("parameterNotFoundAction") == "Deny":
            raise _Misconfigured("no params found for policy binding with `Deny` parameterNotFoundAction")
        return found

    def _param(self, param: Obj | None, policy: _Policy) -> Obj | None:
        """In the version that the policy names; stored is another one, perhaps."""
        if param is None or policy.param_kind is None or GVK.of(param) == policy.param_kind:
            return param
        return self._served.convert(param, policy.param_kind)


class _Look:
    """One request as policies see it; what they see is made when the first of them wants it."""

    def __init__(self, req: AdmissionRequest, place: Place, lister: Lister, served: Served, ask: Ask) -> None:
        self.req = req
        self.ask = ask
        self._place = place
        self._lister = lister
        self._served = served
        self._inputs: dict[tuple[Match, int], Inputs] = {}

    def match(self, resources: MatchResources) -> Match | None:
        """Raises NotFound when the namespace is gone."""
        return resources.match(self.req, self._place, self._lister, self._served.equivalents)

    def inputs(self, match: Match, param: Obj | None) -> Inputs:
        """Raises NotFound when the namespace is gone."""
        key = match, id(param)  # which lives as long as the inputs that hold it
        found = self._inputs.get(key)
        if found is None:
            found = self._inputs[key] = Inputs(self._values(match, param), resource_of(self.req))
        return found

    def _values(self, match: Match, param: Obj | None) -> Obj:
        req = self.req
        return {
            "object": self._as(req.obj, match),
            "oldObject": self._as(req.old, match),
            "request": _request(req, match),
            "params": param,
            "namespaceObject": self._namespace(),
        }

    def _as(self, obj: Obj | None, match: Match) -> Obj | None:
        return obj if obj is None or match.gvk == self.req.gvk else self._served.convert(obj, match.gvk)

    def _namespace(self) -> Obj | None:
        name = self.req.attributes.namespace
        if not name or is_namespace(self.req):
            return None
        found = self._lister.get("", "namespaces", "", name)
        if found is None:
            raise NotFound.of("namespaces", "", name)
        metadata = {key: found["metadata"][key] for key in _NAMESPACE_FIELDS if key in found["metadata"]}
        return {"metadata": metadata, "spec": found.get("spec") or {}, "status": found.get("status") or {}}


def _acted(
    here: str, found: tuple[_Denial, bool], binding: _Binding, req: AdmissionRequest
) -> Iterator[tuple[str, _Denial]]:
    denial, always = found
    if always or "Deny" in binding.actions:
        yield here, denial
    if not always and "Warn" in binding.actions:
        req.warnings.append(f"Validation failed for {here}: {denial.message}")


def _judged(policy: _Policy, evaluation: Evaluation) -> Iterator[tuple[_Denial, bool]]:
    """What is wrong, and whether it refuses whatever the actions of the binding are."""
    try:
        if not hold(evaluation, policy.conditions):
            return
    except ConditionsFailed as e:
        if not policy.ignores_failures:
            yield _Denial(str(e)), False
        return
    for validation in policy.validations:
        try:
            denial = _broken(validation, evaluation)
        except CelError as e:
            if not policy.ignores_failures:
                yield _Denial(str(e)), False
            if isinstance(e, OutOfBudget):
                return
            continue
        if denial is not None:
            yield denial, False
    if policy.ignores_failures:
        return
    for text, annotation in policy.annotations:
        if problem := _unfit(text, annotation, evaluation):
            yield _Denial(problem), True


def _broken(validation: _Validation, evaluation: Evaluation) -> _Denial | None:
    """None when the validation holds. Raises CelError."""
    condition = validation.condition
    if isinstance(condition, str):
        raise CelError(condition)
    try:
        if evaluation.evaluate(condition) is True:
            return None
    except OutOfBudget:
        raise
    except CelError as e:
        raise CelError(failed(condition, e)) from e
    return _Denial(_evaluated_message(validation, evaluation) or validation.message, validation.reason)


def _evaluated_message(validation: _Validation, evaluation: Evaluation) -> str:
    """The text of the messageExpression; "" when it fails or is no good, then the message stands in."""
    condition = validation.message_condition
    if condition is None or isinstance(condition, str):
        return ""
    try:
        text = evaluation.evaluate(condition)
    except OutOfBudget as e:
        raise CelError(f"failed messageExpression: {e}") from e
    except CelError as e:
        log.debug("messageExpression failed", extra={"expression": condition.text, "error": str(e)})
        return ""
    text = text.strip() if isinstance(text, str) else ""
    return "" if "\n" in text or len(text.encode()) > MESSAGE_MAX else text


def _unfit(text: str, condition: Compiled, evaluation: Evaluation) -> str:
    """Why a value cannot be an audit annotation."""
    if isinstance(condition, str):
        return condition
    try:
        value = evaluation.evaluate(condition)
    except CelError as e:
        return failed(condition, e)
    if value is None or isinstance(value, str):
        return ""
    problem = f"valueExpression '{text}' resulted in unsupported return type: {type(value).__name__}"
    return f"{problem}. Return type must be either string or null."


def _request(req: AdmissionRequest, match: Match) -> Obj:
    """`request`: an AdmissionRequest without the objects."""
    a = req.attributes
    request: dict[str, Any] = {
        "uid": "",
        "kind": match.gvk._asdict(),
        "resource": match.gvr._asdict(),
        "requestKind": req.gvk._asdict(),
        "requestResource": {"group": a.group, "version": a.version, "resource": a.resource},
        "operation": str(req.operation),
        "userInfo": a.user.info(),
        "dryRun": req.dry_run,
        "options": req.options or None,
    }
    name = a.name or ((req.obj or {}).get("metadata") or {}).get("name", "")
    namespace = name if is_namespace(req) else a.namespace
    texts = {"name": name, "namespace": namespace, "subResource": a.subresource, "requestSubResource": a.subresource}
    return request | {key: value for key, value in texts.items() if value}
