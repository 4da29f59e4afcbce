"""The data that passes between the parts: a structure, what was asked, one ionic step, the result.

No part of the bridge hands another one a file name or an ASE object; the text side (``vasp``) and the numerical
side (``relax``) meet only here. Units as in :mod:`uspex_bridge.base.units`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.units import pressure_of, pv_energy

Array = NDArray[np.float64]

#: A pressure further from the one asked for than this, GPa, or this share of it, is another one.
_OFF, _OFF_SHARE = 2.0, 0.1


@dataclass(frozen=True, eq=False)
class Structure:
    """A periodic structure as an input file gave it; atoms keep that file's order.

    Attributes:
        symbols: element of each atom, (N,).
        cell: lattice vectors as rows, (3, 3), Å.
        scaled: fractional coordinates, (N, 3), not wrapped.
        comment: first line of the POSCAR (USPEX's ``EA<ID>`` label).
        free: which fractional coordinates may move, (N, 3), or None where all may (selective dynamics).
        contradicted: what its file says of it that its atoms contradict, a sentence; empty where nothing.
    """

    symbols: tuple[str, ...]
    cell: Array
    scaled: Array
    comment: str = ""
    free: NDArray[np.bool_] | None = None
    contradicted: str = ""

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Runs of equal elements in file order, as the species and counts lines of a POSCAR: [("Ca", 2), ...]."""
        runs: list[tuple[str, int]] = []
        for symbol in self.symbols:
            if runs and runs[-1][0] == symbol:
                runs[-1] = (symbol, runs[-1][1] + 1)
            else:
                runs.append((symbol, 1))
        return runs

    @property
    def formula(self) -> str:
        """Formula of the cell in IUPAC's order, e.g. ``Ca2FeNi``."""
        return formula_of(Counter(self.symbols).items())

    @property
    def volume(self) -> float:
        """Cell volume in Å³."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def right_handed(self) -> Structure:
        """The same crystal in a right-handed cell, the only kind that VASP takes."""
        if np.linalg.det(self.cell) >= 0:
            return self
        order = [1, 0, 2]
        free = None if self.free is None else self.free[:, order]
        return replace(self, cell=self.cell[order], scaled=self.scaled[:, order], free=free)


@dataclass(frozen=True)
class Intent:
    """What an INCAR asks for, in the terms of VASP's manual; the protocol decides how it is done.

    ``ediffg`` None means that the INCAR does not say; ``temperature`` (K) asks for a free energy. ``ignored`` holds the
    tags that mean nothing to a potential without electrons.
    """

    isif: int = 3
    nsw: int = 1000
    ibrion: int = 2
    ediffg: float | None = None
    pressure_gpa: float = 0.0
    keep_symmetry: bool = False
    symprec: float | None = None
    nelm: int = 60
    stages: str | None = None
    temperature: float | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def static(self) -> bool:
        """True where no ion and no cell vector may move (NSW = 0 or IBRION = -1)."""
        return self.nsw == 0 or self.ibrion == -1


@dataclass(frozen=True, eq=False)
class Frame:
    """One ionic step: a geometry and what one model says of it.

    Attributes:
        cell: (3, 3) Å, rows.
        scaled: fractional coordinates (N, 3), not wrapped, so that steps join into a path.
        energy: E in eV per cell, never with PV.
        forces: (N, 3) eV/Å, of the bare model (constraints not applied).
        stress: (6,) eV/Å³, ASE's sign and order.
        magmoms: (N,) Bohr magnetons where the model gives them.
        stage: index of the protocol stage it belongs to.
    """

    cell: Array
    scaled: Array
    energy: float
    forces: Array
    stress: Array
    magmoms: Array | None = None
    stage: int = 0

    @cached_property
    def volume(self) -> float:
        """Cell volume in Å³."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def positions(self) -> Array:
        """Cartesian positions (N, 3), Å."""
        return self.scaled @ self.cell

    def enthalpy(self, pressure_gpa: float) -> float:
        """H = E + PV in eV per cell at the target pressure."""
        return self.energy + pv_energy(pressure_gpa, self.volume)


Outcome = Literal["converged", "steps", "failed", "time", "file", "above", "static"]


@dataclass(frozen=True)
class StageReport:
    """How one stage went; ``outcome`` says why it ended."""

    name: str
    calculator: str
    model: str
    optimizer: str
    outcome: Outcome
    steps: int
    evaluations: int
    seconds: float
    energy: float | None
    enthalpy: float | None
    fmax: float | None
    stress_gpa: float | None
    detail: str = ""


def off_pressure(found: float, asked: float) -> bool:
    """Return whether a pressure that a model finds is another one than was asked for, GPa."""
    return abs(found - asked) > max(_OFF, _OFF_SHARE * abs(asked))


@dataclass(frozen=True, eq=False)
class RelaxResult:
    """A relaxation that passed the guards; converged or not is data, not an error.

    Attributes:
        frames: every ionic step of every stage, in order; the last one is the result.
        stages: one report per stage that ran.
        converged: the last stage reached its force and stress targets (or the run was a single point).
        reason: one line that says why the relaxation ended.
        flags: short words a user would want to see (``elongated``, ``overlap-pushed``, ...).
        fmax: largest force on an atom that may move (of a single point any), eV/Å, in the last frame.
        stress_gpa: largest |stress component + P| among those that may relax (of a single point all), GPa, in the last
            frame.
        model_start: index of the first frame of the last unbroken run of stages that used the final model.
        models: calculator name -> identity (kind, model, hash, package version, device, dtype).
        free_energy: what the last frame's energy is where it is a free energy F, else None: its method, temperature
            (K), error, and all else that the record keeps of it.
    """

    frames: tuple[Frame, ...]
    stages: tuple[StageReport, ...]
    converged: bool
    reason: str
    flags: tuple[str, ...]
    fmax: float
    stress_gpa: float
    pressure_gpa: float
    model_start: int = 0
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    free_energy: dict[str, Any] | None = None

    @property
    def final(self) -> Frame:
        """The last ionic step."""
        return self.frames[-1]

    @property
    def enthalpy(self) -> float:
        """H = E + PV, or G = F + PV, in eV per cell of the last step."""
        return self.final.enthalpy(self.pressure_gpa)

    @property
    def pressure_reached_gpa(self) -> float:
        """The pressure that the model finds in the last step, GPa."""
        return pressure_of(self.final.stress)

    @property
    def off_pressure(self) -> bool:
        """Whether that is another pressure than the one asked for."""
        return off_pressure(self.pressure_reached_gpa, self.pressure_gpa)


@dataclass(frozen=True, eq=False)
class VaspRun:
    """Everything that VASP's output files are written from.

    ``frames`` are the ionic steps to print (one model's only, see ``steps`` in the configuration). ``free_energy`` says
    which free energy stands for their energy, such as ``300 K scha``; it is empty where that is a potential energy.
    """

    structure: Structure
    frames: tuple[Frame, ...]
    intent: Intent
    converged: bool
    model: str
    seconds: float = 0.0
    free_energy: str = ""
    incar: dict[str, str] = field(default_factory=dict)

    @property
    def pressure_gpa(self) -> float:
        """Target pressure, GPa."""
        return self.intent.pressure_gpa
