"""What a search reads of seeds and anti-seeds: where they go, which keys it needs, and what it cannot use.

MATLAB line (9.4.4, pick_Seeds.m, pickAntiSeeds.m, AntiSeedsCorrection.m): Seeds/POSCARS at the start of the next
generation, Seeds/POSCARS_<g> of generation g; AntiSeeds/POSCARS once, when the search begins, and only a height
(antiSeedsMax, 0 by default) makes them count. Python line (2022.0.0, Operators/Seeds.py): every file of the folders
that ``seeds`` in the target names, of generations that count from 0; there are no anti-seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.reading.settings import SearchSettings, settings_of_input
from uspex_bridge.uspex.inputs import InputTxt, InputUspex


@dataclass(frozen=True)
class Place:
    """Where seeds go.

    Attributes:
        path: the file.
        notes: what the search still needs to read it, one line each.
    """

    path: Path
    notes: tuple[str, ...] = ()


def place_for(folder: Path, *, anti: bool = False, generation: int | None = None) -> Place:
    """Return where the search in ``folder`` reads seeds.

    Args:
        folder: of its INPUT.txt or input.uspex; where there is neither, the MATLAB line's places are taken.
        anti: anti-seeds.
        generation: as that line counts; None is the next one.

    Raises:
        InputError: this search reads none, or would read them wrongly.
    """
    settings = settings_of_input(folder)
    over = (f"{folder / 'USPEX_IS_DONE'}: this search has ended",) if (folder / "USPEX_IS_DONE").exists() else ()
    if (folder / "INPUT.txt").is_file():
        _refuse(folder / "INPUT.txt", settings)
        return _anti_seeds(folder, settings) if anti else Place(_matlab(folder, generation), over)
    if (folder / "input.uspex").is_file():
        if anti:
            raise InputError(f"{folder / 'input.uspex'}: the Python line of USPEX has no anti-seeds")
        read = _python(folder, generation)
        return Place(read.path, (*read.notes, *over))
    place = folder / "AntiSeeds" / "POSCARS" if anti else _matlab(folder, generation)
    return Place(place, (f"{folder} holds no input of USPEX: the format of its seeds is unknown",))


def _matlab(folder: Path, generation: int | None) -> Path:
    return folder / "Seeds" / ("POSCARS" if generation is None else f"POSCARS_{generation}")


def _refuse(path: Path, settings: SearchSettings) -> None:
    """Refuse searches whose seeds are no crystals of atoms.

    Raises:
        InputError: it is one.
    """
    if settings.method not in ("USPEX", "PSO"):
        raise InputError(f"{path}: {settings.method} reads no seeds; it starts from POSCAR_1")
    if settings.surfaces:
        raise InputError(f"{path}: seeds of a search for surfaces are the atoms above its substrate, not crystals")
    if settings.calculation[-2:-1] == "1":
        raise InputError(f"{path}: seeds of a molecular search are molecules in the order of its MOL files, not atoms")


def _anti_seeds(folder: Path, settings: SearchSettings) -> Place:
    path = folder / "INPUT.txt"
    if settings.calculation.endswith("1") or len(settings.blocks) > 1:
        raise InputError(
            f"{path}: in a search of variable composition USPEX compares fingerprints without elements, those of "
            "anti-seeds have them, and anti-seeds have no effect"
        )
    if (folder / "ANTISEEDS.mat").exists():
        raise InputError(
            f"{folder / 'ANTISEEDS.mat'}: the search has begun, and USPEX does not read AntiSeeds/POSCARS again; "
            "a new search reads it"
        )
    text, notes = InputTxt.read(path), []
    for key, why, line in (
        ("antiSeedsMax", "their height, in units of mean minus lowest fitness of the parents, is 0", "1.0"),
        ("antiSeedsSigma", "their width, in units of the mean distance of the parents, is 0.001", "0.1"),
    ):
        value = text.keyword(key)
        if value is None or not _positive(value.text):
            notes.append(f"{path}: without {key} {why}: add a line such as '{line} : {key}'")
    return Place(folder / "AntiSeeds" / "POSCARS", tuple(notes))


def _positive(word: str) -> bool:
    try:
        return float(word) > 0
    except ValueError:
        return False


def _python(folder: Path, generation: int | None) -> Place:
    path = folder / "input.uspex"
    seeds = _step(_step(_step(InputUspex.read(path).main, "optimizer"), "target"), "seeds")
    named = dict(zip(seeds.get("generations") or [], map(str, seeds.get("seedsFolders") or []), strict=False))
    if generation is None:
        generation = next(iter(named), 0)
    folders = dict(named)
    folders.setdefault(generation, f"Seeds_{generation}" if generation else "Seeds")
    place = folder / folders[generation]
    if described := sorted(place.glob("*.uspex")):
        raise InputError(f"{described[0]}: where there is such a file USPEX reads no POSCARs of that folder")
    notes = []
    if generation not in named:
        numbers, names = " ".join(map(str, folders)), " ".join(f"'{name}'" for name in folders.values())
        block = f"seeds: {{generations: [{numbers}] seedsFolders: [{names}]}}"
        notes.append(f"{path}: the target needs {block} to read them (uspex-bridge docs results)")
    if others := sorted(p.name for p in place.glob("*") if p.is_file() and p.name != "POSCARS"):
        notes.append(f"{place}: USPEX reads every file of it as seeds, {', '.join(others)} too")
    return Place(place / "POSCARS", tuple(notes))


def _step(tree: Any, key: str) -> dict[str, Any]:
    value = tree.get(key) if isinstance(tree, dict) else None
    return value if isinstance(value, dict) else {}
