"""Files in, objects in Helm's order out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.platform.gitops.helm import manifest
from havre.platform.gitops.helm.manifest import Hook, ManifestError

HOOK = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
  annotations:
    helm.sh/hook: pre-install, PRE-UPGRADE
    helm.sh/hook-weight: "-5"
    helm.sh/hook-delete-policy: hook-succeeded,before-hook-creation
"""


def _kinds(found: manifest.Sorted) -> list[str]:
    return [document.obj["kind"] for document in found.documents]


def test_what_others_need_comes_first_and_unknown_kinds_last() -> None:
    text = "\n---\n".join(f"kind: {kind}" for kind in ("Ingress", "Widget", "Deployment", "Secret", "Namespace"))
    assert _kinds(manifest.sort({"c/templates/a.yaml": text}, "c")) == [
        *("Namespace", "Secret", "Deployment", "Ingress", "Widget")
    ]


def test_the_manifest_names_the_file_of_every_document() -> None:
    found = manifest.sort({"c/templates/a.yaml": "# words\nkind: Secret\n---\nkind: ConfigMap\n---\n"}, "c")
    assert found.manifest == (
        "---\n# Source: c/templates/a.yaml\n# words\nkind: Secret\n---\n# Source: c/templates/a.yaml\nkind: ConfigMap\n"
    )


def test_a_hook_is_no_part_of_the_manifest() -> None:
    found = manifest.sort({"c/templates/job.yaml": HOOK}, "c")
    assert found.manifest == ""
    assert found.hooks == (
        Hook(
            name="migrate",
            kind="Job",
            path="c/templates/job.yaml",
            manifest=HOOK.strip(),
            events=("pre-install", "pre-upgrade"),
            weight=-5,
            delete_policies=("hook-succeeded", "before-hook-creation"),
        ),
    )


def test_a_hook_survives_the_record() -> None:
    (hook,) = manifest.sort({"c/templates/job.yaml": HOOK}, "c").hooks
    assert Hook.read(hook.of_record()) == hook


def test_hooks_run_by_weight_then_by_name() -> None:
    hooks = [Hook(name, "Job", "", "", ("test",), weight) for name, weight in (("b", 1), ("a", 1), ("z", -1))]
    assert [hook.name for hook in manifest.of_event(hooks, "test")] == ["z", "a", "b"]


def test_only_the_notes_of_the_chart_itself_are_its_notes() -> None:
    files = {"c/charts/d/templates/NOTES.txt": "no", "c/templates/NOTES.txt": "yes", "c/templates/_help.tpl": "x: ["}
    found = manifest.sort(files, "c")
    assert (found.notes, found.documents) == ("yes", ())


def test_a_change_is_in_the_text_too() -> None:
    found = manifest.sort({"a.yaml": "kind: Secret"}, "c", lambda obj: {**obj, "type": "x"})
    assert found.documents[0].text == "kind: Secret\ntype: x"


def test_what_asks_to_be_kept_is_not_removed_and_services_go_before_workloads() -> None:
    kept = {"kind": "Secret", "metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}}
    others = [{"kind": kind} for kind in ("Namespace", "Deployment", "Service")]
    assert [obj["kind"] for obj in manifest.for_removal([kept, *others])] == ["Service", "Deployment", "Namespace"]


def test_lists_in_a_manifest_are_opened() -> None:
    assert manifest.objects("kind: List\nitems: [{kind: A}, {kind: B}]") == [{"kind": "A"}, {"kind": "B"}]


@pytest.mark.parametrize("text", ["a: [b", "just words", "- a\n- b", "metadata: 3", "kind: [x]"])
def test_a_file_that_is_no_object_names_itself(text: str) -> None:
    with pytest.raises(ManifestError, match=r"^YAML parse error on c/templates/bad\.yaml"):
        manifest.sort({"c/templates/bad.yaml": text}, "c")


@given(st.text(max_size=200))
def test_any_text_is_sorted_or_refused(text: str) -> None:
    with suppress(ManifestError):
        manifest.objects(manifest.sort({"c/templates/a.yaml": text}, "c").manifest)
