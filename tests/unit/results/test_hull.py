import math
from dataclasses import replace

import numpy as np
import pytest
from results_making import DATA

from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.results.hulls.hull import at_pressure, build_hull, one_level, parse_formula
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Entry, Recorded


def entry(formula: str, per_atom: float, number: int = 1, **more) -> Entry:
    composition = parse_formula(formula)
    natoms = sum(n for _, n in composition)
    return Entry(**{"run": "run", "id": number, "composition": composition, "enthalpy": per_atom * natoms, **more})


def test_distances_are_uspexs_own_fitness():
    """Blocks are single atoms there, so that eV per block are eV per atom."""
    results = open_results(DATA / "301")
    hull = build_hull(results.entries)
    assert hull.names == ("Ca", "Ni")
    for point in hull.points:  # Individuals prints H with 3 decimals per cell, fitness with 3
        assert point.above == pytest.approx(abs(point.entry.fitness), abs=5e-4 + 5e-4 / point.entry.natoms + 1e-9)
    printed = {line.id: line for line in results.ranked}
    for number, line in printed.items():  # 4 decimals
        assert hull.by_name[f"{results.label}:EA{number}"].above == pytest.approx(line.fitness, abs=2e-4)
    assert [point.entry.formula for point in hull.vertices] == ["Ca4", "Ni5"]
    # The column Y of extended_convex_hull: E(CaNi) - x E(Ca) - y E(Ni), eV/atom.
    assert hull.by_name[f"{results.label}:EA21"].formation == pytest.approx(0.1596, abs=2e-4)


def test_binary_by_hand():
    hull = build_hull(
        [
            entry("Ca2", -2.0, 1),
            entry("Ni", -5.0, 2),
            entry("CaNi", -4.0, 3),
            entry("Ca2Ni2", -3.9, 4),
            entry("Ca3Ni", -2.9, 5),
            entry("CaNi3", -4.4, 6),
            entry("Ca", math.nan, 7),
        ]
    )
    at = {point.entry.id: point for point in hull.points}
    assert set(at) == {1, 2, 3, 4, 5, 6}
    assert {k: round(p.formation, 6) for k, p in at.items()} == {1: 0, 2: 0, 3: -0.5, 4: -0.4, 5: -0.15, 6: -0.15}
    assert {k: round(p.above, 6) for k, p in at.items()} == {1: 0, 2: 0, 3: 0, 4: 0.1, 5: 0.1, 6: 0.1}
    assert [p.entry.id for p in hull.vertices] == [1, 3, 2]
    assert sorted(sorted(p.entry.id for p in facet) for facet in hull.facets) == [[1, 3], [2, 3]]
    assert [p.entry.id for p in hull.within(0.05)] == [3, 1, 2]
    assert hull.above(parse_formula("CaNi"), -9.0) == pytest.approx(-0.5)
    with pytest.raises(InputError, match="not made of Ca, Ni"):
        hull.above(parse_formula("CaFe"), -9.0)


def test_ternary_and_quaternary_by_hand():
    pure = [entry(symbol, 0.0, k) for k, symbol in enumerate(("Ca", "Fe", "Ni", "H"), 1)]
    ternary = build_hull([*pure[:3], entry("CaFeNi", -0.3, 5), entry("Ca2FeNi", -0.1, 6)])
    at = {point.entry.id: point for point in ternary.points}
    # Ca2FeNi lies on the line from Ca to CaFeNi: 1/4 Ca + 3/4 CaFeNi.
    assert at[6].above == pytest.approx(0.75 * 0.3 - 0.1)
    assert len(ternary.facets) == 3
    four = build_hull([*pure, entry("CaFeNiH", -0.4, 5), entry("Ca5FeNiH", -0.1, 6), entry("CaH2", -0.2, 7)])
    at = {point.entry.id: point for point in four.points}
    # Ca5FeNiH = 4 Ca + CaFeNiH
    assert at[6].above == pytest.approx(0.4 * 4 / 8 - 0.1)
    assert {p.entry.id for p in four.vertices} == {1, 2, 3, 4, 5, 7}


@pytest.mark.parametrize("elements", [("Ca", "Ni"), ("Ca", "Fe", "Ni"), ("Ca", "Fe", "Ni", "H")])
def test_distances_are_pymatgens(elements):
    """The hull's own evaluation against pymatgen's, entry by entry."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    rng = np.random.default_rng(3)
    entries = [entry(symbol, rng.normal(), k) for k, symbol in enumerate(elements, 1)]
    for number in range(10, 210):
        counts = rng.integers(0, 5, len(elements))
        if counts.sum():
            composition = tuple((s, int(n)) for s, n in zip(elements, counts, strict=True) if n)
            entries.append(Entry("run", number, composition, float(counts.sum() * rng.normal(-0.5, 0.4))))
    hull = build_hull(entries)
    made = {e.name: PDEntry(e.formula, e.enthalpy) for e in entries}
    diagram = PhaseDiagram(made.values())
    for point in hull.points:
        theirs = made[point.entry.name]
        assert point.above == pytest.approx(diagram.get_e_above_hull(theirs), abs=1e-8)
        assert point.formation == pytest.approx(diagram.get_form_energy_per_atom(theirs), abs=1e-8)
    assert {p.entry.formula for p in hull.vertices} == {
        next(n.formula for n in entries if made[n.name] is stable) for stable in diagram.stable_entries
    }


def test_one_component_and_one_composition():
    hull = build_hull([entry("Si8", -1.0, 1), entry("Si2", -1.2, 2)])
    assert [(p.entry.id, round(p.above, 6), p.vertex) for p in hull.points] == [(2, 0.0, True), (1, 0.2, False)]
    fixed = build_hull([entry("MgAl2O4", -5.0, 1), entry("Mg4Al8O16", -5.3, 2)])
    assert fixed.names == ("MgAl2O4",)
    assert [round(p.above, 6) for p in fixed.points] == [0.0, 0.3]


def test_compounds_as_components():
    entries = [entry("Mg2O2", -6.0, 1), entry("SiO2", -8.0, 2), entry("MgSiO3", -7.5, 3), entry("Mg2SiO4", -7.0, 4)]
    hull = build_hull([*entries, entry("MgO3", -3.0, 5)], ["MgO", "SiO2"])
    assert [e.id for e in hull.outside] == [5]
    at = {point.entry.id: point for point in hull.points}
    assert at[3].amounts == (1.0, 1.0)
    # eV/atom: MgSiO3 = MgO + SiO2 weighs 2/5 and 3/5
    assert at[3].formation == pytest.approx(-7.5 - (2 * -6.0 + 3 * -8.0) / 5)
    # Mg2SiO4 = MgO + MgSiO3 weighs 2/7 and 5/7
    assert at[4].above == pytest.approx(-7.0 - (2 * -6.0 + 5 * -7.5) / 7)
    same = build_hull(entries, blocks=[parse_formula("MgO"), parse_formula("SiO2")])
    assert same.names == ("MgO", "SiO2")


def test_what_a_hull_refuses():
    with pytest.raises(InputError, match="no entries"):
        build_hull([])
    with pytest.raises(InputError, match="no entry of pure Ni; add one"):
        build_hull([entry("Ca", -2.0), entry("CaNi", -3.0, 2)])
    with pytest.raises(InputError, match="no entry of pure Ni"):
        build_hull([entry("Ca", -2.0), entry("CaNi", -3.0, 2)], ["Ca", "Ni"])
    with pytest.raises(ConfigError, match="depend on each other"):
        build_hull([entry("Ca", -2.0)], ["Ca", "Ni", "CaNi"])
    with pytest.raises(ConfigError, match="not a formula"):
        build_hull([entry("Ca", -2.0)], ["ca"])
    with pytest.raises(ConfigError, match="Xx is not an element"):
        parse_formula("CaXx")
    with pytest.raises(InputError, match="the element"):
        build_hull([Entry("run", 1, (("?1", 4),), -3.0)])


def recorded(energy: float) -> Recorded:
    return Recorded("converged", (), ("m",), energy, 0.01, 0.01, 10, 1.0, 0)


def test_pressures_are_not_mixed_unnoticed():
    low = entry("Ca", -2.0, 1, pressure_gpa=0.0, volume=40.0)
    high = entry("Ni", -1.0, 2, pressure_gpa=50.0, volume=10.0, run="other", record=recorded(-4.2))
    with pytest.raises(ConfigError, match=r"several pressures \(0, 50 GPa\)"):
        at_pressure([low, high], None)
    (one, two), warnings = at_pressure([low, high], 50.0)
    assert one.enthalpy == pytest.approx(-2.0 + pv_energy(50.0, 40.0))
    assert two.enthalpy == -1.0
    assert len(warnings) == 1
    assert "run: 1 entry of 0 GPa taken to 50 GPa" in warnings[0]
    (_, two), _ = at_pressure([low, high], 0.0)
    assert two.enthalpy == pytest.approx(-4.2)  # the record's E
    (only,), none = at_pressure([high], None)
    assert (only.enthalpy, none) == (-1.0, [])
    unknown = entry("Fe", -3.0, 3, run="new")
    assert at_pressure([unknown], 50.0) == ([replace(unknown, pressure_gpa=50.0)], [])
    assert "the pressure is unknown" in at_pressure([unknown], None)[1][0]
    assert at_pressure([unknown, high], None)[1] == ["the pressure of new is unknown and assumed to be 50 GPa"]


def test_levels_of_theory_are_not_mixed_unnoticed():
    one = entry("Ca", -2.0, 1, level="mace small")
    other = entry("Ni", -1.0, 2, level="PBE", run="refs")
    assert one_level([one, replace(one, id=3)]) == []
    with pytest.raises(ConfigError, match=r"mace small \(run\); PBE \(refs\)"):
        one_level([one, other])
    assert "several levels" in one_level([one, other], mix=True)[0]
    with pytest.raises(ConfigError, match="not stated"):
        one_level([one, replace(other, level="")])
    assert one_level([replace(one, level="")]) == []
    assert "assumed to be the same" in one_level([replace(one, level=""), replace(other, level="")])[0]
    assert one_level([one, replace(other, enthalpy=math.nan)]) == []  # takes no part
