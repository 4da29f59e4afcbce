"""The same function for many jobs, in several processes and on a Dask cluster."""

import itertools
import math
import subprocess
import sys
import threading
import time

import pytest
from serving import alive, wait_until

from uspex_bridge.base.errors import CalculationError, Interrupted, ModelError, ServiceError
from uspex_bridge.base.parallel import spread


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_comes_back_with_its_result(workers):
    assert dict(spread(math.sqrt, range(20), workers)) == {k: math.sqrt(k) for k in range(20)}


def test_jobs_are_taken_as_they_are_needed():
    taken = itertools.count()
    done = spread(math.sqrt, (float(k) for k in taken), 2)
    assert len(list(itertools.islice(done, 6))) == 6
    done.close()
    assert next(taken) <= 10


def test_what_the_function_raises_ends_it():
    with pytest.raises(ValueError, match="math domain error"):
        list(spread(math.sqrt, [4.0, -1.0], 2))


#: Functions for workers, in a module that they can import.
MODULE = """
import os, pathlib, signal, time

def poisonous(job):
    if job == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * job

def once(path):
    file = pathlib.Path(path)
    if not file.exists():
        file.touch()
        os._exit(3)
    return "done"

def hung(job):
    os._exit(10)

def sleeping(path):
    pathlib.Path(path, str(os.getpid())).touch()
    time.sleep(600)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "for_workers.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    import for_workers

    yield for_workers
    del sys.modules["for_workers"]


def test_a_structure_with_which_two_workers_die_fails_alone(functions):
    done = dict(spread(functions.poisonous, [1, 2, 3, 4], 2))
    error = done.pop(2)
    assert done == {1: 10, 3: 30, 4: 40}
    assert isinstance(error, CalculationError)
    assert str(error) == "the worker process was ended by signal 9, twice with this structure"


def test_a_worker_that_dies_costs_time_only(functions, tmp_path):
    paths = [str(tmp_path / name) for name in "abc"]
    assert dict(spread(functions.once, paths, 2)) == dict.fromkeys(paths, "done")


def test_an_evaluation_that_hung_is_not_repeated(functions):
    ((_, error),) = spread(functions.hung, [1], 2)
    assert isinstance(error, Interrupted)


def test_workers_that_do_not_start_are_said(monkeypatch):
    import multiprocessing.spawn

    executable = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(ModelError, match="worker processes do not start: one ended with exit code 1"):
            list(spread(math.sqrt, [1.0], 2))
    finally:
        multiprocessing.set_executable(executable)


def test_workers_end_with_their_parent(functions, tmp_path):
    code = (
        "import sys\nfrom uspex_bridge.base.parallel import spread\nimport for_workers\n"
        "if __name__ == '__main__':\n    list(spread(for_workers.sleeping, [sys.argv[1]] * 2, 2))"
    )
    (tmp_path / "script.py").write_text(code)
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(pids)])
    wait_until(lambda: len(list(pids.iterdir())) == 2)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(int(path.name)) for path in pids.iterdir()))


def test_the_workers_of_a_dask_scheduler():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        assert dict(spread(math.sqrt, range(20), scheduler=address)) == {k: math.sqrt(k) for k in range(20)}
        assert [job for job, _ in spread(time.sleep, [0.4, 0.01], scheduler=address)] == [0.01, 0.4]
        with pytest.raises(ValueError, match="math domain error"):
            list(spread(math.sqrt, [-1.0], scheduler=address))


def test_a_scheduler_that_is_not_there(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("uspex_bridge.base.parallel._CONNECT", 1)
    with pytest.raises(ServiceError, match="does not answer"):
        list(spread(math.sqrt, [1.0], scheduler="tcp://127.0.0.1:9"))


def test_a_scheduler_that_dies_is_said(functions, tmp_path):
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--nworkers", "1"]
    worker = subprocess.Popen([*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    try:
        wait_until(file.exists)
        pids = tmp_path / "pids"
        pids.mkdir()
        killing = threading.Thread(target=lambda: (wait_until(lambda: list(pids.iterdir())), scheduler.kill()))
        killing.start()
        with pytest.raises(ServiceError, match=r"is gone; what is done is kept"):
            list(spread(functions.sleeping, [str(pids)], scheduler=str(file)))
        killing.join()
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
