"""Labels from elsewhere on their way into a dataset: what they are, and which of them are not what they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.words import counted
from uspex_bridge.learn.data.archives import read_archive
from uspex_bridge.learn.data.labels import Label, Refused, provenance_of
from uspex_bridge.learn.data.suspects import suspects, wrong_sign


@dataclass(frozen=True)
class Offered:
    """Labels that may be added.

    Attributes:
        frames: labelled structures.
        code, functional: what computed them.
        refused: what is not among them, and why.
        notes: what to know.
    """

    frames: Sequence[Atoms]
    code: str
    functional: str
    refused: Sequence[Refused] = field(default=())
    notes: Sequence[str] = field(default=())


def offer(
    places: Iterable[Path],
    *,
    code: str | None = None,
    functional: str | None = None,
    pressure_gpa: float | None = None,
    every: int = 0,
    labels: Sequence[Label] = (),
    keep_outliers: bool = False,
) -> Offered:
    """Read labels of all kinds and sort out what cannot be one level of theory.

    Args:
        places: see :func:`uspex_bridge.learn.data.archives.read_archive`.
        code: what computed them, where the files do not say it.
        functional: theirs; several are joined by ``/`` where they are meant to be together (``PBE/PBE+U``). None takes
            the dataset's, else the one that the files name.
        pressure_gpa: of the search, where the files do not say it.
        every: of the steps of relaxations, see there.
        labels: of the dataset that they are for.
        keep_outliers: offer energies far from what the others suggest all the same.

    Raises:
        InputError: a place cannot be read, files name several functionals, or stresses have the wrong sign.
        ConfigError: nothing says code or functional.
    """
    archives = [read_archive(place, every) for place in places]
    frames = [atoms for archive in archives for atoms in archive.frames]
    refused = [one for archive in archives for one in archive.refused]
    level = labels[0].level if labels else None
    code = code or (level.code if level else next((archive.code for archive in archives if archive.code), ""))
    named = Counter(_functional(atoms) for atoms in frames if _functional(atoms))
    functional = functional or (level.functional if level else _only(named))
    if not code or not functional:
        raise ConfigError("the code of the labels is unknown: give --code and --functional")
    kept = []
    for atoms in frames:
        if pressure_gpa is not None:
            atoms.info.setdefault("pressure_gpa", pressure_gpa)
        if (own := _functional(atoms)) and own not in functional.split("/"):
            refused.append(Refused(str(atoms.info["origin"]), f"computed with {own}, not {functional}"))
        else:
            kept.append(atoms)
    if problem := wrong_sign(kept):
        raise InputError(f"nothing is added: {problem}")
    notes = []
    if not keep_outliers:
        found, note = suspects(kept, labels)
        notes += [note] if note and kept else []
        refused += [
            Refused(str(kept[k].info["origin"]), f"{why} (--keep-outliers adds it)") for k, why in found.items()
        ]
        kept = [atoms for k, atoms in enumerate(kept) if k not in found]
    cutoffs = {float(atoms.info["provenance"]["encut"]) for atoms in kept if "encut" in provenance_of(atoms)}
    if len(cutoffs) > 1:
        notes.append(
            f"cutoffs from {min(cutoffs):g} to {max(cutoffs):g} eV: energies of different cutoffs are not comparable"
        )
    return Offered(kept, code, functional, tuple(refused), tuple(notes))


def _functional(atoms: Atoms) -> str:
    return str(provenance_of(atoms).get("functional", ""))


def _only(named: Counter[str]) -> str:
    """Return the functional that all runs have.

    Raises:
        InputError: they have several.
    """
    if len(named) > 1:
        listed = ", ".join(f"{name} ({counted(count, 'label')})" for name, count in named.most_common())
        raise InputError(
            f"labels of several functionals: {listed}; name one, or those that belong together (PBE/PBE+U)"
        )
    return next(iter(named), "")
