"""Which shape a service takes on which machine, and what it says of it."""

import pytest

from uspex_bridge.call.config import Config, ServiceSettings
from uspex_bridge.service import shape


def choose(monkeypatch, gpus, device="auto", **service):
    monkeypatch.setattr(shape, "count_gpus", lambda: gpus)
    monkeypatch.setattr(shape.os, "sched_getaffinity", lambda pid: set(range(8)))
    return shape.choose_shape(Config(device=device, threads=2, service=ServiceSettings(**service)))


@pytest.mark.parametrize(
    ("gpus", "settings", "workers", "devices", "words"),
    [
        (0, {}, 4, (), "no GPU"),
        (1, {}, 32, ("",), "PyTorch finds 1 GPU"),
        (3, {}, 96, ("cuda:0", "cuda:1", "cuda:2"), "PyTorch finds 3 GPUs"),
        (3, {"device": "cuda:1"}, 32, ("",), "PyTorch finds 3 GPUs"),
        (3, {"device": "cpu"}, 4, (), "device = 'cpu', and on CPUs"),
        (0, {"batch": True}, 32, ("",), "batch = true"),
        (1, {"batch": False}, 4, (), "batch = false"),
        (1, {"workers": 5}, 5, ("",), "PyTorch finds 1 GPU"),
    ],
)
def test_the_shape_follows_from_gpus_and_settings(monkeypatch, gpus, settings, workers, devices, words):
    found = choose(monkeypatch, gpus, **settings)
    assert (found.workers, found.devices) == (workers, devices)
    assert words in found.why


def test_without_a_driver_nobody_asks_pytorch(monkeypatch):
    monkeypatch.setattr(shape, "_DRIVERS", ("/no/such/driver",))
    monkeypatch.setattr(shape.subprocess, "run", None)
    assert shape.count_gpus() == 0


def test_pytorch_is_asked_where_there_is_one(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: True)\n    device_count = staticmethod(lambda: 2)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(shape, "_DRIVERS", (str(tmp_path),))
    assert shape.count_gpus() == 2
    (tmp_path / "torch.py").write_text("raise ImportError('broken')\n")
    assert shape.count_gpus() == 0
