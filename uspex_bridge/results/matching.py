"""Finding the same phase among other structures: known ones, or those of another search. Volumes do not matter here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from uspex_bridge.base.data import Structure
from uspex_bridge.results.convert import to_pymatgen
from uspex_bridge.results.duplicates import Tolerances, matcher
from uspex_bridge.results.model import Composition, composition_of, reduced_composition
from uspex_bridge.results.sources import Loose


@dataclass
class Catalogue:
    """Structures by composition, to be asked whether a further one is the same as one of them.

    Compared by pymatgen's StructureMatcher after scaling to the same volume, so that a phase is found again at
    another pressure or in another model.
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    held: dict[Composition, list[tuple[Any, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.matcher = matcher(self.tolerances)

    def add(self, key: Any, structure: Structure) -> None:
        """Add a structure under any key."""
        self.held.setdefault(_composition(structure), []).append((key, _reduced(structure)))

    def find(self, structure: Structure) -> Any:
        """Return the key of the first structure that is the same, None where there is none."""
        candidates = self.held.get(_composition(structure), ())
        mine = _reduced(structure) if candidates else None
        for key, other in candidates:
            if self.matcher.fit(mine, other, skip_structure_reduction=True):
                return key
        return None

    def find_prototype(self, structure: Structure) -> Any:
        """Return the key of the first structure that has the same sites, whatever the elements on them."""
        ratio = sorted(n for _, n in _composition(structure))
        mine = to_pymatgen(structure)
        for composition, structures in self.held.items():
            if sorted(n for _, n in composition) == ratio:
                for key, other in structures:
                    if self.matcher.fit_anonymous(mine, other):
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


def _reduced(structure: Structure) -> Any:
    return to_pymatgen(structure).get_primitive_structure().get_reduced_structure()
