"""Families of known crystals that are easily taken for each other, and copies of one crystal that are not."""

from __future__ import annotations

import numpy as np
import spglib
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal

from uspex_bridge.base.data import Structure

#: In-plane places of close-packed layers.
_PLACES = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}


def structure(atoms: Atoms) -> Structure:
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False))


def primitive(atoms: Atoms) -> Atoms:
    given = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    cell, scaled, numbers = spglib.standardize_cell(given, to_primitive=True, no_idealize=True, symprec=1e-5)
    return Atoms(numbers, scaled_positions=scaled, cell=cell, pbc=True)


def stacked(word: str, motif: list[tuple[str, float]], a: float, layer: float) -> Atoms:
    """Close-packed layers in the order of ``word``, each with the motif's atoms at heights in Å."""
    scaled, symbols = [], []
    for k, place in enumerate(word):
        for symbol, height in motif:
            scaled.append((*_PLACES[place], (k * layer + height) / (layer * len(word))))
            symbols.append(symbol)
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, layer * len(word)]]
    return primitive(Atoms(symbols, scaled_positions=scaled, cell=cell, pbc=True))


def graphite(word: str) -> Atoms:
    """Honeycomb layers; the letter says where the hexagon's middle is."""
    empty = {"A": "C", "B": "A", "C": "B"}
    scaled = [
        (*_PLACES[place], k / len(word)) for k, middle in enumerate(word) for place in "ABC" if place != empty[middle]
    ]
    cell = [[2.46, 0, 0], [-1.23, 2.46 * np.sqrt(0.75), 0], [0, 0, 3.35 * len(word)]]
    return primitive(Atoms(["C"] * len(scaled), scaled_positions=scaled, cell=cell, pbc=True))


def h3s(shift: float, a: float = 2.984) -> Atoms:
    """Im-3m, or R3m with every hydrogen moved off the middle between two sulphurs, Å."""
    d = shift / a
    net = np.array([(0, 0, 0), (0.5 + d, 0, 0), (0, 0.5 + d, 0), (0, 0, 0.5 + d)])
    return primitive(Atoms("SH3SH3", scaled_positions=[*net, *(net + 0.5)], cell=[a] * 3, pbc=True))


def ice(shift: float, a: float = 2.75) -> Atoms:
    """Ice X, or hydrogens moved along their bonds, two towards each oxygen and two away, Å."""
    oxygens = [(0, 0, 0), (0.5, 0.5, 0.5)]
    hydrogens = np.array([(1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)]) / 4
    along = np.array([(-1, -1, -1), (-1, 1, 1), (-1, 1, -1), (-1, -1, 1)]) / np.sqrt(3)
    return Atoms("O2H4", scaled_positions=[*oxygens, *(hydrogens + shift / a * along)], cell=[a] * 3, pbc=True)


def perovskite(shift: float, ratio: float = 1.0, a: float = 3.9) -> Atoms:
    """SrTiO3, titanium moved along c by so many Å."""
    scaled = [(0, 0, 0), (0.5, 0.5, 0.5 + shift / a), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms("SrTiO3", scaled_positions=scaled, cell=[a, a, a * ratio], pbc=True)


def tilted(angle: float, a: float = 3.9) -> Atoms:
    """SrTiO3, I4/mcm: octahedra turned about c by so many degrees, neighbours the other way round."""
    x = 0.25 + np.tan(np.radians(angle)) / 4
    basis = [(0, 0.5, 0.25), (0, 0, 0), (0, 0, 0.25), (x, x + 0.5, 0)]
    cell = [a * np.sqrt(2), a * np.sqrt(2), 2 * a, 90, 90, 90]
    return primitive(crystal(["Sr", "Ti", "O", "O"], basis, spacegroup=140, cellpar=cell))


def laves() -> dict[str, Atoms]:
    a = 7.07 / np.sqrt(2)
    c = a * np.sqrt(8 / 3)
    c15 = crystal(["Mg", "Cu"], [(0.125,) * 3, (0.5,) * 3], spacegroup=227, cellpar=[7.07] * 3 + [90] * 3, setting=2)
    sites = [(1 / 3, 2 / 3, 0.0625), (0, 0, 0), (5 / 6, 2 / 3, 0.25)]
    c14 = crystal(["Mg", "Cu", "Cu"], sites, spacegroup=194, cellpar=[a, a, c, 90, 90, 120])
    sites = [(0, 0, 0.094), (1 / 3, 2 / 3, 0.844), (0.5, 0, 0), (0.164, 0.328, 0.25), (1 / 3, 2 / 3, 0.125)]
    c36 = crystal(["Mg", "Mg", "Cu", "Cu", "Cu"], sites, spacegroup=194, cellpar=[a, a, 2 * c, 90, 90, 120])
    return {"C14": c14, "C15": primitive(c15), "C36": c36}


def bain(ratio: float) -> Atoms:
    """Body-centred tetragonal iron of one volume: bcc at 1, fcc at the root of 2."""
    cell = np.array([[-1, 1, ratio], [1, -1, ratio], [1, 1, -ratio]]) / 2
    return Atoms("Fe", cell=cell * (23.0 / ratio) ** (1 / 3), scaled_positions=[(0, 0, 0)], pbc=True)


def triclinic(atoms: Atoms, size: float) -> Atoms:
    """Distort a crystal with a centre of symmetry at the origin and keep only that: moves up to ``size`` Å, strain."""
    rng = np.random.default_rng(3)
    scaled = atoms.get_scaled_positions()
    away = -scaled[:, None] - scaled[None]
    partner = np.abs(away - np.round(away)).sum(axis=2).argmin(axis=1)
    moves = rng.normal(size=scaled.shape)
    moves -= moves[partner]
    strain = rng.normal(size=(3, 3))
    strain += strain.T - 2 * np.eye(3) * np.trace(strain) / 3
    new = atoms.copy()
    new.positions += size * moves / max(np.abs(moves).max(), 1e-9)
    new.set_cell(new.cell.array @ (np.eye(3) + size / 5 * strain / np.abs(strain).max()), scale_atoms=True)
    return new


_CANI = crystal(["Ca", "Ni"], [(0, 0, 0), (1 / 3, 2 / 3, 0.25)], spacegroup=194, cellpar=[4.2, 4.2, 5, 90, 90, 120])
_CLOSE = {"fcc": "ABC", "hcp": "AB", "dhcp": "ABAC", "9R": "ABABCBCAC", "6H": "ABCACB"}
_SIC = {"3C": "ABC", "2H": "AB", "4H": "ABCB", "6H": "ABCACB", "15R": "ABCACBCABACABCB"}
#: Family -> crystal -> its atoms; no two of a family are one phase.
FAMILIES: dict[str, dict[str, Atoms]] = {
    "H3S": {"Im-3m": h3s(0), "R3m": h3s(0.1)},
    "ice": {"X": ice(0), "off centre": ice(0.1)},
    "SrTiO3": {"cubic": perovskite(0), "ferroelectric": perovskite(0.1, 1.01), "I4/mcm": tilted(5)},
    "graphite": {word: graphite(word) for word in ("A", "AB", "ABC", "ABAC")},
    "close-packed": {name: stacked(word, [("Co", 0)], 2.5, 2.5 * np.sqrt(2 / 3)) for name, word in _CLOSE.items()},
    "SiC": {name: stacked(word, [("Si", 0), ("C", 1.886)], 3.08, 2.515) for name, word in _SIC.items()},
    "Laves": laves(),
    "Bain": {f"{ratio:.3g}": bain(ratio) for ratio in (1.0, 1.1, 1.2, 1.3, 2**0.5, 1.5)},
    "ZnS": {"zincblende": bulk("ZnS", "zincblende", 5.41), "wurtzite": bulk("ZnS", "wurtzite", 3.82, 6.25)},
    "CaNi": {"hexagonal": _CANI, "triclinic": triclinic(_CANI, 0.1)},
    "Fe": {"bcc": bulk("Fe", "bcc", 2.86), "fcc": bulk("Fe", "fcc", 3.6)},
}
#: The same with distortions so small that only crystals without noise can be told apart.
SLIGHT: dict[str, dict[str, Atoms]] = {
    "H3S": {"Im-3m": h3s(0), "R3m": h3s(0.04)},
    "ice": {"X": ice(0), "off centre": ice(0.04)},
    "SrTiO3": {"cubic": perovskite(0), "ferroelectric": perovskite(0.04), "I4/mcm": tilted(1.5)},
    "CaNi": {"hexagonal": _CANI, "triclinic": triclinic(_CANI, 0.04)},
}


def copied(atoms: Atoms, rng: np.random.Generator, noise: float = 0.01, volume: float = 0.01, most: int = 4) -> Atoms:
    """The same crystal in another cell of up to ``most`` times the size, turned, shifted, permuted, shaken and scaled.

    ``noise`` is the standard deviation of each coordinate, Å; ``volume`` the largest relative change.
    """
    while True:
        matrix = rng.integers(-1, 2, (3, 3))
        size = round(np.linalg.det(matrix))
        if 1 <= size <= most and np.linalg.norm(matrix @ atoms.cell.array, axis=1).max() < 25:
            break
    new = make_supercell(atoms, matrix)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    new.set_cell(new.cell.array @ turn.T * (1 + rng.uniform(-volume, volume)) ** (1 / 3), scale_atoms=True)
    new.positions += rng.normal(0, noise, new.positions.shape) + rng.normal(size=3)
    return new[rng.permutation(len(new))]
