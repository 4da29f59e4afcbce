"""Watching a trainer: curves, lack of progress, divergence, deaths; its settings."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from uspex_bridge.base.errors import CalculationError, ConfigError, ModelError, OutputError
from uspex_bridge.base.halt import Halter
from uspex_bridge.learn.training import loss
from uspex_bridge.learn.training.order import TRAINERS
from uspex_bridge.learn.training.trainers.base import branch_of, overlay, read_trainer_settings
from uspex_bridge.learn.training.watch import CurvePoint, Run, WatchSettings, check_divergence, stalled, watch


def points(*forces, energy=0.1):
    return [CurvePoint(k, {"energy_valid": energy, "forces_valid": value}) for k, value in enumerate(forces, 1)]


def process(tmp_path: Path, code: str) -> Run:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return Run(command, dict(os.environ), tmp_path, tmp_path / "log", "the trainer")


def test_without_progress_a_training_is_ended_and_with_some_it_is_not():
    settings = WatchSettings(patience=3, progress=0.01)
    assert not stalled(points(5, 4, 3), settings)
    assert stalled(points(5, 4, 3, 3, 3.1, 2.99), settings)
    assert not stalled(points(5, 4, 3, 3, 3.1, 2.9), settings)
    assert not stalled(points(*[1.0] * 50), WatchSettings(patience=0))
    flat = [*points(1, 1, 1, 1), CurvePoint(5, {"energy_valid": 0.09, "forces_valid": 1})]
    assert not stalled(flat, settings), "a falling energy error is progress too"


def test_divergence_is_told_from_noise():
    check_divergence(points(1, 1, 90, 1), WatchSettings(), "it")
    check_divergence(points(1, 1, 1000), WatchSettings(), "it")
    with pytest.raises(CalculationError, match=r"forces error at step 4 is 2e\+03"):
        check_divergence(points(1, 1, 1000, 2000), WatchSettings(), "it")
    with pytest.raises(CalculationError, match="forces_valid is not a number at step 2"):
        check_divergence(points(1, float("nan")), WatchSettings(), "it")


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("open('/dev/full', 'w').write('x' * 100000)", OutputError, "the disk or its quota is full"),
        (
            "print('[enforce fail at inline_container.cc:672] . unexpected pos'); print('frame\\n' * 99); exit(1)",
            OutputError,
            "the disk or its quota is full",
        ),
        ("exit('[enforce fail at alloc_cpu.cpp:130] not enough memory')", CalculationError, "not enough memory"),
        ("import torch_of_another_world", ModelError, "its environment lacks a package"),
        ("raise ValueError('the very reason')", CalculationError, "the very reason"),
        ("import os; os.kill(os.getpid(), 9)", CalculationError, "SIGKILL"),
        ("raise RuntimeError('Non-finite gradient')", CalculationError, "lower the learning rate"),
    ],
)
def test_a_trainers_death_is_told_with_the_end_of_its_log(tmp_path, code, error, said):
    with pytest.raises(error, match=said):
        watch(process(tmp_path, code), list, WatchSettings(), Halter())


def test_the_log_of_an_earlier_run_is_not_this_deaths_reason(tmp_path):
    (tmp_path / "log").write_text("No space left on device\n")
    with pytest.raises(CalculationError) as caught:
        watch(process(tmp_path, "raise SystemExit(3)"), list, WatchSettings(), Halter())
    assert "No space" not in str(caught.value)
    assert "it said nothing" in str(caught.value)


def test_a_diverging_trainer_is_ended(tmp_path):
    run = process(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(CalculationError, match="diverged"):
        watch(run, lambda: points(1, float("inf")), WatchSettings(), Halter())


def test_ending_a_trainer_ends_what_it_started(tmp_path):
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("child", "w").write(str(child.pid))
        time.sleep(600)
    """
    halter = Halter()
    child = tmp_path / "child"

    def curve():
        if child.is_file() and child.read_text():
            halter.ask()
        return []

    assert watch(process(tmp_path, code), curve, WatchSettings(), halter) == "signal"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(int(child.read_text()), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child.read_text()}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(child.read_text()), signal.SIGKILL)
    pytest.fail("the child lives")


def test_a_branch_is_found_whatever_its_case_and_random_never(tmp_path):
    heads = ["MP_traj_v024_alldata_mixu", "OMat24"]
    assert branch_of("omat24", heads, tmp_path) == "OMat24"
    assert branch_of(None, ["Default"], tmp_path) == "Default"
    assert branch_of(None, [], tmp_path) is None
    with pytest.raises(ConfigError, match="RANDOM is an untrained head"):
        branch_of("random", [*heads, "RANDOM"], tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'OMat24'"):
        branch_of("OMat2", heads, tmp_path)
    with pytest.raises(ConfigError, match="name one with --branch: MP_traj"):
        branch_of(None, heads, tmp_path)
    with pytest.raises(ConfigError, match="has no branches"):
        branch_of("OMat24", [], tmp_path)


def test_settings_are_laid_over_the_template_and_closed(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("[watch]\npatience = 7\n[input.loss]\nlimit_pref_v = 50.0\n")
    settings = read_trainer_settings("deepmd-dpa3", [mine], scratch=False)
    assert settings.watch.patience == 7
    assert settings.input["loss"]["limit_pref_v"] == 50.0
    assert settings.input["loss"]["start_pref_e"] == 0.2
    assert "model" not in settings.input, "a checkpoint brings its own"
    assert read_trainer_settings("deepmd-dpa3", [], scratch=True).input["model"]["descriptor"]["type"] == "dpa3"
    for text, said in (("[wach]\n", "did you mean 'watch'"), ("[watch]\npatients = 1\n", "did you mean 'patience'")):
        mine.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_trainer_settings("deepmd-dpa3", [mine], scratch=False)
    assert overlay({"a": {"b": 1, "c": 2}}, {"a": {"b": [3]}}) == {"a": {"b": [3], "c": 2}}


@pytest.mark.parametrize("name", ["deepmd-dpa3", "deepmd-sea"])
def test_virials_weigh_more_than_ten_times_the_usual(name):
    weights = read_trainer_settings(name, [], scratch=False).input["loss"]
    assert weights["start_pref_v"] > 10 * 0.02
    assert weights["limit_pref_v"] > 10 * 1


def test_after_a_restart_the_later_values_of_a_step_count(tmp_path):
    names = ("rmse", "rmse_e", "rmse_f", "rmse_v")
    header = f"#  step   {'   '.join(f'{name}_val {name}_trn' for name in names)}   lr\n"
    row = "{:7d}   1.0e+00 1.1e+00   {:.1e} 2.1e-01   3.0e-01 3.1e-01   4.0e-01 4.1e-01   1.0e-03\n"
    steps = [(10, 0.5), (20, 0.4), (30, 0.3)]
    text = header + "".join(row.format(*step) for step in steps) + header + row.format(20, 0.35)
    (tmp_path / "lcurve.out").write_text(text + "     30   1.0e+0")
    found = TRAINERS["deepmd-sea"].curve(tmp_path)
    assert [(point.step, point.error("energy")) for point in found] == [(10, 0.5), (20, 0.35)]
    assert found[-1].values["virial_train"] == 0.41
    assert found[-1].values["rate"] == 0.001
    assert loss.summary(found[-1]) == "E 350 meV/atom  F 300 meV/Å  W 400 meV/atom"
    assert loss.as_csv(found, "steps").splitlines()[0].startswith("steps,loss_valid,loss_train,energy_valid")


def test_without_virials_a_curve_is_refused():
    with pytest.raises(CalculationError, match="does not train on virials"):
        TRAINERS["deepmd-dpa3"].check(points(1.0))
