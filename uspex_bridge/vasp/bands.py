"""EIGENVAL and DOSCAR for readers that insist on them: one k-point without bands that mean anything, and it says so.

A potential has no electrons. The setting ``files`` asks for these files; they are never written by default.
"""

from __future__ import annotations

import numpy as np

from uspex_bridge.base.data import VaspRun
from uspex_bridge.vasp.text import plain

#: Written for a file by name.
_NOTE = "no electrons: bands and states of this file mean nothing"


def format_bands(name: str, run: VaspRun) -> str:
    """Write EIGENVAL or DOSCAR, by its name."""
    return {"EIGENVAL": _eigenval, "DOSCAR": _doscar}[name](run)


def _head(run: VaspRun, last: int) -> list[str]:
    natoms, final = len(run.structure), run.frames[-1]
    lengths = np.linalg.norm(final.cell, axis=1) * 1e-10  # m
    return [
        f"{natoms:4d}{natoms:4d}{1:4d}{last:4d}",
        " ".join(f"{value:14.7E}" for value in (final.volume / natoms, *lengths, 5e-16)),
        "  1.000000000000000E-004",
        "  CAR ",
        f" {_NOTE} ({plain(run.model)})",
    ]


def _eigenval(run: VaspRun) -> str:
    """Write one full and one empty band at 0 eV, so that a reader's gap is 0."""
    lines = [
        *_head(run, 1),
        f"{2:7d}{1:7d}{2:7d}",
        "",
        "  0.0000000E+00  0.0000000E+00  0.0000000E+00  0.1000000E+01",
        "    1        0.000000   1.000000",
        "    2        0.000000   0.000000",
    ]
    return "\n".join(lines) + "\n"


def _doscar(run: VaspRun) -> str:
    energies = (-1.0, 0.0, 1.0)
    rows = [f" {energy:10.3f}  0.0000E+00  0.0000E+00" for energy in energies]
    limits = f" {energies[-1]:15.8f} {energies[0]:15.8f} {len(energies):4d} {0.0:15.8f} {1.0:15.8f}"
    return "\n".join([*_head(run, 0), limits, *rows]) + "\n"
