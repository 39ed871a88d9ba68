"""The renderer against the real helm, and against charts that mean harm."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from havre.platform.gitops.helm import chart, manifest
from havre.platform.gitops.helm.engine import Capabilities, Engine, EngineDied, EngineError, EngineMissing, Target

HELM = Path(__file__).parents[3] / ".venv/clients.d/helm-4"
KUBE = Capabilities("v1.34.0", ("example.test/v1",))

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not (importlib.util.find_spec("helm_python") or os.environ.get("HAVRE_HELM_LIBRARY")),
        reason="Helm's library is not installed (package helm-python-sdk)",
    ),
]


@pytest_asyncio.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "engine", timeout=5.0)
    yield engine
    await engine.close()


def write(root: Path, template: str, **files: str) -> Path:
    """A chart of one template."""
    (root / "templates").mkdir(parents=True)
    (root / "Chart.yaml").write_text("apiVersion: v2\nname: bad\nversion: 1.0.0\n")
    (root / "templates/a.yaml").write_text(template)
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def helm(*args: str) -> str:
    return subprocess.run([str(HELM), *args], check=True, capture_output=True, text=True).stdout


async def rendered(engine: Engine, root: Path) -> str:
    packed = chart.repacked((await engine.pack(root)).data)
    found = await engine.render(packed, {}, Target("web", "shop", 3, upgrade=True), KUBE)
    return manifest.sort(found.files, str(found.metadata["name"])).manifest


@pytest.mark.skipif(not HELM.exists(), reason="no helm in .venv/clients.d (make dev)")
async def test_the_manifest_is_that_of_helm_template_byte_for_byte(engine: Engine, tmp_path: Path) -> None:
    root = str(tmp_path / "shop")
    await asyncio.to_thread(helm, "create", root)
    theirs = await asyncio.to_thread(helm, "template", "web", root, "--no-hooks", "--namespace", "shop", "--is-upgrade")
    assert await rendered(engine, tmp_path / "shop") == theirs


async def test_templates_see_the_release_and_the_cluster(engine: Engine, tmp_path: Path) -> None:
    text = "a: {{ .Release.Revision }} {{ .Release.IsUpgrade }} {{ .Capabilities.KubeVersion }} "
    text += '{{ .Capabilities.APIVersions.Has "example.test/v1" }}'
    assert await rendered(engine, write(tmp_path / "c", text)) == (
        "---\n# Source: bad/templates/a.yaml\na: 3 true v1.34.0 true\n"
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ $x := until 400000000 }}{{ len $x }}", "too much memory"),
        ('{{ $s := repeat 1000000 "abcdefghij" }}{{ repeat 1000 $s }}', "too much memory"),
        ("{{ range $i := until 10000000 }}{{ range until 1000 }}{{ end }}{{ end }}", "longer than 5 s"),
    ],
    ids=["list", "string", "endless"],
)
async def test_a_chart_that_eats_the_machine_ends_its_worker_and_nothing_else(
    engine: Engine, tmp_path: Path, template: str, why: str
) -> None:
    with pytest.raises(EngineDied, match=why):
        await rendered(engine, write(tmp_path / "bad", template))
    assert "a: 1" in await rendered(engine, write(tmp_path / "good", "a: 1"))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ .Values.a.b.c }}", "nil pointer evaluating"),
        ('{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}', "nested reference name|include"),
        ('{{ fail "the color is missing" }}', "the color is missing"),
        ("{{ if }}", "missing value for if"),
        ('{{ .Files.Get "../../../etc/passwd" | required "nothing there" }}', "nothing there"),
        ('{{ env "HOME" }}', 'function "env" not defined'),
    ],
)
async def test_what_is_wrong_with_a_template_is_said_in_helms_words(
    engine: Engine, tmp_path: Path, template: str, why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        await rendered(engine, write(tmp_path / "bad", template))


async def test_values_that_break_the_schema_are_refused(engine: Engine, tmp_path: Path) -> None:
    schema = '{"properties": {"replicas": {"type": "integer"}}}'
    root = write(tmp_path / "bad", "a: 1", **{"values.schema.json": schema, "values.yaml": "replicas: many\n"})
    with pytest.raises(EngineError, match="got string, want integer"):
        await rendered(engine, root)


async def test_a_subchart_that_was_disabled_once_comes_back(engine: Engine, tmp_path: Path) -> None:
    root = write(tmp_path / "c", "a: 1", **{"values.yaml": "sub: {enabled: false}\n"})
    (root / "Chart.yaml").write_text(
        "apiVersion: v2\nname: bad\nversion: 1.0.0\n"
        "dependencies: [{name: sub, version: 1.0.0, condition: sub.enabled}]\n"
    )
    write(root / "charts/sub", "b: 1")
    (root / "charts/sub/Chart.yaml").write_text("apiVersion: v2\nname: sub\nversion: 1.0.0\n")
    packed = (await engine.pack(root)).data
    off = await engine.render(packed, {}, Target("web", "shop"), KUBE)
    on = await engine.render(packed, {"sub": {"enabled": True}}, Target("web", "shop"), KUBE)
    assert (sorted(off.files), sorted(on.files)) == (
        ["bad/templates/a.yaml"],
        ["bad/charts/sub/templates/a.yaml", "bad/templates/a.yaml"],
    )


async def test_bytes_that_are_no_chart_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError):
        await engine.render(b"nothing", {}, Target("web", "shop"), KUBE)


async def test_a_missing_library_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAVRE_HELM_LIBRARY", str(tmp_path / "none.so"))
    broken = Engine(tmp_path)
    with pytest.raises(EngineMissing, match=r"none\.so"):
        await broken.pack(tmp_path)
    await broken.close()
