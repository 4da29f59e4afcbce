"""Seeds and anti-seeds: the structures nearest the hull of one or more searches, as another one reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, InputError
from uspex_bridge.base.files import write_whole
from uspex_bridge.base.units import pressure_of
from uspex_bridge.results.hulls.hull import amounts_of
from uspex_bridge.results.hulls.stability import Assessment
from uspex_bridge.results.phases.matching import Catalogue
from uspex_bridge.results.reading.model import Composition, Entry, composition_of

#: Largest deviation from the asked pressure that ends a search for the volume, GPa, and most evaluations.
_PRESSURE_TOLERANCE, _EVALUATIONS = 0.2, 12


@dataclass(frozen=True, eq=False)
class Seed:
    """A structure to hand over, and where it comes from."""

    entry: Entry
    above: float
    structure: Structure

    @property
    def title(self) -> str:
        """First line of its POSCAR."""
        place = "" if self.entry.pressure_gpa is None else f" at {self.entry.pressure_gpa:g} GPa"
        marks = f" ({' '.join(self.entry.marks)})" if self.entry.marks else ""
        text = f"EA{self.entry.id} {self.entry.formula} {self.above:.4f} eV/atom above the hull{place}{marks}, "
        # USPEX 9.4.4 hands this line to a shell and evaluates what comes back, in search of numbers in brackets.
        return re.sub(r"[^\w .,:/()+-]", "_", text + self.entry.run, flags=re.ASCII)


def choose(answers: Sequence[Assessment], number: int | None) -> list[Seed]:
    """Return the ``number`` phases nearest to their own hull, of all answers together, the hull's corners first.

    Each answer is one pressure (or one search). A phase that an answer with a nearer one has already given is left
    out; what one answer keeps apart stays apart, and no corner of a hull is left out.

    Args:
        answers: with their phases found, see :func:`uspex_bridge.results.hulls.stability.assess`.
        number: None takes all.
    """
    placed = [(answer.point(phase), k) for k, answer in enumerate(answers) for phase in answer.phases]
    placed.sort(key=lambda pair: (not pair[0].vertex, pair[0].above))
    found = {name: structure for answer in answers for name, structure in answer.structures.items()}
    given = [Catalogue(answer.question.tolerances) for answer in answers]
    joining = len(answers) > 1 and answers[0].question.method != "none"
    seeds: dict[str, Seed] = {}
    for point, k in placed:
        entry = point.entry
        if entry.name in seeds or entry.name not in found:  # a reference stands on every hull
            continue
        structure = found[entry.name]
        others = (held for which, held in enumerate(given) if which != k)
        if joining and not point.vertex and any(held.find(structure) is not None for held in others):
            continue
        seeds[entry.name] = Seed(entry, point.above, structure)
        if joining:
            given[k].add(entry.name, structure)
    return list(seeds.values())[:number]


def unreadable(answers: Sequence[Assessment]) -> list[str]:
    """Return a line that names the phases whose structures could not be read."""
    held = {name for answer in answers for name in answer.structures}
    lost = [p.entry.name for answer in answers for p in answer.phases if p.entry.name not in held]
    return [f"left out, since there is no readable structure of them: {', '.join(dict.fromkeys(lost))}"] if lost else []


def beyond(answers: Sequence[Assessment], seeds: Sequence[Seed], number: int | None) -> list[str]:
    """Return a line that names the corners of hulls that a limit to ``number`` seeds leaves out."""
    corners = {point.entry.name for answer in answers for point in answer.hull.vertices}
    lost = [seed.entry.name for seed in seeds[number:] if seed.entry.name in corners] if number is not None else []
    return [f"corners of a hull left out by the limit of {number}: {', '.join(lost)}"] if lost else []


def fit_for(
    seeds: Iterable[Seed], species: Sequence[str], blocks: Sequence[Composition]
) -> tuple[list[Seed], list[str]]:
    """Leave out what a search would stumble over: other elements stop its reading, other compositions are skipped.

    Args:
        seeds: candidates.
        species: elements of the search, empty where unknown.
        blocks: its building blocks, empty where unknown.

    Returns:
        the seeds that fit, and a line for each kind that was left out.
    """
    fitting: list[Seed] = []
    other_elements = other_compositions = 0
    for seed in seeds:
        composition = composition_of(seed.structure.symbols)
        if species and not set(seed.structure.symbols) <= set(species):
            other_elements += 1
        elif blocks and not _whole_blocks(composition, blocks):
            other_compositions += 1
        else:
            fitting.append(seed)
    notes = []
    if other_elements:
        notes.append(f"{other_elements} left out: they have elements other than {', '.join(species)}")
    if other_compositions:
        notes.append(f"{other_compositions} left out: not made of whole blocks of the search")
    return fitting, notes


def _whole_blocks(composition: Composition, blocks: Sequence[Composition]) -> bool:
    amounts = amounts_of(composition, tuple(blocks))
    return amounts is not None and all(abs(amount - round(amount)) < 1e-6 for amount in amounts)


Stress = Callable[[Structure], "np.ndarray"]


def at_new_pressure(structure: Structure, stress: Stress, pressure_gpa: float) -> Structure:
    """Scale a cell, shape and fractional coordinates kept, until a model's own pressure is the asked one.

    Args:
        structure: to be scaled.
        stress: the model's stress (6,) of a structure, eV/Å³, ASE's sign.
        pressure_gpa: asked.

    Raises:
        CalculationError: no volume gives that pressure.
    """
    scale = 0.0  # of ln V
    known: list[tuple[float, float]] = []
    for _ in range(_EVALUATIONS):
        pressure = pressure_of(stress(_scaled(structure, scale)))
        if not np.isfinite(pressure):
            break
        if abs(pressure - pressure_gpa) < _PRESSURE_TOLERANCE:
            return _scaled(structure, scale)
        known.append((scale, pressure - pressure_gpa))
        scale = _next_scale(known)
        if abs(scale) > 1.5:
            break
    tried = ", ".join(f"{offset + pressure_gpa:.1f}" for _, offset in known[-3:])
    raise CalculationError(f"the model has no volume for {pressure_gpa:g} GPa near this one (it came to {tried} GPa)")


def _next_scale(known: list[tuple[float, float]]) -> float:
    """Return the next ln V to try, from ln V and pressure offset of those before.

    By a guessed bulk modulus, then the secant; always towards larger volumes where the pressure is too high, and
    halved between a volume that is too small and one that is too large.
    """
    x, y = known[-1]
    too_small = [at for at, offset in known if offset > 0]
    too_large = [at for at, offset in known if offset < 0]
    slope = -150.0 - 2.0 * abs(y)  # GPa per ln V; metals stiffen with pressure about like this
    if len(known) > 1 and x != known[-2][0]:
        secant = (y - known[-2][1]) / (x - known[-2][0])
        slope = secant if secant < 0 else slope
    new = x + float(np.clip(-y / slope, -0.25, 0.25))
    if too_small and too_large and max(too_small) < min(too_large) and not max(too_small) < new < min(too_large):
        new = (max(too_small) + min(too_large)) / 2
    return new


def _scaled(structure: Structure, logarithm: float) -> Structure:
    factor = float(np.exp(logarithm / 3))
    return Structure(structure.symbols, structure.cell * factor, structure.scaled, structure.comment)


def format_seeds(seeds: Iterable[Seed], species: Sequence[str] = ()) -> str:
    """Return the seeds as both lines of USPEX read them.

    VASP-5 layout, fractional coordinates without labels, atoms grouped by element in the order of ``species`` (else
    as they come).
    """
    return "".join(format_poscar(seed.structure, seed.title, species) for seed in seeds)


def format_poscar(structure: Structure, title: str, species: Sequence[str] = ()) -> str:
    """Return one structure in the layout of gatheredPOSCARS, with more digits, in a right-handed cell."""
    structure = structure.right_handed
    elements = [symbol for symbol in species if symbol in structure.symbols]
    elements += [symbol for symbol in dict.fromkeys(structure.symbols) if symbol not in elements]
    symbols = np.array(structure.symbols)
    order = np.concatenate([np.flatnonzero(symbols == element) for element in elements])
    scaled = structure.scaled - np.floor(structure.scaled)
    lines = [title, "1.0000"]
    lines += ["".join(f" {value:14.9f}" for value in row) for row in structure.cell]
    lines.append("".join(f" {element:>4s}" for element in elements))
    lines.append("".join(f" {int((symbols == element).sum()):4d}" for element in elements))
    lines.append("Direct")
    lines += ["".join(f" {value:12.9f}" for value in scaled[k]) for k in order]
    return "\n".join(lines) + "\n"


def write_seeds(path: Path, text: str, *, force: bool = False) -> None:
    """Write a Seeds/POSCARS, whole or not at all.

    Raises:
        InputError: there is one already; USPEX reads and renames it, so it may not have been used yet.
        OutputError: it cannot be written.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: it exists; --force overwrites")
    write_whole(path, text)
