"""Overlapping atoms are pushed apart by geometry alone, since no potential is to be trusted there."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from uspex_bridge.base.errors import Rejected
from uspex_bridge.relaxation.contacts import contacts
from uspex_bridge.relaxation.guards import closest_pair

#: Sweeps between two expansions of the cell, linear expansion per time, and how many of them.
_SWEEPS, _EXPANSION, _EXPANSIONS = 100, 1.02, 35


def push_apart(atoms: Atoms, ratio: float, floor: float, *, ions: bool, expand: bool, seed: int = 0) -> None:
    """Move atoms of ``atoms`` in place until every pair is ``ratio`` of the sum of covalent radii apart.

    Each sweep moves both atoms of every overlapping pair by half of what they lack. Where that does not settle, as
    in a cell too small for its atoms or an atom too close to its own image, the cell grows by 2 % in each direction
    (if ``expand``), up to twice its lengths. In a cell that must keep its volume the best that was reached is good
    enough if no pair is closer than ``floor``: a potential can do the rest.

    Raises:
        Rejected: a pair stays closer than ``floor``.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_EXPANSIONS if expand else 1):
        if _sweep(atoms, 1.02 * ratio, _SWEEPS if ions else 0, rng):
            return
        if expand:
            atoms.set_cell(_EXPANSION * atoms.cell.array, scale_atoms=True)
    close = closest_pair(atoms, floor)
    if close is not None:
        raise Rejected(
            "overlap",
            f"atoms overlap and cannot be pushed apart in this cell: {close[1]}, the limit is {floor} (collapse_ratio)",
        )


def _sweep(atoms: Atoms, ratio: float, sweeps: int, rng: np.random.Generator) -> bool:
    """Push overlapping pairs apart up to ``sweeps`` times; return whether none overlaps any more.

    Where some still do, the atoms are left where the closest pair was furthest apart.
    """
    best = (-1.0, atoms.positions.copy())
    for _ in range(sweeps + 1):
        first, second, vectors, distance, relative = contacts(atoms, ratio)
        if len(distance) == 0:
            return True
        closest = float(relative.min())
        if closest > best[0]:
            best = (closest, atoms.positions.copy())
        coincident = distance < 1e-6
        vectors[coincident] = rng.normal(size=(int(coincident.sum()), 3))
        units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        radii = covalent_radii[atoms.numbers]
        lack = (ratio * (radii[first] + radii[second]) - distance)[:, None] * units
        shift = np.zeros_like(atoms.positions)
        np.add.at(shift, first, -0.25 * lack)
        np.add.at(shift, second, 0.25 * lack)
        atoms.set_positions(atoms.positions + shift)
    atoms.set_positions(best[1], apply_constraint=False)
    return False
