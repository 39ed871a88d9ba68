"""`havre uninstall`: everything goes, the data too."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from havre.cli.options import instance, load
from havre.cli.up import stop_and_remove


@click.command("uninstall")
@instance
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(config_file: Path | None, data_dir: Path | None, run_dir: Path | None, *, yes: bool) -> None:
    """Stop an instance and remove all of it: containers, networks, images, volumes, every object.

    Nothing comes back.
    """
    config = load(config_file, data_dir=data_dir, run_dir=run_dir)
    if not config.data_dir.exists() and not config.run_dir.exists():
        click.echo(f"nothing to remove: {config.data_dir}")
        return
    if not yes:
        click.confirm(f"Remove everything in {config.data_dir}, the data of all pods included?", abort=True)
    stop_and_remove(config)
    if left := _mounts(config.data_dir):  # what is behind a mount is not ours to remove
        raise click.ClickException(f"unmount {', '.join(left)} first: a removal would go through it")
    try:
        shutil.rmtree(config.data_dir, ignore_errors=False)
    except FileNotFoundError:
        pass
    except OSError as e:
        raise click.ClickException(f"remove {e.filename or config.data_dir}: {e.strerror}; remove it by hand") from e
    click.echo(f"removed {config.data_dir}")


def _mounts(directory: Path) -> list[str]:
    """What is still mounted below, from /proc/self/mountinfo."""
    below = f"{directory.resolve()}/"
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(below)]
