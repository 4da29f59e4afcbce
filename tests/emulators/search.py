"""A small evolutionary search over compositions, relaxed through one of the emulated USPEX lines.

It is no USPEX: selection, operators and stopping are the plainest that work. What is as in USPEX is how structures
go to the executable and come back, and what the results folder looks like.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.io import read
from emulators.candidates import Candidate, candidate
from emulators.operators import Limits, vary
from emulators.records import Report
from numpy.typing import NDArray

#: Part of the unique structures, best first, that parents are taken from; and the most of them.
BEST = 0.6
#: Structures of one composition that differ by less in eV/atom and in volume count as one.
SAME_ENTHALPY, SAME_VOLUME = 0.003, 0.01


class Line(Protocol):
    """What relaxes a generation: one of the emulated lines."""

    def run(self, candidates: Iterable[Candidate]) -> list[Report]:
        """Relax structures, in any order, and report on each in theirs."""


@dataclass
class Individual:
    """One structure of the search.

    Attributes:
        number: from 1, in the order in which they were made.
        generation: from 1; parents: numbers.
        start: as it was made; atoms: as it was relaxed, None where it was dropped.
        enthalpies: after each step, eV per cell; reason: why it was dropped.
    """

    number: int
    generation: int
    origin: str
    start: Atoms
    parents: tuple[int, ...] = ()
    atoms: Atoms | None = None
    enthalpies: tuple[float, ...] = ()
    reason: str = ""

    @property
    def relaxed(self) -> Atoms:
        """The relaxed structure of one that was not dropped."""
        assert self.atoms is not None
        return self.atoms

    @property
    def enthalpy(self) -> float:
        """H after the last step, eV/atom."""
        return self.enthalpies[-1] / len(self.start)


@dataclass
class Search:
    """A search and its state, which lies in ``file``: one line of JSON per finished structure.

    Attributes:
        limits: elements, sizes, pressure.
        population: structures to relax per generation.
        seed: decides everything that is random.
    """

    file: Path
    limits: Limits
    population: int
    seed: int
    individuals: list[Individual] = field(default_factory=list)

    def load(self) -> None:
        """Read what is done; a generation that was interrupted is made again.

        Raises:
            ValueError: the file is that of another search.
        """
        if not self.file.exists():
            return
        head, *lines = self.file.read_text().splitlines()
        if json.loads(head) != self._head():
            raise ValueError(f"{self.file} belongs to a search with other settings: {head}")
        self.individuals = [_individual(json.loads(line)) for line in lines]

    @property
    def generation(self) -> int:
        """The last generation that is done, 0 at the beginning."""
        return max((one.generation for one in self.individuals), default=0)

    @property
    def good(self) -> list[Individual]:
        """Those that were not dropped."""
        return [one for one in self.individuals if one.atoms is not None]

    def step(self, line: Line, seeds: Sequence[Atoms] = ()) -> list[Individual]:
        """Make a generation (``seeds`` on top of it), relax it and write it down."""
        made = [*self._seeds(seeds), *self._generation(len(seeds))]
        reports = line.run([Candidate(one.number, one.start, one.origin) for one in made])
        for one, report in zip(made, reports, strict=True):
            if report.done:
                one.atoms, one.enthalpies = report.final, tuple(report.enthalpies)
            else:
                one.reason = report.reason
        self.individuals += made
        self._write()
        self.load()  # what goes on from here is what would go on after an interruption
        return self.individuals[-len(made) :]

    def _generation(self, offset: int) -> list[Individual]:
        generation, first = self.generation + 1, len(self.individuals) + 1 + offset
        numbers = range(first, first + self.population)
        if generation == 1:
            return [*self._elements(first), *(self._random(n, 1) for n in numbers[len(self.limits.species) :])]
        pool = self.parents()
        structures = [one.relaxed for one in pool]
        made = []
        for number in numbers:
            rng = np.random.default_rng([self.seed, number])
            child = vary(rng, structures, self.limits)
            if child is None:
                made.append(self._random(number, generation))
            else:
                atoms, origin, places = child
                made.append(Individual(number, generation, origin, atoms, tuple(pool[k].number for k in places)))
        return made

    def _random(self, number: int, generation: int, shift: int = 0) -> Individual:
        limits = self.limits
        made = candidate(number + shift, limits.pressure, seed=self.seed, atoms=limits.atoms, species=limits.species)
        return Individual(number, generation, "Random", made.atoms)

    def _elements(self, first: int) -> list[Individual]:
        """Return a random structure of each element, so that the first generation has a hull."""
        made = []
        for number, symbol in enumerate(self.limits.species, first):
            tries = (self._random(number, 1, 10_000 * k) for k in range(1, 10_000))
            made.append(next(one for one in tries if set(one.start.symbols) == {symbol}))
        return made

    def _seeds(self, seeds: Sequence[Atoms]) -> list[Individual]:
        first, generation = len(self.individuals) + 1, self.generation + 1
        return [Individual(first + k, generation, "Seeds", atoms) for k, atoms in enumerate(seeds)]

    def parents(self) -> list[Individual]:
        """Return the structures that children come from."""
        unique = self.unique()
        return unique[: max(2, min(self.population, round(BEST * len(unique))))]

    def unique(self) -> list[Individual]:
        """Return the different structures, nearest the hull first."""
        good = self.good
        above = above_hull(good, self.limits.species)
        unique: list[Individual] = []
        for k in sorted(range(len(good)), key=lambda k: (above[k], good[k].number)):
            if not any(alike(good[k], other) for other in unique):
                unique.append(good[k])
        return unique

    def _head(self) -> dict[str, Any]:
        limits = asdict(self.limits)
        head = {"seed": self.seed, "population": self.population, **limits}
        return dict(json.loads(json.dumps(head)))

    def _write(self) -> None:
        rows = [self._head(), *(_row(one) for one in self.individuals)]
        part = self.file.with_suffix(".part")
        part.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
        os.replace(part, self.file)


def above_hull(individuals: Sequence[Individual], species: Sequence[str]) -> NDArray[np.float64]:
    """Return each structure's distance to the convex hull of all of them, eV/atom; infinite where there is none.

    The hull at a composition is the cheapest mixture of the structures: a linear program for each, which
    shares nothing with the programs that read the results.
    """
    from scipy.optimize import linprog

    parts = [tuple(one.start.symbols.count(s) / len(one.start) for s in species) for one in individuals]
    lowest: dict[tuple[float, ...], float] = {}
    for part, one in zip(parts, individuals, strict=True):
        lowest[part] = min(one.enthalpy, lowest.get(part, np.inf))
    columns, costs = np.array(list(lowest)).T, np.array(list(lowest.values()))
    cheapest = {part: linprog(costs, A_eq=columns, b_eq=part, method="highs") for part in lowest}
    hull = np.array([cheapest[part].fun if cheapest[part].success else -np.inf for part in parts])
    return np.asarray(np.maximum([one.enthalpy for one in individuals] - hull, 0.0))


def alike(one: Individual, other: Individual) -> bool:
    """Say whether two structures are taken for the same: composition, enthalpy and volume."""
    if one.relaxed.symbols.formula.reduce()[0].count() != other.relaxed.symbols.formula.reduce()[0].count():
        return False
    volumes = [each.relaxed.get_volume() / len(each.relaxed) for each in (one, other)]
    near = abs(one.enthalpy - other.enthalpy) < SAME_ENTHALPY
    return near and abs(volumes[0] / volumes[1] - 1.0) < SAME_VOLUME


def take_seeds(folder: Path, generation: int) -> list[Atoms]:
    """Read ``Seeds/POSCARS`` (or ``POSCARS_<generation>``) of a search and put it away under its generation's name."""
    plain, numbered = folder / "Seeds" / "POSCARS", folder / "Seeds" / f"POSCARS_{generation}"
    if plain.exists():
        with numbered.open("a") as stream:
            stream.write(plain.read_text())
        plain.unlink()
    if not numbered.exists():
        return []
    lines = numbered.read_text().splitlines(keepends=True)
    seeds, start = [], 0
    while start < len(lines):
        count = 8 + sum(int(word) for word in lines[start + 6].split())
        block = numbered.with_suffix(".one")
        block.write_text("".join(lines[start : start + count]))
        atoms = read(block, format="vasp")
        assert isinstance(atoms, Atoms)
        seeds.append(atoms)
        block.unlink()
        start += count
    return seeds


def run(
    search: Search,
    generations: int,
    make_line: Callable[[int], Line],
    folder: Path,
    tell: Callable[[list[Individual]], None],
) -> None:
    """Go on with a search until it has that many generations; ``tell`` hears of each, and once of what was there."""
    search.load()
    if search.individuals:
        tell([])
    while search.generation < generations:
        number = search.generation + 1
        tell(search.step(make_line(number), take_seeds(folder, number)))


def _row(one: Individual) -> dict[str, Any]:
    return {
        "number": one.number,
        "generation": one.generation,
        "origin": one.origin,
        "parents": one.parents,
        "start": _plain(one.start),
        "atoms": None if one.atoms is None else _plain(one.atoms),
        "enthalpies": one.enthalpies,
        "reason": one.reason,
    }


def _individual(row: dict[str, Any]) -> Individual:
    row |= {key: tuple(row[key]) for key in ("parents", "enthalpies")}
    row |= {key: None if row[key] is None else _atoms(row[key]) for key in ("start", "atoms")}
    return Individual(**row)


def _plain(atoms: Atoms) -> dict[str, Any]:
    return {
        "symbols": atoms.get_chemical_symbols(),
        "cell": atoms.cell.array.round(8).tolist(),
        "scaled": atoms.get_scaled_positions().round(8).tolist(),
    }


def _atoms(plain: dict[str, Any]) -> Atoms:
    return Atoms(plain["symbols"], scaled_positions=plain["scaled"], cell=plain["cell"], pbc=True)
