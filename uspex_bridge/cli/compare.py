"""``uspex-bridge compare``: what two searches have in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import Finite

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.compare import Comparison, Pair, Status


@click.command(context_settings=q.CONTEXT)
@click.argument("first")
@click.argument("second")
@q.within(0.05)
@click.option(
    "--search",
    type=Finite(min=0),
    default=0.3,
    show_default=True,
    help="Largest distance above the hull of the compared phases, eV/atom.",
)
@q.REFERENCES
@q.COMPONENTS
@q.LEVELS
@q.DUPLICATES
@q.SYMPREC
@q.HOLES
@q.JSON
def command(first: str, second: str, search: float, as_json: bool, **options: Any) -> None:
    """Compare two searches with different models or pressures: common phases, and phases of one search only.

    Each search has its own hull (--reference is added to both). Phases are matched by structure alone.

    Example: uspex-bridge compare results1 ../p100/results1
    """
    from uspex_bridge.results.hulls.compare import compare

    pools = [q.open_pool([place], options) for place in (first, second)]
    result = compare(pools[0], pools[1], q.ask(options), search)
    for name, answer in ((first, result.first), (second, result.second)):
        q.warn(f"{name}: {line}" for line in answer.warnings)
    if as_json:
        click.echo(json.dumps(document(result), indent=1, ensure_ascii=False))
    else:
        click.echo(report(result, first, second))
    q.tell_notes(note for pool in pools for note in pool.notes)


def document(result: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    from uspex_bridge.results.hulls.tables import units

    question = result.first.question
    return {
        "units": units("within", "pressure_gpa", "above_hull", "volume_per_atom", "symprec"),
        "within": result.within,
        "symprec": question.symprec,
        "same_phase": question.tolerances.across().describe(question.method),
        "pressures_gpa": [result.first.pressure_gpa, result.second.pressure_gpa],
        "levels": [list(result.first.levels), list(result.second.levels)],
        "pairs": [
            {
                "status": pair.status,
                "first": pair.first.entry.name if pair.first else None,
                "second": pair.second.entry.name if pair.second else None,
                "formula": (pair.first or pair.second).entry.formula,  # type: ignore[union-attr]
                "above_hull": list(pair.above),
                "volume_per_atom": [phase and phase.entry.volume_per_atom for phase in (pair.first, pair.second)],
                "doubtful": [
                    " ".join(phase.entry.marks) or None if phase else None for phase in (pair.first, pair.second)
                ],
            }
            for pair in result.pairs
        ],
    }


_TITLES: dict[Status, str] = {
    "common": "in both",
    "lost": "only in the first",
    "new": "only in the second",
}


def report(result: Comparison, first: str, second: str) -> str:
    """Return the comparison as text."""
    from uspex_bridge.results.hulls.tables import headline

    text = [f"first   {first}: {headline(result.first)}", f"second  {second}: {headline(result.second)}"]
    for status, title in _TITLES.items():
        pairs = result.of(status)
        text.append(f"\nphases within {result.within:g} eV/atom {title}: {len(pairs)}")
        if pairs:
            text.append(_table(result, pairs))
    return "\n".join(text)


def _table(result: Comparison, pairs: list[Pair]) -> str:
    from uspex_bridge.base.tables import fitted
    from uspex_bridge.results.hulls.tables import short_name

    headings = [
        ("first", ""),
        ("second", ""),
        ("formula", ""),
        ("space group", ""),
        ("above 1st", "eV/atom"),
        ("above 2nd", "eV/atom"),
        ("V 1st", "Å³/atom"),
        ("V 2nd", "Å³/atom"),
        ("", ""),
    ]
    rows = []
    for pair in pairs:
        phases = (pair.first, pair.second)
        answer, phase = next(
            (a, p) for a, p in zip((result.first, result.second), phases, strict=True) if p is not None
        )
        above = ["not found" if value is None else f"{value:.4f}" for value in pair.above]
        volumes = ["" if p is None else f"{p.entry.volume_per_atom:.3f}" for p in phases]
        names = [
            "" if p is None else short_name(a, p) for a, p in zip((result.first, result.second), phases, strict=True)
        ]
        flags = " ".join(dict.fromkeys(flag for p in phases if p is not None for flag in p.entry.flags))
        rows.append([*names, phase.entry.formula, answer.space_group(phase), *above, *volumes, flags])
    return fitted(headings, rows, ("V 1st", "V 2nd"))
