"""Crystals as the viewer of the pages shows them (templates/report/crystal.js)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.colors import to_hex

from uspex_bridge.base.data import Structure
from uspex_bridge.base.templates import render

#: Radius of an atom as part of its covalent one.
_RADIUS = 0.45
#: Atoms are bonded up to so many times the sum of their covalent radii.
_BOND = 1.15
#: Atoms so near a face of the cell, in fractions of it, are shown on the opposite face too.
_FACE = 1e-3


def viewed(cell: Structure) -> dict[str, Any]:
    """Return what the viewer shows of a cell: vectors and atoms (Å), bonds, colour and radius (Å) of each element.

    Atoms on faces, edges and corners are shown on all of them. Two metal atoms are not bonded.
    """
    inside = cell.scaled % 1.0
    inside[inside > 1 - _FACE] = 0.0
    shown = [
        (symbol, (place + shift) @ cell.cell)
        for symbol, place in zip(cell.symbols, inside, strict=True)
        for shift in product(*[(0.0, 1.0) if x < _FACE else (0.0,) for x in place])
    ]
    numbers = {symbol: atomic_numbers[symbol] for symbol in cell.symbols}
    return {
        "cell": np.round(cell.cell, 3).tolist(),
        "atoms": [[symbol, *np.round(place, 3).tolist()] for symbol, place in shown],
        "bonds": _bonds([symbol for symbol, _ in shown], np.array([place for _, place in shown])),
        "looks": {
            symbol: [to_hex(jmol_colors[z]), round(_RADIUS * float(covalent_radii[z]), 3)]
            for symbol, z in numbers.items()
        },
    }


def _bonds(symbols: list[str], places: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[int]]:
    from pymatgen.core import Element

    metal = np.array([Element(symbol).is_metal for symbol in symbols])
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    near = (far < _BOND * (radii[:, None] + radii)) & ~(metal[:, None] & metal)
    return [[int(i), int(j)] for i, j in np.argwhere(np.triu(near, 1))]


def as_script(crystals: Mapping[str, Any]) -> str:
    """Return crystals by name as JSON that may stand in any page."""
    text = json.dumps(crystals, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def viewer() -> str:
    """Return the JavaScript of the viewer, which defines ``showCrystal``."""
    return render("report/crystal.js", {})
