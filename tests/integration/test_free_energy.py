"""Free energies where USPEX reads enthalpies, through the executable; and what may not be done with them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from calling import TOY, call, make_folder, record
from pymatgen.io.vasp.outputs import Oszicar, Vasprun

from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.learn.data.labels import problem_of
from uspex_bridge.learn.data.vasp_output import outcar_of
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading.sources import open_sources

FCC = "EA0 fcc\n1.0\n0 1.75 1.75\n1.75 0 1.75\n1.75 1.75 0\n 1\nDirect\n0 0 0\n"
INCAR = "IBRION = 2\nISIF = 3\nNSW = 400\nPSTRESS=100\n"
STAGE = '[[stage]]\nname = "accurate"\ncalculator = "model"\nfmax = 0.001\n'


def nickel(top: Path, table: str, incar: str = INCAR, poscar: str = FCC) -> Path:
    """Make a CalcFold of fcc nickel in the toy potential at 10 GPa, with a table [free_energy]."""
    fold = make_folder(top, poscar=poscar, incar=incar, symbols=("Ni",))
    (top / "bridge.toml").write_text('protocol = "thermal.toml"\nsteps = "all"\n' + TOY)
    (top / "thermal.toml").write_text(f"{STAGE}[free_energy]\nsupercell = [2, 2, 2]\n{table}")
    return fold


@pytest.fixture(scope="module")
def at_300_k(tmp_path_factory) -> Path:
    fold = nickel(tmp_path_factory.mktemp("scha"), "temperature = 300\n")
    done = call(fold)
    assert done.returncode == 0, done.stderr
    return fold


def test_g_stands_where_uspex_reads_h(at_300_k):
    """PV once: F= holds F + PV; the energies of OUTCAR and vasprun.xml hold F. There is one ionic step."""
    (line,) = record(at_300_k)
    found = line["free_energy"]
    f_line = re.findall(r"F=\s*(\S+)", (at_300_k / "OSZICAR").read_text())
    assert len(f_line) == 1  # no potential energy beside it, whatever `steps` says
    assert float(f_line[0]) == pytest.approx(found["g"], abs=1e-6)
    assert line["enthalpy"] == pytest.approx(found["g"])
    assert found["g"] == pytest.approx(found["f"] + pv_energy(10.0, line["volume"]))
    assert Oszicar(str(at_300_k / "OSZICAR")).final_energy == pytest.approx(found["g"], abs=1e-6)
    atoms = read(at_300_k / "OUTCAR")
    assert atoms.get_potential_energy() == pytest.approx(found["f"], abs=1e-6)
    run = Vasprun(str(at_300_k / "vasprun.xml"), parse_potcar_file=False)
    assert float(run.ionic_steps[-1]["e_fr_energy"]) == pytest.approx(found["g"], abs=1e-6)  # VASP has H there
    assert found["g_error"] < 0.002
    assert line["status"] == "converged"


def test_the_crystal_has_expanded_and_its_modes_cost_energy(at_300_k):
    """G lies above H by the zero point less the thermal part; the volume at 300 K is larger than at rest."""
    (line,) = record(at_300_k)
    stages = {stage["name"]: stage for stage in line["stages"]}
    assert list(stages) == ["accurate", "free-energy"]
    assert line["free_energy"]["enthalpy_at_rest"] == pytest.approx(stages["accurate"]["enthalpy"])
    assert 0.02 < line["enthalpy"] - stages["accurate"]["enthalpy"] < 0.08
    at_rest = (stages["accurate"]["enthalpy"] - stages["accurate"]["energy"]) / pv_energy(10.0, 1.0)
    assert 1.002 < line["volume"] / at_rest < 1.02
    assert np.linalg.det(read(at_300_k / "CONTCAR").cell) == pytest.approx(line["volume"], rel=1e-6)


def test_the_files_say_so_and_no_label_comes_of_them(at_300_k):
    assert "free energies at 300 K scha, not potential energies" in (at_300_k / "OUTCAR").read_text()[:500]
    with pytest.raises(InputError, match="not of DFT"):
        outcar_of(at_300_k / "OUTCAR")


def test_structures_relaxed_by_hand_carry_it_too(at_300_k, tmp_path, monkeypatch):
    """The same plan; the file of results is refused as labels, a hull of H and G too."""
    from uspex_bridge import api

    monkeypatch.chdir(at_300_k.parent)
    settings = at_300_k.parent / "bridge.toml"
    poscar = at_300_k / "POSCAR"
    done = api.relax(poscar, 10.0, config=settings, out=tmp_path / "warm", fmax=0.001)
    assert done.free_energy is not None
    assert "G = F + PV at 300 K scha" in done.table()
    (image,) = read(tmp_path / "warm" / "relaxed.extxyz", ":")
    assert "free energy at 300 K scha" in problem_of(image)
    api.relax(poscar, 10.0, config=settings, protocol="single", out=tmp_path / "cold", fmax=0.001)
    pool = open_sources([str(tmp_path / "warm"), str(tmp_path / "cold")])
    assert {entry.level for entry in pool.entries} == {"toy", "toy, G at 300 K scha"}
    with pytest.raises(ConfigError, match="several levels of theory"):
        assess(pool, Question())


def test_an_incar_asks_for_it_and_the_classical_limit_is_harmonic(tmp_path):
    """BRIDGE_TEMPERATURE wins over the table; at 0 K a harmonic free energy is the zero point."""
    fold = nickel(tmp_path, 'temperature = 300\nmethod = "harmonic"\n', INCAR + "BRIDGE_TEMPERATURE = 0\n")
    assert call(fold).returncode == 0
    (line,) = record(fold)
    found = line["free_energy"]
    assert (found["temperature"], found["method"]) == (0.0, "harmonic")
    assert line["enthalpy"] - found["enthalpy_at_rest"] == pytest.approx(found["zero_point"], abs=1e-6)
    assert found["zero_point"] > 0.01
    before = (fold / "CONTCAR").read_text()
    (fold / "INCAR").write_text(INCAR + "BRIDGE_TEMPERATURE = 1000\n")
    (fold / "CONTCAR").write_text(before)
    assert call(fold).returncode == 0
    assert record(fold)[-1]["enthalpy"] < line["enthalpy"] - 0.1  # entropy


@pytest.mark.parametrize(
    ("incar", "code", "said"),
    [
        ("IBRION = 2\nISIF = 3\nNSW = 0\n", 4, "needs a relaxed structure"),
        ("IBRION = 2\nISIF = 4\nNSW = 100\n", 4, "ISIF = 4"),
        ("IBRION = 2\nISIF = 3\nNSW = 100\nBRIDGE_TEMPERATURE = -5\n", 3, "must not be negative"),
    ],
)
def test_what_has_no_free_energy_is_refused(tmp_path, incar, code, said):
    fold = nickel(tmp_path, "temperature = 300\n", incar)
    done = call(fold)
    assert done.returncode == code
    assert said in done.stderr
    assert not (fold / "OSZICAR").exists()


def test_an_unstable_crystal_has_no_harmonic_free_energy(tmp_path):
    """Simple cubic nickel, kept cubic, is a saddle point of the toy potential."""
    cubic = "EA0 sc\n1.0\n2.3 0 0\n0 2.3 0\n0 0 2.3\n 1\nDirect\n0 0 0\n"
    fold = nickel(tmp_path, 'temperature = 300\nmethod = "harmonic"\n', INCAR + "ISYM = 2\n", cubic)
    done = call(fold)
    assert done.returncode == 6, done.stderr
    assert "imaginary" in done.stderr
    assert not (fold / "OSZICAR").exists()
    assert record(fold)[-1]["code"] == "unstable"


@pytest.mark.parametrize("line", ["matlab", "python", "uspex26"])
def test_a_search_is_set_up_with_its_free_energy_in_the_last_step(line, tmp_path, monkeypatch):
    """The steps before relax with the other stages; `doctor` finds a static last step and a free energy too early."""
    from click.testing import CliRunner

    from uspex_bridge.cli.init import command as init
    from uspex_bridge.uspex.checks import check_setup

    monkeypatch.chdir(tmp_path)
    stages = '[[stage]]\nname = "rough"\ncalculator = "toy"\nfmax = 0.1\n' + STAGE.replace('"model"', '"toy"')
    (tmp_path / "thermal.toml").write_text(f"{stages}[free_energy]\ntemperature = 300\n")
    words = [line, "search", "--composition", "Ni8", "--steps", "3", "--protocol", "thermal.toml"]
    done = CliRunner().invoke(init, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if line == "uspex26":
        assert (tmp_path / "search" / "bridge.toml").read_text().count("BRIDGE_STAGES = 1") == 2
        return
    texts = [(tmp_path / "search" / "Specific" / f"INCAR_{n}").read_text() for n in (1, 2, 3)]
    assert ["BRIDGE_STAGES = 1" in text for text in texts] == [True, True, False]
    assert "ISIF = 3" in texts[2]
    assert "NSW = 0" not in texts[2]
    said = [str(finding) for finding in check_setup(tmp_path / "search")]
    assert not [one for one in said if "free energy" in one]
    for n, text in ((2, texts[1].replace("BRIDGE_STAGES = 1", "")), (3, texts[2].replace("NSW = 1500", "NSW = 0"))):
        (tmp_path / "search" / "Specific" / f"INCAR_{n}").write_text(text)
    said = [str(finding) for finding in check_setup(tmp_path / "search")]
    assert len([one for one in said if "free energy" in one]) == 2


def test_without_symfc_the_extra_is_named(tmp_path):
    (tmp_path / "hide" / "symfc").mkdir(parents=True)
    (tmp_path / "hide" / "symfc" / "__init__.py").write_text("raise ImportError('no symfc')\n")
    fold = nickel(tmp_path / "search", "temperature = 300\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'hide')!r})\n"
        "from uspex_bridge.cli.entry import enter\nenter('vasp', [])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=fold, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "uspex-bridge[vibrations]" in done.stderr
    assert not (fold / "OSZICAR").exists()
