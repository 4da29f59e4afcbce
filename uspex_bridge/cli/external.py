"""``uspex-bridge-external``: the executable for abinitioCode 20 and 99, USPEX's interfaces to a user's own code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from uspex_bridge.base.version import version
from uspex_bridge.cli.options import RUN_OPTIONS, SERVER, Finite
from uspex_bridge.cli.vasp import run, run_command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@RUN_OPTIONS
@SERVER
@click.option(
    "--pressure", type=Finite(), help="Pressure, GPa.  [default: PSTRESS of usercode.in, else parameters.json]"
)
@click.option("--code", type=click.Choice(["20", "99"]), help="abinitioCode.  [default: from the input file]")
@click.option(
    "--on-reject",
    type=click.Choice(["fail", "penalty"]),
    help="Result of a refused structure: none, or a very high enthalpy.",
)
@click.version_option(version())
def command(folder: Path, **options: Any) -> None:
    """Relax the structure in FOLDER (default: here) as an external code of USPEX.

    abinitioCode 20: input.xyz becomes output.xyz. abinitioCode 99: geom.in becomes geom.out and energy.txt, and
    usercode.in may hold INCAR tags (ISIF, EDIFFG, PSTRESS, ...). The table [external] of bridge.toml sets points
    that USPEX's manual does not define. Exit codes are those of uspex-bridge-vasp.
    """
    from uspex_bridge.base.files import named

    sys.exit(run(named(folder), "external", options))


def main(argv: list[str] | None = None) -> None:
    """Run the command, and end with its exit code."""
    run_command(command, "uspex-bridge-external", argv)


if __name__ == "__main__":
    main()
