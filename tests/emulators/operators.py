"""Variation operators of an evolutionary search with variable composition, each under the name USPEX has for its own.

Written for these emulators from what the operators are known to do; USPEX's are other code with more to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.neighborlist import neighbor_list
from emulators.candidates import Distances, atomic_volume, far_enough, ion_distances, reduced
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Tries of one operator before the choice is made again.
_TRIES = 20


@dataclass(frozen=True)
class Limits:
    """What a child has to keep: elements in order, fewest and most atoms, GPa that the volumes are meant for."""

    species: tuple[str, ...]
    atoms: tuple[int, int]
    pressure: float

    @property
    def distances(self) -> Distances:
        """Minimum distance of each pair of elements, Å."""
        return ion_distances(self.pressure, symbols=self.species)

    def volume(self, symbols: Sequence[str]) -> float:
        """Return the volume in Å³ that atoms take in the elements at this pressure."""
        return sum(atomic_volume(symbol, self.pressure) for symbol in symbols)

    def accept(self, atoms: Atoms) -> bool:
        """Say whether a child may be relaxed."""
        return self.atoms[0] <= len(atoms) <= self.atoms[1] and far_enough(atoms, self.distances)


def heredity(rng: np.random.Generator, parents: Sequence[Atoms], limits: Limits) -> Atoms | None:
    """Join a slab of one parent to the other's complementary slab, in a cell between theirs."""
    one, other = (_turned(rng, reduced(parent)) for parent in parents)
    cut, weight = rng.uniform(0.25, 0.75), rng.uniform()
    first, second = one.get_scaled_positions(), other.get_scaled_positions()
    keep, take = first[:, 0] < cut, second[:, 0] >= cut
    symbols = [*np.array(one.get_chemical_symbols())[keep], *np.array(other.get_chemical_symbols())[take]]
    if not symbols:
        return None
    shape = weight * _upright(one) + (1.0 - weight) * _upright(other)
    ratio = np.mean([parent.get_volume() / limits.volume(parent.get_chemical_symbols()) for parent in parents])
    return _scaled(symbols, np.vstack([first[keep], second[take]]), shape, float(ratio) * limits.volume(symbols))


def permute(rng: np.random.Generator, parents: Sequence[Atoms], limits: Limits) -> Atoms | None:
    """Swap atoms of different elements, one pair or several."""
    child = parents[0].copy()
    for _ in range(int(rng.integers(1, 4))):
        symbols = np.array(child.get_chemical_symbols())
        first = int(rng.integers(len(symbols)))
        others = np.flatnonzero(symbols != symbols[first])
        if not len(others):
            return None
        second = int(rng.choice(others))
        symbols[[first, second]] = symbols[[second, first]]
        child.set_chemical_symbols(symbols.tolist())
    return child


def transmute(rng: np.random.Generator, parents: Sequence[Atoms], limits: Limits) -> Atoms | None:
    """Turn some atoms into another element; the volume follows."""
    symbols = parents[0].get_chemical_symbols()
    if len(limits.species) == 1:
        return None
    before = limits.volume(symbols)
    count = int(rng.integers(1, max(2, len(symbols) // 2 + 1)))
    for site in rng.choice(len(symbols), size=count, replace=False):
        symbols[site] = str(rng.choice([s for s in limits.species if s != symbols[site]]))
    volume = parents[0].get_volume() * limits.volume(symbols) / before
    return _scaled(symbols, parents[0].get_scaled_positions(), parents[0].cell.array, volume)


def mutate_lattice(rng: np.random.Generator, parents: Sequence[Atoms], limits: Limits) -> Atoms | None:
    """Strain the cell at random (normal, 0.25), its volume kept."""
    strain = rng.normal(scale=0.25, size=(3, 3))
    child = parents[0].copy()
    shape = child.cell.array @ (np.eye(3) + (strain + strain.T) / 2.0)
    return _scaled(child.get_chemical_symbols(), child.get_scaled_positions(), shape, child.get_volume())


def mutate_softly(rng: np.random.Generator, parents: Sequence[Atoms], limits: Limits) -> Atoms | None:
    """Move the atoms along one of the softest modes of a spring model, as far as the distances allow."""
    parent = parents[0]
    values, modes = np.linalg.eigh(spring_matrix(parent, limits))
    soft = np.flatnonzero(values > 1e-6 * max(values.max(), 1e-12))
    if not len(soft):
        return None
    mode = modes[:, soft[min(int(rng.geometric(0.4)) - 1, len(soft) - 1)]].reshape(-1, 3)
    mode *= rng.choice([-1.0, 1.0]) / np.linalg.norm(mode, axis=1).max()
    for amplitude in np.linspace(1.2, 0.4, 5):
        child = parent.copy()
        child.positions += amplitude * mode
        if limits.accept(child):
            return child
    return None


def spring_matrix(atoms: Atoms, limits: Limits) -> Array:
    """Return the mass-weighted dynamical matrix (3N, 3N) of springs between neighbours that weaken with distance."""
    radius = {s: (3.0 * atomic_volume(s, limits.pressure) / (4.0 * np.pi)) ** (1 / 3) for s in limits.species}
    radii = np.array([radius[s] for s in atoms.get_chemical_symbols()])
    i, j, distance, vector = neighbor_list("ijdD", atoms, 1.6 * radii)
    strength = np.exp(-(distance - radii[i] - radii[j]) / 0.37)
    unit = vector / distance[:, None]
    blocks = strength[:, None, None] * unit[:, :, None] * unit[:, None, :]
    matrix = np.zeros((len(atoms), len(atoms), 3, 3))
    np.add.at(matrix, (i, i), blocks)
    np.add.at(matrix, (i, j), -blocks)
    masses = atoms.get_masses()
    matrix /= np.sqrt(masses[:, None] * masses[None, :])[:, :, None, None]
    return np.asarray(matrix.transpose(0, 2, 1, 3).reshape(3 * len(atoms), 3 * len(atoms)))


Operator = Callable[[np.random.Generator, Sequence[Atoms], Limits], Atoms | None]
#: Name in the results folder -> operator, number of parents, how often it is chosen. The rest is made at random.
OPERATORS: dict[str, tuple[Operator, int, float]] = {
    "Heredity": (heredity, 2, 0.35),
    "softmutate": (mutate_softly, 1, 0.15),
    "TransMutate": (transmute, 1, 0.15),
    "Permutate": (permute, 1, 0.08),
    "LatMutate": (mutate_lattice, 1, 0.07),
}


def vary(rng: np.random.Generator, pool: Sequence[Atoms], limits: Limits) -> tuple[Atoms, str, tuple[int, ...]] | None:
    """Return a child, the operator's name and the places of its parents in ``pool`` (the best first).

    None stands for a structure to be made at random: as often as the operators leave it, or where they fail.
    """
    names = [*OPERATORS, "Random"]
    shares = [share for _, _, share in OPERATORS.values()]
    name = str(rng.choice(names, p=[*shares, 1.0 - sum(shares)]))
    if name == "Random":
        return None
    operator, count, _ = OPERATORS[name]
    chances = np.arange(len(pool), 0, -1, dtype=float)
    for _ in range(_TRIES if len(pool) >= count else 0):
        places = rng.choice(len(pool), size=count, replace=False, p=chances / chances.sum())
        child = operator(rng, [pool[k] for k in places], limits)
        if child is not None and limits.accept(child):
            return child, name, tuple(int(k) for k in places)
    return None


def _turned(rng: np.random.Generator, atoms: Atoms) -> Atoms:
    """Return the same crystal with its axes in another order and another origin."""
    order = rng.permutation(3)
    scaled = (atoms.get_scaled_positions()[:, order] + rng.random(3)) % 1.0
    return Atoms(atoms.get_chemical_symbols(), scaled_positions=scaled, cell=atoms.cell.array[order], pbc=True)


def _upright(atoms: Atoms) -> Array:
    return np.asarray(Cell.fromcellpar(atoms.cell.cellpar()).array)


def _scaled(symbols: Sequence[str], scaled: Array, shape: Array, volume: float) -> Atoms | None:
    """Return atoms in a cell of that shape and volume; None where the shape has no volume worth the name."""
    now = abs(float(np.linalg.det(shape)))
    lengths = np.linalg.norm(shape, axis=1)
    if now < 0.25 * float(lengths.prod()):
        return None
    return Atoms(list(symbols), scaled_positions=scaled % 1.0, cell=shape * (volume / now) ** (1 / 3), pbc=True)
