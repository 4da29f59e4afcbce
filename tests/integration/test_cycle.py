"""The loop end to end: real trainings of tiny networks, labels by CHGNet, killed once in every step."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import ase.io
import learning
import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import BridgeError
from uspex_bridge.cli.main import command
from uspex_bridge.learn.cycle.history import cycles_of
from uspex_bridge.learn.cycle.loop import JOURNAL, Loop, read_journal
from uspex_bridge.learn.data.dataset import Dataset

SETTINGS = """
[search]
places = ["search.extxyz"]
[models.sea]
trainer = "deepmd-sea"
settings = "sea.toml"
length = 60
[models.mace]
trainer = "mace"
settings = "mace.toml"
length = 3
[screen]
pv = [0.001]
[select]
first = 12
budget = 5
copies = 1
[label]
code = "model"
model = "chgnet"
how = "run"
[stop]
cycles = 1
flagged = 0
"""


def make_loop(folder, settings=SETTINGS):
    ase.io.write(folder / "search.extxyz", learning.label(learning.structures(18, seed=1)))
    (folder / "cycle.toml").write_text(settings)
    (folder / "sea.toml").write_text(learning.SEA + "[input.learning_rate]\nstart_lr = 1e-2\n")
    (folder / "mace.toml").write_text(learning.MACE)
    return folder


def begun(folder) -> list[str]:
    """Steps that have begun, as cycle and name."""
    return [f"{e['cycle']} {e['step']}" for e in read_journal(folder) if e["event"] == "began"]


def run_and_kill(folder, steps) -> bool:
    """Run the loop until one of ``steps`` begins that never began before, and kill it there; tell whether it ended."""
    before = set(begun(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "uspex_bridge.cli.main", "cycle", "run", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None:
        if any(steps is None or step in steps for step in set(begun(folder)) - before):
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        time.sleep(0.05)
    text = process.stdout.read()
    assert process.returncode == 0, text
    return True


@pytest.mark.timeout(900)
def test_the_first_models_in_a_loop_that_is_killed(tmp_path):
    folder = make_loop(tmp_path, SETTINGS.replace("cycles = 1", "cycles = 0"))
    killed = {"0 prepare", "0 train sea"}
    assert [run_and_kill(folder, killed) for _ in range(3)] == [False, False, True]
    done = [entry["step"] for entry in read_journal(folder) if entry["event"] == "done"]
    steps = ["select", "augment", "prepare", "compute", "labels", "collect", "train sea", "train mace", "evaluate"]
    assert done == [*steps, "promote"]
    assert {step: count for step, count in Counter(begun(folder)).items() if count > 1}.keys() == killed
    (first,) = cycles_of(folder)
    assert (first.screened, first.chosen, first.labels, first.refused) == (None, 12, 24, 0)
    for name in ("sea", "mace"):
        assert (folder / "models" / name / "current").resolve() == (folder / "cycle-0" / name).resolve()
        assert json.loads((folder / "models" / name / "current" / "model.json").read_text())["sha256"]
    run = CliRunner()
    assert "0 cycles done" in run.invoke(command, ["cycle", "status", str(folder)]).output
    facts = json.loads(run.invoke(command, ["cycle", "status", str(folder), "--json"]).output)
    assert (bool(facts["ended"]), facts["trouble"]) == (True, None)
    made = run.invoke(command, ["cycle", "report", str(folder)])
    assert made.exit_code == 0, made.output
    assert (folder / "report" / "cycles.png").stat().st_size > 10_000
    assert len((folder / "report" / "cycles.csv").read_text().splitlines()) == 1 + 2
    (folder / "cycle.toml").write_text(SETTINGS)
    Loop(folder).reopen()
    assert [step.name for step in Loop(folder).missing()][:2] == ["screen", "select"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_loop_killed_in_every_step_ends_as_one_that_was_not(tmp_path):
    loop = make_loop(tmp_path)
    for _ in range(40):
        if run_and_kill(loop, None):
            break
    entries = read_journal(loop)
    assert entries[-1]["event"] == "ended"
    done = Counter((e["cycle"], e["step"]) for e in entries if e["event"] == "done")
    assert set(done.values()) == {1}
    killed = Counter(begun(loop))
    assert sum(count > 1 for count in killed.values()) >= 15
    first, second = cycles_of(loop)
    assert (first.screened, first.chosen, first.labels, first.refused) == (None, 12, 24, 0)
    assert second.screened == 18
    assert second.flagged > 0
    assert second.labels == 2 * second.chosen > 0
    dataset = Dataset.open(loop / "dataset")
    assert len(dataset.labels) == first.labels + second.labels
    assert not dataset.changes()
    families = Counter((label.family, label.split) for label in dataset.labels.values())
    assert len({family for family, _ in families}) == len(families)
    for name in ("sea", "mace"):
        current = loop / "models" / name / "current"
        promoted = [c.number for c in (first, second) if c.models[name].promoted]
        assert current.resolve() == (loop / f"cycle-{promoted[-1]}" / name).resolve()
        assert json.loads((current / "model.json").read_text())["sha256"]
        assert second.models[name].reasons


def test_waits_for_labels_and_says_what_failed(tmp_path):
    ase.io.write(tmp_path / "search.extxyz", learning.label(learning.structures(4, seed=2)))
    text = SETTINGS.replace('how = "run"', 'how = "submit"\ncommand = "touch submitted; echo job 7; false"')
    (tmp_path / "cycle.toml").write_text(text)
    with pytest.raises(BridgeError, match="exit code 1"):
        Loop(tmp_path).run()
    assert (tmp_path / "cycle-0" / "labels" / "submitted").exists()
    (tmp_path / "cycle.toml").write_text(text.replace("; false", ""))
    assert "waits for labels: 8 prepared" in Loop(tmp_path).run()
    assert f"in {tmp_path}/cycle-0/labels (job 7); submit jobs again that are no longer" in Loop(tmp_path).run()
    assert [e["event"] for e in read_journal(tmp_path)].count("waiting") == 2
    status = CliRunner().invoke(command, ["cycle", "status", str(tmp_path)])
    assert "label status" in status.output
    assert "submit jobs again" in status.output
    (tmp_path / "cycle-0" / "logs" / "compute.out").unlink()
    assert "(touch submitted; echo job 7); submit jobs again" in Loop(tmp_path).run()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[stop]", "[stopp]", "did you mean 'stop'"),
        ('places = ["search.extxyz"]', "places = []", "places is empty"),
        ('how = "run"', 'how = "submit"', "needs a command"),
        ('[models.mace]\ntrainer = "mace"\nsettings = "mace.toml"\nlength = 3\n', "", "two or more"),
        ("budget = 5", "budgets = 5", "did you mean 'budget'"),
    ],
)
def test_wrong_settings(tmp_path, old, new, words):
    assert old in SETTINGS
    (tmp_path / "cycle.toml").write_text(SETTINGS.replace(old, new))
    with pytest.raises(BridgeError, match=words.replace("[", r"\[")):
        Loop(tmp_path)
    assert not (tmp_path / JOURNAL).exists()
