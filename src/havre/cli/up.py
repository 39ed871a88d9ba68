"""`havre up`, `havre down`, `havre status`: a whole instance."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from havre.cli.options import instance, load, settings

if TYPE_CHECKING:
    from havre.app.config import Config


@click.command("up")
@instance
@settings
@click.option("--detach", is_flag=True, help="Return when everything is ready; go on in the background.")
@click.option(
    "--successor/--no-successor",
    default=True,
    help="Whether a child takes the place of a killed supervisor; systemd does that better.",
)
@click.option("--ready-fd", type=int, hidden=True, help="Where to say what starts; an empty line when ready.")
def up(
    config_file: Path | None,
    data_dir: Path | None,
    run_dir: Path | None,
    *,
    detach: bool,
    successor: bool,
    ready_fd: int | None,
    **chosen: Any,
) -> None:
    """Start everything, in the foreground unless --detach is given. A second `up` of a running instance changes
    nothing.
    """
    from havre.app import background

    config = load(config_file, data_dir=data_dir, run_dir=run_dir, **chosen)
    record = background.running(config)
    if record is not None and record.pid != os.getpid():  # our own: we have taken the place of a killed supervisor
        click.echo(f"already running in {config.data_dir}")
        _hints(config)
        return
    arguments = _arguments(config_file, data_dir=config.data_dir, run_dir=config.run_dir, **chosen)
    if not detach or ready_fd is not None:  # HAVRE_UP_DETACH is set for the instance in the background too
        _supervise(config, [sys.executable, "-m", "havre", "up", *arguments] if successor else [], ready_fd)
        return
    try:
        background.start(config, arguments, click.echo)
    except background.CannotStart as e:
        raise click.ClickException(f"Havre did not start; its log {background.log_file(config)} ends with\n{e}") from e
    _hints(config)


def _arguments(config_file: Path | None, *, with_node: bool | None, **chosen: Any) -> list[str]:
    """The options again, for the instance in the background."""
    pairs = {"config": config_file, "kubeconfig": chosen.pop("platform_kubeconfig", None), **chosen}
    flags = {None: [], True: ["--with-node"], False: ["--without-node"]}[with_node]
    return [*flags, *(f"--{key.replace('_', '-')}={value}" for key, value in pairs.items() if value is not None)]


def _supervise(config: Config, again: list[str], ready_fd: int | None) -> None:
    """Everything, a process per promise, until a signal; `again` is the command of a successor."""
    from havre.app import log
    from havre.app.errors import StartFailed
    from havre.app.processes import processes
    from havre.app.supervisor import Supervisor

    log.setup()
    say, ready = _teller(ready_fd)
    try:
        Supervisor(processes(config), config, again).run(say, ready)
    except StartFailed as e:
        raise click.ClickException(str(e)) from e


def run_parts(names: tuple[str, ...], config: Config, *, verbose: bool = False) -> None:
    """Run the named parts in this process until a signal."""
    import uvloop

    from havre.app import log
    from havre.app import run as runner
    from havre.app.errors import StartFailed

    log.setup(verbose=verbose)
    try:
        uvloop.run(runner.run(runner.find(names), config, click.echo, lambda: None))
    except runner.UnknownPart as e:
        raise click.UsageError(str(e)) from e
    except StartFailed as e:
        raise click.ClickException(str(e)) from e


def _teller(ready_fd: int | None) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Where progress goes: to the command that started us in the background, until we are ready; else to the
    terminal.
    """
    if ready_fd is None:
        return click.echo, lambda: None
    pipe = os.fdopen(ready_fd, "w")

    def say(line: str) -> None:
        if not pipe.closed:
            print(line, file=pipe, flush=True)
        logging.getLogger("havre").info(line)

    def ready() -> None:
        print(file=pipe, flush=True)
        pipe.close()

    return say, ready


def _hints(config: Config) -> None:
    own = "" if config.is_default else f" --data-dir {shlex.quote(str(config.data_dir))}"
    click.echo(
        f"""
Try
  export KUBECONFIG={shlex.quote(str(config.kubeconfig))}
  kubectl get nodes,pods,services -A
Stop it with `havre down{own}`; what is stored stays."""
    )


@click.command("down")
@instance
@click.option("--keep-pods", is_flag=True, help="Leave containers and the network at work, for an upgrade of Havre.")
def down(config_file: Path | None, data_dir: Path | None, run_dir: Path | None, *, keep_pods: bool) -> None:
    """Stop an instance that runs in the background, and its containers; what is stored stays."""
    config = load(config_file, data_dir=data_dir, run_dir=run_dir)
    stopped = _stop(config) if keep_pods else stop_and_remove(config)
    click.echo("stopped" if stopped else f"nothing runs in {config.data_dir}")


def stop_and_remove(config: Config) -> bool:
    """Whether there was anything to stop, or to take away from the machine."""
    stopped = _stop(config)
    return _remove_node(config) or stopped


def _stop(config: Config) -> bool:
    from havre.app import background

    try:
        return background.stop(config)
    except background.CannotStop as e:
        raise click.ClickException(str(e)) from e


def _remove_node(config: Config) -> bool:
    """Containers, links, programs of this instance, if it has ever had any."""
    if os.geteuid() != 0 or not config.run_dir.exists():
        return False
    import uvloop

    from havre.app import node
    from havre.app.errors import StartFailed

    try:
        uvloop.run(node.remove(config))
    except StartFailed as e:
        raise click.ClickException(f"take away what the node has made: {e}") from e
    return True


@click.command("status")
@instance
def status(config_file: Path | None, data_dir: Path | None, run_dir: Path | None) -> None:
    """Say whether an instance runs; the exit code is 3 when it does not."""
    from havre.app import background

    config = load(config_file, data_dir=data_dir, run_dir=run_dir)
    record = background.running(config)
    if record is None:
        click.echo(f"not running: {config.data_dir}")
        raise SystemExit(3)
    click.echo(f"running: process {record.pid}, data in {config.data_dir}, log {background.log_file(config)}")
