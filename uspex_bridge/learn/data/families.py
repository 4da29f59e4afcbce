"""Families by crystal: what is the same phase as a labelled structure is on its side of the split.

A shift of the origin, another choice of cell, strain, another pressure or a further relaxation make another training
point of the same phase; tested on one and trained on the other, a model would know the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ase import Atoms

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.learn.data.identity import Split
from uspex_bridge.learn.data.labels import Label
from uspex_bridge.results.matching import Catalogue

#: Of several families of the same phase, the one that is joined: no twin of a tested structure may train.
_PREFERRED: tuple[Split, ...] = ("test", "valid", "train")


class Families:
    """The families of a dataset by their crystals.

    Args:
        labels: of the dataset.
        read: returns labelled structures by their identity; asked for one of each family of a composition that a new
            structure has, and only then.
    """

    def __init__(self, labels: Sequence[Label], read: Callable[[Sequence[Label]], Mapping[str, Atoms]]) -> None:
        self.splits: dict[str, Split] = {label.family: label.split for label in labels}
        self._read = read
        self._waiting: dict[str, dict[str, Label]] = {}
        for label in labels:
            self._waiting.setdefault(label.reduced, {}).setdefault(label.family, label)
        self._catalogue = Catalogue()
        self._names: dict[str, str] = {}

    def of(self, atoms: Atoms, given: str, split: Callable[[str], Split]) -> str:
        """Return the family of a structure: the one of the same phase, else ``given``, which then is a new one.

        Args:
            atoms: the structure.
            given: the family that it says it has.
            split: gives a new family's split.
        """
        if (name := self._names.get(given)) is None:
            name = given if given in self.splits else self._same(atoms) or given
            self._names[given] = name
            self.splits.setdefault(name, split(name))
            if name == given:
                self._catalogue.add(name, to_structure(atoms))
        return name

    def _same(self, atoms: Atoms) -> str | None:
        self._load(atoms.get_chemical_formula(empirical=True))
        found = list(self._catalogue.find_all(to_structure(atoms)))
        return min(found, key=lambda name: _PREFERRED.index(self.splits[name]), default=None)

    def _load(self, formula: str) -> None:
        """Put one structure of each family of a composition into the catalogue, once."""
        waiting = self._waiting.pop(formula, {})
        for label, atoms in ((label, self._read([label])[label.id]) for label in waiting.values()):
            self._catalogue.add(label.family, to_structure(atoms))


def twins(labels: Sequence[Label], frames: Mapping[str, Atoms]) -> list[tuple[Label, Label]]:
    """Return families of the same phase that are in different splits: a label of the one and a label of the other.

    Args:
        labels: of a dataset.
        frames: its structures by identity.
    """
    first: dict[str, Label] = {}
    for label in labels:
        first.setdefault(label.family, label)
    catalogue, found = Catalogue(), []
    for label in first.values():
        structure = to_structure(frames[label.id])
        found += [(first[name], label) for name in catalogue.find_all(structure) if first[name].split != label.split]
        catalogue.add(label.family, structure)
    return found
