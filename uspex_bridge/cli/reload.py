"""``uspex-bridge reload``: let every worker of the service start afresh."""

from __future__ import annotations

import click

from uspex_bridge.cli.options import SOCKET


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@SOCKET
def command(socket: str | None) -> None:
    """Load models again: workers are replaced, busy ones after their structure.

    A changed file or link of weights is noticed without this command; it is for a changed package or environment.
    """
    from uspex_bridge.base.words import counted
    from uspex_bridge.service.local import reach

    click.echo(f"{counted(reach(socket, {'do': 'reload'})['workers'], 'worker')} will be replaced")
