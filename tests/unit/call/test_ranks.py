"""Which process of several in one folder works."""

import json

import pytest

from uspex_bridge.call import ranks

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_NAMESPACE": "job1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (OPEN_MPI, ranks.Rank(1, 3, "job1")),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}, ranks.Rank(2, 4, "7.1")),
        # inside an sbatch script: 8 tasks were asked for, one process runs
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"},
            ranks.Rank(5, 8, "7.0"),
        ),
        ({"PMI_RANK": "two", "PMI_SIZE": "4"}, None),
    ],
)
def test_the_place_in_a_launch(environment, expected):
    assert ranks.rank_of(environment) == expected


@pytest.fixture
def fold(tmp_path, monkeypatch):
    for name in ("POSCAR", "INCAR"):
        (tmp_path / name).write_text(name)
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def play(fold, monkeypatch, rank, launch="job1", code=0, argv=()):
    """Let one process of a launch come; return its exit code, and whether it worked."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
    monkeypatch.setenv("PMIX_NAMESPACE", launch)
    worked = []

    def work():
        worked.append(1)
        (fold / "OSZICAR").write_text(" 1 F= ")
        return code

    return ranks.one_of_many("vasp", str(fold), list(argv), work), bool(worked)


def test_one_works_and_late_comers_end_as_it_did(fold, monkeypatch, capsys):
    assert play(fold, monkeypatch, 2) == (0, True)
    assert play(fold, monkeypatch, 0) == (0, False)
    assert play(fold, monkeypatch, 1) == (0, False)
    assert capsys.readouterr().err.count("rank 2 did the work") == 2
    assert play(fold, monkeypatch, 2) == (0, True), "its own next call"


def test_another_launch_works_anew(fold, monkeypatch):
    assert play(fold, monkeypatch, 0, code=7) == (7, True)
    assert play(fold, monkeypatch, 1, code=7) == (7, False)
    assert play(fold, monkeypatch, 1, "job2") == (0, True)
    assert play(fold, monkeypatch, 0, "job2") == (0, False)


def test_other_input_or_a_missing_result_is_worked_on(fold, monkeypatch):
    assert play(fold, monkeypatch, 0) == (0, True)
    assert play(fold, monkeypatch, 1, argv=["--stages", "1"]) == (0, True)
    (fold / "POSCAR").write_text("the next structure")
    assert play(fold, monkeypatch, 2, argv=["--stages", "1"]) == (0, True)
    (fold / "OSZICAR").unlink()
    assert play(fold, monkeypatch, 0, argv=["--stages", "1"]) == (0, True)


def test_without_locks_the_first_works_and_the_others_believe_what_it_tells(fold, monkeypatch):
    monkeypatch.setattr(ranks, "_lock", lambda board: False)
    monkeypatch.setattr(ranks, "_SIGN_OF_LIFE", 0.2)
    assert play(fold, monkeypatch, 0, code=6) == (6, True)
    assert play(fold, monkeypatch, 1) == (6, False)
    assert json.loads((fold / ranks.FILENAME).read_text())["rank"] == 0
    assert play(fold, monkeypatch, 1, "job2") == (0, True), "nobody else came"


def test_a_folder_that_is_not_there_is_for_the_run_to_say(fold, monkeypatch):
    assert ranks.one_of_many("vasp", str(fold / "missing"), [], lambda: 8) == 8
