"""Errors against labels: rows per pressure, totals, ranking near the hull, energy zeros, disagreement."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.figures import parity
from uspex_bridge.learn.judge import metrics, probes
from uspex_bridge.learn.judge.accuracy import Accuracy, Judged
from uspex_bridge.learn.judge.cases import Values, case_of
from uspex_bridge.learn.judge.tables import tables


def frame(symbols, energy, pressure=0.0, own=0.0, name=None):
    """A cell of 10 Å³ per atom with an energy in eV/atom and its own pressure in GPa."""
    n = len(symbols)
    atoms = Atoms(symbols, np.random.default_rng(n).random((n, 3)), cell=np.eye(3) * (10 * n) ** (1 / 3), pbc=True)
    stress = np.array([-1.0, -1.0, -1.0, 0, 0, 0]) * gpa_to_ev_a3(own)
    atoms.calc = SinglePointCalculator(atoms, energy=energy * n, forces=np.zeros((n, 3)), stress=stress)
    atoms.info = {"pressure_gpa": pressure} | ({"id": name} if name else {})
    return atoms


def cases_of(frames):
    return [case_of(atoms, k) for k, atoms in enumerate(frames, 1)]


def shifted(cases, energy=0.0, force=0.0, virial=0.0):
    """A model's answers that are off by so much."""
    return [
        Values(c.reference.energy + energy, c.reference.forces + force, c.reference.virial + virial * np.eye(3))
        for c in cases
    ]


def test_pv_is_a_third_of_the_virials_trace_and_follows_the_cells_own_pressure():
    (case,) = cases_of([frame(["Ca", "Fe"], -1.0, pressure=0.0, own=50.0)])
    assert case.own_pressure_gpa == pytest.approx(50.0)
    assert case.reference.pv == pytest.approx(gpa_to_ev_a3(50.0) * 10.0)
    assert case.reference.virial.trace() / 3 == pytest.approx(case.reference.pv)


def test_a_total_is_taken_over_all_structures_and_ultra_high_pressure_counts_there_only():
    frames = [frame(["Ca"], -1.0)] * 3 + [frame(["Ca"], -1.0, pressure=50.0)] + [frame(["Ca"], 5.0, 50.0, own=700.0)]
    cases = cases_of(frames)
    answers = [*shifted(cases[:3], 0.01), *shifted(cases[3:4], 0.03), *shifted(cases[4:], 1.0)]
    rows = {row.label: row for row in metrics.rows(cases, answers)}
    assert list(rows) == ["0 GPa", "50 GPa", "up to 500 GPa", "total"]
    assert [row.count for row in rows.values()] == [3, 1, 4, 5]
    assert rows["50 GPa"].energy.mae == pytest.approx(0.03)
    assert rows["up to 500 GPa"].energy.mae == pytest.approx((3 * 0.01 + 0.03) / 4)
    assert rows["total"].energy.rmse == pytest.approx(np.sqrt((3 * 1e-4 + 9e-4 + 1.0) / 5))
    assert "up to 500 GPa" not in {row.label for row in metrics.rows(cases[:4], answers[:4])}


def test_forces_and_virials_are_by_component_and_pv_by_structure():
    cases = cases_of([frame(["Ca", "Fe"], -1.0)])
    (row,) = [row for row in metrics.rows(cases, shifted(cases, force=0.2, virial=0.3)) if row.label == "total"]
    assert row.forces.mae == pytest.approx(0.2)
    assert row.virial.mae == pytest.approx(0.1), "three of nine components are off"
    assert row.virial.rmse == pytest.approx(0.3 * np.sqrt(1 / 3))
    assert row.pv.mae == pytest.approx(0.3)


def binary():
    """Two elements, a stable compound, and structures 0.03 and 0.2 eV/atom above the hull."""
    energies = [(["Ca"], -1.0), (["Fe"], -3.0), (["Ca", "Fe"], -2.5), (["Ca", "Fe"], -2.47), (["Ca", "Fe"], -2.3)]
    return [frame(symbols, energy, pressure=20.0) for symbols, energy in energies]


def test_structures_near_the_hull_are_counted_as_in_the_paper():
    cases = cases_of(binary())
    row, total = metrics.rows(cases, shifted(cases, 0.02))
    assert (row.near, row.near_rmse) == (4, 3)
    assert (total.near, total.near_rmse) == (4, 3)
    answers = shifted(cases, 0.02)
    answers[3] = Values(answers[3].energy + 0.1, answers[3].forces, answers[3].virial)
    assert metrics.rows(cases, answers)[0].near == 3, "the model itself counts"
    alone = cases_of([frame(["Ca", "Fe"], -2.5), frame(["Ca", "Ca", "Fe"], -2.0)])
    assert metrics.rows(alone, shifted(alone))[-1].near is None, "no hull without its ends"


def test_a_model_that_puts_the_stable_phase_above_another_needs_a_window():
    cases = cases_of(binary())
    answers = shifted(cases)
    answers[2] = Values(answers[2].energy + 0.07, answers[2].forces, answers[2].virial)
    (ranking,) = metrics.rankings(cases, answers, window=0.1)
    assert (ranking.pressure_gpa, ranking.within, ranking.stable) == (20.0, 4, 1)
    assert ranking.recalled == {"0": 0, "0.05": 1, "0.1": 1}
    assert ranking.needed == pytest.approx(0.04)
    (right,) = metrics.rankings(cases, shifted(cases, 0.5), window=0.1)
    assert (right.spearman, right.needed, right.recalled["0"]) == (pytest.approx(1.0), 0.0, 1)


def test_another_energy_zero_is_found_per_element_and_taken_off():
    rng = np.random.default_rng(1)
    frames = [frame(["Ca"] * int(a) + ["Fe"] * int(b), -2.0) for a, b in rng.integers(1, 5, (20, 2))]
    cases = cases_of(frames)
    answers = [
        Values(c.reference.energy + np.mean([{"Ca": 1.5, "Fe": -4.0}[s] for s in c.symbols]), *rest)
        for c, rest in ((c, (c.reference.forces, c.reference.virial)) for c in cases)
    ]
    found = metrics.offsets(cases, dict(enumerate(answers)))
    assert found == pytest.approx({"Ca": 1.5, "Fe": -4.0}, abs=1e-4)
    assert metrics.rows(cases, metrics.without_offsets(cases, answers, found))[-1].energy.largest < 1e-4


def test_disagreement_counts_structures_over_the_papers_thresholds():
    cases = cases_of([frame(["Ca", "Fe"], -1.0)] * 3)
    first = shifted(cases)
    second = [*shifted(cases[:1], virial=0.035), *shifted(cases[1:2], virial=0.05), *shifted(cases[2:], energy=0.1)]
    found = metrics.disagreement(("a", "b"), first, second)
    assert found.over == {"0.03": 2, "0.04": 1}
    assert found.energy.largest == pytest.approx(0.1)
    assert found.pv.largest == pytest.approx(0.05)


def test_a_hole_is_where_the_energy_falls_again():
    x = [1.2, 1.1, 1.0, 0.9, 0.8, 0.7]
    assert probes.first_fall(x, np.array([0.2, 0.1, 0, 0.5, 1.0, 3.0]), 2) is None
    assert probes.first_fall(x, np.array([0.2, 0.1, 0, 0.5, 0.1, 3.0]), 2) == 0.8
    assert probes.first_fall(x, np.array([0.2, 0.1, 0, 0.5, np.nan, 3.0]), 2) == 0.8


def test_random_structures_are_the_same_for_a_seed_and_nothing_overlaps():
    frames = binary()
    made = probes.random_structures(frames, 5, 7)
    assert [s.symbols for s in made] == [s.symbols for s in probes.random_structures(frames, 5, 7)]
    assert {symbol for s in made for symbol in s.symbols} <= {"Ca", "Fe"}
    assert all(1 < len(s) <= 8 for s in made)


def test_labels_without_a_searchs_pressure_are_put_in_windows_of_their_own():
    owns = (-3.0, 4.0, 5.0, 60.0, 200.0, 599.0, 700.0)
    frames = [frame(["Ca"], -1.0, own=own) for own in owns]
    for atoms in frames:
        del atoms.info["pressure_gpa"]
    cases = cases_of(frames)
    rows = {row.label: row for row in metrics.rows(cases, shifted(cases, virial=0.3))}
    assert {label: row.count for label, row in rows.items()} == {
        "below 5 GPa": 3,
        "50-120 GPa": 1,
        "120-300 GPa": 1,
        "300-600 GPa": 1,
        "up to 600 GPa": 6,
        "total": 7,
    }
    assert all(row.near is None for row in rows.values()), "no hull in a window"
    asked = metrics.rows(cases, shifted(cases), metrics.Lines(windows=(100.0, 1000.0)))
    assert [(row.label, row.count) for row in asked] == [("below 100 GPa", 4), ("100-1000 GPa", 3), ("total", 7)]


def test_pressure_and_stress_errors_are_the_virials_over_the_volume():
    cases = cases_of([frame(["Ca", "Fe"], -1.0), frame(["Ca"], -1.0)])
    row = metrics.rows(cases, shifted(cases, virial=gpa_to_ev_a3(7.0) * 10.0))[-1]
    assert row.pressure.mae == pytest.approx(7.0)
    assert row.pressure.rmse == pytest.approx(7.0)
    assert row.stress.mae == pytest.approx(7.0 / 3.0), "three of nine components are off"


def test_order_is_that_of_enthalpies_at_the_mean_pressure_of_two_structures_of_one_composition():
    """At 100 GPa the denser of two structures wins though its energy is higher."""
    loose, dense = frame(["Ca", "Fe"], -2.0, own=90.0), frame(["Ca", "Fe"], -1.0, own=110.0)
    results = dense.calc.results
    dense.set_cell(dense.cell * 0.8 ** (1 / 3), scale_atoms=True)
    dense.calc = SinglePointCalculator(dense, **results)
    other = frame(["Ca"], -5.0, own=100.0)
    cases = cases_of([loose, dense, other])
    gain = gpa_to_ev_a3(100.0) * 2.0
    assert gain > 1.0
    right = metrics.rows(cases, shifted(cases, 0.5))[-1].order
    assert (right.pairs, right.wrong) == (1, 0)
    assert right.error == pytest.approx(0.0, abs=1e-12)
    answers = shifted(cases)
    answers[1] = Values(answers[1].energy + gain, answers[1].forces, answers[1].virial)
    wrong = metrics.rows(cases, answers)[-1].order
    assert (wrong.pairs, wrong.wrong) == (1, 1)
    assert wrong.error == pytest.approx(gain)


def judged(name, energy=0.0, force=0.0, virial=0.0):
    """A model with the same errors everywhere, at pressures from below 5 to above 600 GPa."""
    owns = (0.0, 20.0, 80.0, 200.0, 450.0, 900.0)
    frames = [frame(["Ca", "Fe"], -1.0 - k, pressure=None, own=own) for k, own in enumerate(owns)]
    cases = cases_of(frames)
    answers = shifted(cases, energy, force, virial)
    lines = metrics.Lines()
    rows = tuple(metrics.rows(cases, answers, lines))
    return Judged(name, name, f"{name} 1.0", tuple(cases), tuple(answers), dict(lines.of(cases)), {}, {}, {}, rows, ())


@pytest.fixture(scope="module")
def models():
    return judged("chgnet", 0.1, 0.2, 0.3), judged("sevennet", 12.0, 345.0, 67.0), judged("mace:mp-0", 1.0, 1.0, 1.0)


def test_all_tables_of_several_models_fit_80_columns(models):
    text = tables(Accuracy(models))
    assert max(map(len, text.splitlines())) <= 80
    for quantity in ("E MAE", "F MAE", "W MAE", "PV MAE", "P MAE"):
        assert text.count(quantity) >= len(models)


def test_the_panels_of_a_quantity_have_one_range_whatever_a_model_answers(models):
    figure = parity.draw_pv(models)
    spans = {panel.get_ylim() for panel in figure.axes if panel.axison}
    assert len(spans) == 1
    ((low, high),) = spans
    labels = np.array([case.reference.pv for case in models[0].cases])
    assert low < labels.min() < labels.max() < high
    drawn = [np.asarray(c.get_offsets())[:, 1] for panel in figure.axes for c in panel.collections]
    assert all(low <= values.min() and values.max() <= high for values in drawn)
    (legend,) = figure.legends
    assert "frame" in legend.get_title().get_text()
    assert "frame" not in parity.draw_pv(models[:1]).legends[0].get_title().get_text()
