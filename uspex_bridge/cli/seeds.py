"""``uspex-bridge seeds``: hand the best structures on to another search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, DEVICE, THREADS, Finite

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.seeds import Seed
    from uspex_bridge.results.reading.model import Composition


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-n",
    "most",
    type=click.IntRange(min=1),
    help="Largest number of structures, nearest the hull first.  [default: all]",
)
@q.within(0.1)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder of the target search; structures must fit its elements and blocks.",
)
@click.option("--anti", is_flag=True, help="AntiSeeds/POSCARS instead of seeds: structures that the search avoids.")
@click.option(
    "--generation",
    type=click.IntRange(min=0),
    help="Generation of the seeds, from 1 in the MATLAB line, from 0 in the Python line.  [default: the next one]",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File.  [default: the one that USPEX reads in --into]"
)
@click.option(
    "--scale-to", type=Finite(), help="Pressure to which --model scales every cell, GPa.  [default: cells as they are]"
)
@click.option(
    "-m",
    "--model",
    help="Model for --scale-to: a calculator's name, or KIND:WEIGHTS (mace:my.model).  [default: the protocol's]",
)
@q.REFERENCES
@q.COMPONENTS
@q.LEVELS
@q.DUPLICATES
@q.HOLES
@CONFIG
@DEVICE
@THREADS
@click.option("--force", is_flag=True, help="Overwriting of an existing file.")
def command(
    places: tuple[str, ...], most: int | None, into: Path, out: Path | None, force: bool, **options: Any
) -> None:
    """Write the phases of PLACES nearest their hull as seeds for the search in --into.

    Each pressure has its own hull. A phase found at several pressures is written once, and every corner of every
    hull is written. The file is placed where the search reads it, as VASP-5 POSCARs with fractional coordinates in
    the order of its elements. Missing keys of its input are printed.

    Example: uspex-bridge seeds results1 ../p0/results1 -n 2000 --into ../p100
    """
    from dataclasses import replace

    from uspex_bridge.base.errors import ConfigError, InputError
    from uspex_bridge.results.hulls.seeds import beyond, choose, fit_for, format_seeds, unreadable, write_seeds
    from uspex_bridge.results.hulls.stability import assess
    from uspex_bridge.results.reading.seeding import Place, place_for

    if options["anti"] and options["generation"] is not None:
        raise ConfigError("--generation is for seeds; anti-seeds apply to the whole search")
    if (options["scale_to"] is None) != (options["model"] is None):
        raise ConfigError("--scale-to and --model go together")
    place = Place(out) if out else place_for(into, anti=options["anti"], generation=options["generation"])
    question = q.ask(options)
    pool = q.open_pool(places, options)
    extra = [entry for entry in pool.entries if entry.run in options["references"]]
    own = [entry for entry in pool.entries if entry.run not in options["references"]]
    answers = []
    for pressure in dict.fromkeys(entry.pressure_gpa for entry in own if entry.valid):
        part = pool.only([*(entry for entry in own if entry.pressure_gpa == pressure), *extra])
        answers.append(assess(part, replace(question, pressure_gpa=pressure)))
    for answer in answers:
        q.warn(answer.warnings)
    species, blocks = search_in(into)
    seeds, notes = fit_for(choose(answers, None), species, blocks)
    notes += unreadable(answers) + beyond(answers, seeds, most)
    seeds = seeds[:most]
    if not seeds:
        raise InputError("no structures to write; a wider --within includes more" + "".join(f"; {n}" for n in notes))
    if options["model"] is not None:
        seeds = _scaled(seeds, options)
    write_seeds(place.path, format_seeds(seeds, species), force=force)
    click.echo(
        f"{place.path}: {counted(len(seeds), 'structure')}, "
        f"up to {max(seed.above for seed in seeds):.4f} eV/atom above the hull"
    )
    q.warn([*notes, *place.notes])
    q.tell_notes(pool.notes)


def search_in(folder: Path) -> tuple[tuple[str, ...], list[Composition]]:
    """Return elements and blocks of the search that a folder is set up for; none where it has no input."""
    from uspex_bridge.results.hulls.stability import named_blocks
    from uspex_bridge.results.reading.settings import settings_of_input

    settings = settings_of_input(folder)
    return settings.species, named_blocks(settings)


def _scaled(seeds: list[Seed], options: dict[str, Any]) -> list[Seed]:
    """Scale seeds to the volume at the new pressure; one that has none there keeps its own, with a warning."""
    from dataclasses import replace

    from uspex_bridge.base.atoms import to_atoms
    from uspex_bridge.base.errors import CalculationError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.call.run import Models
    from uspex_bridge.cli.vasp import read_settings
    from uspex_bridge.results.hulls.seeds import at_new_pressure

    given = {key: options[key] for key in ("config", "device", "threads")}
    config = with_model(read_settings(Path.cwd(), given), options["model"])
    limit_threads(config.threads)
    models = Models(config)
    scaled = []
    try:
        backend = models("model")
        hidden = not sys.stderr.isatty()
        with click.progressbar(seeds, label="scaling", file=sys.stderr, hidden=hidden) as bar:
            for seed in bar:
                backend.check_elements(seed.structure.symbols)

                def stress(structure: Any) -> Any:
                    atoms = to_atoms(structure)
                    atoms.calc = backend.calculator
                    return atoms.get_stress()

                try:
                    structure = at_new_pressure(seed.structure, stress, options["scale_to"])
                except CalculationError as error:
                    q.warn([f"{seed.entry.name}: {error}; its volume is left as it is"])
                    structure = seed.structure
                scaled.append(replace(seed, structure=structure))
    finally:
        models.close()
    return scaled
