"""The free energy of a second potential from configurations of the first: thermodynamic perturbation.

F₂ <= F₁ + <V₂ - V₁>₁ (Gibbs and Bogoliubov), for quantum nuclei too, where the average is over the Gaussian of the
first. How far below F₂ may lie is estimated by the second cumulant, with the energy of the modes in place of kT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import Rejected
from uspex_bridge.vibrations.ensemble import paired
from uspex_bridge.vibrations.modes import Density

#: Fewest configurations, and the share of them that the effective sample may fall to.
FEWEST, _LEAST = 8, 0.25
#: A smaller effective sample is enough where the second order stays below this, eV/atom.
_SECOND_ORDER = 0.005


@dataclass(frozen=True)
class Correction:
    """What a second potential adds to a free energy.

    Attributes:
        mean: <V₂ - V₁>, eV per unit cell, and its standard error.
        error: eV per unit cell.
        second_order: by about how much the second free energy lies below the first order, eV per unit cell.
        configs: number of configurations.
        ess: effective number of them as a sample of the second potential.
    """

    mean: float
    error: float
    second_order: float
    configs: int
    ess: float


def correct(difference: Array, density: Density, atoms: int, cells: int, *, pairs: bool) -> Correction:
    """Average the difference of two potentials.

    Args:
        difference: V₂ - V₁ of the supercell, (M,), eV.
        density: the Gaussian that the configurations were drawn from.
        atoms: in the supercell.
        cells: unit cells in it.
        pairs: whether the second half of the configurations is the opposite of the first.

    Raises:
        Rejected: there are too few configurations, or the second potential sees another crystal.
    """
    number = len(difference)
    if number < FEWEST:
        raise Rejected(
            "second-model", f"{number} configurations are too few to correct with; at least {FEWEST} are needed"
        )
    thermal = 2.0 * float(density.potential.mean())  # kT where the modes are classical
    spread = difference - difference.mean()
    weights = np.exp(-(spread - spread.min()) / thermal)
    ess = float(weights.sum() ** 2 / (weights**2).sum())
    second = 0.5 * float(difference.var(ddof=1)) / thermal
    if ess < _LEAST * number and second > _SECOND_ORDER * atoms:
        raise Rejected(
            "second-model",
            f"the second model does not see the same crystal: of {number} configurations {ess:.1f} count, and its "
            f"energies scatter by {1000 * difference.std() / atoms:.0f} meV/atom about the first's",
        )
    error = float(paired(difference).error if pairs else difference.std(ddof=1) / np.sqrt(number))
    return Correction(float(difference.mean()) / cells, error / cells, second / cells, number, ess)
