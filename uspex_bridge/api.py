"""The commands as functions, for notebooks and scripts.

Pressures are in GPa, energies and enthalpies in eV, lengths in Å. All errors are subclasses of
``uspex_bridge.base.errors.BridgeError``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import BridgeError, CalculationError, ConfigError, InputError, Rejected
from uspex_bridge.call.config import Config, load_config
from uspex_bridge.call.relaxed import Relaxed
from uspex_bridge.models.backends import Backend
from uspex_bridge.results.model import Entry, Pool
from uspex_bridge.results.stability import Assessment, Question

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from pymatgen.core import Structure as PymatgenStructure

    from uspex_bridge.call.thermal import Method
    from uspex_bridge.learn.choose.screen import Limits
    from uspex_bridge.learn.choose.screening import Screened
    from uspex_bridge.learn.choose.selection import Selected
    from uspex_bridge.results.free_energy import FreeEnergies
    from uspex_bridge.results.phase_diagram import PhaseDiagram

    #: What can be relaxed: ASE atoms, a pymatgen Structure, the bridge's own, or a file.
    Crystal = Atoms | PymatgenStructure | Structure | str | Path

__all__ = [
    "Relaxed",
    "Search",
    "free_energies",
    "load_model",
    "open_results",
    "read_record",
    "relax",
    "screen",
    "select",
]


@overload
def relax(structures: Crystal, pressure: float = ..., **options: Any) -> Relaxed: ...
@overload
def relax(structures: Iterable[Crystal], pressure: float = ..., **options: Any) -> list[Relaxed]: ...
def relax(  # type: ignore[misc]  # the overloads leave the options to this signature
    structures: Crystal | Iterable[Crystal],
    pressure: float = 0.0,
    *,
    model: str | None = None,
    protocol: str | None = None,
    stages: str | None = None,
    isif: int = 3,
    nsw: int = 5000,
    fmax: float | None = None,
    keep_symmetry: bool = False,
    symprec: float = 0.1,
    device: str | None = None,
    threads: int | None = None,
    time_limit: float | None = None,
    config: Config | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    trajectory: bool = False,
    vasp_files: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[Relaxed], object] | None = None,
) -> Relaxed | list[Relaxed]:
    """Relax a structure, or many, as ``uspex-bridge relax`` does; models stay loaded for the next call.

    Args:
        structures: ASE atoms, a pymatgen Structure or a file with one structure; or a list of these, with any number
            of structures per file.
        pressure: target pressure, GPa.
        model: model for all stages: name of a calculator, ``KIND:WEIGHTS`` or folder of a training.
        protocol: name of a protocol or TOML file; None: from the settings.
        stages: stages of the protocol to run, such as ``1`` or ``2-3``; None: all.
        isif: degrees of freedom, as VASP's ISIF.
        nsw: largest number of ionic steps; 0: single point.
        fmax: force target of the last stage, eV/Å; None: from the protocol.
        keep_symmetry: whether the symmetry of the start is kept.
        symprec: tolerance of the space groups, Å.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None: from the settings.
        threads: number of CPU threads; None: from the settings.
        time_limit: time limit per structure, s; the result is then the best geometry so far. None: from the settings.
        config: settings, or path of a bridge.toml; None: search for one, as the commands do.
        out: folder for the files of the command; None: no files.
        resume: whether results in ``out`` are kept and not computed again.
        trajectory: whether every step of every stage is written to ``out``.
        vasp_files: whether VASP's files are written to ``out``.
        workers: number of processes.
        scheduler: address of a Dask scheduler; its workers relax the structures.
        progress: function that is called with every result.

    Returns:
        The result, or a list in the order of the structures. Refused and failed structures have ``ok`` False.

    Raises:
        InputError: a structure is not a crystal, or a file cannot be read.
        ConfigError, ModelError: settings or models are not usable.
        Rejected, CalculationError, Interrupted: a single structure has no result.
        OutputError: ``out`` cannot be written.
    """
    from uspex_bridge.call.many import RelaxTask, relax_all
    from uspex_bridge.call.model_names import with_model

    settings = _settings(
        config, device=device, threads=threads, protocol=protocol, stages=stages, time_limit=time_limit
    )
    if model is not None:
        settings = with_model(settings, model)
    task = RelaxTask(
        settings,
        None if out is None else Path(out),
        float(pressure),
        fmax=fmax,
        isif=isif,
        nsw=nsw,
        keep_symmetry=keep_symmetry,
        symprec=symprec,
        trajectory=trajectory,
        vasp_files=vasp_files,
        resume=resume,
        workers=workers,
        scheduler=scheduler,
        keep_models=True,
    )
    single = isinstance(structures, (str, Path)) or not _is_collection(structures)
    crystals: Any = [structures] if single else structures
    listed = list(_crystals(crystals))
    if single and len(listed) != 1:
        raise InputError(f"{structures}: holds {len(listed)} structures; relax([file]) relaxes them all")
    places: dict[tuple[Any, Any], list[int]] = {}  # a structure may be given more than once
    for k, (path, number, _) in enumerate(listed):
        places.setdefault((str(path), number), []).append(k)
    found: dict[int, Relaxed] = {}
    for result in relax_all(listed, task):
        found[places[result.fields["source"], result.fields["index"]].pop(0)] = result
        if progress is not None:
            progress(result)
    results = [found[k] for k in range(len(listed))]
    if not single:
        return results
    if not results[0].ok:
        raise _error_of(results[0])
    return results[0]


def load_model(
    name: str,
    path: str | Path | None = None,
    *,
    device: str | None = None,
    head: str | None = None,
    dtype: str | None = None,
    python: str | None = None,
    config: Config | str | Path | None = None,
    **options: Any,
) -> Backend:
    """Load a model: ``.calculator`` is an ASE calculator, ``evaluate_many`` evaluates structures together.

    Args:
        name: name of a calculator in the settings, a kind (``chgnet``, ``mace``, ...), ``KIND:WEIGHTS``, or folder of a
            training.
        path: file of the weights; None: from the settings, or the default of the kind.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        head: head of a model with several heads.
        dtype: precision, if the kind supports a choice.
        python: interpreter of another environment in which the model runs.
        config: settings, or path of a bridge.toml; None: search for one, as the commands do.
        options: further options of the kind.

    Raises:
        ConfigError: an unknown kind, or an unknown setting of it.
        ModelError: package, weights or device are missing.
    """
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import settings_for
    from uspex_bridge.models.backends import load

    settings = _settings(config, device=device)
    limit_threads(settings.threads)
    chosen = settings_for(name, settings)
    given: dict[str, Any] = {"model": path and str(path), "head": head, "dtype": dtype, "python": python}
    chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})
    return load(name, replace(chosen, options={**chosen.options, **options}))


def open_results(*places: str | Path, references: Sequence[str | Path] = (), record: bool = True) -> Search:
    """Open results folders of USPEX, folders of ``relax`` or ``rescore``, or files of structures with energies.

    Args:
        places: folders and files.
        references: further structures with energies.
        record: whether the bridge's record is read too.

    Raises:
        InputError: a folder or file contains no results.
    """
    from uspex_bridge.results.sources import open_sources

    return Search(open_sources([str(place) for place in (*places, *references)], record=record))


class Search:
    """Structures with enthalpies, of one search or several.

    Attributes:
        pool: its sources and entries (``uspex_bridge.results.model.Pool``).
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.pool.entries)

    def __repr__(self) -> str:
        return f"<{', '.join(self.pool.sources)}: {len(self)} structures>"

    @property
    def notes(self) -> list[str]:
        """Notes on data that could not be read, one line each."""
        return self.pool.notes

    def entry(self, which: int | str) -> Entry:
        """Return the entry of a USPEX ID (7 or ``EA7``), or of a name with its run (``results1:EA7``).

        Raises:
            InputError: there is none, or there are several.
        """
        word = str(which)
        found = [e for e in self.pool.entries if word == e.name or word.removeprefix("EA") == str(e.id)]
        if len(found) != 1:
            said = f"{len(found)} entries have it, name the run too" if found else "no entry has it"
            raise InputError(f"{which}: {said}")
        return found[0]

    def atoms(self, which: int | str) -> Atoms:
        """Return a structure as ASE atoms, its entry's values in ``info``.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        from uspex_bridge.base.atoms import to_atoms

        entry = self.entry(which)
        atoms = to_atoms(self.pool.structure(entry))
        atoms.info |= {key: value for key, value in entry.row().items() if value is not None}
        return atoms

    def hull(self, within: float = 0.1, **question: Any) -> Phases:
        """Return the phases near the convex hull, without duplicates.

        Args:
            within: distance to the hull, eV/atom.
            question: further fields of ``uspex_bridge.results.stability.Question``, such as ``pressure_gpa`` and
                ``components``.

        Raises:
            ConfigError: pressures or levels of theory are mixed.
            InputError: there is no hull to be built.
        """
        from uspex_bridge.results.stability import assess

        return Phases(assess(self.pool, Question(within=within, **question)))

    def best(self, most: int = 20, **question: Any) -> Phases:
        """Return the phases nearest the hull, or lowest in enthalpy where there is one composition."""
        found = self.hull(within=question.pop("within", math.inf), **question)
        return Phases(replace(found.answer, phases=found.answer.phases[:most]))

    def to_dataframe(self) -> DataFrame:
        """Return every entry as a row."""
        import pandas

        return pandas.DataFrame([entry.row() for entry in self.pool.entries])

    def export(self, path: str | Path, entries: Iterable[Entry] | None = None, *, format: str | None = None) -> int:
        """Write structures to an extxyz, ASE database, CIF, POSCAR, CSV or Parquet file; return how many.

        Raises:
            ConfigError: the ending of the path names no format.
            OutputError: the file cannot be written.
        """
        from uspex_bridge.results.export import export, format_of, hull_of

        chosen = self.pool.entries if entries is None else tuple(entries)
        kind = format or format_of(Path(path))
        hull = hull_of(self.pool, Question(within=0.0, method="none"))[0] if kind in ("csv", "parquet") else None
        return export(self.pool, chosen, Path(path), kind, hull=hull)

    def plot(self, kind: str = "hull", ax: Axes | None = None, **options: Any) -> Figure:
        """Draw a figure of ``uspex-bridge plot``: hull, ternary (``solid=True``: --3d), quaternary, volume or coverage.

        Args:
            kind: name of the figure.
            ax: axes to draw the figure into; None makes a new figure.
            options: arguments of the figure's ``draw`` function (``uspex_bridge.figures``).

        Raises:
            ConfigError: the figure cannot show these components.
        """
        from uspex_bridge.figures.plots import plot

        return plot(self.pool, kind, ax, **options)


class Phases:
    """Phases by their distance to the hull.

    Attributes:
        answer: hull, phases and warnings (``uspex_bridge.results.stability.Assessment``).
    """

    def __init__(self, answer: Assessment) -> None:
        self.answer = answer

    def __len__(self) -> int:
        return len(self.answer.phases)

    def __iter__(self) -> Iterator[Entry]:
        return (phase.entry for phase in self.answer.phases)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know before believing it."""
        return self.answer.warnings

    @property
    def stable(self) -> list[Entry]:
        """The entries that span the hull."""
        return [point.entry for point in self.answer.hull.vertices]

    def rows(self) -> list[dict[str, Any]]:
        """Return the phases as plain values, as ``uspex-bridge hull --json`` prints them."""
        from uspex_bridge.results.tables import phase_rows

        return phase_rows(self.answer)

    def to_dataframe(self) -> DataFrame:
        """Return a row per phase."""
        import pandas

        return pandas.DataFrame(self.rows())

    def table(self) -> str:
        """Return the phases as a table."""
        from uspex_bridge.results.tables import phase_table

        return phase_table(self.answer)

    def __repr__(self) -> str:
        return self.table()


def read_record(place: str | Path = ".", which: str | int | None = None) -> list[dict[str, Any]]:
    """Return lines of the record: all, or those of a structure (``uspex-bridge log``), the oldest first.

    Args:
        place: the record, or the folder of the search that holds it.
        which: a USPEX ID, a slot, a formula or the start of a key; None is all.

    Raises:
        InputError: there is no record.
    """
    from uspex_bridge.results.lookup import find

    return find(Path(place), None if which is None else str(which))


@overload
def free_energies(*places: str | Path, pressure: float | None = ..., **options: Any) -> FreeEnergies: ...
@overload
def free_energies(*places: str | Path, pressure: Sequence[float], **options: Any) -> PhaseDiagram: ...
def free_energies(
    *places: str | Path,
    temperatures: Sequence[float] = (300.0,),
    pressure: float | Sequence[float] | None = None,
    method: Method = "harmonic",
    within: float = 0.1,
    promote: float = 0.05,
    most: int | None = None,
    model: str | None = None,
    protocol: str | None = None,
    min_image: float = 6.0,
    upscale: bool = False,
    g_error: float = 0.002,
    isotopes: Mapping[str, float] | None = None,
    keep_symmetry: bool = False,
    follow: bool = False,
    correct: str | None = None,
    harvest: str | Path | None = None,
    on: int = 20,
    out: str | Path = "free-energy",
    config: Config | str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    **question: Any,
) -> FreeEnergies | PhaseDiagram:
    """Compute free energies of the phases near the hull, as ``uspex-bridge free-energy`` does.

    Args:
        places: results folders, or files of structures.
        temperatures: K.
        pressure: GPa; None takes the one that all sources have; several give a phase diagram.
        method: ``harmonic``, ``qha`` or ``scha``.
        within: distance to the hull of enthalpies, eV/atom.
        promote: distance to a harmonic hull up to which ``qha`` or ``scha`` is done, eV/atom.
        most: largest number of phases.
        model: a calculator's name, ``KIND:WEIGHTS`` or the folder of a training; None takes the protocol's.
        protocol: name of a protocol or TOML file; None: from the settings.
        min_image: shortest distance between images in the supercell, Å.
        upscale: ``scha`` in a small supercell first, whose result is the start in the large one.
        g_error: standard error of G that ``scha`` samples for, eV/atom.
        isotopes: masses in amu in place of the elements' means.
        keep_symmetry: symmetry kept at rest, for phases that only motion stabilises.
        follow: phases of lower symmetry too, down the imaginary modes of unstable ones.
        correct: a second model, or a file of structures with energies, that free energies of ``scha`` are corrected to.
        harvest: file (extxyz) for configurations to label.
        on: number of configurations of each free energy for ``correct`` and ``harvest``.
        out: folder that keeps every result, so that a repeated call computes only what is missing.
        config: settings, or the path of a bridge.toml.
        workers: number of processes.
        scheduler: address of a Dask scheduler; its workers relax the structures.
        question: further fields of ``uspex_bridge.results.stability.Question``, such as ``components``.

    Raises:
        InputError: there is nothing to compute.
        ConfigError, ModelError: nothing can be computed with these settings.
        OutputError: ``out`` cannot be written.
    """
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.call.thermal import FreeEnergyTask, asked_of
    from uspex_bridge.results import free_energy, phase_diagram
    from uspex_bridge.results.correcting import check_harvest, second_of, write_harvest
    from uspex_bridge.results.rescore import common_pressure

    settings = _settings(config, protocol=protocol)
    settings = settings if model is None else with_model(settings, model)
    if harvest is not None:
        check_harvest(method)
    pool = open_results(*places).pool
    several, one = ([], pressure) if pressure is None or isinstance(pressure, float | int) else (sorted(pressure), None)
    task = FreeEnergyTask(
        settings,
        Path(out),
        several[0] if several else common_pressure(pool.entries, one),
        tuple(sorted(set(map(float, temperatures)))),
        asked_of(min_image=min_image, upscale=upscale, g_error=g_error, isotopes=dict(isotopes or {})),
        follow=follow,
        workers=workers,
        scheduler=scheduler,
        keep_models=True,
    )
    asked = Question(within=within, **question)
    how: dict[str, Any] = {"keep_symmetry": keep_symmetry, "method": method, "promote": promote, "most": most}
    how["correct"] = None if correct is None else second_of(correct, settings, on)
    diagram = phase_diagram.phase_diagram(pool, asked, task, several, **how) if several else None
    answers = diagram.answers if diagram is not None else (free_energy.free_energies(pool, asked, task, **how),)
    if harvest is not None:
        write_harvest(answers, Path(harvest), on)
    return diagram or answers[0]


def screen(
    *places: str | Path,
    models: Sequence[str],
    limits: Limits | Mapping[str, Any] | None = None,
    out: str | Path = "screened",
    config: Config | str | Path | None = None,
    **options: Any,
) -> Screened:
    """Find the structures on which models disagree, as ``uspex-bridge screen`` does.

    Args:
        places: results folders or files of structures.
        models: at least two: calculators' names, ``KIND:WEIGHTS`` or folders of trainings.
        limits: thresholds (``uspex_bridge.learn.choose.screen.Limits``).
        out: folder that keeps every prediction, so that a repeated call computes only what is missing.
        config: settings, or the path of a bridge.toml.
        options: arguments of ``uspex_bridge.learn.choose.screening.screen_pool``.

    Raises:
        ConfigError: fewer than two different models.
        InputError: there is no readable structure.
        ModelError: a model cannot be loaded.
    """
    from uspex_bridge.learn.choose.screen import Limits as Thresholds
    from uspex_bridge.learn.choose.screening import screen_pool

    thresholds = limits if isinstance(limits, Thresholds) else Thresholds(**(limits or {}))
    return screen_pool(open_results(*places).pool, models, _settings(config), Path(out), thresholds, **options)


def select(
    *places: str | Path,
    budget: int = 100,
    have: str | Path | None = None,
    references: Sequence[str | Path] = (),
    quota: Mapping[str, Any] | None = None,
    exclusions: Mapping[str, Any] | None = None,
    **options: Any,
) -> Selected:
    """Choose a few structures that stand for all, as ``uspex-bridge select`` does.

    Args:
        places: results folders or files of structures.
        budget: the largest number of structures.
        have: what is there already, a dataset's folder or a file of structures.
        references: places that only span the hull.
        quota: other fields of ``uspex_bridge.learn.choose.select.Quota``.
        exclusions: other fields of ``uspex_bridge.learn.choose.selection.Exclusions``.
        options: arguments of ``uspex_bridge.learn.choose.selection.select_pool``.

    Raises:
        ConfigError: a quota that cannot be met.
        InputError: there is no structure, or none is left to choose from.
    """
    from uspex_bridge.learn.choose.select import Quota
    from uspex_bridge.learn.choose.selection import Exclusions, select_pool

    search = open_results(*places, references=references)
    given = dict(exclusions or {}) | ({"have": Path(have)} if have is not None else {})
    return select_pool(
        search.pool,
        Quota(budget=budget, **(quota or {})),
        Exclusions(**given),
        references=[str(place) for place in references],
        **options,
    )


def _settings(config: Config | str | Path | None, **given: Any) -> Config:
    """Return the settings with what is given over them."""
    read = config if isinstance(config, Config) else load_config(Path.cwd(), None if config is None else Path(config))
    try:
        return replace(read, **{key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _is_collection(crystals: Any) -> bool:
    """Tell a collection of crystals from one crystal; ASE's and pymatgen's are collections of atoms themselves."""
    return isinstance(crystals, Iterable) and not hasattr(crystals, "lattice") and not hasattr(crystals, "cell")


def _crystals(crystals: Iterable[Any]) -> Iterator[tuple[Path, int, Structure]]:
    """Yield where each structure comes from, its number there, and the structure.

    Raises:
        InputError: one is disordered, has no cell or cannot be read.
    """
    from uspex_bridge.call.structures import read_structures

    for number, one in enumerate(crystals, 1):
        if isinstance(one, (str, Path)):
            for k, structure in enumerate(read_structures(Path(one)), 1):
                yield Path(one), k, structure
        else:
            yield Path("structure"), number, _structure(one, number)


def _structure(crystal: Any, number: int) -> Structure:
    if isinstance(crystal, Structure):
        return crystal
    from uspex_bridge.call.structures import from_ase, from_pymatgen

    name = f"structure-{number}"
    if not hasattr(crystal, "lattice") and not hasattr(crystal, "cell"):
        raise InputError(
            f"{name}: {type(crystal).__name__} is no crystal; ASE atoms, a pymatgen Structure or a file is"
        )
    return from_pymatgen(crystal, name) if hasattr(crystal, "lattice") else from_ase(crystal, name)


def _error_of(result: Relaxed) -> BridgeError:
    """Return the error that a result without a structure stands for."""
    from uspex_bridge.base import errors

    if result.status == "rejected":
        return Rejected(str(result.fields["code"]), result.reason)
    kind = getattr(errors, str(result.fields["code"]), CalculationError)
    return kind(result.reason) if issubclass(kind, BridgeError) else CalculationError(result.reason)
