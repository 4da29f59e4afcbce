"""``uspex-bridge free-energy``: what of a search is stable at temperatures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, MODEL, PARALLEL, RUN_OPTIONS, RUN_SETTINGS, Finite, numbers_of, pressures_of

if TYPE_CHECKING:
    from uspex_bridge.results.thermal.free_energy import FreeEnergies
    from uspex_bridge.results.thermal.phase_diagram import PhaseDiagram


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option("-T", "temperatures", default="300", show_default=True, help="Temperatures: 0,300,1000 or 0:1000:100, K.")
@click.option(
    "--method",
    "approximation",
    type=click.Choice(["harmonic", "qha", "scha"]),
    default="harmonic",
    show_default=True,
    help="Approximation: phonons of the static crystal, phonons at five volumes, or self-consistent phonons with atoms "
    "and cell relaxed at T.",
)
@click.option(
    "--promote",
    type=Finite(min=0),
    default=0.05,
    show_default=True,
    help="Largest distance above the harmonic hull for qha and scha, eV/atom; scha is also done for imaginary modes.",
)
@click.option(
    "-n", "most", type=click.IntRange(min=1), help="Largest number of phases, nearest the hull first.  [default: all]"
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("free-energy"),
    show_default=True,
    help="Folder of the results; existing results are kept.",
)
@MODEL
@click.option(
    "--min-image",
    type=Finite(min=0, min_open=True),
    default=6.0,
    show_default=True,
    help="Shortest distance between images in the supercell, Å.",
)
@click.option(
    "--upscale", is_flag=True, help="Preliminary scha in a small supercell; its result is the start in the large one."
)
@click.option(
    "--g-error",
    type=Finite(min=0, min_open=True),
    default=0.002,
    show_default=True,
    help="Target for the standard error of G in scha, eV/atom.",
)
@click.option(
    "--keep-symmetry",
    is_flag=True,
    help="Fixed symmetry of the starting structure, for phases that only thermal motion stabilises.",
)
@click.option(
    "--follow", is_flag=True, help="Phases of lower symmetry along the imaginary modes of unstable phases included."
)
@click.option(
    "--correct",
    metavar="MODEL|FILE",
    help="Second model, or file of structures with energies, to which the free energies of scha are corrected.  "
    "[default: no correction]",
)
@click.option(
    "--samples",
    "number",
    type=click.IntRange(min=8),
    default=20,
    show_default=True,
    help="Number of configurations per free energy for --correct and --harvest.",
)
@click.option(
    "--harvest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Extxyz file for configurations to label.  [default: none]",
)
@click.option(
    "--isotope",
    "isotopes",
    multiple=True,
    metavar="ELEMENT=MASS",
    help="Mass of an element, amu: H=2.014.  [default: the natural mass]",
)
@click.option(
    "--figures", is_flag=True, help="Figures of G and hulls against T, of phonons, and the phase diagram, in --out."
)
@q.within(0.1)
@click.option(
    "-p",
    "--pressure",
    "pressures",
    help="Pressure, GPa, or several (0,20,50 or 0:100:10) for a phase diagram.  [default: that of all sources]",
)
@q.REFERENCES
@q.COMPONENTS
@q.LEVELS
@q.HOLES
@q.DUPLICATES
@RUN_OPTIONS
@PARALLEL
@FORCE
@q.JSON
def command(places: tuple[str, ...], as_json: bool, figures: bool, **options: Any) -> None:
    """Compute free energies of the phases of PLACES and build the hull at each temperature.

    PLACES are results folders of USPEX or files of structures; of files without energies every structure is taken.
    Phases within --within of the hull are relaxed at rest, then their phonons are computed. --out keeps all
    results, and a stopped run is continued. Several pressures have a folder each in --out and give a phase diagram.
    The exit code is 7 if the model failed on a structure, which is named.

    Example: uspex-bridge free-energy results1 -T 0,300,1000 --model chgnet
    """
    from uspex_bridge.base.errors import CalculationError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.cli.vasp import read_settings

    temperatures = tuple(numbers_of(options["temperatures"], "temperatures", "K"))
    pressures = pressures_of(options["pressures"]) if options["pressures"] else []
    config = read_settings(Path.cwd(), {key: options[key] for key in RUN_SETTINGS})
    limit_threads(config.threads)
    from uspex_bridge.call.thermal import FreeEnergyTask, asked_of
    from uspex_bridge.results.hulls.rescore import common_pressure
    from uspex_bridge.results.thermal import free_energy, free_energy_tables, phase_diagram, phase_diagram_tables
    from uspex_bridge.results.thermal.correcting import check_harvest, second_of, write_harvest

    config = with_model(config, options["model"]) if options["model"] else config
    pool = q.open_pool(places, options)
    if options["harvest"] is not None:
        check_harvest(options["approximation"])
        q.keep(options["harvest"], force=options["force"])
    task = FreeEnergyTask(
        config,
        options["out"],
        pressures[0] if pressures else common_pressure(pool.entries, None),
        temperatures,
        asked_of(
            **{key: options[key] for key in ("min_image", "upscale", "g_error")},
            isotopes=_masses(options["isotopes"]),
        ),
        follow=options["follow"],
        workers=options["workers"],
        scheduler=options["scheduler"],
        keep_models=True,
    )
    how = {
        "keep_symmetry": options["keep_symmetry"],
        "method": options["approximation"],
        "promote": options["promote"],
        "correct": None if (second := options["correct"]) is None else second_of(second, config, options["number"]),
        "most": options["most"],
    }
    question = q.ask(options)
    with click.progressbar(length=0, label="computing", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def observe(what: str) -> None:
            bar.label = what
            bar.length = bar.pos + 1
            bar.update(1)

        if len(pressures) > 1:
            diagram = phase_diagram.phase_diagram(pool, question, task, pressures, observe=observe, **how)
            answers = diagram.answers
        else:
            diagram, answers = None, (free_energy.free_energies(pool, question, task, observe=observe, **how),)
    q.warn(dict.fromkeys(line for answer in answers for line in answer.warnings))
    if as_json:
        plain = free_energy_tables.document(answers[0]) if diagram is None else phase_diagram_tables.document(diagram)
        click.echo(json.dumps(plain, indent=1, ensure_ascii=False))
    else:
        click.echo(free_energy_tables.report(answers[0]) if diagram is None else phase_diagram_tables.report(diagram))
        click.echo(f"results in {task.out}/")
    if options["harvest"] is not None:
        count = write_harvest(answers, options["harvest"], options["number"])
        click.echo(f"{counted(count, 'configuration')} to label in {options['harvest']}", err=as_json)
    if figures:
        _draw(answers, diagram, task.out, err=as_json)
    q.tell_notes(pool.notes)
    broken = [one.reason for answer in answers for one in answer.failed]
    lines = [line for answer in answers for phase in answer.phases for line in phase.lines.values()]
    broken += [line["code"] for line in lines if line["status"] == "failed"]
    if any(reason.startswith(CalculationError.__name__) for reason in broken):
        sys.exit(CalculationError.exit_code)


def _draw(answers: Sequence[FreeEnergies], diagram: PhaseDiagram | None, out: Path, *, err: bool) -> None:
    """Draw all figures and print their paths."""
    from uspex_bridge.figures import free_energy, phase_diagram

    for answer in answers:
        for path in free_energy.save_all(answer, answer.folder):
            click.echo(str(path), err=err)
    if diagram is not None:
        for path in phase_diagram.save_all(diagram, out):
            click.echo(str(path), err=err)


def _masses(words: tuple[str, ...]) -> dict[str, float]:
    """Read ``H=2.014``.

    Raises:
        ConfigError: it is no element and mass.
    """
    from uspex_bridge.base.errors import ConfigError

    masses = {}
    for word in words:
        symbol, _, mass = word.partition("=")
        try:
            masses[symbol] = float(mass)
        except ValueError:
            raise ConfigError(f"--isotope {word}: give an element and its mass in amu, such as H=2.014") from None
    return masses
