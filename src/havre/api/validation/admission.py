"""Webhook configurations and admission policies. Expressions are compiled, and so checked, where they run.

Source: k8s.io/kubernetes, pkg/apis/admissionregistration/validation/validation.go; apiserver,
pkg/util/webhook/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from havre.api.meta import Obj
from havre.api.validation.checks import Errors, checked, choice, label_selector, optional_name
from havre.kit import names
from havre.kit.field import duplicate, invalid, not_supported, required

_OPERATIONS: Final = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_REVIEWS: Final = ("v1", "v1beta1")
TIMEOUT_MAX: Final = 30  # seconds
_ACTIONS: Final = ("Audit", "Deny", "Warn")
_URL_FORM: Final = "; desired format: https://host[/path]"


def validating_webhooks(obj: Obj) -> Errors:
    yield from _webhooks(obj, mutating=False)


def mutating_webhooks(obj: Obj) -> Errors:
    yield from _webhooks(obj, mutating=True)


def _webhooks(obj: Obj, *, mutating: bool) -> Errors:
    seen: set[str] = set()
    for i, hook in enumerate(obj.get("webhooks") or ()):
        path, name = f"webhooks[{i}]", hook.get("name") or ""
        yield from _webhook(path, hook, mutating)
        yield from _reviews(f"{path}.admissionReviewVersions", hook.get("admissionReviewVersions") or [])
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)


def _webhook(path: str, hook: Obj, mutating: bool) -> Errors:
    yield from _full_name(f"{path}.name", hook.get("name") or "")
    for i, rule in enumerate(hook.get("rules") or ()):
        yield from _rule(f"{path}.rules[{i}]", rule)
    if (policy := hook.get("failurePolicy")) is not None:
        yield from choice(f"{path}.failurePolicy", policy, ("Fail", "Ignore"))
    if (policy := hook.get("matchPolicy")) is not None:
        yield from choice(f"{path}.matchPolicy", policy, ("Equivalent", "Exact"))
    effects = hook.get("sideEffects")
    if effects is None:
        yield required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun")
    else:
        yield from choice(f"{path}.sideEffects", effects, ("None", "NoneOnDryRun"))
    seconds = hook.get("timeoutSeconds")
    if seconds is not None and not 1 <= seconds <= TIMEOUT_MAX:
        words = f"the timeout value must be between 1 and {TIMEOUT_MAX} seconds"
        yield invalid(f"{path}.timeoutSeconds", seconds, words)
    for field in ("namespaceSelector", "objectSelector"):
        yield from label_selector(f"{path}.{field}", hook.get(field))
    yield from client_config(f"{path}.clientConfig", hook.get("clientConfig") or {})
    yield from _conditions(f"{path}.matchConditions", hook.get("matchConditions") or [])
    if mutating and (policy := hook.get("reinvocationPolicy")) is not None:
        yield from choice(f"{path}.reinvocationPolicy", policy, ("IfNeeded", "Never"))


def _full_name(path: str, name: str) -> Errors:
    if not name:
        yield required(path)
        return
    yield from checked(path, name, names.fully_qualified_name)


def _reviews(path: str, versions: list[str]) -> Errors:
    if not versions:
        yield required(path, f"must specify one of {', '.join(_REVIEWS)}")
        return
    seen: set[str] = set()
    for i, version in enumerate(versions):
        if version in seen:
            yield invalid(f"{path}[{i}]", version, "duplicate version")
            continue
        seen.add(version)
        for message in names.dns1035_label(version):
            yield invalid(f"{path}[{i}]", version, message)
    if not seen & set(_REVIEWS):
        yield invalid(path, versions, f"must include at least one of {', '.join(_REVIEWS)}")


def _rule(path: str, rule: Obj) -> Errors:
    yield from _star(f"{path}.operations", rule.get("operations") or [], "operations")
    for i, operation in enumerate(rule.get("operations") or ()):
        yield from choice(f"{path}.operations[{i}]", operation, _OPERATIONS)
    yield from _star(f"{path}.apiGroups", rule.get("apiGroups") or [], "API groups")
    yield from _star(f"{path}.apiVersions", rule.get("apiVersions") or [], "API versions")
    for i, version in enumerate(rule.get("apiVersions") or ()):
        if not version:
            yield required(f"{path}.apiVersions[{i}]")
    yield from _resources(f"{path}.resources", rule.get("resources") or [])
    if (scope := rule.get("scope")) is not None:
        yield from choice(f"{path}.scope", scope, ("*", "Cluster", "Namespaced"))


def _star(path: str, values: list[str], what: str) -> Errors:
    if not values:
        yield required(path)
    elif "*" in values and len(values) > 1:
        yield invalid(path, values, f"if '*' is present, must not specify other {what}")


def _resources(path: str, resources: list[str]) -> Errors:
    if not resources:
        yield required(path)
    whole = {r.removesuffix("/*") for r in resources if r.endswith("/*")}
    every = {r.removeprefix("*/") for r in resources if r.startswith("*/")}
    for i, resource in enumerate(resources):
        if not resource:
            yield required(f"{path}[{i}]")
        head, slash, sub = resource.partition("/")
        if not slash:
            continue
        if head in whole and sub != "*":
            yield invalid(f"{path}[{i}]", resource, f"if '{head}/*' is present, must not specify {resource}")
        if sub in every and head != "*":
            yield invalid(f"{path}[{i}]", resource, f"if '*/{sub}' is present, must not specify {resource}")
    if "*/*" in resources and len(resources) > 1:
        yield invalid(path, resources, "if '*/*' is present, must not specify other resources")
    if "*" in resources and any("/" not in resource for resource in resources if resource != "*"):
        yield invalid(path, resources, "if '*' is present, must not specify other resources without subresources")


def client_config(path: str, config: Obj) -> Errors:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        yield required(path, "exactly one of url or service is required")
    elif url is not None:
        yield from _url(f"{path}.url", url)
    elif service is not None:
        yield from _service(f"{path}.service", service)


def _url(path: str, url: str) -> Errors:
    try:
        parts = urlsplit(url)
    except ValueError as problem:
        yield invalid(path, url, f"url must be a valid URL: {problem}{_URL_FORM}")
        return
    if parts.scheme != "https":
        yield invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{_URL_FORM}")
    if not parts.netloc:
        yield invalid(path, parts.netloc, f"host must be specified{_URL_FORM}")
    if "@" in parts.netloc:
        yield invalid(path, parts.username, f"user information is not permitted in the URL{_URL_FORM}")
    if parts.fragment:
        yield invalid(path, parts.fragment, f"fragments are not permitted in the URL{_URL_FORM}")
    if parts.query:
        yield invalid(path, parts.query, f"query parameters are not permitted in the URL{_URL_FORM}")


def _service(path: str, service: Obj) -> Errors:
    for field in ("name", "namespace"):
        if not service.get(field):
            yield required(f"{path}.{field}")
    for message in names.port_number(service.get("port") or 0):
        yield invalid(f"{path}.port", service.get("port") or 0, f"port is not valid: {message}")
    where = service.get("path")
    if not where or where == "/":
        return
    if not where.startswith("/"):
        yield invalid(f"{path}.path", where, "must start with a '/'")
    segments = where[1:].removesuffix("/").split("/")
    for i, segment in enumerate(segments):
        if not segment:
            yield invalid(f"{path}.path", where, f"segment[{i}] may not be empty")
            continue
        for message in names.dns1123_subdomain(segment):
            yield invalid(f"{path}.path", where, f"segment[{i}]: {message}")


def _conditions(path: str, conditions: list[Obj]) -> Errors:
    seen: set[str] = set()
    for i, condition in enumerate(conditions):
        here, name = f"{path}[{i}]", condition.get("name") or ""
        if not (condition.get("expression") or "").strip():
            yield required(f"{here}.expression")
        if not name:
            yield required(f"{here}.name")
        else:
            yield from checked(f"{here}.name", name, names.qualified_name)
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)


def policy(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    failure = spec.get("failurePolicy")
    if failure is None:
        yield required("spec.failurePolicy")
    else:
        yield from choice("spec.failurePolicy", failure, ("Fail", "Ignore"))
    if (kind := spec.get("paramKind")) is not None:
        for field in ("apiVersion", "kind"):
            if not kind.get(field):
                yield required(f"spec.paramKind.{field}")
    constraints = spec.get("matchConstraints")
    if constraints is None:
        yield required("spec.matchConstraints")
    else:
        yield from _match_resources("spec.matchConstraints", constraints)
        if not constraints.get("resourceRules"):
            yield required("spec.matchConstraints.resourceRules")
    yield from _conditions("spec.matchConditions", spec.get("matchConditions") or [])
    yield from _variables(spec.get("variables") or [])
    yield from _verdicts(spec)


def _verdicts(spec: Obj) -> Errors:
    validations, audits = spec.get("validations") or [], spec.get("auditAnnotations") or []
    if not validations and not audits:
        words = "validations or auditAnnotations must contain at least one item"
        yield required("spec.validations", words)
        yield required("spec.auditAnnotations", words)
    for i, validation in enumerate(validations):
        if not (validation.get("expression") or "").strip():
            yield required(f"spec.validations[{i}].expression", "expression is not specified")
    for i, audit in enumerate(audits):
        if not audit.get("key"):
            yield required(f"spec.auditAnnotations[{i}].key", "key is not specified")
        if not (audit.get("valueExpression") or "").strip():
            yield required(f"spec.auditAnnotations[{i}].valueExpression", "valueExpression is not specified")


def _variables(variables: list[Obj]) -> Errors:
    for i, variable in enumerate(variables):
        path, name = f"spec.variables[{i}]", variable.get("name") or ""
        if not name:
            yield required(f"{path}.name", "name is not specified")
        elif names.c_identifier(name):
            yield invalid(f"{path}.name", name, "name is not a valid CEL identifier")
        if not (variable.get("expression") or "").strip():
            yield required(f"{path}.expression", "expression is not specified")


def _match_resources(path: str, match: Obj) -> Errors:
    for field in ("namespaceSelector", "objectSelector"):
        if match.get(field) is None:
            yield required(f"{path}.{field}")
        else:
            yield from label_selector(f"{path}.{field}", match[field])
    for field in ("resourceRules", "excludeResourceRules"):
        for i, rule in enumerate(match.get(field) or ()):
            yield from _rule(f"{path}.{field}[{i}]", rule)
            yield from _resource_names(f"{path}.{field}[{i}]", rule.get("resourceNames") or ())
    if (policy_ := match.get("matchPolicy")) is not None:
        yield from choice(f"{path}.matchPolicy", policy_, ("Equivalent", "Exact"))


def _resource_names(path: str, found: Iterable[Any]) -> Errors:
    seen: set[Any] = set()
    for i, name in enumerate(found):
        if name in seen:
            yield duplicate(f"{path}.resourceNames[{i}]", name)
        seen.add(name)


def policy_binding(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    name = spec.get("policyName") or ""
    if not name:
        yield required("spec.policyName")
    else:
        yield from checked("spec.policyName", name, names.dns1123_subdomain)
    if (ref := spec.get("paramRef")) is not None:
        yield from _param_ref("spec.paramRef", ref)
    if (match := spec.get("matchResources")) is not None:
        yield from _match_resources("spec.matchResources", match)
    if obj["kind"] != "ValidatingAdmissionPolicyBinding":
        return
    actions = spec.get("validationActions") or []
    if not actions:
        yield required("spec.validationActions", "at least one validation action is required")
    for i, action in enumerate(actions):
        if action not in _ACTIONS:
            yield not_supported(f"spec.validationActions[{i}]", action, _ACTIONS)
        if action in actions[:i]:
            yield duplicate(f"spec.validationActions[{i}]", action)
    if "Deny" in actions and "Warn" in actions:
        why = "repeating the same validation failure information in the API response and headers serves no purpose"
        yield invalid("spec.validationActions", actions, f"must not contain both Deny and Warn ({why})")


def _param_ref(path: str, ref: Obj) -> Errors:
    name, selector = ref.get("name"), ref.get("selector")
    yield from optional_name(f"{path}.name", name, names.path_segment)
    if name and selector is not None:
        words = "name and selector are mutually exclusive"
        yield invalid(f"{path}.name", name, words)
    if not name and selector is None:
        yield required(path, "one of name or selector must be specified")
    action = ref.get("parameterNotFoundAction")
    if action is None:
        yield required(f"{path}.parameterNotFoundAction")
    else:
        yield from choice(f"{path}.parameterNotFoundAction", action, ("Allow", "Deny"))
