"""Repulsion of nuclei at short range on top of a model: Ziegler, Biersack and Littmark's universal potential.

It is zero, with two derivatives, from ``outer`` times the sum of the covalent radii on, and whole within ``inner``
times it, so that sound structures keep the model's own numbers, to the bit.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii, missing
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree

from uspex_bridge.base import neighbours
from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import CalculationError
from uspex_bridge.base.switching import switch
from uspex_bridge.models.corrections import Correction
from uspex_bridge.models.evaluate import Results

#: Coefficients and exponents of the screening function; its length is 0.88534 a0 / (Z1^0.23 + Z2^0.23).
#: J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter, Pergamon, 1985.
_WEIGHTS = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_EXPONENTS = np.array([3.19980, 0.94229, 0.40290, 0.20162])
_LENGTH, _POWER = 0.88534 * Bohr, 0.23


def repulsion(reach: tuple[float, float]) -> Correction:
    """Return the repulsion that is whole and ends at these fractions of the sum of two covalent radii."""
    inner, outer = reach
    return Correction(
        identity={"repulsion": f"ZBL {inner:g}-{outer:g}"},
        elements=frozenset(
            s for s, radius in zip(chemical_symbols[1:], covalent_radii[1:], strict=False) if radius != missing
        ),
        evaluate=partial(_evaluate, inner, outer),
        absolute=False,
    )


def _evaluate(inner: float, outer: float, atoms: Atoms) -> Results:
    radii = covalent_radii[atoms.numbers]
    if (radii == missing).any():
        raise CalculationError("ZBL repulsion: an element without covalent radius")
    first, second, cells = neighbours.pairs(atoms, 2 * outer * float(radii.max()))
    vectors = atoms.positions[second] + cells @ atoms.cell.array - atoms.positions[first]
    distances = np.linalg.norm(vectors, axis=1)
    sums = radii[first] + radii[second]
    near = distances < outer * sums
    first, second, vectors, distances, sums = (a[near] for a in (first, second, vectors, distances, sums))
    if (distances == 0).any():
        raise CalculationError("ZBL repulsion: two atoms on one site")
    charges = atoms.numbers[first].astype(float), atoms.numbers[second].astype(float)
    energies, slopes = zbl(distances, *charges)
    factors, bends = switch(distances / sums, inner, outer)
    slopes = slopes * factors + energies * bends / sums
    pulls = (slopes / distances)[:, None] * vectors
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, first, pulls)
    stress = 0.5 * np.einsum("mi,mj->ij", pulls, vectors) / atoms.get_volume()
    return {
        "energy": float(0.5 * (energies * factors).sum()),
        "forces": forces,
        "stress": full_3x3_to_voigt_6_stress(stress),
    }


def zbl(distances: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Return the energies (eV) and their slopes (eV/Å) of pairs at these distances (Å) with these nuclear charges."""
    lengths = _LENGTH / (first**_POWER + second**_POWER)
    terms = _WEIGHTS * np.exp(-_EXPONENTS * (distances / lengths)[:, None])
    bare = Hartree * Bohr * first * second / distances
    screened = terms.sum(axis=1)
    return bare * screened, -bare * (screened / distances + (terms * _EXPONENTS).sum(axis=1) / lengths)
