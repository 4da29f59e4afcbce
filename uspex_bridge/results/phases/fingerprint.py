"""The structure fingerprint that USPEX compares by: Oganov and Valle, J. Chem. Phys. 130, 104504 (2009).

    F_AB(R) = sum_{i in A, j in B} delta(R - R_ij) / (4 pi R_ij^2 N_A N_B/V) - 1

with delta smeared to a Gaussian and averaged over bins. The distance of two structures of the same composition is
(1 - cos)/2, the cosine taken over all pairs AB and bins with weights w_AB = N_A N_B / N^2 that run over ordered pairs,
so that AB counts twice where A and B differ. Checked against the orders that USPEX 9.4.4 prints (see the tests);
USPEX gives every pair the same weight in a search of variable composition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.results.phases.surroundings import lattice_vectors

#: Points of the fine grid per bin: a distance is shared between its two neighbours before it is smeared.
_FINE = 16
#: Most pairs times cell images handled at once.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class FingerprintSettings:
    """USPEX's RmaxFing, deltaFing and sigmaFing (Å), with its defaults.

    ``sigma`` is the half width at half maximum, as USPEX takes it.
    """

    rmax: float = 10.0
    delta: float = 0.08
    sigma: float = 0.03

    @property
    def bins(self) -> int:
        """Number of bins of width ``delta``."""
        return round(self.rmax / self.delta)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One structure's fingerprint.

    Attributes:
        values: F_AB per bin, (P, B), P the unordered pairs of elements, sorted.
        weights: w_AB of each, (P,), those of AB and BA together; they sum to 1.
        volume_per_atom: Å³.
        settings: what it was made with.
    """

    values: Array
    weights: Array
    volume_per_atom: float
    settings: FingerprintSettings

    @property
    def vector(self) -> NDArray[np.float32]:
        """The weighted fingerprint as a unit vector, (P B,): the cosine of two structures is their scalar product."""
        flat = (np.sqrt(self.weights)[:, None] * self.values).ravel()
        return np.asarray(flat / np.linalg.norm(flat), dtype=np.float32)

    @property
    def order(self) -> float:
        """USPEX's degree of order of the structure (S_order of Individuals)."""
        square = float(self.weights @ (self.values**2).sum(axis=1))
        return math.sqrt(square * self.settings.delta / self.volume_per_atom ** (1 / 3))


def cosine_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1 - cos)/2 of unit vectors; ``one`` may be a matrix of them."""
    return np.asarray((1.0 - one @ other) / 2.0, dtype=np.float32)


def fingerprint(structure: Structure, settings: FingerprintSettings | None = None) -> Fingerprint:
    """Return the fingerprint of a structure."""
    settings = settings or FingerprintSettings()
    elements, kinds = np.unique(structure.symbols, return_inverse=True)
    counts = np.bincount(kinds)
    low, high = np.triu_indices(len(elements))
    product = (counts[low] * counts[high]).astype(float)
    volume = structure.volume
    # The sums hold every pair of atoms once where the elements differ, and both ways where they are the same.
    values = _smeared(structure, kinds, len(elements), settings)
    values *= (volume / (4 * math.pi * settings.delta) / product)[:, None]
    values -= 1.0
    values[:, 0] = -1.0  # USPEX leaves the first bin out
    weights = np.where(low == high, 1.0, 2.0) * product / len(structure) ** 2
    return Fingerprint(values, weights, volume / len(structure), settings)


def _smeared(structure: Structure, kinds: NDArray[np.intp], species: int, settings: FingerprintSettings) -> Array:
    """Return the sums of 1/R^2 over pairs of atoms, smeared over the bins, (P, B), P the pairs of elements."""
    first, second = np.triu_indices(len(structure))
    low, high = np.minimum(kinds[first], kinds[second]), np.maximum(kinds[first], kinds[second])
    kind = low * species - low * (low + 1) // 2 + high
    shifts = structure.scaled[second] - structure.scaled[first]
    shifts = (shifts - np.round(shifts)) @ structure.cell
    twice = np.where((first != second) & (low == high), 2.0, 1.0)
    images = lattice_vectors(structure.cell, settings.rmax, math.sqrt((shifts**2).sum(axis=1).max()))
    points = settings.bins * _FINE + 1
    sums = np.zeros(species * (species + 1) // 2 * points)
    step = max(1, _CHUNK // len(images))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        square = shifts[part] @ (2.0 * images.T)
        square += (shifts[part] ** 2).sum(axis=1)[:, None]
        square += (images**2).sum(axis=1)
        near = np.flatnonzero((square < settings.rmax**2) & (square > 1e-6))
        square, pair = square.ravel()[near], start + near // len(images)
        place = np.sqrt(square) * (_FINE / settings.delta)
        left = np.minimum(place.astype(np.intp), points - 2)
        weight = twice[pair] / square
        right = weight * (place - left)
        left += kind[pair] * points
        sums += np.bincount(left, weight - right, len(sums))
        sums[1:] += np.bincount(left, right, len(sums))[:-1]
    return np.asarray(sums.reshape(-1, points) @ _kernel(settings), dtype=float)


@lru_cache(maxsize=4)
def _kernel(settings: FingerprintSettings) -> Array:
    """Return what part of a Gaussian at each point of the fine grid falls into each bin, (points, bins)."""
    from scipy.special import erf

    step = settings.delta / _FINE
    # Sharing a distance between two points widens it by step^2/6 on average: taken off here.
    width = math.sqrt(settings.sigma**2 / (2 * math.log(2)) - step**2 / 6)
    points = np.arange(settings.bins * _FINE + 1) * step
    edges = np.arange(settings.bins + 1) * settings.delta
    return np.asarray(0.5 * np.diff(erf((edges[None, :] - points[:, None]) / (math.sqrt(2) * width)), axis=1))
