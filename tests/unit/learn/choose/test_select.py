"""Choosing structures: quotas near the hull, farthest points, clusters, and what is there already."""

import numpy as np
import pytest
from phase_families import FAMILIES, copied, structure

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.learn.choose.select import Quota, clusters, distinct, doubtful, farthest_points, select
from uspex_bridge.results.hulls.hull import HullPoint, build_hull
from uspex_bridge.results.phases.definition import Tolerances
from uspex_bridge.results.reading.model import NAN, Entry, Pool, composition_of
from uspex_bridge.results.reading.sources import Loose

NOTHING = np.zeros((0, 2))


def entries(*above: tuple[str, float]) -> tuple[list[Entry], dict[str, HullPoint]]:
    """Entries of one-element compositions and their places on the hull."""
    made = [Entry("r", k, ((symbol, 1 + k % 3),), -1.0, 10.0) for k, (symbol, _) in enumerate(above)]
    return made, {
        e.name: HullPoint(e, (1.0,), 0.0, distance, False) for e, (_, distance) in zip(made, above, strict=True)
    }


def grid(count: int) -> dict[str, np.ndarray]:
    return {f"r:EA{k}": np.array([float(k), 0.0]) for k in range(count)}


def test_near_the_hull_by_composition():
    made, points = entries(("Ca", 0.0), ("Ca", 0.02), ("Ca", 0.01), ("Fe", 0.03), ("Ni", 0.04), ("Ni", 0.2))
    found = select(made, grid(6), points, NOTHING, Quota(budget=10, near=1, each=2))
    assert [c.entry.id for c in found.chosen[:4]] == [0, 2, 3, 4]
    assert found.chosen[0].reason == "on the hull, no. 1 of Ca"
    assert found.chosen[1].reason == "0.0100 eV/atom above the hull, no. 2 of Ca"
    assert {c.entry.id for c in found.chosen[4:]} == {1, 5}
    two = select(made, grid(6), points, NOTHING, Quota(budget=3, near=1, each=2, compositions=1))
    assert [c.entry.id for c in two.chosen[:2]] == [0, 2]
    assert "farthest" in two.chosen[2].reason


def test_the_budget_is_shared():
    made, points = entries(*[("Ca", 0.001 * k) for k in range(10)])
    found = select(made, grid(10), points, NOTHING, Quota(budget=4, near=0.5, each=10))
    assert [c.entry.id for c in found.chosen] == [0, 1, 9, 5]
    assert found.left == 6
    assert found.spread == (8.0, 4.0)
    alone = select(made, grid(10), points, NOTHING, Quota(budget=4, near=0))
    assert not [c for c in alone.chosen if "hull" in c.reason]


def test_farthest_points_spread_out_and_mind_what_is_there():
    line = np.array([[float(k), 0.0] for k in range(11)])
    assert [k for k, _ in farthest_points(line, NOTHING, 3)] == [5, 0, 10]
    assert farthest_points(line, np.array([[0.0, 0.0]]), 2) == [(10, 10.0), (5, 5.0)]
    same = np.zeros((5, 2))
    assert len(farthest_points(same, NOTHING, 4)) == 1
    assert farthest_points(same, same[:1], 4) == []


def test_farthest_points_cover_more_than_random_ones():
    rng = np.random.default_rng(4)
    cloud = np.vstack([rng.normal(0, 0.1, (200, 2)), rng.uniform(-5, 5, (20, 2))])
    far = [k for k, _ in farthest_points(cloud, NOTHING, 15)]
    random = rng.permutation(220)[:15]

    def reach(chosen):
        return max(np.linalg.norm(cloud[chosen] - point, axis=1).min() for point in cloud)

    assert reach(far) < 0.5 * reach(random)


def test_clusters_take_one_of_each_and_skip_what_is_there():
    rng = np.random.default_rng(5)
    middles = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    cloud = np.vstack([middle + rng.normal(0, 0.1, (n, 2)) for middle, n in zip(middles, (8, 5, 3, 2), strict=True)])
    found = clusters(cloud, NOTHING, 4)
    assert [size for _, size in found] == [8, 5, 3, 2]
    assert {tuple(np.rint(cloud[k] / 10).astype(int)) for k, _ in found} == {(0, 0), (1, 0), (0, 1), (1, 1)}
    rest = clusters(cloud, cloud[:8], 3)
    assert {tuple(np.rint(cloud[k] / 10).astype(int)) for k, _ in rest} == {(1, 0), (0, 1), (1, 1)}
    assert len(clusters(np.zeros((4, 2)), NOTHING, 3)) == 1


@pytest.mark.parametrize("method", ["farthest", "clusters", "random"])
def test_methods_keep_the_budget_and_the_seed(method):
    made, points = entries(*[("Ca", 1.0)] * 30)
    places = {e.name: row for e, row in zip(made, np.random.default_rng(1).normal(size=(30, 4)), strict=True)}
    quota = Quota(budget=7, method=method, seed=3)
    found = select(made, places, points, np.zeros((0, 4)), quota)
    assert len({c.entry.id for c in found.chosen}) == 7
    assert select(made, places, points, np.zeros((0, 4)), quota).chosen == found.chosen
    other = select(made, places, points, np.zeros((0, 4)), Quota(budget=7, method=method, seed=4))
    assert (other.chosen == found.chosen) == (method != "random")
    assert len(select(made, places, points, np.zeros((0, 4)), Quota(budget=99, method=method)).chosen) == 30


def test_impossible_quotas():
    for wrong in ({"budget": 0}, {"near": 1.5}, {"each": 0}, {"within": -1}):
        with pytest.raises(ConfigError):
            Quota(**wrong)


def loose(crystals, enthalpies) -> Pool:
    """Structures with and without enthalpies (eV/atom) in one file."""
    held = {k: structure(atoms) for k, atoms in enumerate(crystals, 1)}
    made = [
        Entry("file", k, composition_of(s.symbols), h * len(s), s.volume)
        for (k, s), h in zip(held.items(), enthalpies, strict=True)
    ]
    return Pool([Loose("file", tuple(made), held)])


def test_nothing_is_taken_twice_whether_its_enthalpy_is_known_or_not():
    rng = np.random.default_rng(2)
    hcp, dhcp, fcc = (FAMILIES["close-packed"][name] for name in ("hcp", "dhcp", "fcc"))
    crystals = [hcp, copied(hcp, rng), dhcp, copied(dhcp, rng), copied(hcp, rng), fcc]
    pool = loose(crystals, [-5.0, -4.9995, NAN, NAN, NAN, -4.5])
    assert [e.id for e in distinct(pool, pool.entries, "phase", Tolerances())] == [1, 6, 3]
    assert len(distinct(pool, pool.entries, "none", Tolerances())) == 6
    alone = loose(crystals, [NAN] * 6)
    assert [e.id for e in distinct(alone, alone.entries, "phase", Tolerances())] == [1, 3, 6]


def test_what_stands_out_is_not_taken_unasked():
    rng = np.random.default_rng(3)
    made = [
        Entry("r", k, (("Ca", 2), ("Ni", 2)), -8 + rng.normal(0, 0.1), 60 * rng.normal(1, 0.005), 50.0)
        for k in range(60)
    ]
    made += [Entry("r", 90, (("Ca", 2), ("Ni", 2)), -12.0, 30.0, 50.0), Entry("r", 91, (("Ca", 1),), -1.0, 20.0, 50.0)]
    points = build_hull([*made, Entry("r", 92, (("Ni", 1),), -2.0, 9.0, 50.0)]).points
    assert doubtful(points)["r:EA90"].startswith("small volume")
    assert not {"r:EA0", "r:EA1"} & set(doubtful(points))


def test_what_a_dataset_has_is_left_out_as_a_crystal_and_not_as_a_file(tmp_path, monkeypatch):
    """A re-relaxed copy with another origin is there; the same phase at another pressure is not."""
    import json

    import ase.io
    from ase.build import bulk
    from click.testing import CliRunner

    from uspex_bridge.cli import main

    monkeypatch.chdir(tmp_path)
    known = bulk("CaNi", "cesiumchloride", a=3.1) * (2, 1, 1)
    known.rattle(0.02, seed=1)
    copy = known.copy()
    copy.positions += 0.4
    copy.rattle(0.01, seed=2)
    copy.set_cell(1.003 * copy.cell, scale_atoms=True)
    squeezed = known.copy()
    squeezed.set_cell(0.95 * squeezed.cell, scale_atoms=True)
    other = bulk("CaNi", "rocksalt", a=5.0)
    ase.io.write("have.extxyz", known)
    ase.io.write("all.extxyz", [copy, squeezed, other])
    result = CliRunner().invoke(main.command, ["select", "all.extxyz", "--have", "have.extxyz", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["left_out"]["there already"] == 1
    assert len(facts["chosen"]) == 2
