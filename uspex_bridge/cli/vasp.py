"""``uspex-bridge-vasp``: the drop-in executable for abinitioCode 1."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from uspex_bridge.cli.options import RUN_OPTIONS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@RUN_OPTIONS
@click.option("--on-reject", type=click.Choice(["fail", "penalty"]), help="What USPEX gets for a refused structure.")
@click.version_option(package_name="uspex_bridge")
def command(folder: Path, **options: Any) -> None:
    """Relax the structure in FOLDER (default: here) as VASP would, with machine-learned potentials.

    Reads POSCAR, INCAR and POTCAR, leaves OUTCAR, OSZICAR, CONTCAR, XDATCAR and vasprun.xml. Put it on the
    commandExecutable lines of USPEX's INPUT.txt or input.uspex; it needs no arguments. Exit codes:
    0 result written, 3 bad input, 4 bad settings, 5 no model or device, 6 refused by a guard, 7 model failed,
    8 cannot write, 9 folder busy, 10 stopped before any result, 1 anything else.
    """
    from uspex_bridge.folders import VaspFolder

    path = folder.absolute()
    sys.exit(run(VaspFolder(path), settings_reader(path, options)))


def run(folder: Any, settings: Callable[[], Any]) -> int:
    """Run the bridge in ``folder`` (of either kind) from the command line: signals end it cleanly."""
    from uspex_bridge.halt import Halter
    from uspex_bridge.run import run_folder

    halter = Halter()
    halter.catch_signals()
    return run_folder(folder, settings, halter=halter)


def settings_reader(path: Path, options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that reads the settings for ``path`` and puts the given options over them.

    ``pressure`` is the [external] table's.
    """
    from dataclasses import replace

    from uspex_bridge.config import load_config

    explicit = options.pop("config", None)
    pressure = options.pop("pressure", None)
    given = {key: value for key, value in options.items() if value is not None}

    def read() -> Any:
        config = replace(load_config(path, explicit), **given)
        if pressure is not None:
            config = replace(config, external=replace(config.external, pressure=pressure))
        return config

    return read


def main(argv: list[str] | None = None) -> None:
    """Console entry point."""
    command.main(args=argv, prog_name="uspex-bridge-vasp")


if __name__ == "__main__":
    main()
