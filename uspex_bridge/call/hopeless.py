"""From which enthalpy on a relaxation is hopeless, by what the record holds at its pressure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linprog

from uspex_bridge.base.formulas import parts_of


def lowest_known(known: Mapping[str, float], symbols: Sequence[str]) -> float | None:
    """Return the enthalpy of a composition's best known decomposition, itself included, eV/atom; None without any.

    Args:
        known: lowest enthalpy of each formula, eV/atom.
        symbols: element of each atom of the composition.
    """
    elements = sorted(set(symbols))
    shares, enthalpies = [], []
    for formula, enthalpy in known.items():
        counts = dict(parts_of(formula))
        total = sum(counts.values())
        if total and counts.keys() <= set(elements):
            shares.append([counts.get(element, 0) / total for element in elements])
            enthalpies.append(enthalpy)
    if not shares:
        return None
    own = [list(symbols).count(element) / len(symbols) for element in elements]
    found = linprog(enthalpies, A_eq=np.array(shares).T, b_eq=own)
    return float(found.fun) if found.success else None
