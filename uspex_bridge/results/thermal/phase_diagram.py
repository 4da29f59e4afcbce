"""Which phase of a composition has the lowest G at which pressure and temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.files import pressure_folder
from uspex_bridge.results.hulls.stability import Question
from uspex_bridge.results.reading.model import Composition, Pool
from uspex_bridge.results.thermal.free_energy import FreeEnergies, ThermalPhase, chosen, free_energies, promoted

if TYPE_CHECKING:
    from uspex_bridge.call.thermal import FreeEnergyTask, Method

#: Steps between neighbouring computed points in which changes of the lowest phase are looked for.
_STEPS = 48
#: Phases that differ by less at both points are twins, whose order means nothing, eV/atom.
_TWINS = 5e-4


@dataclass(frozen=True)
class Crossing:
    """Where the lowest phase changes along an axis.

    Attributes:
        before, after: names of the lowest phases on either side.
        at: where their G, interpolated linearly between computed points, are equal.
        error: standard error of that, 0 where G is not sampled.
        between: the neighbouring computed points.
    """

    before: str
    after: str
    at: float
    error: float
    between: tuple[float, float]


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Free energies at several pressures.

    Attributes:
        answers: one for each pressure, the lowest first, all of the same method and temperatures.
    """

    answers: tuple[FreeEnergies, ...]

    @property
    def pressures(self) -> tuple[float, ...]:
        """GPa."""
        return tuple(answer.pressure_gpa for answer in self.answers)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures, K."""
        return self.answers[0].temperatures

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        """Those that lie on a hull of G at some pressure and temperature."""
        stable = [e.reduced for answer in self.answers for t in answer.temperatures for e in answer.stable(t)]
        return tuple(sorted(set(stable)))

    def phases(self, composition: Composition) -> dict[str, ThermalPhase]:
        """Return the phases of a composition by name, as they are at the lowest pressure that has them."""
        found: dict[str, ThermalPhase] = {}
        for phase in (phase for answer in self.answers for phase in answer.phases):
            if phase.entry.reduced == composition:
                found.setdefault(phase.entry.name, phase)
        return found

    def surface(self, name: str) -> tuple[Array, Array]:
        """Return G of a phase and its standard error, each (pressures, temperatures), eV/atom; NaN where it has no G.

        The error is 0 where G is not sampled.
        """
        values = np.full((len(self.answers), len(self.temperatures)), np.nan)
        errors = np.zeros_like(values)
        for row, answer in enumerate(self.answers):
            for phase in answer.phases:
                if phase.entry.name == name:
                    for column, t in enumerate(self.temperatures):
                        values[row, column] = phase.g(answer.method, t)
                        errors[row, column] = phase.error(answer.method, t) or 0.0
        return values, errors

    def lowest(self, composition: Composition, answer: FreeEnergies, temperature: float | None) -> tuple[str, bool]:
        """Return the phase of lowest G, of lowest H for None, and whether it is on the hull; no name for none."""
        found = [
            (answer.above(phase.entry.name, temperature), phase.entry.name)
            for phase in answer.phases
            if phase.entry.reduced == composition
        ]
        above, name = min((one for one in found if not math.isnan(one[0])), default=(math.nan, ""))
        return name, above == 0.0

    def with_pressure(self, composition: Composition, temperature: float) -> list[Crossing]:
        """Return where the lowest phase changes with pressure, GPa, at a temperature."""
        column = self.temperatures.index(temperature)
        surfaces = {name: self.surface(name) for name in self.phases(composition)}
        return crossings(self.pressures, {name: (g[:, column], e[:, column]) for name, (g, e) in surfaces.items()})

    def with_temperature(self, composition: Composition, pressure_gpa: float) -> list[Crossing]:
        """Return where the lowest phase changes with temperature, K, at a pressure."""
        row = self.pressures.index(pressure_gpa)
        surfaces = {name: self.surface(name) for name in self.phases(composition)}
        return crossings(self.temperatures, {name: (g[row], e[row]) for name, (g, e) in surfaces.items()})


def phase_diagram(
    pool: Pool,
    question: Question,
    task: FreeEnergyTask,
    pressures: Sequence[float],
    *,
    method: Method = "harmonic",
    promote: float = 0.05,
    most: int | None = None,
    **how: Any,
) -> PhaseDiagram:
    """Compute free energies of the same phases at several pressures, each in a folder such as ``50GPa`` of the task's.

    Args:
        pool: a search, or structures without energies, all of which are taken then.
        question: window and definition of a phase; a phase is taken that is within the window at any pressure.
        task: free energies; its pressure is set here.
        pressures: GPa, in rising order.
        method: see there; a phase that ``qha`` or ``scha`` is done for at one pressure has it at all.
        promote: eV/atom.
        most: at most so many phases, nearest a hull first.
        how: further arguments of :func:`uspex_bridge.results.thermal.free_energy.free_energies`.

    Raises:
        InputError, ConfigError, ModelError, OutputError: see there.
    """
    entries, warnings = chosen(pool, question, pressures, most)
    tasks = [replace(task, pressure=at, out=pressure_folder(task.out, at)) for at in pressures]
    common: dict[str, Any] = {"entries": entries, "method": method, "promote": promote, **how}
    ahead: set[str] = set()
    if method != "harmonic":
        for one in tasks:
            rest = free_energies(pool, question, one, **common | {"method": "harmonic", "correct": None})
            ahead.update(promoted(rest.phases, rest.hulls, promote, method))
    answers = [free_energies(pool, question, one, wanted=ahead, **common) for one in tasks]
    first = replace(answers[0], warnings=tuple(dict.fromkeys((*warnings, *answers[0].warnings))))
    return PhaseDiagram((first, *answers[1:]))


def crossings(points: Sequence[float], curves: Mapping[str, tuple[Array, Array]]) -> list[Crossing]:
    """Return where the lowest of several curves changes, between neighbouring points at which both are known.

    Differences of G are interpolated linearly: what bends the curves is nearly the same for all.

    Args:
        points: in rising order.
        curves: values and standard errors at the points by name; a value may be NaN.
    """
    found = []
    names = list(curves)
    for k, (low, high) in enumerate(pairwise(points)):
        values = np.array([curves[name][0][k : k + 2] for name in names])
        share = np.linspace(0.0, 1.0, _STEPS + 1)
        between = values[:, :1] * (1.0 - share) + values[:, 1:] * share
        if not np.isfinite(between).any():
            continue
        lowest = np.where(np.isfinite(between), between, np.inf).argmin(axis=0)
        for step in np.flatnonzero(np.diff(lowest)):
            before, after = names[lowest[step]], names[lowest[step + 1]]
            start, end = values[names.index(after)] - values[names.index(before)]
            if max(abs(start), abs(end)) < _TWINS:
                continue
            at = start / (start - end)
            errors = [np.hypot(curves[before][1][j], curves[after][1][j]) for j in (k, k + 1)]
            error = np.hypot((1.0 - at) * errors[0], at * errors[1]) * (high - low) / abs(end - start)
            found.append(Crossing(before, after, low + at * (high - low), float(error), (low, high)))
    return found
