"""vasprun.xml, for ASE, pymatgen and dpdata.

As in VASP the energies of an ionic step are E + PV, those of its electronic step E. ASE takes PV off again,
pymatgen and dpdata do not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

import uspex_bridge
from uspex_bridge.base.data import Frame, VaspRun
from uspex_bridge.base.units import gpa_to_kbar, stress_to_vasp
from uspex_bridge.vasp.outcar import potential_titles
from uspex_bridge.vasp.text import magnetic, plain, require_finite, table

_CALCULATION = """\
 <calculation>
  <scstep>
   <time name="total">    0.00    0.00</time>
   <energy>
{energies}
   </energy>
  </scstep>
  <structure>
   <crystal>
    <varray name="basis">
{basis}    </varray>
    <i name="volume"> {volume:.8f} </i>
    <varray name="rec_basis">
{reciprocal}    </varray>
   </crystal>
   <varray name="positions">
{positions}   </varray>
  </structure>
  <varray name="forces">
{forces}   </varray>
  <varray name="stress">
{stress}   </varray>
  <energy>
{enthalpies}
  </energy>
 </calculation>
"""
#: Rows and columns of the stress tensor in VASP's order XX YY ZZ XY YZ ZX.
_TENSOR = [[0, 3, 5], [3, 1, 4], [5, 4, 2]]


def format_vasprun(run: VaspRun, when: datetime | None = None) -> str:
    """Write vasprun.xml, all ionic steps.

    Args:
        run: the result.
        when: the time to put into the head; zeros are shown without.

    Raises:
        CalculationError: a number is not finite.
    """
    require_finite(run)
    root = ET.Element("modeling")
    _generator(root, run, when)
    _add_values(ET.SubElement(root, "incar"), _asked(run))
    kpoints = ET.SubElement(root, "kpoints")
    _varray(kpoints, "kpointlist", np.zeros((1, 3)))
    _varray(kpoints, "weights", np.ones((1, 1)))
    _parameters(root, run)
    _atominfo(root, run)
    _structure(root, "initialpos", run, run.frames[0])
    ET.SubElement(root, "calculation")
    _structure(root, "finalpos", run, run.frames[-1])
    ET.indent(root, " ")
    head, tail = ET.tostring(root, encoding="unicode").split(" <calculation />\n")
    steps = "".join(_calculation(frame, run.pressure_gpa) for frame in run.frames)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{steps}{tail}\n'


def _calculation(frame: Frame, pressure_gpa: float) -> str:
    """Write one ionic step; as text, since thousands of them would be slow as elements."""
    return _CALCULATION.format(
        energies=_energies(frame.energy, "    "),
        basis=_rows(frame.cell, " %16.10f"),
        volume=frame.volume,
        reciprocal=_rows(np.linalg.inv(frame.cell).T, " %16.10f"),
        positions=_rows(frame.scaled, " %15.10f"),
        forces=_rows(frame.forces, " %15.9f"),
        stress=_rows(stress_to_vasp(frame.stress)[_TENSOR], " %15.8f"),
        enthalpies=_energies(frame.enthalpy(pressure_gpa), "   "),
    )


def _energies(value: float, indent: str) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "\n".join(f'{indent}<i name="{name}"> {value:.8f} </i>' for name in names)


def _rows(values: NDArray[Any], column: str) -> str:
    return "".join(f"     <v>{row} </v>\n" for row in table(values, column).splitlines())


def _varray(parent: ET.Element, name: str, values: NDArray[Any]) -> None:
    varray = ET.SubElement(parent, "varray", name=name)
    for row in table(values, " %19.16f").splitlines():
        ET.SubElement(varray, "v").text = f"{row} "


def _generator(root: ET.Element, run: VaspRun, when: datetime | None) -> None:
    moment = when or datetime.min
    _add_values(
        ET.SubElement(root, "generator"),
        {
            "program": "uspex_bridge",
            "version": uspex_bridge.__version__,
            "subversion": f"not VASP: energies, forces and stress from the model {plain(run.model)}",
            "platform": "none",
            "date": f"{moment:%Y %m %d}" if when else "0000 00 00",
            "time": f"{moment:%H:%M:%S}",
        },
    )


def _asked(run: VaspRun) -> dict[str, str | int | float]:
    """Return the INCAR's tags that meant something; others would tell pymatgen of a functional that was not used."""
    intent = run.intent
    known: dict[str, str | int | float | None] = {
        "NSW": intent.nsw,
        "IBRION": intent.ibrion,
        "ISIF": intent.isif,
        "EDIFFG": intent.ediffg,
        "PSTRESS": gpa_to_kbar(intent.pressure_gpa),
        "NELM": intent.nelm,
        "ISYM": int(intent.keep_symmetry),
        "SYMPREC": intent.symprec,
        "BRIDGE_STAGES": intent.stages,
        "BRIDGE_TEMPERATURE": intent.temperature,
    }
    return {tag: value for tag, value in known.items() if tag in run.incar and value is not None}


def _parameters(root: ET.Element, run: VaspRun) -> None:
    """Write the parameters that readers look for, in VASP's groups.

    pymatgen calls a run converged that made fewer ionic steps than NSW, so NSW is set to say what is true; a single
    step it always takes for converged. Without GGA, AEXX and the rest it would call the model a hybrid functional.
    """
    intent, steps = run.intent, len(run.frames)
    nsw = 0 if intent.static else max(intent.nsw, steps + 1) if run.converged else steps
    root = ET.SubElement(root, "parameters")
    _add_values(_separator(root, "general"), {"SYSTEM": plain(run.structure.comment) or run.structure.formula})
    electronic = _separator(root, "electronic")
    _add_values(electronic, {"NELECT": 0.0})
    _add_values(_separator(electronic, "electronic spin"), {"ISPIN": 2 if magnetic(run) else 1})
    _add_values(_separator(electronic, "electronic convergence"), {"NELM": intent.nelm})
    ionic: dict[str, str | int | float] = {
        "NSW": nsw,
        "IBRION": -1 if intent.static else intent.ibrion,
        "ISIF": intent.isif,
        "PSTRESS": gpa_to_kbar(run.pressure_gpa),
    }
    if intent.ediffg is not None:
        ionic["EDIFFG"] = intent.ediffg
    _add_values(_separator(root, "ionic"), ionic)
    _add_values(_separator(root, "symmetry"), {"ISYM": int(intent.keep_symmetry)})
    functional: dict[str, str | int | float] = {"GGA": "MLIP", "LHFCALC": False, "AEXX": 0.0, "HFSCREEN": 0.0}
    _add_values(_separator(root, "electronic exchange-correlation"), {**functional, "LDAU": False})


def _separator(parent: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(parent, "separator", name=name)


def _add_values(parent: ET.Element, values: dict[str, str | int | float]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            ET.SubElement(parent, "i", type="logical", name=name).text = " T " if value else " F "
        elif isinstance(value, int):
            ET.SubElement(parent, "i", type="int", name=name).text = f" {value} "
        elif isinstance(value, float):
            ET.SubElement(parent, "i", name=name).text = f" {value:.8f} "
        else:
            ET.SubElement(parent, "i", type="string", name=name).text = str(value)


def _atominfo(root: ET.Element, run: VaspRun) -> None:
    groups = run.structure.groups
    info = ET.SubElement(root, "atominfo")
    ET.SubElement(info, "atoms").text = f" {len(run.structure)} "
    ET.SubElement(info, "types").text = f" {len(groups)} "
    atoms = [[f"{symbol:<2}", str(kind)] for kind, (symbol, count) in enumerate(groups, 1) for _ in range(count)]
    _array(info, "atoms", {"element": "string", "atomtype": "int"}, atoms)
    fields = {"atomspertype": "int", "element": "string", "mass": "", "valence": "", "pseudopotential": "string"}
    types = [
        [str(count), f"{symbol:<2}", "0.0", "0.0", title]
        for (symbol, count), title in zip(groups, potential_titles(run), strict=True)
    ]
    _array(info, "atomtypes", fields, types)


def _array(parent: ET.Element, name: str, fields: dict[str, str], rows: list[list[str]]) -> None:
    array = ET.SubElement(parent, "array", name=name)
    ET.SubElement(array, "dimension", dim="1").text = "ion" if name == "atoms" else "type"
    for field, kind in fields.items():
        ET.SubElement(array, "field", {"type": kind} if kind else {}).text = field
    table_of_rows = ET.SubElement(array, "set")
    for row in rows:
        entry = ET.SubElement(table_of_rows, "rc")
        for cell in row:
            ET.SubElement(entry, "c").text = cell


def _structure(root: ET.Element, name: str, run: VaspRun, frame: Frame) -> None:
    structure = ET.SubElement(root, "structure", name=name)
    crystal = ET.SubElement(structure, "crystal")
    _varray(crystal, "basis", frame.cell)
    ET.SubElement(crystal, "i", name="volume").text = f" {frame.volume:.8f} "
    _varray(crystal, "rec_basis", np.linalg.inv(frame.cell).T)
    _varray(structure, "positions", frame.scaled)
    if run.structure.free is not None:
        flags = ET.SubElement(structure, "varray", name="selective", type="logical")
        for row in run.structure.free:
            ET.SubElement(flags, "v", type="logical").text = "".join("  T" if free else "  F" for free in row)
