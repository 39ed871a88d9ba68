"""Releases that our controllers make, against the real helm 3 and 4: each reads and carries on what the other made."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from havre.api.meta import GVK
from havre.machinery.api import Ref
from havre.machinery.conditions import find
from havre.machinery.controller import run
from havre.platform.gitops import artifacts, crds, helm_chart, helm_release, helm_repository
from havre.platform.gitops.artifacts import Storage
from havre.platform.gitops.helm.engine import Engine
from havre.platform.gitops.helm_release_needs import HELM_RELEASE
from havre.testing import Cluster, eventually, temporary_cluster
from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import serve

Obj = dict[str, Any]
CLIENTS = Path(__file__).parents[3] / ".venv/clients.d"
HELMS = [str(CLIENTS / name) for name in ("helm-3", "helm-4")]
GIT = GVK("source.toolkit.fluxcd.io", "v1", "GitRepository")
RELEASE = Ref(HELM_RELEASE, "default", "web")
CONFIG = Ref(GVK("", "v1", "ConfigMap"), "default", "web")
CHART_YAML = "apiVersion: v2\nname: shop\nversion: {version}\nappVersion: '7'\n"
CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  color: {{ required "a color is needed" .Values.color | quote }}
  revision: "{{ .Release.Revision }}"
"""
JOB = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-hook
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
data: {}
"""
NEVER = "apiVersion: v1\nkind: Pod\nmetadata: {name: never}\nspec: {containers: [{name: a, image: a}]}\n"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not (importlib.util.find_spec("helm_python") or os.environ.get("HAVRE_HELM_LIBRARY")),
        reason="Helm's library is not installed (package helm-python-sdk)",
    ),
    pytest.mark.skipif(not all(map(os.path.exists, HELMS)), reason="no helm 3 and 4 in .venv/clients.d (make dev)"),
]


@dataclass(slots=True)
class Desk:
    """A cluster with both controllers at work on a source that the test changes."""

    cluster: Cluster
    storage: Storage
    commit: int = 0

    async def push(self, *, version: str = "1.0.0", color: str = "blue", **files: str) -> None:
        """The source has these files now; keys with `__` for slashes."""
        self.commit += 1
        tree = {
            "shop/Chart.yaml": CHART_YAML.format(version=version).encode(),
            "shop/values.yaml": f"color: {color}\n".encode(),
            "shop/templates/config.yaml": CONFIG_MAP.encode(),
            "shop/templates/hook.yaml": JOB.encode(),
            "shop/templates/NOTES.txt": b"Welcome to {{ .Chart.Name }}",
            **{f"shop/{name}": text.encode() for name, text in files.items()},
        }
        revision = f"main@sha1:{self.commit:012x}{0:028x}"
        ref = Ref(GIT, "default", "repo")
        artifact = await self.storage.archive(ref, tree, revision=revision)
        status = {"artifact": artifact.status(), "observedGeneration": 1}
        patch = {"status": {**status, "conditions": []}}
        await self.cluster.api.patch(ref, patch, kind="merge", manager="test", subresource="status")

    async def release(self, kind: str = "GitRepository", version: str = "*", **spec: Any) -> None:
        chart: Obj = {"chart": "shop", "sourceRef": {"kind": kind, "name": "repo"}, "version": version}
        chart["reconcileStrategy"] = "Revision"
        await self.cluster.api.apply(
            {
                "apiVersion": "helm.toolkit.fluxcd.io/v2",
                "kind": "HelmRelease",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"interval": "1m", "chart": {"spec": chart}, **spec},
            },
            manager="test",
        )

    async def get(self) -> Obj:
        found = await self.cluster.api.get(RELEASE)
        assert found is not None
        return found

    async def ready(self, status: str, *, generation: bool = True, contains: str = "") -> Obj:
        """The release when its Ready condition says so."""

        async def said() -> bool:
            obj = await self.get()
            shown = obj.get("status") or {}
            condition = find(shown.get("conditions") or (), "Ready") or {}
            current = shown.get("observedGeneration") == obj["metadata"]["generation"] or not generation
            return bool(current and condition.get("status") == status and contains in condition.get("message", ""))

        try:
            await eventually(said, within=20)
        except AssertionError:
            raise AssertionError((await self.get()).get("status")) from None
        return await self.get()

    async def color(self) -> str:
        found = await self.cluster.api.get(CONFIG)
        return str((found or {"data": {"color": ""}})["data"]["color"])

    async def helm(self, program: str, *args: str) -> str:
        command = [program, "--kubeconfig", str(self.cluster.kubeconfig), *args]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@asynccontextmanager
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with temporary_cluster() as cluster:
        storage = Storage(tmp_path / "artifacts", "http://127.0.0.1:0")
        server = await artifacts.serve(storage, "127.0.0.1", 0)
        storage.url = f"http://127.0.0.1:{server.port}"
        engine = Engine(tmp_path / "engine")
        await crds.install(cluster.api)
        source = {"interval": "1m", "url": "https://git.example/repo"}
        repo = {"apiVersion": GIT.api_version, "kind": GIT.kind, "spec": source}
        await cluster.api.create({**repo, "metadata": {"name": "repo", "namespace": "default"}}, manager="test")
        controllers = [
            helm_repository.controller(storage),
            helm_chart.controller(storage, engine, tmp_path / "work"),
            helm_release.controller(engine),
        ]
        running = asyncio.create_task(run(controllers, cluster.api))
        try:
            yield Desk(cluster, storage)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await engine.close()
            await server.close()


async def test_real_helm_reads_what_we_installed_and_its_output_is_helms_own(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.push()
        await at.release(values={"color": "green"})
        ready = find((await at.ready("True"))["status"]["conditions"], "Ready")
        assert ready is not None
        assert ready["reason"] == "InstallSucceeded"
        assert ready["message"].startswith("Helm install succeeded for release default/web.v1 with chart shop@1.0.0+")
        assert await at.color() == "green"
        for program in HELMS:
            assert "deployed" in await at.helm(program, "list")
            assert "Install complete" in await at.helm(program, "history", "web")
            assert await at.helm(program, "get", "values", "web") == "USER-SUPPLIED VALUES:\ncolor: green\n"
            assert "Welcome to shop" in await at.helm(program, "get", "notes", "web")
            assert "# Source: shop/templates/config.yaml" in await at.helm(program, "get", "manifest", "web")
            assert "# Source: shop/templates/hook.yaml" in await at.helm(program, "get", "hooks", "web")


async def test_a_new_commit_is_an_upgrade_and_helm_can_roll_it_back_until_we_upgrade_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.push()
        await at.release()
        await at.ready("True", contains="install succeeded")
        await at.push(color="red")
        await at.ready("True", contains="upgrade succeeded for release default/web.v2")
        assert await at.color() == "red"
        await at.helm(HELMS[0], "rollback", "web", "1")
        assert await at.color() == "blue"
        await at.release(values={"color": "gold"})
        await at.ready("True", contains="upgrade succeeded for release default/web.v4")
        assert await at.color() == "gold"


async def test_a_failing_upgrade_is_rolled_back_and_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.push()
        await at.release(upgrade={"remediation": {"retries": 0, "remediateLastFailure": True}}, timeout="1s")
        await at.ready("True")
        await at.push(color="red", **{"templates/never.yaml": NEVER})
        status = (await at.ready("False", contains="Helm rollback to previous release default/web.v1"))["status"]
        assert find(status["conditions"], "Released")["reason"] == "UpgradeFailed"  # type: ignore[index]
        await eventually(lambda: _stalled(at), within=10)
        assert await at.color() == "blue"
        assert "Rollback to 1" in await at.helm(HELMS[1], "history", "web")
        await at.push(color="white")
        await at.ready("True", contains="upgrade succeeded")
        assert await at.color() == "white"


async def _stalled(at: Desk) -> bool:
    stalled = find((await at.get())["status"]["conditions"], "Stalled") or {}
    return stalled.get("message") == "Failed to upgrade after 1 attempt(s)"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"templates/bad.yaml": "{{ .Values.a.b.c }}"}, "nil pointer evaluating"),
        ({"templates/bad.yaml": "{{ $x := until 400000000 }}{{ len $x }}"}, "took too much memory"),
        ({"templates/bad.yaml": "a: [b"}, "YAML parse error on shop/templates/bad.yaml"),
        ({"values.schema.json": '{"properties": {"color": {"type": "integer"}}}'}, "got string, want integer"),
        ({"Chart.yaml": ""}, "Chart.yaml"),
        ({"Chart.yaml": CHART_YAML.format(version="2.0.0") + "dependencies: [{name: x, version: 1.0.0}]\n"}, "charts/"),
    ],
    ids=["error", "memory", "yaml", "schema", "metadata", "dependency"],
)
async def test_a_bad_chart_leaves_the_old_release_serving(tmp_path: Path, files: dict[str, str], why: str) -> None:
    async with desk(tmp_path) as at:
        await at.push()
        await at.release()
        await at.ready("True")
        await at.push(version="2.0.0", color="red", **files)
        await at.ready("False", contains=why)
        assert await at.color() == "blue"
        for program in HELMS:
            assert "deployed" in await at.helm(program, "status", "web")


async def test_deleting_the_release_uninstalls_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.push()
        await at.release()
        await at.ready("True")
        await at.cluster.api.delete(RELEASE)

        async def gone() -> bool:
            return await at.cluster.api.get(RELEASE) is None

        await eventually(gone, within=20)
        assert await at.color() == ""
        assert "web" not in await at.helm(HELMS[0], "list", "--all")


async def test_a_chart_comes_from_a_repository_that_helm_made(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    async with desk(tmp_path) as at, _files(root) as url:
        for version in ("1.0.0", "1.2.0", "2.0.0", "1.3.0-rc.1"):
            source = tmp_path / version / "shop"
            (source / "templates").mkdir(parents=True)
            (source / "Chart.yaml").write_text(CHART_YAML.format(version=version))
            (source / "values.yaml").write_text(f"color: '{version}'\n")
            (source / "templates/config.yaml").write_text(CONFIG_MAP)
            await at.helm(HELMS[1], "package", str(source), "-d", str(root))
        await at.helm(HELMS[1], "repo", "index", str(root))
        repo = {"apiVersion": GIT.api_version, "kind": "HelmRepository", "spec": {"url": url, "interval": "1m"}}
        await at.cluster.api.create({**repo, "metadata": {"name": "repo", "namespace": "default"}}, manager="test")
        await at.release("HelmRepository", ">=1.0.0 <2.0.0")
        await at.ready("True", contains="with chart shop@1.2.0")
        repository = await at.cluster.api.get(Ref(helm_chart.HELM_REPOSITORY, "default", "repo"))
        assert repository is not None
        assert repository["status"]["conditions"][0]["message"].startswith("stored artifact: revision 'sha256:")
        assert await at.color() == "1.2.0"
        await at.release("HelmRepository", "9.x")
        await at.ready("False", contains="no 'shop' chart with version matching '9.x' found")
        assert await at.color() == "1.2.0"


@asynccontextmanager
async def _files(root: Path) -> AsyncIterator[str]:
    """A directory behind a URL."""
    await asyncio.to_thread(root.mkdir)

    def answer(request: Request) -> Answer:
        file = root / request.path.removeprefix("/")
        return Response(200, [], file.read_bytes()) if file.is_file() else Response(404, [], b"")

    server = await serve(answer, host="127.0.0.1", port=0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()
