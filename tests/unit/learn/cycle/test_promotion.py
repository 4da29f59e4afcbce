"""Steps of a cycle as commands, what the journal says of where it stands, and when a new model is taken."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import InputError
from uspex_bridge.cli.cycle import command
from uspex_bridge.learn.cycle.history import cycles_of, rows, table
from uspex_bridge.learn.cycle.loop import JOURNAL, state_of
from uspex_bridge.learn.cycle.promotion import QUANTITIES, decide
from uspex_bridge.learn.cycle.settings import (
    CycleSettings,
    ModelSettings,
    SearchSettings,
    SeedSettings,
    SelectSettings,
)
from uspex_bridge.learn.cycle.steps import steps_of

SETTINGS = CycleSettings(
    models={
        "a": ModelSettings("deepmd-dpa3", start="p.pt", branch="B", length=7),
        "b": ModelSettings("mace", length=3, time_limit=60),
    },
    search=SearchSettings(("r1", "r2"), command="./go"),
    seeds=SeedSettings(5, "next"),
)


def evaluation(path, factors=(1.0,), **models):
    """Write an evaluation with the errors energy, forces and pv of each model, times a factor in each family."""
    document = {
        "models": [
            {
                "name": name,
                "errors": [
                    {"label": "0 GPa", **{q: {"mae": 99.0} for q in QUANTITIES}},
                    {"label": "total", **{q: {"mae": e} for q, e in zip(QUANTITIES, errors, strict=True)}},
                ],
                "by_structure": [
                    {"name": f"{k}-{copy}", "family": str(k)}
                    | {q: e * (factor if name == "new" else 1.0) for q, e in zip(QUANTITIES, errors, strict=True)}
                    for k, factor in enumerate(factors)
                    for copy in range(3)
                ],
            }
            for name, errors in models.items()
        ]
    }
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("held_out", "newest", "taken", "words"),
    [
        ((1.0, 1.0, 1.0), (0.5, 0.5, 2.0), True, "newest"),
        ((1.04, 1.0, 1.04), (0.5, 0.5, 0.5), True, "newest"),
        ((1.0, 1.06, 1.0), (0.5, 0.5, 0.5), False, "forces on 1 held-out family 1 -> 1.06"),
        ((0.5, 0.5, 0.5), (0.5, 1.5, 1.5), False, "1 of 3"),
        ((float("nan"), 1.0, 1.0), (0.5, 0.5, 0.5), False, "energy on 1 held-out"),
    ],
)
def test_a_model_must_be_no_worse_on_what_is_held_out_and_better_on_the_newest(
    tmp_path, held_out, newest, taken, words
):
    first = evaluation(tmp_path / "h.json", old=(1.0, 1.0, 1.0), new=held_out)
    second = evaluation(tmp_path / "n.json", old=(1.0, 1.0, 1.0), new=newest)
    verdict = decide(first, second, "new", "old", 0.05)
    assert verdict.promote is taken
    assert words in "; ".join(verdict.reasons)
    assert verdict.newest["old pv"] == 1.0


@pytest.mark.parametrize(
    ("factors", "taken"),
    [
        ([1.0] * 9 + [5.0], True),  # one family of ten
        ([0.9] * 3 + [1.3] * 7, False),  # most of them
        ([1.2] * 10, False),
        ([0.7] * 5 + [1.4] * 5, True),  # within the noise
    ],
)
def test_one_family_is_no_evidence_that_a_model_is_worse(tmp_path, factors, taken):
    one = (1.0, 1.0, 1.0)
    held_out = evaluation(tmp_path / "h.json", factors, old=one, new=one)
    newest = evaluation(tmp_path / "n.json", old=one, new=(0.5, 0.5, 0.5))
    assert decide(held_out, newest, "new", "old", 0.05).promote is taken


def test_a_model_that_fails_where_the_old_one_did_not_is_worse(tmp_path):
    one = (1.0, 1.0, 1.0)
    held_out = evaluation(tmp_path / "h.json", [1.0, 1.0], old=one, new=one)
    document = json.loads(held_out.read_text())
    document["models"][1]["by_structure"].pop()
    held_out.write_text(json.dumps(document))
    newest = evaluation(tmp_path / "n.json", old=one, new=(0.5, 0.5, 0.5))
    verdict = decide(held_out, newest, "new", "old", 0.05)
    assert not verdict.promote
    assert "fails on 1 held-out" in verdict.reasons[0]


def test_the_first_model_is_taken_and_a_missing_one_is_said(tmp_path):
    first = evaluation(tmp_path / "h.json", new=(1.0, 2.0, 3.0))
    verdict = decide(first, tmp_path / "none.json", "new", None, 0.05)
    assert (verdict.promote, verdict.held_out["pv"]) == (True, 3.0)
    with pytest.raises(InputError, match="no errors of other"):
        decide(first, first, "other", None, 0.05)


def test_steps_are_commands():
    def words(number, **more):
        facts = {"labelled": False, "held_out": "test", "promoted": number > 0} | more
        return {step.name: str(step) for step in steps_of(SETTINGS, number, **facts)}

    assert list(words(0, labelled=True)) == ["train a", "train b", "evaluate", "promote"]
    first = words(0)
    assert first["select"].startswith("uspex-bridge select r1 r2 -n 200")
    assert "--have" not in first["select"]
    assert "--from p.pt --branch B --steps 7 --json" in first["train a"]
    assert "--epochs 3 --time-limit 60" in first["train b"]
    assert list(words(1))[:2] == ["screen", "select"]
    second = words(2)
    assert list(second)[:2] == ["search", "screen"]
    assert second["search"] == "./go"
    assert "--pv 0.03 " in second["screen"]
    assert "--pv 0.04 " in words(1)["screen"]
    assert "--reference r1 --reference r2" in second["select"]
    assert second["evaluate newest"].endswith("--split all --generation 2 -o cycle-2/newest --json")
    assert second["seeds"] == "uspex-bridge seeds r1 r2 -n 5 --into next --force"
    assert {step.kind for step in steps_of(SETTINGS, 2, labelled=False, held_out="test", promoted=True)} == {
        "shell",
        "bridge",
        "labels",
        "promote",
    }


def test_a_later_training_may_start_from_the_model_in_use():
    models = {name: replace(model, later="current") for name, model in SETTINGS.models.items()}
    settings = replace(SETTINGS, models=models, select=SelectSettings(max_atoms=8))

    def words(number):
        found = steps_of(settings, number, labelled=False, held_out="test", promoted=number > 0)
        return {step.name: str(step) for step in found}

    assert "--from p.pt --branch B " in words(0)["train a"]
    assert "--from" not in words(0)["train b"]
    assert "--from models/a/current --steps 7" in words(1)["train a"]
    assert "--from models/b/current " in words(1)["train b"]
    assert "--max-atoms 8" in words(0)["select"]


def test_where_a_journal_says_it_stands(tmp_path):
    entries = [
        {"event": "opened", "labelled": True},
        {"event": "began", "cycle": 0, "step": "train a"},
        {"event": "done", "cycle": 0, "step": "train a", "facts": {}},
        {"event": "failed", "cycle": 0, "step": "train b", "detail": "no"},
    ]
    state = state_of(entries)
    assert (state.labelled, state.number, state.done, state.ended) == (True, 0, {"train a"}, "")
    state = state_of(
        [*entries, {"event": "finished", "cycle": 0}, {"event": "ended", "cycle": 1, "detail": "converged"}]
    )
    assert (state.number, state.done, state.ended) == (1, set(), "converged")
    assert not state_of([{"event": "ended", "detail": "x"}, {"event": "reopened"}]).ended
    more = [
        {
            "event": "done",
            "cycle": 1,
            "step": "screen",
            "seconds": 620.0,
            "facts": {"structures": 9, "to_compute": 4, "mean": {"delta_pv": 0.1}},
        },
        {"event": "done", "cycle": 1, "step": "select", "facts": {"chosen": 3}},
        {"event": "done", "cycle": 1, "step": "train a", "seconds": 7200.0, "facts": {}},
        {
            "event": "done",
            "cycle": 1,
            "step": "collect",
            "seconds": 1.5,
            "facts": {"added": {"train": 5, "test": 1}, "refused": 2},
        },
        {
            "event": "kept",
            "cycle": 1,
            "model": "a",
            "promote": False,
            "reasons": ["no"],
            "held_out": {"energy": 0.01, "forces": 0.2, "pv": 0.03},
            "newest": {"old energy": 0.05, "old forces": 0.3, "old pv": 0.04},
        },
    ]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(entry) + "\n" for entry in [*entries, *more]) + '{"event": "do')
    _, cycle = cycles_of(tmp_path)
    assert (cycle.flagged, cycle.chosen, cycle.labels, cycle.refused) == (4, 3, 6, 2)
    (row,) = [row for row in rows([cycle]) if row["cycle"] == 1]
    assert (row["promoted"], row["held_out_pv"], row["predicted_energy"]) == (False, 0.03, 0.05)
    assert "4 of 9" in table([cycle])
    assert (cycle.seconds["collect"], row["seconds"]) == (1.5, 7821.5)
    result = CliRunner().invoke(command, ["report", str(tmp_path)])
    assert "cycle 1 took 2 h 10 min: screen 10 min 20 s, train a 2 h 00 min\n" in result.output
