"""Jobs, DaemonSets, Nodes, ServiceAccounts and definitions: steps of a write that only they take.

Source: k8s.io/kubernetes, pkg/registry/{batch/job,apps/daemonset,core/node,core/serviceaccount}/strategy.go;
apiextensions-apiserver, pkg/registry/customresourcedefinition/strategy.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal

TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"
_JOB_NAME_LABELS: Final = ("job-name", "batch.kubernetes.io/job-name")
_CONTROLLER_LABELS: Final = ("controller-uid", "batch.kubernetes.io/controller-uid")


def create_job(obj: Obj) -> None:
    """Unless the user manages the selector: pods are selected by the uid of the job, which no other job has."""
    spec, metadata = obj.setdefault("spec", {}), obj["metadata"]
    if spec.get("manualSelector"):
        return
    template = spec.setdefault("template", {}).setdefault("metadata", {})
    labels = template["labels"] = template.get("labels") or {}
    for names, value in ((_JOB_NAME_LABELS, metadata.get("name", "")), (_CONTROLLER_LABELS, metadata.get("uid", ""))):
        for name in names:
            labels.setdefault(name, value)
    selector = spec["selector"] = dict(spec.get("selector") or {})
    if not metadata.get("labels"):
        metadata["labels"] = dict(labels)
    selector["matchLabels"] = {_CONTROLLER_LABELS[1]: metadata.get("uid", ""), **(selector.get("matchLabels") or {})}


def create_daemon_set(obj: Obj) -> None:
    """The template generation of old kubelets lives on as an annotation."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    if _template_generation(annotations) < 1:
        metadata["annotations"] = {**annotations, TEMPLATE_GENERATION: "1"}


def update_daemon_set(new: Obj, old: Obj) -> None:
    metadata = new["metadata"]
    generation = _template_generation(old["metadata"].get("annotations") or {})
    if not semantic_equal(new["spec"].get("template"), old["spec"].get("template")):
        generation += 1
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_GENERATION: str(generation)}


def _template_generation(annotations: Obj) -> int:
    text = annotations.get(TEMPLATE_GENERATION, "")
    return int(text) if text.isdecimal() else 0


def create_node(obj: Obj) -> None:
    obj.setdefault("spec", {}).pop("configSource", None)
    (obj.get("status") or {}).pop("config", None)


def clean_secret_references(obj: Obj) -> None:
    """A reference to a mountable secret is its name and nothing else."""
    if secrets := obj.get("secrets"):
        obj["secrets"] = [{"name": ref["name"]} if ref.get("name") else {} for ref in secrets]


def clean_secret_references_on_update(new: Obj, old: Obj) -> None:
    clean_secret_references(new)


def create_definition(obj: Obj) -> None:
    """Objects of the storage version may exist from now on."""
    versions: list[dict[str, Any]] = (obj.get("spec") or {}).get("versions") or []
    stored = [version["name"] for version in versions if version.get("storage")]
    obj["status"] = {**obj["status"], "storedVersions": stored}
