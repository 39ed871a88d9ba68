"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: ask servers of the user's choice about a write.

Which webhooks are asked is decided by their rules and selectors; what they are asked is an `AdmissionReview` v1. The
HTTP call itself, JSON patches, match conditions (CEL) and equivalent versions come from outside as plain callables.

Mutating webhooks are asked one after the other, by the name of their configuration; validating ones at the same time.

Source: k8s.io/apiserver pkg/admission/plugin/webhook (generic, mutating, validating, predicates, request, errors).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from havre.api.errors import ApiError, BadRequest, Forbidden, InternalError, NotFound
from havre.api.meta import GVK, GVR, Obj, labels_of, name_of
from havre.control.apiserver import rbac
from havre.control.apiserver.admission.refusal import name_in
from havre.machinery.admission import AdmissionRequest, Lister, Operation

log = logging.getLogger(__name__)

GROUP = "admissionregistration.k8s.io"
API_VERSION = "admission.k8s.io/v1"
DEFAULT_TIMEOUT = 10.0
LATE = 1.5  # of its timeout, then a call that does not keep it is given up

# A webhook that could stop its own removal would lock everybody out.
_EXEMPT = frozenset(
    {
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    }
)


class CallFailed(Exception):
    """The webhook could not be asked; the text continues `failed calling webhook "x": …`."""


class Denied(ApiError):
    """A webhook said no; the Status is its own, with its code and whatever reason it invented."""

    def __init__(self, status: Obj) -> None:
        super().__init__(status["message"], details=status.get("details"), code=status["code"])
        self._status = status

    def status(self) -> Obj:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **self._status}


Call = Callable[[Obj, Obj, float], Awaitable[Obj]]
"""(clientConfig, AdmissionReview, seconds) → the AdmissionReview answered. Raises CallFailed."""
Patch = Callable[[Obj, list[Any]], Obj]
"""Apply a JSON patch (RFC 6902) to an object. Raises ValueError."""
Equivalents = Callable[[GVR, str], Sequence[tuple[GVR, GVK]]]
"""Other versions under which a resource (and subresource) is served, for matchPolicy: Equivalent."""
Convert = Callable[[Obj, GVK], Obj]
"""The object in another version of its kind."""
Conditions = Callable[[Obj, list[Obj]], bool]
"""Do all match conditions (CEL) hold for the `request` of a review? Raises ValueError."""


@dataclass(frozen=True, slots=True)
class _Rule:
    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[tuple[str, str]]  # (resource, subresource), each may be *
    scope: str

    @classmethod
    def of(cls, rule: Obj) -> _Rule:
        pairs = (resource.partition("/") for resource in rule.get("resources") or ())
        return cls(
            frozenset(rule.get("operations") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("apiVersions") or ()),
            frozenset((resource, subresource) for resource, _, subresource in pairs),
            rule.get("scope") or "*",
        )

    def matches(self, operation: str, gvr: GVR, subresource: str, namespaced: bool) -> bool:
        return (
            (operation in self.operations or "*" in self.operations)
            and (gvr.group in self.groups or "*" in self.groups)
            and (gvr.version in self.versions or "*" in self.versions)
            and (self.scope == "*" or (self.scope == "Namespaced") == namespaced)
            and any((r, s) in self.resources for r in (gvr.resource, "*") for s in (subresource, "*"))
        )


@dataclass(frozen=True, slots=True)
class _Hook:
    """One webhook of one configuration."""

    id: str
    name: str
    raw: Obj
    rules: tuple[_Rule, ...]

    @property
    def ignores_failures(self) -> bool:
        return bool(self.raw.get("failurePolicy") == "Ignore")


@dataclass(frozen=True, slots=True)
class _Match:
    """As what the object is sent: its own version, or an equivalent one that a rule names."""

    gvr: GVR
    gvk: GVK


@dataclass(slots=True)
class Reinvocation:
    """What the first round of mutating webhooks leaves for the second."""

    wanted: bool = False  # a webhook changed the object
    second: bool = False
    seen: set[str] = field(default_factory=set)  # webhooks with IfNeeded that were asked
    again: set[str] = field(default_factory=set)  # of those, the ones whose answer a later change may have outdated
    output: bytes = b""  # the object as the webhooks left it

    def changed(self) -> None:
        self.wanted = True
        self.again |= self.seen

    def begin_second(self, req: AdmissionRequest) -> None:
        self.second = True
        if _fingerprint(req.obj) != self.output:  # the plugs in between changed it
            self.again |= self.seen


def _fingerprint(obj: Obj | None) -> bytes:
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)


class Webhooks:
    """Both plugs; configurations are read from the cache, so a change counts from the next request on."""

    def __init__(
        self,
        lister: Lister,
        call: Call,
        patch: Patch,
        *,
        conditions: Conditions | None = None,
        equivalents: Equivalents | None = None,
        convert: Convert | None = None,
        complete: Callable[[Obj], None] | None = None,
    ) -> None:
        self._lister = lister
        self._call = call
        self._patch = patch
        self._conditions = conditions
        self._equivalents = equivalents
        self._convert = convert
        self._complete = complete
        self._compiled: dict[tuple[str, str], tuple[str, tuple[_Hook, ...]]] = {}

    def mutate_any(self) -> bool:
        """Is there any mutating webhook at all? Lets a chain without them pay nothing."""
        return bool(self._lister.list(GROUP, "mutatingwebhookconfigurations", ""))

    async def mutate(self, req: AdmissionRequest, round_: Reinvocation) -> None:
        """One round of mutating webhooks. Raises ApiError."""
        for hook in self._hooks(req, "mutatingwebhookconfigurations"):
            match = self._match(hook, req)
            if match is None or (round_.second and hook.id not in round_.again):
                continue
            if await self._mutated(hook, req, match):
                round_.changed()
            if hook.raw.get("reinvocationPolicy") == "IfNeeded":
                round_.seen.add(hook.id)
        if not round_.second and round_.wanted:
            round_.output = _fingerprint(req.obj)

    async def validate(self, req: AdmissionRequest) -> None:
        """Ask every validating webhook; the refusal of the first in order counts. Raises ApiError."""
        wanted = []
        for hook in self._hooks(req, "validatingwebhookconfigurations"):
            match = self._match(hook, req)
            if match is not None:
                wanted.append((hook, match))
        if not wanted:
            return
        calls = (self._ask(hook, req, match, mutating=False) for hook, match in wanted)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    # which

    def _hooks(self, req: AdmissionRequest, kind: str) -> Iterator[_Hook]:
        if req.attributes.group == GROUP and req.attributes.resource in _EXEMPT:
            return
        configurations = self._lister.list(GROUP, kind, "")
        for configuration in sorted(configurations, key=name_of):
            yield from self._compile(kind, configuration)

    def _compile(self, kind: str, configuration: Obj) -> tuple[_Hook, ...]:
        name, version = name_of(configuration), configuration["metadata"].get("resourceVersion", "")
        known = self._compiled.get((kind, name))
        if known is not None and known[0] == version and version:
            return known[1]
        hooks = tuple(
            _Hook(f"{name}/{hook['name']}/{index}", hook["name"], hook, tuple(map(_Rule.of, hook.get("rules") or ())))
            for index, hook in enumerate(configuration.get("webhooks") or ())
        )
        self._compiled[kind, name] = version, hooks
        return hooks

    def _match(self, hook: _Hook, req: AdmissionRequest) -> _Match | None:
        """How to ask this webhook, None when it is not concerned. Raises ApiError."""
        match = self._rule_match(hook, req)
        if match is None or not _object_selected(hook, req) or not self._namespace_selected(hook, req):
            return None
        conditions = hook.raw.get("matchConditions")
        if conditions and not self._holds(hook, req, match, conditions):
            return None
        return match

    def _rule_match(self, hook: _Hook, req: AdmissionRequest) -> _Match | None:
        a = req.attributes
        gvr, namespaced = GVR(a.group, a.version, a.resource), bool(a.namespace) and not _is_namespace(req)
        if any(rule.matches(req.operation, gvr, a.subresource, namespaced) for rule in hook.rules):
            return _Match(gvr, req.gvk)
        if self._equivalents is None or hook.raw.get("matchPolicy", "Equivalent") != "Equivalent":
            return None
        others = [pair for pair in self._equivalents(gvr, a.subresource) if pair[0] != gvr]
        for rule in hook.rules:
            for other, kind in others:
                if rule.matches(req.operation, other, a.subresource, namespaced):
                    return _Match(other, kind)
        return None

    def _namespace_selected(self, hook: _Hook, req: AdmissionRequest) -> bool:
        selector, a = hook.raw.get("namespaceSelector") or {}, req.attributes
        if not selector or not (a.namespace or _is_namespace(req)):
            return True
        if _is_namespace(req) and not a.subresource and req.operation in (Operation.CREATE, Operation.UPDATE):
            return rbac.selects(selector, labels_of(req.obj or {"metadata": {}}))
        name = a.name if _is_namespace(req) else a.namespace
        namespace = self._lister.get("", "namespaces", "", name)
        if namespace is None:
            raise NotFound.of("namespaces", "", name)
        return rbac.selects(selector, labels_of(namespace))

    def _holds(self, hook: _Hook, req: AdmissionRequest, match: _Match, conditions: list[Obj]) -> bool:
        a = req.attributes
        if self._conditions is None:
            log.warning("webhook %s has matchConditions, which this server cannot evaluate", hook.name)
            return self._undecided(hook, req, "matchConditions cannot be evaluated: no CEL interpreter is configured")
        try:
            return self._conditions(self._review(req, match)["request"], conditions)
        except ValueError as e:
            if hook.ignores_failures:
                return False
            raise Forbidden.of(a.resource, a.group, a.name, str(e)) from e

    @staticmethod
    def _undecided(hook: _Hook, req: AdmissionRequest, why: str) -> bool:
        if hook.ignores_failures:
            return False
        raise Forbidden.of(req.attributes.resource, req.attributes.group, name_in(req), why)

    # what

    def _review(self, req: AdmissionRequest, match: _Match) -> Obj:
        """The question, as `admission.k8s.io/v1`."""
        a = req.attributes
        request: Obj = {
            "uid": str(uuid.uuid4()),
            "kind": _named(match.gvk),
            "resource": _named(match.gvr),
            "requestKind": _named(req.gvk),
            "requestResource": {"group": a.group, "version": a.version, "resource": a.resource},
            "name": a.name or ((req.obj or {}).get("metadata") or {}).get("name", ""),
            "namespace": a.namespace,
            "operation": str(req.operation),
            "userInfo": a.user.info(),
            "object": self._as(req.obj, match, req),
            "oldObject": self._as(req.old, match, req),
            "dryRun": req.dry_run,
            "options": req.options or None,
        }
        if a.subresource:
            request["subResource"] = request["requestSubResource"] = a.subresource
        if not request["name"]:
            del request["name"]
        if not request["namespace"]:
            del request["namespace"]
        return {"kind": "AdmissionReview", "apiVersion": API_VERSION, "request": request}

    def _as(self, obj: Obj | None, match: _Match, req: AdmissionRequest) -> Obj | None:
        if obj is None or match.gvk == req.gvk or self._convert is None:
            return obj
        return self._convert(obj, match.gvk)

    # asking

    async def _mutated(self, hook: _Hook, req: AdmissionRequest, match: _Match) -> bool:
        """Ask, and apply the answered patch; did it change the object?"""
        response = await self._ask(hook, req, match, mutating=True)
        operations = response.get("patch")
        if not operations or req.obj is None:
            return False
        before = self._as(req.obj, match, req) or {}
        try:
            after = self._patch(before, operations)
        except ValueError as e:
            raise InternalError.of(str(e)) from e
        if _fingerprint(after) == _fingerprint(before):
            return False
        if match.gvk != req.gvk and self._convert is not None:
            after = self._convert(after, req.gvk)
        if self._complete is not None:
            self._complete(after)
        req.obj = after
        return True

    async def _ask(self, hook: _Hook, req: AdmissionRequest, match: _Match, *, mutating: bool) -> Obj:
        """The response of a webhook that allows; {} when its failure is to be ignored. Raises ApiError."""
        if req.dry_run and hook.raw.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise BadRequest(f'admission webhook "{hook.name}" does not support dry run')
        try:
            response = await self._response(hook, self._review(req, match), mutating=mutating)
        except CallFailed as e:
            if hook.ignores_failures:
                log.warning("failed calling webhook %s, failing open: %s", hook.name, e)
                return {}
            raise InternalError.of(f'failed calling webhook "{hook.name}": {e}') from e
        req.warnings.extend(response.get("warnings") or ())
        if not response.get("allowed"):
            raise denied(hook.name, response.get("status") or {})
        return response

    async def _response(self, hook: _Hook, review: Obj, *, mutating: bool) -> Obj:
        seconds = float(hook.raw.get("timeoutSeconds") or DEFAULT_TIMEOUT)
        try:
            async with asyncio.timeout(seconds * LATE):  # the call keeps the time itself, and says where it went
                answer = await self._call(hook.raw["clientConfig"], review, seconds)
        except TimeoutError as e:
            raise CallFailed("failed to call webhook: context deadline exceeded") from e
        response = _checked(answer, review["request"]["uid"], mutating=mutating)
        return {**response, "patch": _operations(response)} if response.get("patch") else response


def _operations(response: Obj) -> list[Any]:
    """The JSON patch of a response, decoded. Raises CallFailed."""
    try:
        operations = orjson.loads(base64.b64decode(response["patch"]))
    except (ValueError, TypeError) as e:
        raise CallFailed(f"received undecodable patch in webhook response: {e}") from e
    if not isinstance(operations, list):
        raise CallFailed("received undecodable patch in webhook response: a JSON patch is an array of operations")
    if operations and response["patchType"] != "JSONPatch":
        raise CallFailed(f'unsupported patch type "{response["patchType"]}"')
    return operations


def _named(what: GVK | GVR) -> Obj:
    return what._asdict()


def _is_namespace(req: AdmissionRequest) -> bool:
    return req.attributes.resource == "namespaces" and not req.attributes.group


def _object_selected(hook: _Hook, req: AdmissionRequest) -> bool:
    """Either the new or the old object carries the labels."""
    selector = hook.raw.get("objectSelector") or {}
    if not selector:
        return True
    return any(rbac.selects(selector, labels_of(obj)) for obj in (req.obj, req.old) if obj and "metadata" in obj)


_ODD = "received invalid webhook response"
_PATCH_PROBLEMS: dict[tuple[Literal[True, False], bool, bool], str] = {
    (True, True, False): "webhook returned response.patch but not response.patchType",
    (True, False, True): "webhook returned response.patchType but not response.patch",
    (False, True, False): "validating webhook may not return response.patch",
    (False, True, True): "validating webhook may not return response.patch",
    (False, False, True): "validating webhook may not return response.patchType",
}


def _checked(answer: Obj, uid: str, *, mutating: bool) -> Obj:
    """The response, well-formed. Raises CallFailed."""
    response = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(response, dict):
        raise CallFailed(f"{_ODD}: webhook response was absent")
    if response.get("uid") != uid:
        raise CallFailed(f'{_ODD}: expected response.uid="{uid}", got "{response.get("uid", "")}"')
    kind = GVK.of(answer)
    if (kind.api_version, kind.kind) != (API_VERSION, "AdmissionReview"):
        got = f"{kind.api_version}, Kind={kind.kind}"
        raise CallFailed(f"{_ODD}: expected webhook response of {API_VERSION}, Kind=AdmissionReview, got {got}")
    problem = _PATCH_PROBLEMS.get((mutating, bool(response.get("patch")), response.get("patchType") is not None))
    if problem:
        raise CallFailed(f"{_ODD}: {problem}")
    return response


def denied(name: str, status: Obj) -> Denied:
    """`admission webhook "x" denied the request: WHY`, with the code and reason that the webhook chose."""
    text = f'admission webhook "{name}" denied the request'
    why = status.get("message") or status.get("reason")
    code = status.get("code") or 0
    full = {**status, "status": "Failure", "code": code if code >= 400 else 400}
    full["message"] = f"{text}: {why}" if why else f"{text} without explanation"
    return Denied(full)
