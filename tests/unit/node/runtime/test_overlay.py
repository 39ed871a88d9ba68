"""The text that older kernels take for an overlay mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from havre.node import mounts
from havre.node.runtime.overlay import Overlay, mount_by_text


def test_paths_are_short_and_separators_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path, str, int, str]] = []
    monkeypatch.setattr(mounts, "in_own_directory", lambda directory, act: act())
    monkeypatch.setattr(mounts, "mount", lambda *arguments: asked.append(arguments))
    lower = [tmp_path / "layers/12/fs", tmp_path / "layers/1:2,3/fs"]
    mount_by_text(Overlay("havre:k", lower, tmp_path / "active/k/fs", tmp_path / "active/k/work"), tmp_path / "t")
    text = r"lowerdir=layers/12/fs:layers/1\:2\,3/fs,upperdir=active/k/fs,workdir=active/k/work,index=off"
    assert asked == [("havre:k", tmp_path / "t", "overlay", 0, text)]


def test_128_layers_fit_into_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(mounts, "in_own_directory", lambda directory, act: act())
    monkeypatch.setattr(mounts, "mount", lambda *arguments: texts.append(arguments[4]))
    lower = [tmp_path / f"layers/{100_000 + i}/fs" for i in range(128)]
    key = "k" * 128
    mount_by_text(Overlay("s", lower, tmp_path / "active" / key / "fs", tmp_path / "active" / key / "work"), tmp_path)
    assert len(texts[0]) < 4096
