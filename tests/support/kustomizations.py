"""The cases of tests/data/kustomize: files by path, by name of the case; the kustomization to build is in `o`."""

from __future__ import annotations

from pathlib import Path

Files = dict[str, str]
_DATA = Path(__file__).parents[1] / "data" / "kustomize"


def cases(file: str) -> dict[str, Files]:
    """`=== name : base` begins a case, `--> path` a file of it."""
    _, *parts = (_DATA / file).read_text().split("\n=== ")
    found: dict[str, Files] = {}
    for part in parts:
        head, _, body = f"{part}\n".partition("\n")
        name, _, base = head.partition(" : ")
        files = dict(found["base"]) if base else {}
        for section in f"\n{body}".split("\n--> ")[1:]:
            path, _, text = section.partition("\n")
            files[path] = f"{text}\n" if text.strip() else ""
        found[name] = files
    del found["base"]
    return found
