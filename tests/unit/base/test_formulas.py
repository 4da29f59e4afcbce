"""Formulas in the order of IUPAC."""

import itertools
import re

import pytest
from pymatgen.core import Element

from uspex_bridge.base.formulas import formula_of


@pytest.mark.parametrize("formula", ["MgSiO3", "CaFe4Ni2", "FeNi2", "MgAl2O4", "NH3", "H2O", "SiC", "UH3", "ClF3"])
def test_usual_formulas_come_out_as_they_are_printed(formula):
    counts = [(symbol, int(number or 1)) for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula)]
    assert formula_of(reversed(counts)) == formula


def test_every_element_has_its_place():
    ordered = {e.symbol: e.iupac_ordering for e in Element if "IUPAC ordering" in e.data and e.Z <= 103}
    known = sorted(ordered, key=ordered.__getitem__)
    assert len(known) == 103
    for first, second in itertools.pairwise(known):
        assert formula_of([(second, 1), (first, 2)]) == f"{first}2{second}"
