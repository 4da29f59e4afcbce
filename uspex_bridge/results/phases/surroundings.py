"""What every atom of a crystal sees: the sorted distances to its neighbours, whatever cell the crystal is written in.

The list of these lists is the pointwise distance distribution of Widdowson and Kurlin (NeurIPS 2022): it does not
change with cell, setting, order of atoms or handedness, and it changes by no more than the atoms move. Here it is
kept per element of centre and neighbour, in units of the mean spacing (V/N)^(1/3), so that volumes do not matter.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.symmetry import SpaceGroup, find_group

#: Neighbours of an atom that are looked at: as far as the third layer of graphite, with which stackings differ.
NEIGHBOURS = 200
#: A space group that is the same within both of these, Å, is the structure's own and no noise hides it.
CLEAN = (0.002, 0.02)
#: Within this, Å, noise of 0.02 Å does not hide a space group.
WIDE = 0.15


class Surroundings:
    """The neighbour distances of one crystal.

    Attributes:
        kinds: element of each atom as an index into the sorted elements, (N,).
        rows: distances of each atom to its nearest neighbours in units of (V/N)^(1/3), (N, K): those of the first
            element sorted, then those of the second, as many of each as its part of the atoms.
        means: the rows averaged over the atoms of each element, (E, K).
    """

    def __init__(self, structure: Structure, neighbours: int = NEIGHBOURS) -> None:
        elements, kinds = np.unique(structure.symbols, return_inverse=True)
        self.structure = structure
        self.kinds = kinds
        self.rows = _rows(structure, kinds, [math.ceil(neighbours * n / len(kinds)) for n in np.bincount(kinds)])
        self.means = np.array([self.rows[kinds == kind].mean(axis=0) for kind in range(len(elements))])

    @cached_property
    def clean_group(self) -> int:
        """Number of the space group where it is plain, 0 where noise may hide it or there is no symmetry to speak of.

        Noise on two atoms is a single vector, which may well lie in a mirror plane: cells of two atoms count for
        nothing, and P-1 says nothing of one atom.
        """
        group = clean_group(self.structure)
        if group is None or group.atoms == 2 or (group.number == 2 and group.atoms == 1):
            return 0
        return group.number

    @cached_property
    def wide_group(self) -> int:
        """Number of the space group within ``WIDE``."""
        group = find_group(self.structure, WIDE)
        return group.number if group is not None else 0

    def at_least(self, others: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a lower bound of the distance to crystals with the ``means`` (M, E, K), (M,)."""
        return np.asarray(np.sqrt(((others - self.means) ** 2).mean(axis=2)).max(axis=1))

    def within(self, other: Surroundings, limit: float) -> bool:
        """Tell whether atoms can be paired so that no two paired ones differ by more than ``limit`` (root mean square).

        Both crystals have the same composition; of the smaller cell each atom is taken as often as needed.
        """
        return all(_pairs(differences, limit) for differences in self._differences(other))

    def distance(self, other: Surroundings) -> float:
        """Return about the smallest ``limit`` that :meth:`within` accepts."""
        from scipy.optimize import linear_sum_assignment

        worst = 0.0
        for differences in self._differences(other):
            square = _squared(differences)
            worst = max(worst, float(square[linear_sum_assignment(square**2)].max()))
        return worst

    def _differences(self, other: Surroundings) -> list[Array]:
        """Return for each element how far every atom of one crystal is from every one of the other."""
        found = []
        for kind in range(len(self.means)):
            mine, theirs = self.rows[self.kinds == kind], other.rows[other.kinds == kind]
            # |a - b|^2 = a.a + b.b - 2 a.b, of numbers near each other: in double precision
            a, b = mine.astype(float), theirs.astype(float)
            square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
            found.append(np.sqrt(np.maximum(square, 0.0) / a.shape[1]))
        return found


def clean_group(structure: Structure) -> SpaceGroup | None:
    """Return the space group that a structure has within both of ``CLEAN``; None for P1, or where they differ."""
    low = find_group(structure, CLEAN[0])
    if low is None or low.number == 1:
        return None
    high = find_group(structure, CLEAN[1])
    return low if high is not None and high.number == low.number else None


def _pairs(differences: Array, limit: float) -> bool:
    """Tell whether every atom can have a partner within the limit."""
    allowed = differences <= limit
    if allowed.all():
        return True
    if not allowed.any(axis=0).all() or not allowed.any(axis=1).all():
        return False
    from scipy.optimize import linear_sum_assignment

    forbidden = _squared((~allowed).astype(float))
    return bool(forbidden[linear_sum_assignment(forbidden)].sum() == 0)


def _squared(matrix: Array) -> Array:
    """Repeat rows and columns until there are as many of the ones as of the others."""
    rows, columns = matrix.shape
    size = math.lcm(rows, columns)
    return np.repeat(np.repeat(matrix, size // rows, axis=0), size // columns, axis=1)


def _rows(structure: Structure, kinds: NDArray[np.intp], wanted: list[int]) -> NDArray[np.float32]:
    spacing = (structure.volume / len(structure)) ** (1 / 3)
    shifts = structure.scaled[None, :, :] - structure.scaled[:, None, :]
    shifts = (shifts - np.round(shifts)) @ structure.cell
    reach = math.sqrt((shifts**2).sum(axis=2).max())
    radius = 1.15 * spacing * (3 * sum(wanted) / (4 * math.pi)) ** (1 / 3)
    while True:
        images = lattice_vectors(structure.cell, radius, reach)
        square = (shifts**2).sum(axis=2)[:, :, None] + (images**2).sum(axis=1) + 2.0 * (shifts @ images.T)
        square[square < 1e-6] = np.inf  # the atom itself
        nearest = [_smallest(square[:, kinds == kind], count) for kind, count in enumerate(wanted)]
        # Beyond the radius the list of images has gaps: all that is counted must lie within.
        if all(block is not None and block.max() <= radius**2 for block in nearest):
            break
        radius *= 1.3
    return np.asarray(np.sqrt(np.hstack([block for block in nearest if block is not None])) / spacing, np.float32)


def _smallest(square: Array, count: int) -> Array | None:
    """Return the ``count`` smallest values of each first index, sorted; None where there are not so many."""
    flat = square.reshape(len(square), -1)
    if flat.shape[1] < count + 1:
        return None
    return np.sort(np.partition(flat, count, axis=1)[:, :count], axis=1)


def lattice_vectors(cell: Array, radius: float, reach: float) -> Array:
    """Return the lattice vectors, (M, 3), that bring an atom within ``radius`` of one at most ``reach`` away, Å."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    limits = np.floor(radius / heights + 0.5).astype(int)
    vectors = (np.indices(2 * limits + 1).reshape(3, -1).T - limits) @ cell
    return np.asarray(vectors[(vectors**2).sum(axis=1) < (radius + reach) ** 2], dtype=float)
