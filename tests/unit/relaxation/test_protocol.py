from pathlib import Path

import pytest

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.relaxation.protocol import (
    Stage,
    load_protocol,
    make_plan,
    protocol_names,
    read_protocol,
    select_stages,
)

MINIMAL = '[[stage]]\nname = "a"\ncalculator = "toy"\nfmax = 0.1\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_the_paper_protocol_is_the_papers():
    stages = load_protocol("paper").stage
    assert [(s.calculator, s.optimizer, s.fmax) for s in stages] == [
        ("mace", "FIRE", 1.0),
        ("mattersim", "FIRE", 0.1),
        ("mattersim", "BFGS", 0.01),
    ]


def test_every_shipped_protocol_reads():
    assert set(protocol_names()) >= {"paper", "embedded", "single", "fast", "student"}
    for name in protocol_names():
        assert load_protocol(name).description


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (MINIMAL + "fmx = 1\n", "did you mean 'fmax'"),
        (MINIMAL + 'optimizer = "FIER"\n', "did you mean 'FIRE'"),
        (MINIMAL.replace("0.1", "-1.0"), "must be a positive number"),
        (MINIMAL.replace("0.1", '"small"'), "is not a number"),
        (MINIMAL + "[guards]\noverlap_ration = 1\n", "did you mean 'overlap_ratio'"),
        ('[[stage]]\nname = "a"\n', "key 'calculator' is missing"),
        ('description = "x"\n', "at least one"),
        (MINIMAL + "[guard]\n", "did you mean 'guards'"),
        ("stage = 3\n", "[[stage]]"),
        ("= 3\n", "not valid TOML"),
    ],
)
def test_wrong_protocols_are_refused_with_a_hint(tmp_path, text, hint):
    with pytest.raises(ConfigError, match=r".") as caught:
        read_protocol(write(tmp_path, text))
    assert hint in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_unknown_name_suggests():
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        load_protocol("papr")


def test_relative_protocol_file(tmp_path):
    write(tmp_path, MINIMAL)
    assert load_protocol("mine.toml", tmp_path).name == "mine"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["robust", "approach", "accurate"]),
        ("all", ["robust", "approach", "accurate"]),
        ("1", ["robust"]),
        ("2-3", ["approach", "accurate"]),
        ("accurate", ["accurate"]),
        ("robust, 3", ["robust", "accurate"]),
    ],
)
def test_stages_are_chosen(choice, names):
    assert [s.name for s in select_stages(load_protocol("paper").stage, choice)] == names


@pytest.mark.parametrize("choice", ["0", "4", "2-9", "robus", "", "a-b"])
def test_wrong_choices_are_refused(choice):
    with pytest.raises(ConfigError, match="stages"):
        select_stages(load_protocol("paper").stage, choice)


def test_ediffg_negative_sets_the_last_force_target():
    plan = make_plan(load_protocol("paper"), Intent(ediffg=-0.02))
    assert [s.fmax for s in plan.stages] == [1.0, 0.1, 0.02]
    assert plan.stages[-1].stress == pytest.approx(0.2)


def test_loose_ediffg_loosens_earlier_stages_and_never_the_pressure_beyond_half_a_gpa():
    plan = make_plan(load_protocol("paper"), Intent(ediffg=-0.5))
    assert [s.fmax for s in plan.stages] == [1.0, 0.5, 0.5]
    assert plan.stages[-1].stress == 0.5


def test_ediffg_positive_is_an_energy_criterion_of_the_last_stage():
    plan = make_plan(load_protocol("paper"), Intent(ediffg=1e-3))
    assert [s.ediff for s in plan.stages] == [None, None, 1e-3]


def test_the_incars_choice_of_stages_wins():
    plan = make_plan(load_protocol("paper"), Intent(stages="1"), stages="2-3")
    assert [s.name for s in plan.stages] == ["robust"]


def test_an_optimizer_of_another_package(monkeypatch):
    from importlib.metadata import EntryPoint

    from ase.optimize import GPMin

    from uspex_bridge.relaxation import offered, optimizers

    point = EntryPoint("gp", "ase.optimize:GPMin", offered.OPTIMIZERS)
    monkeypatch.setattr(
        offered.importlib.metadata, "entry_points", lambda group, name=None: [point] if name in (None, "gp") else []
    )
    assert Stage("one", "toy", 0.1, optimizer="gp").optimizer == "gp"
    assert optimizers.optimizer("gp") is GPMin
    with pytest.raises(ValueError, match="no optimizer 'BFGSS'; did you mean 'BFGS'"):
        Stage("one", "toy", 0.1, optimizer="BFGSS")
