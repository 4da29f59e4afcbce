"""Turns on a GPU: how many at once, who waits, and whose place is freed."""

import logging
import os
import subprocess
import sys

import pytest

from uspex_bridge.base import private
from uspex_bridge.base.errors import Interrupted, ModelError
from uspex_bridge.call.gpu_turns import take_turn
from uspex_bridge.models import inventory
from uspex_bridge.models.cards import CalculatorSettings

LOG = logging.getLogger("turns")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The user's private folder."""
    place = tmp_path / "private"
    monkeypatch.setenv(private.SOCKET, str(place / "service.sock"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return place


class Patience:
    """Gives up after so many looks."""

    def __init__(self, looks):
        self.looks = looks

    def __call__(self):
        self.looks -= 1
        return "signal" if self.looks < 0 else None


def test_as_many_as_there_are_places_and_the_next_one_waits(caplog, folder):
    held = [take_turn(["cuda:0", "cpu"], 2, LOG, Patience(0))[0] for _ in range(2)]
    with pytest.raises(Interrupted, match="waiting for GPU 0; nothing was written"):
        take_turn(["cuda:0"], 2, LOG, Patience(2))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["waiting for a turn on GPU 0 (gpu_runs = 2 in bridge.toml)"]
    held[1].close()
    _, waited = take_turn(["cuda:0"], 2, LOG, Patience(0))
    assert waited < 5
    assert folder.stat().st_mode & 0o777 == 0o700


def test_other_gpus_and_the_cpu_have_nothing_to_do_with_it(folder):
    turns = [take_turn([device], 1, LOG, Patience(0)) for device in ("cuda:0", "cuda:1", "cpu", "cpu")]
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(Interrupted):
        take_turn(["cuda:1", "cuda:2"], 1, LOG, Patience(1))
    del turns
    take_turn(["cuda:2", "cuda:1"], 1, LOG, Patience(0))


def test_gpus_are_known_by_what_is_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e2a")
    held = take_turn(["cuda:0", "cuda:1"], 1, LOG, Patience(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5e2a")
    with pytest.raises(Interrupted, match="GPU-5e2a"):
        take_turn(["cuda:0"], 1, LOG, Patience(1))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(Interrupted, match="GPU 3"):
        take_turn(["cuda:3"], 1, LOG, Patience(1))
    take_turn(["cuda:0"], 1, LOG, Patience(0))
    held[0].close()


def test_who_is_killed_frees_its_place():
    code = (
        "import logging, time\nfrom uspex_bridge.call.gpu_turns import take_turn\n"
        "held = take_turn(['cuda:0'], 1, logging.getLogger(), lambda: None)\nprint('on', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"on\n"
    with pytest.raises(Interrupted):
        take_turn(["cuda:0"], 1, LOG, Patience(1))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    take_turn(["cuda:0"], 1, LOG, Patience(0))


def test_a_folder_of_somebody_elses_is_no_reason_to_fail(folder, caplog):
    folder.mkdir(mode=0o777)
    os.chmod(folder, 0o777)
    take_turn(["cuda:0"], 1, LOG, Patience(0))
    assert "must be mode" in caplog.text


def test_which_device_a_calculator_runs_on():
    assert inventory.device_of("toy", CalculatorSettings()) == "cpu"
    assert inventory.device_of("mace", CalculatorSettings(device="cpu")) == "cpu"
    elsewhere = {device: CalculatorSettings(python="/other", device=device) for device in ("auto", "cuda", "cuda:1")}
    assert [inventory.device_of("mace", settings) for settings in elsewhere.values()] == ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(ModelError, match="toy runs on the CPU only"):
        inventory.device_of("toy", CalculatorSettings(device="cuda"))
