"""``uspex-bridge cycle``: screening, labelling and training as a loop."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.base.words import counted, duration
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite

if TYPE_CHECKING:
    from uspex_bridge.learn.cycle.history import Cycle
    from uspex_bridge.learn.cycle.loop import Loop

FOLDER = click.argument("folder", type=click.Path(path_type=Path), default=Path())


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Repeat screening, selection, labels, training, evaluation and promotion until the models agree.

    \b
    uspex-bridge cycle init loop            # writes loop/cycle.toml to fill in
    uspex-bridge cycle run loop --dry-run   # what comes next, as commands
    uspex-bridge cycle run loop
    uspex-bridge cycle status loop
    """  # noqa: D301 (click's mark for lines that stay as they are)


@command.command(context_settings=q.CONTEXT)
@FOLDER
def init(folder: Path) -> None:
    """Write a cycle.toml with all settings into FOLDER, to fill in.

    Example: uspex-bridge cycle init loop
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.base.templates import TEMPLATES
    from uspex_bridge.learn.cycle.settings import FILENAME

    path = folder / FILENAME
    if path.exists():
        raise ConfigError(f"{path} is there already")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, (TEMPLATES / "cycle" / FILENAME).read_text(encoding="utf-8"))
    click.echo(f"{path}: fill it in, then `uspex-bridge cycle run {folder} --dry-run`")


@command.command(context_settings=q.CONTEXT)
@FOLDER
@click.option(
    "--dry-run",
    is_flag=True,
    help="List of the remaining commands of this cycle and of missing files; no command is run.",
)
@click.option(
    "--watch",
    type=Finite(min=0, min_open=True),
    help="Interval between checks while the loop waits, s.  [default: end of the command instead]",
)
@click.option("--reopen", is_flag=True, help="Continuation of a finished loop with the present settings.")
def run(folder: Path, dry_run: bool, watch: float | None, reopen: bool) -> None:
    """Continue the loop in FOLDER until it is finished or waits for labels.

    Example: uspex-bridge cycle run loop --watch 600

    The sources, checkpoints, files, interpreters, POTCARs and programs in cycle.toml are checked first; missing
    ones are listed, with exit code 4. A killed loop is continued by the next call. Every step is a command, which
    is printed and can be repeated by hand. cycle.jsonl records steps and decisions, cycle-N/ holds the results.
    """
    from uspex_bridge.learn.cycle.checks import check
    from uspex_bridge.learn.cycle.loop import Loop

    loop = Loop(folder, click.echo)
    if dry_run:
        _plan(loop)
    if reopen or not loop.state.ended:
        check(folder, loop.settings, promoted=loop.state.number > 0)
    if dry_run:
        return
    if reopen:
        loop.reopen()
    while True:
        outcome = loop.run()
        click.echo(outcome)
        if watch is None or loop.state.ended:
            return
        time.sleep(watch)


def _plan(loop: Loop) -> None:
    state = loop.state
    if state.ended:
        click.echo(f"finished ({state.ended}); --reopen continues")
    for step in loop.missing():
        click.echo(f"cycle {state.number}: {step}")


@command.command(context_settings=q.CONTEXT)
@FOLDER
@q.JSON
def status(folder: Path, as_json: bool) -> None:
    """Show the state of the loop in FOLDER and its next step.

    Example: uspex-bridge cycle status loop
    """
    from uspex_bridge.learn.cycle.cost import cost_of
    from uspex_bridge.learn.cycle.history import cycles_of, table
    from uspex_bridge.learn.cycle.loop import Loop, read_journal

    loop = Loop(folder)
    state, left = loop.state, loop.missing()
    last = next((e for e in reversed(read_journal(folder)) if e["event"] in ("failed", "waiting", "done")), None)
    trouble = last if last is not None and last["event"] != "done" else None
    if as_json:
        facts: dict[str, Any] = {
            "cycle": state.number,
            "done": sorted(state.done),
            "next": [str(step) for step in left],
            "ended": state.ended or None,
            "trouble": trouble,
            "cycles": [asdict(cycle) for cycle in cycles_of(folder)],
            "cost": asdict(cost_of(folder, loop.settings)),
        }
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    if cycles := cycles_of(folder):
        click.echo("\n".join([table(cycles), *_times(cycles), str(cost_of(folder, loop.settings))]) + "\n")
    if state.ended:
        click.echo(state.ended)
    elif left:
        click.echo(f"cycle {state.number}: {counted(len(state.done), 'step')} done; next: {left[0]}")
    if trouble is not None and not state.ended:
        click.echo(f"{trouble['step']} {trouble['event']}: {trouble['detail']}")


def _times(cycles: list[Cycle]) -> list[str]:
    """Say how long each cycle took, and which steps took a hundredth of that or more."""
    lines = []
    for cycle in cycles:
        if total := sum(cycle.seconds.values()):
            steps = [f"{step} {duration(took)}" for step, took in cycle.seconds.items() if took >= 0.01 * total]
            lines.append(f"cycle {cycle.number} took {duration(total)}: {', '.join(steps)}")
    return lines


@command.command(context_settings=q.CONTEXT)
@FOLDER
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder.  [default: FOLDER/report]")
@FORCE
@q.JSON
def report(folder: Path, out: Path | None, force: bool, as_json: bool) -> None:
    """Draw errors and disagreement of the loop in FOLDER against the cycle.

    Example: uspex-bridge cycle report loop

    --out gets cycles.png, cycles.csv (errors in eV/atom and eV/Å; predicted are those of the models in use on the
    labels that came next) and cycles.txt.
    """
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import cycles as figure
    from uspex_bridge.figures import style
    from uspex_bridge.learn.cycle.cost import cost_of
    from uspex_bridge.learn.cycle.history import cycles_of, rows, table
    from uspex_bridge.learn.cycle.settings import read_cycle_settings

    cycles = cycles_of(folder)
    if not any(cycle.models for cycle in cycles):
        raise InputError(f"{folder}: no cycle has finished yet; `uspex-bridge cycle status {folder}`")
    out = out or folder / "report"
    q.keep(*(out / f"cycles{ending}" for ending in (".png", ".csv", ".txt")), force=force)
    write_whole(out / "cycles.csv", as_csv(rows(cycles)))
    text = "\n".join([table(cycles), *_times(cycles), str(cost_of(folder, read_cycle_settings(folder)))])
    write_whole(out / "cycles.txt", text + "\n")
    style.save(figure.draw(cycles), out / "cycles.png")
    if as_json:
        click.echo(json.dumps({"cycles": [asdict(cycle) for cycle in cycles]}, indent=1, ensure_ascii=False))
    else:
        click.echo(text)
        click.echo(f"{out}/: cycles.png, cycles.csv, cycles.txt")
