"""Models against labelled structures: errors per pressure, ranking near the hull, disagreement between models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ase import Atoms

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.errors import CalculationError, InputError
from uspex_bridge.base.tables import layout
from uspex_bridge.base.words import counted, short_names
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.identity import SPLITS, Split
from uspex_bridge.learn.data.labels import problem_of, read_frames
from uspex_bridge.learn.data.predictions import Predictor, find_predictor, predict_all, structure_key
from uspex_bridge.learn.judge import metrics
from uspex_bridge.models.cards import CalculatorSettings

Offsets = Literal["auto", "on", "off"]
#: Columns of the table: quantity -> heading and unit, and what eV are multiplied with.
_QUANTITIES = {
    "energy": ("E", "meV/atom"),
    "forces": ("F", "meV/Å"),
    "virial": ("W", "meV/atom"),
    "pv": ("PV", "meV/atom"),
}


@dataclass(frozen=True, eq=False)
class Judged:
    """One model.

    Attributes:
        name: as the user named it.
        short: as much of its end as tells it from the others.
        title: kind, weights, hash.
        cases, answers: the structures that it could compute, and what it said, offsets taken off.
        failed: name of a structure -> why the model failed on it.
        offsets: energy of each element that was taken off, eV; empty where none was.
        rows: errors.
        rankings: order near the hull.
    """

    name: str
    short: str
    title: str
    cases: tuple[metrics.Case, ...]
    answers: tuple[metrics.Values, ...]
    failed: Mapping[str, str]
    offsets: Mapping[str, float]
    rows: tuple[metrics.Row, ...]
    rankings: tuple[metrics.Ranking, ...]

    @property
    def total(self) -> metrics.Row:
        """Errors over all structures."""
        return self.rows[-1]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; errors in eV/atom and eV/Å."""
        return {
            "name": self.name,
            "title": self.title,
            "structures": len(self.cases),
            "failed": dict(self.failed),
            "offsets_ev": dict(self.offsets),
            "errors": [asdict(row) for row in self.rows],
            "near_hull": [asdict(ranking) for ranking in self.rankings],
            "by_structure": metrics.by_structure(self.cases, self.answers),
        }


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Several models on the same structures."""

    models: tuple[Judged, ...]
    disagreements: tuple[metrics.Disagreement, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "models": [model.as_dict() for model in self.models],
            "disagreement": [asdict(one) for one in self.disagreements],
            "notes": list(self.notes),
        }


def read_labelled(place: Path, split: str | None = None, generation: int | None = None) -> list[Atoms]:
    """Read labelled structures from a dataset or an extxyz file.

    Args:
        place: folder or file.
        split: of a dataset, None is all.
        generation: of a dataset, None is all.

    Raises:
        InputError: there are none, or one lacks energy, forces or stress.
    """
    if place.is_dir():
        if split is not None and split not in SPLITS:
            raise InputError(f"split '{split}' is none of {', '.join(get_args(Split))}")
        frames = list(Dataset.open(place).frames(split, generation))
        if not frames:
            raise InputError(
                f"{place}: no labels of the split {split or 'all'}"
                + (f", generation {generation}" if generation is not None else "")
            )
        return frames
    frames = read_frames(place)
    for number, atoms in enumerate(frames, 1):
        if problem := problem_of(atoms):
            raise InputError(f"{place}, structure {number} ({atoms.symbols}): {problem}; take it out or label it again")
    if not frames:
        raise InputError(f"{place}: holds no structure")
    return frames


def accuracy_of(
    frames: Sequence[Atoms],
    models: Mapping[str, CalculatorSettings],
    cache: Path,
    *,
    offsets: Offsets = "auto",
    window: float = 0.1,
    ultra_high: float = metrics.ULTRA_HIGH,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> Accuracy:
    """Compare models with labels.

    Args:
        frames: labelled structures.
        models: name -> settings.
        cache: folder that keeps the models' answers, so that nothing is computed twice.
        offsets: take each element's energy off by a fit: ``on``, ``off``, or ``auto``, where the model says that its
            energies are those of the Materials Project and not of the labels.
        window: what is near the hull, eV/atom.
        ultra_high: pressure above which structures are left out of all lines but the total, GPa.
        workers: processes per model.
        progress: called with the number of structures that were just done.

    Raises:
        ModelError, ConfigError: a model cannot be loaded.
        CalculationError: one of them could compute nothing.
        OutputError: the answers cannot be written.
    """
    cases = [metrics.case_of(atoms, number) for number, atoms in enumerate(frames, 1)]
    structures = [to_structure(atoms) for atoms in frames]
    keys = [structure_key(structure) for structure in structures]
    judged, given = [], {}
    notes: list[str] = []
    short = short_names(models)
    for name, settings in models.items():
        model = find_predictor(name, settings)
        found = predict_all(model, dict(zip(keys, structures, strict=True)), cache, workers=workers, progress=progress)
        answers: dict[int, metrics.Values] = {}
        failed: dict[str, str] = {}
        for k, key in enumerate(keys):
            answer = found[key]
            if answer.problem or answer.forces is None or answer.stress is None:
                failed[cases[k].name] = answer.problem
            else:
                answers[k] = metrics.values_of(answer.energy, answer.forces, answer.stress, cases[k].volume)
        if not answers:
            raise CalculationError(f"{name}: failed on every structure: {next(iter(failed.values()))}")
        one = _judged(model, short[name], cases, answers, failed, offsets, window, ultra_high)
        notes += _remarks(one, cases, answers)
        judged.append(one)
        given[name] = dict(zip(answers, one.answers, strict=True))
    return Accuracy(tuple(judged), tuple(_disagreements(given)), tuple(notes))


def _judged(
    model: Predictor,
    short: str,
    cases: Sequence[metrics.Case],
    answers: Mapping[int, metrics.Values],
    failed: Mapping[str, str],
    offsets: Offsets,
    window: float,
    ultra_high: float,
) -> Judged:
    own, said = [cases[k] for k in answers], list(answers.values())
    taken: dict[str, float] = {}
    if offsets == "on" or (offsets == "auto" and model.energy_zero != "model"):
        taken = metrics.offsets(own, said)
        said = metrics.without_offsets(own, said, taken)
    return Judged(
        model.name,
        short,
        model.title,
        tuple(own),
        tuple(said),
        failed,
        taken,
        tuple(metrics.rows(own, said, ultra_high)),
        tuple(metrics.rankings(own, said, window, ultra_high)),
    )


def _remarks(one: Judged, cases: Sequence[metrics.Case], answers: Mapping[int, metrics.Values]) -> list[str]:
    """Say what a reader of the table must know."""
    notes = []
    if one.offsets:
        listed = ", ".join(f"{element} {value:+.3f}" for element, value in one.offsets.items())
        notes.append(
            f"{one.name}: energies moved per element to those of the labels, eV: {listed}; --offsets off shows them raw"
        )
    else:
        own = [cases[k] for k in answers]
        moved = metrics.without_offsets(own, one.answers, metrics.offsets(own, one.answers))
        left = metrics.rows(own, moved)[-1].energy.rmse
        if left < 0.5 * (raw := one.total.energy.rmse):
            notes.append(
                f"{one.name}: one energy per element would take the RMSE of E from {1000 * raw:.3g} to "
                f"{1000 * left:.3g} meV/atom: another energy zero; --offsets on takes it off"
            )
    if one.failed:
        name, reason = next(iter(one.failed.items()))
        notes.append(f"{one.name}: failed on {counted(len(one.failed), 'structure')}, left out: {name}: {reason}")
    return notes


def _disagreements(given: Mapping[str, Mapping[int, metrics.Values]]) -> list[metrics.Disagreement]:
    names = list(given)
    made = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = [k for k in given[first] if k in given[second]]
            if both:
                pairs = [[given[name][k] for k in both] for name in (first, second)]
                made.append(metrics.disagreement((first, second), *pairs))
    return made


def error_rows(report: Accuracy) -> list[dict[str, Any]]:
    """Return the table of errors as rows of plain values, in meV/atom and meV/Å."""
    made = []
    for model in report.models:
        for row in model.rows:
            errors = {
                f"{short}_{kind}_{unit.replace('/', '_per_').replace('Å', 'A')}": round(
                    1000 * getattr(getattr(row, quantity), kind), 3
                )
                for quantity, (short, unit) in _QUANTITIES.items()
                for kind in ("mae", "rmse", "largest")
            }
            made.append(
                {
                    "model": model.name,
                    "pressure": row.label,
                    "structures": row.count,
                    **errors,
                    "near_50mev": row.near,
                    "near_rmse": row.near_rmse,
                }
            )
    return made


def tables(report: Accuracy) -> str:
    """Return all tables for the terminal."""
    parts = [_error_table(model, named=len(report.models) > 1) for model in report.models]
    if any(model.rankings for model in report.models):
        parts.append(_ranking_table(report))
    if report.disagreements:
        parts.append(_disagreement_table(report))
    return "\n\n".join(parts)


def _error_table(model: Judged, *, named: bool) -> str:
    headings = [("", ""), ("structures", "")]
    for short, unit in _QUANTITIES.values():
        headings += [(f"{short} MAE", unit), ("RMSE", unit), ("max", unit)]
    headings += [("N(<50)", ""), ("N(<RMSE)", "")]
    lines = []
    for row in model.rows:
        cells = [row.label, str(row.count)]
        for quantity in _QUANTITIES:
            error = getattr(row, quantity)
            cells += [f"{1000 * value:.1f}" for value in (error.mae, error.rmse, error.largest)]
        lines.append([*cells, *("" if value is None else str(value) for value in (row.near, row.near_rmse))])
    title = f"{model.short} ({model.title})\n" if named else f"{model.title}\n"
    return title + layout(headings, lines)


def _ranking_table(report: Accuracy) -> str:
    headings = [
        ("near the hull", ""),
        ("pressure", "GPa"),
        ("within", ""),
        ("rank corr.", ""),
        ("E_form MAE", "meV/atom"),
        ("stable", ""),
    ]
    headings += [(f"in {1000 * window:g} meV", "") for window in metrics.WINDOWS]
    headings.append(("needs", "meV/atom"))
    lines = [
        [
            model.short,
            f"{one.pressure_gpa:g}",
            str(one.within),
            "" if one.spearman != one.spearman else f"{one.spearman:.3f}",
            f"{1000 * one.error:.1f}",
            str(one.stable),
            *(str(found) for found in one.recalled.values()),
            f"{1000 * one.needed:.1f}",
        ]
        for model in report.models
        for one in model.rankings
    ]
    return layout(headings, lines)


def _disagreement_table(report: Accuracy) -> str:
    headings = [
        ("between", ""),
        ("ΔE MAE", "meV/atom"),
        ("ΔF MAE", "meV/Å"),
        ("ΔPV MAE", "meV/atom"),
        ("max", "meV/atom"),
    ]
    headings += [(f"over {1000 * limit:g}", "") for limit in metrics.PV_LIMITS]
    short = {model.name: model.short for model in report.models}
    lines = [
        [
            " - ".join(short[name] for name in one.models),
            *(f"{1000 * value:.1f}" for value in (one.energy.mae, one.forces.mae, one.pv.mae, one.pv.largest)),
            *(str(count) for count in one.over.values()),
        ]
        for one in report.disagreements
    ]
    return layout(headings, lines)
