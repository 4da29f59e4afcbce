"""How a loop ends: by its number of cycles, or since the models agree."""

import json

import ase.io
import learning
import pytest

from uspex_bridge.learn.cycle.loop import JOURNAL, Loop, read_journal

SETTINGS = """
dataset = "search.extxyz"
[search]
places = ["search.extxyz"]
[models.a]
trainer = "mace"
[models.b]
trainer = "mace"
[screen]
calibrate = false
[stop]
"""
#: Calculators by the names of the models in use.
CALCULATORS = """
[calculators."models/a/current"]
kind = "toy"
[calculators."models/b/current"]
kind = "toy"
options = {epsilon = 0.52}
"""


@pytest.fixture
def loop(tmp_path):
    """A loop whose first models are there, all but the last entry of its cycle."""
    ase.io.write(tmp_path / "search.extxyz", learning.structures(4, seed=3))
    (tmp_path / "bridge.toml").write_text(CALCULATORS)
    steps = ("train a", "train b", "evaluate", "promote")
    entries = [{"event": "done", "cycle": 0, "step": step, "facts": {}} for step in steps]
    entries.insert(0, {"event": "opened", "labelled": True})
    (tmp_path / JOURNAL).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return tmp_path


def test_after_its_cycles(loop):
    (loop / "cycle.toml").write_text(SETTINGS + "cycles = 0\n")
    assert Loop(loop).run() == "0 cycles done"
    assert [entry["event"] for entry in read_journal(loop)[-2:]] == ["finished", "ended"]
    assert Loop(loop).missing() == []


def test_when_few_structures_are_left_to_compute(loop):
    (loop / "cycle.toml").write_text(SETTINGS + "flagged = 4\n")
    assert Loop(loop).run().startswith("converged: ")
    finished, began, done, ended = read_journal(loop)[-4:]
    assert (finished["event"], began["step"], done["step"], ended["event"]) == ("finished", "screen", "screen", "ended")
    assert done["seconds"] > 0
    Loop(loop).reopen()
    assert Loop(loop).missing()[0].name == "select"
