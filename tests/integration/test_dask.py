"""The service on the workers of a Dask scheduler: real processes, some of them killed on purpose."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from calling import SLOW, TOY, call, make_folder, record
from serving import assert_no_result, has_result, held_until, same_as_alone, wait_until

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """A scheduler that forgives one death, and two workers, each a process that is started anew when it dies."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    yield local
    local.close()


@pytest.fixture
def service(own, cluster):
    return own("--dask", cluster.scheduler_address)


def dask_pids(cluster) -> dict[str, int]:
    """Return the process ID of each Dask worker by address."""
    with distributed.Client(cluster, set_as_default=False) as client:
        return client.run(os.getpid)


def total(cluster, what: str) -> int:
    """Return how many jobs (``_halters``) or models (``_models.names``) the Dask workers have."""
    code = f"__import__('uspex_bridge.service.dask_pool', fromlist=['x']).{what}"
    with distributed.Client(cluster, set_as_default=False) as client:
        return sum(client.run(lambda: len(eval(code))).values())


def test_files_output_and_record_are_those_of_a_call_alone(service, cluster, tmp_path):
    same_as_alone(service, tmp_path)
    status = service.status()
    assert status["dask"] == cluster.scheduler_address
    assert {about["dask"] for about in status["workers"]} == set(dask_pids(cluster))
    assert all(about["memory_mb"] > 1 for about in status["workers"])
    assert f"with the Dask scheduler at {cluster.scheduler_address}: workers on" in service.tool("status").stdout


def test_a_dask_worker_killed_in_mid_relaxation_loses_no_structure(service, cluster, tmp_path):
    settings = TOY + "[calculators.model.options]\nsleep = 0.03\n"
    folds = [make_folder(tmp_path, settings=settings, name=f"CalcFold{k}") for k in range(6)]
    calls = [service.start(fold) for fold in folds]
    running = service.running(2)
    os.kill(dask_pids(cluster)[running[0]["worker"]], signal.SIGKILL)
    for process in calls:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    alone = make_folder(tmp_path / "alone", settings=settings)
    assert call(alone, "--server", "off").returncode == 0
    for fold in folds:
        assert has_result(fold)
        assert (fold / "CONTCAR").read_text() == (alone / "CONTCAR").read_text()
    entries = record(folds[0])
    assert sorted(entry["slot"] for entry in entries) == sorted(fold.name for fold in folds)
    assert {entry["status"] for entry in entries} == {"converged"}


def test_a_structure_that_takes_its_workers_down_fails_alone(service, cluster, tmp_path):
    go = tmp_path / "go"
    fold, other = (make_folder(tmp_path / n, settings=held_until(go)) for n in ("poisonous", "other"))
    poisonous, sound = service.start(fold), service.start(other)

    def worker() -> list[str]:
        return [job["worker"] for job in service.status()["running"] if job["folder"] == str(fold) and "stage" in job]

    seen = set()
    for _ in range(2):
        wait_until(lambda: set(worker()) - seen)
        (address,) = worker()
        seen.add(address)
        os.kill(dask_pids(cluster)[address], signal.SIGKILL)
    go.touch()
    _, err = poisonous.communicate(timeout=60)
    assert poisonous.returncode == 7
    assert "several workers died with this structure" in err
    assert_no_result(fold)
    assert record(fold)[0]["code"] == "CalculationError"
    _, err = sound.communicate(timeout=60)
    assert sound.returncode == 0, err
    assert has_result(other)


def test_signals_and_killed_callers_reach_the_run(service, tmp_path):
    halted, killed = (make_folder(tmp_path / n, settings=SLOW) for n in ("halted", "killed"))
    first, second = service.start(halted), service.start(killed)
    service.running(2)
    first.send_signal(signal.SIGTERM)
    second.kill()
    out, err = first.communicate(timeout=60)
    second.communicate()
    assert (first.returncode, out) == (10, "")
    assert "stopped by a signal" in err
    wait_until(lambda: not service.status()["running"])
    assert_no_result(halted)
    assert_no_result(killed)
    assert "caller was killed" in record(killed)[0]["reason"]


def test_jobs_end_with_their_service(service, cluster, tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    process = service.start(fold)
    service.running()
    assert total(cluster, "_halters") == 1
    service.process.kill()
    process.kill()
    process.communicate()
    wait_until(lambda: total(cluster, "_halters") == 0)
    assert_no_result(fold)
    assert "caller was killed" in record(fold)[0]["reason"]


def test_a_folder_that_is_another_one_there(tmp_path):
    from uspex_bridge.service import dask_pool

    assert "must be shared" in dask_pool._not_there(str(tmp_path), 1)
    assert "must be shared" in dask_pool._not_there(str(tmp_path / "none"), 1)
    assert dask_pool._not_there(str(tmp_path), tmp_path.stat().st_ino) == ""


def test_models_are_loaded_anew_after_a_reload(service, cluster, tmp_path):
    assert service.call(make_folder(tmp_path)).returncode == 0

    assert total(cluster, "_models.names") >= 1
    assert service.tool("reload").stdout == "2 workers will be replaced\n"
    wait_until(lambda: total(cluster, "_models.names") == 0)


def test_a_scheduler_that_does_not_answer_is_said(tmp_path):
    done = serve(tmp_path, "--dask", "tcp://127.0.0.1:9")
    assert done.returncode == 11
    assert "no Dask scheduler at tcp://127.0.0.1:9" in done.stderr
    done = serve(tmp_path, "--dask", "nowhere.json")
    assert done.returncode == 11
    assert "no such scheduler file" in done.stderr


def test_without_the_package_it_says_how_to_get_it(tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError('not here')\n")
    done = serve(tmp_path, "--dask", "tcp://127.0.0.1:9", PYTHONPATH=str(tmp_path))
    assert done.returncode == 11
    assert "uspex_bridge[cluster]" in done.stderr


def serve(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uspex_bridge.cli.main", "serve", "--socket", str(tmp_path / "s" / "sock")]
    return subprocess.run(
        [*command, *options],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_lost_scheduler_ends_the_service_and_callers_go_on_by_themselves(own, tmp_path):
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as lost:
        service = own("--dask", lost.scheduler_address)
        assert service.call(make_folder(tmp_path / "a")).returncode == 0
        lost.close()
        service.process.wait(90)
    assert "scheduler" in Path(f"{service.path}.log").read_text()
