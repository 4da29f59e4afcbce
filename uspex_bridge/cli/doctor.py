"""``uspex-bridge doctor``: will this set-up work?"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli.options import CONFIG

if TYPE_CHECKING:
    from uspex_bridge.doctor.checkup import Item

_MARKS = {"ok": ("ok", "green"), "note": ("--", "yellow"), "bad": ("!!", "red")}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@CONFIG
@click.option(
    "--fetch", "wanted", multiple=True, metavar="KIND:MODEL", help="Weights to download; nothing else is done."
)
@click.option(
    "--models",
    is_flag=True,
    help="List of the kinds of models and of all weights with a name; nothing else is done.",
)
@click.option("--uspex26", is_flag=True, help="INPUT.txt of USPEX 26; also recognized by abinitioCode 20.")
@click.option("--no-trial", is_flag=True, help="No trial relaxation.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def command(
    folder: Path | None,
    config: Path | None,
    wanted: tuple[str, ...],
    models: bool,
    uspex26: bool,
    no_trial: bool,
    as_json: bool,
) -> None:
    """Check packages, models and the USPEX set-up in FOLDER.

    Packages, models and devices are checked. A small structure is relaxed in the way of USPEX, and the result is
    read with USPEX's rules. With FOLDER (which contains INPUT.txt or input.uspex) its files are checked for common
    mistakes. The exit code is 0 if the set-up is usable, 1 if not.

    Example: uspex-bridge doctor search
    """
    if wanted:
        for entry in wanted:
            _fetch(entry)
        return
    if folder is not None and not folder.is_dir():
        from uspex_bridge.base.errors import InputError

        raise InputError(f"{folder}: there is no such folder")
    from uspex_bridge.doctor import checkup, weights

    if models:
        kinds, listed = weights.families(), list(weights.known_models())
        if as_json:
            click.echo(json.dumps({"kinds": kinds, "models": listed}, indent=1, ensure_ascii=False))
        else:
            click.echo(f"{_kinds(kinds)}\n\n{_table(listed)}")
        return
    tell = (lambda item: None) if as_json else _Screen().tell
    report = checkup.examine(folder, config, relax=not no_trial, of_26=uspex26, tell=tell)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=1, ensure_ascii=False))
    else:
        verdict = "usable" if report.usable else "not usable as it is: see the lines marked !!"
        click.echo(verdict + (" (nothing was relaxed)" if no_trial else ""))
    sys.exit(0 if report.usable else 1)


class _Screen:
    """Prints the report's lines under their sections."""

    def __init__(self) -> None:
        self.section = ""

    def tell(self, item: Item) -> None:
        """Print one line."""
        if item.section != self.section:
            click.secho(item.section, bold=True)
            self.section = item.section
        mark, colour = _MARKS[item.state]
        width = min(shutil.get_terminal_size((80, 40)).columns, 140)
        lines = textwrap.wrap(item.text, width - 4, break_long_words=False, break_on_hyphens=False)
        click.echo(f" {click.style(mark, fg=colour)} " + "\n    ".join(lines))


def _kinds(kinds: list[dict[str, Any]]) -> str:
    from uspex_bridge.base.tables import layout

    rows = []
    for kind in kinds:
        places = [f"here, {kind['installed']}"] if kind["installed"] else []
        places += ["in its environment"] if kind["environment"] else []
        where = "; ".join(places) or f"no: {kind['get']}"
        rows.append([kind["kind"], kind["title"], where, kind["verified"]])
    return layout([("kind", ""), ("method", ""), ("installed", ""), ("tested weights", "")], rows)


def _table(models: list[dict[str, Any]]) -> str:
    """Lay out the weights: a line each, below it where they lie, a command of their own, a note."""
    from uspex_bridge.base.tables import layout

    rows, below = [], []
    for model in models:
        size = f"{model['size_mb']:g} MB" if model["size_mb"] else ""
        rows.append(
            [f"{model['kind']}:{model['model']}", "no" if model["problem"] else "yes", size, model["licence"] or ""]
        )
        own = "" if "doctor --fetch" in model["get"] else model["get"]
        below.append([text for text in (model["path"], own, model["note"]) if text])
    shown = layout([("weights", ""), ("here", ""), ("size", ""), ("licence", "")], rows, below)
    return f"{shown}\nGet weights with: uspex-bridge doctor --fetch KIND:MODEL"


def _fetch(entry: str) -> None:
    """Download the weights KIND:MODEL, with a line of progress; a URL may end in ``#sha256=`` and the file's checksum.

    Raises:
        ConfigError: there is no such kind.
        ModelError: they could not be fetched.
    """
    from uspex_bridge.models import inventory

    kind, colon, model = entry.partition(":")
    if not colon or not model:
        raise click.BadParameter(f"'{entry}' is not KIND:MODEL, such as mace:medium-mpa-0", param_hint="--fetch")

    def progress(done: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f}" if total else ""
        click.echo(f"\r{entry}: {done / 1e6:.1f}{share} MB", nl=False, err=True)

    model, _, digest = model.partition("#sha256=")
    path = inventory.fetch(kind, model, digest or None, progress=progress if sys.stderr.isatty() else None)
    click.echo(f"{entry}: {path}")
