"""Public sets: fetched out of a source distribution, checked, split by formula; no test on what was trained on."""

import hashlib
import io
import tarfile

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.errors import InputError
from uspex_bridge.learn.data import public_sets
from uspex_bridge.learn.data.public_sets import PublicSet
from uspex_bridge.learn.judge.accuracy import open_labelled

FORMULAS = ("NaCl", "Na2Cl2", "MgO", "CaO", "LiF", "KBr", "FeO", "NiO", "TiC", "SiC", "BN", "GaAs", "KCl", "NaF")


def labelled() -> list[Atoms]:
    frames = []
    for k, formula in enumerate(FORMULAS):
        n = len(Atoms(formula))
        atoms = Atoms(formula, np.random.default_rng(k).random((n, 3)) * 3, cell=np.eye(3) * 3, pbc=True)
        stress = np.array([-0.1 * k, -0.1 * k, -0.1 * k, 0, 0, 0])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((n, 3)), stress=stress)
        frames.append(atoms)
    return frames


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """A source distribution with two sets and a licence, and where they go."""
    text = io.StringIO()
    ase.io.write(text, labelled(), format="extxyz")
    data = text.getvalue().encode()
    sha256 = hashlib.sha256(data).hexdigest()
    sets = {"one": PublicSet("one.xyz", sha256), "trained": PublicSet("trained.xyz", sha256, tests=False)}
    monkeypatch.setattr(public_sets, "SETS", sets)
    monkeypatch.setattr("uspex_bridge.learn.judge.accuracy.SETS", sets)
    for module in ("uspex_bridge.learn.data.public_sets", "uspex_bridge.learn.judge.accuracy"):
        monkeypatch.setattr(f"{module}.NAMES", {"one": ("one",), "trained": ("trained",), "both": ("one", "trained")})
    monkeypatch.setenv(public_sets.VARIABLE, str(tmp_path / "sets"))
    path = tmp_path / "mattersim-1.2.3.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("data/benchmarks/one.xyz", "data/benchmarks/trained.xyz", "LICENSE.txt"):
            info = tarfile.TarInfo(f"mattersim-1.2.3/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_sets_are_fetched_checked_and_split_by_formula(distribution, tmp_path):
    with pytest.raises(InputError, match="dataset fetch"):
        public_sets.read_set("one")
    assert [path.name for path in public_sets.fetch(distribution)] == ["one.xyz", "trained.xyz", "LICENSE.txt"]
    parts = {split: public_sets.read_set("one", split) for split in ("train", "valid", "test")}
    assert sum(map(len, parts.values())) == len(FORMULAS)
    assert parts["test"]
    families = {split: {atoms.info["family"] for atoms in frames} for split, frames in parts.items()}
    assert not families["train"] & families["test"]
    assert all(len({public_sets.split_of_formula(f) for f in pair}) == 1 for pair in [("ClNa", "ClNa")])
    assert {atoms.info["family"] for atoms in public_sets.read_set("one")} >= {"ClNa", "MgO"}
    (tmp_path / "sets" / "one.xyz").write_text("2\n\nNa 0 0 0\nCl 1 1 1\n")
    with pytest.raises(InputError, match="not the published file"):
        public_sets.read_set("one")


def test_the_split_is_that_of_the_published_recipe():
    for formula in ("ClNa", "MgO", "Ca2Fe"):
        place = int(hashlib.sha1(formula.encode()).hexdigest(), 16) % 10
        assert public_sets.split_of_formula(formula) == {0: "test", 1: "valid"}.get(place, "train")


def test_another_distribution_is_refused(distribution, tmp_path):
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(distribution.read_bytes()[:200])
    for path, words in ((broken, "cannot be read"), (tmp_path / "none.tar.gz", "cannot be read")):
        with pytest.raises(InputError, match=words):
            public_sets.fetch(path)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("mattersim-9/data/nothing"))
    with pytest.raises(InputError, match=r"holds no data/benchmarks/one\.xyz"):
        public_sets.fetch(tmp_path / "other.tar.gz")


def test_zeros_are_fitted_to_little_compressed_structures_that_are_not_tested_on(distribution):
    public_sets.fetch(distribution)
    found = open_labelled("one", "test")
    tested = {atoms.info["name"] for atoms in found.frames}
    assert found.foreign
    assert found.zero
    assert not tested & {atoms.info["name"] for atoms in found.zero}
    assert all(-160.2 * atoms.get_stress()[:3].mean() < 30 for atoms in found.zero)
    with pytest.raises(InputError, match="were trained on"):
        open_labelled("both", "test")
    assert len(open_labelled("both", None).frames) == 2 * len(FORMULAS)
