"""What the files of a search say of its settings: pressure, elements, building blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uspex_bridge.results import python_line
from uspex_bridge.results.matlab import Notes
from uspex_bridge.uspex.inputs import InputTxt, InputUspex

Line = Literal["matlab", "python"]


@dataclass(frozen=True)
class SearchSettings:
    """What the folder says of the search.

    Attributes:
        pressure_gpa: GPa, None where no file says it.
        species: elements in the order that compositions are written in.
        blocks: building blocks of a variable composition, numbers per species; empty where unknown.
    """

    pressure_gpa: float | None = None
    species: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()


def settings_of_results(path: Path, line: Line, notes: Notes) -> SearchSettings:
    """Gather what Parameters.txt, parameters.uspex, the input beside the folder and OUTPUT.txt say, in that order."""
    output = _output(path / "OUTPUT.txt")
    if line == "matlab":
        inputs = (path / "Parameters.txt", path.parent / "INPUT.txt")
        found = next((_from_input_txt(file) for file in inputs if file.is_file()), SearchSettings())
    else:
        found = SearchSettings()
        if (path / "parameters.uspex").is_file():
            p = python_line.read_parameters(path / "parameters.uspex", notes)
            found = SearchSettings(p.pressure_gpa, p.species, p.blocks)
        elif (path.parent / "input.uspex").is_file():
            found = _from_input_uspex(path.parent / "input.uspex")
    pressure = found.pressure_gpa if output.pressure_gpa is None else output.pressure_gpa
    return SearchSettings(pressure, found.species or output.species, found.blocks)


def settings_of_input(folder: Path) -> SearchSettings:
    """Return what the input of a search says, INPUT.txt or input.uspex; nothing where there is neither.

    Raises:
        InputError: it cannot be read.
    """
    if (folder / "INPUT.txt").is_file():
        return _from_input_txt(folder / "INPUT.txt")
    if (folder / "input.uspex").is_file():
        return _from_input_uspex(folder / "input.uspex")
    return SearchSettings()


def _from_input_uspex(path: Path) -> SearchSettings:
    p = python_line.parameters_of(InputUspex.read(path).main)
    return SearchSettings(p.pressure_gpa, p.species, p.blocks)


def _from_input_txt(path: Path) -> SearchSettings:
    """Read pressure (0 by default), atomType and numSpecies as USPEX does."""
    given = InputTxt.read(path)
    pressure = given.keyword("ExternalPressure")
    species = [word for value in given.block("atomType", "EndAtomType") for word in value.text.split()]
    blocks = [value.text.split() for value in given.block("numSpecies", "EndNumSpecies")]
    numeric = all(word.isdigit() for block in blocks for word in block)
    whole = tuple(tuple(int(word) for word in block) for block in blocks) if numeric else ()
    right = all(len(block) == len(species) for block in whole)
    try:
        gpa = float(pressure.text) if pressure is not None else 0.0
    except ValueError:
        gpa = 0.0
    return SearchSettings(gpa, tuple(species), whole if right else ())


def _output(path: Path) -> SearchSettings:
    """Read pressure and elements from the head of OUTPUT.txt (both lines write them alike)."""
    if not path.is_file():
        return SearchSettings()
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(20_000)
    pressure = re.search(r"External Pressure is\s*:\s*([-\d.]+)\s*GPa", text)
    types = re.search(r"There are\s+\d+\s+types? of atoms in the system:(.*)", text)
    return SearchSettings(float(pressure[1]) if pressure else None, tuple(types[1].split()) if types else ())
