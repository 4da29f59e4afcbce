"""Enthalpies of given phases against pressure: from structures relaxed at several pressures, or relaxed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import pressure_folder
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call import record_file
from uspex_bridge.relaxation.volumes import element_volume
from uspex_bridge.results.reading.join import structure_of
from uspex_bridge.results.reading.model import Entry, Pool
from uspex_bridge.results.reading.sources import Loose, open_sources

if TYPE_CHECKING:
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.call.relaxed import Relaxed


#: How much more or less than V dP an enthalpy may rise, eV/atom.
_TOLERANCE = 0.01
#: A volume that falls by more than this from one pressure to the next, and by this more than the elements' volumes do,
#: is no compression, relative.
_COLLAPSE, _BEYOND = 0.2, 0.1
#: Steps between neighbouring pressures in which changes of the lowest phase are looked for.
_STEPS = 24


@dataclass(frozen=True)
class EnthalpyCurve:
    """One phase in one level of theory.

    Attributes:
        phase: its name; level: of theory, empty where nothing states it.
        entries: one per pressure, the lowest first in pressure.
    """

    phase: str
    level: str
    entries: tuple[Entry, ...]

    @cached_property
    def pressures(self) -> Array:
        """GPa."""
        return np.array([entry.pressure_gpa for entry in self.entries], dtype=float)

    @cached_property
    def enthalpies(self) -> Array:
        """H in eV/atom."""
        return np.array([entry.enthalpy_per_atom for entry in self.entries])

    @cached_property
    def slopes(self) -> Array:
        """dH/dP = V, eV/atom per GPa."""
        return np.array([pv_energy(1.0, entry.volume_per_atom) for entry in self.entries])

    def holds(self, pressure: float) -> bool:
        """Tell whether a pressure lies within the computed ones."""
        return bool(self.pressures[0] - 1e-6 <= pressure <= self.pressures[-1] + 1e-6)

    def at(self, pressures: Array) -> Array:
        """Return H at pressures within the computed ones, eV/atom: V dP integrated between neighbours.

        A cubic has the enthalpies and the volumes of both; without volumes it is a monotone one.
        """
        from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

        if len(self.entries) == 1:
            return np.repeat(self.enthalpies, len(pressures))
        if np.isfinite(self.slopes).all():
            return np.asarray(CubicHermiteSpline(self.pressures, self.enthalpies, self.slopes)(pressures))
        return np.asarray(PchipInterpolator(self.pressures, self.enthalpies)(pressures))

    def bounds(self, pressure: float) -> tuple[float, float]:
        """Return between which values H lies at a pressure, eV/atom.

        A volume falls with pressure, so that H(P) lies above the chord of two neighbours and below both tangents.
        """
        k = int(np.clip(np.searchsorted(self.pressures, pressure) - 1, 0, len(self.entries) - 2))
        (p, q), (h, g), (v, w) = (values[k : k + 2] for values in (self.pressures, self.enthalpies, self.slopes))
        chord = h + (g - h) * (pressure - p) / (q - p)
        tangents = [h + v * (pressure - p), g - w * (q - pressure)]
        return float(chord), float(np.nanmax([chord, np.nanmin([*tangents, np.inf])]))

    def doubts(self) -> list[tuple[float, float, str]]:
        """Return between which neighbouring pressures the curve cannot be one state of one phase, GPa, and why.

        Either the volume falls by more than the elements' volumes explain, or H does not rise by what the volumes ask
        for: a model that changes from one state to another there breaks the one or the other.
        """
        found = []
        for low, high in pairwise(self.entries):
            span = f"from {low.pressure_gpa:g} to {high.pressure_gpa:g} GPa"
            before, after = low.volume_per_atom, high.volume_per_atom
            ends = (float(low.pressure_gpa or 0.0), float(high.pressure_gpa or 0.0))
            fall = 1 - after / before
            if fall > max(_COLLAPSE, _compression(low, ends) + _BEYOND):
                words = f"{span} its volume falls by {100 * fall:.0f} %, {before:.2f} to {after:.2f} Å³/atom"
                found.append((*ends, words))
            rise, step = high.enthalpy_per_atom - low.enthalpy_per_atom, ends[1] - ends[0]
            least, most = pv_energy(step, after), pv_energy(step, before)
            if rise < least - _TOLERANCE or rise > most + _TOLERANCE:
                found.append(
                    (*ends, f"{span} H rises by {rise:.3f} eV/atom; its volumes require {least:.3f} to {most:.3f}")
                )
        return found


def _compression(entry: Entry, pressures: tuple[float, float]) -> float:
    """Return by how much the volumes of an entry's elements fall from one pressure (GPa) to another, relative."""
    low, high = (sum(n * element_volume(symbol, at) for symbol, n in entry.reduced) for at in pressures)
    return 1 - high / low


@dataclass(frozen=True)
class Difference:
    """Enthalpy of a phase over that of the reference, eV/atom, where both are known; pressures in GPa."""

    phase: str
    level: str
    pressures: tuple[float, ...]
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Transition:
    """Where the lowest phase changes with pressure.

    Attributes:
        level: of theory.
        below, above: the lowest phase on either side.
        pressure_gpa: by the integrals of V dP between computed points, GPa.
        bracket: GPa between which it lies whatever the curves do between the points, as long as volumes fall.
        doubt: why it is not to be relied on; empty where it is.
    """

    level: str
    below: str
    above: str
    pressure_gpa: float
    bracket: tuple[float, float]
    doubt: str = ""

    def __str__(self) -> str:
        low, high = self.bracket
        level = f" ({self.level})" if self.level else ""
        doubt = f"; not reliable: {self.doubt}" if self.doubt else ""
        return f"{self.below} to {self.above} at {self.pressure_gpa:.1f} GPa, {low:.1f} to {high:.1f}{level}{doubt}"


def open_phases(places: Iterable[Path]) -> Pool:
    """Open files and folders of relaxed structures; a folder may hold one such folder per pressure.

    Raises:
        InputError: a place holds none.
    """
    found = []
    for place in places:
        inner = (
            sorted(path for path in place.glob("*/") if record_file.in_folder(path).is_file()) if place.is_dir() else []
        )
        found += [place] if not inner or record_file.in_folder(place).is_file() else inner
    return open_sources([str(path) for path in found])


def curves(pool: Pool) -> list[EnthalpyCurve]:
    """Gather entries by phase and level of theory, in the order they come in; those in holes of a model are none.

    A phase's name is what the file calls the structure, else the file's own name.

    Raises:
        InputError: no entry has an energy, one has no pressure, or a phase has structures of different composition.
    """
    if not any(entry.valid for entry in pool.entries):
        raise InputError("no structure has an energy; to relax starting structures give pressures: -p 0:100:10")
    if all("hole" in entry.marks for entry in pool.entries if entry.valid):
        raise InputError("all structures with an energy are in holes of the model")
    groups: dict[tuple[str, str], dict[float, Entry]] = defaultdict(dict)
    for entry in pool.entries:
        if not entry.valid or "hole" in entry.marks:
            continue
        if entry.pressure_gpa is None:
            raise InputError(f"{entry.name}: the pressure of its relaxation is unknown (info pressure_gpa)")
        group = groups[_phase(pool, entry), entry.level]
        pressure = round(entry.pressure_gpa, 3)
        if pressure not in group or entry.enthalpy_per_atom < group[pressure].enthalpy_per_atom:
            group[pressure] = entry
    for (phase, _), group in groups.items():
        if len({entry.reduced for entry in group.values()}) > 1:
            raise InputError(f"{phase}: several compositions have this name; give every phase a name of its own")
    return [EnthalpyCurve(p, level, tuple(group[x] for x in sorted(group))) for (p, level), group in groups.items()]


def holes_of(pool: Pool) -> list[str]:
    """Return which points :func:`curves` leaves out, a line each."""
    return [
        f"{_phase(pool, entry)} at {entry.pressure_gpa or 0.0:g} GPa is in a hole of the model; this point is left out"
        for entry in pool.entries
        if entry.valid and "hole" in entry.marks
    ]


def _phase(pool: Pool, entry: Entry) -> str:
    source = pool.sources[entry.run]
    stem = Path(entry.run).stem
    name = source.names.get(entry.id, "") if isinstance(source, Loose) else entry.name
    return stem if name in ("", f"{stem}-{entry.id}") else name


def differences(found: Sequence[EnthalpyCurve], reference: str | None = None, steps: int = 0) -> list[Difference]:
    """Return every phase relative to the reference of its own level of theory.

    Where the reference was not computed at a phase's pressure, its enthalpy is integrated between its neighbours, never
    extrapolated.

    Args:
        found: from :func:`curves`.
        reference: name of a phase; the first by default.
        steps: divide the whole range of each phase into so many, integrated; 0 takes the computed pressures alone.

    Raises:
        ConfigError: there is no such phase, or the phases are not of one composition.
    """
    name = reference or found[0].phase
    if name not in {curve.phase for curve in found}:
        raise ConfigError(f"there is no phase {name}; there are {', '.join(dict.fromkeys(c.phase for c in found))}")
    if len({curve.entries[0].reduced for curve in found}) > 1:
        raise ConfigError(
            "phases of several compositions have no enthalpy difference; choose phases of one composition"
        )
    made = []
    for level in dict.fromkeys(curve.level for curve in found):
        mine = [curve for curve in found if curve.level == level]
        base = next((curve for curve in mine if curve.phase == name), None)
        if base is None:
            raise ConfigError(f"{name} is not there at the level of theory '{level or 'not stated'}'; give it too")
        for curve in mine:
            ends = (curve.pressures[0], curve.pressures[-1])
            wanted = np.union1d(curve.pressures, np.linspace(*ends, steps + 1)) if steps else curve.pressures
            at = wanted[[base.holds(p) for p in wanted]]
            above = curve.at(at) - base.at(at)
            made.append(Difference(curve.phase, level, tuple(at.tolist()), tuple(above.tolist())))
    return made


def transitions(found: Sequence[EnthalpyCurve]) -> list[Transition]:
    """Return where the lowest phase changes, at each level of theory, between pressures at which both are known."""
    made = []
    for level in dict.fromkeys(curve.level for curve in found):
        mine = [curve for curve in found if curve.level == level and len(curve.entries) > 1]
        points = sorted({float(p) for curve in mine for p in curve.pressures})
        for low, high in pairwise(points):
            grid = np.linspace(low, high, _STEPS + 1)
            here = [curve for curve in mine if curve.holds(low) and curve.holds(high)]
            if not here:
                continue
            lowest = np.array([curve.at(grid) for curve in here]).argmin(axis=0)
            for k in np.flatnonzero(np.diff(lowest)):
                pair = here[lowest[k]], here[lowest[k + 1]]
                made.append(_transition(*pair, float(grid[k]), float(grid[k + 1])))
    return made


@dataclass(frozen=True)
class Span:
    """Pressures in which a phase is the lowest of those that were computed there, GPa."""

    level: str
    phase: str
    low: float
    high: float


def sequence(found: Sequence[EnthalpyCurve], changes: Sequence[Transition]) -> list[Span]:
    """Return the lowest phases at each level of theory from low to high pressure; ``changes`` are all transitions."""
    spans: list[Span] = []
    for level in dict.fromkeys(curve.level for curve in found):
        mine = [curve for curve in found if curve.level == level]
        cuts = {float(p) for curve in mine for p in curve.pressures}
        cuts |= {change.pressure_gpa for change in changes if change.level == level}
        for low, high in pairwise(sorted(cuts)):
            here = [curve for curve in mine if curve.holds(low) and curve.holds(high)]
            if not here:
                continue
            middle = np.array([(low + high) / 2])
            phase = min(here, key=lambda curve: float(curve.at(middle)[0])).phase
            if spans and (spans[-1].level, spans[-1].phase, spans[-1].high) == (level, phase, low):
                spans[-1] = replace(spans[-1], high=high)
            else:
                spans.append(Span(level, phase, low, high))
    return spans


def _transition(below: EnthalpyCurve, above: EnthalpyCurve, low: float, high: float) -> Transition:
    """Return the transition of two phases whose curves cross between two pressures."""
    from scipy.optimize import brentq

    def gap(pressure: float) -> float:
        return float(above.at(np.array([pressure]))[0] - below.at(np.array([pressure]))[0])

    at = float(brentq(gap, low, high)) if gap(low) * gap(high) < 0 else (low + high) / 2
    first = max(below.pressures[0], above.pressures[0])
    last = min(below.pressures[-1], above.pressures[-1])
    bracket = _end(below, above, at, float(first)), _end(above, below, at, float(last))
    doubts = [
        f"{curve.phase} {why}"
        for curve in (below, above)
        for start, end, why in curve.doubts()
        if _before(curve, start) <= at <= _after(curve, end)
    ]
    return Transition(below.level, below.phase, above.phase, at, bracket, "; ".join(doubts))


def _end(stable: EnthalpyCurve, other: EnthalpyCurve, start: float, end: float) -> float:
    """Return the pressure from ``start`` towards ``end`` from which on ``stable`` is surely lower than ``other``."""
    for pressure in np.linspace(start, end, 2000):
        if stable.bounds(float(pressure))[1] < other.bounds(float(pressure))[0]:
            return float(pressure)
    return end


def _before(curve: EnthalpyCurve, pressure: float) -> float:
    """Return the computed pressure before one."""
    return float(curve.pressures[max(int(np.searchsorted(curve.pressures, pressure)) - 1, 0)])


def _after(curve: EnthalpyCurve, pressure: float) -> float:
    """Return the computed pressure after one."""
    return float(curve.pressures[min(int(np.searchsorted(curve.pressures, pressure)) + 1, len(curve.pressures) - 1)])


def doubts(found: Sequence[EnthalpyCurve]) -> list[str]:
    """Return where curves cannot be one state of one phase, a line each."""
    return [
        f"{curve.phase}: {why}: these are two states, or the model is unreliable there"
        for curve in found
        for _, _, why in curve.doubts()
    ]


def is_point(done: Relaxed) -> bool:
    """Tell whether a relaxation gave a point of its phase's curve: one that was refused or is in a hole did not."""
    return "enthalpy" in done.fields and "hole" not in (done.fields.get("flags") or ())


def relax_series(
    phases: Mapping[str, Structure], pressures: Sequence[float], task: RelaxTask
) -> Iterator[tuple[float, Relaxed]]:
    """Relax phases at one pressure after another, symmetry kept, each from its cell at the pressure before.

    Pressures are gone through upwards, then down again, since a cell may stay in a metastable state either way; the
    lower enthalpy counts. Every pressure has a folder of its own in ``task.out``, which :func:`open_phases` reads.

    Args:
        phases: starting structures by name.
        pressures: GPa, in rising order.
        task: how; its pressure and symmetry are set here.

    Yields:
        pressure and outcome, failures included.

    Raises:
        ConfigError, ModelError, OutputError: see :func:`uspex_bridge.call.many.relax_all`.
    """
    from uspex_bridge.call.many import relax_all

    assert task.out is not None
    current = dict(phases)
    for pressure in (*pressures, *reversed(pressures[:-1])):
        step = replace(task, out=pressure_folder(task.out, pressure), pressure=pressure, keep_symmetry=True)
        named = [(Path(name), 1, replace(s, comment=name)) for name, s in current.items()]
        for done in relax_all(named, step):
            output = done.fields.get("output")
            if output is not None and is_point(done):
                current[done.name] = structure_of(output, done.name)
            yield pressure, done
