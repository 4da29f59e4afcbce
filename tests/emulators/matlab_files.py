"""How the MATLAB/Octave line writes its files and reads VASP's: protocol parts A1 and A3, rule by rule."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from emulators.records import SearchDied
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: What Octave's str2num takes for a number here; ``NAN`` and infinities make it fail (measured).
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?|NaN")


def num2str(value: float) -> str:
    """Print a number as MATLAB's num2str: an integer as it is, else about five significant digits."""
    if value == int(value):
        return str(int(value))
    digits = max(math.floor(math.log10(abs(value))) + 5, 5)
    return f"{value:.{min(digits, 16)}g}"


def str2num(text: str) -> list[float]:
    """Return the numbers in ``text``; none at all if one word of it is no number, as MATLAB's str2num."""
    words = text.replace(",", " ").split()
    if not all(_NUMBER.fullmatch(word) for word in words):
        return []
    return [float(word.replace("D", "e").replace("d", "e")) for word in words]


def get_stuff(path: Path, pattern: str, column: int) -> str:
    """Print one column (from 1) of every line that matches, as USPEX's perl script; a leading blank is a column."""
    if not path.is_file():
        return ""
    out = []
    for line in path.read_text(errors="replace").splitlines():
        if re.search(pattern, line):
            words = re.split(r"\s+", line)
            out.append(words[column - 1] if len(words) >= column else "")
    return "".join(f"{word}\n" for word in out)


def format_poscar(atoms: Atoms, species: Sequence[str], number: int = 0, group: int = 0) -> str:
    """Return a VASP-4 POSCAR (no element line) of ``atoms``, already grouped in the order of ``species``."""
    a, b, c, alpha, beta, gamma = atoms.cell.cellpar()
    text = f"EA{number:<4d} {a:6.3f} {b:6.3f} {c:6.3f} {alpha:5.2f} {beta:5.2f} {gamma:5.2f} "
    text += f"Sym.group: {group:4d}\n1.0000\n"
    text += "".join("{:12.6f} {:12.6f} {:12.6f}\n".format(*row) for row in atoms.cell.array)
    symbols = atoms.get_chemical_symbols()
    text += "".join(f"{symbols.count(s):4d} " for s in species if s in symbols) + "\nDirect\n"
    return text + "".join("{:12.6f} {:12.6f} {:12.6f}\n".format(*row) for row in atoms.get_scaled_positions(wrap=True))


@dataclass(frozen=True)
class Accepted:
    """Outcome of the acceptance test (flag 0); ``message`` holds USPEX's number and text where it failed."""

    good: bool
    message: str = ""


def accept(folder: Path) -> Accepted:
    """Apply USPEX's test to the OSZICAR and OUTCAR of ``folder``: is there an F, and did the SCF converge?"""
    oszicar = folder / "OSZICAR"
    if not get_stuff(oszicar, " F= ", 4) or b"\0" in oszicar.read_bytes():
        return Accepted(False, "1102 1st SCF is not Done")
    lines = oszicar.read_text(errors="replace").splitlines()
    last = max(n for n, line in enumerate(lines) if "F=" in line)
    before = lines[last - 1] if last > 0 else ""
    words = re.split(r"\s+", before)
    steps = str2num(words[1]) if ": " in before and len(words) > 1 else []
    limits = str2num(get_stuff(folder / "OUTCAR", " NELM ", 4).replace(";", ""))
    if steps and limits and all(steps[0] < limit for limit in limits):
        return Accepted(True)
    return Accepted(False, "1103 SCF is not converged")


def read_enthalpy(folder: Path) -> float:
    """Return the last F of OSZICAR (flag 1).

    Raises:
        SearchDied: one of the F values is no number.
    """
    values = str2num(get_stuff(folder / "OSZICAR", " F= ", 4))
    if not values:
        raise SearchDied("OSZICAR: a value of F= is not a number")
    return values[-1]


def read_contcar(folder: Path) -> tuple[Array, Array]:
    """Return the lattice (rows, Å) and the wrapped fractional coordinates (M, 3) of CONTCAR.

    Fewer rows than atoms come back where the stream of numbers breaks off.

    Raises:
        SearchDied: USPEX's reader would throw.
    """
    path = folder / "CONTCAR"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    if len(lines) < 7:
        raise SearchDied("CONTCAR is missing or too short")
    scale, rows = str2num(lines[1]), [str2num(line) for line in lines[2:5]]
    if len(scale) != 1 or any(len(row) != 3 for row in rows):
        raise SearchDied("CONTCAR: scale or lattice cannot be read")
    lattice = np.array(rows) * scale[0]
    at = 5 if str2num(lines[5]) else 6
    counts = str2num(lines[at])
    mode = at + 1
    selective = len(lines) > mode and lines[mode][:1] in ("s", "S")
    mode += selective
    if len(lines) <= mode or not lines[mode] or not counts:
        raise SearchDied("CONTCAR: counts or mode line cannot be read")
    coordinates = _rows(" ".join(lines[mode + 1 :]).split(), int(sum(counts)), selective)
    if not len(coordinates):
        raise SearchDied("CONTCAR holds no coordinates")
    if lines[mode][0] in "cCkK":
        coordinates = coordinates @ np.linalg.inv(lattice)
    return lattice, coordinates - np.floor(coordinates)


def _rows(words: list[str], natoms: int, selective: bool) -> Array:
    """Take up to ``natoms`` rows from a stream of words as fscanf does; a word of another kind ends it."""
    width = 6 if selective else 3
    rows: list[list[float]] = []
    row: list[float] = []
    for n, word in enumerate(words[: width * natoms]):
        flag = n % width >= 3
        if flag:
            if len(word) != 1:
                break
        elif re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[nN][aA][nN]", word):
            row.append(float(word))
        else:
            break
        if len(row) == 3 and n % width == width - 1:
            rows.append(row)
            row = []
    if row:
        rows.append(row + [0.0] * (3 - len(row)))
    return np.array(rows).reshape(-1, 3)
