"""``uspex-bridge stop``: end the service."""

from __future__ import annotations

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli.options import SOCKET


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--now", is_flag=True, help="Immediate end; waiting calls continue without the service.")
@SOCKET
def command(socket: str | None, now: bool) -> None:
    """End the service after its present jobs; new jobs are refused."""
    from uspex_bridge.service import local

    for left in local.stop(socket, now=now):
        click.echo(f"stopping, {counted(left, 'job')} left" if left and not now else "stopping")
    click.echo("stopped")
