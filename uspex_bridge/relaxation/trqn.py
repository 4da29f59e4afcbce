"""TRQN, a trust-region quasi-Newton optimizer for atoms and cell that starts from a Hessian of springs.

In each step the Hessian is that of :mod:`uspex_bridge.relaxation.springs` at the present geometry, scaled to the
curvature seen last and corrected by damped BFGS updates (Nocedal and Wright, Numerical Optimization, procedure 18.2)
with the steps so far. The step minimizes this model within a trust radius, which grows and shrinks with how well the
model predicted the change in enthalpy; a step that raises the enthalpy is taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixScaled
from ase.filters import FrechetCellFilter
from ase.optimize.optimize import Optimizer
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh
from scipy.sparse import csr_array

from uspex_bridge.base.data import Array
from uspex_bridge.relaxation.springs import spring_hessian

#: Stiffness of a spring as long as the sum of its covalent radii, eV/Å², before any curvature was seen, and its bounds.
_STIFFNESS, _STIFFNESS_BOUNDS = 6.0, (0.3, 200.0)
#: So many steps correct the Hessian, and so many of the last give its scale.
_MEMORY, _RECENT = 25, 4
#: First trust radius and smallest one, Å; the largest is ``maxstep``.
_FIRST, _SMALLEST = 0.15, 1e-3
#: A strain counts as the change of a distance of this length, Å.
_BOND = 2.5
#: Added to the diagonal, as a fraction of its mean, for what no spring holds.
_FLOOR = 0.02
#: Smallest curvature, eV/Å².
_SOFTEST = 1e-3


@dataclass
class _Point:
    """A geometry that was evaluated: coordinates, enthalpy (eV), gradient; and the step tried from there."""

    x: Array
    value: float
    gradient: Array
    predicted: float = 0.0


class TRQN(Optimizer):
    """Trust-region quasi-Newton with a Hessian of springs.

    It is used as any other optimizer of ASE: observers, log, trajectory and restart file are ASE's.

    Args:
        target: atoms, or atoms in a Frechet cell filter, constraints included.
        restart: file that keeps what was learnt; an optimizer made with an existing one goes on from there.
        logfile: as for every optimizer of ASE.
        trajectory: file or trajectory that gets every step.
        maxstep: largest trust radius: of a step, the largest move of an atom or strain times 2.5 Å, whichever is
            larger, Å.
        options: more of :class:`ase.optimize.optimize.Optimizer`.
    """

    def __init__(
        self,
        target: Atoms | FrechetCellFilter,
        restart: str | Path | None = None,
        logfile: Any = None,
        trajectory: Any = None,
        maxstep: float = 0.35,
        **options: Any,
    ) -> None:
        self.target = target
        self.maxstep = maxstep
        super().__init__(target, restart=restart, logfile=logfile, trajectory=trajectory, **options)  # type: ignore[arg-type]

    def initialize(self) -> None:
        """Forget everything."""
        self._cell = self.target if isinstance(self.target, FrechetCellFilter) else None
        self._atoms: Any = self.target if self._cell is None else self._cell.atoms
        self._directions = csr_array(directions(self.target))
        self._radius = min(_FIRST, self.maxstep)
        self._stiffness = _STIFFNESS
        self._steps: list[tuple[Array, Array]] = []
        self._base: _Point | None = None

    def read(self) -> None:
        """Go on with the curvature that the restart file holds, from the present geometry."""
        self.initialize()
        steps, self._stiffness, self._radius = self.load()
        self._steps = [(np.array(step), np.array(change)) for step, change in steps]

    def step(self, gradient: Any = None) -> None:
        """Move to where the model of the enthalpy is lowest within the trust radius."""
        here = _Point(
            np.array(self.target.get_positions(), dtype=float).ravel(),
            float(self.target.get_potential_energy()),
            -np.array(self.target.get_forces(), dtype=float).ravel(),
        )
        if self._base is not None and not self._learn(self._base, here):
            self.target.set_positions(self._base.x.reshape(-1, 3))
        else:
            self._base = here
        base, basis = self._base, self._directions
        hessian = self._hessian()
        step = basis @ self._lowest(hessian, basis.T @ base.gradient)
        reduced = basis.T @ step
        base.predicted = float(base.gradient @ step + 0.5 * reduced @ hessian @ reduced)
        self.target.set_positions((base.x + step).reshape(-1, 3))
        if self.restart is not None:
            self.dump([self._steps, self._stiffness, self._radius])

    def _learn(self, base: _Point, here: _Point) -> bool:
        """Keep what the step from ``base`` showed, fit the trust radius; return whether to go on from ``here``."""
        step = here.x - base.x
        self._steps = [*self._steps, (step, here.gradient - base.gradient)][-_MEMORY:]
        change, length = here.value - base.value, self._length(step)
        # Single precision leaves about this much noise in an energy.
        noise = 2e-5 * np.sqrt(len(self._atoms)) + 1e-6 * abs(here.value)
        if change > noise:
            self._radius = max(0.3 * length, _SMALLEST)
            return False
        if abs(base.predicted) > noise:
            ratio = change / base.predicted
            if ratio < 0.25:
                self._radius = max(0.5 * length, _SMALLEST)
            elif ratio > 0.7 and length > 0.8 * self._radius:
                self._radius = min(1.8 * self._radius, self.maxstep)
        return True

    def _hessian(self) -> Array:
        """Return the Hessian along the directions that are free (M, M), positive definite."""
        basis = self._directions
        if self._cell is None:
            springs = spring_hessian(self._atoms)
        else:
            springs = spring_hessian(self._atoms, self._cell.deform_grad(), self._cell.exp_cell_factor)
        springs = (basis.T @ springs) @ basis
        steps = [(basis.T @ step, basis.T @ change) for step, change in self._steps]
        seen = [(s @ y) / (s @ springs @ s) for s, y in steps[-_RECENT:] if s @ y > 0 and s @ springs @ s > 0]
        if seen:
            self._stiffness = float(np.clip(np.exp(np.mean(np.log(seen))), *_STIFFNESS_BOUNDS))
        hessian = self._stiffness * springs
        hessian[np.diag_indices_from(hessian)] += _FLOOR * np.trace(hessian) / max(1, len(hessian)) + _SOFTEST
        return updated(hessian, steps)

    def _length(self, step: Array) -> float:
        return step_length(self.target, step)

    def _lowest(self, hessian: Array, gradient: Array) -> Array:
        """Return the step (M,) to the lowest point of the quadratic model within the trust radius."""
        with contextlib.suppress(LinAlgError):  # where that point lies within reach, as mostly, it needs no modes
            step = np.asarray(cho_solve(cho_factor(hessian), -gradient))
            if self._length(self._directions @ step) <= self._radius:
                return step
        curvature, modes = eigh(hessian)
        curvature = np.maximum(curvature, _SOFTEST)
        slope = modes.T @ gradient

        def shifted(shift: float) -> Array:
            return np.asarray(-modes @ (slope / (curvature + shift)))

        def too_far(shift: float) -> bool:
            return self._length(self._directions @ shifted(shift)) > self._radius

        if not too_far(0.0):
            return shifted(0.0)
        low, high = 0.0, 1.0
        while too_far(high):
            low, high = high, 4.0 * high
        for _ in range(20):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if too_far(middle) else (low, middle)
        return shifted(high)


def updated(hessian: Array, steps: Sequence[tuple[Array, Array]]) -> Array:
    """Return a Hessian (M, M) after damped BFGS updates with steps (M,) and the changes of the gradient along them.

    Each update adds two columns to a matrix W, and in the end the Hessian is that before plus W diag(weights) W^T: as
    the single updates, for the price of two products.
    """
    if not steps:
        return hessian
    images = hessian @ np.array([step for step, _ in steps]).T
    columns = np.zeros((len(hessian), 2 * len(steps)))
    weights = np.zeros(2 * len(steps))
    for k, (step, change) in enumerate(steps):
        image = images[:, k] + columns[:, : 2 * k] @ (weights[: 2 * k] * (step @ columns[:, : 2 * k]))
        expected, seen = float(step @ image), float(step @ change)
        if expected <= 1e-16:
            continue
        if seen < 0.1 * expected:
            weight = 0.9 * expected / (expected - seen)
            change = weight * change + (1.0 - weight) * image
            seen = float(step @ change)
        columns[:, 2 * k], columns[:, 2 * k + 1] = image, change
        weights[2 * k : 2 * k + 2] = -1.0 / expected, 1.0 / seen
    return np.asarray(hessian + (columns * weights) @ columns.T)


def step_length(target: Atoms | FrechetCellFilter, step: Array) -> float:
    """Return how far a step (ndof,) goes, Å: the largest move of an atom or strain times 2.5 Å."""
    cell = target if isinstance(target, FrechetCellFilter) else None
    n = 3 * len(target if cell is None else cell.atoms)
    atoms = float(np.sqrt((step[:n].reshape(-1, 3) ** 2).sum(axis=1).max(initial=0.0)))
    if cell is None:
        return atoms
    return max(atoms, _BOND * float(np.abs(step[n:]).max()) / float(cell.exp_cell_factor))


def directions(target: Atoms | FrechetCellFilter) -> Array:
    """Return the directions (ndof, M) in which atoms and cell may move, orthonormal columns.

    Knows FixAtoms, FixScaled and the modes of the filter. Constraints of symmetry need no care: gradients have the
    symmetry already, and so have the steps that follow from them.
    """
    cell = target if isinstance(target, FrechetCellFilter) else None
    atoms: Any = target if cell is None else cell.atoms
    vectors = np.asarray(atoms.cell.array if cell is None else cell.orig_cell)
    spans = [np.eye(3)] * len(atoms)
    for constraint in atoms.constraints:
        for index in getattr(constraint, "index", []):
            if isinstance(constraint, FixAtoms):
                spans[index] = np.zeros((3, 0))
            elif isinstance(constraint, FixScaled):
                spans[index] = np.linalg.qr(vectors[~np.asarray(constraint.mask, dtype=bool)].T)[0]
    if getattr(target, "frozen_ions", False):
        spans = [np.zeros((3, 0))] * len(atoms)
    if cell is not None:
        spans = [*spans, _strains(cell)]
    columns = sum(span.shape[1] for span in spans)
    basis = np.zeros((sum(len(span) for span in spans), columns))
    row = column = 0
    for span in spans:
        rows, width = span.shape
        basis[row : row + rows, column : column + width] = span
        row, column = row + rows, column + width
    return basis


def _strains(cell: FrechetCellFilter) -> Array:
    """Return the symmetric strains (9, M) that a filter lets the cell make."""
    identity: Array = np.eye(3).ravel()[:, None] / np.sqrt(3.0)
    if cell.hydrostatic_strain:
        return identity
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    strains = np.zeros((9, 6))
    for k, (a, b) in enumerate(pairs):
        strains[[3 * a + b, 3 * b + a], k] = 1.0 if a == b else np.sqrt(0.5)
    if cell.constant_volume:
        strains = np.linalg.svd(strains - identity @ (identity.T @ strains))[0][:, :5]
    return strains
