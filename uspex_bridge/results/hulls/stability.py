"""From sources to what is stable: one pressure, one level of theory, a hull, and the phases near it without duplicates.

The commands hull, best, seeds, compare and rescore all ask this question; they differ in what they do with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.symmetry import SYMPREC, find_group
from uspex_bridge.base.units import pv_energy
from uspex_bridge.base.words import counted
from uspex_bridge.results.hulls.hull import (
    SAME_PRESSURE,
    Hull,
    HullPoint,
    at_pressure,
    build_hull,
    levels_of,
    one_level,
)
from uspex_bridge.results.hulls.outliers import Outlier, find_outliers
from uspex_bridge.results.phases.definition import Method, Phase, Tolerances, find_phases
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import TIE, Composition, Entry, Pool
from uspex_bridge.results.reading.settings import SearchSettings

#: No compound is bound by more than this, eV/atom, and by PV of what it may contract on formation, Å³/atom.
BOUND, CONTRACTION = 6.0, 2.0


@dataclass(frozen=True)
class Question:
    """What is asked of the sources.

    Attributes:
        pressure_gpa: None takes the one they all have.
        components: formulas to span the hull between; None chooses (see :func:`build_hull`).
        within: how far above the hull phases are of interest, eV/atom.
        method, tolerances: what the same phase is.
        symprec: tolerance of space groups, Å.
        mix_levels: go on where the enthalpies are of several levels of theory.
        with_holes: let structures in holes of a model take part.
    """

    pressure_gpa: float | None = None
    components: tuple[str, ...] | None = None
    within: float = 0.1
    method: Method = "phase"
    tolerances: Tolerances = field(default_factory=Tolerances)
    symprec: float = SYMPREC
    mix_levels: bool = False
    with_holes: bool = False


@dataclass(frozen=True, eq=False)
class Assessment:
    """The answer.

    Attributes:
        pool: the sources.
        entries: all entries at the one pressure, those without an enthalpy included.
        hull: of all of them.
        phases: those within the window, by distance to the hull, then by formation enthalpy.
        warnings: what the user must know before believing it.
    """

    pool: Pool
    question: Question
    entries: tuple[Entry, ...]
    hull: Hull
    phases: tuple[Phase, ...]
    warnings: tuple[str, ...]

    @property
    def pressure_gpa(self) -> float | None:
        """GPa, None where nothing says it."""
        return next((entry.pressure_gpa for entry in self.entries if entry.valid), None)

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of theory of what the hull is built from."""
        return tuple(levels_of(self.entries))

    def point(self, phase: Phase) -> HullPoint:
        """Where a phase lies."""
        return self.hull.by_name[phase.entry.name]

    @property
    def extrapolated(self) -> str:
        """Say what of the enthalpies was brought here from other pressures; nothing where all were computed here."""
        there = self.pressure_gpa
        pressures = [e.pressure_gpa for e in self.pool.entries if e.valid and e.pressure_gpa is not None]
        moved = [p for p in pressures if there is not None and abs(p - there) > SAME_PRESSURE]
        if not moved:
            return ""
        known = ", ".join(f"{p:g}" for p in sorted(set(moved)))
        return f"{len(moved)} of {len(self.hull.points)} enthalpies extrapolated from {known} GPa, cells unrelaxed"

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """The phases' structures by name of their entry; those that can be read."""
        return {entry.name: structure for entry, structure in self.pool.structures([p.entry for p in self.phases])}

    def space_group(self, phase: Phase) -> str:
        """Return symbol and number of a phase by spglib, else what the results say, else ``?``."""
        structure = self.structures.get(phase.entry.name)
        found = find_group(structure, self.question.symprec) if structure is not None else None
        if found is not None:
            return str(found)
        number, symbol = phase.entry.space_group, phase.entry.symbol
        return f"{symbol} ({number})".strip() if number else "?"

    @cached_property
    def outliers(self) -> list[Outlier] | None:
        """What stands out from all others on the hull, None where there are too few to tell."""
        return find_outliers([point.entry for point in self.hull.points])


def assess(pool: Pool, question: Question) -> Assessment:
    """Answer the question for everything in the pool.

    Raises:
        ConfigError: pressures or levels of theory are mixed.
        InputError: there is no hull to be built.
    """
    refuse_without_hull(pool)
    warnings = one_level(pool.entries, mix=question.mix_levels)
    entries, moved = at_pressure(pool.entries, question.pressure_gpa)
    warnings += moved
    taking_part, left = without_holes(entries, with_holes=question.with_holes)
    warnings += left
    hull = build_hull(taking_part, question.components, blocks_of(pool))
    if hull.outside and question.components is None:  # with components that were asked for, nobody wonders
        warnings.append(f"left out: {counted(len(hull.outside), 'entry')} not made of {', '.join(hull.names)}")
    warnings += _unbound(hull)
    near = hull.within(question.within)
    phases = find_phases(pool, [point.entry for point in near], question.method, question.tolerances)
    rank = {point.entry.name: k for k, point in enumerate(near)}
    phases = [phase.led_by(min(phase.members, key=lambda entry: rank[entry.name])) for phase in phases]
    phases.sort(key=lambda phase: rank[phase.entry.name])
    return Assessment(pool, question, tuple(entries), hull, tuple(phases), tuple(warnings))


def _unbound(hull: Hull) -> list[str]:
    """Say which stable structures are bound more strongly than any compound is."""
    said = []
    for point in hull.vertices:
        deepest = BOUND + pv_energy(max(point.entry.pressure_gpa or 0.0, 0.0), CONTRACTION)
        if point.formation < -deepest:
            said.append(
                f"{point.entry.name}: an enthalpy of formation of {point.formation:.1f} eV/atom is impossible for a "
                f"compound (below -{deepest:.1f}): this enthalpy, or that of a component, is wrong"
            )
    return said


def refuse_without_hull(pool: Pool) -> None:
    """Refuse searches in which an enthalpy per atom means nothing.

    Raises:
        InputError: one of the pool's sources is such a search.
    """
    for source in pool.sources.values():
        if isinstance(source, Results) and (why := source.settings.no_hull):
            raise InputError(f"{source.label}: {why}; a hull per atom, or a best structure by it, means nothing there")


def without_holes(entries: Sequence[Entry], *, with_holes: bool = False) -> tuple[list[Entry], list[str]]:
    """Leave out structures in holes of a model, whose enthalpies are none of nature's, unless they are asked for.

    Those of an element of which nothing else is known take part: without them there is no hull.

    Returns:
        the entries that take part, and warnings that name the others.
    """
    holes = [] if with_holes else [entry for entry in entries if entry.valid and "hole" in entry.marks]
    if not holes:
        return list(entries), []
    every = {entry.name for entry in holes}
    sound = {entry.reduced for entry in entries if entry.valid and entry.name not in every}
    sole = [entry for entry in holes if not sound or (len(entry.reduced) == 1 and entry.reduced not in sound)]
    left = every - {entry.name for entry in sole}
    out = [entry for entry in holes if entry.name in left]
    names = ", ".join(f"EA{entry.id}" for entry in out[:5]) + (", ..." if len(out) > 5 else "")
    said = [f"{counted(len(out), 'structure')} in holes of the model left out ({names}); --with-holes includes them"]
    formulas = ", ".join(dict.fromkeys(formula_of(entry.reduced) for entry in sole))
    only = f"all structures of {formulas} are in holes of the model and are included: the enthalpies are unreliable"
    return [e for e in entries if e.name not in left], [*(said if out else []), *([only] if sole else [])]


def assess_per_level(pool: Pool, question: Question) -> dict[str, Assessment]:
    """Build one hull for each level of theory in the pool."""
    return {
        level or "not stated": assess(pool.only([entry for entry in pool.entries if entry.level == level]), question)
        for level in levels_of(pool.entries)
    }


def blocks_of(pool: Pool) -> list[Composition]:
    """Return the building blocks that all searches in the pool share, none where they differ or are unknown."""
    found = {tuple(named_blocks(s.settings)) for s in pool.sources.values() if isinstance(s, Results)} - {()}
    return list(found.pop()) if len(found) == 1 else []


def named_blocks(settings: SearchSettings) -> list[Composition]:
    """Return the blocks of a search as compositions, none where they are unknown."""
    return [
        tuple((symbol, n) for symbol, n in zip(settings.species, block, strict=True) if n)
        for block in settings.blocks
        if len(block) == len(settings.species)
    ]


def stable_phases(assessment: Assessment, tie: float = TIE) -> list[Phase]:
    """Return the phases on the hull, near-ties included."""
    return [phase for phase in assessment.phases if assessment.point(phase).above <= tie]
