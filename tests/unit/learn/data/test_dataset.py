"""The dataset: what it takes, refuses, keeps, hands out; what it notices of hands and kills."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from math import gcd

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from filelock import FileLock

from uspex_bridge.base.errors import BusyError, ConfigError, InputError, OutputError
from uspex_bridge.cli import main
from uspex_bridge.learn.choose.candidates import read_frames_of, write_frames
from uspex_bridge.learn.data.dataset import MANIFEST, Dataset
from uspex_bridge.learn.data.exports import IDS
from uspex_bridge.learn.data.identity import content_id, split_of
from uspex_bridge.learn.data.labels import Level, identity_of, read_frames
from uspex_bridge.learn.judge.accuracy import open_labelled
from uspex_bridge.learn.training.order import from_dataset
from uspex_bridge.results.reading.labels_folder import labels_of

LEVEL = Level("toy", "LJ", "0123456789ab")


def labelled(symbols: str, seed: int, *, parent: Atoms | None = None, **info) -> Atoms:
    """A strained, rattled cell with Lennard-Jones energy, forces and stress, F a little below E0."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Ni", "fcc", a=3.4) * (len(Atoms(symbols)), 1, 1) if parent is None else parent.copy()
    if parent is None:
        atoms.symbols[:] = Atoms(symbols).get_chemical_symbols()
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.positions += rng.uniform(-0.1, 0.1, (len(atoms), 3))
    atoms.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=5.0, smooth=True)
    energy = atoms.get_potential_energy()
    results = {
        "energy": energy,
        "free_energy": energy - 0.01,
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results, magmoms=np.full(len(atoms), 0.5))
    atoms.info = {"pressure_gpa": 50.0, "origin": f"EA{seed}", **info}
    return atoms


@pytest.fixture
def frames() -> list[Atoms]:
    return [labelled(s, k) for k, s in enumerate(["CaFe2", "Fe2Ca", "Ca2Ni2", "Ni", "CaFeNi", "Fe3", "Ca", "NiCa"], 1)]


@pytest.fixture
def dataset(tmp_path, frames) -> Dataset:
    made = Dataset.create(tmp_path / "data", valid=0.2, test=0.2)
    made.add(frames[:6], generation=0, level=LEVEL)
    made.add(frames[6:], generation=1, level=LEVEL)
    return made


def cli(*args: str):
    return CliRunner().invoke(main.command, ["dataset", *args])


def test_identity_is_that_of_the_crystal_as_given():
    atoms = labelled("CaFe2Ni", 3)
    same = atoms[[2, 0, 3, 1]]
    same.rotate(30, "xyz", rotate_cell=True)
    same.positions += 2 * same.cell[0] - same.cell[1]
    assert identity_of(same) == identity_of(atoms)
    text = atoms.copy()
    text.positions = np.round(text.positions, 8)
    assert identity_of(text) == identity_of(atoms)
    for other in (labelled("CaFe2Ni", 4), labelled("CaFeNi2", 3)):
        assert identity_of(other) != identity_of(atoms)
    shaken = atoms.copy()
    shaken.positions[0, 0] += 0.005
    assert identity_of(shaken) != identity_of(atoms)


def test_identity_does_not_tell_a_coordinate_of_one_from_zero_or_minus_zero():
    cell = np.eye(3) * 3
    assert len({content_id(["Fe"], cell, np.full((1, 3), x)) for x in (0.0, -0.0, 1.0, 1 - 1e-7, -1e-7)}) == 1


def test_splits_have_the_fractions_asked_for_and_do_not_change():
    names = [f"s{k:016x}" for k in range(4000)]
    splits = [split_of(name, 0.1, 0.2) for name in names]
    assert splits == [split_of(name, 0.1, 0.2) for name in names]
    assert splits.count("valid") / 4000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.2, abs=0.025)


def test_frames_come_back_as_they_were_given(dataset, frames):
    back = {atoms.info["id"]: atoms for atoms in Dataset.open(dataset.path).frames()}
    assert set(back) == {identity_of(atoms) for atoms in frames}
    for atoms in frames:
        read, given = back[identity_of(atoms)], atoms.calc.results
        assert list(read.symbols) == list(atoms.symbols)
        np.testing.assert_allclose(read.positions, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(read.get_forces(), given["forces"], atol=1e-8)
        np.testing.assert_allclose(read.get_stress(), given["stress"], atol=1e-14)
        assert read.get_potential_energy() == pytest.approx(given["free_energy"], abs=1e-12)
        assert read.info["e0"] == pytest.approx(given["energy"], abs=1e-12)
        assert read.info["pressure_gpa"] == 50.0
        assert read.info["level"] == str(LEVEL)


def test_selection_by_split_and_generation(dataset):
    assert sum(1 for _ in dataset.frames(generation=1)) == 2
    parts = [atoms.info["id"] for split in ("train", "valid", "test") for atoms in dataset.frames(split=split)]
    assert sorted(parts) == sorted(dataset.labels)
    assert all(label.split == split_of(label.family, 0.2, 0.2) for label in dataset.labels.values())


def test_perturbed_siblings_never_straddle_splits(tmp_path):
    formulas = [f"Ca{a}Fe{b}" for a in range(1, 6) for b in range(6, 13) if gcd(a, b) == 1][:20]
    parents = [labelled(formula, k) for k, formula in enumerate(formulas)]
    copies = [
        labelled("", 100 * k + n, parent=parent, family=identity_of(parent))
        for k, parent in enumerate(parents)
        for n in range(5)
    ]
    dataset = Dataset.create(tmp_path / "d", valid=0.3, test=0.3)
    dataset.add(copies, generation=0, level=LEVEL)
    dataset.add(parents, generation=1, level=LEVEL)
    families: dict[str, set[str]] = {}
    for label in dataset.labels.values():
        families.setdefault(label.family, set()).add(label.split)
    assert len(families) == 20
    assert all(len(splits) == 1 for splits in families.values())
    assert set().union(*families.values()) == {"train", "valid", "test"}


def test_a_split_that_is_asked_for_holds_for_new_families_only(tmp_path):
    dataset = Dataset.create(tmp_path / "d", valid=0, test=0)
    dataset.add([labelled("CaFe", 1, family="a")], generation=0, level=LEVEL)
    more = [labelled("CaFe", 2, family="a"), labelled("CaNi", 3, family="b")]
    dataset.add(more, generation=1, level=LEVEL, split="test")
    dataset.add([labelled("CaNi", 4, family="b")], generation=2, level=LEVEL)
    assert [label.split for label in dataset.labels.values()] == ["train", "train", "test", "test"]


def spoiled(what: str) -> Atoms:
    atoms = labelled("CaFe2", 99)
    results = atoms.calc.results
    match what:
        case "no forces" | "no stress":
            del results[what.split()[1]]
        case "nan":
            results["forces"][1, 2] = np.nan
        case "huge force":
            results["forces"][0, 0] = 2000.0
        case "pressure":
            results["stress"] = results["stress"] - 40.0
        case "smearing":
            results["free_energy"] -= 4.0
        case "sparse":
            atoms.set_cell(atoms.cell * 5, scale_atoms=True)
        case "no calculator":
            atoms.calc = None
        case "molecule":
            atoms.pbc = False
    return atoms


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no forces", "no forces"),
        ("no stress", "no stress"),
        ("no calculator", "no energy and no forces and no stress"),
        ("nan", "forces not finite"),
        ("huge force", "a force of 2e+03 eV/Å"),
        ("pressure", "GPa"),
        ("smearing", "the smearing is too wide"),
        ("sparse", "Å³/atom"),
        ("molecule", "not periodic"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_and_the_rest_kept(dataset, what, reason):
    added = dataset.add([spoiled(what), labelled("Fe2", 50)], generation=2, level=LEVEL)
    assert len(added.labels) == 1
    (refused,) = added.refused
    assert reason in refused.reason
    assert refused.name == "EA99"


def test_duplicates_are_refused_within_an_addition_and_across(dataset, frames):
    again = labelled("CaFeNi", 60)
    turned = again[[2, 1, 0]]
    turned.calc = again.calc
    added = dataset.add([frames[0], again, turned], generation=2, level=LEVEL)
    assert len(added.labels) == 1
    assert "already in the dataset" in added.refused[0].reason
    assert "same structure" in added.refused[1].reason


def test_another_level_of_theory_is_refused(dataset):
    for other in (
        Level("vasp", "LJ", LEVEL.settings),
        Level("toy", "SCAN", LEVEL.settings),
        Level("toy", "LJ", "f" * 12),
    ):
        with pytest.raises(InputError, match="two levels of theory"):
            dataset.add([labelled("Fe", 70)], generation=2, level=other)


def test_another_potential_of_the_same_element_is_refused(tmp_path):
    dataset = Dataset.create(tmp_path / "d")
    one, other = {"potentials": {"Fe": "PAW_PBE Fe_sv"}}, {"potentials": {"Fe": "PAW_PBE Fe_pv"}}
    dataset.add([labelled("Fe2", 1, provenance=one)], generation=0, level=LEVEL)
    added = Dataset.open(tmp_path / "d").add([labelled("Fe2", 2, provenance=other)], generation=0, level=LEVEL)
    assert "potential of Fe is 'PAW_PBE Fe_pv'" in added.refused[0].reason


@pytest.mark.parametrize("provenance", [{"potentials": None}, {"potentials": "PAW"}, "PAW", None])
def test_labels_from_elsewhere_say_of_their_potentials_what_they_like(tmp_path, provenance):
    dataset = Dataset.create(tmp_path / "d", valid=0.0, test=0.0)
    assert len(dataset.add([labelled("Fe2", 1, provenance=provenance)], generation=0, level=LEVEL).labels) == 1
    again = Dataset.open(tmp_path / "d").add([labelled("Fe2", 2, provenance={})], generation=0, level=LEVEL)
    assert again.refused == ()


def test_files_are_written_once_and_later_labels_get_their_own(dataset):
    first = (dataset.path / "generation-000.extxyz").read_bytes()
    dataset.add([labelled("Fe2", 80)], generation=0, level=LEVEL)
    assert (dataset.path / "generation-000.extxyz").read_bytes() == first
    assert len(read_frames(dataset.path / "generation-000.2.extxyz")) == 1
    assert len(list(Dataset.open(dataset.path).frames(generation=0))) == 7


def test_two_processes_that_make_it_and_add_at_once_lose_nothing(tmp_path):
    code = (
        "import sys\nsys.path.insert(0, sys.argv[2])\nfrom test_dataset import *\n"
        "d = Dataset.at(Path(sys.argv[1]))\nk = int(sys.argv[3])\n"
        "for n in range(5): d.add([labelled('CaFe', 100 * k + n), labelled('CaFe', 1)], generation=0, level=LEVEL)"
    ).replace("import sys\n", "import sys\nfrom pathlib import Path\n", 1)
    here = os.path.dirname(__file__)
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d"), here, str(k)]) for k in (1, 2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(Dataset.open(tmp_path / "d").labels) == 11


@pytest.mark.parametrize("left", [b"", b'{"dataset":1,"val', b"\0" * 40])
def test_a_manifest_that_holds_nothing_is_new_unless_there_are_frames(tmp_path, frames, left):
    place = tmp_path / "d"
    place.mkdir()
    (place / MANIFEST).write_bytes(left)
    assert len(Dataset.at(place).add(frames, generation=0, level=LEVEL).labels) == len(frames)
    (place / MANIFEST).write_bytes(left)
    with pytest.raises(InputError, match="manifest.jsonl: empty; take the dataset from a copy"):
        Dataset.at(place)


def test_a_full_disk_leaves_the_manifest_as_it_was(dataset, frames, monkeypatch):
    before = (dataset.path / MANIFEST).read_bytes()

    def full(stream, lines):
        stream.write(lines[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("uspex_bridge.base.jsonl._write", full)
    with pytest.raises(OutputError, match="manifest.jsonl: cannot be written: No space left"):
        dataset.add([labelled("Fe2", 90)], generation=2, level=LEVEL)
    assert (dataset.path / MANIFEST).read_bytes() == before
    monkeypatch.undo()
    assert len(Dataset.open(dataset.path).add([labelled("Fe2", 90)], generation=2, level=LEVEL).labels) == 1


def test_who_waits_in_vain_is_told(dataset, monkeypatch):
    monkeypatch.setattr("uspex_bridge.learn.data.dataset._WAIT", 0.0)
    with FileLock(dataset.path / ".lock"), pytest.raises(BusyError, match="another command is changing it"):
        dataset.add([], generation=2, level=LEVEL)


def test_an_addition_that_was_killed_loses_nothing_and_blocks_nothing(dataset):
    manifest = dataset.path / MANIFEST
    whole = manifest.read_bytes()
    more = [labelled("Fe2", k) for k in (90, 91, 92)]
    dataset.add(more, generation=2, level=LEVEL)
    lines = manifest.read_bytes()[len(whole) :].splitlines(keepends=True)
    manifest.write_bytes(whole + lines[0] + lines[1][:40])
    again = Dataset.open(dataset.path)
    assert len(again.labels) == 9
    added = again.add(more, generation=2, level=LEVEL)
    assert len(added.labels) == 2
    assert len(list(Dataset.open(dataset.path).frames(generation=2))) == 3


def test_an_interrupted_addition_is_pointed_out(dataset):
    shutil.copy(dataset.path / "generation-001.extxyz", dataset.path / "generation-007.extxyz")
    result = cli("check", str(dataset.path))
    assert result.exit_code == 0
    assert "not in the manifest: generation-007.extxyz" in result.output


def edit(dataset: Dataset, change) -> None:
    path = dataset.path / "generation-000.extxyz"
    path.write_text(change(path.read_text()))


def test_labels_that_only_a_part_of_the_manifest_names_are_not_passed_over_in_silence(dataset):
    assert Dataset.open(dataset.path).strangers() == []
    manifest = dataset.path / MANIFEST
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(True)[:3])[:-20])
    part = Dataset.open(dataset.path)
    assert len(part.labels) == 1
    assert part.strangers() == ["generation-000.extxyz (5 frames)", "generation-001.extxyz"]
    assert "not in the manifest: generation-000.extxyz (5 frames)" in cli("summary", str(dataset.path)).output
    notes = open_labelled(str(dataset.path)).notes
    assert [note.split(": ")[-1] for note in notes] == part.strangers()
    assert len(from_dataset(dataset.path).notes) == 2


def test_an_edited_energy_is_noticed_named_and_may_be_accepted(dataset):
    label = dataset.select(generation=0)[2]
    edit(dataset, lambda text: text.replace(repr(label.energy), repr(label.energy + 0.25)))
    with pytest.raises(InputError, match=f"{label.id} .*energy {label.energy + 0.25:.6f} instead of .*--accept"):
        Dataset.open(dataset.path)
    (line,) = Dataset.open(dataset.path, verify=False).accept()
    assert label.id in line
    after = Dataset.open(dataset.path)
    assert after.labels[label.id].energy == label.energy + 0.25
    assert len(after.labels) == 8


def test_hulls_take_no_label_whose_file_is_another_one(dataset):
    found = list(labels_of(dataset.path, "d"))
    labels = list(dataset.labels.values())
    assert [name for _, _, name in found] == [label.origin for label in labels]
    assert [len(structure) for _, structure, _ in found] == [label.natoms for label in labels]
    manifest, frames = dataset.path / MANIFEST, dataset.path / "generation-000.extxyz"
    written = {path: path.read_bytes() for path in (manifest, frames)}
    edit(dataset, lambda text: text.replace("Ca ", "Fe ", 1))
    with pytest.raises(InputError, match="not as it was written; 'uspex-bridge dataset check"):
        list(labels_of(dataset.path, "d"))
    frames.unlink()
    with pytest.raises(InputError, match="is missing: restore it"):
        list(labels_of(dataset.path, "d"))
    frames.write_bytes(written[frames])
    head, line = written[manifest].splitlines()[:2]
    for damage in ({"e0": "low"}, {"file": 3}, {"level": ["vasp"]}, {"index": 99}, {"sha256": None}):
        manifest.write_text("\n".join([head.decode(), json.dumps(json.loads(line) | damage)]) + "\n")
        with pytest.raises(InputError, match="is damaged|is gone|is missing|not as it was written"):
            list(labels_of(dataset.path, "d"))


def test_frames_cut_out_by_hand_leave_the_dataset_only_when_that_is_accepted(dataset):
    first = dataset.select(generation=0)[0]
    edit(dataset, lambda text: "".join(text.splitlines(keepends=True)[2 + first.natoms :]))
    with pytest.raises(InputError, match=f"{first.id} .* is gone"):
        Dataset.open(dataset.path)
    assert Dataset.open(dataset.path, verify=False).accept()
    after = Dataset.open(dataset.path)
    assert first.id not in after.labels
    assert sorted(a.info["id"] for a in after.frames()) == sorted(after.labels)
    assert len(after.add([labelled("CaFe2", 1)], generation=0, level=LEVEL).labels) == 1


def test_a_file_that_is_gone_is_noticed(dataset):
    (dataset.path / "generation-001.extxyz").unlink()
    with pytest.raises(InputError, match="generation-001.extxyz is gone, with 2 labels"):
        Dataset.open(dataset.path)


def test_opening_what_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="no dataset there"):
        Dataset.open(tmp_path)
    Dataset.create(tmp_path / "d")
    with pytest.raises(InputError, match="a dataset exists"):
        Dataset.create(tmp_path / "d")
    with pytest.raises(ConfigError, match="fractions"):
        Dataset.create(tmp_path / "e", valid=0.6, test=0.6)


def test_export_for_mace_and_for_ase(dataset, tmp_path):
    import ase.io

    assert dataset.export_extxyz(tmp_path / "m.extxyz", keys="mace") == 8
    assert dataset.export_extxyz(tmp_path / "a.extxyz") == 8
    by_id = {atoms.info["id"]: atoms for atoms in dataset.frames()}
    for atoms in ase.io.read(tmp_path / "m.extxyz", ":"):
        true = by_id[atoms.info["id"]]
        assert atoms.calc is None
        assert atoms.info["REF_energy"] == pytest.approx(true.get_potential_energy())
        np.testing.assert_allclose(atoms.arrays["REF_forces"], true.get_forces(), atol=1e-8)
        np.testing.assert_allclose(atoms.info["REF_stress"], true.get_stress())
    for atoms in ase.io.read(tmp_path / "a.extxyz", ":"):
        true = by_id[atoms.info["id"]]
        assert atoms.get_potential_energy() == pytest.approx(true.get_potential_energy())
        np.testing.assert_allclose(atoms.get_stress(), true.get_stress())


@pytest.mark.parametrize("mixed", [False, True])
def test_export_for_deepmd_is_what_dpdata_reads_and_virials_have_deepmds_sign(dataset, tmp_path, mixed):
    import dpdata

    assert dataset.export_deepmd(tmp_path / "npy", mixed=mixed) == 8
    by_id = {atoms.info["id"]: atoms for atoms in dataset.frames()}
    seen = []
    for folder in {path.parent for path in (tmp_path / "npy").rglob("type.raw")}:
        assert (folder / "type_map.raw").read_text().split() == ["Ca", "Fe", "Ni"]
        ids = (folder / IDS).read_text().split()
        energies, virials = (np.load(folder / "set.000" / f"{name}.npy") for name in ("energy", "virial"))
        for k, name in enumerate(ids):
            assert energies[k] == pytest.approx(by_id[name].get_potential_energy(), abs=1e-12)
            stress = by_id[name].get_stress(voigt=False)
            np.testing.assert_allclose(virials[k].reshape(3, 3), -stress * by_id[name].get_volume(), atol=1e-12)
        seen += ids
    assert sorted(seen) == sorted(by_id)
    read = dpdata.MultiSystems(type_map=["Ca", "Fe", "Ni"])
    read.load_systems_from_file(str(tmp_path / "npy"), fmt=f"deepmd/npy{'/mixed' if mixed else ''}")
    assert read.get_nframes() == 8
    first = next(a for a in by_id.values() if a.get_chemical_formula("metal") == "CaFeNi")
    system = read["Ca1Fe1Ni1"]
    order = np.argsort(first.symbols, kind="stable")
    np.testing.assert_allclose(system["forces"][0], first.get_forces()[order], atol=1e-8)


def test_all_splits_have_the_type_map_of_the_whole_dataset(tmp_path):
    dataset = Dataset.create(tmp_path / "d")
    dataset.add([labelled("CaNi", 1)], generation=0, level=LEVEL, split="train")
    dataset.add([labelled("Fe2", 2)], generation=0, level=LEVEL, split="valid")
    dataset.export_deepmd(tmp_path / "valid", "valid")
    assert (tmp_path / "valid" / "Ca0Fe2Ni0" / "type_map.raw").read_text().split() == ["Ca", "Fe", "Ni"]


def test_exports_refuse_an_empty_split_and_a_folder_of_something_else(dataset, tmp_path):
    empty = Dataset.create(tmp_path / "e")
    with pytest.raises(InputError, match="split is empty"):
        empty.export_extxyz(tmp_path / "x.extxyz", "valid")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="other files"):
        dataset.export_deepmd(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_commands_do_what_their_help_says(tmp_path, frames):
    import ase.io

    ase.io.write(tmp_path / "in.extxyz", [atoms.copy() for atoms in frames[:1]], format="extxyz")
    ase.io.write(tmp_path / "in.extxyz", frames, format="extxyz", append=True)
    data = str(tmp_path / "d")
    command = ["add", data, str(tmp_path / "in.extxyz"), "--generation", "3", "--code", "toy", "--functional", "LJ"]
    result = cli(*command)
    assert result.exit_code == 0, result.output
    assert "8 labels added" in result.output
    assert "refused: EA1: no energy" in result.output
    refused = json.loads(cli(*command, "--json").output)["refused"]
    assert len(refused) == 9
    summary = cli("summary", data).output
    assert "8 labels of 7 families" in summary, "CaFe2 and Fe2Ca are one crystal"
    assert "toy LJ" in summary
    facts = json.loads(cli("summary", data, "--json").output)
    assert sum(sum(group[s] for s in ("train", "valid", "test")) for group in facts["groups"]) == 8
    assert cli("export", data, str(tmp_path / "npy"), "--format", "deepmd").output.startswith("8 labels")
    assert "8 labels in 1 file" in cli("check", data).output
    os.remove(tmp_path / "d" / "generation-003.extxyz")
    failed = cli("check", data)
    assert isinstance(failed.exception, InputError)
    assert "changed: generation-003.extxyz is gone" in failed.output


def moved(atoms: Atoms, **info) -> Atoms:
    """The same crystal with another origin, another choice of cell, compressed by 8 % and a little shaken."""
    from ase.build import make_supercell

    copy = make_supercell(
        Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True), [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    )
    copy.positions += (0.3, 1.1, -0.7)
    copy.wrap()
    copy.set_cell(0.92 ** (1 / 3) * copy.cell.array, scale_atoms=True)
    copy.positions += np.random.default_rng(5).uniform(-0.03, 0.03, (len(copy), 3))
    stress = np.array([-1.0, -1.0, -1.0, 0, 0, 0])
    copy.calc = SinglePointCalculator(copy, energy=-1.0, forces=np.zeros((len(copy), 3)), stress=stress)
    copy.info = info
    return copy


def ordered(symbols: str, seed: int) -> Atoms:
    """A cell that is no other one's relative."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(
        symbols, scaled_positions=rng.random((len(Atoms(symbols)), 3)), cell=np.eye(3) * 5 + rng.random((3, 3))
    )
    atoms.pbc = True
    stress = np.array([-1.0, -1.0, -1.0, 0, 0, 0])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((len(atoms), 3)), stress=stress)
    return atoms


def test_a_twin_joins_its_phases_family_and_split_in_one_addition_and_later(tmp_path):
    dataset = Dataset.create(tmp_path / "d", valid=0.3, test=0.3)
    parents = [ordered("Ca2Fe2Ni", k) for k in range(12)]
    dataset.add([*parents[:6], moved(parents[0])], generation=0, level=LEVEL)
    reopened = Dataset.open(dataset.path)
    reopened.add([*parents[6:], *map(moved, parents[1:]), moved(parents[2], family="named")], generation=1, level=LEVEL)
    labels = list(Dataset.open(dataset.path).labels.values())
    families = {label.family for label in labels}
    assert len(labels) == 24, "the last one is the same structure as an earlier one"
    assert families == {identity_of(atoms) for atoms in parents}
    assert {label.split for label in labels} == {"train", "valid", "test"}
    assert all(len({label.split for label in labels if label.family == family}) == 1 for family in families)
    assert "twins" not in cli("check", str(dataset.path), "--twins").output


def test_of_twins_in_two_splits_the_tested_one_is_joined_and_both_are_told(tmp_path):
    dataset = Dataset.create(tmp_path / "d", valid=0, test=0)
    first, other = ordered("Ca2Fe2Ni", 1), ordered("Ca2Fe2Ni", 2)
    dataset.add([first], generation=0, level=LEVEL, split="train")
    dataset.add([other], generation=0, level=LEVEL, split="test")
    manifest = dataset.path / MANIFEST
    lines = manifest.read_text().splitlines()
    files = [dataset.path / f"generation-000{k}.extxyz" for k in ("", ".2")]
    twin = moved(first)
    record = json.loads(lines[2]) | {
        "id": identity_of(twin),
        "family": "legacy",
        "formula": twin.get_chemical_formula("metal"),
    }
    from uspex_bridge.base.atoms import extxyz
    from uspex_bridge.base.files import checksum
    from uspex_bridge.learn.data.labels import informed

    label = next(label for label in dataset.labels.values() if label.split == "test")
    files[1].write_text(extxyz([informed(twin, label)]))
    manifest.write_text("\n".join([*lines[:2], json.dumps(record | {"sha256": checksum(files[1])})]) + "\n")
    assert "twins: " in cli("check", str(dataset.path), "--twins").output
    reopened = Dataset.open(dataset.path)
    (added,) = reopened.add([moved(twin)], generation=1, level=LEVEL).labels
    assert (added.family, added.split) == ("legacy", "test")


def test_identity_and_files_are_those_of_the_right_handed_cell(tmp_path):
    atoms = labelled("CaFe2Ni", 4)
    atoms.calc = None
    left = atoms.copy()
    left.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0
    assert identity_of(left) == identity_of(atoms)
    write_frames(tmp_path / "x.extxyz", [left])
    (written,) = read_frames_of(tmp_path / "x.extxyz")
    assert np.linalg.det(written.cell.array) > 0
    assert written.info["id"] == identity_of(atoms)
    assert written.positions == pytest.approx(atoms.positions, abs=1e-6)
