"""The functions that a notebook imports, and that they are the commands'."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read, write
from click.testing import CliRunner
from pymatgen.core import Lattice
from pymatgen.core import Structure as PymatgenStructure

import uspex_bridge
from uspex_bridge import load_model, open_results, read_record, relax, screen, select
from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, Rejected
from uspex_bridge.cli.main import command

SEARCH = Path(__file__).parents[2] / "examples" / "search_cafeni" / "50GPa"
GPA = 160.21766208
TOY = '[calculators.model]\nkind = "toy"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distorted(seed=3):
    atoms = bulk("Ni", "fcc", a=3.9, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_importing_the_package_loads_nothing_but_itself():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport uspex_bridge\n"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('__')), len(dir(uspex_bridge)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("['uspex_bridge']")


def test_every_public_name_is_there():
    for name in uspex_bridge.__all__:
        assert getattr(uspex_bridge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        uspex_bridge.nothing  # noqa: B018


def test_a_relaxed_structure_reaches_the_pressure_and_tells_one_enthalpy():
    result = relax(distorted(), 50)
    assert result.converged
    assert result.status == "converged"
    atoms = result.atoms
    assert -atoms.get_stress()[:3].mean() * GPA == pytest.approx(50, abs=0.2)
    pv = 50 / GPA * atoms.get_volume()
    assert result.enthalpy == pytest.approx(atoms.get_potential_energy() + pv, abs=1e-6)
    assert result.enthalpy_per_atom == pytest.approx(result.enthalpy / 4)
    assert result.volume == pytest.approx(atoms.get_volume())
    assert result.trajectory[-1].get_potential_energy() == pytest.approx(result.energy)
    enthalpies = [image.info["enthalpy"] for image in result.trajectory]
    assert enthalpies[-1] == pytest.approx(result.enthalpy)
    assert min(enthalpies) == pytest.approx(enthalpies[-1], abs=1e-3)
    assert json.loads(json.dumps(result.to_dict()))["enthalpy"] == result.enthalpy
    assert max(map(len, result.table().splitlines())) <= 80


def test_atoms_pymatgen_and_files_are_the_same_crystal(folder):
    atoms = distorted()
    lattice = Lattice(atoms.cell.array)
    write("one.vasp", atoms, direct=True)
    energies = [
        relax(crystal, nsw=0).energy
        for crystal in (atoms, PymatgenStructure(lattice, ["Ni"] * 4, atoms.get_scaled_positions()), "one.vasp")
    ]
    assert np.ptp(energies) < 1e-6


def test_several_keep_their_order_and_a_failure_has_its_place(folder):
    write("two.extxyz", [distorted(1), distorted(2)])
    seen = []
    squeezed = bulk("Ni", "fcc", a=0.5)
    results = relax([distorted(0), "two.extxyz", squeezed], 10, progress=seen.append)
    assert [one.ok for one in results] == [True, True, True, False]
    assert len(seen) == 4
    assert results[3].status == "rejected"
    with pytest.raises(Rejected):
        relax(squeezed, 10)
    with pytest.raises(AttributeError, match="no result"):
        results[3].atoms  # noqa: B018
    with pytest.raises(InputError, match="holds 2 structures"):
        relax("two.extxyz")


def test_a_model_that_fails_is_an_error_of_its_kind():
    (Path("bridge.toml")).write_text('protocol = "single"\n' + TOY + "[calculators.model.options]\nraise_after = 0\n")
    with pytest.raises(CalculationError):
        relax(distorted())
    with pytest.raises(ConfigError, match="unknown protocol"):
        relax(distorted(), protocol="papr")


def test_fixed_atoms_stay_where_they_are():
    atoms = distorted()
    atoms.set_constraint(FixAtoms([0]))
    result = relax(atoms, isif=2)
    assert result.atoms.positions[0] == pytest.approx(atoms.positions[0])
    assert np.abs(result.atoms.positions[1:] - atoms.positions[1:]).max() > 0.02


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"isif": 9}, "isif = 9"),
        ({"nsw": -3}, "nsw = -3"),
        ({"symprec": float("nan")}, "symprec = nan"),
        ({"symprec": -1.0}, "symprec = -1"),
        ({"pressure": float("inf")}, "the pressure is inf"),
        ({"time_limit": float("nan")}, "time_limit = nan"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_runs(options, said):
    with pytest.raises(ConfigError, match=said):
        relax(bulk("Ni", cubic=True), model="toy", **options)


def test_a_name_that_the_atoms_contradict_is_said(folder):
    write("x.vasp", bulk("Ni", cubic=True))
    _, rest = Path("x.vasp").read_text().split("\n", 1)
    for title, said in (("Fe3Ni5", True), ("Ni fcc, from a search of Fe3Ni5", False)):
        Path("x.vasp").write_text(f"{title}\n{rest}")
        table = relax("x.vasp", model="toy", nsw=0).table()
        assert (f"{title}: it is called {title} and its atoms are Ni4" in table) == said


def test_what_is_no_crystal_is_refused_by_its_type():
    with pytest.raises(InputError, match="int is not a crystal"):
        relax([bulk("Ni", cubic=True), 3], model="toy")


def test_a_single_point_says_that_it_is_one_and_at_which_pressure(tmp_path):
    """Its cell is not relaxed, so that it need not have the pressure that it was asked for."""
    result = relax(bulk("Ni", cubic=True), 50.0, model="toy", nsw=0, isif=2, out=tmp_path / "out")
    reached = result.fields["pressure_reached_gpa"]
    assert abs(reached - 50.0) > 10.0
    assert result.fields["stress_left_gpa"] == pytest.approx(abs(reached - 50.0), abs=0.01)
    assert result.flags == ("off-pressure",)
    assert f"pressure {reached:.1f} GPa instead of 50" in result.table()
    assert "single point" in repr(result)
    found = CliRunner().invoke(command, ["log", "--record", str(tmp_path / "out")]).output
    assert "single point" in found
    assert "converged" not in found
    relaxed = relax(result.atoms, 50.0, model="toy")
    again = relax(relaxed.atoms, 50.0, model="toy", nsw=0, isif=2)
    assert again.flags == ()
    assert "instead of" not in again.table()


def test_disordered_sites_are_refused_and_named():
    crystal = PymatgenStructure(Lattice.cubic(3.6), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    with pytest.raises(InputError, match="disordered"):
        relax(crystal)


def test_the_command_leaves_what_the_function_leaves(folder):
    write("a.vasp", distorted(), direct=True)
    by_function = relax(["a.vasp"], 20, out="one")[0]
    done = CliRunner().invoke(command, ["relax", "a.vasp", "-p", "20", "-o", "two", "--json"])
    (by_command,) = json.loads(done.stdout)["structures"]
    for key in ("enthalpy", "energy", "volume", "steps", "key", "flags", "status"):
        assert by_command[key] == by_function.to_dict()[key]
    assert read("one/relaxed.extxyz").info["enthalpy"] == read("two/relaxed.extxyz").info["enthalpy"]
    again = relax(["a.vasp"], 20, out="one", resume=True)[0]
    assert again.trajectory == []
    assert again.atoms.get_potential_energy() == pytest.approx(by_function.energy)
    (line,) = read_record("one", "Ni4")
    assert line["enthalpy"] == by_function.enthalpy


def test_a_model_is_an_ase_calculator_and_evaluates_many():
    with load_model("toy", epsilon=0.7) as model:
        atoms = distorted()
        atoms.calc = model.calculator
        (answer, _) = model.evaluate_many([distorted(), bulk("Fe", "bcc", a=2.9)])
        assert atoms.get_potential_energy() == pytest.approx(answer["energy"])
        assert load_model("toy").evaluate_many([distorted()])[0]["energy"] == pytest.approx(answer["energy"] * 5 / 7)


def test_a_search_answers_as_the_commands_do():
    search = open_results(str(SEARCH))
    done = CliRunner().invoke(command, ["hull", str(SEARCH), "--within", "0.02", "--json"])
    printed = json.loads(done.stdout)
    phases = search.hull(within=0.02)
    assert [row["name"] for row in phases.rows()] == [row["name"] for row in printed["phases"]]
    assert list(phases.to_dataframe()["formula"]) == [row["formula"] for row in printed["phases"]]
    assert {entry.formula for entry in phases.stable} >= {"FeNi2", "FeNi4"}
    assert len(search.best(3)) == 3
    assert len(search.to_dataframe()) == len(search) == len(list(search))
    assert search.atoms("EA90").get_chemical_formula() == "FeNi2"
    with pytest.raises(InputError, match="no entry has it"):
        search.entry(99999)
    assert search.export("near.extxyz", list(phases)) == len(phases)
    assert len(read("near.extxyz", index=":")) == len(phases)


@pytest.mark.parametrize("kind", ["ternary", "volume", "coverage"])
def test_figures_take_the_place_of_given_axes(kind):
    figure, (left, right) = plt.subplots(1, 2)
    open_results(SEARCH).plot(kind, ax=left)
    figure.savefig("both.png", dpi=60)
    assert left not in figure.axes
    assert right in figure.axes
    assert len(figure.subfigs) == 1
    assert figure.subfigs[0].axes
    plt.close(figure)
    with pytest.raises(ConfigError, match="did you mean 'hull'|there is no figure"):
        open_results(SEARCH).plot("hul")


def test_screening_computes_only_what_is_missing(folder):
    write("all.extxyz", relaxed := [one.atoms for one in relax([distorted(k) for k in range(3)], 10)])
    assert len(relaxed) == 3
    (Path("bridge.toml")).write_text(TOY + '[calculators.b]\nkind = "toy"\n[calculators.b.options]\nepsilon = 0.55\n')
    found = screen("all.extxyz", models=["toy", "b"], limits={"pv": 0.001})
    assert len(found.rows()) == 3
    assert found.over()["pv"] == len(found.screening.chosen)
    files = {path: path.stat().st_mtime_ns for path in Path("screened").rglob("*.jsonl")}
    assert len(files) == 2
    screen("all.extxyz", models=["toy", "b"])
    assert files == {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(ConfigError, match="at least two"):
        screen("all.extxyz", models=["toy"])


def test_selection_is_that_of_the_command(folder):
    from click.testing import CliRunner

    from uspex_bridge.cli.select import command

    found = select(SEARCH, budget=5, quota={"near": 0.4}, exclusions={"max_atoms": 12})
    assert len(found.rows()) == len(found.frames()) == 5
    assert max(len(atoms) for atoms in found.frames()) <= 12
    done = CliRunner().invoke(command, [str(SEARCH), "-n", "5", "--near-share", "0.4", "--max-atoms", "12", "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    with pytest.raises(InputError, match="no structure remains"):
        select(SEARCH, exclusions={"max_atoms": 1})
