"""The same function for many jobs, in several processes and on a Dask cluster."""

import itertools
import math
import os
import time

import pytest

from uspex_bridge.base.errors import ModelError, ServiceError
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


def test_a_worker_that_dies_is_said():
    with pytest.raises(ModelError, match="a worker process died"):
        list(spread(os._exit, [3], 2))


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
