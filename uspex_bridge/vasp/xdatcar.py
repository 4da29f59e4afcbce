"""XDATCAR: the path of the relaxation."""

from __future__ import annotations

import re

from uspex_bridge.base.data import VaspRun
from uspex_bridge.vasp.text import require_finite, table, title


def format_xdatcar(run: VaspRun) -> str:
    """Write XDATCAR, all ionic steps, each with its cell, fractional coordinates not wrapped.

    The word that USPEX's awk scripts look for must not stand in the title.

    Raises:
        CalculationError: a number is not finite.
    """
    require_finite(run)
    groups = run.structure.groups
    head = re.sub("configuration", "c.onfiguration", title(run.structure), flags=re.IGNORECASE) + "\n           1\n"
    species = "".join(f" {symbol:>5}" for symbol, _ in groups) + "\n"
    species += "".join(f" {count:5d}" for _, count in groups) + "\n"
    parts = []
    for number, frame in enumerate(run.frames, 1):
        parts += [head, table(frame.cell, " %16.10f"), species, f"Direct configuration={number:6d}\n"]
        parts.append(table(frame.scaled, " %15.10f"))
    return "".join(parts)
