"""``uspex-bridge plot pressure``: which phase is lowest at which pressure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import pressure_folder
from uspex_bridge.cli import drawing as d
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import MODEL, RUN_OPTIONS, RUN_SETTINGS, pressures_of

if TYPE_CHECKING:
    from uspex_bridge.results.reading.model import Pool


@click.command(context_settings=q.CONTEXT)
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "reference", help="Reference phase of the enthalpies.  [default: the first]")
@click.option(
    "-p",
    "--pressure",
    "pressures",
    metavar="FROM:TO:STEP",
    help="Pressures of the relaxations, GPa.  [default: no relaxation]",
)
@MODEL
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    default=Path("pressures"),
    show_default=True,
    help="Folder for the relaxations; existing ones are not repeated.",
)
@RUN_OPTIONS
@d.out("pressure")
def pressure(
    places: tuple[Path, ...],
    reference: str | None,
    pressures: str | None,
    model: str | None,
    keep: Path,
    **options: Any,
) -> None:
    """Draw enthalpies of phases relative to one of them, against pressure.

    PLACES are files of structures that were relaxed at several pressures (extxyz with name and pressure_gpa, a table
    of CIFs), or folders that relax left, one for each pressure. With -p they are one starting structure per
    phase, named after its file, and are relaxed here with their symmetry kept, at rising and then at falling
    pressures; the lower enthalpy counts. Between pressures V dP is integrated. A transition is given with the pressures
    that surely enclose it, and is called unreliable beside a volume that falls by more than 20 %.

    Example: uspex-bridge plot pressure fcc.vasp bcc.vasp sc.vasp -m chgnet -p 0:100:10
    """
    settings = {key: options.pop(key) for key in RUN_SETTINGS}
    if pressures:
        steps = pressures_of(pressures)
        d.keep_outs("pressure", options)
        pool = _relaxed(places, steps, model, keep, settings)
    else:
        pool = _opened(places, model)
    from uspex_bridge.results.hulls.pressure import curves, doubts, holes_of, transitions

    found = curves(pool)
    q.warn([] if pressures else holes_of(pool))  # those relaxed here were said as they came
    q.warn(doubts(found))
    against = reference or found[0].phase
    changes = transitions(found)
    for change in changes:
        click.echo(str(change), err=options["as_json"])
    q.tell_notes(pool.notes)
    from uspex_bridge.figures import pressure as figure

    document = figure.document(found, changes, against)
    d.finish("pressure", options, document, lambda size: figure.draw(found, changes, reference=against, **size))


def _opened(places: tuple[Path, ...], model: str | None) -> Pool:
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.results.hulls.pressure import open_phases

    if model:
        raise ConfigError("--model relaxes structures and needs pressures: -p 0:100:10")
    return open_phases(places)


def _relaxed(
    places: tuple[Path, ...], steps: list[float], model: str | None, keep: Path, options: dict[str, Any]
) -> Pool:
    """Relax the structures at every pressure and open what is left."""
    from uspex_bridge.base.errors import CalculationError, ConfigError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.cli.vasp import read_settings

    config = read_settings(Path.cwd(), options)
    limit_threads(config.threads)
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.call.structures import read_structures, wrong_label
    from uspex_bridge.results.hulls.pressure import is_point, open_phases, relax_series

    phases = {}
    for path in places:
        structures = read_structures(path)
        for number, structure in enumerate(structures, 1):
            name = path.stem if len(structures) == 1 else f"{path.stem}-{number}"
            if name in phases:
                raise ConfigError(f"{path}: another file is called {name} too; phases are named after their files")
            phases[name] = structure
            if wrong := wrong_label(structure.comment, structure):
                q.warn([f"{path}, structure {number}: {wrong}"])
    task = RelaxTask(config=with_model(config, model) if model else config, out=keep, resume=True)
    hidden, total = not sys.stderr.isatty(), (2 * len(steps) - 1) * len(phases)
    points = total
    with click.progressbar(length=total, label="relaxing", file=sys.stderr, hidden=hidden) as bar:
        for at, done in relax_series(phases, steps, task):
            if not is_point(done):
                points -= 1
                why = "a hole of the model" if "enthalpy" in done.fields else done.fields.get("reason")
                q.warn([f"{done.name} at {at:g} GPa: {why}; this point is left out"])
            elif done.before != done.after:
                q.warn([f"{done.name} at {at:g} GPa: its space group changed from {done.before} to {done.after}"])
            bar.update(1)
    if not points:
        raise CalculationError("no structure could be relaxed at any of the pressures; the lines above say why")
    return open_phases([pressure_folder(keep, at) for at in steps])
