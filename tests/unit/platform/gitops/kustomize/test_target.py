"""Builds of files in memory. That the answers are kustomize's is shown in tests/compat/platform/test_kustomize.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.kustomizations import cases

from havre.api.meta import Obj
from havre.platform.gitops.kustomize import BuildError, build
from havre.platform.gitops.kustomize.target import MAX_DEPTH

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n"
GOOD, BAD = cases("good.txt"), cases("bad.txt")


def built(top: str, path: str = "o", **files: str) -> list[Obj]:
    named = {f"o/{name}.yaml": text for name, text in files.items()}
    return build({k: v.encode() for k, v in {"o/kustomization.yaml": top, **named}.items()}, path)


def refused(top: str, **files: str) -> str:
    with pytest.raises(BuildError) as caught:
        built(top, **files)
    return str(caught.value)


def test_a_generated_config_map_gets_a_suffix_and_references_follow() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {volumes: [{name: v, configMap: {name: gen}}]}\n"
    top = "resources: [pod.yaml]\nnamePrefix: x-\nconfigMapGenerator: [{name: gen, literals: [a=1]}]\n"
    assert built(top, pod=pod) == [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x-p"},
            "spec": {"volumes": [{"name": "v", "configMap": {"name": "x-gen-h29d89cmmt"}}]},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x-gen-h29d89cmmt"}, "data": {"a": "1"}},
    ]


def test_a_patched_element_moves_to_the_front() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: x}, {name: b}]}\n"
    patch = pod.replace("{name: a, image: x}, {name: b}", "{name: c}, {name: b, image: y}")
    (made,) = built("resources: [pod.yaml]\npatches: [{path: patch.yaml}]\n", pod=pod, patch=patch)
    assert made["spec"]["containers"] == [{"name": "c"}, {"name": "b", "image": "y"}, {"name": "a", "image": "x"}]


def test_scalars_are_those_of_yaml_1_2_and_times_are_times() -> None:
    text = (
        "apiVersion: x/v1\nkind: T\nmetadata: {name: t}\nspec: {a: yes, b: 0644, c: 1e3, d: 2020-01-02, e: 12:30:45}\n"
    )
    (made,) = built("resources: [t.yaml]\n", t=text)
    assert made["spec"] == {"a": "yes", "b": 420, "c": 1000, "d": "2020-01-02T00:00:00Z", "e": "12:30:45"}


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("resources: [nope.yaml]\n", "o/kustomization.yaml: resources[0]: 'nope.yaml': no such file or directory"),
        ("resources: [../../etc/passwd]\n", "resources[0]: '../../etc/passwd': leads out of the source"),
        ("resources: [/etc/passwd]\n", "absolute paths lead out of the source"),
        ("resources: [https://example.com/x]\n", "remote bases are not fetched"),
        ("resources: [github.com/a/b?ref=v1]\n", "remote bases are not fetched"),
        ("resources: [.]\n", "cycle detected: candidate root 'o' contains visited root 'o'"),
        ("resources: [..]\n", "cycle detected"),
        ("nonsense: 1\n", 'invalid Kustomization: unknown field "nonsense"'),
        ("namespace: [a]\n", "o/kustomization.yaml: namespace: expected a string"),
        ("namePrefix: true\n", "o/kustomization.yaml: namePrefix: expected a string"),
        ("vars: [{name: x}]\n", "vars are not supported; use replacements"),
        ("helmCharts: [{name: x}]\n", "use a HelmRelease"),
        ("kind: Pod\nresources: []\n", "kind should be Kustomization or Component"),
        ("patches: [{path: a, patch: b}]\n", "o/kustomization.yaml: patches[0]: patch and path can't be set"),
        ("images: [{name: x, newtag: y}]\n", 'images[0]: unknown field "newtag"'),
        ("configMapGenerator: [{name: g, files: [nope]}]\n", "configMapGenerator[0].files: 'o/nope': no such file"),
        ("", "kustomization.yaml is empty"),
        ("a: [", "invalid Kustomization: yaml:"),
    ],
)
def test_a_fault_is_told_with_file_and_field(top: str, words: str) -> None:
    assert words in refused(top)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("apiVersion: v1\nkind: ConfigMap\n", "o/x.yaml: missing metadata.name in object"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "o/x.yaml: missing kind in object"),
        (f"{CONFIG_MAP}---\n{CONFIG_MAP}", "already registered id: ConfigMap.v1.[noGrp]/cm.[noNs]"),
        ("a: b\na: c\n", 'key "a" already set in map'),
        ("- a\n", "expected an object, found list"),
        ("a: [b\n", "o/x.yaml: malformed YAML"),
    ],
)
def test_a_bad_manifest_is_told_with_its_file(text: str, words: str) -> None:
    assert words in refused("resources: [x.yaml]\n", x=text)


def test_a_patch_for_nobody_is_a_fault() -> None:
    top = "resources: [cm.yaml]\npatches: [{path: p.yaml}]\n"
    words = refused(top, cm=CONFIG_MAP, p=CONFIG_MAP.replace("name: cm", "name: other"))
    assert "no matches for Id ConfigMap.v1.[noGrp]/other.[noNs]" in words
    assert "o/kustomization.yaml: patches[0]: p.yaml" in words


def test_a_small_text_does_not_become_a_large_object() -> None:
    layers = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    bomb = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\na0: &a0 [x]\n{layers}"
    assert "excessive aliasing" in refused("resources: [x.yaml]\n", x=bomb)


def test_bases_of_bases_are_bounded() -> None:
    files = {f"d{n}/kustomization.yaml": f"resources: [../d{n + 1}]\n".encode() for n in range(MAX_DEPTH + 1)}
    with pytest.raises(BuildError, match="bases nest more than 64 deep"):
        build(files, "d0")


def test_bases_that_double_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("havre.platform.gitops.kustomize.target.MAX_TARGETS", 50)
    files = {f"d{n}/kustomization.yaml": f"resources: [../d{n + 1}, ../d{n + 1}]\n".encode() for n in range(40)}
    with pytest.raises(BuildError, match=r"more than 50 kustomizations|registered"):
        build({**files, "d40/kustomization.yaml": b"namePrefix: x\n"}, "d0")


def test_a_terrible_pattern_costs_no_time() -> None:
    top = "resources: [cm.yaml]\npatches: [{target: {name: '(a+)+$'}, patch: '- {op: remove, path: /data}'}]\n"
    (made,) = built(top, cm=CONFIG_MAP.replace("name: cm", f"name: {'a' * 60}b"))
    assert "data" in made


@pytest.mark.parametrize("name", ["three", "smp", "component", "replacement", "twonsrbac"])
def test_a_build_is_the_same_every_time_and_leaves_the_files_alone(name: str) -> None:
    files = {path: text.encode() for path, text in GOOD[name].items()}
    before = dict(files)
    assert build(files, "o") == build(files, "o")
    assert files == before


_LINES = st.sampled_from(
    [
        "resources: [a.yaml, b]",
        "resources: [a.yaml]",
        "namespace: n1",
        "namePrefix: p-",
        "commonLabels: {a: b}",
        "images: [{name: x, newTag: '1'}]",
        "patches: [{patch: '- {op: add, path: /q, value: 1}', target: {kind: .*}}]",
        "patches: [{path: a.yaml}]",
        "replicas: [{name: a, count: 2}]",
        "configMapGenerator: [{name: a, literals: [x=y]}]",
        "components: [b]",
        "replacements: [{source: {kind: ConfigMap}, targets: [{select: {}, fieldPaths: [a.b.c]}]}]",
        "transformers: [a.yaml]",
        "configurations: [a.yaml]",
        "labels: [{pairs: {a: b}, includeSelectors: true}]",
        "sortOptions: {order: legacy}",
        "kind: Component",
        "patches: x",
        "? [a]",
    ]
)
_VALUES = st.recursive(
    st.sampled_from(["a", "1", "null", "~", "[]", "{}", "yes", "'x'", "- b", "&a x", "*a"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["name", "spec", "metadata", "containers", "image", "$patch", "kind"]), inner, max_size=3
        ).map(lambda items: f"{{{', '.join(f'{key}: {value}' for key, value in items.items())}}}"),
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(_LINES, max_size=5), st.sampled_from(["ConfigMap", "Deployment", "RoleBinding", "X"]), _VALUES)
def test_any_files_build_or_are_refused(lines: list[str], kind: str, value: str) -> None:
    manifest = f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {value}\nsubjects: {value}\n"
    files = {
        "o/kustomization.yaml": "\n".join(lines).encode(),
        "o/a.yaml": manifest.encode(),
        "o/b/kustomization.yaml": b"kind: Component\nnameSuffix: x\n",
    }
    try:
        made = build(files, "o")
    except BuildError:
        return
    assert all(obj["metadata"]["name"] for obj in made)


@settings(max_examples=50, deadline=None)
@given(_VALUES, _VALUES)
def test_any_patch_merges_or_is_refused(old: str, new: str) -> None:
    head = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: "
    top = "resources: [a.yaml]\npatches: [{path: b.yaml}]\n"
    try:
        made = built(top, a=f"{head}{{containers: {old}}}\n", b=f"{head}{{containers: {new}}}\n")
    except BuildError:
        return
    assert all(obj["kind"] == "Pod" for obj in made)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_is_refused(name: str) -> None:
    with pytest.raises(BuildError):
        build({path: text.encode() for path, text in BAD[name].items()}, "o")
