"""The pressure that each structure has as it is, by a model: what its cutoff must be enough for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from uspex_bridge.base.units import pressure_of
from uspex_bridge.learn.data.predictions import find_predictor, predict_all, structure_key
from uspex_bridge.learn.label.prepare import Candidate
from uspex_bridge.models.cards import CalculatorSettings

#: Folder of the model's answers in a folder of labels.
ANSWERS = ".estimates"


def with_estimates(
    wanted: Iterable[Candidate], model: str, settings: CalculatorSettings, labels: Path
) -> list[Candidate]:
    """Return structures with their own pressure as a model sees it; where it fails, as they were.

    Args:
        wanted: the structures.
        model: its name.
        settings: of its calculator.
        labels: folder that keeps the answers.

    Raises:
        ModelError: the model cannot be loaded.
        OutputError: the answers cannot be written.
    """
    listed = list(wanted)
    keyed = {structure_key(one.structure): one.structure for one in listed}
    answers = predict_all(find_predictor(model, settings), keyed, labels / ANSWERS)
    found = []
    for one in listed:
        stress = answers[structure_key(one.structure)].stress
        known = [one.own_pressure_gpa] if one.own_pressure_gpa is not None else []
        own = max([*known, *([pressure_of(stress)] if stress is not None else [])], default=None)
        found.append(replace(one, own_pressure_gpa=own))
    return found
