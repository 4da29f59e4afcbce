"""What the figures of a composition space draw: every entry with its place on the hull, and what is labelled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.words import counted
from uspex_bridge.results.hulls.hull import Hull, HullPoint
from uspex_bridge.results.hulls.stability import Assessment, stable_phases
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import TIE, Composition, Entry, Pool

#: Series of what states no level of theory.
UNSTATED = "level of theory not stated"
_HASH = re.compile(r" [0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry on a diagram.

    Attributes:
        entry: it.
        fractions: of each component, sum 1.
        formation, above: enthalpy of formation and distance to the hull, eV/atom.
        vertex: whether it is a corner of the hull.
        series: what it came from: level of theory, or search and references.
        hull: which of the diagram's hulls it belongs to.
    """

    entry: Entry
    fractions: tuple[float, ...]
    formation: float
    above: float
    vertex: bool
    series: str
    hull: str = ""

    def row(self, components: Sequence[str]) -> dict[str, Any]:
        """Return it as plain values."""
        entry = self.entry
        return {
            "name": entry.name,
            "formula": entry.formula,
            **{f"x_{name}": round(x, 6) for name, x in zip(components, self.fractions, strict=True)},
            "formation_enthalpy": round(self.formation, 6),
            "above_hull": round(self.above, 6),
            "enthalpy_per_atom": entry.enthalpy_per_atom,
            "volume_per_atom": entry.volume_per_atom if entry.volume == entry.volume else None,
            "stable": self.vertex,
            "series": self.series,
            "level": entry.level or None,
            "generation": entry.generation,
            "origin": entry.origin,
            "doubtful": " ".join(entry.marks) or None,
        }


@dataclass(frozen=True, eq=False)
class Diagram:
    """One composition space with everything in it; of several levels of theory each has a hull of its own.

    Attributes:
        components: corners; the same for all hulls.
        pressure_gpa: GPa, None where nothing says it.
        marks: all entries, the farthest from its hull first, so that the best are drawn on top.
        series: names of the series, in order.
        edges: of each hull its tie lines, pairs of corners, by series or level.
        labelled: phases on a hull with their space group (``?`` where unknown): corners of the diagram, then the
            lowest, near-ties last.
        hulls: the hulls themselves, by the same names as ``edges``.
        levels: of theory.
        pool: where the structures come from.
        note: what must stand in the picture: that enthalpies are extrapolated.
    """

    components: tuple[str, ...]
    pressure_gpa: float | None
    marks: tuple[Mark, ...]
    series: tuple[str, ...]
    edges: Mapping[str, tuple[tuple[Mark, Mark], ...]]
    labelled: tuple[tuple[Mark, str], ...]
    hulls: Mapping[str, Hull]
    levels: tuple[str, ...]
    pool: Pool
    note: str = ""

    def lowest(self) -> list[Mark]:
        """Return the lowest mark at each composition of each series, in the order of ``marks``."""
        best: dict[tuple[str, Composition], Mark] = {}
        for mark in self.marks:
            best[mark.series, mark.entry.reduced] = mark  # the lowest comes last
        kept = {id(mark) for mark in best.values()}
        return [mark for mark in self.marks if id(mark) in kept]

    def head(self, drawn: int | None = None) -> tuple[str, str, str]:
        """Return what stands over each figure: pressure, level of theory, and how many structures are in it."""
        total = len(self.marks)
        said = counted(total, "structure")
        shown = said if drawn in (None, total) else f"{drawn} of {said}"
        return (*standing(self.pressure_gpa, self.levels), shown)

    def products(self, mark: Mark) -> list[tuple[Mark, float]]:
        """Return the phases that a structure decomposes into, each with its share of the atoms."""
        hull = self.hulls[mark.hull]
        found = hull.products(hull.by_name[mark.entry.name])
        return [(self._by_name[mark.hull, point.entry.name], share) for point, share in found]

    def facets(self) -> list[tuple[Mark, ...]]:
        """Return the facets of the hulls, each by its corners."""
        found = ((name, facet) for name, hull in self.hulls.items() for facet in hull.facets)
        return [tuple(self._by_name[name, point.entry.name] for point in facet) for name, facet in found]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Mark]:
        return {(mark.hull, mark.entry.name): mark for mark in self.marks}


def make_diagram(answers: Mapping[str, Assessment]) -> Diagram:
    """Put one assessment, or one per level of theory, on one diagram.

    Raises:
        ConfigError: they have different components.
    """
    named = {tuple(answer.hull.names) for answer in answers.values()}
    orders = {tuple(sorted(names)) for names in named}
    if len(orders) > 1:
        listed = "; ".join(", ".join(names) for names in named)
        raise ConfigError(f"the levels of theory span different hulls ({listed}); choose --components")
    components = in_order(next(iter(answers.values())))
    marks: list[Mark] = []
    edges: dict[str, tuple[tuple[Mark, Mark], ...]] = {}
    labelled: list[tuple[Mark, str]] = []
    for name, answer in answers.items():
        order = [answer.hull.names.index(component) for component in components]
        series = _series(answer, len(answers) > 1)
        made = {p.entry.name: _mark(p, order, series(p.entry), name) for p in answer.hull.points}
        marks += made.values()
        edges[name] = tuple((made[a], made[b]) for a, b in _edges(answer))
        labelled += [(made[phase.entry.name], answer.space_group(phase)) for phase in stable_phases(answer)]
    marks.sort(key=lambda mark: (-mark.above, mark.vertex))
    labelled.sort(key=lambda pair: (is_tie(pair[0]), max(pair[0].fractions) < 1, pair[0].formation))
    pressure = next(iter(answers.values())).pressure_gpa
    names = Counter(mark.series for mark in marks).most_common()
    series_names = tuple(name for name, _ in names)
    note = "; ".join(dict.fromkeys(said for answer in answers.values() if (said := answer.extrapolated)))
    hulls = {name: answer.hull for name, answer in answers.items()}
    levels = tuple(dict.fromkeys(level for answer in answers.values() for level in answer.levels))
    pool = next(iter(answers.values())).pool
    return Diagram(components, pressure, tuple(marks), series_names, edges, tuple(labelled), hulls, levels, pool, note)


def standing(pressure_gpa: float | None, levels: Iterable[str]) -> tuple[str, str]:
    """Return pressure and level of theory as they stand over a figure."""
    return "pressure not stated" if pressure_gpa is None else f"{pressure_gpa:g} GPa", levels_text(levels)


def levels_text(levels: Iterable[str]) -> str:
    """Return levels of theory as they are printed: the hash of a model's weights is left out where none needs it."""
    names = [level or UNSTATED for level in levels]
    short = [_HASH.sub("", name) for name in names]
    return " and ".join(short if len(set(short)) == len(names) else names)


def _mark(point: HullPoint, order: Sequence[int], series: str, hull: str) -> Mark:
    total = sum(point.amounts)
    fractions = tuple(point.amounts[k] / total for k in order)
    return Mark(point.entry, fractions, point.formation, point.above, point.vertex, series, hull)


def in_order(answer: Assessment) -> tuple[str, ...]:
    """Return the components in the order in which the search names its elements, where they are those."""
    names = answer.hull.names
    searches = (source for source in answer.pool.sources.values() if isinstance(source, Results))
    species = next(
        (search.settings.species for search in searches if set(names) <= set(search.settings.species)), names
    )
    return tuple(name for name in species if name in names)


def _series(answer: Assessment, several: bool) -> Callable[[Entry], str]:
    """Return what names an entry's series: its level where there are several, else whether it is a reference."""
    searches = {label for label, source in answer.pool.sources.items() if isinstance(source, Results)}
    if several or len(answer.levels) > 1 or not 0 < len(searches) < len(answer.pool.sources):
        return lambda entry: entry.level or UNSTATED
    return lambda entry: "search" if entry.run in searches else "reference"


def _edges(answer: Assessment) -> Iterable[tuple[str, str]]:
    """Return the tie lines of a hull as pairs of names, each once."""
    pairs = set()
    for facet in answer.hull.facets:
        names = sorted(point.entry.name for point in facet)
        pairs |= {(a, b) for k, a in enumerate(names) for b in names[k + 1 :]}
    return sorted(pairs)


def section(diagram: Diagram, components: Sequence[str]) -> Diagram:
    """Return the part of a diagram that is made of some of its components, such as a binary side of a ternary one."""
    kept = [diagram.components.index(name) for name in components]
    inside: dict[int, Mark] = {}
    for mark in diagram.marks:
        fractions = tuple(mark.fractions[k] for k in kept)
        if abs(sum(fractions) - 1) < 1e-6:
            inside[id(mark)] = replace(mark, fractions=fractions)
    edges = {
        name: tuple((inside[id(a)], inside[id(b)]) for a, b in pairs if id(a) in inside and id(b) in inside)
        for name, pairs in diagram.edges.items()
    }
    labelled = tuple((inside[id(mark)], group) for mark, group in diagram.labelled if id(mark) in inside)
    return replace(diagram, components=tuple(components), marks=tuple(inside.values()), edges=edges, labelled=labelled)


def is_tie(mark: Mark) -> bool:
    """Tell whether a mark lies so close to the hull that it shares it without being a corner."""
    return mark.above <= TIE and not mark.vertex


def are_elements(components: Iterable[str]) -> bool:
    """Tell whether all corners of a diagram are elements, not compounds."""
    return all(name.isalpha() and name.istitle() for name in components)


def need_components(diagram: Diagram, count: int, figure: str) -> None:
    """Check that a figure can show so many components.

    Raises:
        ConfigError: it cannot; the message says which figure can.
    """
    found = len(diagram.components)
    if found == count:
        return
    listed = ", ".join(diagram.components)
    figures = {2: "see plot hull", 3: "see plot ternary", 4: "see plot quaternary"}
    if found == 1:
        advice = "all structures have one composition: see plot volume and plot progress"
    elif found > count:
        other = f", or {figures[found]}" if found in figures else ""
        advice = f"choose {count} of them with --components{other}"
    else:
        advice = figures[found]
    raise ConfigError(f"{figure} shows {count} components and here are {found} ({listed}); {advice}")


def summary(diagram: Diagram, shown: Sequence[Mark]) -> dict[str, Any]:
    """Return what any diagram says as plain values: corners, tie lines, phases on the hull, the marks shown."""
    return {
        "components": list(diagram.components),
        "pressure_gpa": diagram.pressure_gpa,
        "levels": list(diagram.levels),
        "units": {"formation_enthalpy": "eV/atom", "above_hull": "eV/atom", "enthalpy_per_atom": "eV/atom"},
        "note": diagram.note or None,
        "series": list(diagram.series),
        "tie_lines": {k: [[a.entry.name, b.entry.name] for a, b in v] for k, v in diagram.edges.items()},
        "labelled": [
            {
                "name": mark.entry.name,
                "formula": mark.entry.formula,
                "space_group": group,
                "tie": is_tie(mark),
                "doubtful": " ".join(mark.entry.marks) or None,
            }
            for mark, group in diagram.labelled
        ],
        "structures": len(diagram.marks),
        "drawn": len(shown),
        "points": [mark.row(diagram.components) for mark in shown],
    }
