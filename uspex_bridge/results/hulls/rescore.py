"""A whole search computed again with another model, protocol or pressure, and what that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.units import pressure_of
from uspex_bridge.results.hulls.hull import Hull, at_pressure, build_hull
from uspex_bridge.results.hulls.stability import Question, blocks_of, without_holes
from uspex_bridge.results.reading.join import line_of
from uspex_bridge.results.reading.model import NAN, Entry, Pool

if TYPE_CHECKING:
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.call.relaxed import Relaxed


@dataclass(frozen=True, eq=False)
class Again:
    """One structure computed again.

    Attributes:
        before: as the search had it.
        after: with the new model, in the search's cell; None where it failed.
        reason: why it failed.
        pressure_gpa: the new model's own pressure at the result, GPa: in a single point, how far the cell is from
            where the new model would have it.
    """

    before: Entry
    after: Entry | None
    reason: str = ""
    pressure_gpa: float = NAN


def common_pressure(entries: Iterable[Entry], asked: float | None) -> float:
    """Return the pressure to work at: the one asked for, else the one that all valid entries have, GPa.

    Raises:
        ConfigError: they do not agree on one.
    """
    if asked is not None:
        return asked
    known = {entry.pressure_gpa for entry in entries if entry.valid}
    if len(known) != 1 or None in known:
        raise ConfigError("the sources have different or unknown pressures: give --pressure")
    return float(known.pop() or 0.0)


def rescore(pool: Pool, entries: Sequence[Entry], task: RelaxTask) -> Iterator[Again]:
    """Compute entries again with ``task`` (its folder keeps what is done; with ``resume`` that is not done twice).

    Yields:
        one result per structure that can be read, as it is done.

    Raises:
        ConfigError, ModelError, OutputError: see :func:`uspex_bridge.call.many.relax_all`.
    """
    return (again for again, _ in each_again(pool, entries, task))


def each_again(pool: Pool, entries: Sequence[Entry], task: RelaxTask) -> Iterator[tuple[Again, Relaxed]]:
    """Yield what :func:`rescore` does, each with what the relaxation left."""
    from uspex_bridge.call.many import relax_all

    wanted = {(entry.run, entry.id): entry for entry in entries}
    jobs = ((Path(entry.run), entry.id, _titled(entry, s)) for entry, s in pool.structures(list(wanted.values())))
    keys = {(str(Path(run)), number): entry for (run, number), entry in wanted.items()}
    for done in relax_all(jobs, task):
        yield _again(keys[done.fields["source"], done.fields["index"]], done), done


def _titled(entry: Entry, structure: Structure) -> Structure:
    return replace(structure, comment=f"EA{entry.id} {entry.formula} {entry.run}")


def _again(before: Entry, done: Relaxed) -> Again:
    """Return a structure computed again with what became of it."""
    fields: dict[str, Any] = done.fields
    if "enthalpy" not in fields:
        return Again(before, None, f"{fields.get('code')}: {fields.get('reason')}")
    line = line_of(fields, 0)
    after = replace(
        before,
        enthalpy=line.enthalpy,
        volume=line.volume,
        pressure_gpa=line.pressure_gpa,
        level=line.level,
        record=line.recorded,
        space_group=None,
        symbol=done.after,
        dense=False,  # the guards have judged it
        fitness=NAN,
        steps=(),
    )
    return Again(before, after, "", pressure_of(fields["output"]["stress"]))


@dataclass(frozen=True)
class Change:
    """One structure's place before and after: distances to each hull, eV/atom, and ranks among all (from 1)."""

    entry: Entry
    above: tuple[float, float]
    formation: tuple[float, float]
    rank: tuple[int, int]

    @property
    def shift(self) -> float:
        """By how much the formation enthalpy changed, eV/atom."""
        return self.formation[1] - self.formation[0]


@dataclass(frozen=True, eq=False)
class Reranking:
    """What the first model had wrong, if the second one is right.

    Attributes:
        changes: every structure, by its new distance to the hull.
        hulls: before and after, of the structures that were computed again.
        appeared, vanished: entries that are corners of the new hull and were not of the old one, and the reverse.
        spearman: correlation of the two rankings by distance to the hull.
        error: mean absolute difference of formation enthalpies, eV/atom; largest: the largest, and whose.
        recall: of the structures within the window by the new model, the part that the first had within it.
        needed: window of the first model, eV/atom, that would have held all of them.
        failed: those that the new model could not compute.
        warnings: what was left out.
    """

    changes: tuple[Change, ...]
    hulls: tuple[Hull, Hull]
    appeared: tuple[Entry, ...]
    vanished: tuple[Entry, ...]
    spearman: float
    error: float
    largest: Change
    recall: float
    needed: float
    failed: tuple[Again, ...]
    warnings: tuple[str, ...] = ()


def compare_rankings(pool: Pool, again: Sequence[Again], question: Question) -> Reranking:
    """Compare the two hulls of the structures that both models have, without those in a hole of either.

    Raises:
        InputError: too little is left to build a hull from.
    """
    good = [one for one in again if one.after is not None and one.before.valid]
    olds, _ = at_pressure([one.before for one in good], None)
    news = [one.after for one in good if one.after is not None]
    sides = [without_holes(entries, with_holes=question.with_holes) for entries in (olds, news)]
    sound = set.intersection(*({entry.name for entry in entries} for entries, _ in sides))
    blocks = blocks_of(pool)
    before, after = (
        build_hull([entry for entry in entries if entry.name in sound], question.components, blocks)
        for entries in (olds, news)
    )
    ranks = [{point.entry.name: k for k, point in enumerate(hull.points, 1)} for hull in (before, after)]
    changes = []
    for point in after.points:
        old = before.by_name.get(point.entry.name)
        if old is not None:
            name = point.entry.name
            changes.append(
                Change(
                    point.entry,
                    (old.above, point.above),
                    (old.formation, point.formation),
                    (ranks[0][name], ranks[1][name]),
                )
            )
    corners = [{point.entry.name: point.entry for point in hull.vertices} for hull in (before, after)]
    differences = np.array([change.shift for change in changes])
    near = [change.above[0] for change in changes if change.above[1] <= question.within + 1e-9]
    return Reranking(
        changes=tuple(changes),
        hulls=(before, after),
        appeared=tuple(entry for name, entry in corners[1].items() if name not in corners[0]),
        vanished=tuple(entry for name, entry in corners[0].items() if name not in corners[1]),
        spearman=rank_correlation([c.above[0] for c in changes], [c.above[1] for c in changes]),
        error=float(np.abs(differences).mean()),
        largest=changes[int(np.abs(differences).argmax())],
        recall=sum(value <= question.within + 1e-9 for value in near) / len(near),
        needed=max(near),
        failed=tuple(one for one in again if one.after is None),
        warnings=tuple(
            f"{which} model: {said}"
            for which, (_, warned) in zip(("first", "new"), sides, strict=True)
            for said in warned
        ),
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's coefficient; NaN for fewer than three pairs, or where one side is all the same."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return NAN
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
