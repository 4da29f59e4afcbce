"""Choosing from the structures of a search a few that stand for all: the whole of ``select``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.call.structures import read_structures
from uspex_bridge.learn.choose.candidates import candidate, known_of, read_labelled_structures, title_of
from uspex_bridge.learn.choose.select import Quota, Selection, distinct, doubtful, select
from uspex_bridge.learn.choose.soap import Scaling, SoapSettings, coverage, describe_all
from uspex_bridge.learn.choose.structure_map import StructureMap, make_map
from uspex_bridge.results.hulls.stability import Question
from uspex_bridge.results.phases.definition import Tolerances, same_phase
from uspex_bridge.results.phases.matching import Catalogue
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import Entry, Pool, composition_of, reduced_composition

#: Structures closer than this in scaled features are the same training point; two unlike ones are about ten apart.
_SAME = 0.01


@dataclass(frozen=True)
class Exclusions:
    """What is never taken.

    Attributes:
        have: what is there already, a dataset's folder or a file of structures.
        holdout: phases to keep for tests, a file of structures, or of names (``.txt``).
        max_atoms: larger cells.
        with_outliers: take structures far from all others in volume or enthalpy all the same.
        with_holes: take structures in holes of a model all the same.
    """

    have: Path | None = None
    holdout: Path | None = None
    max_atoms: int | None = None
    with_outliers: bool = False
    with_holes: bool = False


@dataclass(frozen=True, eq=False)
class Selected:
    """A selection, and the map that it was made on.

    Attributes:
        selection: what was chosen.
        quota, exclusions: what was asked for.
        pool: where the structures come from.
        drawn: the map of all structures.
        have: coordinates (N, K) in the map of what was there already.
        left_out: how many structures could not be taken, by reason.
    """

    selection: Selection
    quota: Quota
    exclusions: Exclusions
    pool: Pool
    drawn: StructureMap
    have: Array
    left_out: dict[str, int]

    def groups(self) -> dict[str, Array]:
        """Return the coordinates of what was taken near the hull, and of the rest."""
        rows = {entry.name: row for entry, row in zip(self.drawn.entries, self.drawn.coordinates, strict=True)}
        near = [rows[c.entry.name] for c in self.selection.chosen if "hull" in c.reason]
        rest = [rows[c.entry.name] for c in self.selection.chosen if "hull" not in c.reason]
        width = self.drawn.coordinates.shape[1]
        return {
            "near the hull": np.array(near).reshape(-1, width),
            "for coverage": np.array(rest).reshape(-1, width),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of plain values per structure, in the order of choice; ``above_hull`` in eV/atom."""
        return [
            {
                "name": title_of(self.pool, c.entry),
                "formula": c.entry.formula,
                "above_hull": c.above,
                "flags": " ".join(c.entry.flags) or None,
                "reason": c.reason,
            }
            for c in self.selection.chosen
        ]

    def frames(self) -> list[Atoms]:
        """Return the structures, each with its name, and why it was taken, in ``info``."""
        known = known_of(self.pool)
        structures = {e.name: s for e, s in self.pool.structures([chosen.entry for chosen in self.selection.chosen])}
        frames = []
        for chosen in self.selection.chosen:
            entry, more = chosen.entry, dict(known.get(chosen.entry.name, {}))
            reason = "; ".join(filter(None, [more.pop("reason", ""), chosen.reason]))
            frames.append(candidate(entry, structures[entry.name], title_of(self.pool, entry), reason=reason, **more))
        return frames

    def to_dict(self) -> dict[str, Any]:
        """Return the selection as plain values."""
        groups = self.groups()
        after = len(self.have) + len(self.selection.chosen)
        points = np.vstack([self.have, *groups.values(), self.drawn.coordinates])
        covered = {"before": coverage(points, np.arange(len(self.have))), "after": coverage(points, np.arange(after))}
        return {
            "settings": asdict(self.quota) | {"max_atoms": self.exclusions.max_atoms},
            "units": {"above_hull": "eV/atom", "within": "eV/atom"},
            "levels": sorted({c.entry.level for c in self.selection.chosen if c.entry.level}),
            "descriptor": asdict(self.drawn.settings),
            "scaling": self.drawn.space.scaling,
            "chosen": self.rows(),
            "near_hull": len(groups["near the hull"]),
            "there_before": len(self.have),
            "not_taken": self.selection.left,
            "left_out": self.left_out,
            "coverage": {key: asdict(value) | {"fraction": value.fraction} for key, value in covered.items()},
        }


def select_pool(
    pool: Pool,
    quota: Quota,
    exclusions: Exclusions = Exclusions(),
    *,
    references: Sequence[str] = (),
    question: Question | None = None,
    soap: Callable[[Collection[str]], SoapSettings] = lambda elements: SoapSettings(),
    scaling: Scaling = "standard",
    progress: Callable[[], None] = lambda: None,
) -> Selected:
    """Choose from the structures of ``pool`` a few that stand for all.

    Args:
        pool: the structures, and references.
        quota: how many, and by which rule.
        exclusions: what is never taken.
        references: labels of the sources that only span the hull.
        question: what the same phase is, and whether levels of theory may be mixed; None takes the defaults.
        soap: gives the descriptor for the elements that occur.
        scaling: of the descriptor's features.
        progress: called after each structure is described.

    Raises:
        InputError: there is no structure, none is left to choose from, or a file cannot be read.
    """
    question = question or Question()
    training = read_labelled_structures(exclusions.have) if exclusions.have is not None else []
    elements = sorted(
        {symbol for entry in pool.entries for symbol, _ in entry.composition}
        | {symbol for one in training for symbol in one.symbols}
    )
    drawn = make_map(
        pool,
        soap(elements),
        scaling,
        tuple(references),
        elements=elements,
        mix_levels=question.mix_levels,
        progress=progress,
    )
    features = np.array(list(describe_all(training, drawn.elements, drawn.settings)))
    features = features.reshape(-1, drawn.features.shape[1])
    own = [entry for entry in drawn.entries if entry.run not in references]
    kept, left = _allowed(pool, own, _reasons(pool, drawn, features, training, exclusions))
    candidates = distinct(pool, kept, question.method, question.tolerances)
    left["duplicates"] = len(kept) - len(candidates)
    if not candidates:
        raise InputError(
            "no structure remains to select from: " + ", ".join(f"{n} {why}" for why, n in left.items() if n)
        )
    have = drawn.space.place(features)
    coordinates = {entry.name: row for entry, row in zip(drawn.entries, drawn.coordinates, strict=True)}
    found = select(candidates, coordinates, drawn.points, have, quota)
    return Selected(found, quota, exclusions, pool, drawn, have, left)


#: Tells why a structure may not be taken.
Refusal = Callable[[Entry, Structure], bool]


def _allowed(pool: Pool, entries: Sequence[Entry], reasons: dict[str, Refusal]) -> tuple[list[Entry], dict[str, int]]:
    """Return what no reason forbids, and how many each reason left out."""
    left, kept = dict.fromkeys(reasons, 0), []
    for entry, structure in pool.structures(entries):
        why = next((name for name, refuses in reasons.items() if refuses(entry, structure)), None)
        if why is None:
            kept.append(entry)
        else:
            left[why] += 1
    return kept, left


def _reasons(
    pool: Pool, drawn: StructureMap, features: Array, training: Sequence[Structure], exclusions: Exclusions
) -> dict[str, Refusal]:
    outliers = {} if exclusions.with_outliers else doubtful(drawn.points.values())
    there, phase_is_there = _there(drawn, features), _phases(training)
    most = exclusions.max_atoms or math.inf

    def failed(entry: Entry, _: Structure) -> bool:
        return not entry.valid and (not math.isnan(entry.enthalpy) or isinstance(pool.sources[entry.run], Results))

    return {
        "failed or refused": failed,
        "in holes": lambda entry, _: "hole" in entry.marks and not exclusions.with_holes,
        "outliers": lambda entry, _: entry.name in outliers,
        "too large": lambda _, structure: len(structure.symbols) > most,
        "there already": lambda entry, structure: entry.name in there or phase_is_there(structure),
        "held out": _holdout(pool, exclusions.holdout),
    }


def _holdout(pool: Pool, path: Path | None) -> Refusal:
    """Return the test whether a structure must not be taken: by name, or as the same phase at any volume."""
    if path is None:
        return lambda entry, structure: False
    if path.suffix == ".txt":
        names = set(read_text(path).split())
        return lambda entry, structure: bool({entry.name, title_of(pool, entry)} & names)
    catalogue = Catalogue()
    for number, structure in enumerate(read_structures(path)):
        catalogue.add(number, structure)
    return lambda entry, structure: catalogue.find(structure) is not None


def _there(drawn: StructureMap, features: Array) -> set[str]:
    """Return the names of the entries that are the same as one of the training structures, however it is written."""
    from sklearn.neighbors import NearestNeighbors

    if not len(features):
        return set()
    tree = NearestNeighbors(n_neighbors=1).fit(drawn.space.normalise(features))
    away = tree.kneighbors(drawn.space.normalise(drawn.features))[0][:, 0]
    return {entry.name for entry, distance in zip(drawn.entries, away, strict=True) if distance < _SAME}


def _phases(training: Sequence[Structure]) -> Callable[[Structure], bool]:
    """Return the test whether a structure is a labelled phase at about its volume, such as a re-relaxed copy."""
    tolerances = Tolerances()
    held: dict[Any, list[Surroundings]] = {}
    for one in training:
        held.setdefault(reduced_composition(composition_of(one.symbols)), []).append(Surroundings(one))

    def there(structure: Structure) -> bool:
        known = held.get(reduced_composition(composition_of(structure.symbols)), [])
        volume = structure.volume / len(structure)
        near = [
            other
            for other in known
            if abs(other.structure.volume / len(other.structure) - volume) <= (tolerances.volume or 0.0) * volume
        ]
        if not near:
            return False
        mine = Surroundings(structure)
        return any(same_phase(other, mine, tolerances.distance) for other in near)

    return there
