"""Which service a call uses, and whom a service answers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from calling import TOY, call, leave_stale_outputs, make_folder
from serving import BIN, STATIC, assert_no_result, has_result, held_until, wait_until

from uspex_bridge.base import lines, private
from uspex_bridge.service import client, wire


def test_without_a_service(tmp_path, short, monkeypatch):
    monkeypatch.setenv(private.SOCKET, str(short / "none" / "service.sock"))
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
        ({"hello": 1}, "not a service of uspex-bridge"),
        (None, "not JSON"),
    ],
)
def test_another_version_is_not_used_and_that_is_said(tmp_path, short, monkeypatch, greeting, words):
    top = Path(tempfile.mkdtemp(dir=short))
    monkeypatch.setenv(private.SOCKET, str(top / "service.sock"))
    fold = make_folder(tmp_path, incar=STATIC)
    with Impostor(top / "service.sock", b"220 smtp\n" if greeting is None else lines.encode(greeting)):
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
    assert "must be mode" in done.stderr
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    for more in ([], ["--daemon"]):
        refused = subprocess.run(
            [BIN / "uspex-bridge", "serve", "--socket", folder / "service.sock", *more],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert refused.returncode == 11
        assert f"{folder} must be mode 700" in refused.stderr
        assert not list(folder.iterdir())


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
    assert "another user was refused" in Path(f"{shared.path}.log").read_text()


def test_a_folder_that_is_another_one_where_the_service_runs(shared, tmp_path):
    fold = make_folder(tmp_path)
    request = {**client.request("vasp", str(fold), [], None), "inode": 1}
    answer = client.ask(str(shared.path), request)
    assert answer["event"] == "declined"
    assert "shared file system" in answer["message"]


FORWARD = """
import socket, sys, threading
def copy(source, target):
    while block := source.recv(65536):
        target.sendall(block)
    target.shutdown(socket.SHUT_WR)
here = socket.socket(socket.AF_UNIX)
here.bind(sys.argv[1])
here.listen()
while True:
    near = here.accept()[0]
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[2])
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def test_through_a_forwarded_socket(own, short, tmp_path):
    """As ``ssh -L`` forwards it: what listens here and what connects there are processes of this user."""
    service = own()
    folder = short / "forwarded"
    folder.mkdir(0o700)
    place = folder / "service.sock"
    forwarding = subprocess.Popen([sys.executable, "-c", FORWARD, str(place), str(service.path)])
    try:
        wait_until(place.exists)
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        process = service.start(fold, **{private.SOCKET: str(place)})
        service.running()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 10, err
        assert "stopped by a signal" in err
        killed = service.start(fold, **{private.SOCKET: str(place)})
        service.running()
        killed.kill()
        killed.communicate()
        go.touch()
        wait_until(lambda: service.status()["events"].get("abandoned") == 1)
        assert json.loads(service.tool("status", "--json", "--socket", str(place)).stdout)["jobs"] >= 1
    finally:
        forwarding.kill()
        forwarding.wait()
