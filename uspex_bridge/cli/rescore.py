"""``uspex-bridge rescore``: a search computed again with another model or at another pressure."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import MODEL, PARALLEL, RUN_OPTIONS, RUN_SETTINGS, Finite

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.rescore import Again, Reranking
    from uspex_bridge.results.reading.model import Entry, Pool


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("rescored"), show_default=True, help="Folder."
)
@MODEL
@click.option(
    "--relax", is_flag=True, help="Relaxation of every structure.  [default: single points, cells as they are]"
)
@click.option(
    "--near", type=Finite(min=0), help="Largest distance above the old hull, eV/atom.  [default: all structures]"
)
@click.option(
    "-n",
    "most",
    type=click.IntRange(min=1),
    help="Largest number of structures, nearest the old hull first.  [default: all]",
)
@click.option("--force", is_flag=True, help="Overwriting of --out.  [default: existing results are kept]")
@q.within(0.1)
@q.REFERENCES
@q.HULL
@q.DUPLICATES
@RUN_OPTIONS
@PARALLEL
@q.JSON
def command(
    places: tuple[str, ...],
    out: Path,
    model: str | None,
    relax: bool,
    near: float | None,
    most: int | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate the structures of PLACES again and compare ranks, hull and errors of the first model.

    Single points by default. The new results are in --out (extxyz, POSCARs, record), a source for hull, best and
    seeds. A stopped run is continued. --within is the window of the comparison. The exit code is 7 if the model
    failed on a structure, which is named.

    Example: uspex-bridge rescore results1 --near 0.1 --model mace:my.model
    """
    from uspex_bridge.base.errors import CalculationError, InputError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.cli.vasp import read_settings

    config = read_settings(Path.cwd(), {key: options[key] for key in RUN_SETTINGS})
    limit_threads(config.threads)
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.results.hulls.rescore import common_pressure, compare_rankings
    from uspex_bridge.results.hulls.stability import refuse_without_hull

    config = with_model(config, model) if model else config
    pool = q.open_pool(places, options)
    refuse_without_hull(pool)
    entries = _chosen(pool, options, near, most)
    if not entries:
        raise InputError("no structures to evaluate; a wider --near includes more")
    pressure = common_pressure(entries, options["pressure"])
    parallel = {"workers": options["workers"], "scheduler": options["scheduler"]}
    task = RelaxTask(config=config, out=out, pressure=pressure, nsw=5000 if relax else 0, resume=not force, **parallel)
    results = _compute(pool, entries, task)
    verdict = compare_rankings(pool, results, q.ask(options))
    q.warn(list(verdict.warnings))
    if as_json:
        click.echo(json.dumps(document(verdict), indent=1, ensure_ascii=False))
    else:
        click.echo(report(verdict, pressure, relax=relax, within=options["within"], results=results))
        click.echo(f"results in {out}/")
    q.tell_notes(pool.notes)
    if any(one.reason.startswith(CalculationError.__name__) for one in results):
        sys.exit(CalculationError.exit_code)


def _chosen(pool: Pool, options: dict[str, Any], near: float | None, most: int | None) -> list[Entry]:
    from uspex_bridge.results.hulls.stability import assess

    if near is None and most is None:
        return [entry for entry in pool.entries if entry.valid]
    question = replace(q.ask(options), within=float("inf") if near is None else near, pressure_gpa=None)
    answer = assess(pool, question)
    q.warn(answer.warnings)
    return [phase.entry for phase in answer.phases][:most]


def _compute(pool: Pool, entries: list[Entry], task: Any) -> list[Again]:
    from uspex_bridge.results.hulls.rescore import rescore

    results = []
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(entries), label="computing", file=sys.stderr, hidden=hidden) as bar:
        for one in rescore(pool, entries, task):
            results.append(one)
            bar.update(1)
    place = {entry.name: k for k, entry in enumerate(entries)}  # several processes end in any order
    return sorted(results, key=lambda one: place[one.before.name])


def document(verdict: Reranking) -> dict[str, Any]:
    """Return the verdict as plain values."""
    from uspex_bridge.results.hulls.hull import levels_of
    from uspex_bridge.results.hulls.tables import units

    return {
        "units": units("above_hull", "formation_enthalpy") | {"formation_mae": "eV/atom", "needed_window": "eV/atom"},
        "levels": {
            name: list(levels_of([point.entry for point in hull.points]))
            for name, hull in zip(("before", "after"), verdict.hulls, strict=True)
        },
        "structures": len(verdict.changes),
        "failed": {one.before.name: one.reason for one in verdict.failed},
        "spearman": verdict.spearman if verdict.spearman == verdict.spearman else None,
        "formation_mae": verdict.error,
        "recall": verdict.recall,
        "needed_window": verdict.needed,
        "appeared": [entry.name for entry in verdict.appeared],
        "vanished": [entry.name for entry in verdict.vanished],
        "changes": [
            {
                "name": change.entry.name,
                "formula": change.entry.formula,
                "above_hull": list(change.above),
                "formation_enthalpy": list(change.formation),
                "rank": list(change.rank),
            }
            for change in verdict.changes
        ],
    }


def report(verdict: Reranking, pressure: float, *, relax: bool, within: float, results: list[Again]) -> str:
    """Return the verdict as text."""
    from uspex_bridge.base.tables import fitted
    from uspex_bridge.base.words import short_names

    headings = [
        ("", ""),
        ("formula", ""),
        ("above", "before"),
        ("above", "after"),
        ("formation", "before"),
        ("formation", "after"),
        ("rank", "before"),
        ("rank", "after"),
    ]
    runs = short_names({change.entry.run for change in verdict.changes})
    near = [change for change in verdict.changes if min(change.above) <= within]
    rows = [
        [
            f"EA{change.entry.id}" if len(runs) == 1 else f"{runs[change.entry.run]}:EA{change.entry.id}",
            change.entry.formula,
            *(f"{value:.4f}" for value in change.above),
            *(f"{value:.4f}" for value in change.formation),
            *(str(rank) for rank in change.rank),
        ]
        for change in near
    ]
    kind = "relaxed" if relax else "single points"
    known = verdict.spearman == verdict.spearman
    correlation = f"rank correlation {verdict.spearman:.3f}" if known else "too few distinct ranks to correlate"
    lines = [
        fitted(headings, rows, ("formation",)),
        "",
        f"{counted(len(verdict.changes), 'structure')} at {pressure:g} GPa, {kind} ({_levels(verdict)})",
        f"on the hull now: {_names(verdict.appeared)}; no longer: {_names(verdict.vanished)}",
        f"{correlation}; formation enthalpies differ by {1000 * verdict.error:.1f} meV/atom "
        f"on average, most for {verdict.largest.entry.name} ({1000 * verdict.largest.shift:+.1f})",
        f"of the phases now within {within:g} eV/atom the first model had {100 * verdict.recall:.0f} % within it; "
        f"{verdict.needed:.4f} eV/atom would have contained all of them",
    ]
    if not relax:
        lines.append(_single_points(results, pressure))
    lines += [f"failed: {one.before.name}: {one.reason}" for one in verdict.failed]
    return "\n".join(lines)


def _levels(verdict: Reranking) -> str:
    from uspex_bridge.results.hulls.hull import levels_of

    before, after = (
        ", ".join(level or "not stated" for level in levels_of([point.entry for point in hull.points]))
        for hull in verdict.hulls
    )
    return f"before: {before}; now: {after}"


def _names(entries: tuple[Entry, ...]) -> str:
    return ", ".join(f"{entry.name} {entry.formula}" for entry in entries) or "none"


def _single_points(results: list[Again], pressure: float) -> str:
    """Say how far the old cells are from where the new model would have them."""
    away = [abs(one.pressure_gpa - pressure) for one in results if one.after is not None]
    forces = [one.after.record.fmax for one in results if one.after is not None and one.after.record is not None]
    if not away or not forces:
        return "no single point succeeded"
    return (
        f"the new model's pressure in the old cells is off by {sum(away) / len(away):.2f} GPa on average (at most "
        f"{max(away):.2f}), its largest force by {sum(forces) / len(forces):.3f} eV/Å on average; --relax removes both"
    )
