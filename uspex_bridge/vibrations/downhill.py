"""The way down from a crystal that is no minimum: a supercell displaced along its lowest mode."""

from __future__ import annotations

import numpy as np

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.vibrations.ensemble import Evaluate, evaluated
from uspex_bridge.vibrations.harmonic import Harmonic
from uspex_bridge.vibrations.modes import Modes

#: Displacements of the atom that moves most, both ways, Å.
_TRIALS = (0.05, 0.1, 0.2, 0.35, 0.5)
#: Modes whose frequencies differ by less than this share are one; the most of them that are tried.
_SAME, _MOST = 0.01, 3
#: What must be gained, eV/atom.
_LOWER = 2e-5


def downhill(phonons: Harmonic, evaluate: Evaluate) -> Structure | None:
    """Return the supercell displaced along its lowest mode to the lowest of several energies, in one batch.

    Args:
        phonons: with an imaginary mode.
        evaluate: the model.

    Returns:
        None where nothing along the mode lies lower than the crystal at rest.

    Raises:
        CalculationError: the model failed.
    """
    lattice = phonons.lattice
    modes = Modes.of(phonons.phi, lattice.all_masses)
    lowest = [k for k in range(_MOST) if modes.energies[k] <= (1.0 - _SAME) * modes.energies[0]]
    directions = [(modes.vectors[:, k] / modes.roots).reshape(-1, 3) for k in lowest]
    moves = [
        sign * size * direction / np.linalg.norm(direction, axis=1).max()
        for direction in directions
        for size in _TRIALS
        for sign in (1.0, -1.0)
    ]
    trials = [lattice.atoms(), *(lattice.atoms(move) for move in moves)]
    energies = np.array([float(answer["energy"]) for answer in evaluated(evaluate, trials)])
    best = int(energies.argmin())
    return to_structure(trials[best]) if energies[best] < energies[0] - _LOWER * len(lattice) else None
