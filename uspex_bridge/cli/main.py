"""``uspex-bridge``: the command that holds all others; each is imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import NoReturn

import click

from uspex_bridge.base.errors import BridgeError, Interrupted, ModelError, OutOfMemoryError, OutputError, exhausted
from uspex_bridge.base.logs import hush
from uspex_bridge.base.version import version
from uspex_bridge.base.words import one_line

#: Environment variable with which an unexpected failure shows where it happened.
_TRACEBACK = "USPEX_BRIDGE_TRACEBACK"
#: Command -> (module in this package, one line of help).
COMMANDS = {
    "relax": ("relax", "Relax structures by hand."),
    "init": ("init", "Write a ready USPEX folder."),
    "doctor": ("doctor", "Check whether this set-up works."),
    "docs": ("docs", "Show a page of the documentation."),
    "env": ("env", "Make an environment for a kind of model."),
    "serve": ("serve", "Keep models loaded for the executables."),
    "status": ("status", "Show the state of the service."),
    "stop": ("stop", "End the service."),
    "reload": ("reload", "Restart the workers of the service."),
    "log": ("log", "Show the relaxations of a structure."),
    "results": ("results", "Analyse a results folder: summary, best, show, export."),
    "hull": ("hull", "Show the stable phases at a pressure."),
    "converged": ("converged", "Test whether a search has converged."),
    "plot": ("plot", "Draw hull, ternary map, volumes, family tree, progress ..."),
    "report": ("report", "Write a report of a search, with figures and crystals."),
    "compare": ("compare", "Compare the phases of two searches."),
    "rescore": ("rescore", "Evaluate a search again with another model."),
    "free-energy": ("free_energy", "Calculate stable phases at temperatures, from phonons."),
    "seeds": ("seeds", "Write the best structures as seeds of another search."),
    "train": ("train", "Train a potential on labelled structures."),
    "evaluate": ("evaluate", "Compare models with labels and with each other."),
    "label": ("label", "Compute structures with DFT and collect the labels."),
    "dataset": ("dataset", "Manage labelled structures for training."),
    "map": ("map", "Draw a map of the structures of a search."),
    "screen": ("screen", "Find the structures on which models disagree."),
    "select": ("select", "Select a compact set of structures to compute."),
    "augment": ("augment", "Write perturbed copies of structures."),
    "cycle": ("cycle", "Repeat screening, labels, training and promotion."),
}


class _Lazy(click.Group):
    """A group that knows its commands by name and imports one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"uspex_bridge.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from uspex_bridge.base.schema import nearest

            ctx.fail(f"no such command '{args[0]}'{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; Ctrl-C ends it with a line that says how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(interrupted(ctx.invoked_subcommand or "")) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version())
def command() -> None:
    """Foundation-model relaxations in the place where USPEX expects VASP.

    The executables for USPEX itself are uspex-bridge-vasp (abinitioCode 1) and uspex-bridge-external (20, 99).
    """


#: Package that a command needs -> the extra that installs it.
EXTRAS = {
    **dict.fromkeys(("chemiscope", "dscribe", "matplotlib", "pandas", "plotly", "pyarrow", "sklearn"), "analysis"),
    **dict.fromkeys(("dask_jobqueue", "distributed"), "cluster"),
    "dpdata": "deepmd",
}
#: Command -> how to go on after Ctrl-C; the others have written nothing.
GO_ON = {
    "relax": "the same command with --resume continues",
    "train": "the same command with --resume continues from the last checkpoint",
    **dict.fromkeys(("cycle", "evaluate", "label", "rescore", "screen"), "the same command continues where it stopped"),
}


def main(argv: list[str] | None = None) -> None:
    """Console entry point; whatever goes wrong is one line and its exit code, and so is Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # None, where the caller has closed it
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        command.main(args=argv, prog_name="uspex-bridge")
    except BridgeError as error:
        _end(str(error), error.exit_code)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        _end(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """Return what to say of an error that no command has foreseen, and the exit code."""
    if reason := exhausted(error):
        return reason, OutOfMemoryError.exit_code
    if isinstance(error, OSError):
        place = "the output" if error.filename is None else error.filename
        return one_line(f"{place}: cannot be read or written: {error.strerror or error}"), OutputError.exit_code
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        return f"this needs {error.name}: pip install 'uspex_bridge[{extra}]'", ModelError.exit_code
    said = " ".join(f"unexpected {type(error).__name__}: {error}".split())
    return f"{said}; please report it with what {_TRACEBACK}=1 shows", BridgeError.exit_code


def interrupted(name: str) -> str:
    """Return what is said after Ctrl-C in a command."""
    return f"interrupted; {GO_ON.get(name, 'complete results are written, no incomplete file is left')}"


def _end(message: str, code: int) -> NoReturn:
    """Say what went wrong, as far as anything can be said, and exit."""
    with suppress(OSError):
        click.echo(f"uspex-bridge: {message}", err=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError):  # what is left in its buffer would fail again when this process ends
            with suppress(OSError, AttributeError):
                hush(stream.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
