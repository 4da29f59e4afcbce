"""What the service tells of itself."""

from uspex_bridge.cli.status import describe
from uspex_bridge.service.stats import Stats


def status():
    stats = Stats()
    stage = {"calculator": "mace", "model": 'odd "name"', "evaluations": 40, "seconds": 2.0}
    stats.ended(0, {"status": "converged", "stages": [stage, stage]}, 1.0, 5.0)
    stats.ended(6, {"status": "rejected", "code": "collapse"}, 0.5, 0.5)
    stats.ended(3, {}, 0.0, 0.1)
    workers = [{"pid": 11, "state": "busy", "jobs": 2, "models": ["mace"], "memory_mb": 500.0}]
    passes = {"passes": 20, "evaluations": 80, "atoms": 640, "seconds": 3.0, "overflows": 1}
    lately = {"per_second": 8.5, "structures_per_pass": 4.0, "atoms_per_pass": 32.0, "busy": 0.75}
    batcher = {
        "pid": 12,
        "device": "cuda:1",
        "relaxations": 5,
        "waiting": 1,
        "loading": "mattersim",
        "memory_mb": 900.0,
        "models": {'mace odd "name"': {**passes, **lately, "device": "cuda:1"}},
        "gpu_mb": {"cuda:1": 2048.0},
        "gpu_total_mb": {"cuda:1": 8192.0},
    }
    running = [{"job": 4, "folder": "/a/CalcFold1", "worker": 11, "seconds": 75.0, "formula": "MgO"}]
    return {
        **stats.summary(),
        "pid": 10,
        "version": "0.1.0",
        "memory_mb": 30.0,
        "listens": "/tmp/x.sock",
        "stopping": False,
        "queued": 3,
        "longest_wait_s": 4000.0,
        "most_workers": 2,
        "workers": workers,
        "batchers": [batcher],
        "shape": "batches: PyTorch finds 2 GPUs",
        "running": running,
    }


def test_failures_go_by_reason_and_models_by_name():
    told = status()
    assert told["jobs"] == 3
    assert told["outcomes"] == {"converged": 1, "rejected": 1, "failed": 1}
    assert told["failures"] == {"collapse": 1, "InputError": 1}
    assert told["models"] == {'mace odd "name"': {"evaluations": 80, "seconds": 4.0}}
    assert told["per_minute"] > 0


def test_the_screen_says_it_in_words():
    text = describe(status())
    for words in (
        "3 queued (longest 1 h 06 min)",
        "1 running",
        "failures: 1 InputError, 1 collapse",
        "MgO starting",
        "50.0 ms each",
        "1430 MB in all; batches: PyTorch finds 2 GPUs",
        "batcher 12: 5 relaxations, 900 MB, 2048 of 8192 MB of cuda:1; loading mattersim",
        'mace odd "name" on cuda:1: 4 structures and 32 atoms per pass, 8.5 evaluations/s, 75 % busy, '
        "ran out of memory 1 times",
    ):
        assert words in text
