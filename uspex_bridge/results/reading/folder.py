"""A results folder of either line of USPEX as one object, finished or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.results.reading import matlab, python_line, uspex26
from uspex_bridge.results.reading.join import attach, record_of
from uspex_bridge.results.reading.matlab import Notes, Ranked
from uspex_bridge.results.reading.model import NAN, Composition, Entry, is_dense
from uspex_bridge.results.reading.poscars import Block, PoscarFile
from uspex_bridge.results.reading.settings import Line, SearchSettings, settings_of_results

State = Literal["finished", "running", "unfinished", "given up"]
#: Volumes of Individuals and gatheredPOSCARS that differ by more are noted; by more than the second, relative, they are
#: those of different structures.
_SAME_VOLUME, _OTHER_VOLUME = 0.01, 0.05
#: USPEX's words before it leaves because less than a third of a generation came out.
_GAVE_UP = b"Too many structures have errors"


@dataclass(frozen=True, eq=False)
class Results:
    """One ``results<k>`` folder.

    Structures are read from disk when they are asked for; everything else is in memory.

    Attributes:
        path, label: the folder, and what it is called in names and tables.
        line: which line of USPEX wrote it; state: whether the search is over (``running``: USPEX's lock is there;
            ``given up``: USPEX left since too few structures of a generation came out).
        settings: pressure, species, blocks.
        entries: every line of Individuals, by ID.
        best: generation -> IDs of BESTIndividuals.
        record: the bridge's record that belongs to it, if there is one.
        notes: what could not be read, with file and line.
    """

    path: Path
    label: str
    line: Line
    state: State
    settings: SearchSettings
    entries: tuple[Entry, ...]
    best: dict[int, list[int]]
    relaxed: PoscarFile | None
    starting: PoscarFile | None
    record: Path | None
    reading_notes: Notes = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Unreadable data so far, one line each."""
        files = [f.notes for f in (self.relaxed, self.starting) if f is not None]
        return [*self.reading_notes, *(note for notes in files for note in notes)]

    @cached_property
    def by_id(self) -> dict[int, Entry]:
        """The entries by ID."""
        return {entry.id: entry for entry in self.entries}

    def find(self, word: str) -> Entry:
        """Return the entry of an ID as a user types it, ``7`` or ``EA7``.

        Raises:
            InputError: there is none.
        """
        digits = word.upper().removeprefix("EA")
        if not digits.isdigit() or int(digits) not in self.by_id:
            raise InputError(f"{self.path}: there is no structure {word} in Individuals")
        return self.by_id[int(digits)]

    @cached_property
    def generations(self) -> tuple[int, ...]:
        """The generations that have entries."""
        return tuple(sorted({entry.generation for entry in self.entries if entry.generation is not None}))

    @cached_property
    def ranked(self) -> list[Ranked]:
        """USPEX's own list of unique structures, the best first: extended_convex_hull, else goodStructures."""
        names = ("extended_convex_hull", "goodStructures")
        path = next((self.path / name for name in names if (self.path / name).exists()), None)
        if path is None:
            return []
        if self.line == "matlab":
            return matlab.read_ranked(path, self.reading_notes)
        if self.line == "uspex26":
            return uspex26.read_ranked(path, self.reading_notes)
        return python_line.read_ranked(path, self.reading_notes, {e.id: e.natoms for e in self.entries})

    @cached_property
    def convex_hulls(self) -> dict[int, list[tuple[Composition, float]]]:
        """USPEX's own hull of each generation: stable compositions and their enthalpies, eV/atom."""
        path = self.path / "convex_hull"
        if not path.exists() or self.line == "uspex26":
            return {}
        if self.line == "matlab":
            found = matlab.read_convex_hull(path, self.reading_notes)
            return {
                generation: [(self._composition(counts), energy) for counts, energy in lines]
                for generation, lines in found.items()
            }
        ids = python_line.read_generations(path, self.reading_notes)
        return {
            generation: [(self.by_id[i].composition, self.by_id[i].enthalpy_per_atom) for i in row if i in self.by_id]
            for generation, row in ids.items()
        }

    def _composition(self, counts: Sequence[int]) -> Composition:
        return _named(counts, self.settings.species)

    def structures(self, entries: Sequence[Entry] | None = None) -> Iterator[tuple[Entry, Structure]]:
        """Yield relaxed structures one at a time, in the order of gatheredPOSCARS."""
        yield from self._read(self.relaxed, self.entries if entries is None else entries)

    def unrelaxed(self, entries: Sequence[Entry] | None = None) -> Iterator[tuple[Entry, Structure]]:
        """Yield the structures as the operators made them (gatheredPOSCARS_unrelaxed)."""
        yield from self._read(self.starting, self.entries if entries is None else entries)

    def _read(self, source: PoscarFile | None, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Structure]]:
        if source is not None:
            for number, structure in source.read([entry.id for entry in entries]):
                yield self.by_id[number], structure

    def fitness_per_atom(self, entry: Entry) -> float:
        """Return USPEX's fitness of a variable composition, eV per block but in USPEX 26, in eV/atom.

        Raises:
            InputError: the blocks are not known, or the composition is not made of them.
        """
        return entry.fitness if self.line == "uspex26" else entry.fitness * self.blocks_in(entry) / entry.natoms

    def blocks_in(self, entry: Entry) -> float:
        """Return how many blocks a cell holds; see :meth:`fitness_per_atom`."""
        import numpy as np

        if not self.settings.blocks:
            raise InputError(f"{self.path}: the blocks of the compositions are unknown (no Parameters.txt)")
        counts = dict(entry.composition)
        wanted = np.array([counts.get(symbol, 0) for symbol in self.settings.species], dtype=float)
        matrix = np.array(self.settings.blocks, dtype=float).T
        amounts = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        if np.abs(matrix @ amounts - wanted).max() > 1e-6:
            raise InputError(f"{entry.name}: {entry.formula} is not made of the search's blocks")
        return float(amounts.sum())


def results_folders(place: Path) -> list[Path]:
    """Return the results folders at ``place``: itself, or the ``results<k>`` in it, by number.

    Raises:
        InputError: there is none.
    """
    if not place.is_dir():
        raise InputError(f"{place}: there is no such file or folder")
    if (place / "Individuals").is_file():
        return [place]
    found = [
        (int(m[1]), path)
        for path in place.glob("results*")
        if (m := re.fullmatch(r"results(\d+)", path.name)) and (path / "Individuals").is_file()
    ]
    if not found:
        raise InputError(f"{place}: neither a results folder of USPEX (with a file Individuals) nor a folder with any")
    return [path for _, path in sorted(found)]


def open_all(places: Sequence[Path], *, record: bool = True) -> list[Results]:
    """Open every results folder at ``places``; labels are the folders as given, so that they stay apart.

    Raises:
        InputError: a place holds no results.
    """
    return [open_results(path, str(path), record=record) for place in places for path in results_folders(place)]


def open_results(path: Path, label: str | None = None, *, record: bool = True) -> Results:
    """Open one results folder.

    Args:
        path: the folder that holds Individuals.
        label: its name in tables; by default the path.
        record: whether to look up every entry in the bridge's record beside it.

    Raises:
        InputError: there is no Individuals, or it cannot be read.
    """
    notes: Notes = []
    individuals = path / "Individuals"
    try:
        with individuals.open(encoding="utf-8-sig", errors="replace") as stream:
            first = next((line for line in stream if line.strip() and not line.lstrip().startswith("#")), "")
    except OSError as error:
        raise InputError(f"{individuals}: {error.strerror}; a results folder of USPEX has one") from None
    if "\0" in first or "\ufffd" in first:
        raise InputError(f"{individuals}: not a text in UTF-8; it may be compressed, or in UTF-16")
    line: Line = "python" if first.startswith("+") else "uspex26" if uspex26.is_table(first) else "matlab"
    settings = settings_of_results(path, line, notes)
    # Metadynamics strains its cells; what it relaxes after that has files of its own.
    meta = settings.method == "META"
    ending = "_relaxed" if meta and (path / "Individuals_relaxed").is_file() else ""
    if meta and not ending:
        notes.append(f"{individuals}: metadynamics without relaxed structures (FullRelax): its cells are strained")
    relaxed = _poscars(path / f"gatheredPOSCARS{ending}", settings.species, notes)
    begun = path / ("gatheredPOSCARS" if meta else "gatheredPOSCARS_unrelaxed")
    starting = _poscars(begun, settings.species, [] if line == "uspex26" else notes)
    name = label or str(path)
    if line == "matlab":
        rows, best = _matlab_rows(path, ending, notes)
        settings = replace(settings, species=settings.species or _species(rows, relaxed))
    elif line == "uspex26":
        rows, best = _rows_of_26(path, relaxed, notes)
        settings = replace(settings, species=uspex26.species_of(rows, relaxed, settings.species, notes))
    else:
        rows, best = _python_rows(path, notes)
    if not rows:
        if unread := [note for note in notes if note.startswith(f"{individuals}, line")]:
            raise InputError(f"{unread[0]}; no line of it can be read")
        if line == "matlab" and first and "ID" not in first.split():
            raise InputError(
                f"{individuals}: not a table of a known version of USPEX; its first line is '{first.strip()[:40]}'"
            )
    entries = _entries(rows, name, settings, relaxed, notes)
    found = record_of(path) if record else None
    if found is not None:
        entries, apart = attach(entries, found, starting.read([e.id for e in entries]) if starting is not None else ())
        notes += apart
    entries = tuple(replace(entry, dense=True) if is_dense(entry) else entry for entry in entries)
    return Results(path, name, line, _state(path), settings, entries, best, relaxed, starting, found, notes)


def _poscars(path: Path, species: Sequence[str], notes: Notes) -> PoscarFile | None:
    if path.is_file():
        return PoscarFile.open(path, species)
    notes.append(f"{path}: there is no such file; the structures in it are not available")
    return None


def _state(path: Path) -> State:
    if any((place / "USPEX_IS_DONE").exists() for place in (path, path.parent)):
        return "finished"
    output = path / "OUTPUT.txt"
    if output.is_file():
        with output.open("rb") as stream:
            stream.seek(max(0, output.stat().st_size - 2000))
            tail = stream.read()
        if b"Job Finished" in tail or b"Calculation results" in tail:
            return "finished"
        if _GAVE_UP in tail:
            return "given up"
    return "running" if (path.parent / "still_running").exists() else "unfinished"


Rows = list[dict[str, Any]]


def _matlab_rows(path: Path, ending: str, notes: Notes) -> tuple[Rows, dict[int, list[int]]]:
    individuals = path / f"Individuals{ending}"
    rows = _unique(matlab.read_individuals(individuals, notes), individuals, notes)
    steps = path / "enthalpies_complete.dat"
    if steps.is_file() and not any("per_atom" in row for row in rows):
        _add_steps(rows, matlab.read_step_enthalpies(steps, notes), steps, notes)
    if (path / "origin").is_file():
        _add_origin(rows, matlab.read_origin(path / "origin", notes))
    best: dict[int, list[int]] = {}
    if (path / f"BESTIndividuals{ending}").is_file():
        for row in matlab.read_individuals(path / f"BESTIndividuals{ending}", notes):
            best.setdefault(row["generation"], []).append(row["id"])
    return rows, best


def _python_rows(path: Path, notes: Notes) -> tuple[Rows, dict[int, list[int]]]:
    rows = _unique(python_line.read_individuals(path / "Individuals", notes), path / "Individuals", notes)
    steps = path / "enthalpies_complete.csv"
    _add_steps(rows, matlab.read_step_enthalpies(steps, notes) if steps.is_file() else [], steps, notes)
    if (path / "origin").is_file():
        _add_origin(rows, python_line.read_origin(path / "origin", notes))
    born = python_line.read_birth(path / "OUTPUT.txt") if (path / "OUTPUT.txt").is_file() else {}
    for row in rows:
        row["generation"] = born.get(row["id"])
    best_file = path / "BESTIndividuals"
    best = python_line.read_generations(best_file, notes) if best_file.is_file() else {}
    return rows, best


def _rows_of_26(path: Path, relaxed: PoscarFile | None, notes: Notes) -> tuple[Rows, dict[int, list[int]]]:
    individuals, best = path / "Individuals", path / "BESTIndividuals"
    rows = uspex26.unique(uspex26.read_individuals(individuals, notes), relaxed, individuals, notes)
    return rows, uspex26.generations_of(uspex26.read_individuals(best, notes) if best.is_file() else [])


def _unique(rows: Rows, path: Path, notes: Notes) -> Rows:
    """Keep the last row of each ID, sorted by ID."""
    by_id = {row["id"]: row for row in rows}
    if len(by_id) < len(rows):
        notes.append(f"{path}: {len(rows) - len(by_id)} IDs occur twice; the last line of each is used")
    return [by_id[number] for number in sorted(by_id)]


def _add_steps(rows: Rows, steps: list[tuple[float, ...]], path: Path, notes: Notes) -> None:
    """Join line k of the enthalpies per step to the k-th ID; they belong together while the last one is H."""
    if not steps:
        return
    if len(steps) != len(rows):
        notes.append(f"{path}, line {min(len(steps), len(rows)) + 1}: {len(steps)} lines for {len(rows)} structures")
    for number, (row, values) in enumerate(zip(rows, steps, strict=False), 1):
        enthalpy = row["enthalpy"]
        if values and abs(values[-1] - enthalpy) > 0.002:
            notes.append(f"{path}, line {number}: {values[-1]} is not EA{row['id']}'s enthalpy {enthalpy}; not used on")
            return
        row["steps"] = values


def _add_origin(rows: Rows, made: dict[int, tuple[str, tuple[int, ...]]]) -> None:
    for row in rows:
        if row["id"] in made:
            operator, row["parents"] = made[row["id"]]
            row["origin"] = row["origin"] or operator


def _species(rows: Rows, relaxed: PoscarFile | None) -> tuple[str, ...]:
    """Find which element each place in a composition stands for, from structures with element lines."""
    width = max((len(row["counts"]) for row in rows), default=0)
    names = [f"?{k}" for k in range(1, width + 1)]
    for row in rows if relaxed is not None else []:
        block = relaxed.blocks.get(row["id"]) if relaxed is not None else None
        present = [k for k, count in enumerate(row["counts"]) if count]
        if block is not None and block.composition is not None and len(block.composition) == len(present):
            for k, (symbol, _) in zip(present, block.composition, strict=True):
                names[k] = symbol
            if not any(name.startswith("?") for name in names):
                break
    return tuple(names)


def _named(counts: Sequence[int], species: Sequence[str]) -> Composition:
    names = [*species, *(f"?{k}" for k in range(len(species) + 1, len(counts) + 1))]
    return tuple((symbol, count) for symbol, count in zip(names, counts, strict=False) if count)


def _entries(
    rows: Rows, label: str, settings: SearchSettings, relaxed: PoscarFile | None, notes: Notes
) -> tuple[Entry, ...]:
    entries, apart, loose = [], [], []
    for row in rows:
        block = relaxed.blocks.get(row["id"]) if relaxed is not None else None
        counts = row.pop("counts", None)
        written = row.pop("composition", ()) or (_named(counts, settings.species) if counts is not None else ())
        held = block.composition if block is not None else None
        composition = held or written
        if row.pop("per_atom", False):
            natoms = sum(n for _, n in composition) or NAN
            row |= {"enthalpy": row["enthalpy"] * natoms, "volume": row.get("volume", NAN) * natoms}
        if block is not None and settings.crystals:
            if said := _contradiction(row, written, block):
                apart.append(f"EA{row['id']} is {said}")
                row["enthalpy"] = NAN
            elif _volumes_differ(row, block, _SAME_VOLUME):
                loose.append(f"EA{row['id']}")
        entries.append(
            Entry(
                run=label,
                composition=composition,
                pressure_gpa=settings.pressure_gpa,
                substrate=settings.surfaces,
                **row,
            )
        )
    if relaxed is not None:
        notes += [f"{relaxed.path}: {line}; it is left out" for line in apart]
    if relaxed is not None and loose:
        some = ", ".join(loose[:5]) + (f" and {len(loose) - 5} more" if len(loose) > 5 else "")
        limits = f"{100 * _SAME_VOLUME:g} to {100 * _OTHER_VOLUME:g} %"
        notes.append(
            f"{relaxed.path}: the volume of {some} differs by {limits} from that in Individuals, which is used"
        )
    missing = sum(1 for entry in entries if relaxed is not None and entry.id not in relaxed.blocks and entry.valid)
    if missing and relaxed is not None:
        notes.append(f"{relaxed.path}: {missing} of {len(entries)} structures of Individuals are not in it")
    without = [entry.id for entry in entries if entry.volume != entry.volume]
    if relaxed is not None and without:
        volumes = {number: structure.volume for number, structure in relaxed.read(without)}
        entries = [replace(e, volume=volumes[e.id]) if e.id in volumes else e for e in entries]
    return tuple(entries)


def _contradiction(row: dict[str, Any], written: Composition, block: Block) -> str:
    """Say how a row of Individuals and its structure contradict each other, nothing where they do not."""
    held, volume = block.composition, row.get("volume", NAN)
    if held and written and sorted(held) != sorted(written) and not any(name.startswith("?") for name, _ in written):
        return f"{formula_of(written)} in Individuals and {formula_of(held)} there"
    if _volumes_differ(row, block, _OTHER_VOLUME):
        return f"of {volume:.3f} Å³ in Individuals and of {block.volume:.3f} Å³ there"
    return ""


def _volumes_differ(row: dict[str, Any], block: Block, limit: float) -> bool:
    return block.volume is not None and abs(row.get("volume", NAN) - block.volume) > limit * block.volume
