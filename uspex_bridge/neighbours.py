"""The pairs and the angles of periodic structures: what the models' graphs are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from uspex_bridge.records import Array


def pairs(atoms: Any, cutoff: float) -> tuple[Array, Array, Array]:
    """Return every pair of atoms within ``cutoff`` (Å), both ways round, an atom's own images included.

    The cell is periodic in all directions; positions may lie outside it.

    Returns:
        first (M,) in ascending order, second (M,), int64, and the cells (M, 3), int64, by which the second is
        displaced: the pair's vector is ``positions[second] + cells @ cell - positions[first]``.
    """
    cell = np.ascontiguousarray(atoms.cell.array, dtype=float)
    positions = np.ascontiguousarray(atoms.positions, dtype=float)
    try:
        first, second, cells = _compiled(positions, cell, cutoff)
    except ImportError:  # an environment that holds ASE and one model only
        from ase.neighborlist import primitive_neighbor_list

        first, second, cells = primitive_neighbor_list("ijS", (True,) * 3, cell, positions, cutoff)
    return first.astype(np.int64), second.astype(np.int64), cells.astype(np.int64)


def _compiled(positions: Array, cell: Array, cutoff: float) -> tuple[Array, Array, Array]:
    """Do :func:`pairs` with what pymatgen or matscipy has compiled."""
    try:
        from pymatgen.optimization.neighbors import find_points_in_spheres
    except ImportError:
        from matscipy.neighbours import neighbour_list

        first, second, cells = neighbour_list("ijS", positions=positions, cell=cell, pbc=(True,) * 3, cutoff=cutoff)
        return first, second, cells
    periodic = np.ones(3, dtype=np.int64)
    first, second, cells, distances = find_points_in_spheres(
        positions, positions, r=cutoff, pbc=periodic, lattice=cell, tol=1e-8
    )
    other = (first != second) | (distances > 1e-8)
    return first[other], second[other], cells[other]


def angles(first: Array, near: Array) -> tuple[Array, Array]:
    """Return every ordered two of the pairs that start at the same atom.

    Args:
        first: first atom of each pair (M,), in ascending order.
        near: whether a pair is short enough to be part of an angle (M,).

    Returns:
        the indices of the one pair and of the other, (K,) each, int64, grouped by the one in ascending order.
    """
    chosen = np.flatnonzero(near)
    centre = first[chosen]
    start, stop = np.searchsorted(centre, centre, "left"), np.searchsorted(centre, centre, "right")
    many = stop - start
    one = np.repeat(np.arange(len(chosen)), many)
    begin = np.cumsum(many) - many
    other = np.arange(len(one)) - np.repeat(begin - start, many)
    different = one != other
    return chosen[one[different]], chosen[other[different]]


def size(atoms: Any, cutoff: float, angle_cutoff: float = 0.0) -> int:
    """Return the number of atoms, pairs and angles (ordered) of a structure's graph."""
    first, second, cells = pairs(atoms, cutoff)
    total = len(atoms) + len(first)
    if angle_cutoff:
        vectors = atoms.positions[second] + cells @ atoms.cell.array - atoms.positions[first]
        near = np.bincount(first[np.linalg.norm(vectors, axis=1) < angle_cutoff])
        total += int((near * (near - 1)).sum())
    return total
