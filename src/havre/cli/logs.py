"""`havre logs`: what an instance in the background has written."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from pathlib import Path

import click

from havre.cli.options import instance, load

LOOK = 0.2  # seconds between two looks at a file that is followed


@click.command("logs")
@instance
@click.option("-n", "--lines", default=100, show_default=True, help="The last lines only; 0 shows all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-p", "--part", default="", help="Only lines of this part: control, node, …")
def command(
    config_file: Path | None, data_dir: Path | None, run_dir: Path | None, lines: int, part: str, *, follow: bool
) -> None:
    """Show the log of an instance that runs, or ran, in the background."""
    from havre.app import background

    config = load(config_file, data_dir=data_dir, run_dir=run_dir)
    path = background.log_file(config)
    wanted = f" havre.{part}" if part else ""
    try:
        with path.open(errors="replace") as file:
            for line in deque((line for line in file if wanted in line), maxlen=lines or None):
                click.echo(line, nl=False)
            while follow:
                line = file.readline()
                if line and wanted in line:
                    click.echo(line, nl=False)
                elif not line:
                    _wait()
    except FileNotFoundError:
        raise click.ClickException(f"no log in {config.data_dir}; start Havre with `havre up --detach`") from None
    except PermissionError:
        raise click.ClickException(f"read {path}: not permitted; try again as root") from None
    except KeyboardInterrupt:
        return


def _wait() -> None:
    """Until the next look, or the reader of our output is gone: then there is nobody to go on for."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(LOOK * 1000)):
        os._exit(0)
