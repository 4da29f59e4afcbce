"""Trainings of MACE, MatterSim and CHGNet with the upstream trainers: tiny networks, tens of structures."""

import json
from dataclasses import replace

import learning
import pytest
from training import computes, killed_and_resumed, settings

from uspex_bridge.base.errors import ConfigError, InputError, ModelError
from uspex_bridge.learn.training.order import Order, from_files
from uspex_bridge.learn.training.run import train
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

pytestmark = pytest.mark.timeout(900)


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
