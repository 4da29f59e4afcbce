"""When the student of a search is trained, what decides whether it is used, and when it no longer is."""

import json
import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
from calling import TOY, make_folder, record

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.base.halt import Halter
from uspex_bridge.call import student as calls
from uspex_bridge.call.config import read_config
from uspex_bridge.call.folders import VaspFolder
from uspex_bridge.call.run import run_folder
from uspex_bridge.cli.train import command
from uspex_bridge.learn.training import student, student_history
from uspex_bridge.learn.training.student import update
from uspex_bridge.learn.training.student_history import Check, Cost, History
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

SETTINGS = TOY + '[student]\ndistill = "auto"\ntrainer = "toy"\nstructures = 4\n'
LOG = logging.getLogger("test")


@pytest.fixture
def fold(tmp_path):
    fold = make_folder(tmp_path, settings=SETTINGS)
    settings = tmp_path / "bridge.toml"
    settings.write_text(settings.read_text().replace("single", "student"))
    return fold


@pytest.fixture
def trainings(monkeypatch):
    """Replace the upstream trainer: each training gives the toy potential, or raises what is told."""
    calls_of, told = [], {}

    def train(order, tell, draw):
        calls_of.append(order)
        if "raises" in told:
            raise told["raises"]
        (order.out / "model.pth").write_text("")
        return {"model": "model.pth", "sha256": None, "head": None, "elements": order.data.elements}

    monkeypatch.setattr(student, "TRAINERS", {"toy": SimpleNamespace(kind="toy")})
    monkeypatch.setattr(student, "train", train)
    monkeypatch.setattr(student, "time_ratio", lambda *_: 0.1)
    for module in (student, student_history):
        monkeypatch.setattr(module, "FEWEST", 4)
    return SimpleNamespace(orders=calls_of, told=told)


def search(fold, monkeypatch, count, *, draws, first=0):
    """Do so many calls of slightly different starts, with these draws in turn."""
    config, poscar = read_config(fold.parent / "bridge.toml"), (fold / "POSCAR").read_text()
    for number in range(first, first + count):
        draw = draws[number % len(draws)]
        monkeypatch.setattr(calls, "_draw", lambda structure, draw=draw: draw)
        (fold / "POSCAR").write_text(poscar.replace("0.510000", f"{0.45 + 0.01 * number:.6f}"))
        run_folder(VaspFolder(fold), config, LOG, Halter())
    (fold / "POSCAR").write_text(poscar)


def looked(fold):
    return update(fold.parent / "bridge.record", read_config(fold.parent / "bridge.toml"))


def test_a_search_gets_its_student_once_there_is_enough_to_train_and_to_check_on(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 6, draws=(0, 5))
    assert looked(fold).said == ("no student is in use; 3 of 4 structures to train the next one on",)
    search(fold, monkeypatch, 2, draws=(5, 5), first=6)
    assert "3 of 4 structures to check the next one on" in looked(fold).said[0]
    search(fold, monkeypatch, 2, draws=(0, 5), first=8)
    done = looked(fold)
    assert done.student == "01"
    assert done.check.pays
    assert done.check.taught.evaluations < done.check.plain.evaluations
    assert (done.check.lower, done.check.higher) == (0, 0)
    (order,) = trainings.orders
    assert {str(atoms.symbols) for atoms in order.data.train} == {"CaFe2Ni"}
    held_out = [line["input"]["scaled"] for line in record(fold) if line["student"] == "held out"]
    starts = [atoms.get_scaled_positions(wrap=False) for atoms in order.data.train]
    assert len(held_out) == 4
    assert not any(np.allclose(start, one, atol=1e-7) for start in starts for one in held_out)
    search(fold, monkeypatch, 1, draws=(5,), first=10)
    assert record(fold)[-1]["student"] == "01"
    assert looked(fold).said == ("student 01 is in use; 7 of 12 structures to train the next one on",)


def test_a_student_that_does_not_pay_is_not_used_and_the_next_one_waits_for_more(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 8, draws=(0, 5))
    monkeypatch.setattr(student_history, "PAYS", 0.0)
    done = looked(fold)
    assert (done.student, done.check.pays) == (None, False)
    assert "does not pay" in done.said[0]
    assert looked(fold).said == ("no student is in use; 4 of 8 structures to train the next one on",)


def test_a_training_that_fails_is_told_and_not_tried_again_on_the_same_structures(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 8, draws=(0, 5))
    trainings.told["raises"] = CalculationError("it diverged")
    assert looked(fold).said == ("student 01 failed: it diverged",)
    assert "4 of 8" in looked(fold).said[0]
    assert len(trainings.orders) == 1


def test_an_interrupted_training_goes_on_where_it_was(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 8, draws=(0, 5))
    trainings.told["raises"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        looked(fold)
    (fold.parent / "student" / "01" / "work").mkdir()
    search(fold, monkeypatch, 2, draws=(5, 5), first=8)
    del trainings.told["raises"]
    assert looked(fold).student == "01"
    first, second = trainings.orders
    assert (first.resume, second.resume) == (False, True)
    assert first.data.source == second.data.source


def test_a_student_that_pays_no_longer_is_given_up(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 8, draws=(0, 5))
    assert looked(fold).student == "01"
    monkeypatch.setattr(student_history, "_JUDGED", (3, 30))
    search(fold, monkeypatch, 3, draws=(5,), first=8)
    assert looked(fold).student == "01"
    path = fold.parent / "bridge.record"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["student"] == "01":
            line["stages"][-1]["evaluations"] *= 10
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = looked(fold).said
    assert "student 01 no longer pays" in first
    assert second == "no student is in use; 7 of 8 structures to train the next one on"
    assert calls.current(fold.parent) is None


def test_another_final_model_begins_anew(fold, trainings, monkeypatch):
    search(fold, monkeypatch, 8, draws=(0, 5))
    frames, settings = fold.parent / calls.FRAMES, fold.parent / "bridge.toml"
    settings.write_text('on_change = "accept"\n' + settings.read_text())
    for path in (frames, fold.parent / "bridge.record"):
        path.write_text(path.read_text().replace('"kind":"toy"', '"kind":"other"').replace("toy", "other"))
    search(fold, monkeypatch, 1, draws=(5,), first=8)
    history = History.read(fold.parent / "bridge.record")
    assert (len(history.lines), len(history.frames)) == (1, 1)
    assert len(list(jsonl.read(frames))) == 5


def test_the_settings_must_ask_for_a_student(fold, trainings):
    config = read_config(fold.parent / "bridge.toml")
    with pytest.raises(ConfigError, match="no trainer 'nobody'"):
        update(fold.parent / "bridge.record", read_config(changed(fold, 'trainer = "toy"', 'trainer = "nobody"')))
    with pytest.raises(ConfigError, match="distill"):
        update(fold.parent / "bridge.record", read_config(changed(fold, '"auto"', '"off"')))
    assert config.student.structures == 4


def changed(fold, before, after):
    path = fold.parent / "bridge.toml"
    path.write_text(path.read_text().replace(before, after))
    return path


@pytest.mark.parametrize(
    ("evaluations", "lower", "higher", "pays"),
    [(10.0, 0, 0, True), (31.0, 0, 0, False), (10.0, 0, 4, True), (10.0, 0, 5, False), (10.0, 5, 8, True)],
)
def test_a_student_pays_if_it_saves_a_fifth_and_its_ends_are_no_higher_than_chance_allows(
    evaluations, lower, higher, pays
):
    check = Check(Cost(12, 40.0, 0.0, 0.0), Cost(12, evaluations, 10.0, 0.2), lower, higher)
    assert check.pays is pays


def test_evaluations_of_the_student_count_by_their_time():
    stages = [{"calculator": "student", "evaluations": 20}, {"calculator": "model", "evaluations": 10}]
    cost = Cost.of([stages, stages], 0.25)
    assert (cost.evaluations, cost.student, cost.total) == (10.0, 20.0, 15.0)


def test_a_slower_model_has_the_larger_ratio():
    starts = [Structure(("Ca",), 4.0 * np.eye(3), np.zeros((1, 3)))]
    with (
        backends.load("slow", CalculatorSettings(kind="toy", options={"sleep": 0.03})) as slow,
        backends.load("fast", CalculatorSettings(kind="toy")) as fast,
    ):
        assert student.time_ratio(fast, slow, starts) < 0.7


def test_the_command_runs_at_the_lowest_priority_and_says_what_it_waits_for(fold, trainings, monkeypatch, capsys):
    given = []
    monkeypatch.setattr("os.setpriority", lambda *words: given.append(words))
    search(fold, monkeypatch, 1, draws=(5,))
    said = "no student is in use; 1 of 4 structures to train the next one on"
    for more, expected in ([], said + "\n"), (["--json"], {"said": [said], "student": None, "check": None}):
        capsys.readouterr()
        command.main(["student", str(fold.parent), *more], standalone_mode=False)
        out = capsys.readouterr().out
        assert (json.loads(out) if more else out) == expected
    assert given == [(os.PRIO_PROCESS, 0, 19)] * 2
