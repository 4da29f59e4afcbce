"""A cheap model of the anharmonic potential, whose average is known: it takes most of the statistical error away.

Harmonic force constants plus a sum over pairs of atoms, fitted to the forces of earlier populations. On configurations
that it has not seen, the average of V is that of V - S plus that of S, and S costs nothing: the difference alone needs
the model (a control variate). Right or wrong, S adds no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from uspex_bridge.base.data import Array
from uspex_bridge.base.neighbours import pairs
from uspex_bridge.vibrations.constants import Regression
from uspex_bridge.vibrations.ensemble import Ensemble, Value, paired
from uspex_bridge.vibrations.modes import Density
from uspex_bridge.vibrations.supercell import Supercell

#: The energy of a pair is a polynomial of this degree, without a constant, in z = 1 / ((r/d)² + s²)², d the shortest
#: contact; s keeps it finite between atoms closer than any in the fit. It ends smoothly at the reach, in units of d.
_DEGREE, _SOFT, _REACH = 4, 1.0, 2.5
#: Ridge of the fit, relative to each function's own variance.
_RIDGE = 1e-5
#: Pair distances that are worked out at once.
_AT_ONCE = 100_000
#: Largest number of pair distances that an average may take.
_MOST = 100_000_000
#: Configurations that force constants and mean forces of the surrogate are taken from.
_DRAWN = 400


class _Pairs:
    """Pairs of atoms of a supercell that come within reach in some configuration, each once."""

    def __init__(self, lattice: Supercell, contact: float, displacements: Array) -> None:
        self.contact, self.reach = contact, _REACH * contact
        atoms = lattice.atoms()
        i, j, cells = pairs(atoms, self.reach + 2.0 * float(np.linalg.norm(displacements, axis=-1).max()))
        ahead = (cells[:, 0] > 0) | (
            (cells[:, 0] == 0) & ((cells[:, 1] > 0) | ((cells[:, 1] == 0) & (cells[:, 2] > 0)))
        )
        once = (i < j) | ((i == j) & ahead)
        self.i, self.j = i[once], j[once]
        self.gaps = atoms.positions[self.j] - atoms.positions[self.i] + cells[once] @ atoms.cell.array
        numbers = np.sort(np.stack([atoms.numbers[self.i], atoms.numbers[self.j]], axis=1), axis=1)
        kinds = _kinds(lattice)
        self.kind = np.array([kinds[a, b] for a, b in numbers.tolist()], dtype=int)
        count, each = len(self.i), np.arange(len(self.i))
        ends = (np.r_[self.i, self.j], np.r_[each, each])
        self.ends = csr_array((np.r_[np.ones(count), -np.ones(count)], ends), shape=(len(atoms), count))

    def distances(self, displacements: Array) -> tuple[Array, Array]:
        """Return vectors (M, P, 3) and distances (M, P), Å, at displacements (M, N, 3)."""
        vectors = self.gaps + displacements[:, self.j] - displacements[:, self.i]
        return vectors, np.sqrt((vectors**2).sum(axis=-1))

    def radial(self, distances: Array, weights: Array) -> tuple[Array, Array]:
        """Return energies (M, P), eV, and their derivatives, eV/Å, for coefficients (P or 1, degree) of z, z², ..."""
        x = np.minimum(distances / self.reach, 1.0) ** 2
        soft = 1.0 / ((distances / self.contact) ** 2 + _SOFT**2)
        z = soft**2
        value, slope = np.zeros_like(z), np.zeros_like(z)
        for k in reversed(range(_DEGREE)):
            slope = slope * z + value
            value = value * z + weights[:, k]
        value, slope = value * z, slope * z + value  # of sum c_k z^(k + 1), and its derivative by z
        end = (1.0 - x) ** 2
        chain = -4.0 * distances * z * soft / self.contact**2
        falling = -6.0 * distances / self.reach**2 * end
        return value * end * (1.0 - x), slope * chain * end * (1.0 - x) + value * falling

    def forces(self, displacements: Array, weights: Array) -> Array:
        """Return the forces (M, N, 3), eV/Å, for coefficients (P or 1, degree)."""
        blocks = []
        for some in self.blocks(displacements):
            vectors, distances = self.distances(some)
            along = (self.radial(distances, weights)[1] / distances)[..., None] * vectors
            flat = along.transpose(1, 0, 2).reshape(len(self.i), -1)
            blocks.append((self.ends @ flat).reshape(-1, len(some), 3).transpose(1, 0, 2))
        return np.concatenate(blocks)

    def energies(self, displacements: Array, weights: Array) -> Array:
        """Return the energies (M,), eV, for coefficients (P or 1, degree)."""
        found = [self.radial(self.distances(u)[1], weights)[0].sum(axis=1) for u in self.blocks(displacements)]
        return np.concatenate(found)

    def blocks(self, displacements: Array) -> list[Array]:
        """Cut configurations into blocks that fit a processor's cache."""
        step = max(1, _AT_ONCE // max(len(self.i), 1))
        return [displacements[k : k + step] for k in range(0, len(displacements), step)]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Harmonic force constants and pair energies.

    Attributes:
        contact: shortest distance between atoms, Å, the unit of length of the pair energies.
        weights: coefficients of the pair energies, for each kind of pair, (kinds, degree), eV.
        phi: force constants (3N, 3N), eV/Å², beside the pairs.
    """

    contact: float
    weights: Array
    phi: Array

    @staticmethod
    def functions(lattice: Supercell) -> int:
        """Return the number of coefficients of a crystal's pair energies."""
        return len(_kinds(lattice)) * _DEGREE

    @classmethod
    def fitted(cls, ensembles: Sequence[Ensemble], lattice: Supercell, regression: Regression) -> Surrogate:
        """Fit to the odd part of the forces of earlier populations.

        What force constants can explain of a pair function is taken out of both sides, so that the pairs stand for the
        anharmonic part alone; force constants for what is then left are fitted last.
        """
        contact = float(lattice.shortest_contact.min())
        kinds = sorted(set(_kinds(lattice).values()))
        functions = [(kind, k) for kind in kinds for k in range(_DEGREE)]
        moves = np.concatenate([np.split(e.displacements, 2)[0] for e in ensembles])
        forces = np.concatenate([_odd(e.forces) for e in ensembles])
        parts: list[list[Array]] = [[] for _ in functions]
        for e in ensembles:
            near = _Pairs(lattice.at(e.cell, e.scaled), contact, e.displacements)
            for part, (kind, k) in zip(parts, functions, strict=True):
                weights = (near.kind == kind)[:, None] * np.eye(_DEGREE)[k]
                part.append(_odd(near.forces(e.displacements, weights)))
        basis = np.array([np.concatenate(part) for part in parts])
        both = np.concatenate([moves, -moves])

        def constants(odd: Array) -> Array:
            return regression.fit(both, np.concatenate([odd, -odd])).phi

        def rest(odd: Array) -> Array:
            return np.asarray(odd.reshape(len(odd), -1) + moves.reshape(len(odd), -1) @ constants(odd)).ravel()

        columns = np.array([rest(one) for one in basis]).T
        scale = np.sqrt((columns**2).mean(axis=0))
        scale[scale < 1e-10] = np.inf
        scaled = columns / scale
        normal = scaled.T @ scaled + _RIDGE * len(scaled) * np.eye(scaled.shape[1])
        found = np.linalg.solve(normal, scaled.T @ rest(forces)) / scale
        phi = constants(forces - np.tensordot(found, basis, 1))
        return cls(contact, found.reshape(len(kinds), _DEGREE), phi)

    def anharmonic(self, lattice: Supercell, displacements: Array, phi: Array) -> Array:
        """Return S minus the harmonic energy of force constants ``phi`` at displacements (M, N, 3), (M,), eV."""
        near = _Pairs(lattice, self.contact, displacements)
        u = displacements.reshape(len(displacements), -1)
        harmonic = 0.5 * ((u @ (self.phi - phi)) * u).sum(axis=1)
        return np.asarray(near.energies(displacements, self.weights[near.kind]) + harmonic)

    def forces(self, lattice: Supercell, displacements: Array) -> Array:
        """Return the forces (M, N, 3), eV/Å, at displacements (M, N, 3)."""
        near = _Pairs(lattice, self.contact, displacements)
        harmonic = displacements.reshape(len(displacements), -1) @ self.phi
        return np.asarray(near.forces(displacements, self.weights[near.kind]) - harmonic.reshape(displacements.shape))

    def average(self, lattice: Supercell, density: Density, error: float, rng: np.random.Generator) -> Value:
        """Return the average of :meth:`anharmonic`, eV, to a standard error of ``error`` if that is affordable."""
        pairs_here = len(_Pairs(lattice, self.contact, np.zeros((1, len(lattice), 3))).i)
        halves: list[Array] = []
        number, wanted, most = 0, 500, max(500, _MOST // max(2 * pairs_here, 1))
        while True:
            moves = density.displace(rng.standard_normal((wanted - number, len(density.deviations))))
            both = self.anharmonic(lattice, np.concatenate([moves, -moves]), density.phi).reshape(2, -1)
            halves.append(both)
            number = wanted
            found = paired(np.concatenate(halves, axis=1).ravel())
            if found.error <= error or number >= most:
                return found
            wanted = min(most, max(2 * number, int(1.1 * number * (found.error / error) ** 2)))

    def known(
        self, lattice: Supercell, density: Density, regression: Regression, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Return its effective force constants (3N, 3N), eV/Å², and mean forces (N, 3), eV/Å, under a Gaussian."""
        half = density.displace(rng.standard_normal((_DRAWN // 2, len(density.deviations))))
        moves = np.concatenate([half, -half])
        forces = self.forces(lattice, moves)
        return regression.fit(moves, forces, prior=density.phi).phi, forces.mean(axis=0)


def _kinds(lattice: Supercell) -> dict[tuple[int, int], int]:
    """Number the kinds of pairs by their elements' atomic numbers, the smaller first."""
    elements = sorted(set(lattice.atoms().numbers.tolist()))
    ordered = [(a, b) for k, a in enumerate(elements) for b in elements[k:]]
    return {kind: number for number, kind in enumerate(ordered)}


def _odd(values: Array) -> Array:
    """Return the part of values (M, ...) of antithetic pairs that changes its sign, (M/2, ...)."""
    one, opposite = np.split(values, 2)
    return np.asarray(0.5 * (one - opposite))
