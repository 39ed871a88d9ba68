"""Charts from the tree of a source: what may be read, and what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from havre.lang import yaml
from havre.platform.gitops import helm_chart
from havre.platform.gitops.helm_chart import BuildError, Spec


def spec(**raw: Any) -> Spec:
    source = {"kind": "GitRepository", "name": "repo"}
    whole = {"chart": "shop", "interval": "1m", "sourceRef": source, **raw}
    return Spec.of({"metadata": {"namespace": "ns"}, "spec": whole})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "shop").mkdir(parents=True)
    (root / "shop/Chart.yaml").write_text("name: shop\nversion: 1.0.0\n")
    (root / "shop/values.yaml").write_text("a: 1\nb: {c: 1, d: 1}\n")
    (root / "other.yaml").write_text("b: {c: 2}\n")
    (tmp_path / "secret").write_text("x")
    return root


@pytest.mark.parametrize("path", ["../secret", "shop/../../secret", "link"])
def test_a_path_that_leaves_the_source_is_refused_for_good(tree: Path, path: str) -> None:
    (tree / "link").symlink_to("../secret")
    with pytest.raises(BuildError, match="points outside of the source") as refused:
        helm_chart._inside(tree, path)
    assert refused.value.stalled


def test_a_path_that_is_not_there_may_come(tree: Path) -> None:
    with pytest.raises(BuildError, match="no file or directory 'none'") as refused:
        helm_chart._inside(tree, "none")
    assert not refused.value.stalled


def test_values_files_are_merged_in_their_order_and_become_the_charts(tree: Path) -> None:
    wanted = spec(valuesFiles=["shop/values.yaml", "other.yaml"])
    assert helm_chart._merge_values(tree, tree / "shop", wanted) == ["shop/values.yaml", "other.yaml"]
    assert yaml.load((tree / "shop/values.yaml").read_text()) == {"a": 1, "b": {"c": 2, "d": 1}}


def test_a_missing_values_file_is_a_failure_unless_it_may_be(tree: Path) -> None:
    with pytest.raises(BuildError, match=r"no file or directory 'none\.yaml'"):
        helm_chart._merge_values(tree, tree / "shop", spec(valuesFiles=["none.yaml"]))
    assert (
        helm_chart._merge_values(tree, tree / "shop", spec(valuesFiles=["none.yaml"], ignoreMissingValuesFiles=True))
        == []
    )


def test_the_strategy_revision_puts_the_commit_into_the_version(tree: Path) -> None:
    helm_chart._stamp(tree / "shop", "main@sha1:0123456789abcdef0123456789abcdef01234567")
    assert yaml.load((tree / "shop/Chart.yaml").read_text())["version"] == "1.0.0+0123456789ab"


def test_a_dependency_in_the_same_tree_is_put_where_helm_looks(tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib/Chart.yaml").write_text("name: lib\nversion: 1.0.0\n")
    dependency = "dependencies: [{name: lib, version: 1.0.0, repository: 'file://../lib'}]\n"
    (tree / "shop/Chart.yaml").write_text(f"name: shop\nversion: 1.0.0\n{dependency}")
    helm_chart._dependencies(tree, tree / "shop")
    assert (tree / "shop/charts/lib/Chart.yaml").read_text() == "name: lib\nversion: 1.0.0\n"


@pytest.mark.parametrize(
    ("name", "place", "why"),
    [
        ("lib", "file://../../secret", "points outside"),
        ("lib", "file://..", "contains the chart"),
        ("../../x", "file://../linked", "no name of a chart"),
        ("lib", "file://../linked", "symbolic links"),
    ],
)
def test_a_dependency_that_could_reach_out_of_its_place_is_refused(tree: Path, name: str, place: str, why: str) -> None:
    (tree / "linked").mkdir()
    (tree / "linked/a").symlink_to("../other.yaml")
    dependency = f"dependencies: [{{name: '{name}', version: 1.0.0, repository: '{place}'}}]\n"
    (tree / "shop/Chart.yaml").write_text(f"name: shop\nversion: 1.0.0\n{dependency}")
    with pytest.raises(BuildError, match=why):
        helm_chart._dependencies(tree, tree / "shop")


def test_a_kind_of_source_that_is_not_known_stalls() -> None:
    with pytest.raises(BuildError, match="charts from a Floppy are not supported") as refused:
        spec(sourceRef={"kind": "Floppy", "name": "a"})
    assert refused.value.stalled
