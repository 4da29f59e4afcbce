"""Many structures into one folder: one call at a time, and nothing there twice."""

from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from calling import TOY

from uspex_bridge.base import jsonl
from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.errors import BusyError, OutputError
from uspex_bridge.call import many, record_file
from uspex_bridge.call.config import load_config
from uspex_bridge.call.many import RelaxTask, relax_all
from uspex_bridge.call.slot import sole_use

JOBS = [(Path("two.extxyz"), k, to_structure(bulk("Ni", "fcc", a=3.4 + 0.1 * k))) for k in range(2)]


def task(folder: Path, *, resume: bool = True) -> RelaxTask:
    (folder / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    return RelaxTask(load_config(folder), folder / "out", nsw=3, trajectory=True, resume=resume, keep_models=True)


def found(out: Path) -> tuple[int, ...]:
    record = out / record_file.FILENAME
    frames = len(ase.io.read(out / "relaxed.extxyz", ":")) if (out / "relaxed.extxyz").exists() else 0
    lines = len(list(jsonl.read(record))) if record.exists() else 0
    return lines, frames, len(list(out.glob("*.trajectory.extxyz")))


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_call_in_the_same_folder_is_refused(tmp_path, resume):
    list(relax_all(JOBS, task(tmp_path)))
    with sole_use(tmp_path / "out"), pytest.raises(BusyError, match="another run uses this folder"):
        list(relax_all(JOBS, task(tmp_path, resume=resume)))
    assert found(tmp_path / "out") == (2, 2, 2)


def test_a_record_that_cannot_be_written_leaves_no_structure_without_its_line(tmp_path, monkeypatch):
    def full(*about):
        raise OutputError("no space left")

    calls = relax_all(JOBS, task(tmp_path))
    next(calls)
    with monkeypatch.context() as patch:
        patch.setattr(many.record_file, "append", full)
        with pytest.raises(OutputError, match="no space left"):
            next(calls)
    assert found(tmp_path / "out") == (1, 1, 1)
    assert len(list(relax_all(JOBS, task(tmp_path)))) == 2
    assert found(tmp_path / "out") == (2, 2, 2)
