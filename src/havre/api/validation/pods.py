"""Pods, pod templates, and what may change of a pod that exists.

Source: k8s.io/kubernetes, pkg/apis/core/validation/validation.go (ValidatePodSpec, ValidatePodUpdate).
"""

from __future__ import annotations

import re
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal
from havre.api.strategy.pods import qos_class
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    label_selector,
    labels,
    optional_name,
    required_choice,
    resource_name,
)
from havre.api.validation.containers import (
    containers,
    ephemeral_containers,
    image_of_pod,
    init_containers,
    seccomp,
)
from havre.api.validation.volumes import volumes
from havre.kit import names
from havre.kit.field import FieldError, Problem, duplicate, forbidden, invalid, required

MAX_INT32: Final = 2**31 - 1
RESTART_POLICIES: Final = ("Always", "OnFailure", "Never")
_DNS_POLICIES: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
NAMESERVERS_MAX, SEARCHES_MAX = 3, 32
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UPDATABLE: Final = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_SYSCTL: Final = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"

_is_sysctl = re.compile(_SYSCTL).match


def create(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from pod(obj)
    if spec.get("ephemeralContainers"):
        yield forbidden("spec.ephemeralContainers", "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        yield forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")


def pod(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from pod_spec("spec", spec)
    yield from image_of_pod("spec.containers", spec.get("containers"))
    yield from image_of_pod("spec.initContainers", spec.get("initContainers"))


def template(path: str, value: Obj | None) -> Errors:
    """A pod template of a workload."""
    value = value or {}
    metadata = value.get("metadata") or {}
    # upstream reports both at the template, not at its metadata
    yield from labels(f"{path}.labels", metadata.get("labels"))
    for key in metadata.get("annotations") or ():
        for message in names.qualified_name(key.lower()):
            yield invalid(f"{path}.annotations", key, message)
    spec = value.get("spec") or {}
    yield from pod_spec(f"{path}.spec", spec)
    if spec.get("ephemeralContainers"):
        yield forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def pod_spec(path: str, spec: Obj) -> Errors:
    """Problems of a pod's specification, in the order in which upstream finds them."""
    grace = spec.get("terminationGracePeriodSeconds")
    items = spec.get("volumes") or []
    known = {volume.get("name") or "": volume for volume in items}
    main, inits = spec.get("containers") or [], spec.get("initContainers") or []
    yield from volumes(f"{path}.volumes", items)
    yield from containers(f"{path}.containers", main, known, grace)
    taken = [item.get("name") or "" for item in main]
    if inits:
        yield from init_containers(f"{path}.initContainers", inits, known, taken, grace)
    if extra := spec.get("ephemeralContainers"):
        taken += [item.get("name") or "" for item in inits]
        yield from ephemeral_containers(f"{path}.ephemeralContainers", extra, known, taken)
    if spec.get("hostNetwork"):
        yield from _host_network(path, main, "containers")
        yield from _host_network(path, inits, "initContainers")
    yield from required_choice(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    yield from required_choice(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES)
    if spec.get("nodeSelector"):
        yield from labels(f"{path}.nodeSelector", spec["nodeSelector"])
    yield from _security(path, spec)
    if spec.get("affinity"):
        yield from _affinity(f"{path}.affinity", spec["affinity"])
    yield from _dns_config(f"{path}.dnsConfig", spec)
    yield from _gates_and_spread(path, spec)
    yield from _names_and_numbers(path, spec)


def _host_network(path: str, items: list[Obj], field: str) -> Errors:
    for i, item in enumerate(items):
        for j, port in enumerate(item.get("ports") or ()):
            if port.get("hostPort") != port.get("containerPort"):
                words = "must match `containerPort` when `hostNetwork` is true"
                yield invalid(f"{path}.{field}[{i}].ports[{j}].hostPort", port.get("hostPort") or 0, words)


def _security(path: str, spec: Obj) -> Errors:
    context = spec.get("securityContext") or {}
    here = f"{path}.securityContext"
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        if (value := context.get(field)) is not None:
            yield from checked(f"{here}.{field}", value, names.user_id)
    for i, group in enumerate(context.get("supplementalGroups") or ()):
        yield from checked(f"{here}.supplementalGroups[{i}]", group, names.group_id)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        words = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield invalid(f"{here}.shareProcessNamespace", True, words)
    for i, sysctl in enumerate(context.get("sysctls") or ()):
        yield from _sysctl(f"{here}.sysctls[{i}]", sysctl.get("name") or "")
    if (policy := context.get("fsGroupChangePolicy")) is not None:
        yield from choice(f"{here}.fsGroupChangePolicy", policy, ("Always", "OnRootMismatch"))
    if (profile := context.get("seccompProfile")) is not None:
        yield from seccomp(f"{here}.seccompProfile", profile)


def _sysctl(path: str, name: str) -> Errors:
    if not name:
        yield required(f"{path}.name")
    elif len(name) > 253 or not _is_sysctl(name):
        yield invalid(f"{path}.name", name, f"must have at most 253 characters and match regex {_SYSCTL}")


def _affinity(path: str, affinity: Obj) -> Errors:
    if (node := affinity.get("nodeAffinity")) is not None:
        yield from _node_affinity(f"{path}.nodeAffinity", node)
    for side in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(side) or {}
        field = "requiredDuringSchedulingIgnoredDuringExecution"
        for i, term in enumerate(rules.get(field) or ()):
            yield from _pod_term(f"{path}.{side}.{field}[{i}]", term)
        field = "preferredDuringSchedulingIgnoredDuringExecution"
        for i, weighted in enumerate(rules.get(field) or ()):
            here = f"{path}.{side}.{field}[{i}]"
            yield from _weight(here, weighted)
            yield from _pod_term(f"{here}.podAffinityTerm", weighted.get("podAffinityTerm") or {})


def _weight(path: str, weighted: Obj) -> Errors:
    weight = weighted.get("weight") or 0
    if not 1 <= weight <= 100:
        yield invalid(f"{path}.weight", weight, "must be in the range 1-100")


def _node_affinity(path: str, node: Obj) -> Errors:
    field = "requiredDuringSchedulingIgnoredDuringExecution"
    if (selector := node.get(field)) is not None:
        yield from node_selector(f"{path}.{field}", selector)
    field = "preferredDuringSchedulingIgnoredDuringExecution"
    for i, weighted in enumerate(node.get(field) or ()):
        yield from _weight(f"{path}.{field}[{i}]", weighted)
        yield from _node_term(f"{path}.{field}[{i}].preference", weighted.get("preference") or {})


def node_selector(path: str, selector: Obj) -> Errors:
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        yield required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for i, term in enumerate(terms or ()):
        yield from _node_term(f"{path}.nodeSelectorTerms[{i}]", term)


def _node_term(path: str, term: Obj) -> Errors:
    for i, expression in enumerate(term.get("matchExpressions") or ()):
        here, operator = f"{path}.matchExpressions[{i}]", expression.get("operator")
        values = expression.get("values") or ()
        if operator in ("In", "NotIn"):
            if not values:
                yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        elif operator in ("Gt", "Lt"):
            if len(values) != 1:
                yield required(f"{here}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        else:
            yield invalid(f"{here}.operator", operator or "", "not a valid selector operator")
        yield from checked(f"{here}.key", expression.get("key") or "", names.qualified_name)


def _pod_term(path: str, term: Obj) -> Errors:
    yield from label_selector(f"{path}.labelSelector", term.get("labelSelector"))
    yield from label_selector(f"{path}.namespaceSelector", term.get("namespaceSelector"))
    for namespace in term.get("namespaces") or ():
        yield from checked(f"{path}.namespace", namespace, names.dns1123_label)
    key = term.get("topologyKey") or ""
    if not key:
        yield required(f"{path}.topologyKey", "can not be empty")
    yield from checked(f"{path}.topologyKey", key, names.qualified_name)


def _dns_config(path: str, spec: Obj) -> Errors:
    config = spec.get("dnsConfig")
    servers = (config or {}).get("nameservers") or []
    if spec.get("dnsPolicy") == "None":
        if config is None:
            yield required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not servers:
            yield required(f"{path}.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
            return
    if config is None:
        return
    if len(servers) > NAMESERVERS_MAX:
        yield invalid(f"{path}.nameservers", servers, f"must not have more than {NAMESERVERS_MAX} nameservers")
    for i, server in enumerate(servers):
        yield from checked(f"{path}.nameservers[{i}]", server, names.ip)
    searches = config.get("searches") or []
    if len(searches) > SEARCHES_MAX:
        yield invalid(f"{path}.searches", searches, f"must not have more than {SEARCHES_MAX} search paths")
    for i, search in enumerate(searches):
        if search != ".":
            trimmed = search.removesuffix(".")
            yield from checked(f"{path}.searches[{i}]", trimmed, names.dns1123_subdomain_with_underscore)
    for i, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            yield required(f"{path}.options[{i}]", "must not be empty")


def _gates_and_spread(path: str, spec: Obj) -> Errors:
    for i, gate in enumerate(spec.get("readinessGates") or ()):
        here = f"{path}.readinessGates[{i}].conditionType"
        yield from checked(here, gate.get("conditionType") or "", names.qualified_name)
    seen: set[str] = set()
    for i, gate in enumerate(spec.get("schedulingGates") or ()):
        name = gate.get("name") or ""
        yield from checked(f"{path}.schedulingGates[{i}]", name, names.qualified_name)
        if name in seen:
            yield duplicate(f"{path}.schedulingGates[{i}]", name)
        seen.add(name)
    constraints = spec.get("topologySpreadConstraints") or []
    for i, constraint in enumerate(constraints):
        yield from _spread(f"{path}.topologySpreadConstraints[{i}]", constraint, constraints[i + 1 :])


def _spread(path: str, constraint: Obj, later: list[Obj]) -> Errors:
    skew, key = constraint.get("maxSkew") or 0, constraint.get("topologyKey") or ""
    policy = constraint.get("whenUnsatisfiable") or ""
    if skew <= 0:
        yield invalid(f"{path}.maxSkew", skew, "must be greater than zero")
    if not key:
        yield required(f"{path}.topologyKey", "can not be empty")
    else:
        yield from checked(f"{path}.topologyKey", key, names.qualified_name)
    yield from choice(f"{path}.whenUnsatisfiable", policy, ("DoNotSchedule", "ScheduleAnyway"))
    if any((other.get("topologyKey"), other.get("whenUnsatisfiable")) == (key, policy) for other in later):
        both = f"{path}.{{topologyKey, whenUnsatisfiable}}"
        yield FieldError(Problem.DUPLICATE, both, f"{{{key}, {policy}}}")
    domains = constraint.get("minDomains")
    if domains is not None:
        if domains <= 0:
            yield invalid(f"{path}.minDomains", domains, "must be greater than zero")
        if policy != "DoNotSchedule":
            words = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {policy}"
            yield invalid(f"{path}.minDomains", domains, words)
    for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if (value := constraint.get(field)) is not None:
            yield from choice(f"{path}.{field}", value, ("Honor", "Ignore"))
    yield from label_selector(f"{path}.labelSelector", constraint.get("labelSelector"))


def _names_and_numbers(path: str, spec: Obj) -> Errors:
    yield from optional_name(f"{path}.serviceAccountName", spec.get("serviceAccountName"), names.dns1123_subdomain)
    yield from optional_name(f"{path}.nodeName", spec.get("nodeName"), names.dns1123_subdomain)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        yield invalid(f"{path}.activeDeadlineSeconds", deadline, names.range_error(1, MAX_INT32))
    for field in ("hostname", "subdomain"):
        yield from optional_name(f"{path}.{field}", spec.get(field), names.dns1123_label)
    yield from tolerations(f"{path}.tolerations", spec.get("tolerations") or [])
    for i, alias in enumerate(spec.get("hostAliases") or ()):
        here = f"{path}.hostAliases[{i}]"
        yield from checked(f"{here}.ip", alias.get("ip") or "", names.ip)
        for j, host in enumerate(alias.get("hostnames") or ()):
            yield from checked(f"{here}.hostnames[{j}]", host, names.dns1123_subdomain)
    for field in ("priorityClassName", "runtimeClassName"):
        yield from optional_name(f"{path}.{field}", spec.get(field), names.dns1123_subdomain)
    if (policy := spec.get("preemptionPolicy")) is not None:
        yield from required_choice(f"{path}.preemptionPolicy", policy, ("PreemptLowerPriority", "Never"))
    for name in spec.get("overhead") or ():
        yield from resource_name(f"{path}.overhead", name)
    if (os := spec.get("os")) is not None:
        yield from required_choice(f"{path}.os", os.get("name"), ("linux", "windows"))


def tolerations(path: str, items: list[Obj]) -> Errors:
    for i, item in enumerate(items):
        yield from _toleration(f"{path}[{i}]", item)


def _toleration(path: str, item: Obj) -> Errors:
    key, operator, effect = item.get("key"), item.get("operator") or "", item.get("effect") or ""
    if key:
        yield from checked(f"{path}.key", key, names.qualified_name)
    elif operator != "Exists":
        words = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield invalid(f"{path}.operator", operator, words)
    if item.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator in ("Equal", ""):
        yield from checked(f"{path}.operator", item.get("value") or "", names.label_value)
    elif operator == "Exists":
        if item.get("value"):
            yield invalid(f"{path}.operator", item["value"], "value must be empty when `operator` is 'Exists'")
    else:
        yield from choice(f"{path}.operator", operator, ("Equal", "Exists"))
    if effect:
        yield from choice(f"{path}.effect", effect, _EFFECTS)


def update(new: Obj, old: Obj) -> Errors:
    """Only images, deadlines that shrink, more tolerations and fewer gates may change."""
    spec, before = new["spec"], old["spec"]
    yield from pod(new)
    for field in ("containers", "initContainers"):
        if len(spec.get(field) or ()) != len(before.get(field) or ()):
            yield forbidden(f"spec.{field}", "pod updates may not add or remove containers")
            return
    yield from _deadline(spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))
    yield from _only_added_tolerations(spec.get("tolerations") or [], before.get("tolerations") or [])
    yield from _only_removed_gates(spec.get("schedulingGates") or [], before.get("schedulingGates") or [])
    frozen = _with_old_mutables(spec, before)
    if not semantic_equal(frozen, before):
        yield forbidden("spec", f"pod updates may not change fields other than {_UPDATABLE}")


def _deadline(new: int | None, old: int | None) -> Errors:
    path = "spec.activeDeadlineSeconds"
    if new is None:
        if old is not None:
            yield invalid(path, None, "must not update from a positive integer to nil value")
    elif old is not None and old < new:
        yield invalid(path, new, "must be less than or equal to previous value")


def _only_added_tolerations(new: list[Obj], old: list[Obj]) -> Errors:
    def same(a: Obj, b: Obj) -> bool:
        return {**a, "tolerationSeconds": None} == {**b, "tolerationSeconds": None}

    for item in old:
        if not any(same(item, other) for other in new):
            yield forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
            return


def _only_removed_gates(new: list[Obj], old: list[Obj]) -> Errors:
    known = {gate.get("name") for gate in old}
    for i, gate in enumerate(new):
        if gate.get("name") not in known:
            words = f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'"
            yield forbidden(f"spec.schedulingGates[{i}].name", words)


def _with_old_mutables(spec: Obj, before: Obj) -> Obj:
    """The new specification with the fields that may change as they were."""
    frozen = dict(spec)
    for field in ("containers", "initContainers"):
        if spec.get(field):
            frozen[field] = [
                _with(item, "image", was.get("image")) for item, was in zip(spec[field], before[field], strict=True)
            ]
    fields = ["activeDeadlineSeconds", "tolerations", "schedulingGates"]
    if before.get("schedulingGates"):  # the scheduler has not looked at the pod yet
        fields.append("nodeSelector")
        affinity = dict(spec.get("affinity") or {})
        affinity = _with(affinity, "nodeAffinity", (before.get("affinity") or {}).get("nodeAffinity"))
        frozen = _with(frozen, "affinity", affinity or before.get("affinity"))
    if (before.get("terminationGracePeriodSeconds") or 0) < 0 and spec.get("terminationGracePeriodSeconds") == 1:
        fields.append("terminationGracePeriodSeconds")
    for field in fields:
        frozen = _with(frozen, field, before.get(field))
    return frozen


def _with(obj: Obj, field: str, value: Any) -> Obj:
    out = {key: item for key, item in obj.items() if key != field}
    if value is not None:
        out[field] = value
    return out


def update_ephemeral_containers(new: Obj, old: Obj) -> Errors:
    """Containers for debugging come and never go."""
    yield from pod(new)
    path = "spec.ephemeralContainers"
    wanted = {item.get("name"): item for item in new["spec"].get("ephemeralContainers") or ()}
    for item in old["spec"].get("ephemeralContainers") or ():
        name = item.get("name")
        if name not in wanted:
            yield forbidden(path, f'existing ephemeral containers "{name}" may not be removed\n')
        elif not semantic_equal(wanted[name], item):
            yield forbidden(path, f'existing ephemeral containers "{name}" may not be changed')


def resize(new: Obj, old: Obj) -> Errors:
    """Only cpu and memory of the same containers change, and the quality of service does not."""
    yield from pod(new)
    spec, before = new["spec"], old["spec"]
    if spec.get("resources") or before.get("resources"):
        yield forbidden("", "pods with pod-level resources cannot be resized")
        return
    quality = (old.get("status") or {}).get("qosClass") or qos_class(before)
    if quality != qos_class(spec):
        yield invalid("spec", quality, "Pod QOS Class may not change as a result of resizing")
    for field in ("containers", "initContainers"):
        ours, theirs = ([_unsized(item) for item in side.get(field) or ()] for side in (spec, before))
        if not semantic_equal(ours, theirs):
            yield forbidden("spec", "only cpu and memory resources are mutable")
            return


def _unsized(item: Obj) -> Obj:
    """A container without its cpu and memory, and without how it is resized."""
    needs = {
        side: {name: value for name, value in amounts.items() if name not in ("cpu", "memory")}
        for side, amounts in (item.get("resources") or {}).items()
        if isinstance(amounts, dict)
    }
    return {**{key: value for key, value in item.items() if key != "resizePolicy"}, "resources": needs}


def binding(obj: Obj) -> Errors:
    target = obj.get("target") or {}
    if (kind := target.get("kind")) and kind != "Node":
        yield from choice("target.kind", kind, ("Node", "<empty>"))
    if not target.get("name"):
        yield required("target.name")


def update_status(new: Obj, old: Obj) -> Errors:
    """A pod never comes back from being finished on a node; its node is named once."""
    before, status = old["spec"], new.get("status") or {}
    if before.get("nodeName") and new["spec"].get("nodeName") != before["nodeName"]:
        yield forbidden("spec.nodeName", "may not be changed directly")
    if node := status.get("nominatedNodeName"):
        yield from checked("status.nominatedNodeName", node, names.dns1123_subdomain)
    for i, condition in enumerate(status.get("conditions") or ()):
        yield from choice(f"status.conditions[{i}].status", condition.get("status") or "", ("True", "False", "Unknown"))
