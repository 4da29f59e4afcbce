"""Calls through the service beside calls alone, and how they are ended: real processes, the toy potential."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from calling import INCAR, POSCAR, SLOW, TOY, call, leave_stale_outputs, make_folder, record
from serving import STATIC, assert_no_result, has_result, held_until, same_as_alone, wait_until

from uspex_bridge.service import wire
from uspex_bridge.service.students import EVERY


def test_files_output_and_record_are_those_of_a_call_without_service(shared, tmp_path):
    same_as_alone(shared, tmp_path)


def test_options_and_environment_are_the_callers(shared, tmp_path, monkeypatch):
    (tmp_path / "home" / "uspex_bridge").mkdir(parents=True)
    (tmp_path / "home" / "uspex_bridge" / "bridge.toml").write_text('steps = "all"\nprotocol = "single"\n' + TOY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(shared.environment, "XDG_CONFIG_HOME", str(tmp_path / "home"))
    old = os.umask(0o077)
    try:
        same_as_alone(shared, tmp_path, "--stages", "2", settings=None)
    finally:
        os.umask(old)


def test_relative_paths_are_the_callers(shared, tmp_path):
    fold = make_folder(tmp_path, settings=None)
    (tmp_path / "other.toml").write_text('protocol = "single"\nstages = "1"\n' + TOY)
    done = shared.call(tmp_path, "CalcFold1", "--config", "other.toml")
    assert done.returncode == 0, done.stderr
    assert [stage["name"] for stage in record(fold)[0]["stages"]] == ["robust"]


@pytest.mark.parametrize(
    "change",
    [
        {"poscar": POSCAR.replace("0.520000", "0.52x0")},
        {"settings": "protocl = 'paper'\n"},
        {"settings": TOY + 'device = "cuda"\n'},
        {"poscar": POSCAR.replace("4.100000", "0.100000")},
        {"settings": TOY + "[calculators.model.options]\nraise_after = 5\n"},
        {"incar": INCAR + "LORBIT = 11\nMAGMOM = 4*1\n"},
    ],
)
def test_failures_and_warnings_are_those_of_a_call_without_service(shared, tmp_path, change):
    same_as_alone(shared, tmp_path, prepare=leave_stale_outputs, **change)


def test_a_wrong_option_is_said_by_the_command(shared, tmp_path):
    same_as_alone(shared, tmp_path, "--threads", "many")


def test_the_external_executable(shared, tmp_path):
    def prepare(fold: Path) -> None:
        (fold / "POSCAR").rename(fold / "geom.in")
        (fold / "INCAR").rename(fold / "usercode.in")

    same_as_alone(shared, tmp_path, kind="uspex-bridge-external", prepare=prepare)


def test_chgnet_gives_the_same_bytes_from_a_warm_model(shared, tmp_path):
    chgnet = '[calculators.model]\nkind = "chgnet"\ndevice = "cpu"\n'
    warming = make_folder(tmp_path / "first", incar=INCAR.replace("400", "3"), settings=chgnet)
    assert shared.call(warming).returncode == 0
    same_as_alone(shared, tmp_path, incar=INCAR.replace("400", "6"), settings=chgnet)


def test_a_signal_ends_a_call_without_a_result(shared, tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    process = shared.start(fold)
    shared.running()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 10, err
    assert out == ""
    assert_no_result(fold)
    assert "stopped by a signal" in record(fold)[0]["reason"]


def test_the_time_limit_counts_from_the_start_of_the_job(own, tmp_path):
    service = own("--workers", "1")
    first = service.start(make_folder(tmp_path, settings=SLOW, name="CalcFold1"), "--time-limit", "3")
    service.running()
    fold = make_folder(tmp_path, settings=None, name="CalcFold2")
    done = service.call(fold, "--time-limit", "2")
    assert first.wait(60) == 0
    assert done.returncode == 0, done.stderr
    entries = {entry["slot"]: entry for entry in record(fold)}
    assert entries["CalcFold1"]["reason"] == "time limit reached in stage 'accurate'"
    assert entries["CalcFold2"]["stages"]


def test_a_signal_in_the_queue_leaves_nothing(own, tmp_path):
    service = own("--workers", "1")
    first = service.start(make_folder(tmp_path, settings=SLOW, name="CalcFold1"))
    service.running()
    fold = make_folder(tmp_path, settings=None, name="CalcFold2")
    leave_stale_outputs(fold)
    second = service.start(fold)
    wait_until(lambda: service.status()["queued"] == 1)
    assert_no_result(fold)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 10
    assert "queue" in err
    assert "queue" in (fold / "bridge.log").read_text()
    assert_no_result(fold)
    first.kill()
    first.communicate()


def test_a_killed_caller_leaves_no_files_and_its_folder_free(shared, tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    process = shared.start(fold)
    shared.running()
    process.kill()
    process.communicate()
    wait_until(lambda: not shared.status()["running"])
    assert_no_result(fold)
    assert "caller was killed" in record(fold)[0]["reason"]
    process = shared.start(fold)
    shared.running()
    process.kill()
    process.communicate()
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    assert shared.call(fold).returncode == 0, "the next call waits for the cancelled one"
    assert has_result(fold)


def test_a_killed_callers_job_is_finished_where_that_is_set(own, tmp_path):
    (tmp_path / "service.toml").write_text('[service]\non_disconnect = "finish"\n')
    service = own("--config", str(tmp_path / "service.toml"))
    go = tmp_path / "go"
    fold = make_folder(tmp_path / "run", settings=held_until(go))
    process = service.start(fold)
    service.running()
    process.kill()
    process.communicate()
    wait_until(lambda: service.status()["callers"] == 1)  # the one that asks
    go.touch()
    wait_until(lambda: has_result(fold))
    wait_until(lambda: service.status()["jobs"] == 1)
    assert record(fold)[0]["status"] == "converged"


def test_one_folder_takes_one_run_at_a_time(shared, tmp_path):
    go = tmp_path / "go"
    fold = make_folder(tmp_path, settings=held_until(go))
    first = shared.start(fold)
    shared.running()
    second = shared.call(fold)
    assert second.returncode == 9
    assert "another run uses this folder" in second.stderr
    linked = tmp_path / "CalcFold2"
    linked.symlink_to(fold)
    assert shared.call(linked).returncode == 9
    assert call(fold, "--server", "off").returncode == 9
    go.touch()
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert "converged" in out


def test_the_client_stays_small(shared, tmp_path):
    fold = make_folder(tmp_path, incar=STATIC)
    code = (
        "import atexit, os, sys\nos._exit = sys.exit\n"
        "def tell():\n    peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "    print(*peak, sorted(sys.modules))\natexit.register(tell)\n"
    )
    environment = {**shared.environment, wire.MODE: "require"}

    def measure(rest: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code + rest], cwd=fold, env=environment, capture_output=True, text=True, check=False
        )
        memory, modules = done.stdout.splitlines()[-1].split(" ", 1)
        return int(memory), modules

    bare, _ = measure("pass")
    served, modules = measure("from uspex_bridge.cli.entry import enter; enter('vasp', [])")
    assert has_result(fold)
    for heavy in ("numpy", "ase", "click", "torch", "tomllib", "logging", "asyncio", "typing"):
        assert f"'{heavy}'" not in modules
    assert served < bare + 3000


def test_the_service_looks_after_the_student_of_a_search(own, tmp_path):
    """What it waits for goes to the service's log."""
    service = own()
    fold = make_folder(tmp_path, incar=STATIC, settings=TOY + '[student]\ndistill = "auto"\n')
    settings = tmp_path / "bridge.toml"
    settings.write_text(settings.read_text().replace("single", "student"))
    for _ in range(EVERY):
        assert service.call(fold).returncode == 0
    log = service.path.with_name("service.sock.log")
    wait_until(lambda: f"{tmp_path}: no student is in use; " in log.read_text())
    assert {line["student"] for line in record(fold)} <= {"none", "held out"}
