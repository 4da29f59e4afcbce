"""A folder that VASP left after a relaxation, with numbers of Lennard-Jones, and what can be wrong with it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.vasprun import format_vasprun

#: F lies so far below E0, eV per cell.
SMEARING = 0.0321


def frame_of(atoms: Atoms) -> Frame:
    copy = atoms.copy()
    copy.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=5.0, smooth=True)
    return Frame(
        copy.cell.array,
        copy.get_scaled_positions(),
        copy.get_potential_energy(),
        copy.get_forces(),
        copy.get_stress(),
        magmoms=np.full(len(copy), 0.5),
    )


def leave_run(
    folder: Path,
    steps: list[Atoms],
    *,
    pressure: float = 0.0,
    files: tuple[str, ...] = ("OUTCAR", "vasprun.xml"),
    tags: dict[str, str] | None = None,
    spoil: str = "",
) -> None:
    """Write VASP's files of an ionic relaxation through ``steps`` (one: a single point) under a pressure in GPa."""
    folder.mkdir(parents=True, exist_ok=True)
    first = steps[0]
    structure = Structure(tuple(first.symbols), first.cell.array, first.get_scaled_positions(), "archive")
    intent = Intent(nsw=len(steps) - 1, isif=3, nelm=60, pressure_gpa=pressure)
    run = VaspRun(structure, tuple(map(frame_of, steps)), intent, converged=True, model="lj")
    texts = {"OUTCAR": format_outcar(run), "vasprun.xml": format_vasprun(run)}
    texts = {name: _as_vasp(text, structure, tags or {}) for name, text in texts.items()}
    if spoil == "profile":  # builds that profile print tables of tens of kB after the last page
        texts["OUTCAR"] += "".join(f"   routine_{k}   {k}.00 s\n" for k in range(4000))
    if spoil == "truncated":
        texts["OUTCAR"] = texts["OUTCAR"][: len(texts["OUTCAR"]) * 2 // 3]
    if spoil == "unconverged":
        last = texts["vasprun.xml"].rindex("  <scstep>")
        end = texts["vasprun.xml"].index("</scstep>\n", last) + len("</scstep>\n")
        step = texts["vasprun.xml"][last:end]
        texts["vasprun.xml"] = texts["vasprun.xml"][:last] + step * 60 + texts["vasprun.xml"][end:]
        page = texts["OUTCAR"].rindex("Iteration")
        end = texts["OUTCAR"].index("\n", page)
        more = "".join(f"\n--- Iteration      9({k:4d}) ---\n" for k in range(2, 62))
        texts["OUTCAR"] = texts["OUTCAR"][:end] + more + texts["OUTCAR"][end:]
    if spoil == "model":
        texts["OUTCAR"] = format_outcar(run)
    for name in files:
        plain = name.removesuffix(".gz")
        data = texts[plain].encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def _as_vasp(text: str, structure: Structure, tags: dict[str, str]) -> str:
    """Give a file the head and titles that VASP's have, and F its distance from E0."""
    text = text.replace("vasp.5.4.4 layout, but not VASP: uspex_bridge", "vasp.6.4.2 18Apr23 (build")
    for symbol in dict.fromkeys(structure.symbols):
        text = text.replace(f"MLIP {symbol} uspex_bridge", f"PAW_PBE {symbol}_sv 01Jan2000")
    text = text.replace('"version">0.1.0<', '"version">6.4.2<').replace(
        'name="GGA">MLIP', f'name="GGA">{tags.get("GGA", "PE")}'
    )
    lines = "".join(f"   {tag:<8}= {value}\n" for tag, value in {"GGA": "PE", "ENCUT": "520.0 eV", **tags}.items())
    text = text.replace(" Electronic Relaxation 1\n", f" Electronic Relaxation 1\n{lines}")
    listed = "".join(
        f'  <i type="string" name="{tag}">{value}</i>\n' for tag, value in {"ENCUT": "520", **tags}.items()
    )
    text = text.replace(" <incar />\n", f" <incar>\n{listed} </incar>\n")
    energy = r"(free  energy   TOTEN  = +|name=\"e_fr_energy\"> )(\S+)"
    return re.sub(energy, lambda m: f"{m[1]}{float(m[2]) - SMEARING:.8f}", text)
