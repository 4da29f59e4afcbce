"""Checks of what ends a search of the MATLAB line although every file of the relaxations is right.

Seen in whole runs of USPEX 9.4.4: a lock that was left over, ranges that are empty, blocks that a fixed composition
does not have, distances that no structure keeps, numbers in another unit, seeds that stop the reading of seeds.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.call.structures import wrong_label
from uspex_bridge.uspex.findings import Finding, Severity, relative
from uspex_bridge.uspex.inputs import InputTxt
from uspex_bridge.uspex.setup import Setup
from uspex_bridge.vasp.structure import ELEMENTS, parse_poscars

#: USPEX ignores a lock that is older, s.
_LOCK_AGE = 7200.0
#: Parts of space that spheres of the smallest distances may fill: as much as close packing does, and so much that
#: random structures are hardly found.
_PACKED, _TIGHT = 0.74, 0.55
#: Volume of an atom over that of its covalent sphere.
_ROOM = 1.7
#: Numbers in front of a colon, where a word between them is taken for nothing.
_NUMBERS = (
    *("ExternalPressure", "populationSize", "initialPopSize", "numGenerations", "stopCrit", "minAt", "maxAt"),
    *("numParallelCalcs", "whichCluster", "maxErrors", "minVectorLength", "antiSeedsMax", "antiSeedsSigma"),
)


def check_search(setup: Setup) -> Iterator[Finding]:
    """Check what USPEX itself stumbles over."""
    if setup.line != "matlab":
        return
    text = InputTxt.read(setup.path)
    yield from _check_lock(setup)
    yield from _check_ranges(setup)
    yield from _check_words(setup, text)
    yield from _check_distances(setup, text)
    yield from _check_starting_files(setup)
    for path in sorted((setup.folder / "Seeds").glob("POSCARS*")):
        yield from _check_seeds(setup, path)
    yield from _check_anti_seeds(setup, text)


def _check_lock(setup: Setup) -> Iterator[Finding]:
    lock = setup.folder / "still_running"
    if not lock.exists():
        return
    if time.time() - lock.stat().st_mtime < _LOCK_AGE:
        yield Finding(
            "error",
            lock.name,
            None,
            "while it is here USPEX exits at once",
            "remove it if no search runs in this folder",
        )
    else:
        yield Finding("note", lock.name, None, "left over for more than 2 hours: USPEX removes it", "")


def _check_ranges(setup: Setup) -> Iterator[Finding]:
    name, lines = setup.path.name, setup.lines
    least, most = (setup.numbers.get(key, math.nan) for key in ("minAt", "maxAt"))
    if least > most:
        yield Finding(
            "error",
            name,
            lines["minAt"],
            f"minAt {least:g} is more than maxAt {most:g}: USPEX stops with an error",
            "swap them",
        )
    if not setup.varies and len(setup.blocks) > 1 and not setup.molecular:
        yield Finding(
            "error",
            name,
            lines.get("calculationType"),
            f"{len(setup.blocks)} rows of numSpecies in a search of fixed composition: USPEX stops with an error",
            "calculationType 301 varies the composition, 300 takes one row",
        )


def _check_words(setup: Setup, text: InputTxt) -> Iterator[Finding]:
    """Look for numbers that USPEX takes without the word that follows them: 500 kbar is 500 GPa to it."""
    for key in _NUMBERS:
        value = text.keyword(key)
        if value is None:
            continue
        words = text.lines[value.line - 1].split(":")[0].split()
        extra = [word for word in words[1:] if word.strip("()[]").lower() != "gpa"]
        if extra:
            severity: Severity = "error" if key == "ExternalPressure" else "warning"
            unit = " GPa" if key == "ExternalPressure" else ""
            said = f"'{' '.join(words)}' is {value.text}{unit} to USPEX: it takes the first word for {key}"
            yield Finding(severity, setup.path.name, value.line, said, f"'{value.text} : {key}' in USPEX's own unit")


def _check_distances(setup: Setup, text: InputTxt) -> Iterator[Finding]:
    """Check that IonDistances has a number for every pair, and that structures can keep them."""
    rows = [row for row in text.block("IonDistances", "EndDistances") if row.text]
    if not rows or not setup.elements:
        return
    name, count = setup.path.name, len(setup.elements)
    try:
        matrix = [[float(word) for word in row.text.split()] for row in rows]
    except ValueError:
        yield Finding("error", name, rows[0].line, "IonDistances contains an entry that is not a number", "")
        return
    if len(matrix) != count or any(len(row) != count for row in matrix):
        shape = f"{len(matrix)} rows of {', '.join(str(len(row)) for row in matrix)} numbers"
        yield Finding(
            "error", name, rows[0].line, f"IonDistances has {shape} for {count} elements", "a row and a column each"
        )
        return
    if setup.molecular or set(setup.elements) - ELEMENTS:
        return
    spheres = np.array([math.pi / 6 * matrix[k][k] ** 3 for k in range(count)])
    room = np.array([_room(symbol) for symbol in setup.elements])
    mixtures = (
        setup.blocks if not setup.varies else tuple(tuple(int(i == j) for i in range(count)) for j in range(count))
    )
    for counts in mixtures:
        if len(counts) != count or not sum(counts):
            continue
        filled = float(spheres @ counts / (room @ counts))
        if filled > _TIGHT:
            formula = "".join(f"{s}{n if n > 1 else ''}" for s, n in zip(setup.elements, counts, strict=True) if n)
            hopeless = filled > _PACKED
            yield Finding(
                "error" if hopeless else "warning",
                name,
                rows[0].line,
                f"spheres of IonDistances would fill {100 * filled:.0f} % of {formula}: "
                + (
                    "no structure satisfies them, and USPEX tries without end"
                    if hopeless
                    else "few random structures satisfy them"
                ),
                "smaller distances, such as 0.7 times the bond lengths",
            )


def _room(symbol: str) -> float:
    """Return about the volume that an atom has at no pressure, Å³."""
    from ase.data import atomic_numbers, covalent_radii

    return _ROOM * 4 / 3 * math.pi * float(covalent_radii[atomic_numbers[symbol]]) ** 3


def _check_starting_files(setup: Setup) -> Iterator[Finding]:
    """Check the files that molecules and metadynamics begin with."""
    if setup.method == "META" and not (setup.folder / "POSCAR_1").is_file():
        yield Finding(
            "warning",
            "POSCAR_1",
            None,
            "missing: metadynamics begins with it and takes the elements from it",
            "write it",
        )
    if setup.molecular and setup.blocks:
        for number in range(1, max(map(len, setup.blocks)) + 1):
            if not (setup.folder / f"MOL_{number}").is_file():
                yield Finding("warning", f"MOL_{number}", None, f"missing: it describes molecule {number}", "write it")


def _check_seeds(setup: Setup, path: Path) -> Iterator[Finding]:
    """Read seeds as USPEX does: it stops at a foreign element, and skips what is not made of whole blocks."""
    name = relative(path, setup.folder)
    text = read_text(path)
    try:
        seeds = parse_poscars(text, str(path))
    except InputError as error:
        line = re.match(r".*?, line (\d+): (.*)", str(error), re.DOTALL)
        where, what = (int(line[1]), line[2]) if line else (None, str(error))
        yield Finding(
            "error", name, where, f"{what}: USPEX reads no seed from here on", "VASP-5 POSCARs, coordinates only"
        )
        return
    for number, seed in enumerate(seeds, 1):
        if foreign := set(seed.symbols) - set(setup.elements):
            lost = len(seeds) - number + 1
            yield Finding(
                "error",
                name,
                None,
                f"seed {number} holds {', '.join(sorted(foreign))}: USPEX reads none from there on, {lost} are lost",
                "remove it",
            )
            return
    for number, seed in enumerate(seeds, 1):
        if wrong := wrong_label(seed.comment, seed):
            yield Finding("warning", name, None, f"seed {number}: {wrong}", "correct its title or its atoms")
    if setup.molecular or not setup.blocks:
        return
    skipped = [number for number, seed in enumerate(seeds, 1) if not _whole_blocks(setup, seed.symbols)]
    if skipped:
        listed = ", ".join(map(str, skipped[:5])) + (", ..." if len(skipped) > 5 else "")
        yield Finding("warning", name, None, f"not made of whole blocks, USPEX skips them: seeds {listed}", "")


def _whole_blocks(setup: Setup, symbols: tuple[str, ...]) -> bool:
    rows = [row for row in setup.blocks if len(row) == len(setup.elements)]
    if not rows:
        return True
    matrix = np.array(rows, dtype=float).T
    wanted = np.array([symbols.count(symbol) for symbol in setup.elements], dtype=float)
    amounts = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    whole = np.round(amounts)
    return bool(np.abs(matrix @ whole - wanted).max() < 1e-6 and whole.min() >= 0)


def _check_anti_seeds(setup: Setup, text: InputTxt) -> Iterator[Finding]:
    path = setup.folder / "AntiSeeds" / "POSCARS"
    if not path.is_file():
        return
    name = relative(path, setup.folder)
    height = text.keyword("antiSeedsMax")
    if setup.varies:
        yield Finding(
            "warning", name, None, "anti-seeds have no effect in a search of variable composition", "remove them"
        )
    elif height is None or not re.fullmatch(r"[\d.eE+-]+", height.text) or float(height.text) <= 0:
        yield Finding(
            "warning", name, None, "without antiSeedsMax in INPUT.txt they have no effect", "1.0 : antiSeedsMax"
        )
