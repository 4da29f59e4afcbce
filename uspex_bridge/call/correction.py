"""Free energies of ``scha`` corrected to a second model or to labels, and the configurations that this takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import BridgeError, CalculationError, InputError, Interrupted, Rejected
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.parallel import spread
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import Config
from uspex_bridge.call.free_energy import evaluator, interrupting
from uspex_bridge.call.many import close_models, kept_models
from uspex_bridge.call.record_line import reason_of, weights_state
from uspex_bridge.call.thermal import PHONONS, FreeEnergyTask, kept_lines
from uspex_bridge.models.cards import model_name
from uspex_bridge.vibrations.correction import FEWEST, correct
from uspex_bridge.vibrations.modes import Density, Modes
from uspex_bridge.vibrations.state import DAMAGED
from uspex_bridge.vibrations.supercell import Supercell

#: Lines of corrections in the folder of the free energies.
LINES = "corrected.jsonl"
#: Å, differences of cells and positions below which a labelled structure is a configuration.
_SAME = 2e-3


@dataclass(frozen=True, eq=False)
class Drawn:
    """Configurations of a result of ``scha``, the second half of them the opposites of the first.

    Attributes:
        lattice: supercell at the centroids.
        density: the Gaussian that they were drawn from.
        displacements: (M, N, 3), Å.
        energies: of the supercell by the first model, (M,), eV.
    """

    lattice: Supercell
    density: Density
    displacements: Array
    energies: Array

    @classmethod
    def read(cls, path: Path, temperature: float) -> Drawn:
        """Read a file that :func:`uspex_bridge.call.thermal.free_energies` wrote.

        Raises:
            InputError: it is not there or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                lattice = Supercell.of_arrays(file)
                density = Density(Modes.of(file["phi"], lattice.all_masses), temperature)
                return cls(lattice, density, file["displacements"], file["energies"])
        except DAMAGED as error:
            raise InputError(f"{path}: no configurations can be read ({error}); remove it to start again") from None

    def some(self, number: int) -> list[int]:
        """Return the places of the first pairs, ``number`` configurations together, the opposites last."""
        half = len(self.energies) // 2
        first = list(range(min(number // 2, half)))
        return [*first, *(k + half for k in first)]

    def atoms(self, places: Sequence[int]) -> list[Atoms]:
        """Return configurations as ASE atoms."""
        return [self.lattice.atoms(self.displacements[k]) for k in places]


@dataclass(frozen=True)
class Second:
    """What free energies are corrected to.

    Attributes:
        config: settings whose protocol's last model is the second one; None where ``labels`` are.
        labels: structures with E in eV and the level of theory, such as a DFT code's.
        number: configurations that the second model evaluates, of each free energy.
    """

    config: Config | None = None
    labels: tuple[tuple[Structure, float, str], ...] = ()
    number: int = 20

    @property
    def calculator(self) -> str:
        """The second model's name in the settings."""
        assert self.config is not None
        return choose_protocol(self.config)[0].stage[-1].calculator

    @cached_property
    def key(self) -> str:
        """What tells whether it is still the same."""
        said: list[Any] = [(e, level, s.cell.tobytes(), s.scaled.tobytes()) for s, e, level in self.labels]
        if self.config is not None:
            said = [weights_state(self.calculator, self.config), self.number]
        return hashlib.sha256(repr(said).encode()).hexdigest()


def corrections(lines: Iterable[Mapping[str, Any]], second: Second, task: FreeEnergyTask) -> Iterator[dict[str, Any]]:
    """Correct free energies; what the folder has already is kept, but for failures.

    Args:
        lines: of ``scha``, with a free energy.
        second: to what.
        task: that they were computed by.

    Yields:
        a line per free energy, method ``corrected``.

    Raises:
        ConfigError, ModelError: the second model cannot be used.
        OutputError: the folder cannot be written.
    """
    path = task.out / LINES
    before = kept_lines(path)
    known: list[dict[str, Any]] = []

    def jobs() -> Iterator[_Job]:
        for line in lines:
            job = _Job(dict(line), second, task.out)
            found = before.get((job.key, line["temperature"]))
            if found is None or found.get("status") == "failed":
                yield job
            else:
                known.append(found | {"name": line["name"]})

    try:
        for job, found in spread(_compute, jobs(), task.workers, task.scheduler):
            line = job.failed(found) if isinstance(found, BridgeError) else found
            jsonl.append(path, line)
            yield line
        yield from known
    finally:
        if not task.keep_models:
            close_models()


@dataclass(frozen=True)
class _Job:
    line: dict[str, Any]
    second: Second
    out: Path

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(f"{self.line['key']} {self.second.key}".encode()).hexdigest()[:16]

    @property
    def base(self) -> dict[str, Any]:
        """What its line says whatever comes of it."""
        kept = ("name", "temperature", "pressure_gpa", "formula", "natoms")
        return {"key": self.key, "method": "corrected"} | {name: self.line[name] for name in kept}

    def failed(self, error: BridgeError) -> dict[str, Any]:
        """Return the line of a correction that cannot be had."""
        return self.base | reason_of(error) | {"flags": []}


def _compute(job: _Job) -> dict[str, Any]:
    """Correct one free energy, in whichever process."""
    try:
        return _corrected(job)
    except (Rejected, CalculationError, InputError, Interrupted) as error:
        return job.failed(error)


def _corrected(job: _Job) -> dict[str, Any]:
    drawn = Drawn.read(job.out / PHONONS / f"{job.line['key']}.npz", job.line["temperature"])
    if job.second.config is None:
        places, energies, level = _labelled(drawn, job.second.labels)
    else:
        places = drawn.some(job.second.number)
        energies, level = _evaluated(drawn.atoms(places), job.second.config, job.second.calculator)
    lattice = drawn.lattice
    half, sound = len(places) // 2, np.isfinite(energies)
    opposite = len(drawn.energies) // 2
    pairs = bool(sound.all()) and places[half:] == [k + opposite for k in places[:half]] and len(places) % 2 == 0
    difference = (energies - drawn.energies[places])[sound]
    found = correct(difference, drawn.density, len(lattice), lattice.cells, pairs=pairs)
    first = job.line
    return job.base | {
        "status": first["status"],
        "reason": f"{found.configs} configurations, {found.ess:.1f} of them count",
        "flags": list(first["flags"]),
        "level": level,
        "first_level": first["level"],
        "g": first["g"] + found.mean,
        "g_error": float(np.hypot(first["g_error"], found.error)),
        "f": first["f"] + found.mean,
        "second_order": found.second_order,
        "volume": first["volume"],
        "supercell": first["supercell"],
        "evaluations": found.configs,
    }


def _evaluated(structures: Sequence[Atoms], config: Config, calculator: str) -> tuple[Array, str]:
    """Return what the second model says, eV, NaN where it fails, and its name."""
    with kept_models(config) as models:
        model, halter = models(calculator), Halter()
        halter.start(config.time_limit)
        try:
            model.check_elements(structures[0].get_chemical_symbols())
            with interrupting("the second model had evaluated the configurations"):
                answers = evaluator(model, halter)(structures)
        finally:
            halter.close()
        level = model_name(model.identity)
    values = [np.nan if isinstance(answer, CalculationError) else float(answer["energy"]) for answer in answers]
    return np.array(values), level


def _labelled(drawn: Drawn, labels: Sequence[tuple[Structure, float, str]]) -> tuple[list[int], Array, str]:
    """Return which configurations have labels, their energies, eV, and the level of theory.

    Raises:
        Rejected: too few have one.
        InputError: they are of several levels.
    """
    found: dict[int, tuple[float, str]] = {}
    order = np.argsort(drawn.lattice.symbols, kind="stable")
    symbols = [drawn.lattice.symbols[k] for k in order]
    cell = drawn.lattice.cell
    inverse = np.linalg.inv(cell)
    sites = (drawn.lattice.sites[None] + drawn.displacements)[:, order]
    for structure, energy, level in labels:
        own = np.argsort(structure.symbols, kind="stable")
        if [structure.symbols[k] for k in own] != symbols or np.abs(structure.cell - cell).max() > _SAME:
            continue
        gaps = (structure.scaled[own] @ structure.cell - sites) @ inverse
        apart = np.linalg.norm((gaps - np.rint(gaps)) @ cell, axis=2).max(axis=1)
        if apart.min() < _SAME:
            found[int(apart.argmin())] = (energy, level)
    levels = {level for _, level in found.values()}
    if len(levels) > 1:
        raise InputError(f"labels of one free energy are of several levels of theory: {', '.join(sorted(levels))}")
    if len(found) < FEWEST:
        raise Rejected("second-model", f"{len(found)} of its configurations have labels; at least {FEWEST} are needed")
    places = sorted(found)
    return places, np.array([found[k][0] for k in places]), levels.pop() or "labels"


def harvest(lines: Iterable[Mapping[str, Any]], out: Path, number: int) -> list[Atoms]:
    """Return configurations to label: the first pairs of each free energy, a fair sample for :func:`corrections`.

    Args:
        lines: of ``scha``, with a free energy.
        out: folder of the free energies.
        number: of configurations, of each.

    Raises:
        InputError: a file of configurations cannot be read.
    """
    found = []
    for line in lines:
        drawn = Drawn.read(out / PHONONS / f"{line['key']}.npz", line["temperature"])
        name = line["name"].rpartition(":")[2]
        for count, atoms in enumerate(drawn.atoms(drawn.some(number))):
            atoms.info["name"] = f"{name}-{line['temperature']:g}K-{line['pressure_gpa']:g}GPa-{count}"
            found.append(atoms)
    return found
