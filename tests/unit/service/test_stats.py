"""What the service tells of itself."""

import re

from uspex_bridge.cli.status import describe
from uspex_bridge.service.stats import Stats, Tally, metrics, resident_mb


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
        "listens": ["/tmp/x.sock"],
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


def test_metrics_are_prometheus_text():
    text = metrics(status())
    sample = re.compile(r'uspex_bridge_[a-z_]+(\{[a-z]+="(\\.|[^"\\])*"\})? [-+0-9.e]+')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line), line
    assert 'uspex_bridge_failures_total{reason="collapse"} 1' in text
    assert 'uspex_bridge_model_evaluations_total{model="mace odd \\"name\\""} 80' in text
    assert "uspex_bridge_queue_length 3" in text
    assert 'uspex_bridge_resident_bytes{pid="11"} 524288000' in text
    assert 'uspex_bridge_batch_passes_total{model="mace odd \\"name\\""} 20' in text
    assert 'uspex_bridge_gpu_bytes{device="cuda:1"} 2147483648' in text
    assert len(re.findall("^# TYPE", text, re.M)) == len(set(re.findall("^# TYPE (.*)$", text, re.M)))


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


def test_passes_are_counted_and_averaged():
    tally = Tally()
    assert tally.summary()["structures_per_pass"] == 0
    tally.passed(4, 40, 0.5)
    tally.passed(2, 10, 0.25)
    told = tally.summary()
    assert (told["passes"], told["evaluations"], told["atoms"], told["seconds"]) == (2, 6, 50, 0.75)
    assert (told["structures_per_pass"], told["atoms_per_pass"]) == (3.0, 25.0)
    assert told["per_second"] <= 6.0
    assert 0 < told["busy"] <= 1


def test_memory_of_a_process_that_is_not_there():
    assert resident_mb("self") > 5
    assert resident_mb(2**30) is None
