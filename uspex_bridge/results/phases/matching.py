"""Finding the same phase among other structures: known ones, or those of another pressure, model or search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.results.phases.definition import Tolerances, same_phase
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.convert import to_pymatgen
from uspex_bridge.results.reading.model import Composition, composition_of, reduced_composition
from uspex_bridge.results.reading.sources import Loose


@dataclass
class Catalogue:
    """Structures by composition, to be asked whether a further one is the same phase as one of them.

    The definition is that of :mod:`uspex_bridge.results.phases.definition`, with the tolerances between pressures and
    models.
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    held: dict[Composition, list[tuple[Any, Surroundings]]] = field(default_factory=dict)

    def add(self, key: Any, structure: Structure) -> None:
        """Add a structure under any key."""
        self.held.setdefault(_composition(structure), []).append((key, Surroundings(structure)))

    def find(self, structure: Structure) -> Any:
        """Return the key of the nearest structure that is the same, None where there is none."""
        candidates = self.held.get(_composition(structure), ())
        if not candidates:
            return None
        limit, mine = self.tolerances.across().distance, Surroundings(structure)
        least = mine.at_least(np.array([other.means for _, other in candidates]))
        same = [k for k in np.flatnonzero(least <= limit).tolist() if same_phase(candidates[k][1], mine, limit)]
        return candidates[min(same, key=lambda k: mine.distance(candidates[k][1]))][0] if same else None

    def find_prototype(self, structure: Structure) -> Any:
        """Return the key of the first structure that has the same sites, whatever the elements on them.

        pymatgen's StructureMatcher with its own tolerances: a structure type is wider than a phase.
        """
        from pymatgen.analysis.structure_matcher import StructureMatcher

        ratio = sorted(n for _, n in _composition(structure))
        mine, matcher = to_pymatgen(structure), StructureMatcher()
        for composition, structures in self.held.items():
            if sorted(n for _, n in composition) == ratio:
                for key, other in structures:
                    if matcher.fit_anonymous(mine, to_pymatgen(other.structure)):
                        return key
        return None


@dataclass(frozen=True)
class Known:
    """Which known phase a structure is: the same compound, or only the same structure type."""

    name: str
    kind: Literal["same", "prototype"]

    def __str__(self) -> str:
        return self.name if self.kind == "same" else f"new, as {self.name}"


def recognise(
    structures: Iterable[tuple[str, Structure]], references: Sequence[Loose], tolerances: Tolerances | None = None
) -> dict[str, Known]:
    """Look structures up among references; what is missing in the answer is new."""
    catalogue = Catalogue(tolerances or Tolerances())
    for reference in references:
        for entry, structure in reference.structures(reference.entries):
            catalogue.add(f"{reference.names[entry.id]} ({structure.formula})", structure)
    found = {}
    for name, structure in structures:
        if (same := catalogue.find(structure)) is not None:
            found[name] = Known(same.rpartition(" (")[0], "same")
        elif (type_ := catalogue.find_prototype(structure)) is not None:
            found[name] = Known(type_, "prototype")
    return found


def _composition(structure: Structure) -> Composition:
    return reduced_composition(composition_of(structure.symbols))
