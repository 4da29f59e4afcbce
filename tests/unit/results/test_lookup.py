"""Families, operators and phases under pressure: what the figures of a search's history are drawn from."""

import shutil
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import Made, write_matlab
from scipy.optimize import brentq

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call.config import Config
from uspex_bridge.call.many import RelaxTask
from uspex_bridge.call.structures import read_structures
from uspex_bridge.figures import family as family_figure
from uspex_bridge.figures import pressure as pressure_figure
from uspex_bridge.figures import progress as progress_figure
from uspex_bridge.results.hulls.hull import build_hull
from uspex_bridge.results.hulls.operators import progress
from uspex_bridge.results.hulls.pressure import (
    curves,
    differences,
    doubts,
    holes_of,
    open_phases,
    relax_series,
    sequence,
    transitions,
)
from uspex_bridge.results.reading.family import ancestors
from uspex_bridge.results.reading.folder import open_results

CELL = bulk("Si", "diamond", 5.4)


@pytest.fixture
def search(tmp_path):
    """Five generations of one composition: the best comes from a softmutation of a child of 2 and 3."""
    rows = [
        (1, -9.0, 1, "Random", ()),
        (2, -9.4, 1, "Random", ()),
        (3, -9.2, 1, "Seeds", ()),
        (4, -9.6, 2, "Heredity", (2, 3)),
        (5, -9.4, 2, "keptBest", (2,)),
        (6, -9.5, 3, "Heredity", (4, 5)),
        (7, -9.6, 3, "keptBest", (4,)),
        (8, -9.6, 4, "keptBest", (7,)),
        (9, -9.8, 5, "softmutate", (8,)),
        (10, -9.3, 5, "Heredity", (8, 6)),
    ]
    made = [Made(i, CELL, h, g, origin, parents) for i, h, g, origin, parents in rows]
    return open_results(write_matlab(tmp_path / "results1", made, ("Si",), 50.0))


def heights(results):
    return {p.entry.id: p.above for p in build_hull(results.entries).points}


def test_ancestors_without_the_copies_that_were_only_kept(search):
    found = ancestors(search, search.by_id[9], heights(search))
    assert found.parents == {9: (4,), 4: (2, 3), 2: (), 3: ()}
    assert found.kept == {8: 4}
    assert found.main == (9, 4, 2)
    assert [entry.id for entry in found.founders] == [2, 3]
    wide = ancestors(search, search.by_id[10], heights(search))
    assert wide.parents[10] == (4, 6)
    assert wide.parents[6] == (4, 2)
    assert ancestors(search, search.by_id[8], heights(search)).child.id == 4


def test_family_tree_is_drawn_with_everyone(search, tmp_path):
    found = ancestors(search, search.by_id[10], heights(search))
    axes = family_figure.draw(found, heights(search)).axes[0]
    written = " ".join(text.get_text() for text in axes.texts)
    assert all(f"EA{number} " in written for number in (10, 6, 4, 3, 2))
    assert "EA5 " not in written
    assert [t.get_text() for t in axes.get_yticklabels()] == ["1", "2", "3", "5"]
    document = family_figure.document(found, heights(search))
    assert {point["id"]: point["parents"] for point in document["points"]}[10] == [4, 6]


def test_a_family_without_the_file_origin(search):
    (search.path / "origin").unlink()
    with pytest.raises(InputError, match=r"results1/origin: there is no such file"):
        ancestors(open_results(search.path), search.by_id[9], {})


def test_a_wide_family_names_only_its_main_line(tmp_path):
    made = [Made(k, CELL, -9.0 - 0.001 * k, 1) for k in range(1, 33)]
    parents = [(k, k + 1) for k in range(1, 33, 2)]
    for generation in range(2, 7):
        ids = []
        for pair in parents:
            number = len(made) + 1
            made.append(Made(number, CELL, -9.0 - 0.01 * number, generation, "Heredity", pair))
            ids.append(number)
        parents = list(zip(ids[::2], ids[1::2], strict=False))
    results = open_results(write_matlab(tmp_path / "results1", made, ("Si",)))
    found = ancestors(results, results.entries[-1], heights(results))
    assert len(found.members) == 63
    assert len(family_figure.draw(found, heights(results)).axes[0].texts) == len(found.main) == 6


def test_progress_and_operators(search):
    found = progress(search, build_hull(search.entries), within=0.15)
    (records,) = found.records.values()
    assert [(r.entry.id, r.entry.origin) for r in records] == [(2, "Random"), (4, "Heredity"), (9, "softmutate")]
    assert [r.above for r in records] == pytest.approx([0.2, 0.1, 0.0])
    table = {s.operator: s for s in found.operators}
    assert set(table) == {"Random", "Seeds", "Heredity", "softmutate"}
    heredity = table["Heredity"]
    assert (heredity.made, heredity.with_parents, heredity.better, heredity.near) == (3, 3, 1, 2)
    assert [table[name].stable for name in ("softmutate", "Heredity")] == [1, 0]
    by_number, shares, operators = progress_figure.draw(found).axes
    assert [t.get_text() for t in operators.texts if t.get_text().startswith("soft")] == ["softmutate"]
    (line,) = [line for line in by_number.lines if len(line.get_xdata()) > 2]
    assert list(line.get_xdata())[:3] == [2, 4, 9]
    tops = {round(bar.get_x() + bar.get_width() / 2): bar.get_y() + bar.get_height() for bar in shares.patches}
    assert tops == pytest.approx({1: 100.0, 2: 100.0, 3: 100.0, 4: 0.0, 5: 100.0})  # the fourth only kept the best


def test_progress_needs_generations(search, tmp_path):
    from dataclasses import replace

    unknown = replace(search, entries=tuple(replace(entry, generation=None) for entry in search.entries))
    with pytest.raises(InputError, match="generations of the structures are unknown"):
        progress(unknown, build_hull(search.entries))


def murnaghan(name, v0, e0, pressures, level=""):
    """A phase with K = 60 GPa, K' = 4 at its equilibrium volume under each pressure, as ASE atoms with energies."""
    k0, kp = 60.0, 4.0
    images = []
    for p in pressures:
        v = v0 * (1 + kp * p / k0) ** (-1 / kp)
        work = pv_energy(k0, v) / kp * ((v0 / v) ** kp / (kp - 1) + 1) - pv_energy(k0, v0) / (kp - 1)
        atoms = Atoms("Ca", cell=[v ** (1 / 3)] * 3, pbc=True)
        atoms.info |= {"name": name, "pressure_gpa": float(p), "energy": e0 + work, "level": level}
        images.append(atoms)
    return images


def crossing(one, other):
    """Where two phases of :func:`murnaghan` change places, GPa."""

    def enthalpy(v0, e0, p):
        (atoms,) = murnaghan("x", v0, e0, (p,))
        return atoms.info["energy"] + pv_energy(p, atoms.get_volume())

    return brentq(lambda p: enthalpy(*one, p) - enthalpy(*other, p), 0.0, 100.0)


@pytest.mark.parametrize(("step", "error"), [(5, 0.02), (10, 0.05), (20, 0.6), (40, 3.0)])
def test_phases_against_pressure(tmp_path, step, error):
    """However far apart the points are, the integral of V dP finds the transition and the bracket holds it."""
    first_phase, second_phase = (42.0, -2.0), (40.0, -1.9)
    wide = murnaghan("fcc", *first_phase, range(0, 41, 5))
    dense = murnaghan("bcc", *second_phase, range(0, 41, step))
    ase.io.write(tmp_path / "all.extxyz", [*wide, *dense])
    found = curves(open_phases([tmp_path / "all.extxyz"]))
    assert [(c.phase, len(c.entries)) for c in found] == [("fcc", 9), ("bcc", 40 // step + 1)]
    first, second = differences(found)
    assert max(map(abs, first.differences)) < 1e-12
    assert second.pressures == tuple(range(0, 41, step))
    assert second.differences[0] == pytest.approx(0.1)
    (change,) = transitions(found)
    assert (change.below, change.above) == ("fcc", "bcc")
    exact = crossing(first_phase, second_phase)
    assert change.pressure_gpa == pytest.approx(exact, abs=error)
    assert change.bracket[0] <= min(exact, change.pressure_gpa)
    assert change.bracket[1] >= max(exact, change.pressure_gpa)
    if step == 5:
        assert change.bracket[1] - change.bracket[0] < 6
        assert not change.doubt
    figure = pressure_figure.draw(found, [change], reference="fcc")
    assert {"fcc", "bcc"} <= {text.get_text() for text in figure.axes[0].texts}
    low, high = sequence(found, [change])
    assert (low.phase, low.low, low.high) == ("fcc", 0.0, change.pressure_gpa)
    assert (high.phase, high.low, high.high) == ("bcc", change.pressure_gpa, 40.0)
    fine = differences(found, steps=100)[1]
    assert len(fine.pressures) > 100
    assert set(second.pressures) <= set(fine.pressures)
    with pytest.raises(ConfigError, match="there is no phase hcp; there are fcc, bcc"):
        differences(found, "hcp")


def test_phases_need_not_have_been_computed_at_the_same_pressures(tmp_path):
    first_phase, second_phase = (42.0, -2.0), (40.0, -1.9)
    ase.io.write(tmp_path / "a.extxyz", murnaghan("fcc", *first_phase, (0, 6, 14, 22, 30)))
    ase.io.write(tmp_path / "b.extxyz", murnaghan("bcc", *second_phase, (2, 9, 18, 29, 40)))
    (change,) = transitions(curves(open_phases([tmp_path / "a.extxyz", tmp_path / "b.extxyz"])))
    assert change.pressure_gpa == pytest.approx(crossing(first_phase, second_phase), abs=0.05)


def test_a_soft_crystal_may_lose_more_than_a_fifth_of_its_volume_in_one_step(tmp_path):
    coarse = murnaghan("fcc", 42.0, -2.0, (0, 30))
    assert coarse[1].get_volume() < 0.79 * coarse[0].get_volume()
    ase.io.write(tmp_path / "coarse.extxyz", coarse)
    assert doubts(curves(open_phases([tmp_path / "coarse.extxyz"]))) == []


def test_a_transition_beside_a_collapse_is_not_reliable(tmp_path):
    """As fcc calcium with a model that loses half its volume between 50 and 60 GPa."""
    fcc = murnaghan("fcc", 42.0, -2.0, (0, 10, 20, 30)) + murnaghan("fcc", 24.0, -1.2, (40, 50))
    bcc = murnaghan("bcc", 40.0, -1.85, range(0, 51, 10))
    ase.io.write(tmp_path / "all.extxyz", [*fcc, *bcc])
    found = curves(open_phases([tmp_path / "all.extxyz"]))
    said = doubts(found)
    assert any(line.startswith("fcc: from 30 to 40 GPa its volume falls by 4") for line in said)
    changes = transitions(found)
    assert changes
    for change in changes:
        beside = 20 <= change.pressure_gpa <= 50
        assert bool(change.doubt) == beside
    document = pressure_figure.document(found, changes, "fcc")
    assert [one["reliable"] for one in document["transitions"]] == [not change.doubt for change in changes]
    figure = pressure_figure.draw(found, changes, reference="fcc")
    axes = figure.axes[0]
    assert "not reliable" in {text.get_text() for text in axes.get_legend().get_texts()}
    red = [patch for patch in axes.patches if patch.get_facecolor()[0] > 0.8]
    assert len(red) == sum(bool(change.doubt) for change in changes) > 0


def test_the_reference_is_interpolated_and_never_extrapolated(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", murnaghan("fcc", 42.0, -2.0, (0, 10, 20, 30)))
    ase.io.write(tmp_path / "b.extxyz", murnaghan("fine", 42.0, -2.0, (-5, 5, 15, 25, 35)))
    found = curves(open_phases([tmp_path / "a.extxyz", tmp_path / "b.extxyz"]))
    _, fine = differences(found)
    assert fine.pressures == (5, 15, 25)
    assert max(map(abs, fine.differences)) < 0.02


def test_a_model_that_changes_state_is_said(tmp_path):
    broken = murnaghan("fcc", 42.0, -2.0, (0, 10)) + murnaghan("fcc", 24.0, -2.0, (20, 30))
    ase.io.write(tmp_path / "a.extxyz", broken)
    said = doubts(curves(open_phases([tmp_path / "a.extxyz"])))
    assert [line.split(" ", 6)[6].split()[0] for line in said] == ["its", "H"]
    assert all(line.startswith("fcc: from 10 to 20 GPa ") for line in said)


def test_levels_keep_their_own_reference(tmp_path):
    images = [
        *murnaghan("fcc", 42.0, -2.0, (0, 20), "model"),
        *murnaghan("bcc", 40.0, -1.9, (0, 20), "model"),
        *murnaghan("fcc", 41.0, -7.0, (0, 20), "PBE"),
        *murnaghan("bcc", 40.0, -6.7, (0, 20), "PBE"),
    ]
    ase.io.write(tmp_path / "a.extxyz", images)
    found = {(d.level, d.phase): d.differences[0] for d in differences(curves(open_phases([tmp_path / "a.extxyz"])))}
    assert found["model", "bcc"] == pytest.approx(0.1)
    assert found["PBE", "bcc"] == pytest.approx(0.3)
    ase.io.write(tmp_path / "b.extxyz", images[:3] + images[6:])
    with pytest.raises(ConfigError, match=r"fcc is not there at the level of theory 'PBE'"):
        differences(curves(open_phases([tmp_path / "b.extxyz"])))


def test_phases_relaxed_here_keep_their_symmetry(tmp_path):
    from uspex_bridge.call.many import RelaxTask
    from uspex_bridge.call.model_names import with_model

    for name, atoms in {"fcc": bulk("Cu", "fcc", 3.6), "bcc": bulk("Cu", "bcc", 2.9)}.items():
        ase.io.write(tmp_path / f"{name}.vasp", atoms)
    phases = {name: read_structures(tmp_path / f"{name}.vasp")[0] for name in ("fcc", "bcc")}
    task = RelaxTask(config=with_model(Config(), "toy"), out=tmp_path / "out", resume=True)
    done = list(relax_series(phases, [0.0, 20.0], task))
    assert [(p, one.name) for p, one in done] == [(p, name) for p in (0.0, 20.0, 0.0) for name in ("fcc", "bcc")]
    assert {one.after for _, one in done if one.name == "fcc"} == {"Fm-3m (225)"}
    found = {c.phase: c for c in curves(open_phases([tmp_path / "out"]))}
    assert list(found["bcc"].pressures) == [0, 20]
    assert not any("volume" in line for line in doubts([found["fcc"]]))
    record = (tmp_path / "out" / "20GPa" / "bridge.record").read_text()
    list(relax_series(phases, [0.0, 20.0], task))
    assert (tmp_path / "out" / "20GPa" / "bridge.record").read_text() == record
    shutil.rmtree(tmp_path / "out" / "0GPa")
    assert len(curves(open_phases([tmp_path / "out"]))[0].entries) == 1


def test_points_in_holes_of_a_model_are_no_points_of_a_curve(tmp_path):
    frames = murnaghan("fcc", 42.0, -2.0, range(0, 41, 10), "PBE")
    frames[2].info["flags"] = "hole"
    ase.io.write(tmp_path / "all.extxyz", frames)
    pool = open_phases([tmp_path / "all.extxyz"])
    (curve,) = curves(pool)
    assert curve.pressures.tolist() == [0, 10, 30, 40]
    assert holes_of(pool) == ["fcc at 20 GPa is in a hole of the model; this point is left out"]
    for atoms in frames:
        atoms.info["flags"] = "hole"
    ase.io.write(tmp_path / "holes.extxyz", frames)
    with pytest.raises(InputError, match="all structures with an energy are in holes"):
        curves(open_phases([tmp_path / "holes.extxyz"]))


@pytest.mark.parametrize("outcome", [{"status": "rejected"}, {"enthalpy": -9.0, "flags": ["hole"]}])
def test_a_series_of_pressures_does_not_go_on_from_a_hole(tmp_path, monkeypatch, outcome):
    """What was refused at one pressure is kept as training data; it is no start for the next."""
    started = []

    def relax_all(jobs, task):
        for _, _, structure in jobs:
            started.append(structure.volume)
            shape = {"symbols": ["Ni"], "cell": (2 * np.eye(3)).tolist(), "scaled": [[0, 0, 0]]}
            yield SimpleNamespace(name=structure.comment, fields={"output": shape, **outcome})

    monkeypatch.setattr("uspex_bridge.call.many.relax_all", relax_all)
    start = Structure(("Ni",), 2.2 * np.eye(3), np.zeros((1, 3)))
    task = RelaxTask(config=Config(), out=tmp_path)
    assert len(list(relax_series({"fcc": start}, [0.0, 50.0], task))) == 3
    assert started == pytest.approx([start.volume] * 3)
