"""Structures in VASP's files: POSCAR and POTCAR in, CONTCAR out.

USPEX's MATLAB line writes POSCARs without element line, so that POTCAR alone says which atoms they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array, Frame, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, split_lines
from uspex_bridge.vasp.text import fortran_number, table, title

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc
Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi
Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS = frozenset(_SYMBOLS.split())
#: A POTCAR line that names a data set: its title line, or one of the two tags.
_POTCAR_MARK = re.compile(
    r"(?P<vrhfin>VRHFIN)\s*=\s*(?P<element>[^:\s]*)"
    r"|(?P<titel>TITEL)\s*=\s*(?P<name>.*?)(?=TITEL|VRHFIN|$)"
    r"|(?P<first>\b(?:PAW|US|NC)(?:_[A-Z]+)*)\s+(?P<species>[A-Z]\S*)"
)

#: What may follow the coordinates before the next title: nothing, a velocity, or the mode line of velocities.
_NOT_A_TITLE = re.compile(r"\s*|\s*([-+.\deEdD]+\s+){2}[-+.\deEdD]+\s*|\s*(Direct|Cartesian)\s*")


def element_of(label: str) -> str | None:
    """Return the element in a label of POTCAR or POSCAR, None where there is none.

    Handles ``Ca_sv``, ``Ca_sv/6a2f546d`` (VASP 6 with HDF5) and fractional hydrogen (``H1.25``).
    """
    symbol = re.split(r"[_/\d.]", label, maxsplit=1)[0]
    return symbol if symbol in ELEMENTS else None


def read_potcar_symbols(path: Path) -> list[str]:
    """Return the elements of a POTCAR in order, one per data set.

    VRHFIN decides, then TITEL, then the title line (``PAW_PBE Ca_sv 06Sep2000``); a stub needs only one of them.
    VASP's own data sets of Xe and Zr_sv have broken VRHFIN, which TITEL then mends.

    Raises:
        InputError: the file cannot be read, or a data set names no element.
    """
    sets: list[dict[str, str]] = [{}]
    unknown = ""
    for line in [*split_lines(read_text(path)), "End of Dataset"]:
        if "End of Dataset" in line:
            if unknown and not sets[-1]:
                raise InputError(f"{path}: '{unknown}' names no element; write a line such as 'TITEL = PAW_PBE Ca'")
            sets.append({})
            unknown = ""
            continue
        for match in _POTCAR_MARK.finditer(line):
            _note_mark(sets, match)
            unknown = unknown or line.strip()
    symbols = [found.get("vrhfin") or found.get("titel") or found["first"] for found in sets if found]
    if not symbols:
        raise InputError(f"{path}: no element found; a stub needs one line such as 'TITEL = PAW_PBE Ca' per element")
    return symbols


def _note_mark(sets: list[dict[str, str]], match: re.Match[str]) -> None:
    """Add one mark to the data set it belongs to, and begin a new one where it cannot belong to the last."""
    kind = next(kind for kind in ("vrhfin", "titel", "first") if match[kind])
    words = (match["element"] or match["name"] or match["species"] or "").split()
    symbol = next((element for word in words if (element := element_of(word))), None)
    if symbol is None:
        return
    current = sets[-1]
    if current and (kind in current or kind == "first" or symbol not in current.values()):
        sets.append({})
    sets[-1][kind] = symbol


def read_poscar(path: Path, potcar_symbols: Sequence[str] | None = None) -> Structure:
    """Read a POSCAR; see :func:`parse_poscar`.

    Raises:
        InputError: the file cannot be read or used.
    """
    return parse_poscar(read_text(path), str(path), potcar_symbols)


def parse_poscar(text: str, name: str = "POSCAR", potcar_symbols: Sequence[str] | None = None) -> Structure:
    """Read the text of a POSCAR of VASP 4 (no element line) or later.

    One, three or a negative scale (the cell's volume in Å³), selective dynamics, Cartesian or direct coordinates;
    what follows the coordinates is not read. A count of 0, as USPEX writes for surfaces, is left out.

    Args:
        text: the whole file.
        name: its name, for messages.
        potcar_symbols: the elements of POTCAR, needed where the file names none and compared where it does.

    Raises:
        InputError: with line number, for anything that is not a structure, or does not match POTCAR.
    """
    if not text.strip():
        raise InputError(f"{name}: empty")
    return _parse(_Lines(name, split_lines(text)), potcar_symbols)


def parse_poscars(text: str, name: str = "POSCARS", potcar_symbols: Sequence[str] | None = None) -> list[Structure]:
    """Read every POSCAR of a text that holds one after the other, as USPEX's gatheredPOSCARS does.

    Blank lines and velocities between them, as in VASP's CONTCAR, are passed over; after what else molecular dynamics
    leaves there is nothing more.

    Raises:
        InputError: with line number, for anything that is not a structure; each must name its elements, unless
            ``potcar_symbols`` does.
    """
    lines = _Lines(name, split_lines(text.rstrip()))
    structures: list[Structure] = []
    while lines.at < len(lines.lines):
        structures.append(_parse(lines, potcar_symbols))
        end = lines.at
        while lines.at < len(lines.lines) and _NOT_A_TITLE.fullmatch(lines.lines[lines.at]):
            lines.at += 1
        if _dynamics(lines.lines[lines.at :], velocities=lines.at - end >= len(structures[-1])):
            break
    if not structures:
        raise InputError(f"{name}: empty")
    return structures


def _dynamics(rest: Sequence[str], *, velocities: bool) -> bool:
    """Tell whether what follows a structure is the state of lattice or thermostat, as VASP's dynamics keeps it."""
    if rest and rest[0].strip().startswith("Lattice velocities"):
        return True
    numbers = [line.split() for line in rest[:3]]
    try:
        first, second, third = ([fortran_number(word) for word in words] for words in numbers)
    except ValueError:
        return False
    return velocities and (len(first), len(second), len(third)) == (1, 1, 4)


def _parse(lines: _Lines, potcar_symbols: Sequence[str] | None) -> Structure:
    comment = lines.take("a comment")
    scale = _scale(lines)
    cell = np.array([lines.numbers(3, "a lattice vector") for _ in range(3)])
    cell, scale = _scaled_cell(cell, scale, lines)
    labels, counts = _species(lines)
    symbols = _symbols(labels, counts, potcar_symbols, lines)
    selective, direct = _modes(lines)
    rows, free, contradicted = [], [], ""
    for symbol in symbols:
        rows.append(lines.numbers(3, f"one of {len(symbols)} positions"))
        if selective:
            free.append(lines.flags())
        label = next(iter(lines.lines[lines.at - 1].split()[6 if selective else 3 :]), "")
        if not contradicted and label in ELEMENTS and label != symbol:
            contradicted = f"line {lines.at} is labelled {label}, but the atom is {symbol}"
    scaled: Array = np.array(rows, dtype=float)
    if not direct:
        scaled = np.asarray(np.linalg.solve(cell.T, (scaled * scale).T).T, dtype=float)
    return Structure(symbols, cell, scaled, comment, np.array(free) if selective else None, contradicted)


@dataclass
class _Lines:
    """The lines of one file and how far they are read."""

    name: str
    lines: list[str]
    at: int = 0

    def error(self, what: str) -> InputError:
        return InputError(f"{self.name}, line {self.at}: {what}")

    def take(self, what: str) -> str:
        self.at += 1
        if self.at > len(self.lines):
            raise self.error(f"the file ends where {what} is needed")
        return self.lines[self.at - 1]

    def numbers(self, count: int, what: str) -> list[float]:
        words = self.take(what).split()
        if len(words) < count:
            raise self.error(f"{what} needs {count} numbers, not {len(words)}")
        try:
            return [fortran_number(word) for word in words[:count]]
        except ValueError as error:
            raise self.error(f"{what}: {error}") from None

    def flags(self) -> list[bool]:
        words = [word.lstrip(".").upper()[:1] for word in self.lines[self.at - 1].split()[3:6]]
        if len(words) < 3 or not set(words) <= {"T", "F"}:
            raise self.error("selective dynamics needs three flags T or F after the coordinates")
        return [word == "T" for word in words]


def _scale(lines: _Lines) -> Array:
    words = lines.take("the scale").split()
    values: list[float] = []
    for word in words[:3]:
        try:
            values.append(fortran_number(word))
        except ValueError:
            break
    if len(values) not in (1, 3) or 0.0 in values or (len(values) == 3 and min(values) < 0):
        raise lines.error("the scale must be one number (negative: the volume) or three positive ones, and not 0")
    return np.array(values)


def _scaled_cell(cell: Array, scale: Array, lines: _Lines) -> tuple[Array, Array]:
    """Return the cell in Å, and the scale to use for Cartesian coordinates."""
    volume = abs(float(np.linalg.det(cell)))
    lengths = np.linalg.norm(cell, axis=1)
    if volume <= 1e-10 * float(lengths.prod()):
        raise lines.error("the cell has no volume; its lattice vectors lie in one plane")
    if scale[0] < 0:
        scale = np.cbrt(-scale / volume)
    return cell * scale, scale


def _species(lines: _Lines) -> tuple[list[str], list[int]]:
    """Return the labels (none in VASP 4's layout) and counts; VASP breaks both lines after 20 species."""
    labels: list[str] = []
    for _ in range(10):
        words = lines.take("the numbers of atoms").split("!")[0].split()
        if not words:
            raise lines.error("expected element symbols or numbers of atoms, not an empty line")
        if re.match(r"[-+\d]", words[0]):
            break
        labels += words
    while len(words) < len(labels):
        words += lines.take("the numbers of atoms").split("!")[0].split() or [""]
    try:
        counts = [int(word) for word in words]
    except ValueError:
        raise lines.error(f"'{' '.join(words)}' are not the numbers of atoms") from None
    if min(counts) < 0 or sum(counts) == 0:
        raise lines.error(f"'{' '.join(words)}': numbers of atoms must not be negative, and not all 0")
    return labels, counts


def _symbols(
    labels: list[str], counts: list[int], potcar_symbols: Sequence[str] | None, lines: _Lines
) -> tuple[str, ...]:
    """Return the element of each atom."""
    if labels and len(labels) != len(counts):
        raise lines.error(f"{len(labels)} element symbols for {len(counts)} numbers of atoms")
    for label in labels:
        if element_of(label) is None:
            raise lines.error(f"'{label}' is not an element symbol")
    named = [element_of(label) or "" for label in labels]
    present = [i for i, count in enumerate(counts) if count]
    if potcar_symbols is None and not labels:
        raise lines.error("no element symbols, and no POTCAR to name the elements; write either")
    if potcar_symbols is not None:
        if len(potcar_symbols) == len(counts):
            from_potcar = list(potcar_symbols)
        elif len(potcar_symbols) == len(present):
            from_potcar = [""] * len(counts)
            for i, symbol in zip(present, potcar_symbols, strict=True):
                from_potcar[i] = symbol
        else:
            raise lines.error(f"POTCAR has {len(potcar_symbols)} elements for {len(counts)} numbers of atoms")
        if any(labels and named[i] != from_potcar[i] for i in present):
            raise lines.error(f"elements {' '.join(named)} here, but {' '.join(potcar_symbols)} in POTCAR")
        named = from_potcar
    return tuple(symbol for symbol, count in zip(named, counts, strict=True) for _ in range(count))


def _modes(lines: _Lines) -> tuple[bool, bool]:
    """Read the one or two lines before the coordinates: selective dynamics?, direct coordinates?"""
    word = lines.take("Direct or Cartesian").strip()
    selective = word[:1] in ("s", "S")
    if selective:
        word = lines.take("Direct or Cartesian").strip()
    if not re.match(r"[A-Za-z]", word):
        raise lines.error(f"expected Direct or Cartesian, not '{word}'")
    return selective, word[0] not in "cCkK"


def format_contcar(structure: Structure, frame: Frame) -> str:
    """Write ``frame`` as CONTCAR with an element line: the atoms, comment and flags of the POSCAR it came from.

    USPEX's MATLAB line skips the element line, ASE needs it; a label after the coordinates would kill the former.
    """
    return _layout(structure, frame, elements=True)


def format_vasp4(structure: Structure, frame: Frame) -> str:
    """Write ``frame`` in VASP 4's layout, without element line; otherwise as :func:`format_contcar`."""
    return _layout(structure, frame, elements=False)


def _layout(structure: Structure, frame: Frame, *, elements: bool) -> str:
    lines = [title(structure), "   1.00000000000000"]
    lines += table(frame.cell, " %22.16f").splitlines()
    if elements:
        lines.append("".join(f" {symbol:>5}" for symbol, _ in structure.groups))
    lines.append("".join(f" {count:5d}" for _, count in structure.groups))
    coordinates = table(frame.scaled, " %19.16f").splitlines()
    if structure.free is None:
        lines += ["Direct", *coordinates]
    else:
        lines += ["Selective dynamics", "Direct"]
        lines += [row + _flags(free) for row, free in zip(coordinates, structure.free, strict=True)]
    return "\n".join(lines) + "\n"


def _flags(free: NDArray[np.bool_]) -> str:
    return "".join("   T" if value else "   F" for value in free)
