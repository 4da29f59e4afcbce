"""Batched relaxations against single ones, and what a service with a batcher survives: real processes, real models."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from calling import INCAR, TOY, make_folder, record
from serving import STATIC, Service, alive, assert_no_result, has_result, held_until, wait_until

from uspex_bridge.models import inventory, registry
from uspex_bridge.service import wire

DEMO = Path(__file__).parents[2] / "examples" / "demo_weights"
#: Fractional coordinates of up to four atoms, and the volume per atom of a cell that is far from relaxed, Å³.
SITES = np.array([[0.01, 0.02, 0.0], [0.52, 0.48, 0.03], [0.47, 0.01, 0.55], [0.02, 0.51, 0.46]])


def poscar(*counts: int, volume: float = 13.0, seed: int = 0) -> str:
    """A POSCAR of Ca, Fe and Ni atoms in a bent cell, as the MATLAB line writes it."""
    number = sum(counts)
    bent = np.eye(3) + np.random.default_rng(seed).normal(0, 0.05, (3, 3))
    cell = bent * (number * volume / np.linalg.det(bent)) ** (1 / 3)
    rows = ["EA0  batched", "1.0", *(" ".join(f"{x:.6f}" for x in row) for row in cell), " ".join(map(str, counts))]
    return "\n".join([*rows, "Direct", *(" ".join(f"{x:.6f}" for x in site) for site in SITES[:number]), ""])


#: Two to four atoms, of one to three elements: their steps, and when they are in which stage, differ.
POSCARS = [(poscar(1, 2, 1), "CaFeNi"), (poscar(1, 1, seed=1), "FeNi"), (poscar(3, seed=2, volume=11.0), "Fe")]


def elements(word: str) -> tuple[str, ...]:
    return tuple(re.findall("[A-Z][a-z]?", word))


@pytest.fixture(scope="module")
def pair(short):
    """A service that batches and one that relaxes one structure after the other."""
    made = []
    for name, options in (("batch", BATCH), ("single", SINGLE)):
        (short / name).mkdir(0o700)
        made.append(Service(short / name, *options))
    yield made
    for service in made:
        service.close()


BATCH, SINGLE = ("--batch", "--workers", "4"), ("--no-batch", "--workers", "1")
#: Calculator or protocol -> its settings.
KINDS = {
    "toy": TOY + "[calculators.model.options]\nsleep = 0.1\n",
    "chgnet": '[calculators.model]\nkind = "chgnet"\ndevice = "cpu"\n',
    "sevennet": '[calculators.model]\nkind = "sevennet"\ndevice = "cpu"\n',
    "paper": f'[calculators.mace]\nmodel = "{DEMO}/mace-demo-cafeni.model"\ndevice = "cpu"\n'
    f'[calculators.mattersim]\nmodel = "{DEMO}/mattersim-demo-cafeni.pth"\ndevice = "cpu"\n',
}


def relax_all(service: Service, top: Path, kind: str) -> list[dict]:
    """Relax all POSCARS at the same time; return their entries of the record."""
    folds = [
        make_folder(top, poscar=text, symbols=elements(word), settings=None, name=f"CalcFold{k}")
        for k, (text, word) in enumerate(POSCARS, 1)
    ]
    protocol = kind if kind == "paper" else "single"
    (top / "bridge.toml").write_text(f'protocol = "{protocol}"\n' + KINDS[kind])
    calls = [service.start(fold) for fold in folds]
    for process in calls:
        _, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
    assert all(has_result(fold) for fold in folds)
    return sorted(record(folds[0]), key=lambda entry: entry["slot"])


@pytest.mark.parametrize("kind", KINDS)
def test_batched_and_single_relaxations_end_in_the_same_minimum_by_the_same_steps(pair, tmp_path, kind):
    """To the last bits in float64; in float32 these bits decide when a loose target is reached, and a step or a few."""
    for name in ("mace", "mattersim") if kind == "paper" else (kind,):
        if registry.package_version(inventory.cards()[name]) is None:
            pytest.skip(f"{name} is missing")
    together, alone = (relax_all(service, tmp_path / str(k), kind) for k, service in enumerate(pair))
    for one, other in zip(together, alone, strict=True):
        assert one["formula"] == other["formula"]
        assert one["status"] == other["status"] == "converged"
        assert one["models"] == other["models"]
        for stage, reference in zip(one["stages"], other["stages"], strict=True):
            assert stage["outcome"] == reference["outcome"]
            slack = 0.0 if kind == "toy" else max(2.0, 0.3 * reference["steps"])
            assert abs(stage["steps"] - reference["steps"]) <= slack, stage["name"]
        assert abs(one["enthalpy_per_atom"] - other["enthalpy_per_atom"]) < (1e-8 if kind == "toy" else 1e-4)
        assert abs(one["volume"] / other["volume"] - 1) < (1e-6 if kind == "toy" else 1e-3)
    models = pair[0].status()["batchers"][0]["models"].values()
    assert sum(model["evaluations"] for model in models) > sum(model["passes"] for model in models)


def test_a_batcher_killed_in_mid_run_loses_no_structure(own, tmp_path):
    service = own(*BATCH)
    go = tmp_path / "go"
    folds = [make_folder(tmp_path, settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2, 3)]
    calls = [service.start(fold) for fold in folds]
    service.running(3)
    os.kill(service.status()["batchers"][0]["pid"], signal.SIGKILL)
    go.touch()
    for process, fold in zip(calls, folds, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert has_result(fold)
    enthalpies = {round(entry["enthalpy"], 8) for entry in record(folds[0])}
    assert len(enthalpies) == 1
    assert service.status()["events"] == {"batcher_died": 1}
    assert len({entry["key"] for entry in record(folds[0])}) == 1


def test_a_killed_worker_and_a_killed_caller_do_not_hold_up_the_others(own, tmp_path):
    service = own(*BATCH)
    go = tmp_path / "go"
    folds = [make_folder(tmp_path, settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2, 3)]
    calls = [service.start(fold) for fold in folds]
    jobs = {job["folder"]: job["worker"] for job in service.running(3)}
    os.kill(jobs[str(folds[0])], signal.SIGKILL)
    calls[1].kill()
    wait_until(lambda: "abandoned" in service.status()["events"])
    go.touch()
    for process, fold in ((calls[0], folds[0]), (calls[2], folds[2])):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert has_result(fold)
    calls[1].communicate()
    assert_no_result(folds[1])
    wait_until(lambda: not service.status()["running"])
    events = service.status()["events"]
    assert events == {"worker_died": 1, "rerun": 1, "abandoned": 1}


def test_a_structure_that_the_model_cannot_take_fails_alone(own, tmp_path):
    service = own(*BATCH)
    settings = TOY + "[calculators.model.options]\nsleep = 0.05\nraise_below = 9.0\n"
    folds = [
        make_folder(tmp_path, poscar=text, symbols=elements("CaFeNi"), settings=settings if k == 1 else None,
                    name=f"CalcFold{k}", incar=INCAR.replace("PSTRESS=500", "PSTRESS=0"))
        for k, text in enumerate([poscar(1, 2, 1), poscar(1, 2, 1, volume=8.5), poscar(1, 2, 1, seed=4)], 1)
    ]  # fmt: skip
    codes = []
    for process in [service.start(fold) for fold in folds]:
        process.communicate(timeout=120)
        codes.append(process.returncode)
    assert codes == [0, 7, 0]
    assert "told to raise below" in (folds[1] / "bridge.log").read_text()
    assert_no_result(folds[1])
    assert "batcher_died" not in service.status()["events"]


def test_status_tells_of_batches(own, tmp_path):
    service = own(*BATCH)
    assert service.status()["batchers"] == []
    assert "batches: batch = true" in service.tool("status").stdout
    go = tmp_path / "go"
    folds = [
        make_folder(tmp_path, settings=held_until(go, 0.4) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)
    ]
    calls = [service.start(fold) for fold in folds]
    service.running(2)
    wait_until(lambda: service.status()["batchers"][0]["models"].get("model", {}).get("passes", 0) > 3)
    shown = service.tool("status").stdout
    assert re.search(r"batcher \d+.*MB", shown), shown
    assert re.search(r"model.*structures and .*atoms per pass.*evaluations/s", shown), shown
    go.touch()
    for process in calls:
        process.communicate(timeout=120)
    evaluations = sum(stage["evaluations"] for entry in record(folds[0]) for stage in entry["stages"])

    def told() -> bool:
        (batcher,) = json.loads(service.tool("status", "--json").stdout)["batchers"]
        return batcher["models"]["model"]["evaluations"] == evaluations

    wait_until(told)


def test_reload_replaces_the_batcher_too_and_stop_ends_it(own, tmp_path):
    service = own(*BATCH)
    go = tmp_path / "go"
    fold = make_folder(tmp_path, settings=held_until(go))
    running = service.start(fold)
    service.running()
    (before,) = service.status()["batchers"]
    assert service.tool("reload").returncode == 0
    other = make_folder(tmp_path / "other", incar=STATIC)
    assert service.call(other).returncode == 0
    assert before["pid"] in {batcher["pid"] for batcher in service.status()["batchers"]}, (
        "it ends after its last worker"
    )
    go.touch()
    assert running.wait(120) == 0
    running.communicate()
    wait_until(lambda: before["pid"] not in {b["pid"] for b in service.status()["batchers"]})
    wait_until(lambda: not Path(f"/proc/{before['pid']}").exists())
    (after,) = service.status()["batchers"]
    assert service.tool("stop").returncode == 0
    wait_until(lambda: not Path(f"/proc/{after['pid']}").exists())
    assert sorted(path.name for path in service.path.parent.glob("*.b[0-9]*")) == []


def test_the_batcher_is_replaced_after_its_share_of_jobs(own, tmp_path):
    (tmp_path / "service.toml").write_text("[service]\njobs_per_worker = 1\nworkers = 2\nbatch = true\n")
    service = own("--config", str(tmp_path / "service.toml"), "--workers", "2")
    fold = make_folder(tmp_path / "run", incar=STATIC)
    pids = []
    for _ in range(4):
        assert service.call(fold).returncode == 0
        pids += re.findall(r"batcher (\d+)", service.tool("status").stdout)
    assert len(set(pids)) == 2
    assert "batcher_died" not in service.status()["events"]


def test_the_service_killed_takes_its_batcher_with_it(own, tmp_path):
    service = own(*BATCH)
    go = tmp_path / "go"
    process = service.start(make_folder(tmp_path, settings=held_until(go)), **{wire.MODE: "auto"})
    service.running()
    (batcher,) = service.status()["batchers"]
    service.process.kill()
    wait_until(lambda: not alive(batcher["pid"]))
    go.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "converged" in out
