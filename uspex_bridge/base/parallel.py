"""The same function for many jobs: here one after another, in several processes, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from uspex_bridge.base.errors import ConfigError, ModelError, ServiceError

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Jobs handed out per worker: one at work, one to go on with.
_AHEAD = 2
#: Seconds that a Dask scheduler may take to answer.
_CONNECT = 20
_DIED = (
    "a worker process died: out of memory, or an evaluation that hung beyond the time limit; what is done is kept, "
    "fewer --workers need less memory"
)


def spread(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with what ``function`` returns for it, in the order in which they are done.

    Args:
        function: of a module's top level; it, jobs and results go through pickle, unless all is done here.
        jobs: taken as workers become free, so that a long list is never held.
        workers: processes on this machine; with 1 everything is done in this one.
        scheduler: address of a Dask scheduler, or its scheduler file (``*.json``), whose workers are taken instead.

    Raises:
        ConfigError: the package distributed is missing.
        ServiceError: the scheduler does not answer.
        ModelError: a worker process died.
        Exception: what ``function`` raises.
    """
    if scheduler is not None:
        yield from _on_cluster(function, jobs, scheduler)
    elif workers == 1:
        for job in jobs:
            yield job, function(job)
    else:
        yield from _in_processes(function, jobs, workers)


def _in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    rest = iter(jobs)
    pending: dict[Future[Result], Job] = {}
    try:
        while True:
            for job in islice(rest, _AHEAD * workers - len(pending)):
                pending[pool.submit(function, job)] = job
            if not pending:
                return
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(done), done.result()
    except BrokenProcessPool:
        raise ModelError(_DIED) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(function: Callable[[Job], Result], jobs: Iterable[Job], scheduler: str) -> Iterator[tuple[Job, Result]]:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(f"--scheduler needs the package distributed ({error}); pip install distributed") from None
    where: dict[str, Any] = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = distributed.Client(**where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ServiceError(f"the Dask scheduler at {scheduler} does not answer: {error}") from None
    rest = iter(jobs)
    pending: dict[Any, Job] = {}
    try:
        finished = distributed.as_completed(loop=client.loop)
        while True:
            places = _AHEAD * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
            for job in islice(rest, max(0, places - len(pending))):
                future = client.submit(function, job, pure=False)
                pending[future] = job
                finished.add(future)
            if not pending:
                return
            done = next(finished)
            yield pending.pop(done), done.result()
    except distributed.KilledWorker:
        raise ModelError(_DIED) from None
    finally:
        client.cancel(list(pending))
        client.close()
