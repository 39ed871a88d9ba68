"""Who may do what: RBAC over the cached roles and bindings, with a memory of decisions.

`control_plane` feeds `upsert` and `remove` from the events of the watch cache. Bindings are indexed by subject, so a
question looks only at what is bound to this user or one of its groups. Decisions are remembered without the name of the
object (a rule with resourceNames adds a small table of names), so that reading ten thousand pods is one entry; any
change of an RBAC object forgets them all.

Order of the authorizers, as upstream's `Node,RBAC`: members of system:masters may do anything; a node's agent has the
rules a kubelet needs; everyone else has what is bound.

Simpler than upstream: the node authorizer is a list of rules, not the graph node → pod → secret. A node may read any
Secret and ConfigMap whose name it knows (upstream: only those of its own pods), and cannot list them. What nodes
may *write* is held to their own objects by the NodeRestriction admission.

Source: k8s.io/kubernetes plugin/pkg/auth/authorizer/{rbac,node}, pkg/registry/rbac/validation/rule.go,
k8s.io/apiserver pkg/endpoints/handlers/responsewriters/errors.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from havre.api.errors import Forbidden, NotFound
from havre.api.meta import Obj, name_of, namespace_of
from havre.control.apiserver import rbac
from havre.control.apiserver.rbac import Rule
from havre.machinery.admission import SERVICE_ACCOUNT_PREFIX, Attributes, User

MEMORY = 65_536  # decisions kept before all are forgotten; about 300 bytes each, so 20 MB at most

MAX_ATOMS = 50_000  # of a role that its author may hold only in part: 10 µs each; ClusterRole admin has 1,500

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # an error must not look like a web page
_FULL_AUTHORITY: tuple[Obj, ...] = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)

Subject = tuple[str, str]  # ("User" | "Group", name); a service account is the User it logs in as
RoleKey = tuple[str, str, str]  # (kind, namespace, name)


@dataclass(frozen=True, slots=True)
class Decision:
    """`allowed`, and why; the reason of a refusal is empty unless a role was missing."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The decision for any object, and those for objects that a rule names."""

    default: Decision
    by_name: Mapping[str, Decision]


@dataclass(frozen=True, slots=True)
class _Role:
    raw: tuple[Obj, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class _Grant:
    """One binding seen from one of its subjects."""

    role: RoleKey
    reason: str
    order: tuple[str, int]  # bindings by name, then subjects as listed


@dataclass(slots=True)
class _Missing:
    """Roles that a binding names and that do not exist."""

    texts: list[str] = field(default_factory=list)

    def add(self, key: RoleKey) -> None:
        text = f'{key[0].lower()}.{rbac.GROUP} "{key[2]}" not found'
        if text not in self.texts:
            self.texts.append(text)

    def __str__(self) -> str:
        return self.texts[0] if len(self.texts) == 1 else f"[{', '.join(self.texts)}]"


_ALLOWED = Decision(True)
_DENIED = Decision(False)
_BUT_NOT_ALL: Mapping[str, Decision] = {"": _DENIED}  # an agent knows the names from its pods; a thief would list
_READ_BY_NAME = frozenset({"secrets", "configmaps"})
_NO_NAMES: Mapping[str, Decision] = {}


class Authorizer:
    """Answers `authorize`; `node_rules` are the rules of every node's agent (`bootstrap.node_rules()`)."""

    def __init__(self, node_rules: Iterable[Obj] = ()) -> None:
        raw = tuple(node_rules)
        self._node = _Role(raw, rbac.compile_rules(raw))
        self._roles: dict[RoleKey, _Role] = {}
        self._grants: dict[str, dict[Subject, dict[str, _Grant]]] = {}  # namespace → subject → binding → grant
        self._subjects: dict[tuple[str, str], frozenset[Subject]] = {}  # (namespace, binding) → its subjects
        self._verdicts: dict[tuple[str | tuple[str, ...], ...], _Verdict] = {}

    # the cache speaks

    def upsert(self, obj: Obj) -> None:
        """A Role, ClusterRole, RoleBinding or ClusterRoleBinding appeared or changed."""
        self._verdicts.clear()
        if obj["kind"] in ("Role", "ClusterRole"):
            rules = tuple(obj.get("rules") or ())
            self._roles[obj["kind"], namespace_of(obj), name_of(obj)] = _Role(rules, rbac.compile_rules(rules))
            return
        self._unbind(obj)
        self._bind(obj)

    def remove(self, obj: Obj) -> None:
        self._verdicts.clear()
        if obj["kind"] in ("Role", "ClusterRole"):
            self._roles.pop((obj["kind"], namespace_of(obj), name_of(obj)), None)
        else:
            self._unbind(obj)

    def _bind(self, binding: Obj) -> None:
        namespace, name, ref = namespace_of(binding), name_of(binding), binding["roleRef"]
        role = (ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"])
        by_subject = self._grants.setdefault(namespace, {})
        found: set[Subject] = set()
        for index, subject in enumerate(binding.get("subjects") or ()):
            who = _subject(subject, namespace)
            if who is not None and who not in found:
                found.add(who)
                grant = _Grant(role, _because(binding, subject), (name, index))
                by_subject.setdefault(who, {})[name] = grant
        self._subjects[namespace, name] = frozenset(found)

    def _unbind(self, binding: Obj) -> None:
        namespace, name = namespace_of(binding), name_of(binding)
        by_subject = self._grants.get(namespace, {})
        for who in self._subjects.pop((namespace, name), ()):
            del by_subject[who][name]
            if not by_subject[who]:
                del by_subject[who]

    # a request asks

    def authorize(self, request: Attributes) -> Decision:
        user = request.user
        key = (
            user.name,
            user.groups,
            request.verb,
            request.group,
            request.resource,
            request.subresource,
            request.namespace,
            request.path,
        )
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._judge(request)
            if len(self._verdicts) >= MEMORY:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict.by_name.get(request.name, verdict.default) if verdict.by_name else verdict.default

    def require(self, request: Attributes) -> None:
        """Raise Forbidden unless allowed."""
        decision = self.authorize(request)
        if not decision.allowed:
            raise forbidden(request, decision.reason)

    def _judge(self, request: Attributes) -> _Verdict:
        user = request.user
        if user.is_superuser:
            return _Verdict(_ALLOWED, _NO_NAMES)
        if user.node and _first(self._node.rules, request) is None:
            if request.group or request.resource not in _READ_BY_NAME:
                return _Verdict(_ALLOWED, _NO_NAMES)
            if request.namespace:
                return _Verdict(_ALLOWED, _BUT_NOT_ALL)
        missing = _Missing()
        by_name: dict[str, Decision] = {}
        for grant, role in self._granted(user, request.namespace, missing):
            names = _first(role.rules, request)
            if names is None:
                return _Verdict(Decision(True, grant.reason), by_name)
            for name in names:
                by_name.setdefault(name, Decision(True, grant.reason))
        default = Decision(False, f"RBAC: {missing}") if missing.texts else _DENIED
        return _Verdict(default, by_name)

    def _granted(self, user: User, namespace: str, missing: _Missing) -> Iterator[tuple[_Grant, _Role]]:
        """What is bound to this user in the cluster, then in the namespace; each binding once."""
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        for scope in ("", namespace) if namespace else ("",):
            by_subject = self._grants.get(scope, {})
            bound: dict[str, _Grant] = {}
            for who in subjects:
                for name, grant in by_subject.get(who, {}).items():
                    if name not in bound or grant.order < bound[name].order:
                        bound[name] = grant
            for _, grant in sorted(bound.items()):
                role = self._roles.get(grant.role)
                if role is None:
                    missing.add(grant.role)
                else:
                    yield grant, role

    def rules_for(self, user: User, namespace: str) -> tuple[list[Obj], str]:
        """Every rule that applies to a user in a namespace, and the text of what could not be found."""
        missing = _Missing()
        rules = [rule for _, role in self._granted(user, namespace, missing) for rule in role.raw]
        return rules, str(missing) if missing.texts else ""

    # writes of roles and bindings

    def check_role(self, request: Attributes, role: Obj, old: Obj | None = None) -> None:
        """Nobody hands out what they do not hold: raise Forbidden for a role that grants more than its author has."""
        if request.user.is_superuser or _only_bookkeeping(role, old):
            return
        escalate = Attributes(
            request.user, "escalate", request.group, "*", request.resource, "", request.namespace, request.name
        )
        if self.authorize(escalate).allowed:
            return
        self._confirm(request, role, role.get("rules") or ())
        if (_aggregates(role) or _aggregates(old)) and self._lacks(request.user, "", _FULL_AUTHORITY):
            raise Forbidden.of(
                "clusterroles",
                rbac.GROUP,
                name_of(role),
                "must have cluster-admin privileges to use the aggregationRule",
            )

    def check_binding(self, request: Attributes, binding: Obj, old: Obj | None = None) -> None:
        """As `check_role`, for what a binding would grant; the verb `bind` on the role is enough."""
        if request.user.is_superuser or _only_bookkeeping(binding, old):
            return
        ref = binding["roleRef"]
        resource = "clusterroles" if ref["kind"] == "ClusterRole" else "roles"
        bind = Attributes(request.user, "bind", rbac.GROUP, "*", resource, "", request.namespace, ref["name"])
        if self.authorize(bind).allowed:
            return
        key = (ref["kind"], request.namespace if ref["kind"] == "Role" else "", ref["name"])
        role = self._roles.get(key)
        if role is None:
            raise NotFound.of(request.resource, rbac.GROUP, ref["name"])  # upstream names the binding here too
        self._confirm(request, binding, role.raw)

    def _confirm(self, request: Attributes, obj: Obj, rules: Sequence[Obj]) -> None:
        if (many := rbac.combinations(rules)) > MAX_ATOMS:
            why = f"it has {many} combinations of verb, group, resource and name, at most {MAX_ATOMS} can be compared"
            raise Forbidden.of(request.resource, request.group, name_of(obj), f"{why}; split it")
        lacking = self._lacks(request.user, request.namespace, rules)
        if not lacking:
            return
        groups = " ".join(map(rbac.quoted, request.user.groups))
        who = f"user {rbac.quoted(request.user.name)} (groups=[{groups}])"
        why = f"{who} is attempting to grant RBAC permissions not currently held:\n" + "\n".join(lacking)
        _, unresolved = self.rules_for(request.user, request.namespace)
        if unresolved:
            why += f"; resolution errors: [{unresolved}]"
        raise Forbidden.of(request.resource, request.group, name_of(obj), why)

    def _lacks(self, user: User, namespace: str, rules: Sequence[Obj]) -> list[str]:
        owned, _ = self.rules_for(user, namespace)
        return rbac.describe_missing(rbac.missing(owned, rules))


def _first(rules: Iterable[Rule], request: Attributes) -> set[str] | None:
    """None when a rule allows the request for every name, else the names that rules allow."""
    names: set[str] = set()
    for rule in rules:
        if request.path:
            if rule.allows_path(request.verb, request.path):
                return None
        elif rule.allows_resource(request.verb, request.group, request.resource, request.subresource):
            if not rule.names:
                return None
            names |= rule.names
    return names


def _subject(subject: Obj, namespace: str) -> Subject | None:
    match subject["kind"]:
        case "User" | "Group":
            return subject["kind"], subject["name"]
        case "ServiceAccount":
            home = subject.get("namespace") or namespace
            return ("User", f"{SERVICE_ACCOUNT_PREFIX}{home}:{subject['name']}") if home else None
        case _:
            return None


def _because(binding: Obj, subject: Obj) -> str:
    namespace, ref = namespace_of(binding), binding["roleRef"]
    kind, name = "ClusterRoleBinding", name_of(binding)
    if namespace:
        kind, name = "RoleBinding", f"{name}/{namespace}"
    who = subject["name"]
    if subject["kind"] == "ServiceAccount":
        who = f"{who}/{subject.get('namespace') or namespace}"
    return f'RBAC: allowed by {kind} "{name}" of {ref["kind"]} "{ref["name"]}" to {subject["kind"]} "{who}"'


def _aggregates(role: Obj | None) -> bool:
    return bool(role and (role.get("aggregationRule") or {}).get("clusterRoleSelectors"))


def _only_bookkeeping(obj: Obj, old: Obj | None) -> bool:
    """An update that touches nothing but what garbage collection needs grants nothing new."""
    return old is not None and _granting(obj) == _granting(old)


def _granting(obj: Obj) -> Obj:
    ignored = ("ownerReferences", "finalizers", "managedFields")
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in ignored}}


def forbidden(request: Attributes, reason: str = "") -> Forbidden:
    """`pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default"`."""
    user = rbac.quoted(request.user.name)
    if request.path:
        text = f"User {user} cannot {request.verb} path {rbac.quoted(request.path)}"
        return Forbidden(f"forbidden: {_why(text, reason)}", details={})
    resource = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
    where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    text = f'User {user} cannot {request.verb} resource "{resource}" in API group "{request.group}" {where}'
    return Forbidden.of(request.resource, request.group, request.name, _why(text, reason))


def _why(text: str, reason: str) -> str:
    text = text.translate(_HTML)
    return f"{text}: {reason}" if reason else text
