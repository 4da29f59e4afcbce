"""Families by crystal: what is the same phase as a labelled structure is on its side of the split.

A shift of the origin, another choice of cell, strain, another pressure or a further relaxation make another training
point of the same phase; tested on one and trained on the other, a model would know the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ase import Atoms

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.learn.data.identity import Split
from uspex_bridge.learn.data.labels import Label
from uspex_bridge.results.phases.surroundings import Surroundings

#: Surroundings closer than this, in units of the mean spacing, are those of one family. The phases of a search are
#: told apart at a quarter of it (:mod:`uspex_bridge.results.phases.definition`); copies that are displaced by 0.1 Å
#: and strained by 5 % lie at 0.04 to 0.09, other phases beyond 0.1.
_LIMIT = 0.08
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
        self._catalogue = _Catalogue()
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
                self._catalogue.add(name, atoms)
        return name

    def _same(self, atoms: Atoms) -> str | None:
        self._load(atoms.get_chemical_formula(empirical=True))
        found = self._catalogue.find_all(atoms)
        return min(found, key=lambda name: _PREFERRED.index(self.splits[name]), default=None)

    def _load(self, formula: str) -> None:
        """Put one structure of each family of a composition into the catalogue, once."""
        waiting = list(self._waiting.pop(formula, {}).values())
        read = self._read(waiting)
        for label in waiting:
            self._catalogue.add(label.family, read[label.id])


def twins(labels: Sequence[Label], frames: Mapping[str, Atoms]) -> list[tuple[Label, Label]]:
    """Return families of the same phase that are in different splits: a label of the one and a label of the other.

    Args:
        labels: of a dataset.
        frames: its structures by identity.
    """
    first: dict[str, Label] = {}
    for label in labels:
        first.setdefault(label.family, label)
    catalogue, found = _Catalogue(), []
    for label in first.values():
        atoms = frames[label.id]
        found += [(first[name], label) for name in catalogue.find_all(atoms) if first[name].split != label.split]
        catalogue.add(label.family, atoms)
    return found


class _Catalogue:
    """Crystals by composition under a family's name."""

    def __init__(self) -> None:
        self._held: dict[str, list[tuple[str, Surroundings]]] = {}
        self._last: tuple[Atoms, Surroundings] | None = None

    def add(self, name: str, atoms: Atoms) -> None:
        self._held.setdefault(atoms.get_chemical_formula(empirical=True), []).append((name, self._seen(atoms)))

    def find_all(self, atoms: Atoms) -> list[str]:
        """Return the names of all families that a crystal could belong to."""
        held = self._held.get(atoms.get_chemical_formula(empirical=True), [])
        if not held:
            return []
        mine = self._seen(atoms)
        least = mine.at_least(np.array([other.means for _, other in held]))
        return [
            name
            for (name, other), bound in zip(held, least, strict=True)
            if bound <= _LIMIT and mine.within(other, _LIMIT)
        ]

    def _seen(self, atoms: Atoms) -> Surroundings:
        """Return a crystal's surroundings, once: it is looked for first and then kept."""
        if self._last is None or self._last[0] is not atoms:
            self._last = atoms, Surroundings(to_structure(atoms))
        return self._last[1]
