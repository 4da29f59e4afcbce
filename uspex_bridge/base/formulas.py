"""Chemical formulas."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: IUPAC's sequence of the elements in formulas, the most electropositive first (Red Book 2005, Table VI).
_SEQUENCE = (
    "Rn Xe Kr Ar Ne He Fr Cs Rb K Na Li Ra Ba Sr Ca Mg Be Lr No Md Fm Es Cf Bk Cm Am Pu Np U Pa Th Ac Lu Yb Tm Er Ho "
    "Dy Tb Gd Eu Sm Pm Nd Pr Ce La Y Sc Hf Zr Ti Ta Nb V W Mo Cr Re Tc Mn Os Ru Fe Ir Rh Co Pt Pd Ni Au Ag Cu Hg Cd "
    "Zn Tl In Ga Al B Pb Sn Ge Si C Bi Sb As P N H Po Te Se S O At I Br Cl F"
)
_PLACE = {symbol: place for place, symbol in enumerate(_SEQUENCE.split())}


def parts_of(text: str) -> list[tuple[str, int]]:
    """Read a formula into symbols and their numbers in its order, elements or not; empty where the text is none."""
    parts = re.findall(r"([A-Z][a-z]?)([0-9]*)", text)
    return [(symbol, int(count or 1)) for symbol, count in parts] if "".join(map("".join, parts)) == text else []


def formula_of(counts: Iterable[tuple[str, int]]) -> str:
    """Return the formula of elements and their numbers in IUPAC's order: ``MgSiO3``, ``CaFeNi2``."""
    ordered = sorted(counts, key=lambda item: (_PLACE.get(item[0], len(_PLACE)), item[0]))
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in ordered)
