"""A slow, accurate model labels structures that a fast one then learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.labels import Added, Level, settings_hash
from uspex_bridge.learn.data.predictions import find_predictor, predict_all, structure_key
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.results.reading.model import Entry


def teach(
    name: str,
    settings: CalculatorSettings,
    structures: Iterable[tuple[Entry, Structure]],
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> Added:
    """Let a teacher label structures, and file them in a dataset of its own; what is labelled already stays.

    Args:
        name: of the teacher.
        settings: of its calculator.
        structures: with the entries that say where they are from and at what pressure.
        folder: gets ``dataset`` and ``answers``.
        workers: processes side by side.
        progress: called with the number of structures that were just done.

    Returns:
        what was added to the dataset and what was refused.

    Raises:
        ModelError: the teacher cannot be loaded.
        InputError: the dataset has labels of another teacher.
        CalculationError: the teacher failed on every structure.
        OutputError: the folder cannot be written.
    """
    model = find_predictor(name, settings)
    keyed = {structure_key(structure): (entry, structure) for entry, structure in structures}
    asked = {key: structure for key, (_, structure) in keyed.items()}
    answers = predict_all(model, asked, folder / "answers", workers=workers, progress=progress)
    frames: list[Atoms] = []
    for key, (entry, structure) in keyed.items():
        answer = answers[key]
        if answer.problem:
            continue
        atoms = to_atoms(structure)
        atoms.set_constraint()
        results = {"energy": answer.energy, "forces": answer.forces, "stress": answer.stress}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["origin"] = entry.name
        if entry.pressure_gpa is not None:
            atoms.info["pressure_gpa"] = entry.pressure_gpa
        frames.append(atoms)
    if not frames:
        reason = next((answer.problem for answer in answers.values()), "there are no structures")
        raise CalculationError(f"{name}: no label was computed: {reason}")
    dataset = Dataset.at(folder / "dataset")
    return dataset.add(frames, generation=0, level=Level("model", model.title, settings_hash(model.key)))
