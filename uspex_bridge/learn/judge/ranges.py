"""Whether models hold under compression to the pressure of the structures that they are judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.learn.data.predictions import find_predictor, predict_frames
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.inventory import card_of
from uspex_bridge.relaxation.reach import Limit, limits

#: Labels of more elements than this are those of no search.
_MOST = 10


def ranges_of(
    models: Mapping[str, CalculatorSettings], frames: Sequence[Atoms], cache: Path, most: float
) -> tuple[float, dict[str, list[Limit]]]:
    """Return where models break down when the elements of a search are compressed to its pressure.

    Args:
        models: name -> settings; those whose elements are invented are left out.
        frames: labelled structures, whose elements and highest pressure are the search's.
        cache: folder that keeps the models' answers.
        most: labels of a higher pressure do not count, GPa.

    Returns:
        The pressure, GPa, and the limits of each model; none where the labels are those of no search.

    Raises:
        ModelError: a model cannot be loaded.
        OutputError: the answers cannot be written.
    """
    elements = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    known = [float(atoms.info["pressure_gpa"]) for atoms in frames if "pressure_gpa" in atoms.info]
    pressure = max((value for value in known if value <= most), default=None)
    if pressure is None or len(elements) > _MOST:
        return 0.0, {}
    found = {}
    for name, settings in models.items():
        if not card_of(name, settings).invented:
            found[name] = limits(elements, pressure, _Asked(name, settings, cache))
    return pressure, found


class _Asked:
    """Answers of a model in the form that a backend gives them."""

    def __init__(self, name: str, settings: CalculatorSettings, cache: Path) -> None:
        self.model, self.cache = find_predictor(name, settings), cache

    def __call__(self, cells: Sequence[Atoms]) -> list[Any]:
        return [
            CalculationError(answer.problem) if answer.problem else {"energy": answer.energy, "stress": answer.stress}
            for answer in predict_frames(self.model, cells, self.cache)
        ]
