"""The rules of the house that no other tool checks: docstrings, sizes, homes of libraries, words that stay outside."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "havre"
MODULES = sorted(SRC.rglob("*.py"))
LONGEST = 600  # lines: what a reader takes in at a sitting

# module → why it may be longer
LONG: dict[str, str] = {
    "wire/http/h2.py": "one protocol machine; a cut would separate states from their transitions",
}

# module → why it may catch everything
CATCHES_ALL: dict[str, str] = {
    "control/apiserver/cache.py": "one watcher's bug must not reach the other watchers, nor the writers",
    "control/workloads/chore.py": "the loop: a chore that raises is tried again with back-off",
    "control/apiserver/custom.py": "the loop: a bug with one definition must not stop the others",
    "control/workloads/garbage_collector.py": "the loop: a bug with one object must not stop the others",
    "control/workloads/monitors.py": "one listener's bug must not stop the watch of the others",
    "control/scheduler/run.py": "the loop: a bug with one pod must not stop the others",
    "control/store/committer.py": "the thread must not end in silence",
    "kit/supervision.py": "tasks that nobody awaits: a bug must reach the log at once, and the task begin again",
    "machinery/controller.py": "the loop: a reconcile that raises is retried with back-off",
    "node/agent/pods.py": "the loop: a bug with one pod must not stop the others",
    "wire/grpc/server.py": "a handler's bug is the client's UNKNOWN and our log line",
    "wire/http/service.py": "a handler's bug is the client's 500 and our log line",
}

# library → the modules that may import it; a folder ends in /
HOMES: dict[str, tuple[str, ...]] = {
    "apsw": ("control/store/",),
    "cel_expr_python": ("lang/cel/",),
    "click": ("cli/",),
    "cryptography": (
        "wire/tls.py",
        "api/validation/certificates.py",
        "control/apiserver/authn.py",
        "control/apiserver/certificates.py",
        "control/apiserver/admission/certificates.py",
        "control/apiserver/service_account_tokens.py",
    ),
    "google": (
        "lang/cel/",
        "wire/grpc/",
        "api/protobuf.py",
        "api/protobuf_reader.py",
        "api/protobuf_writer.py",
        "control/apiserver/gnostic.py",
    ),
    "grpclib": ("wire/grpc/",),
    "httptools": ("wire/http/",),
    "httpunk": ("wire/http/",),
    "isal": ("node/runtime/",),
    "joserfc": ("control/apiserver/service_account_tokens.py",),
    "jsonschema_rs": ("lang/structural/regex.py",),
    "msgspec": ("",),
    "orjson": ("",),
    "rich": ("cli/",),
    "sortedcontainers": ("control/",),
    "uvloop": ("wire/http/", "cli/", "app/supervisor.py"),
    "yaml": ("lang/yaml.py",),
    "zstandard": ("api/", "control/apiserver/", "node/runtime/", "platform/gitops/crds.py"),
}
PACKAGES = {
    "protobuf": "google",
    "PyYAML": "yaml",
    "cel-expr-python": "cel_expr_python",
    "jsonschema-rs": "jsonschema_rs",
}

# Controllers that keep to the shape: reads, writes, wakes, and a pure `plan`. Engines beside them are no controllers.
MAP = ("reads", "writes", "wakes")


def where(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def catches_all(path: Path) -> bool:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(n is None or (isinstance(n, ast.Name) and n.id == "Exception") for n in names):
                return True
    return False


def test_every_module_says_what_it_is() -> None:
    assert [where(m) for m in MODULES if not ast.get_docstring(tree(m))] == []


def test_every_folder_is_a_package() -> None:
    folders = {m.parent for m in MODULES}
    assert [where(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_no_module_is_longer_than_a_reader() -> None:
    found = {where(m): n for m in MODULES if (n := len(m.read_text().splitlines())) > LONGEST}
    assert {name: n for name, n in found.items() if name not in LONG} == {}
    assert set(LONG) <= set(found), "a module is short again: take it off the list"


def test_only_the_listed_modules_catch_everything() -> None:
    assert [where(m) for m in MODULES if catches_all(m) and where(m) not in CATCHES_ALL] == []
    assert [name for name in CATCHES_ALL if not catches_all(SRC / name)] == [], "take it off the list"


def controllers() -> list[Path]:
    """Modules of control/workloads that define a `controller`."""
    return [
        m
        for m in sorted((SRC / "control" / "workloads").rglob("*.py"))
        if any(isinstance(n, ast.FunctionDef) and n.name == "controller" for n in tree(m).body)
    ]


@pytest.mark.parametrize("module", controllers(), ids=where)
def test_a_controller_has_its_map_and_a_plain_plan(module: Path) -> None:
    said = ast.get_docstring(tree(module)) or ""
    assert [word for word in MAP if not re.search(rf"^{word}\s", said, re.MULTILINE)] == []
    found = [n for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == "plan"]
    for plan in found:
        assert isinstance(plan, ast.FunctionDef), "plan is pure: it may not await"
        names = {n.id for n in ast.walk(plan) if isinstance(n, ast.Name)}
        assert not names & {"Api", "api", "time", "datetime", "asyncio"}, "plan sees no Api and no clock"


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_is_imported_only_at_home(library: str) -> None:
    homes = HOMES[library]
    strangers = [
        where(m) for m in MODULES if library in imports(m) and not any(where(m).startswith(home) for home in homes)
    ]
    assert strangers == []


def test_every_library_has_a_home_and_is_declared() -> None:
    used = {name for m in MODULES for name in imports(m)} - set(sys.stdlib_module_names) - {"havre"}
    assert used - set(HOMES) == set()
    declared = {PACKAGES.get(name, name.replace("-", "_")) for name in dependencies()}
    assert used - declared == set()


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[<>=~! \[]", line)[0] for line in project["dependencies"]]


_OUTSIDE = re.compile(
    r"(?<![\w.])/(?:work|root|home)/[\w.]|/tmp/(?:peers|bash|claude)|pypi\.org/simple|proxy\.golang|files\.pythonhosted",
)  # fmt: skip


def texts() -> Iterator[Path]:
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".txt", ".cfg", ".c", ".h", ""}
    for top in ("src", "tests", "docs", "examples", "deploy", "tools", "benchmarks", "changes", ".ci"):
        found = (f for f in (ROOT / top).rglob("*") if f.is_file() and f.suffix in kinds)
        yield from (f for f in found if "__pycache__" not in f.parts)
    yield from (
        ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
    )


def test_nothing_names_the_machine_it_was_written_on() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for file in texts()
        if file.exists() and file != Path(__file__)
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
        if _OUTSIDE.search(line) and "/home/x" not in line
    ]
    assert found == []
