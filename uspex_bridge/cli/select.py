"""``uspex-bridge select``: a compact set of structures to compute."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import Finite
from uspex_bridge.cli.soap_options import SOAP, describe

if TYPE_CHECKING:
    from uspex_bridge.base.data import Structure
    from uspex_bridge.learn.choose.select import Selection
    from uspex_bridge.learn.choose.structure_map import StructureMap
    from uspex_bridge.results.model import Entry, Pool

#: Structures closer than this in scaled features are the same training point; two unlike ones are about ten apart.
_SAME = 0.01


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option("-n", "--budget", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option(
    "--near",
    type=Finite(0, 1),
    default=0.5,
    show_default=True,
    help="Part of the budget that structures near the hull may take; the rest goes by distance.",
)
@q.within(0.05)
@click.option(
    "--compositions", type=click.IntRange(min=1), help="Near the hull: only so many compositions, the lowest."
)
@click.option(
    "--each", type=click.IntRange(min=1), default=3, show_default=True, help="Near the hull: so many of a composition."
)
@click.option(
    "--method",
    "rest",
    type=click.Choice(["farthest", "clusters", "random"]),
    default="farthest",
    show_default=True,
    help="The rest: furthest from all there is, one of each cluster (as in DIRECT), or at random.",
)
@click.option(
    "--with-outliers", is_flag=True, help="Also take what stands out far from all others in volume or enthalpy."
)
@q.HOLES
@click.option("--max-atoms", type=click.IntRange(min=1), help="Only cells of at most so many atoms.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random.")
@click.option("--have", type=click.Path(path_type=Path), help="What is there already: a dataset's folder, or a file.")
@click.option(
    "--holdout",
    type=click.Path(path_type=Path),
    help="Never take these phases: structures, or names one a line (.txt).",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("selected"), show_default=True, help="Folder."
)
@q.REFERENCES
@q.LEVELS
@q.DUPLICATES
@SOAP
@q.JSON
def command(places: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Choose from the structures of PLACES a few that stand for all, and say why each was taken.

    \b
    uspex-bridge select screened/label.extxyz --reference results1 -n 60 --have dataset
    uspex-bridge select results1 --compositions 300 --each 3 --near 1 -n 900

    First come the structures within --within of the hull, the lowest of each composition; then those furthest in
    SOAP space from all taken before and all that is there (--have). Duplicates, outliers and structures in holes of
    the model are left out. References span the hull and are not chosen from. The folder --out gets selected.extxyz,
    selected.csv, selected.json and coverage.png.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.learn.choose.candidates import read_labelled_structures
    from uspex_bridge.learn.choose.select import select

    quota = _quota(options)
    pool = q.open_pool(places, options)
    training = read_labelled_structures(options["have"]) if options["have"] is not None else []
    drawn = describe(pool, options, options["references"], {s for one in training for s in one.symbols})
    there = _described(drawn, training)
    candidates, dropped = _candidates(pool, drawn, there, training, options)
    have = drawn.space.place(there)
    coordinates = {entry.name: row for entry, row in zip(drawn.entries, drawn.coordinates, strict=True)}
    found = select(candidates, coordinates, drawn.points, have, quota)
    summary = document(found, pool, drawn, have, dropped, options)
    _write(found, summary, pool, drawn, have, out)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo(report(found, summary, pool))
        click.echo(f"{out}/: selected.extxyz, selected.csv, selected.json, coverage.png")
    q.warn(drawn.notes)
    q.tell_notes(pool.notes)


def _quota(options: dict[str, Any]) -> Any:
    from uspex_bridge.learn.choose.select import Quota

    return Quota(
        budget=options["budget"],
        near=options["near"],
        within=options["within"],
        compositions=options["compositions"],
        each=options["each"],
        method=options["rest"],
        seed=options["seed"],
    )


def _candidates(
    pool: Pool, drawn: StructureMap, features: Any, training: Sequence[Structure], options: dict[str, Any]
) -> tuple[list[Entry], dict[str, int]]:
    """Return what may be chosen, and how many were left out for which reason."""
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.learn.choose.select import distinct, doubtful
    from uspex_bridge.results.folder import Results

    own = [entry for entry in drawn.entries if entry.run not in options["references"]]
    there = _there(drawn, features)
    phase_is_there = _phases(training)
    held_out = _holdout(options["holdout"])
    names = ("failed or refused", "in holes", "outliers", "too large", "there already", "held out", "duplicates")
    left = dict.fromkeys(names, 0)
    most = options["max_atoms"] or math.inf
    outliers = {} if options["with_outliers"] else doubtful(drawn.points.values())
    kept = []
    for entry, structure in pool.structures(own):
        if not entry.valid and (entry.enthalpy == entry.enthalpy or isinstance(pool.sources[entry.run], Results)):
            left["failed or refused"] += 1
        elif "hole" in entry.marks and not options["with_holes"]:
            left["in holes"] += 1
        elif entry.name in outliers:
            left["outliers"] += 1
        elif len(structure.symbols) > most:
            left["too large"] += 1
        elif entry.name in there or phase_is_there(structure):
            left["there already"] += 1
        elif held_out(pool, entry, structure):
            left["held out"] += 1
        else:
            kept.append(entry)
    question = q.ask(options)
    chosen = distinct(pool, kept, question.method, question.tolerances)
    left["duplicates"] = len(kept) - len(chosen)
    if not chosen:
        raise InputError("nothing is left to choose from: " + ", ".join(f"{n} {why}" for why, n in left.items() if n))
    return chosen, left


def _holdout(path: Path | None) -> Any:
    """Return the test whether a structure must not be taken: by name, or as the same phase at any volume."""
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.call.structures import read_structures
    from uspex_bridge.learn.choose.candidates import title_of
    from uspex_bridge.results.matching import Catalogue

    if path is None:
        return lambda pool, entry, structure: False
    if path.suffix == ".txt":
        try:
            names = set(path.read_text(encoding="utf-8").split())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        return lambda pool, entry, structure: bool({entry.name, title_of(pool, entry)} & names)
    catalogue = Catalogue()
    for number, structure in enumerate(read_structures(path)):
        catalogue.add(number, structure)
    return lambda pool, entry, structure: catalogue.find(structure) is not None


def _described(drawn: StructureMap, structures: Sequence[Structure]) -> Any:
    """Return the features (N, F) of structures as the map has them."""
    import numpy as np

    from uspex_bridge.learn.choose.soap import describe_all

    rows = list(describe_all(structures, drawn.elements, drawn.settings))
    return np.array(rows).reshape(-1, drawn.features.shape[1])


def _there(drawn: StructureMap, features: Any) -> set[str]:
    """Return the names of the entries that are the same as one of the training structures, however it is written."""
    from sklearn.neighbors import NearestNeighbors

    if not len(features):
        return set()
    tree = NearestNeighbors(n_neighbors=1).fit(drawn.space.normalise(features))
    away = tree.kneighbors(drawn.space.normalise(drawn.features))[0][:, 0]
    return {entry.name for entry, distance in zip(drawn.entries, away, strict=True) if distance < _SAME}


def _phases(training: Sequence[Structure]) -> Callable[[Structure], bool]:
    """Return the test whether a structure is a labelled phase at about its volume, such as a re-relaxed copy."""
    from uspex_bridge.results.model import composition_of, reduced_composition
    from uspex_bridge.results.phases import Tolerances, same_phase
    from uspex_bridge.results.surroundings import Surroundings

    tolerances = Tolerances()
    held: dict[Any, list[Surroundings]] = {}
    for one in training:
        held.setdefault(reduced_composition(composition_of(one.symbols)), []).append(Surroundings(one))

    def there(structure: Structure) -> bool:
        known = held.get(reduced_composition(composition_of(structure.symbols)), [])
        volume = structure.volume / len(structure)
        near = [
            other
            for other in known
            if abs(other.structure.volume / len(other.structure) - volume) <= (tolerances.volume or 0.0) * volume
        ]
        return bool(near) and any(same_phase(other, Surroundings(structure), tolerances.distance) for other in near)

    return there


def _kinds(found: Selection, drawn: StructureMap) -> dict[str, Any]:
    """Return the coordinates of what was taken near the hull, and of the rest."""
    import numpy as np

    rows = {entry.name: row for entry, row in zip(drawn.entries, drawn.coordinates, strict=True)}
    near = [rows[c.entry.name] for c in found.chosen if "hull" in c.reason]
    rest = [rows[c.entry.name] for c in found.chosen if "hull" not in c.reason]
    width = drawn.coordinates.shape[1]
    return {
        "near the hull": np.array(near).reshape(-1, width),
        "for coverage": np.array(rest).reshape(-1, width),
    }


def document(
    found: Selection,
    pool: Pool,
    drawn: StructureMap,
    have: Any,
    dropped: dict[str, int],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the selection as plain values."""
    from dataclasses import asdict

    import numpy as np

    from uspex_bridge.learn.choose.candidates import title_of
    from uspex_bridge.learn.choose.soap import coverage

    kinds = _kinds(found, drawn)
    after = len(have) + len(found.chosen)
    points = np.vstack([have, *kinds.values(), drawn.coordinates])
    covered = {"before": coverage(points, np.arange(len(have))), "after": coverage(points, np.arange(after))}
    keys = ("budget", "near", "within", "compositions", "each", "rest", "max_atoms", "seed")
    return {
        "settings": {("method" if key == "rest" else key): options[key] for key in keys},
        "units": {"above_hull": "eV/atom", "within": "eV/atom"},
        "levels": sorted({c.entry.level for c in found.chosen if c.entry.level}),
        "descriptor": asdict(drawn.settings),
        "scaling": drawn.space.scaling,
        "chosen": [
            {
                "name": title_of(pool, c.entry),
                "formula": c.entry.formula,
                "above_hull": c.above,
                "flags": " ".join(c.entry.flags) or None,
                "reason": c.reason,
            }
            for c in found.chosen
        ],
        "near_hull": len(kinds["near the hull"]),
        "there_before": len(have),
        "not_taken": found.left,
        "left_out": dropped,
        "coverage": {key: asdict(value) | {"fraction": value.fraction} for key, value in covered.items()},
    }


def _write(found: Selection, summary: dict[str, Any], pool: Pool, drawn: StructureMap, have: Any, out: Path) -> None:
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import selection, style
    from uspex_bridge.learn.choose.candidates import candidate, known_of, title_of, write_frames

    known = known_of(pool)
    structures = {e.name: s for e, s in pool.structures([chosen.entry for chosen in found.chosen])}
    frames = []
    for chosen in found.chosen:
        entry, more = chosen.entry, dict(known.get(chosen.entry.name, {}))
        reason = "; ".join(filter(None, [more.pop("reason", ""), chosen.reason]))
        frames.append(candidate(entry, structures[entry.name], title_of(pool, entry), reason=reason, **more))
    write_frames(out / "selected.extxyz", frames)
    q.write_text(out / "selected.csv", as_csv(summary["chosen"]))
    q.write_text(out / "selected.json", json.dumps(summary, indent=1, ensure_ascii=False))
    style.save(selection.draw(drawn.space, drawn.coordinates, have, _kinds(found, drawn)), out / "coverage.png")


def report(found: Selection, summary: dict[str, Any], pool: Pool) -> str:
    """Return the selection as text."""
    from uspex_bridge.base.tables import layout
    from uspex_bridge.learn.choose.candidates import title_of

    rows = [
        [
            title_of(pool, c.entry),
            c.entry.formula,
            "" if c.above is None else f"{c.above:.4f}",
            c.reason,
            " ".join(c.entry.flags),
        ]
        for c in found.chosen
    ]
    left = ", ".join(f"{count} {why}" for why, count in summary["left_out"].items() if count)
    before, after = (summary["coverage"][key] for key in ("before", "after"))
    return "\n".join(
        [
            layout([("", ""), ("formula", ""), ("above", "eV/atom"), ("taken because", ""), ("", "")], rows),
            "",
            f"{len(found.chosen)} taken, {summary['near_hull']} of them near the hull; {found.left} more candidates",
            *([f"left out before: {left}"] if left else []),
            f"bins of the map reached: {before['occupied']} of {before['of']} before, {after['occupied']} after",
        ]
    )
