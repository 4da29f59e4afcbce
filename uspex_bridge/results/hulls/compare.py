"""Two searches side by side: which phases near the hull both have, which only one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from uspex_bridge.results.hulls.stability import Assessment, Question, assess
from uspex_bridge.results.phases.definition import Phase
from uspex_bridge.results.phases.matching import Catalogue
from uspex_bridge.results.reading.model import Pool

Status = Literal["common", "lost", "new"]


@dataclass(frozen=True)
class Pair:
    """A phase of one search and what it is in the other.

    Attributes:
        status: ``common`` where both have it within the window, ``lost`` where only the first has, ``new`` where
            only the second has.
        first, second: the phase in each; of a lost or new one the other is where it lies above the window, or None
            where the other search has not found it at all.
        above: distance to each one's hull, eV/atom.
    """

    status: Status
    first: Phase | None
    second: Phase | None
    above: tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both answers, each with its own hull, and the phases joined."""

    first: Assessment
    second: Assessment
    within: float
    pairs: tuple[Pair, ...]

    def of(self, status: Status) -> list[Pair]:
        """Return the pairs of one kind."""
        return [pair for pair in self.pairs if pair.status == status]


def compare(first: Pool, second: Pool, question: Question, search: float = 0.3) -> Comparison:
    """Compare the phases within ``question.within`` of each search's own hull.

    Phases are matched by structure alone, since models and pressures move enthalpies and volumes.

    Args:
        first: one search.
        second: the other; references may be part of either.
        question: how each is assessed.
        search: how far above the hull a phase of one is looked for in the other, eV/atom.
    """
    reach = max(search, question.within)
    answers = [assess(pool, replace(question, within=reach)) for pool in (first, second)]
    catalogue = Catalogue(question.tolerances)
    ranks = {phase.entry.name: k for k, phase in enumerate(answers[1].phases)}
    for phase in answers[1].phases:
        if phase.entry.name in answers[1].structures:
            catalogue.add(phase.entry.name, answers[1].structures[phase.entry.name])
    joined: dict[str, Phase] = {}
    for phase in answers[0].phases:
        structure = answers[0].structures.get(phase.entry.name)
        found = catalogue.find(structure) if structure is not None else None
        if found is not None and found not in joined:
            joined[found] = phase
    mine = {phase.entry.name: answers[1].phases[ranks[found]] for found, phase in joined.items()}
    pairs = [_pair(answers, phase, mine.get(phase.entry.name), question.within) for phase in answers[0].phases]
    pairs += [
        _pair(answers, None, phase, question.within) for phase in answers[1].phases if phase.entry.name not in joined
    ]
    kept = [pair for pair in pairs if pair is not None]
    return Comparison(answers[0], answers[1], question.within, tuple(kept))


def _pair(answers: Sequence[Assessment], first: Phase | None, second: Phase | None, within: float) -> Pair | None:
    """Return the pair, None where neither lies within the window."""
    above = tuple(
        None if phase is None else answer.point(phase).above
        for answer, phase in zip(answers, (first, second), strict=True)
    )
    near = [value is not None and value <= within + 1e-9 for value in above]
    if not any(near):
        return None
    status: Status = "common" if all(near) else "lost" if near[0] else "new"
    return Pair(status, first, second, (above[0], above[1]))
