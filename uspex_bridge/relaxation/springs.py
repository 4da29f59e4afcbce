"""A model Hessian: springs between neighbours, softer the longer they are, felt by atoms and cell alike.

Random crystals start far from where a constant guess of the Hessian is any good: stiff short contacts beside soft
long ones, and a cell whose stiffness grows with its content. Springs know both from the geometry alone.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from uspex_bridge.base.data import Array
from uspex_bridge.relaxation.contacts import contacts

#: Pairs up to this many times the sum of their covalent radii have a spring.
REACH = 1.9
#: exp(-DECAY (d / (r_i + r_j) - 1)) is a spring's stiffness, relative to one of the length of the sum of the radii.
DECAY = 8.0
#: No spring is stiffer than one of this relative length.
SHORTEST = 0.5
#: Stiffness across a pair, relative to that along it.
ACROSS = 0.1


def spring_hessian(atoms: Atoms, deformation: Array | None = None, cell_factor: float = 1.0) -> Array:
    """Return the second derivatives of the energy of the springs, all taken to be relaxed where they are.

    Args:
        atoms: the structure.
        deformation: the deformation gradient F (3, 3) of ASE's Frechet cell filter, whose coordinates are meant: an
            atom lies at F q, and the cell's coordinates are ``cell_factor`` times the logarithm of F. None where
            only atoms move.
        cell_factor: of that filter.

    Returns:
        (3N + 9, 3N + 9), or (3N, 3N) without a cell, in units of the stiffness of a spring as long as the sum of
        its covalent radii.
    """
    n = len(atoms)
    first, second, vector, distance, relative = contacts(atoms, REACH)
    stiffness = np.exp(-DECAY * (np.maximum(relative, SHORTEST) - 1.0))
    unit = vector / distance[:, None]
    along = (stiffness * (1.0 - ACROSS))[:, None, None] * unit[:, :, None] * unit[:, None, :]
    springs = along + (stiffness * ACROSS)[:, None, None] * np.eye(3)
    gradient = np.eye(3) if deformation is None else deformation

    summed = np.zeros((n * n, 9))
    np.add.at(summed, first * n + second, springs.reshape(-1, 9))
    between = (summed @ np.kron(gradient, gradient)).reshape(n, n, 3, 3)
    blocks = -between
    diagonal = np.arange(n)
    blocks[diagonal, diagonal] += between.sum(axis=1)
    atomic = blocks.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    if deformation is None:
        return np.asarray(atomic)

    pulls = (gradient.T @ springs)[:, :, :, None] * vector[:, None, None, :]
    mixed = np.zeros((n, 3, 3, 3))
    np.add.at(mixed, first, -pulls)
    outer = (vector[:, :, None] * vector[:, None, :]).reshape(-1, 9)
    strain = 0.5 * (springs.reshape(-1, 9).T @ outer).reshape(3, 3, 3, 3).transpose(0, 2, 1, 3)
    mixed, strain = mixed.reshape(3 * n, 9) / cell_factor, strain.reshape(9, 9) / cell_factor**2
    return np.asarray(np.block([[atomic, mixed], [mixed.T, strain]]))
