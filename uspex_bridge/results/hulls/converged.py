"""Has the search settled: the hull unchanged, and nothing new near it, for so many generations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.hulls.hull import Hull, at_pressure, build_hull, one_level
from uspex_bridge.results.hulls.stability import Question, blocks_of, refuse_without_hull, without_holes
from uspex_bridge.results.phases.definition import find_phases
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import TIE, Composition, Entry, Pool, Source


@dataclass(frozen=True)
class Generation:
    """What one generation brought.

    Attributes:
        number: as the search counts.
        structures: how many it has; failed: those of them without an enthalpy.
        new: unique phases within the window of the final hull that no earlier generation had.
        lowered: by how much a structure undercut the hull of all earlier generations, eV/atom at most; None while
            there was no hull (a component without any structure).
        stable: corners of the hull after it.
        lowest: lowest enthalpy so far, eV/atom, where all structures have one composition; else None.
        origins: operators that made the new phases.
    """

    number: int
    structures: int
    failed: int
    new: int
    lowered: float | None
    stable: int
    lowest: float | None
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Convergence:
    """The history of a search and the verdict.

    Attributes:
        generations: in order; those that are not complete are left out (``running``).
        settled: how many of the last generations brought neither a lower hull nor a new phase near it.
        needed: how many are asked for.
        within: the window, eV/atom; tie: how much lower a hull must be to have changed.
        running: the generation that is not complete yet, if there is one.
        final: the hull of all complete generations.
        warnings: what the user must know before believing it.
    """

    generations: tuple[Generation, ...]
    settled: int
    needed: int
    within: float
    tie: float
    running: int | None
    final: Hull
    warnings: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """The verdict."""
        return self.settled >= self.needed


def history(
    results: Results, extra: Sequence[Source], question: Question, needed: int = 15, tie: float = TIE
) -> Convergence:
    """Follow one search generation by generation.

    Args:
        results: the search.
        extra: references that are there from the beginning (elements, known compounds).
        question: pressure, components, window and how duplicates are found.
        needed: generations without change that make a search converged.
        tie: a hull that sinks by less has not changed, eV/atom.

    Raises:
        InputError: the files do not say which structure belongs to which generation.
    """
    pool = Pool([results, *extra])
    refuse_without_hull(pool)
    warnings = one_level(pool.entries, mix=question.mix_levels)
    entries, moved = at_pressure(pool.entries, question.pressure_gpa)
    taking_part, left = without_holes(entries, with_holes=question.with_holes)
    moved += left
    born, part = _born(results, entries), _born(results, taking_part)
    given = [entry for entry in taking_part if entry.run != results.label]
    if not results.entries:
        raise InputError(f"{results.path}: it holds no structures yet")
    if not born:
        raise InputError(f"{results.path}: the generations of the structures are unknown (no OUTPUT.txt)")
    running = _running(results, born)
    numbers = sorted(number for number in born if number != running)
    if not numbers:
        raise InputError(f"{results.path}: the first generation is not complete yet")
    complete = [*given, *(entry for number in numbers for entry in part[number])]
    final = build_hull(complete, question.components, blocks_of(pool))
    first = _first_seen(pool, final, question)
    made = []
    hull: Hull | None = None
    lowest: dict[Composition, Entry] = {}
    _keep_lowest(lowest, given)
    sole = len({entry.reduced for entry in complete if entry.valid}) == 1
    for number in numbers:
        lowered, hull = _advance(hull, lowest, part[number], final.names)
        new = [origin for generation, origin in first if generation == number]
        best = min((e.enthalpy_per_atom for e in lowest.values()), default=None)
        failed = sum(not entry.valid for entry in born[number])
        stable = len(hull.vertices) if hull is not None else 0
        made.append(
            Generation(
                number,
                structures=len(born[number]),
                failed=failed,
                new=len(new),
                lowered=lowered,
                stable=stable,
                lowest=best if sole else None,
                origins=tuple(new),
            )
        )
    said = (*warnings, *moved)
    return Convergence(tuple(made), _settled(made, tie), needed, question.within, tie, running, final, said)


def _born(results: Results, entries: Sequence[Entry]) -> dict[int, list[Entry]]:
    """Return the search's own entries by generation."""
    born: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.run == results.label and entry.generation is not None:
            born[entry.generation].append(entry)
    return born


def _running(results: Results, born: dict[int, list[Entry]]) -> int | None:
    """Return the last generation where it is not complete.

    The MATLAB line gives fitness at the end of each; the Python line does not tell, so that of a search that is not
    over the last one counts as incomplete.
    """
    last = max(born)
    unranked = all(entry.fitness != entry.fitness for entry in born[last])
    return last if results.state != "finished" and (unranked or results.line == "python") else None


def _first_seen(pool: Pool, final: Hull, question: Question) -> list[tuple[int | None, str]]:
    """Return for each phase near the final hull the generation that first had it (None: a reference) and its origin."""
    near = [point.entry for point in final.within(question.within)]
    seen = []
    for phase in find_phases(pool, near, question.method, question.tolerances):
        members = [phase.entry, *phase.duplicates]
        first = min(members, key=lambda e: -1 if e.generation is None else e.generation)
        seen.append((first.generation, first.origin))
    return seen


def _keep_lowest(lowest: dict[Composition, Entry], entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.valid:
            kept = lowest.get(entry.reduced)
            if kept is None or entry.enthalpy_per_atom < kept.enthalpy_per_atom:
                lowest[entry.reduced] = entry


def _advance(
    hull: Hull | None, lowest: dict[Composition, Entry], entries: Sequence[Entry], names: Sequence[str]
) -> tuple[float | None, Hull | None]:
    """Add a generation: return by how much it undercut the hull before it, and the hull after it."""
    _keep_lowest(lowest, entries)
    if hull is None:
        try:
            return None, build_hull(list(lowest.values()), names)
        except InputError:  # some component has no structure yet
            return None, None
    depths = [(-hull.above(e.composition, e.enthalpy), e) for e in entries if e.valid and hull.holds(e.composition)]
    below = [(depth, entry) for depth, entry in depths if depth > 1e-9]
    if not below:
        return 0.0, hull
    corners = [point.entry for point in hull.vertices]
    return max(depth for depth, _ in below), build_hull([*corners, *(entry for _, entry in below)], names)


def _settled(made: Sequence[Generation], tie: float) -> int:
    count = 0
    for generation in reversed(made):
        if generation.new or generation.lowered is None or generation.lowered > tie:
            break
        count += 1
    return count
