"""`matchConditions`: expressions that must all hold before a webhook is asked, or a policy evaluated.

A condition that is false settles it, whatever fails beside it; only when none is false do failures count.

Source: k8s.io/apiserver, pkg/admission/plugin/webhook/matchconditions/matcher.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from havre.api.meta import Obj
from havre.control.apiserver.authz import Authorizer
from havre.lang.cel.admission import Condition, Evaluation, Inputs, compile_condition, failed
from havre.lang.cel.authorizer import Answer, Ask, Question
from havre.lang.cel.expression import CelError, OutOfBudget
from havre.machinery.admission import (
    AUTHENTICATED,
    SERVICE_ACCOUNT_PREFIX,
    SERVICE_ACCOUNTS,
    AdmissionRequest,
    Attributes,
    User,
)

Compiled = Condition | str
"""A condition, or why it does not compile."""


class ConditionsFailed(ValueError):
    """No condition was false, and some could not be evaluated."""


class MatchConditions:
    """The conditions of webhooks: `MatchConditions(authorizer)` is what `Webhooks` wants as `conditions`."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    def __call__(self, request: Obj, conditions: list[Obj]) -> bool:
        """`request`: of an AdmissionReview. Raises ConditionsFailed."""
        values = {
            "object": request.get("object"),
            "oldObject": request.get("oldObject"),
            "request": {key: value for key, value in request.items() if key not in _NOT_IN_REQUEST},
        }
        ask = asker(self._authorizer, _user(request["userInfo"]))
        evaluation = Evaluation(Inputs(values, _resource(request)), ask)
        return hold(evaluation, [compiled(condition["expression"]) for condition in conditions])


_NOT_IN_REQUEST = frozenset({"uid", "object", "oldObject"})


def compiled(text: str) -> Compiled:
    try:
        return compile_condition(text)
    except CelError as e:
        return f"compilation error: {e}"


def hold(evaluation: Evaluation, conditions: Iterable[Compiled]) -> bool:
    """Do all hold? Raises ConditionsFailed."""
    failures: list[str] = []
    for condition in conditions:
        if isinstance(condition, str):
            failures.append(condition)
            continue
        try:
            if evaluation.evaluate(condition) is False:
                return False
        except OutOfBudget as e:
            raise ConditionsFailed(str(e)) from e
        except CelError as e:
            failures.append(failed(condition, e))
    if failures:
        raise ConditionsFailed(_together(failures))
    return True


def _together(failures: Sequence[str]) -> str:
    once = list(dict.fromkeys(failures))
    return once[0] if len(once) == 1 else f"[{', '.join(once)}]"


def asker(authorizer: Authorizer, user: User) -> Ask:
    """Answers the questions of expressions about this user, or about a service account."""

    def ask(question: Question) -> Answer:
        who = _service_account(question.account) if question.account else user
        asked = Attributes(
            who,
            question.verb,
            question.group,
            "" if question.path else "*",
            question.resource,
            question.subresource,
            question.namespace,
            question.name,
            question.path,
        )
        decision = authorizer.authorize(asked)
        return Answer(decision.allowed, decision.reason)

    return ask


def _service_account(account: str) -> User:
    namespace, _, name = account.partition("/")
    groups = (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}", AUTHENTICATED)
    return User(f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}", groups)


def _user(info: Obj) -> User:
    extra = {key: tuple(values) for key, values in (info.get("extra") or {}).items()}
    return User(info.get("username", ""), tuple(info.get("groups") or ()), info.get("uid", ""), extra)


def _resource(request: Obj) -> Question:
    asked = request.get("requestResource") or request["resource"]
    return Question(
        group=asked["group"],
        resource=asked["resource"],
        subresource=request.get("requestSubResource", ""),
        namespace=request.get("namespace", ""),
        name=request.get("name", ""),
    )


def resource_of(req: AdmissionRequest) -> Question:
    """`authorizer.requestResource`."""
    a = req.attributes
    return Question(group=a.group, resource=a.resource, subresource=a.subresource, namespace=a.namespace, name=a.name)
