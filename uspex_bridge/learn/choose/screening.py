"""Asking models about every structure of a search and comparing what they say: the whole of ``screen``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.words import counted
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import settings_for
from uspex_bridge.learn.choose.calibration import Calibration, calibrate_on
from uspex_bridge.learn.choose.candidates import read_labelled_structures, title_of
from uspex_bridge.learn.choose.hulls import points_of
from uspex_bridge.learn.choose.novelty import reach_of
from uspex_bridge.learn.choose.screen import DEFAULT_REASONS, FLAGS, Flag, Limits, Screening, Seen, screen
from uspex_bridge.learn.choose.soap import Scaling, SoapSettings
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.predictions import Predictor, find_predictor, predict_all, structure_key
from uspex_bridge.results.reading.model import Pool

#: Shows progress: called with a label and the number of structures, it gives what is called after some of them.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_SILENT: Progress = lambda label, length: nullcontext(lambda count: None)  # noqa: E731 (a default, not a function)


@dataclass(frozen=True)
class Parallel:
    """The workers of a screening: processes on this machine, or those of a Dask scheduler; ``retry`` asks again."""

    workers: int = 1
    scheduler: str | None = None
    retry: bool = False


@dataclass(frozen=True, eq=False)
class Screened:
    """A screening, the models and the structures it is of.

    Attributes:
        screening: every structure's disagreement.
        models: the models that were asked.
        pool: where the structures come from.
        notes: what a user must know.
        calibration: what |ΔPV| says about the error of PV, None where no labels were given.
    """

    screening: Screening
    models: tuple[Predictor, ...]
    pool: Pool
    notes: tuple[str, ...]
    calibration: Calibration | None = None

    def rows(self, *, chosen: bool = False) -> list[dict[str, Any]]:
        """Return a row of plain values per structure, the largest disagreement first."""
        found = self.screening.chosen if chosen else self.screening.verdicts
        rows = [verdict.row(self.screening.models, title_of(self.pool, verdict.entry)) for verdict in found]
        if self.calibration is not None:
            for verdict, row in zip(found, rows, strict=True):
                bound = self.calibration.bound(verdict.delta_pv)
                row["pv_error_bound"] = bound if math.isfinite(bound) else None
        return rows

    def over(self) -> dict[str, int]:
        """Return how many structures are over each threshold that was set."""
        limits = self.screening.limits
        named = {"pv": limits.pv, "energy": limits.energy, "force": limits.force}
        verdicts = self.screening.verdicts
        return {
            name: sum(getattr(verdict, f"delta_{name}") > limit for verdict in verdicts)
            for name, limit in named.items()
            if limit is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; energies in eV/atom, forces in eV/Å."""
        found = self.screening
        means = ("delta_pv", "delta_energy", "delta_force", "rms_force")
        return {
            "models": [
                {"name": m.name, "what": m.title, "key": m.key, "energy_zero": m.energy_zero} for m in self.models
            ],
            "thresholds": asdict(found.limits),
            "offsets": [
                {"model": model, "added": shift} for model, shift in zip(found.models[1:], found.offsets, strict=False)
            ],
            "structures": len(found.verdicts),
            "to_compute": len(found.chosen),
            "over": self.over(),
            "flags": {flag: found.count(flag) for flag in FLAGS},
            "calibration": asdict(self.calibration) if self.calibration is not None else None,
            "mean": {name: self._mean(name) for name in means},
            "label": self.rows(chosen=True),
            "warnings": list(self.notes),
        }

    def _mean(self, name: str) -> float | None:
        values = np.array([getattr(verdict, name) for verdict in self.screening.verdicts])
        return float(np.nanmean(values)) if np.isfinite(values).any() else None


def screen_pool(
    pool: Pool,
    models: Sequence[str],
    config: Config,
    out: Path,
    limits: Limits,
    *,
    references: Sequence[str] = (),
    offsets: Literal["auto", "on", "off"] = "auto",
    also: Collection[Flag] = DEFAULT_REASONS,
    training: Path | None = None,
    calibrate: Path | None = None,
    confidence: float = 0.9,
    soap: Callable[[Collection[str]], SoapSettings] = lambda elements: SoapSettings(),
    scaling: Scaling = "standard",
    mix_levels: bool = False,
    parallel: Parallel = Parallel(),
    progress: Progress = _SILENT,
) -> Screened:
    """Ask models about every structure of ``pool`` and say which structures to compute.

    Args:
        pool: the structures, and references.
        models: at least two: calculators' names, ``KIND:WEIGHTS`` or folders of trainings.
        config: the settings.
        out: keeps every prediction below ``out/evaluations``; what is there is not computed again.
        limits: what is too much.
        references: labels of the sources that only span the hull.
        offsets: fit the models' energy zeros to each other; ``auto`` where they may differ.
        also: flags that are a reason to compute a structure.
        training: the training set, a dataset's folder or a file; None tells no novelty.
        calibrate: a dataset, whose labels that no model was trained on tell what |ΔPV| says about the error of PV.
        confidence: of that.
        soap: gives the descriptor of novelty for the training set's elements.
        scaling: of the descriptor's features.
        mix_levels: one hull for several levels of theory.
        parallel: the workers.
        progress: shows how far each model is.

    Raises:
        ConfigError: fewer than two different models.
        InputError: there is no readable structure.
        ModelError: a model cannot be loaded.
    """
    if len(set(models)) < 2:
        raise ConfigError("screen compares models: name at least two different models")
    asked = tuple(find_predictor(name, settings_for(name, config)) for name in models)
    if len({model.key for model in asked}) < len(asked):
        raise ConfigError(f"{' and '.join(models)} are the same model with the same weights; they cannot disagree")
    own = [entry for entry in pool.entries if entry.run not in references]
    held = list(pool.structures(own))
    if not held:
        raise InputError("there is no readable structure to screen")
    lost = len(own) - len(held)
    notes = [f"{counted(lost, 'entry')} without a readable structure left out"] if lost else []
    far = _novelty([structure for _, structure in held], training, soap, scaling)
    keys = [structure_key(structure) for _, structure in held]
    answers = _ask(dict(zip(keys, (s for _, s in held), strict=True)), asked, out, parallel, progress)
    points, more = points_of(pool, references, mix_levels=mix_levels)
    seen = [
        Seen(entry, structure, tuple(one[key] for one in answers), points.get(entry.name), distance)
        for key, (entry, structure), distance in zip(keys, held, far, strict=True)
    ]
    fit = offsets == "on" or (offsets == "auto" and any(model.energy_zero == "model" for model in asked))
    found = screen(seen, models, limits, offsets=fit, also=also)
    known = None
    if calibrate is not None:
        dataset = Dataset.open(calibrate)
        frames = [*dataset.frames("test"), *dataset.frames("valid")]
        with progress("calibrating", len(frames) * len(asked)) as step:
            try:
                known = calibrate_on(frames, asked, out / "evaluations", confidence, step)
            except InputError as error:
                notes.append(f"{calibrate}: {error}")
    return Screened(found, asked, pool, (*found.notes, *notes, *more), known)


def _ask(
    structures: dict[str, Structure], models: Sequence[Predictor], out: Path, parallel: Parallel, progress: Progress
) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for model in models:
        with progress(model.name, len(structures)) as step:
            answers.append(predict_all(model, structures, out / "evaluations", **asdict(parallel), progress=step))
    return answers


def _novelty(
    structures: list[Structure],
    training: Path | None,
    soap: Callable[[Collection[str]], SoapSettings],
    scaling: Scaling,
) -> list[float]:
    """Return each structure's distance to the training set, NaN where none is given."""
    if training is None:
        return [math.nan] * len(structures)
    known = read_labelled_structures(training, "train")
    settings = soap({symbol for structure in known for symbol in structure.symbols})
    return [float(value) for value in reach_of(known, settings, scaling).novelty(structures)]
