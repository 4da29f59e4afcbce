"""k-point grids by the distance between a structure's images that they stand for.

A grid of n1 x n2 x n3 points is exact for waves that repeat with the supercell of n1 x n2 x n3 cells; the measure of
its fineness is that supercell's shortest lattice vector (Wisesa, McGill, Mueller, Phys. Rev. B 93, 155109). Unlike a
density it does not depend on how the cell is chosen. ``ase.dft.kpoints.mindistance2monkhorstpack`` (ASE 3.29) means
the same, but is right for orthogonal cells only and takes minutes for 35 Å; the package kpLib does not build any more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array

#: Axes whose lengths differ relatively by less than this get the same number of points, as their symmetry may need.
_SAME_LENGTH = 1e-3


def grid(cell: Array, distance: float) -> tuple[int, int, int]:
    """Return the smallest Gamma-centred grid whose supercell has no lattice vector shorter than ``distance``.

    Args:
        cell: lattice vectors as rows, (3, 3), Å.
        distance: Å.
    """
    cell = np.asarray(cell, dtype=float)
    short = _short_vectors(cell, distance)
    lengths = np.linalg.norm(cell, axis=1)
    least = np.maximum(1, np.ceil(distance / lengths - 1e-9).astype(int))
    most = np.maximum(least, np.ceil(distance / _heights(cell) - 1e-9).astype(int))
    first = [next(j for j in range(3) if abs(lengths[j] / lengths[i] - 1) < _SAME_LENGTH) for i in range(3)]
    ranges = [range(least[j], max(most[i] for i in range(3) if first[i] == j) + 1) for j in first]
    products = [(a, b, c) for a in ranges[0] for b in ranges[1] for c in ranges[2]]
    alike = [n for n in products if all(n[i] == n[j] for i, j in enumerate(first))]
    ordered = sorted(alike, key=lambda n: (n[0] * n[1] * n[2], max(n)))
    return next(size for size in ordered if _reaches(short, size))  # the largest always does


def distance_of(cell: Array, size: tuple[int, int, int]) -> float:
    """Return the length in Å of the shortest lattice vector of the supercell that a grid stands for."""
    supercell = np.asarray(cell, dtype=float) * np.array(size)[:, None]
    vectors = _short_vectors(supercell, 1.001 * float(np.linalg.norm(supercell, axis=1).min()))
    return float(np.linalg.norm(vectors @ supercell, axis=1).min())


def _heights(cell: Array) -> Array:
    """Return the distances between lattice planes, 1/|b|, Å."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0), dtype=float)


def _short_vectors(cell: Array, distance: float) -> NDArray[np.int_]:
    """Return the coefficients (M, 3) of the lattice vectors shorter than ``distance``, without zero."""
    reach = np.floor(distance / _heights(cell) + 1e-9).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    all_of_them = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(all_of_them @ cell, axis=1)
    chosen: NDArray[np.int_] = all_of_them[(lengths < distance - 1e-9) & all_of_them.any(axis=1)]
    return chosen


def _reaches(short: NDArray[np.int_], size: tuple[int, int, int]) -> bool:
    """Tell whether no short vector is one of the supercell's."""
    return not bool((short % np.array(size) == 0).all(axis=1).any())
