"""Trained models that lie in a folder: what each was trained on, and which of them needs the fewest new labels.

The library of potentials of strategy 3 of the SSCHA-based search: for a new structure or composition the stored model
is taken that has to learn least, and only then is it trained further.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.tables import layout
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import CARD, settings_for
from uspex_bridge.learn.data.predictions import find_predictor, predict_all, structure_key


@dataclass(frozen=True)
class Stored:
    """A trained model.

    Attributes:
        folder: of its training.
        card: what its ``model.json`` says.
    """

    folder: Path
    card: Mapping[str, Any]

    @property
    def elements(self) -> frozenset[str]:
        """Those of the labels it was trained on."""
        return frozenset(self.card["elements"])

    @property
    def data(self) -> str:
        """What identifies its labels: models with the same can be each other's second opinion."""
        source = {key: value for key, value in self.card["data"].items() if "sha256" in key}
        return json.dumps(source or self.card["data"], sort_keys=True)

    def row(self) -> dict[str, Any]:
        """Return what a list shows of it."""
        on, errors = self.card.get("trained_on", {}), self.card["errors"]
        low, high = on.get("pressure_gpa", (None, None))
        return {
            "folder": str(self.folder),
            "kind": self.card["kind"],
            "elements": " ".join(sorted(self.elements)),
            "structures": self.card["structures"]["train"],
            "pressure_from_gpa": low,
            "pressure_to_gpa": high,
            "energy_mae": errors["energy"]["mae"],
            "pv_mae": errors["pv"]["mae"],
            "time": self.card["time"],
        }


def stored_models(place: Path) -> list[Stored]:
    """Return the finished trainings in a folder and below it, the oldest first; a link to one is not another one.

    Raises:
        InputError: there is none.
    """
    found: dict[Path, Stored] = {}
    for path in sorted(place.rglob(CARD)):
        try:
            card = jsonl.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(card, dict) and {"kind", "data", "elements", "errors", "structures"} <= card.keys():
            found.setdefault(path.parent.resolve(), Stored(path.parent, card))
    if not found:
        raise InputError(f"{place}: no training has ended there or below it ({CARD})")
    return sorted(found.values(), key=lambda one: str(one.card.get("time", "")))


@dataclass(frozen=True)
class Fitness:
    """How well a stored model serves structures.

    Attributes:
        model: which one.
        unknown: elements of the structures that it was not trained on; then nothing is computed.
        needed: structures on which it and its second opinion are further apart than the threshold, or one failed.
        mean: mean |ΔPV|, eV/atom.
        beside: the second opinion.
    """

    model: Stored
    unknown: tuple[str, ...]
    needed: int
    mean: float
    beside: str


def fitness_of(
    models: Sequence[Stored],
    structures: Sequence[Structure],
    config: Config,
    cache: Path,
    *,
    second: str | None = None,
    pv: float = 0.04,
) -> list[Fitness]:
    """Say how many new labels each stored model would need, the fewest first.

    A model's second opinion is the other model that was trained on the same labels, else ``second``, else what all
    other stored models say on the average.

    Args:
        models: the stored ones.
        structures: that are to be computed with one of them.
        config: settings.
        cache: folder of answers.
        second: a further model, as ``evaluate`` names it.
        pv: |ΔPV| from which a structure needs a label, eV/atom.

    Raises:
        InputError: there is one model and no second opinion.
        ModelError: a model cannot be loaded.
    """
    wanted = {symbol for structure in structures for symbol in structure.symbols}
    asked = {structure_key(structure): structure for structure in structures}
    usable = [one for one in models if wanted <= one.elements]
    answers = {str(one.folder): _pv(str(one.folder), config, asked, cache) for one in usable}
    extra = _pv(second, config, asked, cache) if second is not None else None
    found = [Fitness(one, tuple(sorted(wanted - one.elements)), len(structures), np.inf, "") for one in models]
    for k, one in enumerate(models):
        if one not in usable:
            continue
        other, beside = _second(one, usable, answers, extra, second)
        apart = np.abs(answers[str(one.folder)] - other)
        needed = int((~(apart <= pv)).sum())
        mean = float(np.nanmean(apart)) if np.isfinite(apart).any() else np.inf
        found[k] = Fitness(one, (), needed, mean, beside)
    return sorted(found, key=lambda fit: (bool(fit.unknown), fit.needed, fit.mean))


def _second(
    one: Stored, usable: Sequence[Stored], answers: Mapping[str, Array], extra: Array | None, name: str | None
) -> tuple[Array, str]:
    others = [other for other in usable if other is not one]
    siblings = [other for other in others if other.data == one.data and other.card["kind"] != one.card["kind"]]
    if siblings:
        return answers[str(siblings[-1].folder)], str(siblings[-1].folder)
    if extra is not None:
        return extra, str(name)
    if not others:
        raise InputError(f"{one.folder}: there is no second opinion; name a model with --second")
    with np.errstate(all="ignore"):
        return np.nanmedian([answers[str(other.folder)] for other in others], axis=0), "the others"


def _pv(name: str, config: Config, asked: Mapping[str, Structure], cache: Path) -> Array:
    """Return a model's PV per atom of every structure, eV; NaN where it failed."""
    found = predict_all(find_predictor(name, settings_for(name, config)), asked, cache)
    return np.array([found[key].pv(structure.volume, len(structure)) for key, structure in asked.items()])


def list_table(models: Sequence[Stored]) -> str:
    """Return the stored models as a table."""
    headings = [
        ("model", ""),
        ("kind", ""),
        ("elements", ""),
        ("structures", ""),
        ("P of labels", "GPa"),
        ("E MAE", "meV/atom"),
        ("PV MAE", "meV/atom"),
    ]
    lines = []
    for row in (one.row() for one in models):
        low, high = row["pressure_from_gpa"], row["pressure_to_gpa"]
        elements = row["elements"].split()
        lines.append(
            [
                row["folder"],
                row["kind"],
                row["elements"] if len(elements) <= 8 else f"{len(elements)} elements",
                str(row["structures"]),
                "" if low is None else f"{low:.0f} to {high:.0f}",
                f"{1000 * row['energy_mae']:.1f}",
                f"{1000 * row['pv_mae']:.1f}",
            ]
        )
    return layout(headings, lines)


def fitness_table(found: Sequence[Fitness], structures: int) -> str:
    """Return which stored model needs how many labels as a table."""
    headings = [("model", ""), ("new labels", f"of {structures}"), ("mean |ΔPV|", "meV/atom"), ("beside", "")]
    lines = [
        [
            str(fit.model.folder),
            "" if fit.unknown else str(fit.needed),
            "" if not np.isfinite(fit.mean) else f"{1000 * fit.mean:.1f}",
            f"not trained on {' '.join(fit.unknown)}" if fit.unknown else fit.beside,
        ]
        for fit in found
    ]
    return layout(headings, lines)
