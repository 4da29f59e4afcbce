"""Runs without a service on one GPU. There is none here, but a torch that says otherwise and a toy that believes it."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from calling import INCAR, make_folder, record

from uspex_bridge.base import private

TORCH = """
__version__ = "none"
OutOfMemoryError = MemoryError
def set_num_threads(number): pass
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
"""
CALCULATOR = """
import time
from dataclasses import replace
from uspex_bridge.calculators import toy
from uspex_bridge.models.cards import Card

CARD = Card(kind="timed", title="timed", package="uspex_bridge", module="uspex_bridge", install="", takes_weights=False,
            dtypes=("float64",))

def build(request):
    file = request.options["file"]
    calculator = toy.build(replace(request, options={"sleep": request.options["sleep"]}))
    plain = calculator.evaluate
    def evaluate(structures):
        with open(file, "a") as note:
            print(time.time(), end=" ", file=note)
        found = plain(structures)
        with open(file, "a") as note:
            print(time.time(), file=note)
        return found
    calculator.evaluate = evaluate
    return calculator

batch = toy.batch
"""
STATIC = INCAR.replace("NSW = 400", "NSW = 0")


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """The settings of a calculator that runs on the GPU that is not there."""
    (tmp_path / "path" / "extra").mkdir(parents=True)
    (tmp_path / "path" / "torch.py").write_text(TORCH)
    (tmp_path / "path" / "extra" / "__init__.py").write_text("from extra import timed\n")
    (tmp_path / "path" / "extra" / "timed.py").write_text(CALCULATOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv(private.SOCKET, str(tmp_path / "private" / "service.sock"))

    def settings(sleep: float = 0.5, **more: str) -> str:
        lines = "".join(f"{key} = {value}\n" for key, value in {"gpu_runs": "1", **more}.items())
        calculator = '[calculators.model]\nkind = "extra:timed"\n[calculators.model.options]\n'
        return f'{lines}{calculator}file = "{tmp_path}/times"\nsleep = {sleep}\n'

    return settings


def start(fold: Path) -> subprocess.Popen:
    command = [sys.executable, Path(sys.executable).parent / "uspex-bridge-vasp"]  # its shell part drops PYTHONPATH
    return subprocess.Popen(command, cwd=fold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def folders(tmp_path: Path, settings: str, number: int) -> list[Path]:
    return [
        make_folder(tmp_path / "run", settings=settings if k == 1 else None, incar=STATIC, name=f"CalcFold{k}")
        for k in range(1, number + 1)
    ]


def test_one_run_at_a_time_and_the_others_say_that_they_wait(pretended, tmp_path):
    folds = folders(tmp_path, pretended(), 3)
    said = []
    for process in [start(fold) for fold in folds]:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        said.append(err)
    spans = sorted(tuple(map(float, line.split())) for line in (tmp_path / "times").read_text().splitlines())
    assert len(spans) == 3
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert any("waiting for a turn on GPU 0 (gpu_runs = 1 in bridge.toml)" in err for err in said)
    assert all(err.count("waiting") <= 1 for err in said)
    assert any("turn on GPU 0" in (fold / "bridge.log").read_text() for fold in folds)
    assert record(folds[0])[0]["models"]["model"]["device"] == "cuda:0"


def test_runs_on_the_cpu_do_not_wait(pretended, tmp_path):
    hog, *others = folders(tmp_path, pretended(sleep=60), 2)
    holder = start(hog)
    until(lambda: (tmp_path / "times").exists())
    (tmp_path / "run" / "bridge.toml").write_text('protocol = "single"\n' + pretended(device='"cpu"', sleep=0.0))
    other = start(others[0])
    _, err = other.communicate(timeout=240)
    assert (other.returncode, err) == (0, "")
    holder.kill()
    holder.communicate()


def test_a_killed_run_frees_its_place_and_a_signal_ends_the_wait(pretended, tmp_path):
    hog, halted, next_one = folders(tmp_path, pretended(sleep=60), 3)
    holder = start(hog)
    until(lambda: (tmp_path / "times").exists())
    (tmp_path / "run" / "bridge.toml").write_text('protocol = "single"\n' + pretended(sleep=0.0))
    waiting = [start(fold) for fold in (halted, next_one)]
    until(lambda: all("waiting for a turn" in (fold / "bridge.log").read_text() for fold in (halted, next_one)))
    waiting[0].send_signal(signal.SIGTERM)
    _, err = waiting[0].communicate(timeout=60)
    assert waiting[0].returncode == 10
    assert "while waiting for GPU 0" in err
    assert not (halted / "OSZICAR").exists()
    holder.kill()
    holder.communicate()
    _, err = waiting[1].communicate(timeout=60)
    assert waiting[1].returncode == 0, err
    entry = next(entry for entry in record(hog) if entry["slot"] == next_one.name)
    assert entry["status"] == "converged"
    assert json.dumps(entry)


def until(condition) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
