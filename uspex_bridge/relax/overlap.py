"""Overlapping atoms are pushed apart by geometry alone, since no potential is to be trusted there."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from uspex_bridge.errors import Rejected
from uspex_bridge.relax.guards import closest_pair

#: Sweeps between two expansions of the cell, linear expansion per time, and how many of them.
_SWEEPS, _EXPANSION, _EXPANSIONS = 100, 1.02, 35


def push_apart(atoms: Atoms, ratio: float, *, ions: bool, expand: bool, seed: int = 0) -> None:
    """Move atoms of ``atoms`` in place until every pair is ``ratio`` of the sum of covalent radii apart.

    Each sweep moves both atoms of every overlapping pair by half of what they lack. Where that does not settle, as
    in a cell too small for its atoms or an atom too close to its own image, the cell grows by 2 % in each direction
    (if ``expand``), up to twice its lengths.

    Raises:
        Rejected: the overlap stays.
    """
    rng = np.random.default_rng(seed)
    radii = covalent_radii[atoms.numbers]
    aim = 1.02 * ratio
    for _ in range(_EXPANSIONS if expand else 1):
        for _ in range(_SWEEPS if ions else 1):
            first, second, vectors, distance = neighbor_list("ijDd", atoms, aim * radii)
            if len(distance) == 0:
                return
            if not ions:
                break
            lack = aim * (radii[first] + radii[second]) - distance
            coincident = distance < 1e-6
            vectors[coincident] = rng.normal(size=(int(coincident.sum()), 3))
            units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
            shift = np.zeros_like(atoms.positions)
            np.add.at(shift, first, -0.25 * lack[:, None] * units)
            np.add.at(shift, second, 0.25 * lack[:, None] * units)
            atoms.set_positions(atoms.positions + shift)
        if expand:
            atoms.set_cell(_EXPANSION * atoms.cell.array, scale_atoms=True)
    close = closest_pair(atoms, ratio)
    if close is not None:
        raise Rejected("overlap", f"atoms overlap and cannot be pushed apart in this cell: {close[1]}")
