"""The automatic student in the calls: which structures it leads, what is kept for the next, whose energy counts."""

import json
import logging
from dataclasses import replace

import pytest
from calling import POSCAR, TOY, make_folder, record

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import BridgeError, ConfigError, ModelError
from uspex_bridge.base.halt import Halter
from uspex_bridge.call import student
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import read_config
from uspex_bridge.call.folders import VaspFolder
from uspex_bridge.call.many import RelaxTask, relax_all
from uspex_bridge.call.run import run_folder
from uspex_bridge.call.structures import read_structures
from uspex_bridge.models.cards import CalculatorSettings

AUTO = '[student]\ndistill = "auto"\n'
LOG = logging.getLogger("test")


@pytest.fixture
def search(tmp_path):
    """A search with the protocol ``student`` and nothing in it yet."""
    fold = make_folder(tmp_path, settings=TOY + AUTO)
    settings = tmp_path / "bridge.toml"
    settings.write_text(settings.read_text().replace("single", "student"))
    return fold


@pytest.fixture
def drawn(monkeypatch):
    """Let a structure have a number of our choice."""
    return lambda number: monkeypatch.setattr(student, "_draw", lambda structure: number)


def use(search, name="01", elements=("Ca", "Fe", "Ni")):
    """Put a toy to use as the student; it takes no weights, so that the file may be anything."""
    weights = search / "student" / name / "model.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_text("")
    settings = CalculatorSettings(kind="toy", model=str(weights.resolve()))
    student.set_current(search, student.Current(name, settings, elements))


def run(fold):
    run_folder(VaspFolder(fold), read_config(fold.parent / "bridge.toml"), LOG, Halter())
    return record(fold)[-1]


def led(entry):
    return [stage["calculator"] for stage in entry["stages"]]


def test_before_there_is_a_student_the_final_model_relaxes_alone_and_its_steps_are_kept(search, drawn):
    drawn(5)
    entry = run(search)
    assert (entry["student"], entry["protocol"], led(entry)) == ("none", "student", ["model"])
    (kept,) = jsonl.read(search.parent / student.FRAMES)
    assert kept["key"] == entry["key"]
    assert 2 < len(kept["frames"]) <= 10
    last = kept["frames"][-1]
    assert last["energy"] == pytest.approx(entry["energy"])
    assert last["cell"] == entry["output"]["cell"]


@pytest.mark.parametrize(("number", "kept", "with_one"), [(0, False, "held out"), (1, False, "01"), (2, True, "01")])
def test_held_out_structures_are_never_learnt_from_and_some_never_have_a_student(search, drawn, number, kept, with_one):
    drawn(number)
    assert run(search)["student"] == ("none" if kept else "held out")
    assert (search.parent / student.FRAMES).exists() is kept
    use(search.parent)
    assert run(search)["student"] == with_one


def test_a_student_in_use_goes_first_and_the_record_names_it(search, drawn, caplog):
    drawn(5)
    alone = run(search)
    use(search.parent)
    entry = run(search)
    assert (entry["student"], led(entry)) == ("01", ["student", "student", "model"])
    assert entry["enthalpy"] == pytest.approx(alone["enthalpy"], abs=1e-3)
    assert entry["key"] != alone["key"]
    use(search.parent, "02")
    assert run(search)["student"] == "02"
    assert "before" not in caplog.text
    student.set_current(search.parent, None)
    assert led(run(search)) == ["model"]


def test_a_structure_with_an_element_that_the_student_does_not_know_is_relaxed_without_it(search, drawn):
    drawn(5)
    use(search.parent, elements=("Ca", "Fe"))
    entry = run(search)
    assert (entry["student"], led(entry), entry["status"]) == ("none", ["model"], "converged")


def test_a_folder_of_students_can_be_moved_with_its_search(search, tmp_path_factory):
    use(search.parent)
    moved = tmp_path_factory.mktemp("moved")
    search.parent.rename(moved / "search")
    found = student.current(moved / "search")
    assert found.calculator.model == str((moved / "search" / "student" / "01" / "model.pth").resolve())


def test_which_structures_are_held_out_depends_on_the_start_alone(search):
    (structure,) = read_structures(search / "POSCAR")
    draws = []
    for step in range(200):
        cell = structure.cell * (1 + step / 100)
        draws += [student._draw(replace(structure, cell=cell))]
        assert student._draw(replace(structure, cell=cell, comment="EA7")) == draws[-1]
    assert set(draws) == set(range(10))
    assert 5 < draws.count(0) < 40


def test_the_energy_that_counts_is_never_an_automatic_students(search):
    incar = search / "INCAR"
    incar.write_text(incar.read_text() + "BRIDGE_STAGES = 1-2\n")
    with pytest.raises(ConfigError, match="the last stage is the student's"):
        run(search)


def test_structures_relaxed_by_hand_have_no_automatic_student(search):
    use(search.parent)
    task = RelaxTask(read_config(search.parent / "bridge.toml"), pressure=50.0)
    (structure,) = read_structures(search / "POSCAR")
    (relaxed,) = relax_all([(search / "POSCAR", 1, structure)], task)
    assert [stage["calculator"] for stage in relaxed.stages] == ["model"]


@pytest.mark.parametrize("protocol", ["single", "auto"])
def test_a_protocol_without_stages_of_a_student_is_a_contradiction(search, protocol):
    settings = search.parent / "bridge.toml"
    settings.write_text(settings.read_text().replace('protocol = "student"', f'protocol = "{protocol}"'))
    with pytest.raises(ConfigError, match='protocol = "student"'):
        run(search)
    config = read_config(settings)
    assert choose_protocol(replace(config, protocol="fast"))[0].name == "fast"  # named instead: --protocol, --model


def test_an_automatic_student_beside_one_of_the_settings_is_a_contradiction(search):
    settings = search.parent / "bridge.toml"
    settings.write_text(settings.read_text() + '[calculators.student]\nkind = "toy"\n')
    with pytest.raises(ConfigError, match="makes its own"):
        read_config(settings)


def test_a_damaged_note_of_the_student_in_use_is_an_error_and_says_what_to_do(search, drawn):
    drawn(5)
    use(search.parent)
    path = search.parent / student.FOLDER / student.CURRENT
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ModelError, match="remove it to go on without a student"):
        run(search)


def test_a_result_stands_where_its_frames_cannot_be_written(search, drawn, caplog):
    drawn(5)
    (search.parent / student.FRAMES).mkdir()
    assert run(search)["status"] == "converged"
    assert student.FRAMES in caplog.text


def test_a_refused_start_keeps_no_frames(search, drawn):
    drawn(5)
    (search / "POSCAR").write_text(POSCAR.replace("4.200000", "0.200000"))
    with pytest.raises(BridgeError):
        run(search)
    assert not (search.parent / student.FRAMES).exists()
    assert json.loads((search.parent / "bridge.record").read_text())["student"] == "none"
