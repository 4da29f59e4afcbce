"""``uspex-bridge-vasp``: the drop-in executable for abinitioCode 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from uspex_bridge.base.version import version
from uspex_bridge.cli.options import RUN_OPTIONS, SERVER

if TYPE_CHECKING:
    from uspex_bridge.call.config import Config


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@RUN_OPTIONS
@SERVER
@click.option(
    "--on-reject",
    type=click.Choice(["fail", "penalty"]),
    help="Result of a refused structure: none, or a very high enthalpy.",
)
@click.version_option(version())
def command(folder: Path, **options: Any) -> None:
    """Relax the structure in FOLDER (default: here) as VASP would, with machine-learned potentials.

    It reads POSCAR, INCAR and POTCAR, and writes OUTCAR, OSZICAR, CONTCAR, XDATCAR and vasprun.xml. Use it as
    commandExecutable in USPEX's INPUT.txt or input.uspex, without arguments. Exit codes:
    0 result written, 3 bad input, 4 bad settings, 5 no model or device, 6 refused by a guard, 7 model failed,
    8 cannot write, 9 folder busy, 10 stopped before any result, 1 anything else.
    """
    from uspex_bridge.base.files import named

    sys.exit(run(named(folder), "vasp", options))


def run(path: Path, kind: Literal["vasp", "external"], options: dict[str, Any]) -> int:
    """Run the bridge in a folder of either kind, and return the exit code; signals end it cleanly."""
    from uspex_bridge.base.errors import ModelError
    from uspex_bridge.base.files import OUTPUTS
    from uspex_bridge.base.halt import Halter
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.slot import run_in_slot

    halter = Halter()
    halter.catch_signals()

    def work(log: Any) -> None:
        config = read_settings(path, options)
        limit_threads(config.threads)
        try:
            from uspex_bridge.call.folders import ExternalFolder, VaspFolder
            from uspex_bridge.call.run import run_folder

            run_folder(VaspFolder(path) if kind == "vasp" else ExternalFolder(path), config, log, halter)
        except ImportError as error:
            log.debug("", exc_info=True)
            raise ModelError(f"the installation is broken: {error}; `uspex-bridge doctor` shows more") from error

    try:
        return run_in_slot(path, OUTPUTS[kind], work)
    finally:
        halter.close()


def read_settings(path: Path, options: dict[str, Any]) -> Config:
    """Read the settings for ``path`` and put the given command-line options over them.

    ``pressure`` and ``code`` are the [external] table's.

    Raises:
        ConfigError: a wrong or missing file.
    """
    from dataclasses import replace

    from uspex_bridge.call.config import load_config

    given = {key: value for key, value in options.items() if value is not None}
    explicit = given.pop("config", None)
    external = {key: given.pop(key) for key in ("pressure", "code") if key in given}
    if "code" in external:
        external["code"] = int(external["code"])
    config = replace(load_config(path, explicit), **given)
    return replace(config, external=replace(config.external, **external))


def main(argv: list[str] | None = None) -> None:
    """Run the command, and end with its exit code."""
    run_command(command, "uspex-bridge-vasp", argv)


def run_command(command: click.Command, name: str, argv: list[str] | None) -> NoReturn:
    """Run one of the executables' commands and exit; a wrong option is one line, like every other error."""
    try:
        command.main(args=argv, prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        wrong_usage(error, name)
    except click.Abort:
        sys.exit(1)
    sys.exit(0)


def wrong_usage(error: click.ClickException, name: str) -> NoReturn:
    """Say in one line what is wrong with the options, and exit."""
    print(f"uspex-bridge: {error.format_message()} ({name} --help)", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
