"""Ownership of fields against a real kube-apiserver: the scenarios of tests/data/ssa, asked again.

Needs HAVRE_REFERENCE_KUBECONFIG, the kubeconfig of a throw-away cluster (one client certificate, no proxy). With
HAVRE_SSA_RECORD=1 the answers are written into tests/data/ssa/scenarios.json instead of being compared.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import yaml

Obj = dict[str, Any]
Ask = Callable[..., tuple[int, Obj]]

DATA = Path(__file__).parent.parent / "data/ssa/scenarios.json"
CONFIG = os.environ.get("HAVRE_REFERENCE_KUBECONFIG", "")
RECORD = os.environ.get("HAVRE_SSA_RECORD") == "1"
NAMESPACE = f"havre-ssa-{os.getpid()}"
PLURALS = {
    "ConfigMap": ("v1", "configmaps"),
    "Service": ("v1", "services"),
    "Deployment": ("apps/v1", "deployments"),
    "Widget": ("ssa.havre.test/v1", "widgets"),
}
TYPES = {
    "apply": "application/apply-patch+yaml",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}

pytestmark = pytest.mark.skipif(not CONFIG, reason="HAVRE_REFERENCE_KUBECONFIG names no cluster to compare with")


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Sends one request; a namespace and the Widget CRD exist meanwhile."""
    config = yaml.safe_load(Path(CONFIG).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority"))
    with NamedTemporaryFile("w", suffix=".pem") as both:
        both.write(_pem(user, "client-certificate") + "\n" + _pem(user, "client-key"))
        both.flush()
        context.load_cert_chain(both.name)

    def send(method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Obj]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(cluster["server"] + path, data, {"content-type": kind}, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as err:
            text = err.read()
            return err.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}

    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    send("POST", crds, _crd(json.loads(DATA.read_text())["widget"]))
    _until(lambda: send("GET", f"/apis/ssa.havre.test/v1/namespaces/{NAMESPACE}/widgets")[0] == 200)
    yield send
    send("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    send("DELETE", f"{crds}/widgets.ssa.havre.test")


def _pem(entry: Obj, name: str) -> str:
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return Path(CONFIG).parent.joinpath(entry[name]).read_text()


def _crd(schema: Obj) -> Obj:
    names = {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.ssa.havre.test"},
        "spec": {
            "group": "ssa.havre.test",
            "names": names,
            "scope": "Namespaced",
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "the reference cluster did not get ready within 20 s"
        time.sleep(0.1)


def merge_patch(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), item)
    return out


def play(ask: Ask, place: int, scenario: Obj) -> list[Obj]:
    """Sends the steps of a scenario; each with its code, answer and the object as it was before."""
    version, plural = PLURALS[scenario["kind"]]
    group = "/api/v1" if version == "v1" else f"/apis/{version}"
    collection = f"{group}/namespaces/{NAMESPACE}/{plural}"
    name = f"s{place}"
    out: list[Obj] = []
    for step in scenario["steps"]:
        path = f"{collection}/{name}" + (f"/{step['sub']}" if "sub" in step else "")
        live = _settled(ask, f"{collection}/{name}")
        flags = f"?fieldManager={step['manager']}&fieldValidation=Ignore" + ("&force=true" if step.get("force") else "")
        head = {"apiVersion": version, "kind": scenario["kind"]}
        body = step["body"]
        if step["verb"] != "json":
            body = {**head, **body, "metadata": {"name": name, **body.get("metadata", {})}}
        if step["verb"] == "create":
            code, answer = ask("POST", collection + flags, body)
        elif step["verb"] == "put":
            code, answer = ask("PUT", path + flags, merge_patch(live, step["body"]))
        else:
            code, answer = ask("PATCH", path + flags, body, TYPES[step["verb"]])
        out.append({"code": code, "live": live, "answer": answer})
    return out


def _settled(ask: Ask, path: str) -> Obj | None:
    """The object once its controller has caught up; None when there is none."""
    code, obj = ask("GET", path)
    if code == 404:
        return None
    if obj["kind"] == "Deployment":
        seen = obj["metadata"]["resourceVersion"]
        for _ in range(40):
            time.sleep(0.25)
            obj = ask("GET", path)[1]
            status = obj["status"].get("observedGeneration") == obj["metadata"]["generation"]
            if status and obj["metadata"]["resourceVersion"] == seen:
                break
            seen = obj["metadata"]["resourceVersion"]
    return obj


def scrub(obj: Any) -> Any:
    """The object without what differs from run to run; whether an entry has a time is kept."""
    if not isinstance(obj, dict) or "metadata" not in obj:
        return obj
    meta = {k: v for k, v in obj["metadata"].items() if k not in ("resourceVersion", "creationTimestamp")}
    meta |= {"uid": "u"} if "uid" in meta else {}
    meta |= {"namespace": "n"} if "namespace" in meta else {}
    entries = [{**e, "time": "2026-01-01T00:00:00Z"} if "time" in e else e for e in meta.get("managedFields", ())]
    if entries:
        meta["managedFields"] = entries
    return {**obj, "metadata": meta}


def test_the_real_server_still_answers_as_recorded(ask: Ask) -> None:
    data = json.loads(DATA.read_text())
    different = []
    for place, scenario in enumerate(data["scenarios"]):
        before = None
        for step, now in zip(scenario["steps"], play(ask, place, scenario), strict=True):
            now["live"], now["answer"] = scrub(now["live"]), scrub(now["answer"])
            if RECORD:
                step.pop("live", None)
                if now["live"] == before:
                    del now["live"]
                step.update(now)
                before = now["answer"] if now["code"] < 300 else before
            elif _entries(step) != _entries(now) or step["code"] != now["code"]:
                different.append((scenario["name"], step["manager"], step["body"]))
    if RECORD:
        DATA.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
    assert different == []


def _entries(step: Obj) -> list[Obj]:
    entries = (step["answer"].get("metadata") or {}).get("managedFields") or []
    return sorted(entries, key=lambda e: json.dumps(e, sort_keys=True))
