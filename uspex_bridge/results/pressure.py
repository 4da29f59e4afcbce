"""Enthalpies of given phases against pressure: from structures relaxed at several pressures, or relaxed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call import record_file
from uspex_bridge.results.model import Entry, Pool
from uspex_bridge.results.sources import Loose, open_sources

if TYPE_CHECKING:
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.call.relaxed import Relaxed


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

    @property
    def pressures(self) -> Array:
        """GPa."""
        return np.array([entry.pressure_gpa for entry in self.entries], dtype=float)

    @property
    def enthalpies(self) -> Array:
        """H in eV/atom."""
        return np.array([entry.enthalpy_per_atom for entry in self.entries])


@dataclass(frozen=True)
class Difference:
    """Enthalpy of a phase over that of the reference, eV/atom, where both are known; pressures in GPa."""

    phase: str
    level: str
    pressures: tuple[float, ...]
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Transition:
    """Where the lowest phase changes with pressure, GPa, between computed points by straight lines."""

    level: str
    below: str
    above: str
    pressure_gpa: float


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
    """Gather entries by phase and level of theory, in the order they come in.

    A phase's name is what the file calls the structure, else the file's own name.

    Raises:
        InputError: no entry has an energy, one has no pressure, or a phase has structures of different composition.
    """
    if not any(entry.valid for entry in pool.entries):
        raise InputError(
            "no structure has an energy; to relax starting structures here give --pressures, such as 0:100:10"
        )
    groups: dict[tuple[str, str], dict[float, Entry]] = defaultdict(dict)
    for entry in pool.entries:
        if not entry.valid:
            continue
        if entry.pressure_gpa is None:
            raise InputError(f"{entry.name}: nothing states the pressure it was relaxed at (info pressure_gpa)")
        group = groups[_phase(pool, entry), entry.level]
        pressure = round(entry.pressure_gpa, 3)
        if pressure not in group or entry.enthalpy_per_atom < group[pressure].enthalpy_per_atom:
            group[pressure] = entry
    for (phase, _), group in groups.items():
        if len({entry.reduced for entry in group.values()}) > 1:
            raise InputError(f"{phase}: several compositions bear this name; give every phase a name of its own")
    return [EnthalpyCurve(p, level, tuple(group[x] for x in sorted(group))) for (p, level), group in groups.items()]


def _phase(pool: Pool, entry: Entry) -> str:
    source = pool.sources[entry.run]
    stem = Path(entry.run).stem
    name = source.names.get(entry.id, "") if isinstance(source, Loose) else entry.name
    return stem if name in ("", f"{stem}-{entry.id}") else name


def differences(found: Sequence[EnthalpyCurve], reference: str | None = None) -> list[Difference]:
    """Return every phase relative to the reference of its own level of theory.

    Where the reference was not computed at a phase's pressure, its enthalpy is interpolated (monotone cubics), never
    extrapolated.

    Args:
        found: from :func:`curves`.
        reference: name of a phase; the first by default.

    Raises:
        ConfigError: there is no such phase, or the phases are not of one composition.
    """
    from scipy.interpolate import PchipInterpolator

    name = reference or found[0].phase
    if name not in {curve.phase for curve in found}:
        raise ConfigError(f"no phase is called {name}; there are {', '.join(dict.fromkeys(c.phase for c in found))}")
    if len({curve.entries[0].reduced for curve in found}) > 1:
        raise ConfigError("phases of several compositions have no enthalpy difference; give those of one")
    made = []
    for level in dict.fromkeys(curve.level for curve in found):
        mine = [curve for curve in found if curve.level == level]
        base = next((curve for curve in mine if curve.phase == name), None)
        if base is None:
            raise ConfigError(f"{name} is not there at the level of theory '{level or 'not stated'}'; give it too")
        p, h = base.pressures, base.enthalpies
        for curve in mine:
            inside = (curve.pressures >= p[0] - 1e-6) & (curve.pressures <= p[-1] + 1e-6)
            at = curve.pressures[inside]
            zero = PchipInterpolator(p, h)(at) if len(p) > 1 else np.repeat(h, len(at))
            made.append(
                Difference(curve.phase, level, tuple(at.tolist()), tuple((curve.enthalpies[inside] - zero).tolist()))
            )
    return made


def transitions(found: Sequence[Difference]) -> list[Transition]:
    """Return where the lowest phase changes, at each level of theory, on the pressures that all phases have."""
    made = []
    for level in dict.fromkeys(one.level for one in found):
        mine = {o.phase: dict(zip(o.pressures, o.differences, strict=True)) for o in found if o.level == level}
        common = sorted(set.intersection(*(set(values) for values in mine.values())))
        for p, q in pairwise(common):
            a, b = (min(mine, key=lambda phase, at=at: mine[phase][at]) for at in (p, q))  # type: ignore[misc]
            if a != b:
                gap_p, gap_q = mine[b][p] - mine[a][p], mine[b][q] - mine[a][q]
                made.append(Transition(level, a, b, p + (q - p) * gap_p / (gap_p - gap_q)))
    return made


def jumps(curve: EnthalpyCurve, tolerance: float = 0.01) -> list[str]:
    """Return where a curve cannot be one state of one phase, a line each.

    A phase's enthalpy has the slope V and its volume falls with pressure, so that between two pressures H rises by
    something between the one V dP and the other. A model that changes from one state to another there breaks this.

    Args:
        curve: with volumes.
        tolerance: how much more or less is let pass, eV/atom.
    """
    said = []
    for low, high in pairwise(curve.entries):
        if low.pressure_gpa is None or high.pressure_gpa is None:
            continue
        rise = high.enthalpy_per_atom - low.enthalpy_per_atom
        step = high.pressure_gpa - low.pressure_gpa
        least, most = (pv_energy(step, entry.volume_per_atom) for entry in (high, low))
        if not least - tolerance <= rise <= most + tolerance:
            said.append(
                f"{curve.phase}: from {low.pressure_gpa:g} to {high.pressure_gpa:g} GPa H rises by {rise:.3f} eV/atom, "
                f"where volumes of {low.volume_per_atom:.1f} and {high.volume_per_atom:.1f} Å³/atom ask for "
                f"{least:.3f} to {most:.3f}: these are two states, or the model is not to be trusted there"
            )
    return said


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
        step = replace(task, out=task.out / f"{pressure:g}GPa", pressure=pressure, keep_symmetry=True)
        named = [(Path(name), 1, replace(s, comment=name)) for name, s in current.items()]
        for done in relax_all(named, step):
            output = done.fields.get("output")
            if output is not None:
                cell, scaled = np.array(output["cell"]), np.array(output["scaled"])
                current[done.name] = Structure(tuple(output["symbols"]), cell, scaled, done.name)
            yield pressure, done
