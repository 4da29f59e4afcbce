"""``uspex-bridge env``: one environment per kind of model."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uspex_bridge.cli.options import CONFIG

if TYPE_CHECKING:
    from uspex_bridge.models.environments import Environment

HELP = {"help_option_names": ["-h", "--help"]}
FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder of the environment.  [default: in ~/.local/share]"
)


@click.group(context_settings=HELP)
def command() -> None:
    """Environments for kinds of models: make, list and check them.

    The packages of different kinds conflict. Each kind can have its own environment, in which a worker process runs.
    """


@command.command(context_settings=HELP)
@click.argument("kind")
@FOLDER
@click.option("--python", metavar="PATH", help="Interpreter for the environment.  [default: this one]")
@click.option(
    "--index",
    metavar="URL",
    help="Further package index, such as one of pytorch.org with a CUDA build.  [default: none]",
)
@click.option("--force", is_flag=True, help="Overwriting of an environment that is there.")
@click.option("--no-settings", is_flag=True, help="No entry in bridge.toml.")
@CONFIG
def create(
    kind: str,
    folder: Path | None,
    python: str | None,
    index: str | None,
    force: bool,
    no_settings: bool,
    config: Path | None,
) -> None:
    """Install KIND with the tested versions; name its interpreter in bridge.toml.

    uv is used if it is on PATH, otherwise venv and pip. The interpreter is written to [calculators.KIND] of the
    settings file that a relaxation here would read. Without one, ~/.config/uspex_bridge/bridge.toml is created.

    Example: uspex-bridge env create orb
    """
    from uspex_bridge.models import environments

    wanted = environments.environment(kind, folder)
    if wanted.made and not wanted.outdated and not force:
        click.echo(f"{wanted.folder} is there already, from today's pins")
    else:
        click.echo(f"{wanted.folder}: installing {wanted.card.package} and all it needs")
        try:
            environments.create(wanted, python=python, index=index, force=force, tell=_progress)
        finally:
            _progress("")
    _say(wanted, wanted.python)
    if not no_settings:
        click.echo(_settings(kind, wanted.python, config))


@command.command("list", context_settings=HELP)
def list_() -> None:
    """List the kinds and their environments.

    Example: uspex-bridge env list
    """
    from uspex_bridge.base.tables import layout
    from uspex_bridge.models import environments

    rows = []
    for card, found in environments.families():
        state = "not made" if found else "no pins"
        if found is None and card.module in environments.kinds():
            state = f"that of {card.module}"
        if found and found.made:
            state = "older pins" if found.outdated else "made"
        rows.append([card.kind, card.title, environments.pinned(card), state])
    click.echo(layout([(word, "") for word in ("kind", "method", "package", "environment")], rows))
    click.echo(f"Environments are made in {environments.home()}")


@command.command(context_settings=HELP)
@click.argument("kinds", nargs=-1)
@FOLDER
def check(kinds: tuple[str, ...], folder: Path | None) -> None:
    """Import each package in its environment; compare versions.

    By default all kinds with an environment are checked. Exit code 1 if a package cannot be imported.

    Example: uspex-bridge env check orb
    """
    from uspex_bridge.models import environments

    wanted = [environments.environment(kind, folder) for kind in kinds or environments.kinds()]
    if not kinds:
        wanted = [one for one in wanted if one.made]
    if not wanted:
        click.echo(f"no environment is made in {environments.home()}; make one with: uspex-bridge env create KIND")
    sound = True
    for found in wanted:
        if found.python.exists():
            sound = _say(found, found.python) and sound
        else:
            click.echo(
                f"{found.kind}: no environment in {found.folder}; make it with: uspex-bridge env create {found.kind}"
            )
            sound = False
    sys.exit(0 if sound else 1)


def _say(found: Environment, python: Path) -> bool:
    """Print what an environment says of itself; return whether a worker can run there."""
    from uspex_bridge.models import environments

    seen = environments.inspect(found.kind, python)
    if not seen.ok:
        click.echo(f"{found.kind}: {found.card.title} cannot be imported in {found.folder}: {seen.problem}")
        return False
    gpus = f", {seen.gpus} GPU(s)" if seen.gpus else ""
    versions = f"{len(seen.differing)} versions are not those tested:" if seen.differing else "versions as tested"
    click.echo(f"{found.kind}: {found.card.title} can be imported, Python {seen.python}{gpus}; {versions}")
    for name, (pinned, there) in seen.differing.items():
        click.echo(f"    {name} {there or 'is missing'}, tested with {pinned}")
    return True


def _progress(line: str) -> None:
    """Show on a terminal that something is going on."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\033[K{line.strip()[:width]}", nl=False, err=True)


def _settings(kind: str, python: Path, explicit: Path | None) -> str:
    """Write the interpreter into the settings file and say so."""
    from uspex_bridge.call.config import find_config, set_interpreter, user_config

    path = find_config(Path.cwd() / "CalcFold1", explicit) or user_config()
    if set_interpreter(path, kind, str(python)):
        return f"{path}: [calculators.{kind}] runs there"
    return f'{path} names another python under [calculators.{kind}]; to change that, write: python = "{python}"'
