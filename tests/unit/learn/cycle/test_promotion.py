"""Steps of a cycle as commands, what the journal says of where it stands, and when a new model is taken."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import InputError
from uspex_bridge.call import record_file
from uspex_bridge.cli.cycle import command
from uspex_bridge.learn.cycle.cost import cost_of
from uspex_bridge.learn.cycle.history import cycles_of, rows, table
from uspex_bridge.learn.cycle.loop import JOURNAL, read_journal, state_of
from uspex_bridge.learn.cycle.promotion import QUANTITIES, Evidence, Gates, decide
from uspex_bridge.learn.cycle.settings import (
    CycleSettings,
    LabelStep,
    ModelSettings,
    NextSearch,
    PromoteSettings,
    SearchSettings,
    SeedSettings,
    SelectSettings,
)
from uspex_bridge.learn.cycle.steps import Standing, steps_of

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
    verdict = decide(Evidence(first, second), "new", "old", Gates(0.05))
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
    assert decide(Evidence(held_out, newest), "new", "old", Gates()).promote is taken


def test_a_model_that_fails_where_the_old_one_did_not_is_worse(tmp_path):
    one = (1.0, 1.0, 1.0)
    held_out = evaluation(tmp_path / "h.json", [1.0, 1.0], old=one, new=one)
    document = json.loads(held_out.read_text())
    document["models"][1]["by_structure"].pop()
    held_out.write_text(json.dumps(document))
    newest = evaluation(tmp_path / "n.json", old=one, new=(0.5, 0.5, 0.5))
    verdict = decide(Evidence(held_out, newest), "new", "old", Gates())
    assert not verdict.promote
    assert "fails on 1 held-out" in verdict.reasons[0]


def test_the_first_model_is_taken_and_a_missing_one_is_said(tmp_path):
    first = evaluation(tmp_path / "h.json", new=(1.0, 2.0, 3.0))
    verdict = decide(Evidence(first, tmp_path / "none.json"), "new", None, Gates())
    assert (verdict.promote, verdict.held_out["pv"]) == (True, 3.0)
    with pytest.raises(InputError, match="no errors of other"):
        decide(Evidence(first, first), "other", None, Gates())


def test_steps_are_commands():
    def words(number, **more):
        return {step.name: str(step) for step in steps_of(SETTINGS, Standing(number, **{"labelled": False} | more))}

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
    assert second["evaluate newest"].endswith("--split all --generation 2 -o cycle-2/newest --force --json")
    assert second["seeds"] == "uspex-bridge seeds r1 r2 -n 5 --into next --force"
    kinds = {step.kind for step in steps_of(SETTINGS, Standing(2, labelled=False))}
    assert kinds == {"shell", "bridge", "labels", "promote"}


def test_a_later_training_may_start_from_the_model_in_use():
    models = {name: replace(model, later="current") for name, model in SETTINGS.models.items()}
    settings = replace(SETTINGS, models=models, select=SelectSettings(max_atoms=8))

    def words(number):
        return {step.name: str(step) for step in steps_of(settings, Standing(number, labelled=False))}

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
    models = "".join(f'[models.{name}]\ntrainer = "mace"\n' for name in "ab")
    (tmp_path / "cycle.toml").write_text(f'[search]\nplaces = ["gone"]\n{models}')
    result = CliRunner().invoke(command, ["report", str(tmp_path)])
    assert "cost: 8 DFT calculations; 2 h of training" in result.output
    assert "cycle 1 took 2 h 10 min: screen 10 min 20 s, train a 2 h 00 min\n" in result.output


def test_on_the_newest_labels_only_those_count_that_neither_was_trained_on(tmp_path):
    """The new model fits what it was trained on; what it has not seen has become worse."""
    one = (1.0, 1.0, 1.0)
    held_out = evaluation(tmp_path / "h.json", old=one, new=one)
    newest = evaluation(tmp_path / "n.json", [0.1, 0.1, 1.5], old=one, new=one)
    document = json.loads(newest.read_text())
    for model in document["models"]:
        for row in model["by_structure"]:
            row["split"] = "test" if row["family"] == "2" else "train"
    newest.write_text(json.dumps(document))
    verdict = decide(Evidence(held_out, newest), "new", "old", Gates())
    assert not verdict.promote
    assert "better on the newest labels in 0 of 3" in verdict.reasons[0]
    assert (verdict.newest["pv"], verdict.newest["old pv"]) == (1.5, 1.0)
    for model in document["models"]:
        for row in model["by_structure"]:
            row["split"] = "train"
    newest.write_text(json.dumps(document))
    verdict = decide(Evidence(held_out, newest), "new", "old", Gates())
    assert verdict.promote
    assert verdict.reasons == ("both models were trained on all of the newest labels",)


def probed(path, **models):
    """Add probes to an evaluation: model -> holes, random structures that survived of ten."""
    document = json.loads(path.read_text())
    document["probes"] = [
        {
            "name": name,
            "compression": [{"breaks": 0.5 if k < holes else None} for k in range(4)],
            "dimers": [],
            "survived": [survived, 10],
        }
        for name, (holes, survived) in models.items()
    ]
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ((1, 9), (1, 9), ""),
        ((1, 9), (0, 10), ""),
        ((1, 9), (2, 9), "2 curves of compression with a hole instead of 1"),
        ((1, 9), (1, 7), "3 random structures lost instead of 1"),
    ],
)
def test_a_model_with_new_holes_is_not_taken(tmp_path, old, new, words):
    one = (1.0, 1.0, 1.0)
    held_out = probed(evaluation(tmp_path / "h.json", old=one, new=one), old=old, new=new)
    newest = evaluation(tmp_path / "n.json", old=one, new=(0.5, 0.5, 0.5))
    verdict = decide(Evidence(held_out, newest), "new", "old", Gates())
    assert verdict.promote is not bool(words)
    assert words in "; ".join(verdict.reasons)


def test_a_model_that_forgets_is_not_taken(tmp_path):
    one = (1.0, 1.0, 1.0)
    held_out = evaluation(tmp_path / "h.json", old=one, new=one)
    newest = evaluation(tmp_path / "n.json", old=one, new=(0.5, 0.5, 0.5))
    foreign = evaluation(tmp_path / "f.json", start=one, new=(1.9, 2.1, 1.0))
    verdict = decide(Evidence(held_out, newest, foreign), "new", "old", Gates(start="start"))
    assert not verdict.promote
    assert verdict.reasons == ("forgets: forces on foreign structures 1 -> 2.1, over 2 times",)
    assert decide(Evidence(held_out, newest, foreign), "new", "old", Gates(forgetting=2.5, start="start")).promote


GATED = replace(
    SETTINGS,
    search=SearchSettings(("r0",), failures=True, b_max=20, then=(NextSearch(("r50",), "./go50", "next50"),)),
    select=SelectSettings(near=0.8, within=0.1, compositions=30, each=2, method="clusters", holdout="known.cif"),
    label=LabelStep("vasp"),
    promote=PromoteSettings(probes=True, random=3, foreign="tp"),
    models={"a": ModelSettings("deepmd-dpa3", start="p.pt", branch="B"), "b": ModelSettings("mace", start="m.model")},
)


def test_a_loop_does_what_its_steps_can():
    words = {step.name: str(step) for step in steps_of(GATED, Standing(2, since="2026-11-29T08:00:00"))}
    for option in ("--near-share 0.8", "--within 0.1", "--compositions 30", "--each 2", "--method clusters"):
        assert option in words["select"]
    assert "--holdout known.cif" in words["select"]
    assert "--failures --b-max 20 --since 2026-11-29T08:00:00 --calibrate dataset" in words["screen"]
    assert "--estimate models/a/current" in words["prepare"]
    assert "--probes --random 3" in words["evaluate"]
    assert words["evaluate foreign"] == (
        "uspex-bridge evaluate mace:m.model cycle-2/a cycle-2/b --on tp -o cycle-2/foreign --force --json"
    )


def test_the_next_pressure_begins_with_seeds_of_those_before(tmp_path):
    steps = steps_of(GATED, Standing(4, stage=1, begins=True))
    assert [step.name for step in steps][:3] == ["seeds written", "search", "screen"]
    assert str(steps[0]) == "uspex-bridge seeds r0 -n 5 --into next50 --force"
    assert str(steps[1]) == "./go50"
    assert "screen r50 -m" in str(steps[2])
    later = [step.name for step in steps_of(GATED, Standing(5, stage=1))]
    assert later[:2] == ["search", "screen"]
    entries = [
        {"event": "finished", "cycle": 0, "stage": 0, "time": "2026-11-29T08:00:00+00:00"},
        {"event": "done", "cycle": 1, "step": "screen", "facts": {}},
        {"event": "finished", "cycle": 1, "stage": 0, "time": "2026-11-29T09:00:00+00:00"},
        {"event": "stage", "stage": 1},
    ]
    state = state_of(entries)
    assert (state.number, state.stage, state.begins, state.done) == (2, 1, True, set())
    assert state.since == "2026-11-29T09:00:00"
    state = state_of([*entries, {"event": "finished", "cycle": 2, "stage": 1, "time": "2026-11-29T10:00:00+00:00"}])
    assert (state.number, state.stage, state.begins) == (3, 1, False)


def test_what_a_loop_has_cost(tmp_path):
    record = {"key": "k", "status": "converged", "stages": [{"calculator": "m", "evaluations": n} for n in (40, 60)]}
    (tmp_path / "s").mkdir()
    foreign = {"key": "k", "stages": [{"calculator": "m", "evaluations": "many"}]}
    lines = [*[record] * 20, foreign]
    (tmp_path / "s" / record_file.FILENAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = replace(SETTINGS, search=SearchSettings(("s", "gone")))
    entries = [
        {
            "event": "done",
            "cycle": 0,
            "step": "collect",
            "seconds": 1.0,
            "facts": {"added": {"train": 15, "test": 3}, "refused": 2},
        },
        {"event": "done", "cycle": 0, "step": "train a", "seconds": 1800.0, "facts": {}},
        {"event": "done", "cycle": 1, "step": "collect", "facts": {"added": "all", "refused": 0}},
        {"event": "done", "cycle": 1, "step": "collect", "facts": {}},
    ]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    cost = cost_of(tmp_path, settings)
    assert (cost.labels, cost.evaluations, cost.candidates, cost.training_hours) == (20, 2000, 20, 0.5)
    assert cost.saved == pytest.approx(0.99)
    assert "20 DFT calculations; 0.5 h of training; 2,000 model evaluations for 20 candidates: 100 per DFT" in str(cost)


def test_facts_of_other_steps_may_have_the_same_names(tmp_path):
    journal = [{"event": "done", "cycle": 0, "step": "train sea", "facts": {"structures": {"train": 20, "valid": 0}}}]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(entry) + "\n" for entry in journal))
    assert read_journal(tmp_path) == journal
