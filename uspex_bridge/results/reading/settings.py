"""What the files of a search say of its settings: pressure, elements, building blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from uspex_bridge.results.reading import python_line
from uspex_bridge.results.reading.matlab import Notes
from uspex_bridge.uspex.inputs import InputTxt, InputUspex

Line = Literal["matlab", "python", "uspex26"]
#: What a line of USPEX is called.
LINES: dict[Line, str] = {"matlab": "MATLAB/Octave line", "python": "Python line", "uspex26": "USPEX 25-26"}


@dataclass(frozen=True)
class SearchSettings:
    """What the folder says of the search.

    Attributes:
        pressure_gpa: GPa, None where no file says it.
        species: elements in the order that compositions are written in.
        blocks: building blocks of a variable composition, numbers per species; empty where unknown.
        method: USPEX's calculationMethod: ``USPEX``, ``META``, ``VCNEB``, ...
        calculation: its calculationType (dimensions, molecules, variable composition: ``301``), empty where unknown.
    """

    pressure_gpa: float | None = None
    species: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    method: str = "USPEX"
    calculation: str = ""

    @property
    def crystals(self) -> bool:
        """Whether structures fill their cells and are made of atoms, so that their files agree in both."""
        return self.calculation[:2] in ("", "3", "30") and self.method != "META"

    @property
    def surfaces(self) -> bool:
        """Whether structures stand on a substrate."""
        return self.calculation.startswith("2") and self.method != "META"

    @property
    def no_hull(self) -> str:
        """Why enthalpies per atom mean nothing in this search, empty where they do."""
        if self.surfaces:
            return f"a search for surfaces (calculationType {self.calculation}); its enthalpies include the substrate"
        if self.calculation.startswith("0") and self.calculation.endswith("1"):
            return f"a search for clusters (calculationType {self.calculation}), which have surfaces of their own"
        if self.method not in ("USPEX", "META", "PSO"):
            return f"{self.method} makes paths or trajectories, not a set of relaxed structures"
        return ""

    def describe(self) -> str:
        """Say in a few words what kind of search it is, nothing of an ordinary one."""
        if self.method == "META":
            return "metadynamics"
        kinds = {"0": "clusters", "1": "polymers", "2": "surfaces", "-2": "two-dimensional crystals"}
        dimension = kinds.get(self.calculation[:-2], "")
        return dimension or ("molecular crystals" if self.calculation[-2:-1] == "1" else "")


def settings_of_results(path: Path, line: Line, notes: Notes) -> SearchSettings:
    """Gather what Parameters.txt, parameters.uspex, the input beside the folder and OUTPUT.txt say, in that order."""
    output = _output(path / "OUTPUT.txt")
    if line != "python":
        names = ("Parameters.txt", "parameters", "parameter")
        inputs = (*(path / name for name in names), path.parent / "INPUT.txt")
        found = next((_from_input_txt(file) for file in inputs if file.is_file()), SearchSettings())
    else:
        found = SearchSettings()
        if (path / "parameters.uspex").is_file():
            p = python_line.read_parameters(path / "parameters.uspex", notes)
            found = SearchSettings(p.pressure_gpa, p.species, p.blocks)
        elif (path.parent / "input.uspex").is_file():
            found = _from_input_uspex(path.parent / "input.uspex")
    pressure = found.pressure_gpa if output.pressure_gpa is None else output.pressure_gpa
    return replace(
        found,
        pressure_gpa=pressure,
        species=found.species or output.species,
        method=output.method if found.method == "USPEX" else found.method,
        calculation=found.calculation or output.calculation,
    )


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
    species = given.elements()
    blocks = [value.text.split() for value in given.block("numSpecies", "EndNumSpecies")]
    numeric = all(word.isdigit() for block in blocks for word in block)
    whole = tuple(tuple(int(word) for word in block) for block in blocks) if numeric else ()
    right = all(len(block) == len(species) for block in whole)
    try:
        gpa = float(pressure.text) if pressure is not None else 0.0
    except ValueError:
        gpa = 0.0
    method, calculation = (given.keyword(name) for name in ("calculationMethod", "calculationType"))
    return SearchSettings(
        gpa,
        species,
        whole if right else (),
        method.text.upper() if method is not None and method.text else "USPEX",
        calculation.text.lower().removeprefix("s") if calculation is not None else "",  # s300: with spins
    )


def _output(path: Path) -> SearchSettings:
    """Read pressure and elements from the head of OUTPUT.txt (both lines write them alike)."""
    if not path.is_file():
        return SearchSettings()
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(20_000)
    pressure = re.search(r"External Pressure is\s*:\s*([-\d.]+)\s*GPa", text)
    types = re.search(r"There are\s+\d+\s+types? of atoms in the system:(.*)", text)
    words = ("Dimensionality", "Molecular", "Variable Composition")
    kind = [m[1] for word in words if (m := re.search(rf"{word}\s*:\s*(-?\d)", text))]
    return SearchSettings(
        float(pressure[1]) if pressure else None,
        tuple(types[1].split()) if types else (),
        method="META" if "Metadynamics Code" in text else "USPEX",
        calculation="".join(kind) if len(kind) == len(words) else "",
    )
