"""``uspex-bridge converged``: has the search converged?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.converged import Convergence


@click.command(context_settings=q.CONTEXT)
@click.argument("place", type=click.Path(path_type=Path))
@click.option(
    "--generations",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Number of generations in a row without change that make a search converged.",
)
@q.within(0.05)
@click.option(
    "--tie",
    type=Finite(min=0),
    default=0.001,
    show_default=True,
    help="Largest change of a hull that counts as none, eV/atom.",
)
@q.REFERENCES
@q.HULL
@q.DUPLICATES
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="CSV file for the history.  [default: none]")
@FORCE
@q.JSON
def command(
    place: Path, generations: int, tie: float, csv_file: Path | None, force: bool, as_json: bool, **options: Any
) -> None:
    """Test whether the search at PLACE has converged (of several results folders, the last).

    A search has converged if for --generations in a row the hull did not change and no new phase came within
    --within of it. The exit code is 0 if it has converged, 1 if not.

    Example: uspex-bridge converged results1 --generations 10
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.base.tables import as_csv, wrapped
    from uspex_bridge.results.hulls.converged import history
    from uspex_bridge.results.reading.folder import Results

    q.keep(csv_file, force=force)
    pool = q.open_pool([str(place)], options)
    searches = [source for source in pool.sources.values() if isinstance(source, Results)]
    if not searches:
        raise ConfigError(f"{place}: not a search of USPEX; it has no generations")
    references = [source for source in pool.sources.values() if not isinstance(source, Results)]
    result = history(searches[-1], references, q.ask(options), generations, tie)
    if as_json:
        click.echo(json.dumps(document(result), indent=1, ensure_ascii=False))
    else:
        click.echo(f"{searches[-1].label}\n{table(result)}\n{wrapped(verdict(result))}")
    if csv_file is not None:
        write_whole(csv_file, as_csv(document(result)["generations"]))
    q.warn(result.warnings)
    q.tell_notes(pool.notes)
    sys.exit(0 if result.converged else 1)


def document(result: Convergence) -> dict[str, Any]:
    """Return the result as plain values."""
    from uspex_bridge.results.hulls.hull import levels_of

    return {
        "units": {"within": "eV/atom", "tie": "eV/atom", "lowered": "eV/atom", "lowest": "eV/atom"},
        "levels": list(levels_of([point.entry for point in result.final.points])),
        "pressure_gpa": result.final.points[0].entry.pressure_gpa,
        "converged": result.converged,
        "settled_generations": result.settled,
        "needed_generations": result.needed,
        "within": result.within,
        "tie": result.tie,
        "incomplete_generation": result.running,
        "stable": [point.entry.formula for point in result.final.vertices],
        "generations": [asdict(generation) for generation in result.generations],
    }


def table(result: Convergence) -> str:
    """Return the history, one line per generation."""
    from uspex_bridge.base.tables import fitted

    headings = [
        ("gen", ""),
        ("structures", ""),
        ("failed", ""),
        ("new phases", f"< {result.within:g}"),
        ("hull sank by", "eV/atom"),
        ("stable", ""),
        ("lowest H", "eV/atom"),
        ("new ones made by", ""),
    ]
    rows = []
    for g in result.generations:
        counts = {origin: g.origins.count(origin) for origin in dict.fromkeys(g.origins)}
        rows.append(
            [
                str(g.number),
                str(g.structures),
                str(g.failed),
                str(g.new),
                "" if g.lowered is None else f"{g.lowered:.4f}",
                str(g.stable),
                "" if g.lowest is None else f"{g.lowest:.4f}",
                ", ".join(f"{origin} {n}" for origin, n in counts.items()),
            ]
        )
    return fitted(headings, rows, ("new ones made by",))


def verdict(result: Convergence) -> str:
    """Return the verdict in a sentence."""
    left = "" if result.running is None else f"; generation {result.running} is not complete and was left out"
    word = "converged" if result.converged else "not converged"
    return (
        f"{word}: {result.settled} of {result.needed} generations in a row without a lower hull (by {result.tie:g}) "
        f"or a new phase within {result.within:g} eV/atom of it{left}"
    )
