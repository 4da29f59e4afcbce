"""No hole of a potential passes for a result, and no real crystal for a hole."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from crystals import SHEARED, known, sheared

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import CalculationError, Rejected
from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.models.backends import load
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.inventory import cards
from uspex_bridge.relaxation.engine import relax
from uspex_bridge.relaxation.guards import VACUUM, check_geometry, check_result, check_start, reduced, widest_gap
from uspex_bridge.relaxation.holes import fill, judged, scan, too_dense
from uspex_bridge.relaxation.protocol import Guards, Plan, Stage
from uspex_bridge.relaxation.volumes import SMALLEST, element_volume, expected_volume

CRYSTALS, GUARDS = known(), Guards()


def test_no_real_crystal_is_refused_in_any_cell():
    """Elements, ionic, covalent, layered, molecular ones, hydrides, to 1000 GPa; primitive and badly chosen cells."""
    assert len(CRYSTALS) > 150
    assert abs(np.linalg.det(SHEARED)) == pytest.approx(1.0)
    for name, atoms, pressure in CRYSTALS:
        for cell in (atoms, sheared(atoms)):
            assert check_start(cell, Guards()) is False, name
            check_geometry(cell, Guards(), cell.get_volume())
            assert not [flag for flag in check_result(cell, Guards(), pressure) if flag != "elongated"], name
            assert too_dense(cell, pressure) == "", name
        assert check_result(atoms, Guards()) == check_result(sheared(atoms), Guards()), name
        assert fill(atoms, pressure) > 1.05 * SMALLEST, name


@pytest.mark.parametrize("name", ["Fe", "Cu", "MgO", "H3S", "LaH10", "Bi2Te3"])
def test_half_the_volume_is_a_hole(name):
    """Of an element, an oxide, a hydride and a layered crystal alike."""
    (crystal,) = [one for one in CRYSTALS if one.name == name]
    atoms = crystal.atoms.copy()
    atoms.set_cell(0.5 ** (1 / 3) * atoms.cell.array, scale_atoms=True)
    assert "of what its elements need" in too_dense(atoms, crystal.pressure)


def test_holes_seen_in_searches_are_caught_by_their_volume_alone():
    """CHGNet's Si8 and fcc Ca at 50 GPa."""
    for symbol, count, volume in (("Si", 8, 5.29), ("Ca", 1, 12.34)):
        atoms = Atoms([symbol] * count, cell=np.eye(3) * (volume * count) ** (1 / 3), pbc=True)
        assert fill(atoms, 50.0) < 0.65
        assert too_dense(atoms, 50.0)


def test_two_atoms_that_nearly_merge_are_a_hole_however_much_room_there_is():
    atoms = Atoms("Si2", positions=[[0, 0, 0], [1.2, 0, 0]], cell=[4, 4, 4], pbc=True)
    assert "Si1-Si2 1.20 Å apart" in too_dense(atoms, 0.0)


@pytest.mark.parametrize("symbol", ["H", "C", "Na", "Fe", "Cs", "Xe", "U", "Og"])
def test_volumes_fall_with_pressure(symbol):
    volumes = [element_volume(symbol, p) for p in (-5.0, 0.0, 1.0, 10.0, 100.0, 1000.0)]
    assert volumes[0] == volumes[1]
    assert (np.diff(volumes[1:]) < 0).all()
    assert expected_volume([symbol] * 3, 50.0) == pytest.approx(element_volume(symbol, 50.0))


def test_volumes_are_those_of_experiment():
    """hcp iron, gold, diamond, hcp silicon and sodium, Å³/atom at GPa; within 12 %."""
    for symbol, pressure, volume in (
        ("Fe", 300, 6.9),
        ("Au", 100, 13.05),
        ("C", 400, 3.8),
        ("Si", 50, 10.7),
        ("Na", 100, 9.3),
    ):
        assert element_volume(symbol, pressure) == pytest.approx(volume, rel=0.12)


class Compressed(Calculator):
    """E(V) of a crystal with its minimum at V0, and a hole of depth D below half of that; eV, Å³ per atom."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]
    volume, stiffness, hole, width, depth = 14.0, 0.6, 6.0, 1.0, 8.0

    def calculate(self, atoms=None, properties=None, system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        v, n = atoms.get_volume() / len(atoms), len(atoms)
        bump = self.depth * np.exp(-(((v - self.hole) / self.width) ** 2))
        energy = 0.5 * self.stiffness / self.volume * (v - self.volume) ** 2 - bump
        slope = self.stiffness / self.volume * (v - self.volume) + 2 * bump * (v - self.hole) / self.width**2
        self.results = {"energy": n * energy, "free_energy": n * energy, "forces": np.zeros((n, 3))}
        self.results["stress"] = slope * np.array([1.0, 1, 1, 0, 0, 0])


def evaluate_many(structures):
    answers = []
    for atoms in structures:
        calculator = Compressed()
        calculator.calculate(atoms)
        answers.append(calculator.results)
    return answers


def silicon(volume: float, symbol: str = "Si") -> Atoms:
    return Atoms(symbol, cell=np.eye(3) * volume ** (1 / 3), pbc=True)


def test_a_scan_finds_the_barrier_of_a_hole_and_none_beside_a_minimum():
    sound, hole = scan([silicon(14.0), silicon(11.0)], evaluate_many, 0.0)
    assert not sound.hole
    assert sound.volumes[2] == pytest.approx(14.0)
    assert hole.volumes == tuple(sorted(hole.volumes))
    asked = []

    def fail(structures):
        asked.extend(structures)
        return [CalculationError("no")] * len(structures)

    (broken,) = scan([silicon(14.0)], fail, 0.0, own=[(0.0, -1.0)])
    assert "the model fails" in broken.why
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("pressures", "energies", "target", "why"),
    [
        ((12, 6, 0, -3, -6, -8, -9), None, 0.0, ""),
        ((62, 56, 50, 40, 30, 22, 15), None, 50.0, ""),
        ((62, 56, 50, 40, 39, 40, 15), None, 50.0, ""),  # the noise of a model
        ((62, 56, 50, 40, 30, 45, 55), None, 50.0, "P rises"),
        ((12, 6, 0, -13, -20, -2, 6), None, 0.0, "P rises"),
        ((12, 6, 0, -13, -20, -12, -3), None, 0.0, ""),  # pulled apart: no hole
        ((40, 44, 50, 40, 30, 22, 15), None, 50.0, "P rises"),
        ((500, 300, 0, -3, -6, -8, -9), None, 0.0, "unphysical change"),
        ((62, 56, 50, 40, 30, 22, 15), (-3.0, -1.0, 0, 0, 0, 0, 0), 50.0, "H falls"),
    ],
)
def test_what_a_compression_curve_may_do(pressures, energies, target, why):
    volumes = 10.0 * np.array([0.92, 0.96, 1.0, 1.05, 1.1, 1.15, 1.2])
    p = np.array(pressures, dtype=float)
    steps = -gpa_to_ev_a3(1.0) * 0.5 * (p[1:] + p[:-1]) * np.diff(volumes)
    e = np.concatenate([[0.0], np.cumsum(steps)]) if energies is None else np.array(energies, dtype=float)
    found = judged(volumes, p, e, target, 10.0)
    assert (why in found) if why else not found


def run(volume: float, guards=GUARDS, lowest=lambda: None, symbol="Si", identity=None, **intent):
    stages = (Stage("accurate", "b", fmax=0.01, stress=0.1, optimizer="TRQN", maxstep=0.2),)
    backend = SimpleNamespace(
        calculator=Compressed(),
        evaluate_many=evaluate_many,
        identity={"kind": "made up"} | (identity or {}),
        energy_zero="model",
        check_elements=lambda symbols: None,
    )
    return relax(
        to_structure(silicon(volume, symbol)),
        Plan(stages, guards, Intent(**intent)),
        lambda name: backend,
        lowest=lowest,
    )


def test_a_relaxation_into_a_hole_is_refused_and_its_geometry_kept():
    assert run(13.0).flags == ()
    with pytest.raises(Rejected, match="a hole of the potential") as caught:
        run(6.8)
    assert caught.value.code == "hole"
    assert caught.value.lasting
    assert caught.value.result.final.volume == pytest.approx(6.0, abs=0.3)
    assert "hole" in caught.value.result.flags
    flagged = run(6.8, Guards(hole="flag"))
    assert "hole" in flagged.flags
    assert "hole of the potential: " in flagged.reason
    assert run(6.8, Guards(hole="off")).flags == ()


def test_what_would_win_is_scanned_and_what_is_not_dense_and_would_not_is_not():
    """Chromium takes up 12.0 Å³ per atom, silicon 14.3: for that one 14 Å³ is dense."""

    def evaluations(symbol, guards, known):
        return sum(s.evaluations for s in run(13.5, guards, lambda: known, symbol).stages)

    guards = Guards(saddle="off")
    assert evaluations("Cr", guards, None) == evaluations("Cr", guards, -99.0) + 6
    assert evaluations("Cr", guards, 99.0) == evaluations("Cr", guards, None)
    assert evaluations("Si", guards, -99.0) == evaluations("Si", guards, None)
    assert evaluations("Cr", Guards(saddle="off", scan="always"), -99.0) == evaluations("Cr", guards, None)


def test_a_fixed_geometry_is_no_result_at_an_absurd_pressure_and_flagged_in_a_hole():
    assert "hole" in run(6.0, nsw=0).flags
    assert run(14.0, nsw=0).flags == ()
    with pytest.raises(Rejected, match="max_pressure") as caught:
        run(12.0, Guards(max_pressure=1.0), nsw=0)
    assert caught.value.code == "pressure"


def test_elements_that_are_invented_have_no_known_size_but_no_holes_either():
    """Sodium of 14 Å³ per atom is no sodium, but it is the toy potential's."""
    with pytest.raises(Rejected, match="of what its elements need"):
        run(13.0, symbol="Na")
    assert run(13.0, symbol="Na", identity={"invented": True}).flags == ()
    with pytest.raises(Rejected, match="hole of the potential: P rises"):
        run(6.8, symbol="Na", identity={"invented": True})
    assert [kind for kind, card in cards().items() if card.invented] == ["toy"]
    assert load("toy", CalculatorSettings(kind="toy")).identity["invented"]


def test_vacuum_is_found_and_no_crystal_has_any():
    """Clusters, slabs and molecules in boxes have guards of their own: a fixed cell, or none."""
    assert max(widest_gap(reduced(atoms))[0] for _, atoms, _ in CRYSTALS) < 0.6 * VACUUM
    cluster = Atoms("Si4", positions=np.eye(4, 3) * 2.3, cell=[14, 15, 16], pbc=True)
    slab = Atoms("Si2", positions=[[0, 0, 0], [1.3, 1.3, 1.5]], cell=[2.7, 2.7, 20], pbc=True)
    molecule = Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], cell=[12, 12, 12], pbc=True)
    for atoms in (cluster, slab, molecule):
        assert check_start(atoms, Guards(), cell_moves=False) is False
        check_geometry(atoms, Guards(), atoms.get_volume())
        with pytest.raises(Rejected) as caught:
            check_start(atoms, Guards())
        assert caught.value.code in ("vacuum", "dilute")
        with pytest.raises(Rejected, match="vacuum's PV"):
            check_start(atoms, Guards(), cell_moves=False, pressure_gpa=10.0)


@pytest.mark.parametrize(("symbols", "target", "dense"), [("CaFeNi", 150.0, True), ("CaFeNi", 20.0, False)])
def test_what_is_dense_is_compressed_further(symbols, target, dense):
    """CHGNet's CaFeNi at 150 GPa: its pressure falls on compression, but only below nine tenths of its volume."""
    volumes = [5.32, 5.66, 5.99, 6.32, 6.65, 6.99, 7.32, 7.65, 7.98, 8.32, 8.65, 8.98, 9.31, 9.65, 9.98, 10.6]
    pressures = [138.6, 158.8, 165.5, 160.8, 150, 137.4, 126.5, 116.6, 113, 118.2, 116, 112.8, 106.3, 95.3, 91.6, 85]
    atoms = Atoms(symbols, scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.1), (0.2, 0.6, 0.6)], cell=[2.7127] * 3, pbc=True)
    asked = []

    def evaluate(structures):
        asked.extend(one.get_volume() / len(one) for one in structures)
        found = [np.interp(volume, volumes, pressures) for volume in asked]
        return [{"energy": 0.0, "stress": -p * gpa_to_ev_a3(1.0) * np.array([1, 1, 1, 0, 0, 0])} for p in found]

    (verdict,) = scan([atoms], evaluate, target)
    if dense:
        assert 0.7 < verdict.fill < 0.9
        assert "P rises from" in verdict.why
        assert min(asked) == pytest.approx(0.84 * 6.654, abs=0.01)
    else:
        assert not asked  # too dense at sight
        assert verdict.why
