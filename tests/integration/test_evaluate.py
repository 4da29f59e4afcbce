"""``uspex-bridge evaluate`` and ``train distill`` with real models."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import ase.io
import learning
import pytest

from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.labels import Level


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Elements and compounds labelled by CHGNet, so that there are hulls, as a file and as a dataset."""
    folder = tmp_path_factory.mktemp("labelled")
    frames = learning.structures(24, 3)
    for atoms, symbol in zip(frames, ("Ca", "Fe", "Ni") * 8, strict=True):
        if atoms.info["pressure_gpa"] == 50.0:
            atoms.symbols[:] = symbol
    frames += [atoms for atoms in learning.structures(8, 5) if atoms.info["pressure_gpa"] == 50.0]
    learning.label(frames)
    ase.io.write(folder / "all.xyz", frames, format="extxyz")
    dataset = Dataset.create(folder / "dataset", valid=0.1, test=0.4)
    dataset.add(frames, generation=1, level=Level("model", "chgnet 0.3.0", "test"))
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uspex_bridge.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_labeller_has_no_errors_and_another_model_has(labelled, tmp_path):
    mace = f"mace:{learning.DEMO_MACE}"
    out = tmp_path / "out"
    done = run("evaluate", "chgnet", mace, "--on", str(labelled / "all.xyz"), "-o", str(out), "--offsets", "off")
    assert done.returncode == 0, done.stderr
    for words in ("N(<50)", "rank corr.", "between", "over 40", "0 GPa", "50 GPa", "total"):
        assert words in done.stdout
    report = json.loads((out / "evaluation.json").read_text())
    own, other = report["models"]
    assert [row["label"] for row in own["errors"]] == ["0 GPa", "50 GPa", "total"]
    assert report["range"]["pressure_gpa"] == 50.0
    for name, limits in report["range"]["limits"].items():
        if limits:
            assert f"{name} is not usable at 50 GPa: {limits[0]['why']}" in done.stderr
        else:
            assert f"{name}: its elements pass the compression test to 50 GPa" in done.stdout
    assert {limit["element"] for limit in report["range"]["limits"]["chgnet"]} == {"Ca"}
    assert own["errors"][-1]["energy"]["largest"] < 1e-4
    assert own["errors"][-1]["pv"]["largest"] < 1e-3
    (ranking,) = own["near_hull"]
    assert (ranking["pressure_gpa"], ranking["needed"]) == (50.0, pytest.approx(0.0, abs=1e-3))
    assert own["errors"][1]["near"] >= 3, "the ends of the hull are on it"
    assert other["errors"][-1]["pv"]["mae"] > 0.01
    assert report["disagreement"][0]["over"]["0.04"] > 0
    rows = list(csv.DictReader((out / "errors.csv").open()))
    assert len(rows) == 6
    assert float(rows[-1]["PV_mae_meV_per_atom"]) == pytest.approx(1000 * other["errors"][-1]["pv"]["mae"], abs=0.01)
    assert (out / "parity.png").stat().st_size > 20_000


def test_a_dataset_is_evaluated_on_its_test_split_and_probed(labelled, tmp_path):
    mace = f"mace:{learning.DEMO_MACE}"
    out = tmp_path / "out"
    dataset = Dataset.open(labelled / "dataset")
    arguments = [
        "evaluate",
        mace,
        "--on",
        str(labelled / "dataset"),
        "-o",
        str(out),
        "--probes",
        "--random",
        "1",
        "--json",
    ]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["models"][0]["structures"] == len(dataset.select("test"))
    (probed,) = report["probes"]
    assert len(probed["dimers"]) == 6
    assert probed["survived"][1] == len({label.pressure_gpa for label in dataset.select("test")})
    assert probed["sound"] is False, "the demo weights attract at short distance"
    assert any(curve["breaks"] for curve in probed["dimers"])
    assert (out / "compression.png").stat().st_size > 20_000
    refused = run("evaluate", mace, "--on", str(labelled / "dataset"), "--split", "all", "--generation", "7")
    assert refused.returncode == 3
    assert "generation 7" in refused.stderr


def test_a_teacher_labels_for_a_student(labelled, tmp_path):
    out, tiny = tmp_path / "student", tmp_path / "tiny.toml"
    tiny.write_text(learning.MACE)
    structures = tmp_path / "structures.xyz"
    ase.io.write(structures, learning.structures(20, 11), format="extxyz")
    arguments = ["train", "distill", "chgnet", str(structures), "-o", str(out), "--student", "mace"]
    arguments += ["--settings", str(tiny), "--epochs", "2", "--json"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["distilled_from"] == "chgnet"
    assert sum(card["structures"].values()) <= 20
    dataset = Dataset.open(out / "dataset")
    assert len(dataset.labels) == 20
    assert str(dataset.level).startswith("model chgnet 0.3.0")
    assert card["errors"]["energy"]["rmse"] > 0
    assert Path(card["data"]["path"]) == (out / "dataset").resolve()
    assert run(*arguments, "--resume").returncode == 0, "nothing is done twice"
