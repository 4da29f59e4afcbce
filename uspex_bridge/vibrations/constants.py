"""Force constants by regression of forces on displacements, in the basis that the crystal's symmetry leaves (symfc)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ModelError
from uspex_bridge.vibrations.modes import masses_of
from uspex_bridge.vibrations.supercell import Repeats, Supercell, Symmetry, choose_repeats, symmetrised

#: Share of a trial's norm that a fit may leave where displacements determine every force constant.
_UNDETERMINED = 1e-3


@dataclass(frozen=True, eq=False)
class Fit:
    """Force constants (3N, 3N), eV/Å², and the share of the forces' variance that they explain."""

    phi: Array
    r2: float


class Regression:
    """The symmetry-free second-order force constants of a supercell, and their regression.

    Args:
        lattice: the supercell, its symmetry exact.
        symmetry: the operations to obey.

    Raises:
        ModelError: symfc is not installed.
    """

    def __init__(self, lattice: Supercell, symmetry: Symmetry) -> None:
        try:
            from symfc.basis_sets import FCBasisSetO2
        except ImportError:
            raise ModelError("free energies need symfc: pip install 'uspex-bridge[vibrations]'") from None
        self.atoms = len(lattice)
        self._basis: Any = FCBasisSetO2(
            symfc_atoms(lattice), spacegroup_operations=symmetry.in_supercell(lattice)
        ).run()

    @cached_property
    def size(self) -> int:
        """Number of independent force constants."""
        return int(self._basis.blocked_basis_set.shape[1])

    def determined(self, displacements: Array) -> bool:
        """Tell whether displacements (M, N, 3) are enough to determine every force constant."""
        coefficients = np.random.default_rng(0).standard_normal(self.size)
        trial = self._basis.compression_matrix @ (self._basis.blocked_basis_set @ coefficients)
        trial = trial.reshape(self.atoms, self.atoms, 3, 3).transpose(0, 2, 1, 3).reshape(3 * self.atoms, -1)
        centred = displacements - displacements.mean(axis=0)
        left = self.fit(centred, -(centred.reshape(len(centred), -1) @ trial).reshape(centred.shape)).phi - trial
        return bool(np.linalg.norm(left) < _UNDETERMINED * np.linalg.norm(trial))

    def fit(self, displacements: Array, forces: Array, weights: Array | None = None, prior: Array | None = None) -> Fit:
        """Fit force constants to forces (M, N, 3), eV/Å, at displacements (M, N, 3), Å.

        The mean of both is taken out first, so that a mean force is no error. What the data do not determine keeps the
        value of ``prior``.

        Args:
            displacements: from any sites.
            forces: of the whole potential.
            weights: of the configurations, (M,), None where all are equal.
            prior: force constants (3N, 3N) of this symmetry, None for zero.
        """
        from symfc.solvers import FCSolverO2

        w = np.full(len(forces), 1.0 / len(forces)) if weights is None else weights / weights.sum()
        u = (displacements - np.tensordot(w, displacements, 1)).reshape(len(w), -1)
        f = (forces - np.tensordot(w, forces, 1)).reshape(len(w), -1)
        known = np.zeros((u.shape[1], u.shape[1])) if prior is None else prior
        root = np.sqrt(w)[:, None]
        # A little of the identity keeps the equations solvable and holds on to the prior, as only the rest is fitted.
        held = np.eye(u.shape[1]) * np.sqrt(1e-8 * np.average((u**2).mean(axis=1), weights=w))
        shape = (-1, self.atoms, 3)
        solver = FCSolverO2(self._basis).solve(
            np.concatenate([root * u, held]).reshape(shape),
            np.concatenate([root * (f + u @ known), np.zeros_like(held)]).reshape(shape),
        )
        found = solver.full_fc
        assert found is not None
        phi = known + found.transpose(0, 2, 1, 3).reshape(u.shape[1], u.shape[1])
        return Fit(phi, explained(phi, displacements, forces, w))


def explained(phi: Array, displacements: Array, forces: Array, weights: Array) -> float:
    """Return the share of the variance of forces (M, N, 3) that force constants explain; weights (M,) add up to 1."""
    u = (displacements - np.tensordot(weights, displacements, 1)).reshape(len(weights), -1)
    f = (forces - np.tensordot(weights, forces, 1)).reshape(len(weights), -1)
    whole = float((weights[:, None] * f**2).sum())
    return 1.0 - float((weights[:, None] * (f + u @ phi) ** 2).sum()) / whole if whole > 0.0 else 1.0


@dataclass(frozen=True, eq=False)
class Crystal:
    """A supercell, its symmetry and its force constants' basis: what does not change while cell and atoms relax."""

    lattice: Supercell
    symmetry: Symmetry
    regression: Regression

    @classmethod
    def prepare(
        cls,
        structure: Structure,
        repeats: Repeats | None = None,
        min_image: float = 6.0,
        isotopes: Mapping[str, float] | None = None,
        symprec: float = 0.01,
    ) -> Crystal:
        """Make the symmetry of a structure exact and build its supercell.

        Args:
            structure: the crystal, at rest at 0 K.
            repeats: cells along each lattice vector, see :func:`choose_repeats`.
            min_image: shortest distance between images, Å.
            isotopes: masses in amu in place of the elements' means.
            symprec: tolerance of its symmetry, Å.

        Raises:
            ModelError: symfc is missing.
            ConfigError: an isotope or ``min_image`` is impossible.
            InputError: no symmetry is found.
        """
        masses = masses_of(structure.symbols, isotopes)
        exact = symmetrised(structure, symprec)
        lattice = Supercell(exact, masses, choose_repeats(exact, min_image, repeats))
        symmetry = Symmetry.of(lattice)
        return cls(lattice, symmetry, Regression(lattice, symmetry))


def symfc_atoms(lattice: Supercell) -> Any:
    """Return the supercell as symfc takes it."""
    from symfc.utils.utils import SymfcAtoms

    numbers = [atomic_numbers[symbol] for symbol in lattice.symbols]
    return SymfcAtoms(numbers, lattice.sites @ np.linalg.inv(lattice.cell), lattice.cell)
