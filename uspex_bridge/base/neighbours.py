"""The pairs and the angles of periodic structures: what the models' graphs are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import CalculationError

Whole = NDArray[np.int64]
#: More than any structure worth evaluating has; their list would take gigabytes.
MOST_PAIRS = 10_000_000


def pairs(atoms: Any, cutoff: float) -> tuple[Whole, Whole, Whole]:
    """Return every pair of atoms within ``cutoff`` (Å), both ways round, an atom's own images included.

    The cell is periodic in all directions; positions may lie outside it.

    Returns:
        first (M,) in ascending order, second (M,), int64, and the cells (M, 3), int64, by which the second is
        displaced: the pair's vector is ``positions[second] + cells @ cell - positions[first]``.

    Raises:
        CalculationError: there are more than MOST_PAIRS, as the cell has collapsed.
    """
    return _pairs(np.ascontiguousarray(atoms.positions), np.ascontiguousarray(atoms.cell.array), cutoff)


def _pairs(positions: Array, cell: Array, cutoff: float) -> tuple[Whole, Whole, Whole]:
    expected = _expected(len(positions), cell, cutoff)
    if expected > MOST_PAIRS:
        raise CalculationError(f"the cell has collapsed: about {expected:.0e} pairs of atoms within {cutoff:g} Å")
    first, second, cells = lister()(positions, cell, cutoff)
    return first.astype(np.int64), second.astype(np.int64), cells.astype(np.int64)


def _expected(atoms: int, cell: Array, cutoff: float) -> float:
    return float(atoms**2 * 4 / 3 * np.pi * cutoff**3 / abs(np.linalg.det(cell)))


@cache
def lister() -> Callable[[Array, Array, float], tuple[Any, Any, Any]]:
    """Return what lists the pairs here: pymatgen's function, matscipy's or ASE's, by how fast they are."""
    try:
        from pymatgen.optimization.neighbors import find_points_in_spheres

        return partial(_by_spheres, find_points_in_spheres)
    except ImportError:  # an environment that holds ASE and one model only
        pass
    try:
        from matscipy.neighbours import neighbour_list

        return lambda positions, cell, cutoff: neighbour_list(
            "ijS", positions=positions, cell=cell, pbc=(True,) * 3, cutoff=cutoff
        )
    except ImportError:
        from ase.neighborlist import primitive_neighbor_list

        return lambda positions, cell, cutoff: primitive_neighbor_list("ijS", (True,) * 3, cell, positions, cutoff)


def _by_spheres(function: Any, positions: Array, cell: Array, cutoff: float) -> tuple[Any, Any, Any]:
    """Call pymatgen's function, which lists an atom's distance to itself too."""
    periodic = np.ones(3, dtype=np.int64)
    first, second, cells, distances = function(positions, positions, r=cutoff, pbc=periodic, lattice=cell, tol=1e-8)
    other = (first != second) | (distances > 1e-8)
    return first[other], second[other], cells[other]


def angles(first: Whole, near: NDArray[np.bool_]) -> tuple[Whole, Whole]:
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


@dataclass(frozen=True)
class Graph:
    """Structures as one graph that falls into as many parts; atoms, pairs and structures are numbered through.

    Attributes:
        numbers: atomic numbers (N,).
        positions: Å, inside the cell (N, 3).
        cells: lattice vectors as rows, Å (B, 3, 3).
        volumes: Å³ (B,).
        sizes: atoms of each structure (B,).
        owners: structure of each atom (N,).
        first, second: atoms of each pair (M,), ``first`` in ascending order.
        images: by which cells the second is displaced (M, 3).
        vectors: from the first to the second, Å (M, 3).
    """

    numbers: Whole
    positions: Array
    cells: Array
    volumes: Array
    sizes: Whole
    owners: Whole
    first: Whole
    second: Whole
    images: Whole
    vectors: Array

    def angles(self, cutoff: float) -> tuple[Whole, Whole]:
        """Return the pairs that form an angle, see :func:`angles`: those not longer than ``cutoff`` (Å)."""
        return angles(self.first, np.linalg.norm(self.vectors, axis=1) <= cutoff)

    def split(self, values: Array) -> list[Array]:
        """Return an array over atoms (N, ...) in parts, one for each structure."""
        return split(values, self.sizes)


def split(values: Array, sizes: Sequence[int] | Whole) -> list[Array]:
    """Return an array over the atoms of structures (N, ...) in parts, one for each structure."""
    return np.split(values, np.cumsum(sizes)[:-1])


def graph(structures: Sequence[Any], cutoff: float) -> Graph:
    """Return the graph of structures (at least one) with every pair of atoms within ``cutoff`` (Å).

    Raises:
        CalculationError: as of :func:`pairs`.
    """
    sizes = np.array([len(atoms) for atoms in structures], dtype=np.int64)
    owners = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    cells = np.stack([atoms.cell.array for atoms in structures]).astype(float)
    positions = np.concatenate([atoms.positions for atoms in structures])
    scaled = np.einsum("ni,nij->nj", positions, np.linalg.inv(cells)[owners])
    positions = positions - np.einsum("ni,nij->nj", np.floor(scaled), cells[owners])
    found, start = [], 0
    for cell, count in zip(cells, sizes.tolist(), strict=True):
        first, second, images = _pairs(positions[start : start + count], cell, cutoff)
        found.append((first + start, second + start, images))
        start += count
    first, second, images = (np.concatenate(parts) for parts in zip(*found, strict=True))
    shifts = np.einsum("mi,mij->mj", images.astype(float), cells[owners[first]])
    return Graph(
        numbers=np.concatenate([atoms.numbers for atoms in structures]),
        positions=positions,
        cells=cells,
        volumes=np.abs(np.linalg.det(cells)),
        sizes=sizes,
        owners=owners,
        first=first,
        second=second,
        images=images,
        vectors=positions[second] + shifts - positions[first],
    )


def size(atoms: Any, cutoff: float, angle_cutoff: float = 0.0) -> int:
    """Return the number of atoms, pairs and angles (ordered) of a structure's graph, whatever its geometry.

    Of a collapsed cell it is an estimate, and of one that cannot be evaluated at all the number of its atoms.
    """
    cell = atoms.cell.array
    if not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all() and np.linalg.det(cell)):
        return len(atoms)
    if (expected := _expected(len(atoms), cell, cutoff)) > MOST_PAIRS:
        return int(expected)
    whole = graph([atoms], cutoff)
    total = len(atoms) + len(whole.first)
    if angle_cutoff:
        near = np.bincount(whole.first[np.linalg.norm(whole.vectors, axis=1) <= angle_cutoff])
        total += int((near * (near - 1)).sum())
    return total
