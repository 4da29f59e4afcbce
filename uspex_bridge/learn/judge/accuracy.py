"""Models against labelled structures: errors per pressure, ranking near the hull, disagreement between models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ase import Atoms

from uspex_bridge.base.errors import CalculationError, InputError
from uspex_bridge.base.units import pressure_of
from uspex_bridge.base.words import counted, short_names
from uspex_bridge.learn.data.archives import read_archive
from uspex_bridge.learn.data.dataset import MANIFEST, Dataset
from uspex_bridge.learn.data.identity import SPLITS, Split
from uspex_bridge.learn.data.predictions import Predictor, find_predictor, predict_frames
from uspex_bridge.learn.data.public_sets import NAMES, SETS, is_public, read_set
from uspex_bridge.learn.judge import metrics
from uspex_bridge.learn.judge.cases import Case, Error, Values, case_of, values_of
from uspex_bridge.models.cards import CalculatorSettings

Offsets = Literal["auto", "on", "off"]
#: Elements whose energy zeros are listed in a note.
_ELEMENTS = 8
#: Labels below this pressure give the energy zeros, GPa: strongly compressed ones would put a model's errors there.
ZERO_BELOW = 30.0


@dataclass(frozen=True, eq=False)
class Judged:
    """One model.

    Attributes:
        name: as the user named it.
        short: as much of its end as tells it from the others.
        title: kind, weights, hash.
        cases, answers: the structures that it could compute, and what it said, offsets taken off.
        lines: label of a line of the table -> places of its structures among ``cases``.
        failed: name of a structure -> why the model failed on it.
        offsets: energy of each element that was taken off, eV; empty where none was.
        atoms: the labels' own energy of each element, eV, which figures take off.
        rows: errors.
        rankings: order near the hull.
    """

    name: str
    short: str
    title: str
    cases: tuple[Case, ...]
    answers: tuple[Values, ...]
    lines: Mapping[str, Sequence[int]]
    failed: Mapping[str, str]
    offsets: Mapping[str, float]
    atoms: Mapping[str, float]
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


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled structures to judge models on.

    Attributes:
        frames: the structures.
        zero: others of the same level of theory, which energy zeros are fitted to; empty where there are none.
        foreign: whether no model in use has its energies on their scale.
        notes: what is not among them, and why.
    """

    frames: Sequence[Atoms]
    zero: Sequence[Atoms] = ()
    foreign: bool = False
    notes: Sequence[str] = ()


def open_labelled(place: str, split: str | None = None, generation: int | None = None) -> Labelled:
    """Read labelled structures from a dataset, a public set, or anything that ``dataset add`` takes.

    Args:
        place: folder, file, or the name of a public set.
        split: of a dataset or a public set, None is all.
        generation: of a dataset, None is all.

    Raises:
        InputError: there are none, one lacks energy, forces or stress, or a public set is not for testing.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"split '{split}' is none of {', '.join(get_args(Split))}")
    if is_public(place):
        if split == "test" and not all(SETS[name].tests for name in NAMES[place]):
            raise InputError(f"{place}: the models of packages were trained on these structures; no test (--split all)")
        frames = read_set(place)
        chosen = [atoms for atoms in frames if split in (None, atoms.info["split"])]
        return Labelled(chosen, _for_zeros(frames) if split == "test" else (), foreign=True)
    path = Path(place)
    if not (path / MANIFEST).is_file():
        archive = read_archive(path)
        if not archive.frames:
            one = archive.refused[0]
            raise InputError(f"{path}: none of its labels can be used: {one.name}: {one.reason}")
        return Labelled(archive.frames, notes=[f"left out: {one.name}: {one.reason}" for one in archive.refused])
    dataset = Dataset.open(path)
    chosen = list(dataset.frames(split, generation))
    if not chosen:
        named = f"{path}: no labels of the split {split or 'all'}"
        raise InputError(named + (f", generation {generation}" if generation is not None else ""))
    notes = [f"{path}: not in the manifest and left out: {name}" for name in dataset.strangers()]
    return Labelled(chosen, _for_zeros(list(dataset.frames())) if split == "test" else (), notes=notes)


def _for_zeros(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return the structures that no model is tested on and that are little compressed."""
    own = [atoms for atoms in frames if atoms.info["split"] != "test"]
    return [atoms for atoms in own if pressure_of(atoms.get_stress()) < ZERO_BELOW]


def accuracy_of(
    labelled: Labelled,
    models: Mapping[str, CalculatorSettings],
    cache: Path,
    *,
    offsets: Offsets = "auto",
    window: float = 0.1,
    lines: metrics.Lines = metrics.BY_PRESSURE,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> Accuracy:
    """Compare models with labels.

    Args:
        labelled: the structures.
        models: name -> settings.
        cache: folder that keeps the models' answers, so that nothing is computed twice.
        offsets: take each element's energy off by a fit: ``on``, ``off``, or ``auto``, where the model says that its
            energies are those of the Materials Project, or the labels are foreign to every model.
        window: what is near the hull, eV/atom.
        lines: of the tables.
        workers: processes per model.
        progress: called with the number of structures that were just done.

    Raises:
        ModelError, ConfigError: a model cannot be loaded.
        CalculationError: one of them could compute nothing.
        OutputError: the answers cannot be written.
    """
    cases = [case_of(atoms, number) for number, atoms in enumerate(labelled.frames, 1)]
    judged, given = [], {}
    notes = list(labelled.notes)
    short = short_names(models)
    others = [case_of(atoms, number) for number, atoms in enumerate(labelled.zero, 1)]
    if not {s for case in cases for s in case.symbols} <= {s for case in others for s in case.symbols}:
        others = []
    atoms = metrics.atom_energies(others or cases)
    for name, settings in models.items():
        model = find_predictor(name, settings)
        ask = _Asking(model, cache, workers, progress)
        answers, failed = ask(labelled.frames, cases)
        if not answers:
            raise CalculationError(f"{name}: failed on every structure: {next(iter(failed.values()))}")
        taken: dict[str, float] = {}
        if offsets == "on" or (offsets == "auto" and (labelled.foreign or model.energy_zero != "model")):
            seen = ask(labelled.zero, others)[0] if others else {}
            taken = metrics.offsets(others, seen) if seen else metrics.offsets(cases, answers)
        one = _judged(model, short[name], cases, answers, failed, taken, atoms, window, lines)
        notes += _remarks(one, cases, answers, elsewhere=bool(others))
        judged.append(one)
        given[name] = dict(zip(answers, one.answers, strict=True))
    return Accuracy(tuple(judged), tuple(_disagreements(given)), tuple(notes))


@dataclass(frozen=True)
class _Asking:
    """Asks a model about labelled structures."""

    model: Predictor
    cache: Path
    workers: int
    progress: Callable[[int], None]

    def __call__(self, frames: Sequence[Atoms], cases: Sequence[Case]) -> tuple[dict[int, Values], dict[str, str]]:
        """Return answers by place, and why there is none by name of the structure."""
        found = predict_frames(self.model, frames, self.cache, workers=self.workers, progress=self.progress)
        answers: dict[int, Values] = {}
        failed: dict[str, str] = {}
        for k, (answer, case) in enumerate(zip(found, cases, strict=True)):
            if answer.problem or answer.forces is None or answer.stress is None:
                failed[case.name] = answer.problem
            else:
                answers[k] = values_of(answer.energy, answer.forces, answer.stress, case.volume)
        return answers, failed


def _judged(
    model: Predictor,
    short: str,
    cases: Sequence[Case],
    answers: Mapping[int, Values],
    failed: Mapping[str, str],
    taken: Mapping[str, float],
    atoms: Mapping[str, float],
    window: float,
    lines: metrics.Lines,
) -> Judged:
    own, said = [cases[k] for k in answers], list(answers.values())
    if taken:
        said = metrics.without_offsets(own, said, taken)
    return Judged(
        model.name,
        short,
        model.title,
        tuple(own),
        tuple(said),
        dict(lines.of(own)),
        failed,
        taken,
        atoms,
        tuple(metrics.rows(own, said, lines)),
        tuple(metrics.rankings(own, said, window, lines.ultra_high)),
    )


def _remarks(one: Judged, cases: Sequence[Case], answers: Mapping[int, Values], *, elsewhere: bool) -> list[str]:
    """Say what a reader of the table must know."""
    notes = []
    if one.offsets:
        listed = ", ".join(f"{element} {value:+.3f}" for element, value in one.offsets.items())
        said = f"{listed} eV" if len(one.offsets) <= _ELEMENTS else f"{len(one.offsets)} elements"
        fitted = "fitted to other structures" if elsewhere else "fitted to these structures"
        notes.append(
            f"{one.name}: energies shifted by one constant per element, {fitted} ({said}); --offsets off shows them "
            "unshifted"
        )
    else:
        own = [cases[k] for k in answers]
        moved = metrics.without_offsets(own, one.answers, metrics.offsets(own, dict(enumerate(one.answers))))
        left = Error.of(a.energy - c.reference.energy for c, a in zip(own, moved, strict=True)).rmse
        if left < 0.5 * (raw := one.total.energy.rmse):
            notes.append(
                f"{one.name}: one energy per element would reduce the RMSE of E from {1000 * raw:.3g} to "
                f"{1000 * left:.3g} meV/atom: another energy zero; --offsets on removes it"
            )
    if one.failed:
        name, reason = next(iter(one.failed.items()))
        notes.append(f"{one.name}: failed on {counted(len(one.failed), 'structure')}, left out: {name}: {reason}")
    return notes


def _disagreements(given: Mapping[str, Mapping[int, Values]]) -> list[metrics.Disagreement]:
    names = list(given)
    made = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = [k for k in given[first] if k in given[second]]
            if both:
                pairs = [[given[name][k] for k in both] for name in (first, second)]
                made.append(metrics.disagreement((first, second), *pairs))
    return made
