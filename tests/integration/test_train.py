"""Trainings with the upstream trainers themselves: tiny networks, tens of structures labelled by CHGNet."""

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
import numpy as np
import pytest

from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, ModelError
from uspex_bridge.learn.training.order import Order, from_files
from uspex_bridge.learn.training.run import train
from uspex_bridge.learn.training.trainers.base import launched
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return learning.write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def data(files):
    return from_files(*files)


def settings(folder: Path, text: str) -> tuple[Path, ...]:
    path = folder / "tiny.toml"
    path.write_text(text)
    return (path,)


def computes(card: dict, folder: Path) -> float:
    """Load a finished model as a search would and return its energy of a structure, eV."""
    chosen = CalculatorSettings(
        kind=card["kind"], model=str(folder / card["model"]), sha256=card["sha256"], head=card["head"], device="cpu"
    )
    with backends.load("model", replace(chosen, isolate=True)) as model:
        model.check_elements(card["elements"])
        atoms = learning.structures(1, 9)[0]
        model.calculator.calculate(atoms)
        assert np.isfinite(model.calculator.results["forces"]).all()
        assert np.abs(model.calculator.results["stress"]).max() > 0
        return model.calculator.results["energy"]


def killed_and_resumed(arguments: list[str], out: Path, begun: Path) -> str:
    """Kill a training with SIGKILL once the file ``begun`` is there, let it go on to its end, and return its log."""
    command = [sys.executable, "-m", "uspex_bridge.cli.main", "train", *arguments, "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read().decode()[-3000:]
    process.kill()
    process.wait()
    assert not (out / "model.json").exists()
    end = time.monotonic() + 30
    while (alive := trainers_in(out)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive, "the trainer outlives the command"
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    return (out / "work" / "train.log").read_text()


def trainers_in(out: Path) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if (
                place.resolve() == (out / "work").resolve()
                and "Z" not in (place.parent / "stat").read_text().split()[2]
            ):
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


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


def test_mace_rehearses_what_it_knew(tmp_path, data, files):
    out = tmp_path / "mace"
    order = Order(
        trainer="mace",
        out=out,
        data=data,
        settings=settings(tmp_path, learning.MACE),
        parent=str(learning.DEMO_MACE),
        replay=files[1],
        length=2,
        device="cpu",
    )
    card = train(order)
    assert (card["epochs"], card["head"], card["structures"]["replay"]) == (2, "Default", 8)
    assert set(card["atom_energies_ev"]) == {"Ca", "Fe", "Ni"}
    assert card["curve_errors"]["stress"] > 0
    kept = list((out / "work" / "checkpoints").glob("*.pt"))
    assert 1 <= len(kept) <= 2
    assert computes(card, out) < 0


def test_mace_without_progress_is_ended_and_its_best_epoch_kept(tmp_path, data):
    out = tmp_path / "mace"
    text = learning.MACE + "[watch]\npatience = 2\nprogress = 0.95\n"
    order = Order(trainer="mace", out=out, data=data, settings=settings(tmp_path, text), length=500, device="cpu")
    card = train(order)
    assert card["ended"] == "early"
    assert 3 <= card["epochs"] < 500
    assert card["errors"]["forces"]["rmse"] == pytest.approx(card["curve_errors"]["forces"], rel=0.3)


def test_mattersim_killed_and_resumed_goes_on_with_its_epochs(tmp_path, files):
    out = tmp_path / "mattersim"
    arguments = ["mattersim", "--from", str(learning.DEMO_MATTERSIM), "--epochs", "12"]
    arguments += ["--train-file", str(files[0]), "--valid-file", str(files[1])]
    log = killed_and_resumed(arguments, out, out / "work" / "last_model.pth")
    starts = [line for line in log.splitlines() if "Number of trainable parameters" in line]
    assert len(starts) == 2
    resumed = log[log.index(starts[1]) :] if starts[0] != starts[1] else log[log.rindex(starts[1]) :]
    assert "Epoch: 0 /" not in resumed
    card = json.loads((out / "model.json").read_text())
    assert card["epochs"] == 12
    assert card["input"]["threebody_cutoff"] == 3.5, "the checkpoint's own, not the script's"
    assert card["curve_errors"]["stress"] > 0
    assert card["errors"]["energy"]["mae"] == pytest.approx(card["curve_errors"]["energy"], rel=0.5)


def test_chgnet_killed_and_resumed_learns_stresses_and_forgets_moments(tmp_path, files):
    """CHGNet 0.3.0 made these labels at another zero; what it is trained on is moved there before the first step."""
    from ase.io import iread, write

    shifted = []
    for path in files:
        frames = list(iread(path, index=":"))
        for atoms in frames:
            atoms.calc.results["energy"] += 2.0 * list(atoms.symbols).count("Ca")
        shifted.append(tmp_path / path.name)
        write(shifted[-1], frames)
    out = tmp_path / "chgnet"
    arguments = ["chgnet", "--from", "0.3.0", "--epochs", "3", "--device", "cpu"]
    arguments += ["--train-file", str(shifted[0]), "--valid-file", str(shifted[1])]
    killed_and_resumed(arguments, out, out / "work" / "last.pth.tar")
    card = json.loads((out / "model.json").read_text())
    assert (card["kind"], card["epochs"], card["ended"]) == ("chgnet", 3, "finished")
    rows = (out / "loss.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3], "a restart leaves no epoch twice"
    assert card["atom_energy_shifts_ev"]["Ca"] - card["atom_energy_shifts_ev"]["Fe"] == pytest.approx(2.0, abs=0.1)
    # the labeller itself, hardly moved: with stresses of the wrong sign or unit this would be tens of GPa
    assert card["errors"]["pv"]["mae"] < 0.05
    column = rows[0].split(",").index("stress_valid")
    stresses = [float(row.split(",")[column]) for row in rows[1:]]
    assert any(value == pytest.approx(card["errors"]["stress"]["mae"], rel=0.01) for value in stresses), (
        "the best epoch"
    )
    assert computes(card, out)
    from chgnet.model.model import CHGNet

    assert CHGNet.from_file(str(out / card["model"])).n_params == 412_525
    with backends.load("model", CalculatorSettings(kind="chgnet", model=str(out / card["model"]), device="cpu")) as own:
        own.calculator.calculate(learning.structures(1, 9)[0])
        assert "magmoms" not in own.calculator.results


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
    assert "make room" in done.stderr or "No space left" in done.stderr
    assert not {"model.json", "model.pth", "checkpoint.pt"} & set(full.split())
    assert whole.split()[0] == "0", done
    assert {"model.json", "model.pth", "checkpoint.pt"} < set(whole.split())


def test_what_cannot_be_trained_on_is_refused_before(tmp_path, files, data):
    bad = tmp_path / "bad.xyz"
    bad.write_text(files[0].read_text().replace(" stress=", " strain="))
    with pytest.raises(InputError, match=r"structure 1 .*no stress"):
        from_files(bad)
    order = Order(trainer="mattersim", out=tmp_path / "out", data=data, device="cpu")
    with pytest.raises(ConfigError, match="from a checkpoint only"):
        train(order)
    with pytest.raises(ModelError, match="not a checkpoint of MatterSim"):
        train(replace(order, parent=str(files[0])))
    with pytest.raises(ModelError, match="has no mattersim"):
        train(replace(order, parent=str(learning.DEMO_MATTERSIM), python="/usr/bin/python3"))
    assert not (order.out / "work").exists()


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
