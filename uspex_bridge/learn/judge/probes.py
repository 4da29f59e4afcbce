"""Where a potential breaks: holes under compression, atoms that attract when too close, random structures lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.tables import layout
from uspex_bridge.base.words import short_names
from uspex_bridge.call.config import Config
from uspex_bridge.learn.data.predictions import Prediction, find_predictor, predict_all, structure_key
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.relaxation.guards import closest_pair

#: Volumes of a compression curve, of the structure's own; and a fall of the energy that is a hole, eV/atom.
RATIOS, FALL = tuple(np.linspace(1.2, 0.35, 18).round(3).tolist()), 0.005
#: Distances of a dimer in sums of covalent radii; below REPULSIVE it must repel.
DISTANCES, REPULSIVE = tuple(np.linspace(1.2, 0.3, 19).round(3).tolist()), 0.75
#: Structures that are compressed at most, and edge of a dimer's cell, Å.
_COMPRESSED, _BOX = 6, 16.0
#: Random structures: atoms, closest distance in sums of covalent radii, force target eV/Å and most steps per stage.
_ATOMS, _CLOSEST, _FMAX, _STEPS = (2, 8), 0.75, 0.1, 300


@dataclass(frozen=True)
class ProbeCurve:
    """Energies along a path on which atoms come closer.

    Attributes:
        name: of the structure or the pair.
        x: volume over its own, or distance over the sum of covalent radii, falling.
        energy: eV/atom, NaN where the model failed.
        breaks: where the energy falls although atoms are pressed together, None where it never does.
    """

    name: str
    x: tuple[float, ...]
    energy: tuple[float, ...]
    breaks: float | None


@dataclass(frozen=True)
class Probed:
    """How a model did.

    Attributes:
        name: of the model.
        compression: one curve per structure; dimers: one per pair of elements.
        relaxed: pressure, GPa -> how random structures ended: ``converged``, ``unconverged``, or a guard's code.
    """

    name: str
    compression: tuple[ProbeCurve, ...]
    dimers: tuple[ProbeCurve, ...]
    relaxed: Mapping[str, Mapping[str, int]]

    @property
    def survived(self) -> tuple[int, int]:
        """Random structures that gave a result, and all."""
        total: Counter[str] = Counter()
        for counts in self.relaxed.values():
            total.update(counts)
        return total["converged"] + total["unconverged"], total.total()

    @property
    def sound(self) -> bool:
        """Whether there is no hole, and every random structure gave a result."""
        curves = (*self.compression, *self.dimers)
        return all(curve.breaks is None for curve in curves) and self.survived[0] == self.survived[1]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"survived": list(self.survived), "sound": self.sound}


def probe(
    name: str,
    settings: CalculatorSettings,
    frames: Sequence[Atoms],
    config: Config,
    out: Path,
    count: int = 10,
    seed: int = 1,
) -> Probed:
    """Probe a model.

    Args:
        name: of the model.
        settings: its own.
        frames: structures of the kind that it is for: some are compressed, elements, volumes and pressures are theirs.
        config: of the relaxations.
        out: folder that keeps answers and relaxed structures.
        count: random structures per pressure.
        seed: of the random numbers.

    Raises:
        ModelError, ConfigError: the model cannot be loaded.
        OutputError: the folder cannot be written.
    """
    elements = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    paths = {f"V {name}": path for name, path in compressions(frames).items()}
    paths |= {f"d {name}": path for name, path in dimers(elements).items()}
    keys = {name: [structure_key(structure) for structure in path] for name, path in paths.items()}
    everything = {k: s for name, path in paths.items() for k, s in zip(keys[name], path, strict=True)}
    answers = predict_all(find_predictor(name, settings), everything, out / "answers")
    curves = {path: _curve(path, [answers[key] for key in keys[path]], paths[path]) for path in paths}
    return Probed(
        name,
        tuple(curve for path, curve in curves.items() if path.startswith("V ")),
        tuple(curve for path, curve in curves.items() if path.startswith("d ")),
        _relaxations(name, settings, frames, config, out, count, seed) if count else {},
    )


def compressions(frames: Sequence[Atoms]) -> dict[str, list[Structure]]:
    """Return structures pressed together at fixed fractional coordinates, at most one per composition."""
    chosen: dict[str, Atoms] = {}
    for atoms in sorted(frames, key=lambda atoms: atoms.get_potential_energy() / len(atoms)):
        chosen.setdefault(atoms.get_chemical_formula("reduce"), atoms)
    step = max(1, len(chosen) // _COMPRESSED)
    picked = [chosen[formula] for formula in sorted(chosen)][::step][:_COMPRESSED]
    return {atoms.get_chemical_formula("metal"): [_scaled(atoms, ratio) for ratio in RATIOS] for atoms in picked}


def _scaled(atoms: Atoms, ratio: float) -> Structure:
    structure = to_structure(atoms)
    return replace(structure, cell=structure.cell * ratio ** (1 / 3))


def dimers(elements: Sequence[str]) -> dict[str, list[Structure]]:
    """Return every pair of elements brought together in an otherwise empty cell."""
    paths = {}
    for pair in combinations_with_replacement(elements, 2):
        reach = sum(float(covalent_radii[atomic_numbers[symbol]]) for symbol in pair)
        sites = [np.array([[0.0, 0.0, 0.0], [x * reach / _BOX, 0.0, 0.0]]) for x in DISTANCES]
        paths["-".join(pair)] = [Structure(pair, np.eye(3) * _BOX, site) for site in sites]
    return paths


def _curve(name: str, answers: Sequence[Prediction], path: Sequence[Structure]) -> ProbeCurve:
    """Make a curve and find where it breaks: a compressed cell from its minimum on, a dimer below REPULSIVE."""
    kind, _, title = name.partition(" ")
    x = RATIOS if kind == "V" else DISTANCES
    energy = np.array([answer.energy / len(structure) for answer, structure in zip(answers, path, strict=True)])
    start = _minimum(energy) if kind == "V" else next(k for k, value in enumerate(x) if value < REPULSIVE)
    return ProbeCurve(title, x, tuple(energy.tolist()), first_fall(x, energy, start))


def _minimum(energy: Any) -> int:
    """Return where an energy that falls at first begins to rise."""
    rising = np.flatnonzero(np.diff(energy) > 0)
    return int(rising[0]) if len(rising) else len(energy) - 1


def first_fall(x: Sequence[float], energy: Any, start: int) -> float | None:
    """Return the first ``x`` after ``start`` at which the energy falls again, or the model fails; None for none."""
    highest = energy[start]
    for value, now in zip(x[start + 1 :], energy[start + 1 :], strict=True):
        if not now > highest - FALL:
            return float(value)
        highest = max(highest, now)
    return None


def random_structures(frames: Sequence[Atoms], count: int, seed: int) -> list[Structure]:
    """Return random cells of random compositions, about as dense as ``frames``, no two atoms on top of each other."""
    rng = np.random.default_rng(seed)
    elements = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    volumes = [atoms.get_volume() / sum(covalent_radii[atoms.numbers] ** 3) for atoms in frames]
    made: list[Structure] = []
    while len(made) < count:
        symbols = sorted(rng.choice(elements, rng.integers(*_ATOMS, endpoint=True)).tolist())
        spheres = sum(float(covalent_radii[atomic_numbers[symbol]]) ** 3 for symbol in symbols)
        cell = np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3))
        cell *= (float(np.quantile(volumes, 0.7)) * spheres / abs(np.linalg.det(cell))) ** (1 / 3)
        while True:
            atoms = Atoms(symbols, scaled_positions=rng.random((len(symbols), 3)), cell=cell, pbc=True)
            if closest_pair(atoms, _CLOSEST) is None:
                break
            cell *= 1.001  # so that it fits in the end, however dense the given structures are
        made.append(replace(to_structure(atoms), comment=f"random-{len(made) + 1}"))
    return made


def _relaxations(
    name: str, settings: CalculatorSettings, frames: Sequence[Atoms], config: Config, out: Path, count: int, seed: int
) -> dict[str, dict[str, int]]:
    """Relax random structures at each pressure through the bridge's own engine and its guards."""
    from uspex_bridge.call.many import RelaxTask, relax_all

    config = replace(config, protocol="single", stages=None, calculators={**config.calculators, "model": settings})
    ends: dict[str, dict[str, int]] = {}
    pressures = sorted({float(atoms.info.get("pressure_gpa", 0.0)) for atoms in frames})
    for pressure in pressures:
        part = [atoms for atoms in frames if float(atoms.info.get("pressure_gpa", 0.0)) == pressure]
        structures = random_structures(part, count, seed)
        folder = out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{pressure:g}GPa"
        task = RelaxTask(config=config, out=folder, pressure=pressure, fmax=_FMAX, nsw=_STEPS, resume=True)
        counts: Counter[str] = Counter()
        for done in relax_all(((Path("random"), k, s) for k, s in enumerate(structures, 1)), task):
            counts[str(done.fields["status" if "enthalpy" in done.fields else "code"])] += 1
        ends[f"{pressure:g}"] = dict(counts.most_common())
    return ends


def table(probed: Sequence[Probed]) -> str:
    """Return the probes as a table."""
    headings = [("probes", ""), ("compressed", ""), ("holes", "at V/V0"), ("dimers", ""), ("attract", "at d/(r+r)")]
    headings.append(("random structures", "that gave a result"))
    short = short_names(one.name for one in probed)
    lines = []
    for one in probed:
        cells = [short[one.name]]
        for curves in (one.compression, one.dimers):
            broken = [f"{curve.name} {curve.breaks:g}" for curve in curves if curve.breaks is not None]
            cells += [str(len(curves)), ", ".join(broken) or "none"]
        lost = Counter[str]()
        for counts in one.relaxed.values():
            lost.update({code: n for code, n in counts.items() if code not in ("converged", "unconverged")})
        reasons = ", ".join(f"{code} {n}" for code, n in lost.most_common())
        good, total = one.survived
        lines.append([*cells, f"{good} of {total}" + (f" ({reasons})" if reasons else "")])
    return layout(headings, lines)
