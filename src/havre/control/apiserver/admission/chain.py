"""The chain: every write passes the mutators in upstream's order, then the validators; webhooks and quota come last.

A plug may say in `concerns` which (group, resource) pairs it looks at: a write of anything else does not touch it.

When a webhook changed the object, the mutators before it look once more, and so do the webhooks that asked for it
(reinvocationPolicy: IfNeeded).

Source: k8s.io/apiserver pkg/admission/{chain,reinvocation}.go; k8s.io/kubernetes pkg/kubeapiserver/options/plugins.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from havre.control.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from havre.control.apiserver.admission.limit_ranger import LimitRanger
from havre.control.apiserver.admission.namespaces import NamespaceLifecycle
from havre.control.apiserver.admission.nodes import NodeRestriction, TaintNodesByCondition
from havre.control.apiserver.admission.pod_security import PodSecurity
from havre.control.apiserver.admission.pods import DefaultTolerationSeconds, Priority, RuntimeClass
from havre.control.apiserver.admission.resource_quota import Charge, ResourceQuota
from havre.control.apiserver.admission.service_accounts import ServiceAccount
from havre.control.apiserver.admission.storage import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from havre.control.apiserver.admission.webhooks import Reinvocation, Webhooks
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import AdmissionRequest, Lister, Mutator, Validator

KINDS = 1024  # whose plugins are remembered: some hundred built-in places and the custom ones


class Chain:
    """`admit`, then `validate`, for every operation: some refusals of a DELETE are made by mutators too."""

    def __init__(
        self,
        mutators: Sequence[Mutator],
        validators: Sequence[Validator],
        webhooks: Webhooks | None = None,
        quota: ResourceQuota | None = None,
    ) -> None:
        self._mutators = tuple(mutators)
        self._validators = tuple(validators)
        self._chosen: dict[tuple[str, str], tuple[tuple[Mutator, ...], tuple[Validator, ...]]] = {}
        self._webhooks = webhooks
        self._quota = quota

    async def admit(self, req: AdmissionRequest) -> None:
        """Refusals and changes, in order. Raises ApiError."""
        mutators, _ = self._concerned(req)
        for mutator in mutators:
            await mutator.admit(req)
        if self._webhooks is None or not self._webhooks.mutate_any():
            return
        round_ = Reinvocation()
        await self._webhooks.mutate(req, round_)
        if round_.wanted:
            for mutator in mutators:
                await mutator.admit(req)
            round_.begin_second(req)
            await self._webhooks.mutate(req, round_)

    async def validate(self, req: AdmissionRequest) -> None:
        """Refusals of the final object; the quota is charged when nobody else refuses. Raises ApiError."""
        _, validators = self._concerned(req)
        for validator in validators:
            await validator.validate(req)
        if self._webhooks is not None:
            await self._webhooks.validate(req)
        if self._quota is not None:
            await self._quota.validate(req)

    def _concerned(self, req: AdmissionRequest) -> tuple[tuple[Mutator, ...], tuple[Validator, ...]]:
        """The plugs that look at this kind of object, chosen once."""
        key = req.attributes.group, req.attributes.resource
        chosen = self._chosen.get(key)
        if chosen is None:
            if len(self._chosen) >= KINDS:
                self._chosen.clear()
            mutators = tuple(plug for plug in self._mutators if _looks_at(plug, key))
            validators = tuple(plug for plug in self._validators if _looks_at(plug, key))
            chosen = self._chosen[key] = mutators, validators
        return chosen


def _looks_at(plug: Mutator | Validator, key: tuple[str, str]) -> bool:
    concerns = getattr(plug, "concerns", None)
    return concerns is None or key in concerns


def standard(
    lister: Lister,
    authorizer: Authorizer,
    charge: Charge,
    webhooks: Webhooks | None = None,
    *,
    mutators: Sequence[Mutator] = (),
    validators: Sequence[Validator] = (),
) -> Chain:
    """The plugs that kube-apiserver enables, and NodeRestriction; more of them go before the webhooks."""
    limits, accounts = LimitRanger(lister), ServiceAccount(lister)
    priority, runtime = Priority(lister), RuntimeClass(lister)
    return Chain(
        (
            NamespaceLifecycle(lister),
            limits,
            accounts,
            NodeRestriction(lister),
            TaintNodesByCondition(),
            priority,
            DefaultTolerationSeconds(),
            DefaultStorageClass(lister),
            StorageObjectInUseProtection(),
            runtime,
            DefaultIngressClass(lister),
            *mutators,
        ),
        (
            limits,
            accounts,
            PodSecurity(lister),
            priority,
            PersistentVolumeClaimResize(lister),
            runtime,
            CertificateApproval(authorizer),
            CertificateSigning(authorizer),
            CertificateSubjectRestriction(),
            *validators,
        ),
        webhooks,
        ResourceQuota(lister, charge),
    )
