"""OUTCAR: one file for USPEX's both lines, ASE, pymatgen and dpdata, which each look for other things in it.

Energies are E, stresses the cell's own in VASP's sign and order; E + PV stands on the enthalpy line only. The tests
in ``tests/roundtrip`` say which reader needs which line.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

import uspex_bridge
from uspex_bridge.base.data import Array, Frame, VaspRun
from uspex_bridge.base.units import gpa_to_ev_a3, gpa_to_kbar, kbar_to_gpa, pv_energy, stress_to_vasp
from uspex_bridge.vasp.text import join, magnetic, plain, require_finite, table

#: Stands for the functional and the date in every ``POTCAR:`` line; readers take the word between.
POTENTIAL = ("MLIP", "uspex_bridge")
_RULE = " " + "-" * 100
_STEP = "-" * 39
#: As VASP writes it without spin; ASE needs the line where INCAR asks for spin, whatever the model knows of moments.
_NO_MOMENT = " number of electron       0.0000000 magnetization\n\n"
_NO_ELECTRONS = ("Alpha Z", "Ewald", "Hartree", "E(xc)", "Local", "n-local", "augment", "Kinetic", "Fock")


def format_outcar(run: VaspRun, when: datetime | None = None) -> str:
    """Write OUTCAR, all ionic steps.

    Args:
        run: the result.
        when: the time to put into the head; none is shown without.

    Raises:
        CalculationError: a number is not finite.
    """
    require_finite(run)
    parts = [_head(run, when)]
    moments = magnetic(run)
    last = len(run.frames)
    for number, frame in enumerate(run.frames, 1):
        parts.append(f"\n{_STEP} Iteration {number:6d}(   1)  {_STEP}\n\n")
        if moments and frame.magmoms is not None:
            parts.append(_moments(frame.magmoms, total=number == last))
        elif number == last:
            parts.append(_NO_MOMENT)
        parts += [_stress(frame, run.pressure_gpa), _cell(frame), _forces(frame), _energies(frame, run.pressure_gpa)]
    if run.converged and not run.intent.static:
        parts.append(" reached required accuracy - stopping structural energy minimisation\n\n")
    parts.append(_timing(run.seconds))
    return "".join(parts)


def potential_titles(run: VaspRun) -> list[str]:
    """Return what stands for each species' POTCAR title, in POSCAR's order."""
    functional, date = POTENTIAL
    return [f"{functional} {symbol} {date}" for symbol, _ in run.structure.groups]


def _head(run: VaspRun, when: datetime | None) -> str:
    intent, titles = run.intent, potential_titles(run)
    model = plain(run.model)
    date = f" date {when:%Y.%m.%d  %H:%M:%S}" if when else ""
    lines = [
        f" vasp.5.4.4 layout, but not VASP: uspex_bridge {uspex_bridge.__version__}, no electrons",
        f" executed on              uspex_bridge{date}",
        " running on    1 total cores",
        f" energies, forces and stress from the model {model}",
        *([f" free energies at {run.free_energy}, not potential energies: no labels"] if run.free_energy else []),
        "",
        *(f" POTCAR:    {title}" for title in titles),
    ]
    for (symbol, _), title in zip(run.structure.groups, titles, strict=True):
        lines += [f" POTCAR:    {title}", f"   VRHFIN ={symbol}: no electrons", f"   TITEL  = {title}"]
    lines += [
        "",
        f" POSCAR = {plain(run.structure.comment)[:60]}",
        "",
        " Dimension of arrays:",
        "   number of bands    NBANDS=      0",
        f"   number of ions     NIONS =  {len(run.structure):5d}",
        "   total plane-waves  NPLWV =      0",
        "   ions per type =             " + "".join(f" {count:5d}" for _, count in run.structure.groups),
        "",
        " Startparameter for this run:",
        "   NWRITE =      2    write-flag & timer",
        f"   ISPIN  =  {2 if magnetic(run) else 1:5d}    spin polarized calculation?",
        "   NELECT =       0.0000    total number of electrons",
        "",
        " Electronic Relaxation 1",
        f"   NELM   = {intent.nelm:6d};   NELMIN=  2; NELMDL= -5     # of ELM steps",
        "",
        " Ionic relaxation",
        *([] if intent.ediffg is None else [f"   EDIFFG = {intent.ediffg:.2E}   stopping-criterion for IOM"]),
        f"   NSW    = {intent.nsw:6d}    number of steps for IOM",
        f"   IBRION = {intent.ibrion:6d}    ionic relax: 0-MD 1-quasi-New 2-CG",
        f"   ISIF   = {intent.isif:6d}    stress and relaxation",
        f"   ISYM   = {int(intent.keep_symmetry):6d}    0-nonsym 1-usesym 2-fastsym",
        f"   PSTRESS= {gpa_to_kbar(run.pressure_gpa):8.3f} pullay stress",
        "",
    ]
    return "\n".join(lines) + "\n"


def _moments(magmoms: Array, *, total: bool) -> str:
    """Write the table of atomic moments; only ``tot`` is known, the orbitals' columns are 0.

    The cell's moment goes to the last ionic step alone, because pymatgen keeps the first that it finds.
    """
    lines = []
    if total:
        lines += [f"{_NO_MOMENT.rstrip()} {magmoms.sum():15.7f}", ""]
    lines += [" magnetization (x)", " ", "# of ion       s       p       d       tot", "-" * 42]
    row = "%5s       0.000   0.000   0.000 %8.4f"
    lines += [row % (number, moment) for number, moment in enumerate(magmoms.tolist(), 1)]
    lines += ["-" * 50, row % ("tot  ", float(magmoms.sum())), "", ""]
    return "\n".join(lines)


def _stress(frame: Frame, pressure_gpa: float) -> str:
    """Write the stress table; dpdata looks for its last row 14 lines below its first."""
    kbar = stress_to_vasp(frame.stress)
    total = [gpa_to_ev_a3(kbar_to_gpa(value)) * frame.volume for value in kbar]
    pstress = gpa_to_kbar(pressure_gpa)
    lines = [
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
        "  Direction    XX          YY          ZZ          XY          YZ          ZX",
        "  " + "-" * 86,
        *(f"  {name:<8}" + join([0.0] * 6, " %11.5f") for name in _NO_ELECTRONS),
        "  " + "-" * 86,
        "  Total   " + join(total, " %11.5f"),
        "  in kB   " + join(kbar, " %11.5f"),
        f"  external pressure = {float(np.mean(kbar[:3])) - pstress:11.2f} kB  Pullay stress = {pstress:11.2f} kB",
        "",
        "",
    ]
    return "\n".join(lines)


def _cell(frame: Frame) -> str:
    """Write the cell; dpdata reads its vectors 5 lines below the first."""
    lines = [
        " VOLUME and BASIS-vectors are now :",
        " " + "-" * 77,
        "  energy-cutoff  :        0.00",
        f"  volume of cell : {frame.volume:14.6f}",
        "      direct lattice vectors                                reciprocal lattice vectors",
        table(np.hstack([frame.cell, np.linalg.inv(frame.cell).T]), " %16.10f"),
        "",
    ]
    return "\n".join(lines)


def _forces(frame: Frame) -> str:
    lines = [
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        _RULE,
        table(np.hstack([frame.positions, frame.forces]), " %15.9f") + _RULE,
        "    total drift:                  " + join(frame.forces.sum(axis=0), " %15.9f"),
        "",
        "",
    ]
    return "\n".join(lines)


def _energies(frame: Frame, pressure_gpa: float) -> str:
    energy, pv = f"{frame.energy:18.8f}", pv_energy(pressure_gpa, frame.volume)
    lines = [
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
        "  ---------------------------------------------------",
        f"  free  energy   TOTEN  = {energy} eV",
        "",
        f"  energy  without entropy= {energy}  energy(sigma->0) = {energy}",
        f"  enthalpy is  TOTEN    = {frame.enthalpy(pressure_gpa):18.8f} eV   P V= {pv:18.8f}",
        "",
        "",
    ]
    return "\n".join(lines)


def _timing(seconds: float) -> str:
    lines = [
        "",
        " General timing and accounting informations for this job:",
        " ========================================================",
        "",
        f"                  Total CPU time used (sec): {seconds:11.3f}",
        f"                         Elapsed time (sec): {seconds:11.3f}",
        "",
        "                 Voluntary context switches:            0",
        "",
    ]
    return "\n".join(lines)
