"""Labels as others keep them: VASP's folders, DeePMD-kit's systems, MACE's files; what is wrong with them is said."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from emulators.vasp_archive import SMEARING, frame_of, leave_run

from uspex_bridge.base.errors import BridgeError, ConfigError, InputError
from uspex_bridge.cli import main
from uspex_bridge.learn.data.adding import offer
from uspex_bridge.learn.data.archives import read_archive
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.labels import Level, identity_of
from uspex_bridge.learn.data.suspects import suspects, wrong_sign
from uspex_bridge.learn.data.vasp_output import functional_of

#: Which files of a run are there.
KEPT = [("OUTCAR", "vasprun.xml"), ("OUTCAR.gz", "vasprun.xml.gz"), ("vasprun.xml",), ("OUTCAR",), ("OUTCAR.gz",)]


def cell(symbols: str, seed: int, volume: float = 11.0) -> Atoms:
    rng = np.random.default_rng(seed)
    n = len(Atoms(symbols))
    atoms = bulk("Ni", "fcc", a=(4 * volume) ** (1 / 3)) * (n, 1, 1)
    atoms.symbols[:] = Atoms(symbols).get_chemical_symbols()
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.uniform(-0.1, 0.1, (n, 3))
    return atoms


def relaxation(symbols: str = "Ca2FeNi", seed: int = 1) -> list[Atoms]:
    """Ionic steps that end in a smaller cell."""
    return [cell(symbols, seed, volume) for volume in (13.0, 12.5, 12.0, 11.5, 11.0)]


def labelled(atoms: Atoms, **info) -> Atoms:
    found = frame_of(atoms)
    results = {"energy": found.energy, "forces": found.forces, "stress": found.stress}
    copy = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True, info=info)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def cli(*words: object, code: int = 0):
    result = CliRunner().invoke(main.command, ["dataset", *map(str, words)])
    got = result.exception.exit_code if isinstance(result.exception, BridgeError) else result.exit_code
    assert got == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize("files", KEPT, ids="+".join)
def test_the_last_step_of_a_relaxation_under_pressure_is_e_and_not_h(tmp_path, files):
    steps = relaxation()
    leave_run(tmp_path / "run", steps, pressure=50.0, files=files)
    archive = read_archive(tmp_path / "run")
    assert not archive.refused
    (atoms,) = archive.frames
    true = frame_of(steps[-1])
    results = atoms.calc.results
    assert results["energy"] == pytest.approx(true.energy, abs=1e-6)
    assert results["free_energy"] == pytest.approx(true.energy - SMEARING, abs=1e-6)
    np.testing.assert_allclose(results["forces"], true.forces, atol=1e-5)
    np.testing.assert_allclose(results["stress"], true.stress, atol=1e-5)
    np.testing.assert_allclose(atoms.get_volume(), steps[-1].get_volume(), rtol=1e-5)
    assert list(atoms.symbols) == list(steps[-1].symbols)
    assert atoms.info["pressure_gpa"] == pytest.approx(50.0)
    assert atoms.info["provenance"]["potentials"]["Fe"] == "PAW_PBE Fe_sv 01Jan2000"
    assert (archive.code, atoms.info["provenance"]["functional"]) == ("vasp", "PBE")
    if "OUTCAR" in files:
        assert results["magmom"] == pytest.approx(2.0)


@pytest.mark.parametrize("files", [("OUTCAR", "vasprun.xml"), ("vasprun.xml",), ("OUTCAR",)], ids="+".join)
def test_every_nth_step_is_counted_from_the_last_and_all_are_one_family(tmp_path, files):
    steps = relaxation()
    leave_run(tmp_path / "run", steps, files=files)
    volumes = [s.get_volume() for s in steps]
    for every, wanted in ((0, volumes[-1:]), (1, volumes), (2, volumes[::2]), (4, [volumes[0], volumes[-1]])):
        frames = read_archive(tmp_path / "run", every).frames
        np.testing.assert_allclose([atoms.get_volume() for atoms in frames], wanted, rtol=1e-5)
        assert {atoms.info["family"] for atoms in frames} == {identity_of(frames[-1])}


def test_a_tree_is_read_and_what_is_broken_in_it_is_said(tmp_path):
    tree = tmp_path / "archive"
    leave_run(tree / "good" / "a", relaxation(), spoil="profile")
    leave_run(tree / "good" / "b", relaxation("Fe2Ni")[:1])
    leave_run(tree / "cut", relaxation(), spoil="truncated")
    leave_run(tree / "scf", relaxation("CaFe"), spoil="unconverged")
    leave_run(tree / "model", relaxation("CaNi"), files=("OUTCAR",), spoil="model")
    leave_run(tree / "half", relaxation("FeNi"), files=("vasprun.xml",))
    xml = (tree / "half" / "vasprun.xml").read_text()
    (tree / "half" / "vasprun.xml").write_text(xml[: len(xml) * 2 // 3])
    (tree / "empty").mkdir()
    (tree / "empty" / "OUTCAR").touch()
    (tree / "molecule.xyz").write_bytes(b"\xfa\x00 no text")
    ase.io.write(tree / "copied.extxyz", [labelled(cell("CaFe2", 1)), labelled(cell("CaNi", 2))])
    (tree / "copied.extxyz").write_text((tree / "copied.extxyz").read_text()[:-60])
    archive = read_archive(tree, every=1)
    assert len(archive.frames) == 5 + 1 + 4
    reasons = {one.name.removeprefix("archive/"): one.reason for one in archive.refused}
    assert "is incomplete" in reasons["cut"]
    assert "is incomplete" in reasons["half"]
    assert "convergence not reached" in reasons["scf, step 5"]
    assert "of a model, not of DFT" in reasons["model"]
    assert "is incomplete" in reasons["empty"]
    assert "NUL byte" in reasons["molecule.xyz"]
    assert reasons["copied.extxyz"].startswith("ASE cannot read it")
    assert len(reasons) == 7


def test_files_of_two_runs_are_refused(tmp_path):
    leave_run(tmp_path / "a", relaxation())
    leave_run(tmp_path / "b", relaxation("Ca2FeNi", seed=7))
    (tmp_path / "a" / "OUTCAR").write_bytes((tmp_path / "b" / "OUTCAR").read_bytes())
    (refused,) = read_archive(tmp_path / "a").refused
    assert "files of two runs" in refused.reason
    leave_run(tmp_path / "b", relaxation()[:2])
    (tmp_path / "a" / "OUTCAR").write_bytes((tmp_path / "b" / "OUTCAR").read_bytes())
    assert "5 ionic steps in vasprun.xml, 2 in OUTCAR" in read_archive(tmp_path / "a").refused[0].reason


def test_functionals_are_named_by_their_tags():
    pbe = {"Fe": "PAW_PBE Fe_pv"}
    cases = [
        ({}, pbe, "PBE"),
        ({}, {"Fe": "PAW Fe"}, "LDA"),
        ({"GGA": "PE", "LDAU": True}, pbe, "PBE+U"),
        ({"GGA": "PE", "LDAU": "F", "METAGGA": "--", "LHFCALC": False}, pbe, "PBE"),
        ({"GGA": "PS"}, pbe, "PBEsol"),
        ({"METAGGA": "R2SCAN", "GGA": "PE"}, pbe, "R2SCAN"),
        ({"LHFCALC": ".TRUE."}, pbe, "hybrid"),
        ({"GGA": "PE", "IVDW": 12}, pbe, "PBE+IVDW12"),
    ]
    assert [functional_of(tags, titles) for tags, titles, _ in cases] == [name for *_, name in cases]


def test_labels_of_another_functional_do_not_go_in(tmp_path):
    leave_run(tmp_path / "tree" / "pbe", relaxation())
    leave_run(tmp_path / "tree" / "sol", relaxation("Fe2Ni"), tags={"GGA": "PS"})
    leave_run(tmp_path / "tree" / "u", relaxation("FeNi"), tags={"LDAU": "T"})
    with pytest.raises(InputError, match="PBE .*PBEsol|several functionals"):
        offer([tmp_path / "tree"])
    found = offer([tmp_path / "tree"], functional="PBE/PBE+U")
    assert (found.code, len(found.frames)) == ("vasp", 2)
    assert [one.reason for one in found.refused] == ["computed with PBEsol, not PBE/PBE+U"]
    output = cli("add", tmp_path / "d", tmp_path / "tree" / "pbe", "--generation", 0).output
    assert "1 label added" in output
    assert "vasp PBE" in cli("summary", tmp_path / "d").output
    output = cli("add", tmp_path / "d", tmp_path / "tree", "--generation", 1).output
    assert "refused: tree/sol: computed with PBEsol, not PBE" in output
    assert "already in the dataset" in output


def test_maces_and_deepmds_own_exports_come_back(tmp_path):
    frames = [labelled(cell(s, k)) for k, s in enumerate(["CaFe2", "CaNi", "FeNi", "Ca3"])]
    dataset = Dataset.create(tmp_path / "d")
    dataset.add(frames, generation=0, level=Level("vasp", "PBE", "x"))
    dataset.export_extxyz(tmp_path / "mace.extxyz", keys="mace")
    dataset.export_deepmd(tmp_path / "npy")
    dataset.export_deepmd(tmp_path / "mixed", mixed=True)
    for place in ("mace.extxyz", "npy", "mixed"):
        archive = read_archive(tmp_path / place)
        assert not archive.refused, place
        found = {atoms.get_chemical_formula(): atoms for atoms in archive.frames}
        for atoms in frames:
            same, results = found[atoms.get_chemical_formula()], atoms.calc.results
            assert same.calc.results["energy"] == pytest.approx(results["energy"], abs=1e-8)
            np.testing.assert_allclose(same.calc.results["stress"], results["stress"], atol=1e-9)
            assert np.sort(same.get_forces().ravel()) == pytest.approx(np.sort(results["forces"].ravel()), abs=1e-7)
    words = ("--generation", 0, "--code", "vasp", "--functional", "PBE")
    assert "4 labels added" in cli("add", tmp_path / "again", tmp_path / "mace.extxyz", *words).output


@pytest.mark.parametrize("tensor", ["stress", "virial", "virials"])
def test_labels_under_others_names_are_read_with_their_signs(tmp_path, tensor):
    atoms = labelled(cell("CaFe2", 1))
    results, volume = atoms.calc.results, atoms.get_volume()
    full = results["stress"][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    plain = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
    plain.info = {"dft_energy": results["energy"], f"dft_{tensor}": full if tensor == "stress" else -volume * full}
    plain.arrays["dft_forces"] = results["forces"]
    ase.io.write(tmp_path / "f.extxyz", plain)
    (back,) = read_archive(tmp_path / "f.extxyz").frames
    np.testing.assert_allclose(back.get_stress(), results["stress"], atol=1e-8)
    assert back.get_potential_energy() == pytest.approx(results["energy"])


def test_dft_counts_before_a_models_energies_in_the_same_frame(tmp_path):
    atoms = labelled(cell("CaFe2", 1))
    atoms.info |= {"REF_energy": -7.0, "REF_stress": np.zeros(6)}
    atoms.arrays["REF_forces"] = np.zeros((3, 3))
    ase.io.write(tmp_path / "f.extxyz", atoms)
    (back,) = read_archive(tmp_path / "f.extxyz").frames
    assert back.get_potential_energy() == -7.0


def test_systems_that_cannot_be_labels_are_said(tmp_path):
    frames = [labelled(cell("CaFe2", k)) for k in range(3)]
    dataset = Dataset.create(tmp_path / "d")
    dataset.add(frames, generation=0, level=Level("vasp", "PBE", "x"))
    for name in ("no virial", "no map", "cut"):
        dataset.export_deepmd(tmp_path / "t" / name)
    next((tmp_path / "t" / "no virial").rglob("virial.npy")).unlink()
    next((tmp_path / "t" / "no map").rglob("type_map.raw")).unlink()
    energy = next((tmp_path / "t" / "cut").rglob("force.npy"))
    energy.write_bytes(energy.read_bytes()[:100])
    archive = read_archive(tmp_path / "t")
    reasons = " | ".join(f"{one.name}: {one.reason}" for one in archive.refused)
    assert "no stress" in reasons
    assert "type_map.raw is missing" in reasons
    assert "cannot be read as a system" in reasons
    assert not archive.frames


def test_nothing_and_nonsense(tmp_path):
    with pytest.raises(InputError, match="there is no such"):
        read_archive(tmp_path / "none")
    with pytest.raises(InputError, match="no labels in it or below"):
        read_archive(tmp_path)
    ase.io.write(tmp_path / "f.extxyz", labelled(cell("Fe", 1)))
    with pytest.raises(ConfigError, match="--code and --functional"):
        offer([tmp_path / "f.extxyz"])
    assert "--frames" in str(cli("add", tmp_path / "d", tmp_path, "--generation", 0, "--frames", "x", code=4).exception)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("energy", "abc"), ("stress", np.zeros(5)), ("virial", np.zeros((2, 2))), ("virial", "none")]
)
def test_a_label_that_is_none_is_said_with_its_frame(tmp_path, name, value):
    frames = []
    for k in range(2):
        atoms = cell("CaFe2", k)
        atoms.info |= {"REF_energy": -7.0, "REF_stress" if name != "virial" else "REF_virial": np.zeros((3, 3))}
        atoms.arrays["REF_forces"] = np.zeros((3, 3))
        frames.append(atoms)
    frames[1].info[f"REF_{name}"] = value
    ase.io.write(tmp_path / "f.extxyz", frames)
    with pytest.raises(InputError, match=r"f\.extxyz, frame 2: its label cannot be read"):
        read_archive(tmp_path / "f.extxyz")


def test_a_file_without_structures_is_no_archive(tmp_path):
    (tmp_path / "f.extxyz").touch()
    with pytest.raises(InputError, match="no structures in it"):
        read_archive(tmp_path / "f.extxyz")
    assert "no structures in it" in str(
        cli("add", tmp_path / "d", tmp_path / "f.extxyz", "--generation", 0, code=3).exception
    )


def lj(count: int, pressure_sign: float = 1.0) -> list[Atoms]:
    """Compressed cells of Ca, Fe and Ni, E with a constant per element."""
    rng, frames = np.random.default_rng(3), []
    for k in range(count):
        atoms = cell(("CaFe2", "CaNi", "FeNi", "Ca3", "Fe3", "Ni2")[k % 6], k, volume=rng.uniform(11.0, 16.0))
        copy = atoms.copy()
        copy.calc = LennardJones(sigma=2.5, epsilon=0.3, rc=5.5, smooth=True)
        energy = copy.get_potential_energy() - sum({"Ca": 1.0, "Fe": 8.0, "Ni": 5.0}[s] for s in atoms.symbols)
        stress = pressure_sign * copy.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=copy.get_forces(), stress=stress)
        atoms.info["origin"] = f"EA{k}"
        frames.append(atoms)
    return frames


def test_one_enthalpy_among_energies_is_found_and_can_be_kept(tmp_path):
    frames = lj(60)
    odd = max(range(60), key=lambda k: -frames[k].get_stress()[:3].mean())
    pv = -frames[odd].get_stress()[:3].mean() * frames[odd].get_volume()
    assert pv / len(frames[odd]) > 2.0
    assert suspects(frames) == ({}, "")
    frames[odd].calc.results["energy"] += pv
    found, _ = suspects(frames)
    assert list(found) == [odd]
    assert "is it an enthalpy?" in found[odd]
    ase.io.write(tmp_path / "f.extxyz", frames)
    words = ("add", tmp_path / "d", tmp_path / "f.extxyz", "--generation", 0, "--code", "vasp", "--functional", "PBE")
    facts = json.loads(cli(*words, "--json").stdout)
    assert sum(facts["added"].values()) == 59
    assert "enthalpy" in facts["refused"][0]["reason"]
    rest = lj(60)[odd : odd + 1]
    rest[0].calc.results["energy"] += pv
    labels = list(Dataset.open(tmp_path / "d").labels.values())
    assert suspects(rest, labels)[0], "a dataset's own labels are looked at too"
    assert suspects(rest)[0] == {}
    assert "too few to look for outliers" in suspects(rest)[1]
    assert "1 label added" in cli(*words, "--keep-outliers").output


def test_stresses_of_the_wrong_sign_are_refused_all_together(tmp_path):
    assert wrong_sign(lj(30)) == ""
    ase.io.write(tmp_path / "f.extxyz", lj(30, -1.0))
    words = ("add", tmp_path / "d", tmp_path / "f.extxyz", "--generation", 0, "--code", "vasp", "--functional", "PBE")
    assert "wrong sign" in str(cli(*words, code=3).exception)
    assert not (tmp_path / "d").exists()


def test_a_file_alone_is_a_run_too(tmp_path):
    leave_run(tmp_path / "run", relaxation())
    for name in ("OUTCAR", "vasprun.xml"):
        assert len(read_archive(tmp_path / "run" / name).frames) == 1
    assert isinstance(read_archive(Path(tmp_path, "run", "OUTCAR")).frames[0], Atoms)
