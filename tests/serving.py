"""A running service, its callers, and what is to be found in their folders."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from calling import INCAR, OUTPUTS, TOY, call, make_folder, record

from uspex_bridge.base import lines, private
from uspex_bridge.call.record_file import FILENAME
from uspex_bridge.call.slot import LOCK
from uspex_bridge.service import client, wire

BIN = Path(sys.executable).parent
TESTS = Path(__file__).parent
STATIC = INCAR.replace("NSW = 400", "NSW = 0")


def held_until(file: Path, seconds: float = 1.5) -> str:
    """Return settings of a potential each of whose passes takes this long, or until ``file`` is there."""
    return TOY + f'[calculators.model.options]\nsleep = {seconds}\nuntil = "{file}"\n'


class Service:
    """A running ``uspex-bridge serve`` with a socket of its own."""

    def __init__(self, top: Path, *options: str, **popen):
        self.path = top / "service.sock"
        self.screen = (top / "screen").open("ab")
        environment = {**os.environ, **popen.pop("env", {})}
        command = [BIN / "uspex-bridge", "serve", "--socket", self.path, "--workers", "2", *options]
        self.process = subprocess.Popen(command, cwd=top, stderr=self.screen, env=environment, **popen)
        self.environment = {**environment, private.SOCKET: str(self.path)}
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
        out, err = process.communicate(timeout=600)
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


def alive(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def raw(path: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(30)
    connected.connect(str(path))
    assert lines.decode(connected.makefile("rb").readline())["service"] == "uspex-bridge"
    return connected


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
