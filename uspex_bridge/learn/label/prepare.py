"""Structures turned into folders that a code can compute labels in; done twice, it adds only what is new."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import publish_files, writing
from uspex_bridge.base.locks import held
from uspex_bridge.base.templates import TEMPLATES, render
from uspex_bridge.base.words import counted
from uspex_bridge.call.structures import from_ase, unconstrained, wrong_label
from uspex_bridge.learn.data.identity import content_id
from uspex_bridge.learn.data.labels import read_frames
from uspex_bridge.learn.label import kpoints, vasp_inputs
from uspex_bridge.learn.label.settings import MAGNETIC, LabelSettings, format_settings, read_prepared_settings
from uspex_bridge.learn.label.tasks import RESULT, RUN_VASP, SETTINGS, STRUCTURE, LabelTask, folders
from uspex_bridge.results.reading.sources import open_sources

#: PAW spheres that overlap by more than this are told, and cutoffs below this times ENMAX.
_OVERLAP, _MARGIN = 0.2, 1.3
#: Lock of a folder of labels, and seconds to wait for it.
_LOCK, _WAIT = ".preparing", 60.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure to label.

    Attributes:
        structure: as it is.
        origin: its name where it comes from.
        family: empty means its own.
        pressure_gpa: of its search, None where nothing says it.
        reason: why it was chosen.
        own_pressure_gpa: estimated of the structure as it is, None where nobody has.
    """

    structure: Structure
    origin: str
    family: str = ""
    pressure_gpa: float | None = None
    reason: str = ""
    own_pressure_gpa: float | None = None


@dataclass
class Prepared:
    """What a preparation did.

    Attributes:
        made, there, labelled: identities of structures made new, there already, labelled already.
        scripts: job scripts that compute those made.
        without_potcar: structures in the folder that VASP cannot start on.
        notes: what to know.
    """

    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    without_potcar: int = 0
    notes: list[str] = field(default_factory=list)


def candidates(places: Sequence[str]) -> Iterator[Candidate]:
    """Yield the structures of extxyz files, results folders and everything else that ``open_sources`` reads.

    ``info`` of extxyz frames may hold origin (or name), family, pressure_gpa, own_pressure_gpa and reason.

    Raises:
        InputError: a place cannot be read.
    """
    for place in places:
        if place.endswith((".extxyz", ".xyz")):
            yield from _from_extxyz(Path(place))
            continue
        pool = open_sources([place])
        for entry, structure in pool.structures(pool.entries):
            yield Candidate(structure, entry.name, pressure_gpa=entry.pressure_gpa)


def _from_extxyz(path: Path) -> Iterator[Candidate]:
    for number, atoms in enumerate(read_frames(path), 1):
        info = atoms.info
        pressure = next((info[key] for key in ("pressure_gpa", "pressure_GPa") if key in info), None)
        own = info.get("own_pressure_gpa")
        yield Candidate(
            from_ase(unconstrained(atoms), f"{path}, frame {number}"),
            str(info.get("origin") or info.get("name") or f"{path.stem}-{number}"),
            str(info.get("family", "")),
            None if pressure is None else float(pressure),
            str(info.get("reason", "")),
            None if own is None else float(own),
        )


def prepare(
    wanted: Iterable[Candidate],
    labels: Path,
    settings: LabelSettings,
    *,
    generation: int,
    pressure_gpa: float | None = None,
    potcars: Path | None = None,
    known: Collection[str] = (),
    relax: bool = False,
) -> Prepared:
    """Write a folder per structure, job scripts for all that are not computed yet, and the settings.

    Args:
        wanted: the structures.
        labels: folder of the labels; structures that it has already stay as they are.
        settings: how labels are computed; a folder has one level of theory.
        generation: of the search, or number of the cycle.
        pressure_gpa: where a structure does not say the pressure of its search.
        potcars: the user's POTCAR library, for VASP.
        known: identities that need no label, normally those of the dataset.
        relax: relax each at its search's pressure before the single point; VASP only.

    Raises:
        ConfigError: the folder has other settings, or a pressure or data set is missing.
        OutputError: a file cannot be written.
        BusyError: another command has been preparing labels there for a minute.
    """
    if relax and settings.code != "vasp":
        raise ConfigError("--relax is for VASP; 'uspex-bridge relax' relaxes with a model")
    with writing(labels):
        labels.mkdir(parents=True, exist_ok=True)
    with held(labels / _LOCK, f"{labels}: another command prepares labels there; run this again later", _WAIT):
        return _prepare(wanted, labels, settings, generation, pressure_gpa, potcars, known, relax=relax)


def _prepare(
    wanted: Iterable[Candidate],
    labels: Path,
    settings: LabelSettings,
    generation: int,
    pressure_gpa: float | None,
    potcars: Path | None,
    known: Collection[str],
    *,
    relax: bool,
) -> Prepared:
    if (labels / SETTINGS).is_file():
        _same_level(labels, settings)
    else:
        publish_files(labels, {SETTINGS: format_settings(settings)})
    done, doubts = Prepared(), _Doubts()
    library = vasp_inputs.library(potcars) if settings.code == "vasp" else None
    sets = None if library is None else vasp_inputs.Potcars(library)
    for candidate in wanted:
        structure = _grouped(candidate.structure)
        identity = structure.comment
        folder = labels / identity
        if identity in known:
            done.labelled.append(identity)
        elif (folder / STRUCTURE).is_file() and not (sets is not None and (folder / "POTCAR.spec").is_file()):
            done.there.append(identity)
        else:
            pressure = pressure_gpa if candidate.pressure_gpa is None else candidate.pressure_gpa
            if pressure is None:
                raise ConfigError(f"{candidate.origin}: the pressure of its search is unknown; give --pressure")
            cutoff = max(pressure, candidate.own_pressure_gpa or pressure)
            given, files = _inputs(structure, cutoff, settings, sets, pressure if relax else None)
            _remember(given, structure, settings, doubts)
            task = _task(replace(candidate, structure=structure), pressure, settings, generation, given, files)
            with writing(folder):
                folder.mkdir(exist_ok=True)
            publish_files(folder, {**files, STRUCTURE: task.text()})
            if sets is not None:
                (folder / "POTCAR.spec").unlink(missing_ok=True)
            done.made.append(identity)
            if wrong := wrong_label(candidate.origin, candidate.structure):
                done.notes.append(f"{candidate.origin}: {wrong}")
    done.notes += doubts.notes()
    if settings.code != "model":
        done.scripts = _write_jobs(labels, settings) or _scripts_of(labels, done.made)
    done.without_potcar = sum(not (spec.parent / "POTCAR").is_file() for spec in labels.glob("*/POTCAR.spec"))
    if done.without_potcar:
        done.notes.append(
            f"{done.without_potcar} of the structures in {labels} have no POTCAR, and VASP cannot start without: give "
            f"--potcars DIR or set {vasp_inputs.VARIABLE} and prepare again, or assemble the POTCARs yourself, in the "
            "order of POTCAR.spec"
        )
    return done


@dataclass
class _Doubts:
    """What about the inputs of several structures a user should know, said once."""

    non_magnetic: dict[str, int] = field(default_factory=dict)
    overlaps: list[float] = field(default_factory=list)
    tight: dict[str, float] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return it in words."""
        found = [
            f"{symbol} starts without a magnetic moment in {counted(number, 'structure')} and stays without one; "
            "[magmom] gives it one"
            for symbol, number in self.non_magnetic.items()
        ]
        if wide := [overlap for overlap in self.overlaps if overlap > _OVERLAP]:
            found.append(
                f"PAW spheres overlap by more than {100 * _OVERLAP:g} % in {counted(len(wide), 'structure')} (by "
                f"{100 * max(wide):.0f} % at most): choose harder data sets for these under [potcars]"
            )
        if self.tight:
            found.append(
                f"ENCUT is less than {_MARGIN:g} x ENMAX of the POTCARs, {max(self.tight.values()):g} eV, in some: "
                "stresses need that"
            )
        return found


def _remember(given: Mapping[str, Any], structure: Structure, settings: LabelSettings, doubts: _Doubts) -> None:
    for symbol in sorted({*structure.symbols} & {*MAGNETIC}):
        if settings.code != "model" and not settings.moments([symbol])[0]:
            doubts.non_magnetic[symbol] = doubts.non_magnetic.get(symbol, 0) + 1
    if "sphere_overlap" in given:
        doubts.overlaps.append(given["sphere_overlap"])
    if given.get("enmax", 0.0) * _MARGIN > given.get("encut", 0.0):
        doubts.tight[structure.comment] = given["enmax"]


def _grouped(structure: Structure) -> Structure:
    """Return a structure with its atoms grouped by element, as POSCAR and POTCAR need them, named by its identity."""
    first = {symbol: k for k, symbol in reversed(list(enumerate(structure.symbols)))}
    order = sorted(range(len(structure)), key=lambda k: (first[structure.symbols[k]], k))
    symbols = tuple(structure.symbols[k] for k in order)
    scaled = np.asarray(structure.scaled)[order]
    return Structure(symbols, structure.cell, scaled, content_id(symbols, structure.cell, scaled))


def _inputs(
    structure: Structure,
    pressure: float,
    settings: LabelSettings,
    potcars: vasp_inputs.Potcars | None,
    relax_gpa: float | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    match settings.code:
        case "vasp":
            return vasp_inputs.inputs(structure, pressure, settings, potcars, relax_gpa)
        case "gpaw":
            return {
                "functional": settings.functional,
                "encut": settings.cutoff(pressure),
                "kpoints": list(kpoints.grid(structure.cell, settings.kpoint_distance)),
                "magmoms": settings.moments(structure.symbols),
                "smearing": settings.smearing,
                "ediff": settings.ediff,
                "maxiter": settings.maxiter,
            }, {}
        case "model":
            return {"calculator": settings.functional}, {}


def _task(
    candidate: Candidate,
    pressure: float,
    settings: LabelSettings,
    generation: int,
    given: dict[str, Any],
    files: dict[str, str],
) -> LabelTask:
    structure = candidate.structure
    return LabelTask(
        id=structure.comment,
        family=candidate.family or structure.comment,
        generation=generation,
        origin=candidate.origin,
        reason=candidate.reason,
        pressure_gpa=pressure,
        symbols=structure.symbols,
        cell=np.asarray(structure.cell, dtype=float).tolist(),
        scaled=np.asarray(structure.scaled, dtype=float).tolist(),
        level=settings.level,
        inputs=given,
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
    )


def _same_level(labels: Path, settings: LabelSettings) -> None:
    """Refuse to mix two levels of theory in one folder."""
    if (old := read_prepared_settings(labels / SETTINGS).level) != settings.level:
        raise ConfigError(
            f"{labels}: was prepared with other settings ({old}, now {settings.level}; see {SETTINGS} there); labels "
            "of two levels of theory cannot be trained on together. Name another folder"
        )


def _write_jobs(labels: Path, settings: LabelSettings) -> list[str]:
    """Write job scripts for the structures that no list has, numbered: an array that waits in a queue keeps its own."""
    lists = _lists(labels)
    listed = {name for names in lists.values() for name in names}
    made = [folder.name for folder in folders(labels) if folder.name not in listed]
    if not made:
        return []
    number = 1 + len(lists)
    job, tasks = settings.job, min(settings.job.tasks, len(made))
    values: dict[str, object] = {
        "number": number,
        "tasks": tasks,
        "cores": job.cores,
        "walltime": job.walltime(math.ceil(len(made) / tasks)),
        "at_once": job.at_once,
        # PBS takes no array of one.
        "array": f"\n#PBS -J 1-{tasks}%{job.at_once}" if tasks > 1 else "",
        "command": f"bash ../{RUN_VASP}" if settings.code == "vasp" else job.command,
        "done": "grep -qs 'General timing' OUTCAR" if settings.code == "vasp" else f"[ -f {RESULT} ]",
    }
    values["body"] = render("labels/task.sh", values).rstrip("\n")
    shared = {}
    if settings.code == "vasp":
        shared[RUN_VASP] = render("labels/run_vasp.sh", {"command": job.command, "runs": settings.relax.runs})
    if settings.code == "gpaw":
        shared["run_gpaw.py"] = (TEMPLATES / "labels" / "run_gpaw.py").read_text(encoding="utf-8")
    files = {name: text for name, text in shared.items() if not (labels / name).exists()}  # jobs that wait use them
    files |= {f"{kind}-{number}.sh": render(f"labels/{kind}.sh", values) for kind in ("slurm", "pbs")}
    files[f"jobs-{number}.txt"] = "".join(f"{name}\n" for name in made)  # last: what it names counts as having a job
    publish_files(labels, files)
    return _names(number)


def _lists(labels: Path) -> dict[int, list[str]]:
    """Return the structures of the job scripts of each number."""
    lists = {int(path.stem.removeprefix("jobs-")): path for path in labels.glob("jobs-*.txt")}
    return {number: lists[number].read_text(encoding="utf-8").split() for number in sorted(lists)}


def _scripts_of(labels: Path, made: Collection[str]) -> list[str]:
    """Return the job scripts written before that compute these structures."""
    return [name for number, names in _lists(labels).items() if set(names) & set(made) for name in _names(number)]


def _names(number: int) -> list[str]:
    return [f"slurm-{number}.sh", f"pbs-{number}.sh"]
