"""`havre kubeconfig`: print the administrator's kubeconfig of an instance."""

from __future__ import annotations

from pathlib import Path

import click

from havre.cli.options import instance, load


@click.command("kubeconfig")
@instance
@click.option("--path", "only_path", is_flag=True, help="Print where the file is, not what it holds.")
def command(config_file: Path | None, data_dir: Path | None, run_dir: Path | None, only_path: bool) -> None:
    """Print the administrator's kubeconfig.

    \b
    export KUBECONFIG=$(havre kubeconfig --path)
    kubectl get namespaces
    """
    config = load(config_file, data_dir=data_dir, run_dir=run_dir)
    try:
        text = config.kubeconfig.read_text()
    except FileNotFoundError:
        raise click.ClickException(
            f"no kubeconfig in {config.kubeconfig.parent}; start Havre once with `havre up`, or name its --data-dir"
        ) from None
    except PermissionError:
        raise click.ClickException(f"read {config.kubeconfig}: not permitted; try again as root") from None
    click.echo(config.kubeconfig if only_path else text, nl=only_path)
