"""What ASE passes over in silence in the files of other programs: such files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, split_lines


def refuse_what_is_passed_over(path: Path) -> None:
    """Refuse a file of which ASE would make another crystal without a word; formats are known as ASE knows them.

    Raises:
        InputError: it names atom types and no elements (LAMMPS), has sites that are not full or a symmetry that is not
            applied (SHELX, PDB).
    """
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        kind = filetype(str(path))
    except (UnknownFileTypeError, OSError, UnicodeDecodeError):
        return  # whoever reads it says so
    check = _CHECKS.get(kind)
    if check is not None and (problem := check(split_lines(read_text(path)))):
        raise InputError(f"{path}: {problem}")


def _dump(lines: list[str]) -> str:
    columns = [line.split() for line in lines if line.startswith("ITEM: ATOMS")]
    if all("element" in words for words in columns):
        return ""
    return "LAMMPS atom types and no elements; write the dump with the column element"


def _data(lines: list[str]) -> str:
    named = any(line.split()[:1] == ["Masses"] for line in lines)
    return "" if named else "LAMMPS atom types and no elements; add the section Masses"


def _shelx(lines: list[str]) -> str:
    kinds: list[str] = []
    for line in lines:
        words = line.split("!")[0].split()
        word = words[0].upper() if words else ""
        if word == "SYMM" or (word == "LATT" and words[1:2] != ["-1"]):
            return f"the symmetry of a SHELX file ({line.strip()}) is not read; write it in P 1 (LATT -1)"
        if word == "SFAC":
            kinds += words[1:]
        elif kinds and len(words) >= 6 and words[1].isdigit() and 0 < int(words[1]) <= len(kinds):
            share = float(words[5]) % 10
            if abs(share - 1.0) > 1e-3:
                return f"the site {words[0]} is disordered: occupancy {share:g}; build an ordered cell first"
    return ""


def _protein(lines: list[str]) -> str:
    groups = {line[55:66].strip() for line in lines if line.startswith("CRYST1")} - {"", "P 1", "P1"}
    return f"the symmetry of a PDB file ({groups.pop()}) is not read; write it in P 1" if groups else ""


_CHECKS: dict[str, Callable[[list[str]], str]] = {
    "lammps-dump-text": _dump,
    "lammps-data": _data,
    "res": _shelx,
    "proteindatabank": _protein,
}
