"""What of a search is stable at temperatures: free energies of its phases, a hull at each, and what that changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.symmetry import find_group
from uspex_bridge.results.hulls.hull import Hull, build_hull
from uspex_bridge.results.hulls.rescore import Again, each_again
from uspex_bridge.results.hulls.stability import Question, assess, blocks_of, without_holes
from uspex_bridge.results.reading.join import structure_of
from uspex_bridge.results.reading.model import Entry, Pool
from uspex_bridge.results.thermal.following import Followed, follow

if TYPE_CHECKING:
    from uspex_bridge.call.correction import Second
    from uspex_bridge.call.thermal import FreeEnergyTask, Method

#: Times that modes of what was found by following modes are followed again.
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class ThermalPhase:
    """A phase at rest and at temperatures.

    Attributes:
        entry: relaxed, with H.
        structure: at rest.
        lines: what :func:`uspex_bridge.call.thermal.free_energies` says of it, by method and temperature, K.
    """

    entry: Entry
    structure: Structure
    lines: Mapping[tuple[str, float], dict[str, Any]]

    @cached_property
    def group(self) -> str:
        """Space group at rest."""
        return str(find_group(self.structure) or "?")

    @property
    def formula(self) -> str:
        """Formula of the composition, as hulls and figures write it."""
        return formula_of(self.entry.reduced)

    @property
    def lowest_thz(self) -> float:
        """Lowest harmonic frequency on the supercell's wave vectors, THz; NaN where there are no phonons."""
        found = [line["lowest_harmonic_thz"] for line in self.lines.values() if "lowest_harmonic_thz" in line]
        return float(found[0]) if found else math.nan

    @property
    def unstable(self) -> bool:
        """Whether it has imaginary modes at rest."""
        return any(line.get("code") == "unstable" for line in self.lines.values())

    def softest(self, temperature: float) -> tuple[float, float, bool] | None:
        """Lowest frequency of the curvature of F by ``scha``, its error, THz, and whether it is imaginary; or None."""
        line = self.lines.get(("scha", temperature), {})
        found = line.get("hessian_thz")
        return None if found is None else (float(found), float(line["hessian_error_thz"]), bool(line["unstable"]))

    def g(self, method: str, temperature: float) -> float:
        """G in eV/atom, NaN where there is none."""
        line = self.lines.get((method, temperature), {})
        return float(line["g"]) / self.entry.natoms if "g" in line else math.nan

    def error(self, method: str, temperature: float) -> float | None:
        """Standard error of G in eV/atom; None where G is not sampled."""
        error = self.lines.get((method, temperature), {}).get("g_error")
        return None if error is None else float(error) / self.entry.natoms


@dataclass(frozen=True, eq=False)
class FreeEnergies:
    """The answer.

    Attributes:
        method: of the hulls; ``corrected`` is that of ``scha`` corrected to a second model or to labels.
        pressure_gpa: GPa.
        temperatures: K.
        phases: by distance to the hull at rest.
        at_rest: the hull of enthalpies, None where none can be built.
        hulls: at each temperature; those that cannot be built are left out. Where an element has no free energy, the
            hull is that of the others alone.
        problems: why a hull of all cannot be built, by temperature; None is the one at rest.
        left: names of the phases that ``promote`` kept out of the self-consistent calculations.
        followed: what the lowest modes of unstable phases lead to, where that was asked.
        failed: structures that could not be relaxed.
        warnings: what must be known before believing it.
        folder: of the task that computed it.
    """

    method: Method | Literal["corrected"]
    pressure_gpa: float
    temperatures: tuple[float, ...]
    phases: tuple[ThermalPhase, ...]
    at_rest: Hull | None
    hulls: Mapping[float, Hull]
    problems: Mapping[float | None, str]
    left: tuple[str, ...]
    followed: tuple[Followed, ...]
    failed: tuple[Again, ...]
    warnings: tuple[str, ...]
    folder: Path

    def above(self, name: str, temperature: float | None) -> float:
        """Distance to the hull at a temperature, at rest for None, eV/atom; NaN where there is none."""
        hull = self.hull(temperature)
        point = None if hull is None else hull.by_name.get(name)
        return math.nan if point is None else point.above

    def hull(self, temperature: float | None) -> Hull | None:
        """Return the hull at a temperature, at rest for None."""
        return self.at_rest if temperature is None else self.hulls.get(temperature)

    def stable(self, temperature: float | None) -> list[Entry]:
        """Corners of a hull, none where it cannot be built."""
        hull = self.hull(temperature)
        return [] if hull is None else [point.entry for point in hull.vertices]


def free_energies(
    pool: Pool,
    question: Question,
    task: FreeEnergyTask,
    *,
    keep_symmetry: bool = False,
    method: Method = "harmonic",
    promote: float = 0.05,
    correct: Second | None = None,
    wanted: Collection[str] = (),
    most: int | None = None,
    entries: Sequence[Entry] | None = None,
    observe: Callable[[str], None] = lambda what: None,
) -> FreeEnergies:
    """Relax the phases of a pool near its hull, compute their free energies, and build a hull at each temperature.

    Args:
        pool: a search, or structures without energies, all of which are taken then.
        question: window and definition of a phase.
        task: free energies; phases are relaxed at rest with its settings first, and what its folder has is kept.
        keep_symmetry: symmetry kept at rest, for phases that only motion stabilises.
        method: ``harmonic`` for all; ``qha`` or ``scha`` for those within ``promote`` of a harmonic hull, ``scha``
            also for those with imaginary modes.
        promote: eV/atom.
        correct: a second model, or labels, that the free energies of ``scha`` are corrected to.
        wanted: names of phases that ``qha`` or ``scha`` is done for whatever their distance to a harmonic hull.
        most: at most so many phases, nearest the hull first.
        entries: the phases to compute in place of those that :func:`chosen` finds.
        observe: called with a word after every structure.

    Raises:
        InputError: there is nothing to compute.
        ConfigError: a correction of another method than ``scha``.
        ConfigError, ModelError, OutputError: see :func:`uspex_bridge.call.thermal.free_energies`.
    """
    if correct is not None and method != "scha":
        raise ConfigError(f"only free energies of scha can be corrected, not those of {method}")
    found, warnings = (entries, []) if entries is not None else chosen(pool, question, [task.pressure], most)
    done = list(_relaxed(pool, found, task, keep_symmetry, observe))
    failed = tuple(again for again, _ in done if again.after is None)
    rest = {again.after.name: (again.after, s) for again, s in done if again.after is not None and s is not None}
    if not rest:
        raise InputError(f"no structure could be relaxed: {failed[0].reason}" if failed else "there is no structure")
    sound, left_out = without_holes([entry for entry, _ in rest.values()], with_holes=question.with_holes)
    phases = {entry.name: ThermalPhase(entry, rest[entry.name][1], {}) for entry in sound}
    problems: dict[float | None, str] = {}
    blocks = blocks_of(pool)

    def hull(entries: Sequence[Entry], at: float | None) -> Hull | None:
        try:
            return build_hull(entries, question.components, blocks)
        except (InputError, ConfigError) as error:
            problems[at] = str(error)
        pure = sorted({entry.reduced[0][0] for entry in entries if entry.valid and len(entry.reduced) == 1})
        return build_hull(entries, pure) if pure and question.components is None else None

    phases = _with(phases, list(phases), "harmonic", task, observe)
    followed: list[Followed] = []
    if task.follow:
        phases, followed = _followed(phases, task, observe, with_holes=question.with_holes)
    at_rest = hull([phase.entry for phase in phases.values()], None)
    hulls = _hulls(phases, "harmonic", task.temperatures, hull)
    left: tuple[str, ...] = ()
    if method != "harmonic":
        ahead = {*wanted, *promoted(phases.values(), hulls, promote, method)}
        left = tuple(name for name in phases if name not in ahead)
        for key in task.temperatures:
            problems.pop(key, None)
        phases = _with(phases, [name for name in phases if name in ahead], method, task, observe)
        hulls = _hulls(phases, method, task.temperatures, hull)
    if correct is not None:
        phases = _corrected(phases, correct, task, observe)
        hulls = _hulls(phases, "corrected", task.temperatures, hull)
    order = {name: k for k, name in enumerate(at_rest.by_name)} if at_rest is not None else {}
    listed = sorted(phases.values(), key=lambda phase: order.get(phase.entry.name, len(order)))
    return FreeEnergies(
        method=method if correct is None else "corrected",
        pressure_gpa=task.pressure,
        temperatures=task.temperatures,
        phases=tuple(listed),
        at_rest=at_rest,
        hulls=hulls,
        problems=problems,
        left=left,
        followed=tuple(followed),
        failed=failed,
        warnings=(*warnings, *left_out),
        folder=task.out,
    )


def chosen(
    pool: Pool, question: Question, pressures: Sequence[float], most: int | None = None
) -> tuple[list[Entry], list[str]]:
    """Return the phases to compute, nearest a hull of enthalpies first, and warnings.

    Those within the window of the hull at the pool's own pressure, or at any of ``pressures``, GPa, where H is taken
    as E + PV at the geometry at hand; all structures where nothing says their enthalpies.
    """
    if not any(entry.valid for entry in pool.entries):
        return list(pool.entries)[:most], []
    own = assess(pool, replace(question, pressure_gpa=None))
    others = [at for at in pressures if any(e.pressure_gpa not in (None, at) for e in pool.entries if e.valid)]
    answers = [own, *(assess(pool, replace(question, pressure_gpa=at)) for at in others)]
    nearest: dict[str, float] = {}
    for answer in answers:
        for phase in answer.phases:
            name = phase.entry.name
            nearest[name] = min(answer.hull.by_name[name].above, nearest.get(name, math.inf))
    entries = {entry.name: entry for entry in pool.entries}
    names = sorted(nearest, key=lambda name: nearest[name])
    return [entries[name] for name in names][:most], list(own.warnings)


def _relaxed(
    pool: Pool, entries: Sequence[Entry], task: FreeEnergyTask, keep_symmetry: bool, observe: Callable[[str], None]
) -> Iterator[tuple[Again, Structure | None]]:
    """Relax entries, and yield each with its structure at rest, None where there is none."""
    for again, done in each_again(pool, entries, task.at_rest(keep_symmetry=keep_symmetry)):
        observe("relaxed")
        output = done.fields.get("output")
        if again.after is None or output is None:
            yield again, None
        else:
            yield again, structure_of(output, again.before.name)


def _followed(
    phases: Mapping[str, ThermalPhase], task: FreeEnergyTask, observe: Callable[[str], None], *, with_holes: bool
) -> tuple[dict[str, ThermalPhase], list[Followed]]:
    """Return phases with those that the modes of unstable ones lead to, and where each mode led."""
    every, fresh = dict(phases), dict(phases)
    found: list[Followed] = []
    for _ in range(_ROUNDS):
        if not (starts := _downhill(fresh.values())):
            break
        more = follow(starts, task, len(every) - len(phases), observe, with_holes=with_holes)
        below = [(one.after, one.structure) for one in more if one.after is not None and one.structure is not None]
        fresh = {entry.name: ThermalPhase(entry, structure, {}) for entry, structure in below}
        fresh = _with(fresh, list(fresh), "harmonic", task, observe)
        every |= fresh
        found += more
    return every, found


def _downhill(phases: Iterable[ThermalPhase]) -> list[tuple[Entry, Structure | None]]:
    """Return unstable phases with their supercells displaced along the lowest mode."""
    found = []
    for phase in phases:
        line = next((line for line in phase.lines.values() if "downhill" in line), None)
        if line is not None:
            place = line["downhill"]
            found.append((phase.entry, None if place is None else structure_of(place)))
    return found


def _with(
    phases: Mapping[str, ThermalPhase],
    names: Sequence[str],
    method: Method,
    task: FreeEnergyTask,
    observe: Callable[[str], None],
) -> dict[str, ThermalPhase]:
    """Return phases with the free energies of some of them by a method."""
    from uspex_bridge.call.thermal import Rest, free_energies

    found: dict[str, dict[tuple[str, float], dict[str, Any]]] = {name: {} for name in phases}
    jobs = [Rest(name, phases[name].structure, phases[name].entry.enthalpy) for name in names]
    for line in free_energies(jobs, method, task):
        found[line["name"]][method, line["temperature"]] = line
        observe(method)
    return {name: replace(phase, lines={**phase.lines, **found[name]}) for name, phase in phases.items()}


def _corrected(
    phases: Mapping[str, ThermalPhase], second: Second, task: FreeEnergyTask, observe: Callable[[str], None]
) -> dict[str, ThermalPhase]:
    """Return phases with their free energies of ``scha`` corrected."""
    from uspex_bridge.call.correction import corrections

    made = {name: dict(phase.lines) for name, phase in phases.items()}
    for line in corrections(sampled(phases.values()), second, task):
        made[line["name"]]["corrected", line["temperature"]] = line
        observe("corrected")
    return {name: replace(phase, lines=made[name]) for name, phase in phases.items()}


def sampled(phases: Iterable[ThermalPhase]) -> list[dict[str, Any]]:
    """Return the lines of the free energies of ``scha``."""
    lines = (line for phase in phases for (method, _), line in phase.lines.items() if method == "scha")
    return [line for line in lines if "g" in line]


def _hulls(
    phases: Mapping[str, ThermalPhase],
    method: str,
    temperatures: Sequence[float],
    hull: Callable[[Sequence[Entry], float | None], Hull | None],
) -> dict[float, Hull]:
    """Return the hulls of the free energies by one method."""
    made = {}
    for temperature in temperatures:
        entries = []
        for phase in phases.values():
            line = phase.lines.get((method, temperature), {})
            if "g" in line:
                level = f"{line['level']}, G at {temperature:g} K {method}"
                entries.append(replace(phase.entry, enthalpy=line["g"], volume=line["volume"], level=level))
        if (built := hull(entries, temperature)) is not None:
            made[temperature] = built
    return made


def promoted(phases: Iterable[ThermalPhase], hulls: Mapping[float, Hull], promote: float, method: Method) -> list[str]:
    """Return the names of the phases that ``qha`` or ``scha`` is worth doing for, see :func:`free_energies`.

    Args:
        phases: with harmonic free energies.
        hulls: of those, at each temperature.
        promote: distance to a hull, eV/atom.
        method: what would be done.
    """
    return [phase.entry.name for phase in phases if _promoted(phase, hulls, promote, unstable=method == "scha")]


def _promoted(phase: ThermalPhase, hulls: Mapping[float, Hull], promote: float, *, unstable: bool) -> bool:
    """Tell whether a phase deserves more than phonons at rest; those with imaginary modes do if ``unstable``."""
    points = [hull.by_name.get(phase.entry.name) for hull in hulls.values()]
    if phase.unstable:
        return unstable
    if not points or None in points:
        return True
    return any(point is not None and point.above <= promote + 1e-9 for point in points)


def with_stability(pool: Pool, folder: Path) -> Pool:
    """Return a pool whose entries have the lowest harmonic frequency that a folder of free energies knows.

    They get the properties ``lowest_thz`` and ``unstable`` (1 with imaginary modes, else 0).

    Raises:
        InputError: there are no free energies in the folder, or none of these structures.
    """
    from uspex_bridge.call.thermal import LINES

    path = folder / LINES
    if not path.is_file():
        raise InputError(f"{folder}: there is no {LINES} in it; uspex-bridge free-energy writes it")
    found: dict[tuple[Path, str], tuple[tuple[str, float], ...]] = {}
    for line in jsonl.read(path):
        if line.get("method") == "harmonic" and "lowest_harmonic_thz" in line:
            run, _, number = str(line["name"]).rpartition(":EA")
            unstable = float(line.get("code") == "unstable")
            found[Path(run).resolve(), number] = (
                ("lowest_thz", round(float(line["lowest_harmonic_thz"]), 4)),
                ("unstable", unstable),
            )
    places = {run: Path(run).resolve() for run in pool.sources}
    entries = [
        replace(entry, properties=(*entry.properties, *found.get((places[entry.run], str(entry.id)), ())))
        for entry in pool.entries
    ]
    if all(one.properties == other.properties for one, other in zip(entries, pool.entries, strict=True)):
        raise InputError(f"{path}: it has phonons of none of these structures; name the same places as for free-energy")
    return pool.only(entries)
