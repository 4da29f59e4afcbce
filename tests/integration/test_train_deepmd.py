"""Trainings of DeePMD-kit itself: tiny networks, tens of structures labelled by CHGNet."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import learning
import pytest
from training import killed_and_resumed, settings, trainers_in

from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, ModelError
from uspex_bridge.learn.training.order import Order, from_files
from uspex_bridge.learn.training.run import train
from uspex_bridge.learn.training.trainers.base import launched

pytestmark = pytest.mark.timeout(900)


def test_sea_killed_and_resumed_ends_as_a_model(tmp_path, files):
    out = tmp_path / "sea"
    arguments = ["deepmd-sea", "--train-file", str(files[0]), "--valid-file", str(files[1]), "--steps", "200"]
    arguments += ["--settings", str(settings(tmp_path, learning.SEA)[0])]
    log = killed_and_resumed(arguments, out, out / "work" / "checkpoint")
    assert "Resuming from model.ckpt-" in log or "restart" in log.lower()
    card = json.loads((out / "model.json").read_text())
    assert (card["kind"], card["steps"], card["ended"]) == ("deepmd", 200, "finished")
    assert card["elements"] == ["Ca", "Fe", "Ni"]
    assert card["structures"] == {"train": 24, "valid": 8, "replay": 0}
    assert card["versions"]["deepmd-kit"]
    assert card["curve_errors"]["virial"] > 0
    rows = (out / "loss.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    assert steps == sorted(set(steps)), "a restart leaves no step twice"
    assert "virial_valid" in rows[0]
    assert (out / "loss.png").stat().st_size > 10_000
    assert card["errors"]["on"] == "validation"
    assert card["errors"]["energy"]["rmse"] == pytest.approx(card["curve_errors"]["energy"], rel=1.0)
    size = (out / "work" / "train.log").stat().st_size
    order = Order(
        trainer="deepmd-sea",
        out=out,
        data=from_files(*files),
        settings=(tmp_path / "tiny.toml",),
        length=200,
        resume=True,
        device="cpu",
    )
    assert train(order) == card, "what is finished is not done again"
    assert (out / "work" / "train.log").stat().st_size == size
    with pytest.raises(ConfigError, match="another input"):
        train(replace(order, length=100))
    assert trained_elsewhere_is_refused(order, out / "checkpoint.pt")


def trained_elsewhere_is_refused(order: Order, checkpoint: Path) -> bool:
    """Check that a frozen model and unknown elements are refused before anything is written."""
    fresh = replace(order, out=order.out.parent / "refused", resume=False)
    with pytest.raises(ModelError, match="frozen model cannot be trained on"):
        train(replace(fresh, parent=str(order.out / "model.pth")))
    other = [atoms.copy() for atoms in order.data.train]
    for atoms, labelled in zip(other, order.data.train, strict=True):
        atoms.symbols[0] = "Mg"
        atoms.calc = labelled.calc
    with pytest.raises(InputError, match="knows Ca Fe Ni, but the data has Mg"):
        train(replace(fresh, parent=str(checkpoint), data=replace(order.data, train=other)))
    with pytest.raises(ConfigError, match="has no branches"):
        train(replace(fresh, parent=str(checkpoint), branch="OMat24"))
    return not (fresh.out / "work").exists()


@pytest.fixture(scope="session")
def two_branches(tmp_path_factory, data):
    """A tiny DPA-3 pretrained with two heads by DeePMD-kit itself."""
    import tomllib

    from uspex_bridge.learn.data.exports import write_deepmd
    from uspex_bridge.learn.training.trainers.base import overlay, read_trainer_settings

    folder = tmp_path_factory.mktemp("pretrained")
    write_deepmd(data.train, folder / "data", mixed=True)
    tiny = settings(folder, learning.DPA3)
    table = read_trainer_settings("deepmd-dpa3", tiny, scratch=True).input
    assert tomllib.loads(learning.DPA3)["scratch"]
    model = {"type_map": "types", "descriptor": "descriptor", "fitting_net": table["model"]["fitting_net"]}
    heads = ("MP_traj_v024_alldata_mixu", "OMat24")
    part = {"training_data": {"systems": "data", "batch_size": 2}}
    multi = {
        "model": {
            "shared_dict": {"types": ["Ca", "Fe", "Ni"], "descriptor": table["model"]["descriptor"]},
            "model_dict": dict.fromkeys(heads, model),
        },
        "loss_dict": dict.fromkeys(heads, table["loss"]),
        "training": {"model_prob": dict.fromkeys(heads, 1.0), "data_dict": dict.fromkeys(heads, part)}
        | {"numb_steps": 4, "disp_freq": 2, "save_freq": 4},
    }
    rest = {key: value for key, value in table.items() if key not in ("model", "loss", "training")}
    (folder / "input.json").write_text(json.dumps(overlay(rest, multi)))
    launched(folder, None, "pretraining", "deepmd", ["cpu", "--pt", "train", "input.json"]).finish()
    return folder / "model.ckpt-4.pt"


def test_dpa3_is_fine_tuned_from_a_branch_and_its_energies_are_moved(tmp_path, data, two_branches):
    out = tmp_path / "dpa3"
    order = Order(
        trainer="deepmd-dpa3",
        out=out,
        data=data,
        settings=settings(tmp_path, learning.DPA3),
        parent=str(two_branches),
        branch="omat24",
        length=6,
        device="cpu",
    )
    for branch, said in (("RANDOM", "untrained head"), (None, "2 branches"), ("alex2d", "no branch")):
        with pytest.raises(ConfigError, match=said):
            train(replace(order, branch=branch))
    assert not (out / "work").exists()
    card = train(order)
    assert card["parent"]["branch"] == "OMat24"
    assert set(card["output_bias_ev"]) == {"Ca", "Fe", "Ni"}
    assert all(old != new for old, new in card["output_bias_ev"].values())
    written = json.loads((out / "work" / "input.json").read_text())
    assert written["training"]["numb_steps"] == 6
    assert written["loss"]["limit_pref_v"] == 20.0
    assert "--model-branch OMat24" in (out / "work" / "command.txt").read_text()
    assert card["errors"]["pv"]["mae"] > 0


def test_an_absurd_rate_publishes_nothing(tmp_path, data):
    text = learning.SEA + "[input.learning_rate]\nstart_lr = 1e6\nstop_lr = 1e5\n"
    order = Order(
        trainer="deepmd-sea",
        out=tmp_path / "sea",
        data=data,
        settings=settings(tmp_path, text),
        length=100,
        device="cpu",
    )
    with pytest.raises(CalculationError, match="diverged"):
        train(order)
    assert not list((tmp_path / "sea").glob("model*"))


def test_a_trainer_that_dies_says_why(tmp_path, data):
    text = learning.SEA + "[input.training]\nnumb_stepz = 5\n"
    order = Order(
        trainer="deepmd-sea", out=tmp_path / "sea", data=data, settings=settings(tmp_path, text), device="cpu"
    )
    with pytest.raises(CalculationError, match="undefined key `numb_stepz`"):
        train(order)
    assert not list((tmp_path / "sea").glob("model*"))


@pytest.mark.slow
def test_a_full_disk_publishes_nothing_and_with_room_the_training_goes_on(tmp_path, files):
    """On a small file system of a mount namespace's own, which needs no rights where the system allows it."""
    small = tmp_path / "small"
    small.mkdir()
    alone = ["unshare", "--mount", "--map-root-user", "bash", "-c"]
    mount = f"mount -t tmpfs -o size=500k tmpfs {small}"
    if shutil.which("unshare") is None or subprocess.run([*alone, mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    words = ["train", "deepmd-sea", "--train-file", str(files[0]), "--valid-file", str(files[1]), "--steps", "60"]
    words += ["--settings", str(settings(tmp_path, learning.SEA)[0]), "-o", str(small / "sea"), "--resume"]
    train_it = (
        f"{shlex.join([sys.executable, '-m', 'uspex_bridge.cli.main', *words])}; echo exit code $?; ls {small}/sea"
    )
    script = f"{mount}; {train_it}; mount -o remount,size=8m {small}; {train_it}"
    done = subprocess.run([*alone, script], capture_output=True, text=True, check=False)
    _, full, whole = done.stdout.split("exit code ")
    assert full.split()[0] == "8", done
    assert "free disk space" in done.stderr or "No space left" in done.stderr
    assert not {"model.json", "model.pth", "checkpoint.pt"} & set(full.split())
    assert whole.split()[0] == "0", done
    assert {"model.json", "model.pth", "checkpoint.pt"} < set(whole.split())


def test_a_dry_run_prints_the_whole_input_and_writes_nothing(tmp_path, files):
    command = [sys.executable, "-m", "uspex_bridge.cli.main", "train", "deepmd-dpa3", "--train-file", str(files[0])]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out"), "--dry-run"], capture_output=True, text=True, check=True
    )
    table = json.loads(done.stdout)
    assert table["training"]["numb_steps"] == 200_000
    assert table["model"]["type_map"] == ["Ca", "Fe", "Ni"]
    assert "nothing was written" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_signal_stops_it_and_says_how_to_go_on(tmp_path, files):
    out = tmp_path / "sea"
    command = [sys.executable, "-m", "uspex_bridge.cli.main", "train", "deepmd-sea", "--train-file", str(files[0])]
    command += ["-o", str(out), "--settings", str(settings(tmp_path, learning.SEA)[0])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    while not (out / "work" / "lcurve.out").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 10
    assert "--resume continues" in said
    assert not trainers_in(out)
