"""Options that several commands share: which instance is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from havre.app.config import Config

Command = Callable[..., Any]


def instance(function: Command) -> Command:
    """--config, --data-dir and --run-dir: they tell instances on one machine apart."""
    function = click.option(
        "--run-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where sockets and mounts live.  [default: /run/havre, or /run/INSTANCE for other data]",
    )(function)
    function = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the state lives.  [default: /var/lib/havre for root, else ~/.local/state/havre]",
    )(function)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A YAML file with settings.  [default: /etc/havre/config.yaml, if there is one]",
    )(function)


def settings(function: Command) -> Command:
    """What can be set about the parts; None means: as the configuration says."""
    for option in (
        click.option("--api-host", help="Address on which the API listens.  [default: 127.0.0.1]"),
        click.option("--api-port", type=int, help="Port of the API; 0 takes a free one.  [default: 6443]"),
        click.option("--service-cidr", help="Addresses of Services.  [default: 10.96.0.0/16]"),
        click.option(
            "--token-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help='Static bearer tokens, a line each: token,user,uid,"group1,group2".',
        ),
        click.option(
            "--with-node/--without-node",
            default=None,
            help="Containers too, or the API alone.  [default: with, as root]",
        ),
        click.option("--node-name", help="Name of this machine as a Node.  [default: its host name]"),
        click.option("--node-address", help="Its address.  [default: that of the default route]"),
        click.option("--pod-cidr", help="Addresses of pods.  [default: 10.42.0.0/24]"),
        click.option("--agent-port", type=int, help="Port of the node agent.  [default: 10250]"),
        click.option("--dns-port", type=int, help="Port of the cluster DNS on the pods' gateway.  [default: 10053]"),
        click.option("--registry-port", type=int, help="Port of the image registry on loopback.  [default: 5000]"),
        click.option(
            "--kubeconfig",
            "platform_kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            help="The cluster that the platform part works for.  [default: this one]",
        ),
        click.option("--artifact-port", type=int, help="Port of what was read from Git.  [default: 9790]"),
    ):
        function = option(function)
    return function


def load(config_file: Path | None, **overrides: Any) -> Config:
    """The configuration, or a usage error that says what is wrong with it."""
    from havre.app import config as configuration

    try:
        return configuration.load(config_file, **overrides)
    except configuration.ConfigError as e:
        raise click.UsageError(str(e)) from e
