"""What a service survives: workers and services that die, full disks, crowds and garbage, on purpose."""

import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from calling import TOY, leave_stale_outputs, make_folder, record
from serving import STATIC, assert_no_result, has_result, held_until, raw

from uspex_bridge.base import lines
from uspex_bridge.service import client, wire


def test_a_killed_worker_costs_nothing_but_time(own, tmp_path):
    service = own()
    go = tmp_path / "go"
    folds = [make_folder(tmp_path, settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)]
    crew = [service.start(fold) for fold in folds]
    jobs = service.running(2)
    os.kill(next(job["worker"] for job in jobs if job["folder"] == str(folds[0])), signal.SIGKILL)
    go.touch()
    for process, fold in zip(crew, folds, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert has_result(fold)
    assert service.status()["events"] == {"worker_died": 1, "rerun": 1}


def test_a_structure_that_kills_two_workers_fails_alone(own, tmp_path):
    service = own()
    go = tmp_path / "go"
    fold, other = (
        make_folder(tmp_path, settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)
    )
    process, bystander = service.start(fold), service.start(other)
    killed = set()
    while len(killed) < 2:
        job = next((job for job in service.running() if job["folder"] == str(fold)), None)
        if job and job["worker"] not in killed:
            killed.add(job["worker"])
            os.kill(job["worker"], signal.SIGKILL)
        time.sleep(0.05)
    go.touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 7
    assert "twice with this structure" in err
    assert "twice with this structure" in (fold / "bridge.log").read_text()
    assert_no_result(fold)
    entry = next(entry for entry in record(fold) if entry["slot"] == "CalcFold1")
    assert (entry["status"], entry["code"]) == ("failed", "CalculationError")
    _, err = bystander.communicate(timeout=120)
    assert bystander.returncode == 0, err
    assert service.call(other).returncode == 0


def test_an_evaluation_that_hangs_ends_its_worker_and_the_job(tmp_path):
    """With two seconds of grace beyond the time limit in place of two minutes."""
    import asyncio
    import logging

    from uspex_bridge.service.pool import Job, LocalPool

    fold = make_folder(tmp_path, settings=TOY + "[calculators.model.options]\nsleep = 1000\n")
    code = "import uspex_bridge.base.halt as h; h.GRACE = 2.0; from uspex_bridge.cli.serve import work; work()"
    told = []

    async def play() -> LocalPool:
        pool = LocalPool([sys.executable, "-P", "-c", code], 1, 100, dict(os.environ), logging.getLogger("test"))
        over = asyncio.Event()

        def tell(message: dict) -> None:
            told.append(message)
            if message["event"] in ("end", "failed", "declined"):
                over.set()

        pool.submit(
            Job(client.request("vasp", str(fold), [str(fold), "--time-limit", "2"], None), str(fold), (0, 0), tell)
        )
        async with asyncio.timeout(120):
            await over.wait()
        await pool.close()
        return pool

    pool = asyncio.run(play())
    assert told[-1] == {"event": "end", "exit": 10}
    assert "exceeded the time limit" in (fold / "bridge.log").read_text()
    assert pool.stats.events == {"worker_died": 1}
    assert record(fold)[0]["code"] == "Interrupted"
    assert_no_result(fold)


def test_the_service_dies_and_the_call_goes_on_alone(own, tmp_path):
    service = own()
    go = tmp_path / "go"
    fold = make_folder(tmp_path, settings=held_until(go))
    process = service.start(fold, **{wire.MODE: "auto"})
    service.running()
    service.process.kill()
    go.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "ended during this run; running here instead" in err
    assert "converged" in out
    assert has_result(fold)


def test_the_service_dies_and_comes_back_and_takes_the_job_again(own, tmp_path):
    service = own()
    go = tmp_path / "go"
    fold = make_folder(tmp_path, settings=held_until(go))
    process = service.start(fold)
    service.running()
    service.process.kill()
    service.process.wait()
    go.touch()
    again = own(again=service)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "converged" in out
    assert again.status()["outcomes"] == {"converged": 1}


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\x00garbage\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b'{"do": "dance"}\n',
        b'{"do": ["run"]}\n',
        b'{"do": "run"}\n',
        b'{"do":"run","kind":"vasp","folder":"relative","argv":[],"cwd":"/","umask":18,"environment":{}}\n',
        b'{"do":"run","kind":"vasp","folder":"/tmp\\u0000x","argv":[],"cwd":"/","umask":18,"environment":{}}\n',
        b'{"do":"run","kind":"vasp","folder":"/tmp\\ud800x","argv":[],"cwd":"/","umask":18,"environment":{}}\n',
        b'{"do":"run","kind":"vasp","folder":"/tmp","argv":[],"cwd":"/\\ud800","umask":18,"environment":{}}\n',
        b'{"do":"run","kind":"vasp","folder":"/tmp","argv":[[]],"cwd":"/","umask":18,"environment":{"a":1}}\n',
        b'{"do": ' + b"9" * 50_000 + b"}\n",
        b'{"do":"run","kind":"sh","folder":"/tmp","argv":["rm"],"cwd":"/","umask":18,"environment":{}}\n',
        b"x" * 1_000_000 + b"\n",
    ],
)
def test_garbage_is_answered_and_hung_up_on(shared, said):
    with raw(shared.path) as connected:
        with suppress(BrokenPipeError, ConnectionResetError):
            connected.sendall(said)
        with suppress(ConnectionResetError):
            answer = connected.makefile("rb").read()
            assert answer == b"" or lines.decode(answer)["event"] == "declined"
    assert shared.status()["queued"] == 0


def test_who_hangs_up_at_any_moment_leaves_no_traceback(shared, tmp_path):
    fold = make_folder(tmp_path, incar=STATIC)
    request = lines.encode({**client.request("vasp", str(fold), [str(fold)], None), "mode": "require"})
    for said in (b"", b'{"do"', b'{"do": "status"}\n', b'{"do": "reload"}\n', request, request + b'{"do": "halt"}\n'):
        for reset in (False, True):
            with socket.socket(socket.AF_UNIX) as connected:
                connected.connect(str(shared.path))
                if reset:  # what is left unread makes it a reset
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connected.sendall(said)
    assert shared.call(fold).returncode == 0
    assert "Traceback" not in Path(f"{shared.path}.log").read_text()


def test_half_messages_and_silence_hold_nobody_up(shared, tmp_path):
    quiet = [raw(shared.path) for _ in range(20)]
    for connected in quiet[:10]:
        connected.sendall(b'{"do": "ru')
    assert shared.call(make_folder(tmp_path, incar=STATIC)).returncode == 0
    for connected in quiet:
        connected.close()


def test_two_hundred_callers_at_once(own, tmp_path):
    service = own()
    folds = [
        make_folder(tmp_path, incar=STATIC, settings=TOY if k == 1 else None, name=f"CalcFold{k}")
        for k in range(1, 201)
    ]
    connections = []
    for fold in folds:
        connected = raw(service.path)
        connected.sendall(lines.encode({**client.request("vasp", str(fold), [str(fold)], None), "mode": "require"}))
        connections.append(connected)
    assert service.status()["callers"] >= 200
    for connected, fold in zip(connections, folds, strict=True):
        connected.settimeout(250)
        messages = [lines.decode(line) for line in connected.makefile("rb")]
        connected.close()
        assert messages[-1] == {"event": "end", "exit": 0}
        assert has_result(fold)
    assert service.status()["outcomes"] == {"converged": 200}
    assert len(record(folds[0])) == 200


def test_a_full_disk_costs_results_not_the_service(own, tmp_path):
    import resource

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    service = own(preexec_fn=small_files)
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    for _ in range(3):
        done = service.call(fold)
        assert done.returncode == 8, done.stderr
        assert "cannot be written" in done.stderr
        assert_no_result(fold)
    assert service.status()["failures"] == {"OutputError": 3}
