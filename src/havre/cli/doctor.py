"""`havre doctor`: what this machine offers, what degrades, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from havre.cli.options import instance, load, settings

_MARKS = {"ok": ("ok", "green"), "less": ("less", "yellow"), "missing": ("MISSING", "red")}


@click.command("doctor")
@instance
@settings
def command(config_file: Path | None, data_dir: Path | None, run_dir: Path | None, **chosen: Any) -> None:
    """Look at kernel, cgroups, eBPF, programs, disk and ports. The exit code is 1 when a node cannot run here."""
    from havre.app import doctor

    config = load(config_file, data_dir=data_dir, run_dir=run_dir, **chosen)
    findings = doctor.examine(config)
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark, colour = _MARKS[finding.verdict.value]
        click.echo(f"{click.style(f'{mark:8}', fg=colour)}{finding.what:{width}}  {finding.found}")
        if finding.advice:
            click.echo(f"{'':8}{'':{width}}  → {finding.advice}")
    if any(finding.verdict is doctor.Verdict.MISSING for finding in findings):
        raise SystemExit(1)
