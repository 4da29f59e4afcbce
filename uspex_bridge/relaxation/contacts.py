"""Pairs of atoms that are close for their size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from uspex_bridge.base.data import Array
from uspex_bridge.base.neighbours import pairs


class Contacts(NamedTuple):
    """Pairs, both ways round, an atom's own images included.

    Attributes:
        first: (M,), ascending.
        second: (M,).
        vector: from the first to the second, (M, 3), Å.
        distance: (M,), Å.
        relative: distance over the sum of the covalent radii (Cordero et al., 2008, as in ASE), (M,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    vector: Array
    distance: Array
    relative: Array


def contacts(atoms: Atoms, within: float) -> Contacts:
    """Return the pairs closer than ``within`` times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    one, other, cells = pairs(atoms, 2.0 * within * float(radii.max(initial=0.1)))
    vector = atoms.positions[other] - atoms.positions[one] + cells @ atoms.cell.array
    distance = np.linalg.norm(vector, axis=1)
    relative = distance / (radii[one] + radii[other])
    near = relative < within
    return Contacts(
        one[near].astype(np.int64), other[near].astype(np.int64), vector[near], distance[near], relative[near]
    )
