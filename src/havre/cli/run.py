"""`havre run PART…`: any part alone, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from havre.cli.options import instance, load, settings
from havre.cli.up import run_parts


@click.command("run")
@click.argument("parts", nargs=-1, required=True)
@instance
@settings
@click.option("-v", "--verbose", is_flag=True, help="Log decisions too.")
def command(
    parts: tuple[str, ...],
    config_file: Path | None,
    data_dir: Path | None,
    run_dir: Path | None,
    *,
    verbose: bool,
    **chosen: Any,
) -> None:
    """Run parts of Havre in the foreground until Ctrl-C.

    \b
    control   API server, store, scheduler and workload controllers; needs no root
    runtime   the container runtime alone, as containerd is run
    node      this machine as a node: runtime, network and agent
    platform  delivery from Git, on this cluster or (--kubeconfig) another
    """
    run_parts(parts, load(config_file, data_dir=data_dir, run_dir=run_dir, **chosen), verbose=verbose)
