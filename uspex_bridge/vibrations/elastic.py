"""Strains that the symmetry of a crystal permits, and its stiffness against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.vibrations.supercell import Supercell, Symmetry

#: Size of the strains, both ways, from which the stiffness is taken.
_STRAIN = 0.01
#: GPa, and share of the greatest stiffness: no stiffness is taken to be less. It is that at rest, where a crystal that
#: only motion stabilises may have none.
_SOFTEST, _LEAST = 30.0, 0.05


def permitted_strains(lattice: Supercell, symmetry: Symmetry, cell: Literal["full", "volume", "fixed"]) -> Array:
    """Return an orthonormal basis (D, 3, 3) of the strains that keep the symmetry, the isotropic one first.

    Args:
        lattice: the crystal.
        symmetry: the operations to obey.
        cell: what may change, see :class:`uspex_bridge.vibrations.settings.Settings`.
    """
    if cell == "fixed":
        return np.zeros((0, 3, 3))
    isotropic = np.eye(3)[None] / np.sqrt(3.0)
    if cell == "volume":
        return np.asarray(isotropic)
    units = [full_3x3_to_voigt_6_stress(0.5 * (one + one.T)) for one in np.eye(9).reshape(9, 3, 3)]
    kept = [voigt_6_to_full_3x3_stress(symmetry.stress(one, lattice.unit.cell)) for one in units]
    shapes = np.array([(one - np.trace(one) / 3.0 * np.eye(3)).ravel() for one in kept])
    _, sizes, vectors = np.linalg.svd(shapes)
    return np.concatenate([isotropic, vectors[: int((sizes > 1e-6).sum())].reshape(-1, 3, 3)])


def strained(structure: Structure, strains: Array) -> list[Structure]:
    """Return a structure under each of the strains (D, 3, 3) and its opposite, for :func:`stiffness`."""
    return [
        replace(structure, cell=structure.cell @ (np.eye(3) + sign * _STRAIN * one))
        for one in strains
        for sign in (-1.0, 1.0)
    ]


def stiffness(results: Sequence[dict[str, Any]], strains: Array) -> Array:
    """Return the stiffness (D, D), eV/Å³, at fixed fractional coordinates, positive definite.

    Args:
        results: what a model says of :func:`strained`.
        strains: of these.
    """
    if len(strains) == 0:
        return np.zeros((0, 0))
    along = np.array([np.tensordot(strains, voigt_6_to_full_3x3_stress(one["stress"]), 2) for one in results])
    found = (along[1::2] - along[::2]) / (2.0 * _STRAIN)
    values, vectors = np.linalg.eigh(0.5 * (found + found.T))
    least = max(gpa_to_ev_a3(_SOFTEST), _LEAST * float(values.max()))
    return np.asarray((vectors * np.maximum(values, least)) @ vectors.T)
