"""Where models disagree about structures as they are: the ones to compute, since one of the models is wrong there.

Two models of different architecture, trained on the same data, agree where the data reach and part where they do not
(arXiv:2606.30870, section 2.4). PV of a model is -V tr(stress)/3 of its own stress, not the target pressure times V.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from ase.data import covalent_radii

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.units import ev_a3_to_gpa
from uspex_bridge.learn.data.predictions import Prediction
from uspex_bridge.learn.data.suspects import fit
from uspex_bridge.relaxation.guards import closest_pair
from uspex_bridge.results.hulls.hull import HullPoint
from uspex_bridge.results.reading.model import NAN, Entry

Flag = Literal["short", "dense", "elongated", "far", "unconverged", "rejected", "outside", "failed"]
FLAGS: tuple[Flag, ...] = ("short", "dense", "elongated", "far", "unconverged", "rejected", "outside", "failed")
#: Flags that keep a structure off the list to compute: an energy of it teaches nothing, or no code would give one.
UNFIT: frozenset[Flag] = frozenset({"short", "dense", "elongated", "far"})

#: Flags that are reason enough to compute a structure unless others are named.
DEFAULT_REASONS: tuple[Flag, ...] = ("failed", "rejected")


@dataclass(frozen=True)
class Limits:
    """What is too much; None does not look at it.

    Attributes:
        pv: of |ΔPV|, eV/atom (the paper: 0.04 in the first cycle, 0.03 later).
        energy: of |ΔE|, eV/atom.
        force: of the largest |ΔF| of an atom, eV/Å.
        ratio: closest pair, in units of the sum of covalent radii (``short``).
        packing: volume, in units of the atoms' covalent spheres (``dense``).
        axis: longest over shortest lattice vector (``elongated``; the paper's filter is 3).
        within: distance to the hull, eV/atom (``far``).
        novelty: distance to the training set (``outside``), see :class:`uspex_bridge.learn.choose.novelty.Reach`.
    """

    pv: float | None = 0.04
    energy: float | None = None
    force: float | None = None
    ratio: float = 0.5
    packing: float = 0.25
    axis: float = 3.0
    within: float | None = None
    novelty: float = 1.0

    def __post_init__(self) -> None:
        if self.pv is None and self.energy is None and self.force is None:
            raise ConfigError("nothing to screen by: give a threshold for PV, energy or forces")


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What came out for one structure; differences are the largest among the pairs of models.

    Attributes:
        entry, structure: which one.
        energies: (M,) eV/atom, of each model on the first one's zero; NaN where it failed.
        pv: (M,) eV/atom.
        delta_energy: largest |ΔE|, eV/atom; delta_pv: largest |ΔPV|, eV/atom.
        delta_force: largest |ΔF| of an atom, eV/Å; rms_force: root mean square of |ΔF| over atoms.
        above: distance to the hull, eV/atom, NaN where unknown.
        novelty: distance to the training set in units of what is usual within it, NaN without one.
        flags: what is odd about it -> in words.
        reasons: why it should be computed; empty where it should not.
    """

    entry: Entry
    structure: Structure
    energies: Array
    pv: Array
    delta_energy: float
    delta_pv: float
    delta_force: float
    rms_force: float
    above: float
    novelty: float
    flags: dict[Flag, str]
    reasons: tuple[str, ...] = ()

    @property
    def own_pressure_gpa(self) -> float:
        """The highest pressure that a model sees in it as it is, GPa; NaN where none does."""
        finite = self.pv[np.isfinite(self.pv)]
        return ev_a3_to_gpa(float(finite.max()) * len(self.structure) / self.structure.volume) if len(finite) else NAN

    def row(self, models: Sequence[str], name: str) -> dict[str, Any]:
        """Return its scalar columns under the ``name`` that the user knows it by; what is unknown is None."""
        entry = self.entry
        columns: dict[str, Any] = {
            "name": name,
            "formula": entry.formula,
            "natoms": entry.natoms,
            "pressure_gpa": entry.pressure_gpa,
            "delta_energy": self.delta_energy,
            "delta_pv": self.delta_pv,
            "delta_force_max": self.delta_force,
            "delta_force_rms": self.rms_force,
            "above_hull": self.above,
            "novelty": self.novelty,
            **{f"energy {model}": value for model, value in zip(models, self.energies.tolist(), strict=True)},
            **{f"pv {model}": value for model, value in zip(models, self.pv.tolist(), strict=True)},
            "flags": " ".join(self.flags),
            "label": bool(self.reasons),
            "reasons": "; ".join(self.reasons),
        }
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in columns.items()}


@dataclass(frozen=True, eq=False)
class Screening:
    """The answer about all structures.

    Attributes:
        models: names of the models.
        offsets: of each model after the first, element -> eV added per atom to bring it to the first one's zero.
        verdicts: those to compute first, by how far they are over a threshold, then the others.
        limits: what was too much.
        forces: (components, 2) of the first two models, eV/Å, of sound structures, for figures.
        notes: what the user must know.
    """

    models: tuple[str, ...]
    offsets: tuple[dict[str, float], ...]
    verdicts: tuple[Disagreement, ...]
    limits: Limits
    forces: Array
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> list[Disagreement]:
        """Those to compute."""
        return [verdict for verdict in self.verdicts if verdict.reasons]

    def count(self, flag: str) -> int:
        """Return how many structures have a flag."""
        return sum(flag in verdict.flags for verdict in self.verdicts)


@dataclass(frozen=True)
class Seen:
    """One structure and what is known of it before it is judged.

    Attributes:
        answers: one per model.
        point: its place on the hull, None where unknown.
        novelty: distance to the training set (see :class:`uspex_bridge.learn.choose.novelty.Reach`), NaN without one.
    """

    entry: Entry
    structure: Structure
    answers: tuple[Prediction, ...]
    point: HullPoint | None = None
    novelty: float = NAN


def screen(
    seen: Sequence[Seen],
    models: Sequence[str],
    limits: Limits,
    *,
    offsets: bool,
    also: Collection[Flag] = DEFAULT_REASONS,
) -> Screening:
    """Compare the models' answers and say which structures to compute.

    Args:
        seen: the structures, with one answer per model.
        models: the models' names.
        limits: what is too much.
        offsets: bring every further model's energies to the first one's zero (see :func:`fit_offsets`).
        also: flags that are a reason to compute a structure.
    """
    energies = np.array([[_energy(one, answer) for answer in one.answers] for one in seen])
    pv = np.array([[a.pv(one.structure.volume, len(one.structure)) for a in one.answers] for one in seen])
    shifts, notes = [], []
    entries = [one.entry for one in seen]
    for k in range(1, len(models) if offsets else 1):
        fitted, used = fit_offsets(entries, energies[:, 0] - energies[:, k])
        energies[:, k] += [sum(fitted.get(s, NAN) * n for s, n in e.composition) / e.natoms for e in entries]
        shifts.append(fitted)
        if used < 3 * len(fitted):
            notes.append(
                f"{models[k]}: its energy zero, {len(fitted)} numbers, is fitted to {used} structures only and takes "
                "part of |ΔE| away; PV and forces are unchanged"
            )
    verdicts = [_judge(one, energies[k], pv[k], models, limits, also) for k, one in enumerate(seen)]
    sound = [one for one, verdict in zip(seen, verdicts, strict=True) if UNFIT.isdisjoint(verdict.flags)]
    verdicts.sort(key=lambda verdict: (not verdict.reasons, -_excess(verdict, limits)))
    return Screening(tuple(models), tuple(shifts), tuple(verdicts), limits, _force_pairs(sound), tuple(notes))


def fit_offsets(entries: Sequence[Entry], differences: Array) -> tuple[dict[str, float], int]:
    """Fit differences of two models' energies (N,), eV/atom, by one number per element; NaN are left out.

    Least absolute deviations (by reweighted least squares), so that a few structures on which the models disagree
    wildly do not decide.

    Returns:
        element -> eV/atom, and the number of structures used.
    """
    used = [k for k, value in enumerate(differences.tolist()) if math.isfinite(value)]
    elements = sorted({symbol for k in used for symbol, _ in entries[k].composition})
    if not elements:
        return {}, 0
    shares = np.array([[dict(entries[k].composition).get(e, 0) / entries[k].natoms for e in elements] for k in used])
    fitted = fit(shares, differences[used])
    return dict(zip(elements, fitted.tolist(), strict=True)), len(used)


def _energy(one: Seen, answer: Prediction) -> float:
    return answer.energy / len(one.structure)


def _force_pairs(seen: Sequence[Seen]) -> Array:
    pairs = [
        np.stack([answers[0].forces.ravel(), answers[1].forces.ravel()], axis=1)
        for answers in (one.answers for one in seen)
        if answers[0].forces is not None and answers[1].forces is not None
    ]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2))


def _judge(
    one: Seen, energies: Array, pv: Array, models: Sequence[str], limits: Limits, also: Collection[Flag]
) -> Disagreement:
    forces = [answer.forces for answer in one.answers if answer.forces is not None]
    apart = [np.linalg.norm(a - b, axis=1) for a, b in combinations(forces, 2)]
    flags = _flags(one, models, limits)
    verdict = Disagreement(
        entry=one.entry,
        structure=one.structure,
        energies=energies,
        pv=pv,
        delta_energy=_spread(energies),
        delta_pv=_spread(pv),
        delta_force=max((float(norms.max()) for norms in apart), default=NAN),
        rms_force=max((float(np.sqrt((norms**2).mean())) for norms in apart), default=NAN),
        above=NAN if one.point is None else one.point.above,
        novelty=one.novelty,
        flags=flags,
    )
    if any(flag in UNFIT and flag not in also for flag in flags):
        return verdict
    reasons = [
        f"{name} {value:.3f} > {limit:g} {unit}"
        for name, value, limit, unit in (
            ("|ΔPV|", verdict.delta_pv, limits.pv, "eV/atom"),
            ("|ΔE|", verdict.delta_energy, limits.energy, "eV/atom"),
            ("|ΔF|", verdict.delta_force, limits.force, "eV/Å"),
        )
        if limit is not None and value > limit
    ]
    return replace(verdict, reasons=(*reasons, *(text for flag, text in flags.items() if flag in also)))


def _flags(one: Seen, models: Sequence[str], limits: Limits) -> dict[Flag, str]:
    """Say what is odd about a structure, and how much."""
    structure, entry = one.structure, one.entry
    atoms = to_atoms(structure)
    flags: dict[Flag, str] = {}
    if close := closest_pair(atoms, limits.ratio):
        flags["short"] = close[1]
    packing = structure.volume / float((4.0 / 3.0 * np.pi * covalent_radii[atoms.numbers] ** 3).sum())
    if packing < limits.packing:
        flags["dense"] = f"{structure.volume / len(structure):.2f} Å³/atom, {packing:.2f} of the covalent spheres"
    lengths = atoms.cell.lengths()
    if lengths.max() > limits.axis * lengths.min():
        flags["elongated"] = f"one lattice vector is {lengths.max() / lengths.min():.1f} x another"
    if limits.within is not None and one.point is not None and one.point.above > limits.within:
        flags["far"] = f"{one.point.above:.3f} eV/atom above the hull"
    if entry.record is not None and entry.record.status == "unconverged":
        flags["unconverged"] = f"unconverged relaxation, largest force {entry.record.fmax:.3g} eV/Å"
    if entry.record is not None and entry.record.status == "rejected":
        flags["rejected"] = f"lost in the search ({', '.join(entry.record.flags)})"
    if one.novelty > limits.novelty:
        flags["outside"] = f"{one.novelty:.1f} x as far from the training set as its structures are from each other"
    failures = [
        f"{model}: {answer.problem}" for model, answer in zip(models, one.answers, strict=True) if answer.problem
    ]
    if failures:
        flags["failed"] = "; ".join(failures)
    return flags


def _spread(values: Array) -> float:
    """Return the largest difference between two models that gave an answer, NaN where fewer did."""
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if len(finite) > 1 else NAN


def _excess(verdict: Disagreement, limits: Limits) -> float:
    """Return how many times a threshold is exceeded, by the quantity that exceeds its own most."""
    pairs = (
        (verdict.delta_pv, limits.pv),
        (verdict.delta_energy, limits.energy),
        (verdict.delta_force, limits.force),
    )
    found = [value / limit for value, limit in pairs if limit and math.isfinite(value)]
    return max(found, default=math.inf)
