"""The programs of docs/clients.md themselves, each in the way that its page says; absent ones are skipped by name.

What they report is compared with the potential through ASE, at the geometry that they report.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from calling import TOY
from emulators import independent

from uspex_bridge.results.reading import lookup
from uspex_bridge.uspex import new_search

BIN = Path(sys.executable).parent
VASP = str(BIN / "uspex-bridge-vasp")
PRESSURE = 50.0
GPA = 160.21766208  # GPa per eV/Å³, on purpose not the bridge's
SETTINGS = 'protocol = "single"\n' + TOY


@pytest.fixture
def toy():
    return independent.calculator("toy")


def start() -> Atoms:
    """Return four atoms whose elements stand in no order."""
    atoms = bulk("Ni", "fcc", a=3.6, cubic=True)
    atoms.set_chemical_symbols(["Ni", "Ca", "Fe", "Ca"])
    rng = np.random.default_rng(3)
    atoms.set_cell(atoms.cell.array @ (1.1 * np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.rattle(0.05, rng=rng)
    return atoms


def potcars(top: Path, path: str, symbols: dict[str, str]) -> Path:
    """Write the stubs of ``init`` where a program looks for POTCARs; ``symbols`` has the name that it knows each by."""
    for symbol, name in symbols.items():
        file = top / path.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(new_search.stub(symbol))
    return top


class TestAse:
    """ASE writes INCAR, POSCAR and POTCAR, sorts the atoms, starts the command and reads vasprun.xml back."""

    @pytest.fixture
    def make(self, tmp_path, monkeypatch):
        from ase.calculators.vasp import Vasp

        potcars(tmp_path / "pp", "potpaw_PBE/{}/POTCAR", {"Ni": "Ni", "Ca": "Ca_pv", "Fe": "Fe"})
        monkeypatch.setenv("VASP_PP_PATH", str(tmp_path / "pp"))
        (tmp_path / "bridge.toml").write_text(SETTINGS)

        def vasp(**tags):
            return Vasp(directory=str(tmp_path / "run"), command=VASP, xc="PBE", kpts=(1, 1, 1), **tags)

        return vasp

    def test_a_relaxation_under_pressure(self, make, toy):
        atoms = start()
        atoms.calc = make(ibrion=2, nsw=500, isif=3, ediffg=-0.005, pstress=10 * PRESSURE)
        energy = atoms.get_potential_energy()
        relaxed = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True, calculator=toy)
        assert abs(relaxed.get_volume() / start().get_volume() - 1) > 0.05, "ASE takes the relaxed cell"
        assert energy == pytest.approx(relaxed.get_potential_energy(), abs=1e-5), "E without PV"
        np.testing.assert_allclose(atoms.get_forces(), relaxed.get_forces(), atol=1e-4)
        np.testing.assert_allclose(atoms.get_stress(), relaxed.get_stress(), atol=1e-5)
        assert -relaxed.get_stress()[:3] * GPA == pytest.approx(PRESSURE, abs=0.5)
        assert atoms.calc.converged
        assert atoms.get_chemical_symbols() == ["Ni", "Ca", "Fe", "Ca"]

    def test_a_calculation_is_taken_up_again(self, make, toy):
        atoms = start()
        atoms.calc = make(nsw=0, ibrion=-1)
        energy = atoms.get_potential_energy()
        again = make(restart=True)
        assert again.get_potential_energy() == pytest.approx(energy, abs=1e-8)
        atoms.calc = toy
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)


def test_phonopy(tmp_path, toy):
    """Frequencies from vasprun.xml of the displaced cells are those from forces in memory."""
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")
    from phonopy.structure.atoms import PhonopyAtoms

    (tmp_path / "bridge.toml").write_text(SETTINGS)
    cell = bulk("Ni", "fcc", a=3.3, cubic=True)
    cell.set_chemical_symbols(["Ni", "Ni", "Fe", "Fe"])
    write(tmp_path / "POSCAR", cell, format="vasp", direct=True)

    def told(*words: str) -> None:
        subprocess.run([BIN / "phonopy-init", *words], cwd=tmp_path, check=True, capture_output=True, timeout=120)

    told("-d", "--dim", "2", "2", "1", "-c", "POSCAR")
    reference = phonopy.load(tmp_path / "phonopy_disp.yaml", produce_fc=False, log_level=0)
    poscars = sorted(tmp_path.glob("POSCAR-*"))
    assert len(poscars) == len(reference.supercells_with_displacements) > 0
    forces = []
    for number, poscar in enumerate(poscars, 1):
        folder = tmp_path / f"disp-{number:03d}"
        folder.mkdir()
        poscar.rename(folder / "POSCAR")
        (folder / "INCAR").write_text("NSW = 0\nIBRION = -1\n")
        subprocess.run([VASP], cwd=folder, check=True, capture_output=True, timeout=120)
        displaced = read(folder / "POSCAR")
        displaced.calc = toy
        forces.append(displaced.get_forces())
    told("-f", *(f"disp-{number:03d}/vasprun.xml" for number in range(1, len(poscars) + 1)))

    found = tmp_path / "FORCE_SETS"
    bridged = phonopy.load(tmp_path / "phonopy_disp.yaml", force_sets_filename=found, log_level=0)
    reference.forces = forces
    reference.produce_force_constants()
    frequencies = []
    for phonons in (bridged, reference):
        assert isinstance(phonons.unitcell, PhonopyAtoms)
        phonons.run_mesh([4, 4, 4])
        frequencies.append(phonons.get_mesh_dict()["frequencies"])
    assert np.abs(frequencies[1]).max() > 1.0, "THz"
    np.testing.assert_allclose(*frequencies, atol=2e-4)


@pytest.mark.slow
class TestCustodianAndEmmet:
    """custodian finds nothing to correct in a run of MPRelaxSet, and other programs read that run as one of VASP."""

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        pytest.importorskip("custodian", reason="custodian is not installed")
        from custodian import Custodian
        from custodian.vasp import handlers
        from custodian.vasp.jobs import VaspJob
        from custodian.vasp.validators import VaspFilesValidator, VasprunXMLValidator
        from pymatgen.core import SETTINGS as PYMATGEN
        from pymatgen.io.ase import AseAtomsAdaptor
        from pymatgen.io.vasp.sets import MPRelaxSet

        top = tmp_path_factory.mktemp("custodian")
        names = {"Mg": "Mg_pv", "O": "O"}
        potcars(top / "psp", "POT_GGA_PAW_PBE/{}/POTCAR", names)
        atoms = bulk("MgO", "rocksalt", a=3.9, cubic=True)
        atoms.rattle(0.05, seed=1)
        (top / "bridge.toml").write_text(SETTINGS)
        folder = top / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PYMATGEN, "PMG_VASP_PSP_DIR", str(top / "psp"))
            wanted = MPRelaxSet(
                AseAtomsAdaptor.get_structure(atoms),
                user_incar_settings={"PSTRESS": 10 * PRESSURE, "EDIFFG": -0.01, "NSW": 300},
                user_potcar_functional="PBE",
            )
            wanted.write_input(folder)
            patch.chdir(folder)
            found = Custodian(
                [
                    handlers.VaspErrorHandler(),
                    handlers.MeshSymmetryErrorHandler(),
                    handlers.UnconvergedErrorHandler(),
                    handlers.NonConvergingErrorHandler(),
                    handlers.PotimErrorHandler(),
                    handlers.PositiveEnergyErrorHandler(),
                    handlers.FrozenJobErrorHandler(),
                    handlers.StdErrHandler(),
                    handlers.LargeSigmaHandler(),
                    handlers.IncorrectSmearingHandler(),
                    handlers.KspacingMetalHandler(),
                ],
                [VaspJob([VASP], auto_npar=False, auto_gamma=False)],
                validators=[VasprunXMLValidator(), VaspFilesValidator()],
                max_errors=3,
            ).run()
        return folder, found

    def test_custodian_corrects_nothing(self, run):
        folder, (job,) = run
        assert job["corrections"] == []
        assert (folder / "CONTCAR").exists()

    def test_emmet(self, run, toy):
        tasks = pytest.importorskip("emmet.core.tasks", reason="emmet-core is not installed")
        document = tasks.TaskDoc.from_directory(run[0])
        atoms = document.output.structure.to_ase_atoms()
        relaxed = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True, calculator=toy)
        assert str(document.state).lower().endswith("successful")
        enthalpy = relaxed.get_potential_energy() + PRESSURE * relaxed.get_volume() / GPA
        assert document.output.energy == pytest.approx(enthalpy, abs=1e-5), "PV is in it, as with VASP"
        assert np.trace(document.output.stress) / 30 == pytest.approx(PRESSURE, abs=0.5)
        assert document.additional_json == {} or "custodian" in document.additional_json

    def test_parsevasp(self, run, toy):
        vasprun = pytest.importorskip("parsevasp.vasprun", reason="parsevasp is not installed")
        xml = vasprun.Xml(str(run[0] / "vasprun.xml"))
        last = read(run[0] / "CONTCAR")
        last.calc = toy
        energies = xml.get_energies("last", etype=["energy_no_entropy"])
        assert float(np.ravel(energies["energy_no_entropy"])[-1]) == pytest.approx(
            last.get_potential_energy(), abs=1e-5
        )
        np.testing.assert_allclose(xml.get_forces("last"), last.get_forces(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_cryspy(tmp_path, toy):
    """A random search in two stages, as ``init cryspy`` writes it; a refused structure is skipped and ends nothing."""
    pytest.importorskip("cryspy", reason="CrySPY (csp-cryspy) is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    refused = 1
    command = tmp_path / "bridge.sh"
    command.write_text(f"case $PWD in */work/{refused}) sed -i '2 s/.*/0.1/' POSCAR;; esac\nexec {VASP}\n")
    search = new_search.Search(
        "cryspy", ("Mg", "O"), (2, 2), pressure=PRESSURE, population=4, steps=2, command=f"sh {command}"
    )
    root = tmp_path / "search"
    new_search.write(root, new_search.files(search))
    (root / "bridge.toml").write_text(SETTINGS)
    for _ in range(60):
        done = subprocess.run([BIN / "cryspy"], cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        if "Done all structures!" in (root / "log_cryspy").read_text():
            break
    else:
        pytest.fail("CrySPY did not end")
    results = pandas.read_csv(root / "data" / "cryspy_rslt", sep=r"\s+")
    (entry,) = lookup.find(root, str(refused))
    assert (results["Opt"][refused], entry["status"], entry["code"]) == ("skip", "rejected", "flat")
    done = []
    for number in range(4):
        calls = lookup.find(root, f"ID_{number}")
        if results["Opt"][number] == "skip":  # CrySPY's structures are random, and the toy refuses some
            assert calls[-1]["status"] == "rejected"
            continue
        assert [(call["step"], call["status"]) for call in calls] == [("1", "converged"), ("2", "converged")]
        assert results["Opt"][number] == "done"
        atoms = read(root / "work" / "fin" / str(number) / "CONTCAR")
        atoms.calc = toy
        enthalpy = atoms.get_potential_energy() + PRESSURE * atoms.get_volume() / GPA
        assert results["E_eV_atom"][number] == pytest.approx(enthalpy / len(atoms), abs=2e-6)
        assert -atoms.get_stress()[:3].mean() * GPA == pytest.approx(PRESSURE, abs=0.5)
        done.append(number)
    assert done
