"""Whether a symmetric crystal stands on a saddle point, where its symmetry alone holds it.

The softest deformation of atoms and cell is found by Lanczos's method, with one evaluation a step: gradients beside the
structure give the Hessian's product with a vector, the Hessian of springs makes the method converge within a few steps.
The structure is then displaced along it: what lies lower decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh_tridiagonal

from uspex_bridge.base.data import Array
from uspex_bridge.relaxation.springs import spring_hessian
from uspex_bridge.relaxation.trqn import directions, step_length

#: Steps of Lanczos's method, at least to call a crystal stable and at most; and length of a displacement in it, Å (of
#: the atom that moves most; a strain counts as in :func:`step_length`).
LEAST, STEPS, DISPLACEMENT = 6, 12, 0.03
#: Eigenvalue of the softest mode, relative to the springs' (eV/Å² of one as long as the sum of the covalent radii),
#: below which the structure is displaced along it.
UNSTABLE = -0.003
#: Displacements that are tried along a soft mode, Å, and what must be gained there, eV/atom.
TRIALS, LOWER = (0.12, -0.12, 0.3, -0.3), 2e-4
#: Added to the diagonal of the springs, for what no spring holds, as a fraction of its mean.
_FLOOR = 0.02


class Mode(NamedTuple):
    """The softest deformation.

    Attributes:
        curvature: relative to that of the springs.
        direction: in the coordinates of the target, (ndof,), as long as a displacement of 1 Å.
        evaluations: that it took.
    """

    curvature: float
    direction: Array
    evaluations: int


def step_off(target: Atoms | FrechetCellFilter) -> tuple[bool, float]:
    """Displace a structure along its softest mode to where it lies lower.

    Args:
        target: at a stationary point; left where it was if nothing beside it lies lower.

    Returns:
        whether it was displaced, and the mode's curvature as of :class:`Mode` (infinite where nothing may move).
    """
    mode = softest(target)
    if mode is None or mode.curvature > UNSTABLE:
        return False, float("inf") if mode is None else mode.curvature
    start = np.array(target.get_positions(), dtype=float)
    atoms = target.atoms if isinstance(target, FrechetCellFilter) else target
    here = float(target.get_potential_energy())
    for distance in TRIALS:
        target.set_positions(start + distance * mode.direction.reshape(-1, 3))
        if float(target.get_potential_energy()) < here - LOWER * len(atoms):
            return True, mode.curvature
    target.set_positions(start)
    return False, mode.curvature


def softest(target: Atoms | FrechetCellFilter, seed: int = 0) -> Mode | None:
    """Return the softest deformation of atoms, in a cell filter where the cell may move; None where nothing may.

    The target is left where it was. Translations are left out.
    """
    basis = _without_translations(target, directions(target))
    if basis.shape[1] == 0:
        return None
    start = np.array(target.get_positions(), dtype=float)
    gradient = -np.array(target.get_forces(), dtype=float).ravel()
    springs = basis.T @ _springs(target) @ basis
    springs[np.diag_indices_from(springs)] += _FLOOR * np.trace(springs) / len(springs)
    try:
        factor = cho_factor(springs)
    except LinAlgError:  # no spring between these atoms, or not along all directions: every one counts alike
        springs = np.eye(len(springs))
        factor = cho_factor(springs)

    def product(vector: Array) -> Array:
        """Return the Hessian's product with a vector along the free directions (M,)."""
        step = basis @ vector
        scale = DISPLACEMENT / step_length(target, step)
        target.set_positions(start + scale * step.reshape(-1, 3))
        change = -np.array(target.get_forces(), dtype=float).ravel() - gradient
        return np.asarray(basis.T @ change / scale)

    try:
        curvature, vector, evaluations = _lanczos(product, springs, factor, np.random.default_rng(seed))
    finally:
        target.set_positions(start)
    direction = basis @ vector
    return Mode(curvature, direction / step_length(target, direction), evaluations)


def _lanczos(
    product: Callable[[Array], Array], springs: Array, factor: tuple[Array, bool], rng: np.random.Generator
) -> tuple[float, Array, int]:
    """Return the lowest eigenvalue and vector of a Hessian relative to the springs', and the products it took.

    Lanczos's method in the metric of the springs, with full orthogonalization (Golub and Van Loan, Matrix
    Computations, chapter 10).
    """
    vector = rng.normal(size=len(springs))
    vectors = [vector / np.sqrt(vector @ springs @ vector)]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = product(vectors[-1])
        diagonal.append(float(vectors[-1] @ image))
        residual = cho_solve(factor, image)
        for _ in range(2):
            for known in vectors:
                residual = residual - (known @ springs @ residual) * known
        norm = float(np.sqrt(max(residual @ springs @ residual, 0.0)))
        values, weights = eigh_tridiagonal(np.array(diagonal), np.array(beside))
        lowest, error = float(values[0]), norm * abs(float(weights[-1, 0]))
        decided = error < abs(lowest) and (lowest < 3.0 * UNSTABLE or (lowest > 0.0 and len(vectors) >= LEAST))
        if decided or len(vectors) >= min(STEPS, len(springs)) or norm < 1e-8:
            return lowest, np.asarray(np.column_stack(vectors) @ weights[:, 0]), len(vectors)
        beside.append(norm)
        vectors.append(residual / norm)


def _springs(target: Atoms | FrechetCellFilter) -> Array:
    if isinstance(target, FrechetCellFilter):
        return spring_hessian(target.atoms, target.deform_grad(), target.exp_cell_factor)
    return spring_hessian(target)


def _without_translations(target: Atoms | FrechetCellFilter, basis: Array) -> Array:
    """Return a basis of the directions but the crystal's translations, where nothing is fixed in space."""
    atoms = target.atoms if isinstance(target, FrechetCellFilter) else target
    shifts = np.zeros((len(basis), 3))
    shifts[: 3 * len(atoms)] = np.tile(np.eye(3), (len(atoms), 1)) / np.sqrt(len(atoms))
    inside = basis.T @ shifts
    if not np.allclose(np.linalg.norm(inside, axis=0), 1.0, atol=1e-6):
        return basis
    rest = np.linalg.svd(np.eye(basis.shape[1]) - inside @ inside.T)[0][:, : basis.shape[1] - 3]
    return np.asarray(basis @ rest)
