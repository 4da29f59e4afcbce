"""From start to stop: services that start by themselves, replace workers, pick up weights and drain."""

import json
import re
import subprocess
from pathlib import Path

from calling import TOY, call, make_folder, record
from serving import BIN, STATIC, has_result, held_until, wait_until

from uspex_bridge.base import private
from uspex_bridge.service import wire


def test_the_first_call_starts_a_service_and_the_second_uses_it(tmp_path, short, monkeypatch):
    path = short / "auto" / "service.sock"
    monkeypatch.setenv(private.SOCKET, str(path))
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


def test_daemon_status_and_a_second_service(short, tmp_path, monkeypatch):
    path = short / "background" / "service.sock"
    monkeypatch.setenv(private.SOCKET, str(path))

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
    assert "0 queued" in tool("status").stdout
    second = tool("serve")
    assert second.returncode == 11
    assert "runs there already" in second.stderr
    assert tool("stop").returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


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
    assert done.stdout == "1 worker will be replaced\n"
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
    settings = 'on_change = "accept"\n[calculators.model]\nkind = "weighty:build"\n'
    settings += f'model = "{current}/model"\n[calculators.model.options]\n'
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
    go = tmp_path / "go"
    fold = make_folder(tmp_path, settings=held_until(go))
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
    go.touch()
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
    go = tmp_path / "go"
    folds = [make_folder(tmp_path, settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}") for k in (1, 2)]
    crew = [service.start(fold, **{wire.MODE: "auto"}) for fold in folds]
    service.running()
    wait_until(lambda: service.status()["queued"] == 1)
    assert service.tool("stop", "--now").returncode == 0
    go.touch()
    for process, fold in zip(crew, folds, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "running here instead" in err
        assert has_result(fold)
    assert service.tool("status").returncode == 11
