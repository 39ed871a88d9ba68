"""`havre completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   havre completion bash > /etc/bash_completion.d/havre
    zsh    havre completion zsh > "${fpath[1]}/_havre"
    fish   havre completion fish > ~/.config/fish/completions/havre.fish
    """
    from havre.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, "every shell of SHELLS is known to click"
    click.echo(kind(main, {}, "havre", "_HAVRE_COMPLETE").source())
