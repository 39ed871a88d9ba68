"""What a HelmRelease needs before its release can be worked on: dependencies, the chart's artifact, values.

Each is read anew in every pass; what is missing is a NotReady with upstream's reason. The HelmChart of a release with
`spec.chart` is made here.

Source: fluxcd/helm-controller v1.6, internal/controller/helmrelease_controller.go, internal/chartutil.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from havre.api.meta import GVK, Obj
from havre.machinery import conditions as cond
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import READY
from havre.platform.gitops.helm import values
from havre.platform.gitops.helm.values import ValuesError

HELM_RELEASE: Final = GVK("helm.toolkit.fluxcd.io", "v2", "HelmRelease")
HELM_CHART: Final = GVK("source.toolkit.fluxcd.io", "v1", "HelmChart")
OCI_REPOSITORY: Final = GVK("source.toolkit.fluxcd.io", "v1", "OCIRepository")
EXTERNAL_ARTIFACT: Final = GVK("source.toolkit.fluxcd.io", "v1", "ExternalArtifact")
_SOURCES: Final = {gvk.kind: gvk for gvk in (HELM_CHART, OCI_REPOSITORY, EXTERNAL_ARTIFACT)}
_HELD: Final = {"ConfigMap": GVK("", "v1", "ConfigMap"), "Secret": GVK("", "v1", "Secret")}
LABEL: Final = "helm.toolkit.fluxcd.io"
MANAGER: Final = "helm-controller"
DEPENDENCY_SECONDS = 5.0  # between looks at a dependency in another namespace
SOURCE_SECONDS = 30.0  # between looks at a source whose change would wake us anyway


class NotReady(Exception):
    """Something that the release needs is missing; says the reason of the condition."""

    def __init__(self, reason: str, message: str, again: float = SOURCE_SECONDS) -> None:
        super().__init__(message)
        self.reason = reason
        self.again = again


async def dependencies(obj: Obj, api: Api) -> None:
    for wanted in obj["spec"].get("dependsOn") or ():
        ref = Ref(HELM_RELEASE, wanted.get("namespace") or obj["metadata"]["namespace"], wanted["name"])
        found = await api.get(ref)
        if found is None:
            words = f"dependency '{ref.namespace}/{ref.name}' not found"
            raise NotReady("DependencyNotReady", words, DEPENDENCY_SECONDS)
        current = (found.get("status") or {}).get("observedGeneration") == found["metadata"].get("generation")
        if not current or status_of(found, READY) != "True":
            words = f"dependency '{ref.namespace}/{ref.name}' is not ready"
            raise NotReady("DependencyNotReady", words, DEPENDENCY_SECONDS)


def chart_ref(obj: Obj) -> Ref | None:
    """The HelmChart that is made for the release."""
    template = obj["spec"].get("chart")
    if not template:
        return None
    meta = obj["metadata"]
    where = template["spec"]["sourceRef"].get("namespace") or meta["namespace"]
    return Ref(HELM_CHART, where, f"{meta['namespace']}-{meta['name']}")


def helm_chart_of(obj: Obj) -> str | None:
    ref = chart_ref(obj)
    return f"{ref.namespace}/{ref.name}" if ref is not None else None


async def source_of(obj: Obj, api: Api) -> Mapping[str, Any]:
    """The artifact of the chart. Raises NotReady."""
    ref = chart_ref(obj)
    if ref is not None:
        source = await _made(obj, ref, api)
    else:
        said = obj["spec"].get("chartRef") or {}
        gvk = _SOURCES.get(said.get("kind", ""))
        if gvk is None:
            raise NotReady("SourceNotReady", f"chartRef: no kind {said.get('kind')!r}")
        ref = Ref(gvk, said.get("namespace") or obj["metadata"]["namespace"], said["name"])
        found = await api.get(ref)
        if found is None:
            raise NotReady("SourceNotReady", f"Source artifact not found: {ref.gvk.kind} '{ref.namespace}/{ref.name}'")
        source = found
    named = f"{ref.gvk.kind} '{ref.namespace}/{ref.name}'"
    status = source.get("status") or {}
    if ref.gvk != EXTERNAL_ARTIFACT and status.get("observedGeneration") != source["metadata"].get("generation"):
        words = "latest generation of object has not been reconciled"
        raise NotReady("SourceNotReady", f"{named} is not ready: {words}")
    artifact = status.get("artifact")
    ready = said_of(source, READY) or {}
    if not artifact or ready.get("status") == "False":
        raise NotReady("SourceNotReady", f"{named} is not ready: {ready.get('message') or 'does not have an artifact'}")
    return dict(artifact)


async def _made(obj: Obj, ref: Ref, api: Api) -> Obj:
    """The HelmChart as it should be; applied when it is not."""
    template, meta = obj["spec"]["chart"], obj["metadata"]
    said = {key: value for key, value in template["spec"].items() if key not in ("sourceRef", "interval")}
    source = template["spec"]["sourceRef"]
    spec = {
        **said,
        "interval": template["spec"].get("interval") or obj["spec"]["interval"],
        "sourceRef": {"kind": source["kind"], "name": source["name"]},
    }
    extra = template.get("metadata") or {}
    origin = {f"{LABEL}/name": meta["name"], f"{LABEL}/namespace": meta["namespace"]}
    labels = {**(extra.get("labels") or {}), **origin}
    live = await api.get(ref)
    if live is not None and _within(spec, live["spec"]) and _within(labels, live["metadata"].get("labels") or {}):
        return live
    metadata: Obj = {**_named(ref), "labels": labels}
    if extra.get("annotations"):
        metadata["annotations"] = extra["annotations"]
    made = {"apiVersion": HELM_CHART.api_version, "kind": HELM_CHART.kind, "metadata": metadata, "spec": spec}
    return await api.apply(made, manager=MANAGER)


def _within(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    return all(live.get(key) == value for key, value in wanted.items())


def _named(ref: Ref) -> Obj:
    return {"name": ref.name, "namespace": ref.namespace}


async def values_of(obj: Obj, api: Api) -> Obj:
    """The values of the release. Raises ValuesError."""
    merged: Obj = {}
    targeted: list[tuple[Mapping[str, Any], str]] = []
    for said in obj["spec"].get("valuesFrom") or ():
        text = await _held(obj["metadata"]["namespace"], said, api)
        if text is None:
            continue
        if said.get("targetPath"):
            targeted.append((said, text))
        else:
            merged = values.merged(merged, values.read(text, f"'{said.get('valuesKey') or 'values.yaml'}'"))
    merged = values.merged(merged, obj["spec"].get("values") or {})
    for said, text in targeted:
        values.put(merged, said["targetPath"], text, literal=bool(said.get("literal")))
    return merged


async def _held(namespace: str, said: Mapping[str, Any], api: Api) -> str | None:
    """The text under a key of a ConfigMap or Secret; None when it is absent and may be."""
    kind, name, key = said["kind"], said["name"], said.get("valuesKey") or "values.yaml"
    found = await api.get(Ref(_HELD[kind], namespace, name)) if kind in _HELD else None
    data = (found or {}).get("data") or {}
    if key not in data:
        if said.get("optional"):
            return None
        what = (
            f"missing key '{key}' in {kind} '{namespace}/{name}'" if found else f"{kind} '{namespace}/{name}' not found"
        )
        raise ValuesError(f"could not resolve values: {what}")
    if kind == "ConfigMap":
        return str(data[key])
    try:
        return base64.b64decode(data[key]).decode()
    except ValueError as error:
        raise ValuesError(f"could not resolve values: key '{key}' of Secret '{namespace}/{name}': {error}") from error


def said_of(obj: Obj, kind: str) -> Obj | None:
    return cond.find((obj.get("status") or {}).get("conditions") or (), kind)


def status_of(obj: Obj, kind: str) -> str:
    return str((said_of(obj, kind) or {}).get("status", ""))
