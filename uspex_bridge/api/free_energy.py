"""Free energies from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from uspex_bridge.api.models import settings_of
from uspex_bridge.api.searching import open_results
from uspex_bridge.call.config import Config
from uspex_bridge.results.hulls.stability import Question

if TYPE_CHECKING:
    from uspex_bridge.call.thermal import Method
    from uspex_bridge.results.thermal.free_energy import FreeEnergies
    from uspex_bridge.results.thermal.phase_diagram import PhaseDiagram


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
        question: further fields of ``uspex_bridge.results.hulls.stability.Question``, such as ``components``.

    Raises:
        InputError: there is nothing to compute.
        ConfigError, ModelError: nothing can be computed with these settings.
        OutputError: ``out`` cannot be written.
    """
    from uspex_bridge.call.model_names import with_model
    from uspex_bridge.call.thermal import FreeEnergyTask, asked_of
    from uspex_bridge.results.hulls.rescore import common_pressure
    from uspex_bridge.results.thermal import free_energy, phase_diagram
    from uspex_bridge.results.thermal.correcting import check_harvest, second_of, write_harvest

    settings = settings_of(config, protocol=protocol)
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
