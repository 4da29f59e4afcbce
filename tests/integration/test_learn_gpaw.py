"""True DFT labels with GPAW, in whatever Python has it: USPEX_BRIDGE_GPAW_PYTHON, else this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from click.testing import CliRunner

from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.cli import main
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.label.collect import inspect

PYTHON = os.environ.get("USPEX_BRIDGE_GPAW_PYTHON", sys.executable)
SETTINGS = """
code = "gpaw"
encut = 500.0
kpoint_distance = 8.0
maxiter = {maxiter}
[magmom]
Ni = 0.7
"""


@pytest.fixture(scope="module")
def gpaw() -> None:
    if subprocess.run([PYTHON, "-c", "import gpaw"], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no gpaw; name a Python that has it in USPEX_BRIDGE_GPAW_PYTHON")


def cli(*words: object) -> str:
    result = CliRunner().invoke(main.command, ["label", *map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def prepared(folder: Path, lattice: list[float], maxiter: int = 200) -> Path:
    frames = [bulk("Ni", "fcc", a=a) for a in lattice]
    ase.io.write(folder / "ni.extxyz", frames)
    (folder / "gpaw.toml").write_text(SETTINGS.format(maxiter=maxiter))
    words = ("--settings", folder / "gpaw.toml", "--generation", 0, "--pressure", 20)
    cli("prepare", folder / "labels", folder / "ni.extxyz", *words)
    return folder / "labels"


@pytest.mark.slow
@pytest.mark.usefixtures("gpaw")
def test_true_dft_labels_have_the_stress_that_their_energies_have(tmp_path):
    labels = prepared(tmp_path, [3.38, 3.42])
    assert "2 computed: 2 done" in cli("run", labels, "--python", PYTHON)
    assert "2 labels added" in cli("collect", labels, tmp_path / "data")
    one, other = sorted(Dataset.open(tmp_path / "data").frames(), key=lambda atoms: atoms.get_volume())
    pressure = (one.get_potential_energy() - other.get_potential_energy()) / (other.get_volume() - one.get_volume())
    mean = sum(label.own_pressure_gpa for label in Dataset.open(tmp_path / "data").labels.values()) / 2
    assert gpa_to_ev_a3(mean) == pytest.approx(pressure, rel=0.1)
    for label in Dataset.open(tmp_path / "data").labels.values():
        assert label.level.code == "gpaw"
        assert 0.3 < label.magmom < 0.9
        assert label.energy < label.e0
        assert label.provenance["encut"] == 520.0
        assert label.provenance["version"].startswith("gpaw ")
        assert label.provenance["potentials"]["Ni"].startswith("GPAW ")


@pytest.mark.slow
@pytest.mark.usefixtures("gpaw")
def test_dft_that_does_not_converge_is_no_label(tmp_path):
    labels = prepared(tmp_path, [3.42], maxiter=3)
    assert "1 failed" in cli("run", labels, "--python", PYTHON)
    (folder,) = (path.parent for path in labels.glob("*/structure.json"))
    assert inspect(folder).reason == "not converged after 3 electronic iterations"
    assert "0 labels added" in cli("collect", labels, tmp_path / "data")
