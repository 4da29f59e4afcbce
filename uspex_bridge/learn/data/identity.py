"""What makes a structure the same training point, and which split it belongs to.

Both are decided by content alone, so that every tool and every machine comes to the same answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from uspex_bridge.base.data import Array

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
#: Decimals that count of fractional coordinates, and of the cell's metric in Å².
_DECIMALS = 4


def content_id(symbols: Sequence[str], cell: Array, scaled: Array) -> str:
    """Return the identity of a structure as a training point: ``s`` and 16 hexadecimal digits.

    It does not change when the cell is turned in space or made right-handed, the atoms are listed in another order or
    lie in another image of the cell. It does change with a shift of the origin, another choice of cell, and every
    displacement over about 1e-4: perturbed copies and other pressures are training points of their own.

    Args:
        symbols: element of each atom, (N,).
        cell: lattice vectors as rows, (3, 3), Å.
        scaled: fractional coordinates, (N, 3).
    """
    cell, scaled = np.asarray(cell, dtype=float), np.asarray(scaled, dtype=float)
    if np.linalg.det(cell) < 0:  # as uspex_bridge.base.atoms.right_handed
        cell, scaled = cell[[1, 0, 2]], scaled[:, [1, 0, 2]]
    places = np.round(scaled, _DECIMALS) % 1.0
    units = np.rint(places * 10**_DECIMALS).astype(int) % 10**_DECIMALS
    atoms = sorted([symbol, *row] for symbol, row in zip(symbols, units.tolist(), strict=True))
    metric = np.rint(cell @ cell.T * 10**_DECIMALS).astype(int).tolist()
    # The letter keeps readers of extxyz from taking an identity such as 12e4 for a number.
    return "s" + hashlib.sha256(json.dumps([atoms, metric]).encode()).hexdigest()[:16]


def split_of(family: str, valid: float, test: float) -> Split:
    """Return the split of a family of structures: always the same for the same name and fractions.

    A structure and its perturbed copies have one family, so that no near copy of a training structure is tested on.

    Args:
        family: the family's name, usually the identity of the structure that the others were made from.
        valid: fraction of families that validate.
        test: fraction of families that test.
    """
    place = int(hashlib.sha256(family.encode()).hexdigest()[:12], 16) / 16**12
    return "test" if place < test else "valid" if place < test + valid else "train"
