"""The service as its callers meet it: real processes, the toy potential, faults on purpose."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from integration.conftest import INCAR, OUTPUTS, POSCAR, TOY, call, leave_stale_outputs, make_folder, record

from uspex_bridge.journal import FILENAME
from uspex_bridge.service import client, wire
from uspex_bridge.slot import LOCK

BIN = Path(sys.executable).parent
SLOW = TOY + "[calculators.model.options]\nsleep = 0.4\n"
STATIC = INCAR.replace("NSW = 400", "NSW = 0")


class Service:
    """A running ``uspex-bridge serve`` with a socket of its own."""

    def __init__(self, top: Path, *options: str, **popen):
        self.path = top / "service.sock"
        self.screen = (top / "screen").open("ab")
        environment = {**os.environ, **popen.pop("env", {})}
        command = [BIN / "uspex-bridge", "serve", "--socket", self.path, "--workers", "2", *options]
        self.process = subprocess.Popen(command, cwd=top, stderr=self.screen, env=environment, **popen)
        self.environment = {**environment, wire.SOCKET: str(self.path)}
        wait_until(lambda: answers(self.path) or self.process.poll() is not None)
        assert self.process.poll() is None, (top / "screen").read_text()

    def start(self, fold: Path, *args: str, executable="uspex-bridge-vasp", **env) -> subprocess.Popen:
        """Start a call in a folder."""
        return subprocess.Popen(
            [BIN / executable, *args],
            cwd=fold,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, wire.MODE: "require", **env},
        )

    def call(self, fold: Path, *args: str, **env):
        """Call in a folder; it fails unless the service does it."""
        process = self.start(fold, *args, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def status(self) -> dict:
        return client.ask(str(self.path), {"do": "status"})

    def running(self, number=1, stage=True) -> list[dict]:
        """Wait until ``number`` structures are being relaxed."""
        there = []

        def seen() -> bool:
            there[:] = [job for job in self.status()["running"] if "stage" in job or not stage]
            return len(there) >= number

        wait_until(seen)
        return there

    def tool(self, *args: str):
        return subprocess.run(
            [BIN / "uspex-bridge", *args], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.screen.close()


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def answers(path: Path) -> bool:
    with suppress(client.Absent, client.Lost):
        client.ask(str(path), {"do": "status"})
        return True
    return False


@pytest.fixture(scope="module")
def short():
    """A private folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="ub-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def shared(short):
    """One service for the tests that do it no harm."""
    top = short / "shared"
    top.mkdir(0o700)
    service = Service(top)
    yield service
    service.close()


@pytest.fixture
def own(short):
    """Makes services for one test."""
    made = []

    def make(*options: str, again: Service | None = None, **popen) -> Service:
        top = again.path.parent if again else short / f"own{len(list(short.iterdir()))}"
        top.mkdir(0o700, exist_ok=True)
        made.append(Service(top, *options, **popen))
        return made[-1]

    yield make
    for service in made:
        service.close()


def results(fold: Path) -> list[str]:
    return [name for name in OUTPUTS if (fold / name).exists()] + [p.name for p in fold.glob(".*.part")]


def assert_no_result(fold: Path) -> None:
    assert results(fold) == []


def has_result(fold: Path) -> bool:
    return sorted(results(fold)) == sorted(OUTPUTS) and " F= " in (fold / "OSZICAR").read_text()


TIMES = [
    (r"\d{4}[-.]\d\d[-.]\d\d +\d\d:\d\d:\d\d(,\d+)?", "MOMENT"),
    (r"MOMENT \d+ (DEBUG|INFO|WARNING|ERROR)", r"MOMENT PID \1"),
    (r"\b\d+\.\d s\b", "SECONDS"),
    (r"(time used|Elapsed time) \(sec\): +\d+\.\d+", r"\1 SECONDS"),
    (r'(name="(date|time)">)[^<]*', r"\1WHEN"),
]


def without_times(text: str) -> str:
    for pattern, instead in TIMES:
        text = re.sub(pattern, instead, text)
    return text


def same_as_alone(
    service: Service, tmp_path: Path, *args: str, kind="uspex-bridge-vasp", prepare=None, **folder
) -> None:
    """A call in the service and one without leave the same, say the same and end the same."""
    folds = [make_folder(tmp_path / where / "run", **folder) for where in ("served", "alone")]
    if prepare:
        for fold in folds:
            prepare(fold)
    served = service.start(folds[0], *args, executable=kind)
    out, err = served.communicate(timeout=200)
    alone = call(folds[1], *args, "--server", "off", executable=kind)
    assert served.returncode == alone.returncode, err
    shown = [
        without_times(t.replace("/served/", "/X/").replace("/alone/", "/X/"))
        for t in (out, err, alone.stdout, alone.stderr)
    ]
    assert shown[:2] == shown[2:]
    names = {p.name for p in folds[0].iterdir()} - {LOCK}
    assert names == {p.name for p in folds[1].iterdir()} - {LOCK}
    for name in names:
        texts = [
            without_times((fold / name).read_text()).replace(f"/{where}/", "/X/")
            for fold, where in zip(folds, ("served", "alone"), strict=True)
        ]
        assert texts[0] == texts[1], name
        assert (folds[0] / name).stat().st_mode == (folds[1] / name).stat().st_mode, name
    entries = [record(fold)[-1] if (fold.parent / FILENAME).exists() else {} for fold in folds]
    for entry in entries:
        for key in ("time", "seconds", "folder"):
            entry.pop(key, None)
        for stage in entry.get("stages", []):
            stage.pop("seconds")
    assert json.dumps(entries[0]).replace("/served/", "/X/") == json.dumps(entries[1]).replace("/alone/", "/X/")


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


def test_a_signal_ends_a_call_with_what_is_reached(shared, tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    process = shared.start(fold)
    shared.running()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "unconverged" in out
    assert has_result(fold)
    assert record(fold)[0]["reason"] == "stopped by a signal"


def test_the_time_limit_counts_from_the_start_of_the_job(own, tmp_path):
    service = own("--workers", "1")
    first = service.start(make_folder(tmp_path, settings=SLOW, name="CalcFold1"), "--time-limit", "3")
    service.running()
    fold = make_folder(tmp_path, settings=None, name="CalcFold2")
    done = service.call(fold, "--time-limit", "2")
    assert first.wait(60) == 0
    assert done.returncode == 0, done.stderr
    entries = {entry["slot"]: entry for entry in record(fold)}
    assert entries["CalcFold1"]["reason"] == "time limit reached"
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
    fold = make_folder(tmp_path / "run", settings=SLOW)
    process = service.start(fold)
    service.running()
    process.kill()
    process.communicate()
    wait_until(lambda: has_result(fold))
    wait_until(lambda: service.status()["jobs"] == 1)
    assert record(fold)[0]["status"] == "converged"


def test_one_folder_takes_one_run_at_a_time(shared, tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    first = shared.start(fold)
    shared.running()
    second = shared.call(fold)
    assert second.returncode == 9
    assert "another bridge is at work" in second.stderr
    linked = tmp_path / "CalcFold2"
    linked.symlink_to(fold)
    assert shared.call(linked).returncode == 9
    assert call(fold, "--server", "off").returncode == 9
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert "converged" in out


def test_a_killed_worker_costs_nothing_but_time(own, tmp_path):
    service = own()
    folds = [make_folder(tmp_path, settings=SLOW if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)]
    crew = [service.start(fold) for fold in folds]
    jobs = service.running(2)
    os.kill(next(job["worker"] for job in jobs if job["folder"] == str(folds[0])), signal.SIGKILL)
    for process, fold in zip(crew, folds, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert has_result(fold)
    assert service.status()["events"] == {"worker_died": 1, "rerun": 1}


def test_a_structure_that_kills_two_workers_fails_alone(own, tmp_path):
    service = own()
    fold, other = (make_folder(tmp_path, settings=SLOW if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2))
    process, bystander = service.start(fold), service.start(other)
    killed = set()
    while len(killed) < 2:
        job = next((job for job in service.running() if job["folder"] == str(fold)), None)
        if job and job["worker"] not in killed:
            killed.add(job["worker"])
            os.kill(job["worker"], signal.SIGKILL)
        time.sleep(0.05)
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

    from uspex_bridge.service.crew import Crew, Job

    fold = make_folder(tmp_path, settings=TOY + "[calculators.model.options]\nsleep = 1000\n")
    code = "import uspex_bridge.halt as h; h.GRACE = 2.0; from uspex_bridge.cli.serve import work; work()"
    told = []

    async def play() -> Crew:
        crew = Crew([sys.executable, "-P", "-c", code], 1, 100, dict(os.environ), logging.getLogger("test"))
        over = asyncio.Event()

        def tell(message: dict) -> None:
            told.append(message)
            if message["event"] in ("end", "failed", "declined"):
                over.set()

        crew.submit(
            Job(client.request("vasp", str(fold), [str(fold), "--time-limit", "2"], None), str(fold), (0, 0), tell)
        )
        async with asyncio.timeout(120):
            await over.wait()
        await crew.close()
        return crew

    crew = asyncio.run(play())
    assert told[-1] == {"event": "end", "exit": 10}
    assert "hung beyond the time limit" in (fold / "bridge.log").read_text()
    assert crew.stats.events == {"worker_died": 1}
    assert record(fold)[0]["code"] == "Interrupted"
    assert_no_result(fold)


def test_the_service_dies_and_the_call_goes_on_alone(own, tmp_path):
    service = own()
    fold = make_folder(tmp_path, settings=SLOW)
    process = service.start(fold, **{wire.MODE: "auto"})
    service.running()
    service.process.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "ended during this run; running here instead" in err
    assert "converged" in out
    assert has_result(fold)


def test_the_service_dies_and_comes_back_and_takes_the_job_again(own, tmp_path):
    service = own()
    fold = make_folder(tmp_path, settings=SLOW)
    process = service.start(fold)
    service.running()
    service.process.kill()
    service.process.wait()
    again = own(again=service)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "converged" in out
    assert again.status()["outcomes"] == {"converged": 1}


def test_without_a_service(tmp_path, short, monkeypatch):
    monkeypatch.setenv(wire.SOCKET, str(short / "none" / "service.sock"))
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    done = call(fold, "--server", "require")
    assert done.returncode == 11
    assert "no service at" in done.stderr
    assert_no_result(fold)
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n[service]\nmode = "require"\n' + TOY)
    assert call(fold).returncode == 11
    done = call(fold, "--server", "auto")
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.setenv(wire.MODE, "perhaps")
    done = call(fold)
    assert done.returncode == 4
    assert "perhaps" in done.stderr


def test_settings_may_say_no_to_a_running_service(shared, tmp_path):
    fold = make_folder(tmp_path, settings='[service]\nmode = "off"\n' + TOY)
    done = shared.call(fold, **{wire.MODE: ""})
    assert done.returncode == 0
    assert "mode = 'off'; running here instead" in done.stderr
    before = shared.status()["jobs"]
    assert shared.call(fold, "--server", "auto").stderr == ""
    assert shared.status()["jobs"] == before + 1


class Impostor:
    """Something else that listens on a socket and says ``greeting``."""

    def __init__(self, path: Path, greeting: bytes):
        code = (
            "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
            "while True:\n    c, _ = s.accept(); c.sendall(sys.argv[2].encode()); c.close()\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code, str(path), greeting.decode()])
        wait_until(path.exists)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        ({**wire.greeting(), "version": "0.0.1"}, "of version 0.0.1"),
        ({**wire.greeting(), "package": "/elsewhere"}, "another installation"),
        ({"hello": 1}, "no service of uspex-bridge"),
        (None, "not JSON"),
    ],
)
def test_another_version_is_not_used_and_that_is_said(tmp_path, short, monkeypatch, greeting, words):
    top = Path(tempfile.mkdtemp(dir=short))
    monkeypatch.setenv(wire.SOCKET, str(top / "service.sock"))
    fold = make_folder(tmp_path, incar=STATIC)
    with Impostor(top / "service.sock", b"220 smtp\n" if greeting is None else wire.encode(greeting)):
        done = call(fold)
        assert done.returncode == 0
        assert words in done.stderr
        assert "running here instead" in done.stderr
        assert has_result(fold)
        done = call(fold, "--server", "require")
        assert done.returncode == 11
        assert words in done.stderr
        assert_no_result(fold)


def test_a_socket_in_an_open_folder_is_not_used(tmp_path, own, short):
    service = own()
    service.path.parent.chmod(0o755)
    done = service.call(make_folder(tmp_path, incar=STATIC), **{wire.MODE: "auto"})
    service.path.parent.chmod(0o700)
    assert done.returncode == 0
    assert "open to other users" in done.stderr
    refused = subprocess.run(
        [BIN / "uspex-bridge", "serve", "--socket", "/tmp/service.sock"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 11
    assert "/tmp" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_turned_away(shared):
    code = (
        "import os, socket, sys\nos.chdir(sys.argv[1]); s = socket.socket(socket.AF_UNIX); os.setuid(65534)\n"
        "s.connect('service.sock'); print(repr(s.recv(100)))"
    )
    top = shared.path.parent
    modes = [(path, path.stat().st_mode) for path in (top.parent, top, shared.path)]
    for path, _ in modes:
        path.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", code, str(top)], capture_output=True, text=True, check=False)
    for path, mode in modes:
        path.chmod(mode & 0o7777)
    assert done.stdout.strip() == "b''", done.stderr
    assert "another user was turned away" in Path(f"{shared.path}.log").read_text()


def raw(path: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(30)
    connected.connect(str(path))
    assert wire.decode(connected.makefile("rb").readline())["service"] == "uspex-bridge"
    return connected


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
            assert answer == b"" or wire.decode(answer)["event"] == "declined"
    assert shared.status()["queued"] == 0


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
        connected.sendall(wire.encode({**client.request("vasp", str(fold), [str(fold)], None), "mode": "require"}))
        connections.append(connected)
    assert service.status()["callers"] >= 200
    for connected, fold in zip(connections, folds, strict=True):
        connected.settimeout(250)
        messages = [wire.decode(line) for line in connected.makefile("rb")]
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


def test_workers_are_replaced_and_reloaded(own, tmp_path):
    (tmp_path / "service.toml").write_text("[service]\njobs_per_worker = 2\n")
    service = own("--workers", "1", "--config", str(tmp_path / "service.toml"))
    fold = make_folder(tmp_path / "run", incar=STATIC)
    pids = []

    def run() -> None:
        assert service.call(fold).returncode == 0
        pids.append(re.findall(r"worker (\d+)$", Path(f"{service.path}.log").read_text(), re.M)[-1])

    for _ in range(3):
        run()
    assert pids[0] == pids[1] != pids[2]
    done = service.tool("reload")
    assert done.stdout == "1 workers will be replaced\n"
    run()
    assert pids[3] != pids[2]


WEIGHTY = """
from uspex_bridge.calculators import toy

def build(request):
    from dataclasses import replace
    return toy.build(replace(request, options={"epsilon": float(request.path.read_text()), **request.options}))
"""


def test_new_weights_are_picked_up_between_jobs_never_within_one(own, tmp_path):
    (tmp_path / "weighty.py").write_text(WEIGHTY)
    for name, epsilon in (("one", "0.5"), ("two", "0.4")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(epsilon)
    current = tmp_path / "current"
    current.symlink_to("one")
    settings = f'[calculators.model]\nkind = "weighty:build"\nmodel = "{current}/model"\n[calculators.model.options]\n'
    service = own("--workers", "1", env={"PYTHONPATH": str(tmp_path)})
    fold = make_folder(tmp_path / "run", settings=settings)
    slow = make_folder(tmp_path / "slow", settings=settings + "sleep = 0.1\n")

    def enthalpy(fold: Path) -> float:
        assert service.call(fold).returncode == 0
        return record(fold)[-1]["enthalpy"]

    def move(name: str) -> None:
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").replace(current)

    first = enthalpy(fold)
    assert enthalpy(fold) == first
    process = service.start(slow)
    service.running()
    move("two")
    assert process.wait(120) == 0
    process.communicate()
    within = record(slow)[-1]
    assert within["enthalpy"] == first
    second = enthalpy(fold)
    assert abs(second - first) > 0.01
    assert record(fold)[-1]["models"]["model"]["sha256"] != within["models"]["model"]["sha256"]
    move("one")
    assert enthalpy(fold) == first
    (tmp_path / "one" / "model").write_text("0.45")
    assert enthalpy(fold) not in (first, second)


def test_stop_drains_and_declines(own, tmp_path):
    service = own("--workers", "1")
    fold = make_folder(tmp_path, settings=SLOW)
    running = service.start(fold)
    service.running()
    queued = service.start(make_folder(tmp_path, settings=None, incar=STATIC, name="CalcFold2"))
    wait_until(lambda: service.status()["queued"] == 1)
    stopping = subprocess.Popen(
        [BIN / "uspex-bridge", "stop"],
        env=service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: service.status()["stopping"])
    late = service.call(make_folder(tmp_path, settings=None, incar=STATIC, name="CalcFold3"), **{wire.MODE: "auto"})
    assert late.returncode == 0
    assert "it is stopping; running here instead" in late.stderr
    assert running.wait(120) == 0
    assert queued.wait(120) == 0
    out, err = stopping.communicate(timeout=60)
    assert (stopping.returncode, out, err) == (0, "stopping, 2 jobs left\nstopped\n", "")
    assert service.process.wait(30) == 0
    assert not service.path.exists()
    assert has_result(fold)
    for process in (running, queued):
        process.communicate()


def test_stop_now_leaves_the_jobs_to_their_callers(own, tmp_path):
    service = own("--workers", "1")
    folds = [make_folder(tmp_path, settings=SLOW if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)]
    crew = [service.start(fold, **{wire.MODE: "auto"}) for fold in folds]
    service.running()
    wait_until(lambda: service.status()["queued"] == 1)
    assert service.tool("stop", "--now").returncode == 0
    for process, fold in zip(crew, folds, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "running here instead" in err
        assert has_result(fold)
    assert service.tool("status").returncode == 11


def test_the_first_call_starts_a_service_and_the_second_uses_it(tmp_path, short, monkeypatch):
    path = short / "auto" / "service.sock"
    monkeypatch.setenv(wire.SOCKET, str(path))
    settings = '[service]\nmode = "start"\nidle_timeout = 3\nworkers = 1\n' + TOY
    folds = [make_folder(tmp_path, settings=settings if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2, 3)]
    crew = [
        subprocess.Popen(
            [BIN / "uspex-bridge-vasp"], cwd=fold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for fold in folds
    ]
    for process in crew:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert (err, "converged" in out) == ("", True)
    log = Path(f"{path}.log").read_text()
    assert log.count(" listens at ") == 1
    assert log.count(": exit 0 after") == 3
    assert path.parent.stat().st_mode & 0o777 == 0o700
    wait_until(lambda: not path.exists())
    assert "nothing to do for 3 s" in Path(f"{path}.log").read_text()


def test_daemon_status_metrics_and_a_second_service(short, tmp_path, monkeypatch):
    path = short / "background" / "service.sock"
    monkeypatch.setenv(wire.SOCKET, str(path))

    def tool(*args: str):
        return subprocess.run([BIN / "uspex-bridge", *args], capture_output=True, text=True, timeout=90, check=False)

    started = tool("serve", "--daemon", "--workers", "1", "--idle-timeout", "100")
    assert started.returncode == 0, started.stderr
    pid = int(re.search(r"service (\d+) listens", started.stdout)[1])
    fold = make_folder(tmp_path, incar=STATIC)
    assert call(fold, "--server", "require").returncode == 0
    status = json.loads(tool("status", "--json").stdout)
    assert (status["pid"], status["jobs"], status["most_workers"]) == (pid, 1, 1)
    assert status["models"]["model"]["evaluations"] == 1
    assert status["workers"][0]["models"] == ["model"]
    assert 'uspex_bridge_jobs_total{outcome="converged"} 1' in tool("status", "--metrics").stdout
    assert "0 queued" in tool("status").stdout
    second = tool("serve")
    assert second.returncode == 11
    assert "runs there already" in second.stderr
    assert tool("stop").returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


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
    served, modules = measure("from uspex_bridge.cli.entry import main; main()")
    assert has_result(fold)
    for heavy in ("numpy", "ase", "click", "torch", "filelock", "tomllib", "logging", "asyncio", "socket", "typing"):
        assert f"'{heavy}'" not in modules
    assert served < bare + 3000


@pytest.fixture
def remote(short, tmp_path, monkeypatch):
    """A secret, and a free port on the loopback."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("ten thousand monkeys\n")
    monkeypatch.setenv(wire.SECRET, str(secret))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return secret, probe.getsockname()[1]


def test_over_tcp_with_the_secret(own, remote, tmp_path):
    secret, port = remote
    service = own("--tcp", f"127.0.0.1:{port}")
    place = f"tcp://127.0.0.1:{port}"
    fold = make_folder(tmp_path / "run", settings=SLOW)
    process = service.start(fold, **{wire.SOCKET: place})
    service.running()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "unconverged" in out
    assert has_result(fold)
    assert json.loads(service.tool("status", "--json", "--socket", place).stdout)["listens"] == [
        str(service.path),
        place,
    ]
    secret.write_text("another secret of another user\n")
    done = service.call(fold, **{wire.SOCKET: place})
    assert done.returncode == 11
    assert "holds another secret" in done.stderr
    assert service.tool("stop", "--socket", place).returncode == 11
    secret.chmod(0o644)
    done = service.call(fold, **{wire.SOCKET: place})
    assert "open to other users" in done.stderr
    secret.unlink()
    done = service.call(fold, **{wire.SOCKET: place, wire.MODE: "auto"})
    assert done.returncode == 0
    assert "running here instead" in done.stderr
    assert service.status()["jobs"] == 1


def test_no_tcp_without_a_secret(remote, short):
    secret, port = remote
    secret.unlink()
    top = Path(tempfile.mkdtemp(dir=short))
    done = subprocess.run(
        [BIN / "uspex-bridge", "serve", "--socket", top / "service.sock", "--tcp", f"127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 11
    assert "TCP needs one" in done.stderr


@pytest.mark.parametrize(
    "said", [b'{"do":"stop"}\n', b'{"nonce":"00","answer":"00"}\n{"do":"stop"}\n', b"\n", b'{"nonce":1}\n']
)
def test_nobody_without_the_secret_gets_past_the_greeting(own, remote, said):
    _, port = remote
    service = own("--tcp", f"127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), 30) as connected:
        stream = connected.makefile("rb")
        assert wire.decode(stream.readline())["challenge"]
        connected.sendall(said)
        with suppress(ConnectionResetError):
            left = stream.read()
            assert left == b"" or wire.decode(left)["event"] == "declined"
    assert not service.status()["stopping"]


def test_a_folder_that_is_another_one_where_the_service_runs(shared, tmp_path):
    fold = make_folder(tmp_path)
    request = {**client.request("vasp", str(fold), [], None), "inode": 1}
    answer = client.ask(str(shared.path), request)
    assert answer["event"] == "declined"
    assert "shared file system" in answer["message"]
