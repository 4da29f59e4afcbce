"""VASP's output for a prepared label: what a converged single point leaves, with numbers of Lennard-Jones.

``spoil`` names one thing that went wrong with it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.learn.label.tasks import LabelTask, read_task
from uspex_bridge.vasp.incar import parse_incar
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.vasprun import format_vasprun

#: F lies so far below E0, eV per cell.
SMEARING = 0.0321


def potcar(library: Path, flavour: str, title: str | None = None) -> None:
    """Put something into a library that has a POTCAR's title and nothing of a potential."""
    folder = library / "potpaw_PBE" / flavour
    folder.mkdir(parents=True, exist_ok=True)
    element = flavour.split("_")[0]
    name = title or f"PAW_PBE {flavour} 01Jan2000"
    (folder / "POTCAR").write_text(f"  {name}\n   VRHFIN ={element}: none\n   TITEL  = {name}\n   End of Dataset\n")


def frame(task: LabelTask) -> Frame:
    atoms = Atoms(list(task.symbols), cell=task.cell, scaled_positions=task.scaled, pbc=True)
    atoms.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=5.0, smooth=True)
    moments = np.arange(1.0, len(atoms) + 1)
    scaled = np.array(task.scaled)
    return Frame(
        atoms.cell.array, scaled, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), magmoms=moments
    )


def leave_outputs(folder: Path, spoil: str = "") -> None:
    """Write OUTCAR and vasprun.xml into a prepared folder."""
    task = read_task(folder)
    structure = Structure(task.symbols, np.array(task.cell), np.array(task.scaled), task.id)
    pressure = 50.0 if spoil == "pstress" else 0.0
    frames = (frame(task),) * (2 if spoil == "two steps" else 1)
    run = VaspRun(structure, frames, Intent(nsw=0, ibrion=-1, isif=2, nelm=120, pressure_gpa=pressure), True, "lj")
    outcar, xml = (_as_vasp(text, task) for text in (format_outcar(run), format_vasprun(run)))
    xml = xml.replace(" <incar />\n", _incar(folder, spoil, len(task.symbols))).replace(
        " <kpoints>\n", _grid(task, spoil)
    )
    outcar, xml = _spoilt(outcar, xml, spoil, task)
    (folder / "OUTCAR").write_text(outcar)
    (folder / "vasprun.xml").write_text(xml)


def _as_vasp(text: str, task: LabelTask) -> str:
    """Give a file the titles and version that VASP's have, and F its distance from E0."""
    for symbol, flavour in task.inputs["sets"].items():
        text = text.replace(f"MLIP {symbol} uspex_bridge", f"PAW_PBE {flavour} 01Jan2000")
    text = text.replace('"version">0.1.0<', '"version">6.4.2<').replace('name="GGA">MLIP', 'name="GGA">PE')
    free = r"(free  energy   TOTEN  = +|name=\"e_fr_energy\"> )(\S+)"
    return re.sub(free, lambda m: f"{m[1]}{float(m[2]) - SMEARING:.8f}", text)


def _incar(folder: Path, spoil: str, count: int) -> str:
    tags = parse_incar((folder / "INCAR").read_text())
    moments = [float(value) for value in tags.pop("MAGMOM").replace("*", " * ").split() if value != "*"]
    repeated = [value for times, value in zip(moments[::2], moments[1::2], strict=True) for _ in range(int(times))]
    changed = {
        "ediff": {"EDIFF": "1E-4"},
        "encut": {"ENCUT": "400"},
        "metagga": {"METAGGA": "SCAN"},
        "no spin": {"ISPIN": "1"},
        "pstress": {"PSTRESS": "500"},
        "harmless": {"ALGO": "All", "NCORE": "4", "NELM": "200", "PREC": "accura", "PSTRESS": "0.0", "LHFCALC": "F"},
    }
    tags |= changed.get(spoil, {})
    if spoil == "moments":
        repeated[0] *= -1
    lines = [f'  <i type="string" name="{tag}">{value}</i>\n' for tag, value in tags.items()]
    magmom = " ".join(f"{value:.8f}" for value in repeated)
    assert len(repeated) == count
    return f' <incar>\n{"".join(lines)}  <v name="MAGMOM"> {magmom}</v>\n </incar>\n'


def _grid(task: LabelTask, spoil: str) -> str:
    size = task.inputs["kpoints"]
    if spoil == "k-point list":
        return " <kpoints>\n"
    size = {"coarse": [max(1, n - 2) for n in size], "no k-points": [0, 0, 0], "finer": [n + 2 for n in size]}.get(
        spoil, size
    )
    divisions = " ".join(map(str, size))
    row = f'<v type="int" name="divisions"> {divisions} </v>'
    return f' <kpoints>\n  <generation param="Gamma">\n   {row}\n  </generation>\n'


def _spoilt(outcar: str, xml: str, spoil: str, task: LabelTask) -> tuple[str, str]:
    step = re.search(r"  <scstep>.*?</scstep>\n", xml, re.DOTALL)
    assert step
    match spoil:
        case "nelm":
            xml = xml.replace(step[0], step[0] * 120)
        case "truncated outcar":
            outcar = outcar[: len(outcar) * 2 // 3]
        case "truncated xml":
            xml = xml[: len(xml) * 2 // 3]
        case "no forces":
            xml = re.sub(r'  <varray name="forces">.*?</varray>\n', "", xml, flags=re.DOTALL)
        case "no stress":
            xml = re.sub(r'  <varray name="stress">.*?</varray>\n', "", xml, flags=re.DOTALL)
        case "nan":
            xml = re.sub(r'(<varray name="forces">\s*<v>\s*)\S+', r"\1NaN", xml)
        case "sign":
            xml = re.sub(
                r'<varray name="stress">.*?</varray>',
                lambda m: re.sub(r"(\s)(-?)(\d+\.\d+)", lambda n: f"{n[1]}{'' if n[2] else '-'}{n[3]}", m[0]),
                xml,
                flags=re.DOTALL,
            )
        case "order":
            first, last = task.symbols[0], task.symbols[-1]
            for one, other in ((first, "@"), (last, first), ("@", last)):
                xml = xml.replace(f"<c>{one}", f"<c>{other}")
        case "flavour":
            xml = xml.replace("PAW_PBE Fe_sv", "PAW_PBE Fe_pv")
        case "lda":
            xml = xml.replace("PAW_PBE Fe_sv", "PAW Fe_sv")
        case "other run":
            outcar = re.sub(r"(TOTEN  = +-?\d+\.\d)", r"\g<1>9", outcar)
        case "moved":
            xml = re.sub(r'(<varray name="positions">\s*<v>\s*)\S+', r"\g<1>0.3123", xml)
    return outcar, xml
