"""What became of one structure that was relaxed by hand: as Python, as the record's line, as a row of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Frame, RelaxResult, Structure, off_pressure
from uspex_bridge.base.tables import layout
from uspex_bridge.call.record_line import ending, level_of, words_of
from uspex_bridge.call.structures import wrong_label
from uspex_bridge.relaxation.protocol import Plan

if TYPE_CHECKING:
    from ase import Atoms

#: Heading and unit of each column of the table.
_COLUMNS = (
    ("structure", ""),
    ("formula", ""),
    ("space group", ""),
    ("steps", ""),
    ("H", "eV/atom"),
    ("V", "Å³/atom"),
    ("fmax", "eV/Å"),
    ("stress", "GPa"),
    ("", ""),
)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The result of one relaxation.

    Attributes:
        name: name of the structure.
        structure: starting structure.
        plan: protocol and targets of the relaxation.
        before, after: space groups, such as ``Im-3m (229)``; ``after`` is empty without a result.
        fields: line of the record.
        result: every step of every stage; None without a result, or if it was read from a record.
    """

    name: str
    structure: Structure
    plan: Plan
    before: str
    after: str
    fields: dict[str, Any]
    result: RelaxResult | None = None

    @property
    def ok(self) -> bool:
        """True if there is a result, converged or not."""
        return "enthalpy" in self.fields

    @property
    def status(self) -> str:
        """``converged``, ``unconverged``, ``rejected`` by a guard, or ``failed``."""
        return str(self.fields["status"])

    @property
    def converged(self) -> bool:
        """True if the last stage reached its targets."""
        return self.status == "converged"

    @property
    def reason(self) -> str:
        """Reason of the end, or of the missing result."""
        return str(self.fields["reason"])

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that need attention, such as ``elongated``."""
        return tuple(self.fields.get("flags", ()))

    @property
    def pressure(self) -> float:
        """Target pressure, GPa."""
        return float(self.fields["pressure_gpa"])

    @property
    def energy(self) -> float:
        """E without PV, eV per cell."""
        return float(self.fields["energy"])

    @property
    def enthalpy(self) -> float:
        """H = E + PV, eV per cell."""
        return float(self.fields["enthalpy"])

    @property
    def enthalpy_per_atom(self) -> float:
        """H = E + PV, eV/atom."""
        return float(self.fields["enthalpy_per_atom"])

    @property
    def volume(self) -> float:
        """Cell volume, Å³."""
        return float(self.fields["volume"])

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Model, optimizer, outcome, steps, evaluations and seconds of each stage, and what was left to relax."""
        return list(self.fields.get("stages", ()))

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Identity of every model that was used: kind, weights and their hash, package, device, precision."""
        return dict(self.fields.get("models", {}))

    @property
    def free_energy(self) -> dict[str, Any] | None:
        """Which free energy stands for E and H, with its error and all else that is known of it; None for none."""
        found: dict[str, Any] | None = self.fields.get("free_energy")
        return found

    @cached_property
    def atoms(self) -> Atoms:
        """The relaxed structure with energy (eV), forces (eV/Å), stress (eV/Å³) and what is known of it in ``info``.

        Raises:
            AttributeError: there is no result.
        """
        if not self.ok:
            raise AttributeError(f"{self.name}: there is no result: {self.reason}")
        output = self.fields["output"]
        frame = Frame(
            np.array(output["cell"]),
            np.array(output["scaled"]),
            self.energy,
            np.array(output["forces"]),
            np.array(output["stress"]),
            stage=len(self.plan.stages) - 1,
        )
        (atoms,) = images(self.structure, (frame,) if self.result is None else (self.result.final,), self.plan)
        atoms.info["level"] = level_of(self.fields)
        if self.free_energy is not None:
            atoms.info["free_energy_of"] = words_of(self.free_energy)
        return atoms

    @property
    def trajectory(self) -> list[Atoms]:
        """Every step of every stage; empty where the result was read from a record."""
        return [] if self.result is None else images(self.structure, self.result.frames, self.plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the record, with plain values only."""
        return dict(self.fields)

    def table(self) -> str:
        """Return the result as a table of one row."""
        return table([self])

    def __repr__(self) -> str:
        said = f"{self.enthalpy_per_atom:.4f} eV/atom" if self.ok else self.reason
        return f"<{self.name} {self.fields['formula']} at {self.pressure:g} GPa: {ending(self.fields)}, {said}>"


def table(results: Iterable[Relaxed]) -> str:
    """Return results as a table that fits 80 columns; flags, and why there is no result, stand below it."""
    listed = list(results)
    flagged = [f"{r.name}: {' '.join(r.flags)}" for r in listed if r.flags]
    flagged += [
        f"{r.name}: pressure {found:.1f} GPa instead of {r.pressure:g}"
        for r in listed
        if off_pressure(found := r.fields.get("pressure_reached_gpa", r.pressure), r.pressure)
    ]
    free = dict.fromkeys(words_of(r.free_energy) for r in listed if r.free_energy is not None)
    flagged += [f"{r.name}: {wrong}" for r in listed if (wrong := wrong_label(r.structure.comment, r.structure))]
    columns = [("G" if free and name == "H" else name, unit) for name, unit in _COLUMNS]
    flagged += [f"G = F + PV at {words}" for words in free]
    failed = [f"{r.name}: {r.fields.get('code', r.status)}: {r.reason}" for r in listed if not r.ok]
    return "\n".join([layout(columns, [_row(r) for r in listed]), *flagged, *failed])


def _row(one: Relaxed) -> list[str]:
    before = one.before.partition(" ")[0]
    if not one.ok:
        return [one.name, one.fields["formula"], before, *[""] * 5, "-"]
    after = one.after.partition(" ")[0]
    return [
        one.name,
        one.fields["formula"],
        after if before == after else f"{before} > {after}",
        str(one.fields["steps"]),
        f"{one.enthalpy_per_atom:.4f}",
        f"{one.volume / one.fields['natoms']:.3f}",
        f"{one.fields['fmax']:.4f}",
        f"{one.fields['stress_left_gpa']:.3f}",
        "*" if one.flags else "",
    ]


def images(structure: Structure, frames: tuple[Frame, ...], plan: Plan) -> list[Atoms]:
    """Return steps as ASE atoms with energy, forces and stress, and stage, calculator and enthalpy in ``info``."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = []
    for frame in frames:
        image = to_atoms(Structure(structure.symbols, frame.cell, frame.scaled, free=structure.free))
        results = {"energy": frame.energy, "forces": frame.forces, "stress": frame.stress}
        if frame.magmoms is not None:
            results["magmoms"] = frame.magmoms
        image.calc = SinglePointCalculator(image, **results)
        stage = plan.stages[frame.stage]
        image.info |= {
            "name": structure.comment.strip(),
            "stage": stage.name,
            "calculator": stage.calculator,
            "pressure_GPa": plan.pressure_gpa,
            "enthalpy": frame.enthalpy(plan.pressure_gpa),
        }
        atoms.append(image)
    return atoms
