"""Random candidates as USPEX makes them: seeded, reproducible one by one, without pyxtal or spglib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.geometry import minkowski_reduce
from ase.spacegroup import Spacegroup
from emulators.records import Candidate
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Minimum distance of each pair of elements, Å (USPEX's IonDistances).
Distances = Mapping[frozenset[str], float]

ELEMENTS = ("Ca", "Fe", "Ni")
#: Å³ per atom at 0, 50, 100 and 150 GPa: about those of the elements (equations of state), of H and O those in
#: compounds; for starting volumes only.
VOLUMES = {
    "Ca": (43.0, 18.5, 13.8, 11.5),
    "Fe": (11.8, 9.3, 8.3, 7.7),
    "Ni": (10.9, 9.1, 8.2, 7.6),
    "H": (6.0, 3.0, 2.4, 2.0),
    "La": (37.0, 19.0, 15.3, 13.2),
    "Mg": (23.0, 12.0, 9.7, 8.5),
    "O": (12.0, 7.5, 6.3, 5.6),
    "Si": (20.0, 11.0, 9.4, 8.5),
}
_GRID = (0.0, 50.0, 100.0, 150.0)
_SHIFTS = np.array(list(product((-1, 0, 1), repeat=3)), dtype=float)
#: How often a candidate is an element, a binary, a ternary.
_KINDS = (0.15, 0.35, 0.5)
BAD_KINDS = ("overlap", "dense", "flat", "inflated")


def atomic_volume(symbol: str, pressure: float) -> float:
    """Return the volume of an atom in Å³ at ``pressure`` GPa."""
    return float(np.interp(pressure, _GRID, VOLUMES[symbol]))


def ion_distances(
    pressure: float, scale: float = 0.6, symbols: tuple[str, ...] = ELEMENTS
) -> dict[frozenset[str], float]:
    """Return minimum distances: ``scale`` times the mean diameter of the atoms' volumes at ``pressure`` GPa."""
    diameter = {s: 2.0 * (3.0 * atomic_volume(s, pressure) / (4.0 * np.pi)) ** (1 / 3) for s in symbols}
    return {frozenset((a, b)): scale * 0.5 * (diameter[a] + diameter[b]) for a in symbols for b in symbols}


def shortest(cell: Array, one: Array, others: Array) -> Array:
    """Return the distance in Å from a fractional point (3,) to each of ``others`` (N, 3) over the 27 nearest images."""
    delta = others - one
    delta -= np.round(delta)
    vectors = (delta[:, None, :] + _SHIFTS[None, :, :]) @ cell
    return np.asarray(np.sqrt((vectors**2).sum(axis=2)).min(axis=1))


def far_enough(atoms: Atoms, distances: Distances) -> bool:
    """Say whether all pairs keep their minimum distance (a pair without one may be any distance apart)."""
    symbols, scaled, cell = atoms.get_chemical_symbols(), atoms.get_scaled_positions(wrap=False), atoms.cell.array
    for i in range(len(atoms) - 1):
        limits = np.array([distances.get(frozenset((symbols[i], other)), 0.0) for other in symbols[i + 1 :]])
        if np.any(shortest(cell, scaled[i], scaled[i + 1 :]) < limits):
            return False
    return True


def reduced(atoms: Atoms) -> Atoms:
    """Return the same crystal in its shortest cell vectors, atoms wrapped into it."""
    short, _ = minkowski_reduce(atoms.cell.array, pbc=True)
    if np.linalg.det(short) < 0:
        short = -short
    scaled = atoms.positions @ np.linalg.inv(short)
    return Atoms(atoms.get_chemical_symbols(), scaled_positions=scaled % 1.0, cell=short, pbc=True)


def candidates(
    count: int, pressure: float = 50.0, *, seed: int = 0, atoms: tuple[int, int] = (2, 24), bad: int = 0
) -> Iterator[Candidate]:
    """Yield ``count`` candidates for ``pressure`` GPa, the even ones in random P1 cells, the odd ones symmetric.

    Number k is the same whatever ``count`` is. ``atoms`` bounds the number of atoms. With ``bad`` = n every n-th
    candidate is spoiled in one of the ways of BAD_KINDS.
    """
    for index in range(1, count + 1):
        yield candidate(index, pressure, seed=seed, atoms=atoms, spoil=bad > 0 and index % bad == 0)


def candidate(
    index: int,
    pressure: float = 50.0,
    *,
    seed: int = 0,
    atoms: tuple[int, int] = (2, 24),
    spoil: bool | str = False,
    species: tuple[str, ...] = ELEMENTS,
) -> Candidate:
    """Return candidate number ``index``; ``spoil`` may name one of BAD_KINDS."""
    rng = np.random.default_rng([seed, index, round(pressure * 1000)])
    distances = ion_distances(pressure, symbols=species)
    if index % 2:
        made, origin = _symmetric(rng, pressure, distances, atoms, species)
    else:
        made, origin = _random_p1(rng, pressure, distances, atoms, species), "P1"
    if spoil:
        kind = spoil if isinstance(spoil, str) else BAD_KINDS[int(rng.integers(len(BAD_KINDS)))]
        return Candidate(index, spoiled(made, kind), f"{origin}, {kind}")
    return Candidate(index, made, origin)


def spoiled(atoms: Atoms, kind: str) -> Atoms:
    """Return a copy with two atoms 0.3 Å apart, a third of the volume, an axis of 0.7 Å or 20 times the volume."""
    bad = atoms.copy()
    if kind == "overlap":
        bad.positions[-1] = bad.positions[0] + (0.3, 0.0, 0.0)
    elif kind == "dense":
        bad.set_cell(bad.cell.array / 3.0 ** (1 / 3), scale_atoms=True)
    elif kind == "flat":
        cell = bad.cell.array.copy()
        cell[2] *= 0.7 / np.linalg.norm(cell[2])
        bad.set_cell(cell, scale_atoms=True)
    elif kind == "inflated":
        bad.set_cell(bad.cell.array * 20.0 ** (1 / 3), scale_atoms=True)
    else:
        raise ValueError(f"{kind!r} is not one of {BAD_KINDS}")
    return bad


def _composition(rng: np.random.Generator, total: int, species: tuple[str, ...]) -> list[str]:
    """Return the elements of ``total`` atoms: of one, two or three kinds, each at least once."""
    kinds = min(total, len(species), int(rng.choice([1, 2, 3], p=_KINDS)))
    chosen = [str(s) for s in rng.choice(species, size=kinds, replace=False)]
    rest = [str(s) for s in rng.choice(chosen, size=total - kinds)]
    return sorted(chosen + rest, key=species.index)


def _volume(rng: np.random.Generator, symbols: list[str], pressure: float) -> float:
    return float(sum(atomic_volume(s, pressure) for s in symbols) * rng.uniform(0.95, 1.30))


def _random_p1(
    rng: np.random.Generator, pressure: float, distances: Distances, limits: tuple[int, int], species: tuple[str, ...]
) -> Atoms:
    """Fill a random cell atom by atom, each far enough from those before."""
    symbols = _composition(rng, int(rng.integers(limits[0], limits[1] + 1)), species)
    while True:
        cell = _cell(rng, "triclinic", _volume(rng, symbols, pressure))
        placed: list[Array] = []
        for symbol in symbols:
            for _ in range(300):
                point = rng.random(3)
                if _fits(cell, point, symbol, placed, symbols, distances):
                    placed.append(point)
                    break
            else:
                break
        if len(placed) == len(symbols):
            return Atoms(symbols, scaled_positions=placed, cell=cell, pbc=True)


def _fits(
    cell: Array, point: Array, symbol: str, placed: list[Array], symbols: list[str], distances: Distances
) -> bool:
    if not placed:
        return True
    limits = np.array([distances[frozenset((symbol, other))] for other in symbols[: len(placed)]])
    return bool(np.all(shortest(cell, point, np.array(placed)) >= limits))


def _system(number: int) -> str:
    """Return the crystal system of a space group; trigonal groups are taken on hexagonal axes."""
    last = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal", 194: "hexagonal", 230: "cubic"}
    return next(name for end, name in last.items() if number <= end)


def _cell(rng: np.random.Generator, system: str, volume: float) -> Array:
    """Return a random cell (rows, Å) of ``volume`` Å³ that is neither needle nor sheet."""
    while True:
        a, b, c = np.exp(rng.uniform(-0.4, 0.4, size=3))
        alpha, beta, gamma = rng.uniform(60.0, 120.0, size=3)
        lengths, angles = {
            "triclinic": ((a, b, c), (alpha, beta, gamma)),
            "monoclinic": ((a, b, c), (90.0, beta, 90.0)),
            "orthorhombic": ((a, b, c), (90.0, 90.0, 90.0)),
            "tetragonal": ((a, a, c), (90.0, 90.0, 90.0)),
            "hexagonal": ((a, a, c), (90.0, 90.0, 120.0)),
            "cubic": ((a, a, a), (90.0, 90.0, 90.0)),
        }[system]
        flatness = _box_factor(angles)
        if flatness > 0.45:
            cell = Cell.fromcellpar([*lengths, *angles]).array
            return np.asarray(cell * (volume / abs(np.linalg.det(cell))) ** (1 / 3))


def _box_factor(angles: tuple[float, float, float]) -> float:
    """Return V / (abc), 0 where no cell has these angles."""
    x, y, z = np.cos(np.radians(angles))
    return float(np.sqrt(max(0.0, 1.0 + 2.0 * x * y * z - x * x - y * y - z * z)))


def _symmetric(
    rng: np.random.Generator, pressure: float, distances: Distances, limits: tuple[int, int], species: tuple[str, ...]
) -> tuple[Atoms, str]:
    """Fill the primitive cell of a random space group with whole orbits on general and special positions."""
    while True:
        number = int(rng.integers(2, 231))
        rotations, translations = Spacegroup(number).get_op()
        basis = _primitive(rotations, translations)
        target = int(rng.integers(limits[0], limits[1] + 1))
        kinds = rng.permutation(species)[: int(rng.choice([1, 2, 3], p=_KINDS))]
        symbols: list[str] = []
        points: list[Array] = []
        orbits = 0
        for _ in range(40):
            orbit = _orbit(rng, rotations, translations)
            if orbit is None:
                continue
            orbit = _distinct(orbit @ np.linalg.inv(basis))
            if len(symbols) + len(orbit) <= limits[1]:
                symbols += [str(kinds[orbits]) if orbits < len(kinds) else str(rng.choice(kinds))] * len(orbit)
                points += list(orbit)
                orbits += 1
            if len(symbols) >= target:
                break
        if len(symbols) < limits[0] or orbits < len(kinds):
            continue
        order = sorted(range(len(symbols)), key=lambda i: species.index(symbols[i]))
        for _ in range(20):
            cell = basis @ _cell(rng, _system(number), _volume(rng, symbols, pressure) / abs(np.linalg.det(basis)))
            atoms = Atoms([symbols[i] for i in order], scaled_positions=np.array(points)[order], cell=cell, pbc=True)
            if far_enough(atoms, distances):
                return atoms, f"space group {number}"


def _primitive(rotations: NDArray[np.int_], translations: Array) -> Array:
    """Return short vectors of a primitive cell as rows in terms of the conventional one."""
    centring = translations[[np.array_equal(r, np.eye(3)) for r in rotations]]
    volume = 1.0 / len(centring)
    points = np.array([c + shift for c in centring for shift in _SHIFTS])
    points = points[np.argsort((points**2).sum(axis=1), kind="stable")][1:27]
    for triple in combinations(points, 3):
        if abs(np.linalg.det(triple) - volume) < 1e-6:
            return np.array(triple)
    raise AssertionError("a lattice has a primitive cell")


def _distinct(points: Array) -> Array:
    """Return the points (N, 3) that differ by more than 1e-6 modulo lattice vectors, wrapped, in order."""
    keys = np.round(points * 1e6).astype(int) % 1_000_000
    _, first = np.unique(keys, axis=0, return_index=True)
    return np.asarray(points[np.sort(first)] % 1.0)


def _orbit(rng: np.random.Generator, rotations: NDArray[np.int_], translations: Array) -> Array | None:
    """Return all images (M, 3) of a random point, often on a special position; None if they nearly meet.

    A special position is the mean of a random point's images under the powers of one operation, where that
    operation returns to the identity without a translation (no screw axis, no glide plane).
    """
    point = rng.random(3)
    for _ in range(int(rng.integers(0, 4))):
        pick = int(rng.integers(len(rotations)))
        fixed = _fixed_point(point, rotations[pick], translations[pick] + rng.integers(-1, 2, size=3))
        if fixed is not None:
            point = fixed
    images = _distinct(rotations @ point + translations)
    apart = images[:, None, :] - images[None, :, :]
    apart = np.abs(apart - np.round(apart)).max(axis=2)
    return None if apart[np.triu_indices(len(images), 1)].min(initial=1.0) < 0.02 else images


def _fixed_point(point: Array, rotation: NDArray[np.int_], translation: Array) -> Array | None:
    images = [point]
    while len(images) <= 6:
        moved = rotation @ images[-1] + translation
        if np.allclose(moved, point, atol=1e-9):
            return np.asarray(np.mean(images, axis=0))
        images.append(moved)
    return None
