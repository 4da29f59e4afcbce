"""Phase diagrams: where phases cross, what is said of it, and the picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from uspex_bridge.base.data import Structure
from uspex_bridge.call.thermal import FreeEnergyTask
from uspex_bridge.figures import phase_diagram as figure
from uspex_bridge.results.hulls.hull import build_hull
from uspex_bridge.results.hulls.rescore import Again
from uspex_bridge.results.reading.model import Entry
from uspex_bridge.results.thermal import free_energy_tables as tables
from uspex_bridge.results.thermal import phase_diagram
from uspex_bridge.results.thermal.free_energy import FreeEnergies, ThermalPhase
from uspex_bridge.results.thermal.phase_diagram import PhaseDiagram, crossings
from uspex_bridge.results.thermal.phase_diagram_tables import document, report

NOTHING = np.zeros(3)
PRESSURES, TEMPERATURES = (0.0, 50.0, 100.0), (0.0, 500.0, 1000.0)
#: Run and ID of three phases.
THREE = (("run", 1), ("run", 2), ("run", 3))


def g_of(number: int, pressure: float, temperature: float, limit: float) -> float:
    """Three phases of one element: the third wins under pressure, the second where it is hot; 1 has a limit."""
    if number == 1 and pressure > limit:
        return np.nan
    slope, entropy, start = {1: (0.010, 1e-4, 0.0), 2: (0.0105, 3e-4, 0.11), 3: (0.009, 1e-4, 0.04)}[number]
    return start + slope * pressure - entropy * temperature - 1e-7 * temperature**2


def diagram(limit: float = 60.0, names: Sequence[tuple[str, int]] = THREE) -> PhaseDiagram:
    cubic = Structure(("Si",), 2.5 * np.eye(3), np.zeros((1, 3)))
    answers = []
    for p in PRESSURES:
        phases, hulls = [], {}
        for number, name in enumerate(names, 1):
            entry = Entry(*name, (("Si", 1),), 0.01 * number, 15.0, pressure_gpa=p, level="toy")
            lines = {
                ("harmonic", t): {"g": g_of(number, p, t, limit), "status": "converged", "reason": "harmonic"}
                for t in TEMPERATURES
                if np.isfinite(g_of(number, p, t, limit))
            }
            phases.append(ThermalPhase(entry, cubic, lines))
        for t in TEMPERATURES:
            named = [(one.entry, one.g("harmonic", t)) for one in phases]
            entries = [
                Entry(e.run, e.id, e.composition, g, 15.0, pressure_gpa=p, level="toy")
                for e, g in named
                if np.isfinite(g)
            ]
            hulls[t] = build_hull(entries, None, ())
        at_rest = build_hull([one.entry for one in phases], None, ())
        answers.append(
            FreeEnergies(
                "harmonic", p, TEMPERATURES, tuple(phases), at_rest, hulls, {}, (), (), (), (), Path(f"{p:g}GPa")
            )
        )
    return PhaseDiagram(tuple(answers))


def test_the_lowest_phase_is_told_for_every_pressure_and_temperature():
    made = diagram()
    assert made.compositions == ((("Si", 1),),)
    grid = [[made.lowest(made.compositions[0], answer, t)[0][-3:] for answer in made.answers] for t in TEMPERATURES]
    assert grid == [["EA1", "EA3", "EA3"], ["EA1", "EA3", "EA3"], ["EA2", "EA2", "EA3"]]
    (found,) = made.with_pressure((("Si", 1),), 0.0)
    assert (found.before, found.after) == ("run:EA1", "run:EA3")
    assert found.at == pytest.approx(40.0)
    (hot,) = made.with_temperature((("Si", 1),), 0.0)
    assert hot.at == pytest.approx(550.0)
    assert np.isnan(made.surface("run:EA1")[0][2]).all()


def test_the_table_and_the_values_say_the_same():
    text = report(diagram())
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text[text.index("Si: phase of lowest G") :].splitlines()]
    assert ["at", "rest", "EA1", "EA1", "EA1"] in rows
    assert ["1000", "K", "EA2", "EA2", "EA3"] in rows
    assert "at 0 K: EA1 to EA3 at 40.0 GPa (computed at 0 and 50)" in text
    plain = document(diagram())
    assert {"formula": "Si", "temperature": 0.0, "from": "run:EA1", "to": "run:EA3"}.items() <= plain["transitions"][
        0
    ].items()
    assert plain["transitions"][0]["pressure_gpa"] == pytest.approx(40.0)
    assert len(plain["pressures"]) == 3


def test_the_picture_names_every_phase():
    drawn = figure.draw(diagram(), (("Si", 1),))
    (axes,) = drawn.axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    names = [text.get_text() for text in axes.texts] + legend
    assert sorted(name[:3] for name in names if name.startswith("EA")) == ["EA1", "EA2", "EA3"]
    assert axes.get_xlim() == (0.0, 100.0)
    assert not hidden(axes).any()


def test_phases_of_several_runs_with_one_id_have_different_names():
    (axes,) = figure.draw(diagram(names=(("one", 1), ("two", 1), ("three", 1))), (("Si", 1),)).axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    names = {text.get_text().split()[0] for text in axes.texts} | {name.split()[0] for name in legend}
    assert names == {"one:EA1", "two:EA1", "three:EA1"}


def test_a_run_of_which_nothing_could_be_relaxed_is_named():
    answer = diagram(names=(("one", 1), ("two", 1), ("two", 2))).answers[0]
    failed = Again(Entry("three", 1, (("Si", 1),)), None, "no result")
    assert "failed: three:EA1: no result" in tables.report(replace(answer, failed=(failed,)))


@pytest.mark.parametrize(("method", "advised"), [("harmonic", True), ("scha", False), ("corrected", False)])
def test_scha_is_advised_where_it_was_not_done(method, advised):
    answer = diagram().answers[0]
    first = replace(answer.phases[0], lines={("harmonic", 0.0): {"status": "rejected", "code": "unstable"}})
    answer = replace(answer, method=method, phases=(first, *answer.phases[1:]), left=("run:EA3",))
    text = " ".join(tables.report(answer).split())
    assert ("--method scha may find them stable" in text) is advised
    assert f"or unstable, for {'harmonic' if advised else 'scha'} (--promote)" in text


def hidden(axes) -> np.ndarray:
    """Return where nothing is drawn, (temperatures, pressures)."""
    (mesh,) = axes.collections
    return np.ma.getmaskarray(mesh.get_array()).reshape(300, 300)


def test_nothing_is_drawn_beside_a_lowest_phase_that_has_no_g():
    """The first phase is lowest at 0 GPa and unknown at 50: what is lowest between is unknown too."""
    (axes,) = figure.draw(diagram(limit=30.0), (("Si", 1),)).axes
    assert hidden(axes)[:, :149].all()
    assert not hidden(axes)[:, 151:].any()


def test_lines_cross_where_they_are_equal():
    """G = 10 x and 4 + 2 x cross at 0.5, whatever curve both have in common."""
    x = np.array([0.0, 0.25, 1.0])
    common = 3.0 * x**2
    (found,) = crossings(x, {"a": (10 * x + common, NOTHING), "b": (4 + 2 * x + common, NOTHING)})
    assert (found.before, found.after, found.error) == ("a", "b", 0.0)
    assert found.at == pytest.approx(0.5)
    assert found.between == (0.25, 1.0)


def test_a_phase_between_two_others_is_found():
    x = np.array([0.0, 1.0])
    two = np.zeros(2)
    found = crossings(x, {"a": (np.array([0.0, 3.0]), two), "b": (np.array([1.0, 1.0]), two), "c": (3 - 3 * x, two)})
    assert [(one.before, one.after) for one in found] == [("a", "b"), ("b", "c")]
    assert [one.at for one in found] == pytest.approx([1 / 3, 2 / 3])


def test_the_error_is_that_of_the_difference_over_its_slope():
    """ΔG falls by 2 over 10 K with errors of 0.3 and 0.4: ±0.5 / 0.2 K."""
    first, second = (np.zeros(2), np.array([0.3, 0.3])), (np.array([1.0, -1.0]), np.array([0.4, 0.4]))
    (found,) = crossings((0.0, 10.0), {"a": first, "b": second})
    assert found.at == pytest.approx(5.0)
    assert found.error == pytest.approx(2.5 * np.sqrt(0.5))  # both ends are sampled on their own


def test_twins_and_gaps_have_no_crossing():
    x, two = (0.0, 1.0), np.zeros(2)
    assert not crossings(x, {"a": (np.array([0.0, 1e-5]), two), "b": (np.array([1e-5, 0.0]), two)})
    assert not crossings(x, {"a": (np.array([0.0, 1.0]), two), "b": (np.array([1.0, np.nan]), two)})
    assert not crossings(x, {"a": (np.array([np.nan, np.nan]), two)})


def test_a_phase_that_is_worth_it_at_one_pressure_is_computed_at_all(monkeypatch, tmp_path):
    """EA1 is near the hull at 0 GPa alone, EA3 from 50 GPa on: both are sampled everywhere."""
    made = {answer.pressure_gpa: answer for answer in diagram().answers}
    calls = []

    def free(pool, question, task, *, method, wanted=(), **how):
        calls.append((task.pressure, method, set(wanted), task.out.name))
        return made[task.pressure]

    monkeypatch.setattr(phase_diagram, "free_energies", free)
    monkeypatch.setattr(phase_diagram, "chosen", lambda *given: ([], ["a warning"]))
    task = FreeEnergyTask(None, tmp_path, 0.0, (0.0,))
    found = phase_diagram.phase_diagram(None, None, task, (0.0, 50.0, 100.0), method="scha", promote=0.001)
    assert [call[:2] for call in calls] == [(p, m) for m in ("harmonic", "scha") for p in (0.0, 50.0, 100.0)]
    assert all(call[2] == {"run:EA1", "run:EA2", "run:EA3"} for call in calls[3:])
    assert calls[1][3] == "50GPa"
    assert found.answers[0].warnings == ("a warning",)
