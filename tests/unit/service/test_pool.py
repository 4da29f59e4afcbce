"""The queue and its workers, with processes that do in milliseconds what workers do, or die of it."""

import asyncio
import logging
import os
import sys

import pytest

from uspex_bridge.service.pool import Job, LocalPool

#: argv[0] of a job: what to do, and for some a file that remembers that it was done.
SCRIPT = """
import json, os, sys, time
def tell(**message):
    print(json.dumps(message), flush=True)
tell(event="ready")
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] != "run":
        continue
    what, *rest = order["argv"]
    number = order["job"]
    if order.get("verdict") and what != "die-always":
        tell(job=number, event="err", text=order["verdict"]["message"])
        what = "exit7"
    else:
        tell(job=number, event="out", text=str(os.getpid()))
    tell(job=number, event="progress", stage="robust", step=3, fmax=0.5, formula="CaFe2Ni")
    if what.startswith("die"):
        if what != "die-once" or not os.path.exists(rest[0]):
            open(rest[0], "w").close()
            print("about to die", file=sys.stderr, flush=True)
            os._exit(10 if what == "die-hung" else 1)
    if what == "garbage":
        print("not a message", flush=True)
        time.sleep(60)
    if what == "wait":
        while not os.path.exists(rest[0]):
            if json.loads(sys.stdin.readline())["do"] in ("halt", "cancel"):
                break
    code = int(what[4:]) if what.startswith("exit") else 0
    tell(job=number, event="end", exit=code, models=["toy"], entry={"status": "converged", "stages": [
        {"calculator": "toy", "model": "", "evaluations": 5, "seconds": 0.5}]} if code == 0 else {"code": "collapse"})
"""


class Caller:
    """What a caller would hear."""

    def __init__(self):
        self.heard = []
        self.over = asyncio.Event()

    def tell(self, message):
        self.heard.append(message)
        if message["event"] in ("end", "failed", "declined"):
            self.over.set()

    async def last(self):
        await asyncio.wait_for(self.over.wait(), 30)
        return self.heard[-1]


def with_pool(play, size=2, jobs_per_worker=100, command=None):
    """Run the coroutine ``play(pool, submit)``."""

    async def scene():
        pool = LocalPool(
            command or [sys.executable, "-c", SCRIPT],
            size,
            jobs_per_worker,
            dict(os.environ),
            logging.getLogger("test"),
        )
        places = iter(range(1000))

        def submit(*argv, place=None):
            caller = Caller()
            job = Job({"argv": list(argv)}, "/somewhere", place or (0, next(places)), caller.tell)
            pool.submit(job)
            return job, caller

        try:
            return await play(pool, submit)
        finally:
            await pool.close()
            assert pool.workers == []

    return asyncio.run(scene())


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_first_come_first_served_and_workers_only_as_needed(tmp_path):
    async def play(pool, submit):
        _, first = submit("exit0")
        assert await first.last() == {"event": "end", "exit": 0}
        assert len(pool.workers) == 1
        order = []
        callers = [submit("exit0") for _ in range(6)]
        for number, (_, caller) in enumerate(callers):
            caller.over.set = lambda number=number, was=caller.over.set: (order.append(number), was())
        for _, caller in callers:
            await caller.last()
        assert order == sorted(order)
        assert len(pool.workers) == 1
        return pool.stats.summary()

    summary = with_pool(play, size=1)
    assert summary["jobs"] == 7
    assert summary["outcomes"] == {"converged": 7}
    assert summary["models"] == {"toy": {"evaluations": 35, "seconds": 3.5}}


def test_status_tells_what_runs(tmp_path):
    go = tmp_path / "go"

    async def play(pool, submit):
        _, caller = submit("wait", str(go))
        await until(lambda: pool.describe()["running"][:1] and "stage" in pool.describe()["running"][0])
        seen = pool.describe()
        go.touch()
        pool.halt(pool.workers[0].job)
        await caller.last()
        return seen, pool.describe()

    during, after = with_pool(play)
    (running,) = during["running"]
    assert (running["formula"], running["stage"], running["step"], running["fmax"]) == ("CaFe2Ni", "robust", 3, 0.5)
    assert [worker["state"] for worker in during["workers"]] == ["busy"]
    assert after["running"] == []
    assert after["workers"][0]["models"] == ["toy"]
    assert after["workers"][0]["memory_mb"] > 1


def test_a_job_whose_worker_dies_runs_once_more(tmp_path):
    async def play(pool, submit):
        _, caller = submit("die-once", str(tmp_path / "died"))
        assert await caller.last() == {"event": "end", "exit": 0}
        return pool.stats.events

    assert with_pool(play) == {"worker_died": 1, "rerun": 1}


def test_the_second_death_is_the_verdict_and_takes_nobody_else_down(tmp_path):
    async def play(pool, submit):
        _, poisonous = submit("die", str(tmp_path / "a"))
        others = [submit("exit0")[1] for _ in range(4)]
        assert await poisonous.last() == {"event": "end", "exit": 7}
        verdict = poisonous.heard[-2]["text"]
        assert "twice with this structure" in verdict
        assert "about to die" in verdict
        assert [await other.last() for other in others] == [{"event": "end", "exit": 0}] * 4
        return pool.stats

    stats = with_pool(play)
    assert stats.events["worker_died"] == 2
    assert stats.failures == {"collapse": 1}


def test_a_hung_evaluation_is_not_tried_again(tmp_path):
    async def play(pool, submit):
        _, caller = submit("die-hung", str(tmp_path / "a"))
        await caller.last()
        return pool.stats.events["worker_died"], caller.heard[-2]["text"]

    deaths, text = with_pool(play)
    assert deaths == 1
    assert "exceeded the time limit" in text


def test_a_job_that_cannot_even_be_given_up_is_reported_to_its_caller(tmp_path):
    async def play(pool, submit):
        _, caller = submit("die-always", str(tmp_path / "a"))
        return await caller.last()

    message = with_pool(play)
    assert message["event"] == "failed"
    assert message["error"] == "CalculationError"


def test_a_worker_that_talks_nonsense_is_ended(tmp_path):
    async def play(pool, submit):
        _, caller = submit("garbage")
        return await caller.last(), pool.stats.events["worker_died"]

    message, deaths = with_pool(play)
    assert message == {"event": "end", "exit": 7}
    assert deaths == 2


@pytest.mark.parametrize("command", [["/no/such/program"], [sys.executable, "-c", "raise SystemExit('no torch here')"]])
def test_workers_that_do_not_start_give_the_jobs_back(command):
    async def play(pool, submit):
        callers = [submit("exit0")[1] for _ in range(3)]
        told = [await caller.last() for caller in callers]
        told.append(await submit("exit0")[1].last())
        return told

    for message in with_pool(play, command=command):
        assert message["event"] == "declined"
        assert "start" in message["message"]
        assert ("no torch here" in message["message"]) == ("raise" in command[-1])


def test_a_worker_is_replaced_after_its_share_of_jobs_and_after_suspicious_ends():
    async def play(pool, submit):
        pids = []
        for what in ("exit0", "exit0", "exit0", "exit6", "exit7", "exit0"):
            _, caller = submit(what)
            await caller.last()
            pids.append(caller.heard[-2]["text"])
        return pids

    pids = with_pool(play, size=1, jobs_per_worker=3)
    assert pids[0] == pids[1] == pids[2]
    assert pids[2] != pids[3]
    assert pids[3] == pids[4]
    assert pids[4] != pids[5]


def test_reload_replaces_idle_workers_now_and_busy_ones_after_their_job(tmp_path):
    async def play(pool, submit):
        _, first = submit("exit0")
        await first.last()
        job, busy = submit("wait", str(tmp_path / "go"))
        await until(lambda: job.progress)
        _, other = submit("exit0")
        await other.last()
        before = {worker.process.pid for worker in pool.workers}
        assert pool.reload() == 2
        pool.halt(job)
        await busy.last()
        await until(lambda: not pool.workers)
        await submit("exit0")[1].last()
        return before, {worker.process.pid for worker in pool.workers}

    before, after = with_pool(play)
    assert len(before) == 2
    assert not before & after


def test_halting_in_the_queue_and_abandoning(tmp_path):
    async def play(pool, submit):
        running, _ = submit("wait", str(tmp_path / "go"), place=(1, 1))
        await until(lambda: running.progress)
        queued, second = submit("exit0")
        pool.halt(queued)
        assert (await second.last())["error"] == "Interrupted"
        forgotten, third = submit("exit0")
        pool.abandon(forgotten)
        again, fourth = submit("exit0", place=(1, 1))
        assert list(pool.queue) == [again]
        pool.abandon(running)
        assert (await fourth.last())["exit"] == 0
        assert not third.heard
        return pool.stats.events["abandoned"]

    assert with_pool(play, size=1) == 2


def test_two_jobs_in_one_folder_never_run_together(tmp_path):
    async def play(pool, submit):
        running, _ = submit("wait", str(tmp_path / "go"), place=(1, 1))
        await until(lambda: running.progress)
        _, same = submit("exit0", place=(1, 1))
        _, other = submit("exit0", place=(2, 2))
        await other.last()
        assert not same.heard
        pool.halt(running)
        assert (await same.last())["exit"] == 0

    with_pool(play)
