"""The `havre` command: one module per noun, imported when it is called, so that `havre --help` is quick.

up, down, status   a whole instance
run                any part, in the foreground
kubeconfig         the file by which kubectl reaches an instance
logs               what an instance in the background has written
doctor             what this machine offers, what degrades
uninstall          everything goes, the data too
completion         what a shell needs to complete our commands
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from havre import __version__

COMMANDS = {  # name → module and attribute
    "completion": "havre.cli.completion:command",
    "doctor": "havre.cli.doctor:command",
    "down": "havre.cli.up:down",
    "kubeconfig": "havre.cli.kubeconfig:command",
    "logs": "havre.cli.logs:command",
    "run": "havre.cli.run:command",
    "status": "havre.cli.up:status",
    "uninstall": "havre.cli.uninstall:command",
    "up": "havre.cli.up:up",
}


class _Late(click.Group):
    """Commands whose module is imported when they are named; the list of them needs only their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: Any = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Late, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HAVRE"})
@click.version_option(__version__, prog_name="havre", message="%(prog)s %(version)s (Kubernetes v1.34 API)")
def main() -> None:
    """Havre turns one Linux machine into a small cloud-native platform.

    Every option can also be set by an environment variable: HAVRE_RUN_API_PORT=7443 is `havre run --api-port 7443`.
    """
