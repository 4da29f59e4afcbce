"""Locks: held by one process, given back however it ends; who holds them is named; where there are none it goes on."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from uspex_bridge.base import locks
from uspex_bridge.base.errors import BusyError, OutputError
from uspex_bridge.base.locks import Lock, held

HOLD = "import sys, time\nfrom pathlib import Path\nfrom uspex_bridge.base.locks import held\n" + (
    "with held(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


def test_who_holds_it_is_named(path, holder):
    with (
        pytest.raises(BusyError, match=rf"busy; process {holder.pid} on .* has held {path} for \d"),
        held(path, "busy"),
    ):
        pass


def test_it_is_waited_for_and_given_back(path, holder):
    with pytest.raises(BusyError), held(path, "busy", wait=0.2):
        pass
    holder.stdin.close()
    with held(path, "busy", wait=30):
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert path.read_text() == ""


def test_the_killed_hold_nothing(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(path, "busy"):
        pass


def test_it_is_the_lock_that_others_know(path):
    """flock, as filelock takes it."""
    with held(path, "busy"), pytest.raises(Timeout), FileLock(path, timeout=0):
        pass
    with FileLock(path), pytest.raises(BusyError, match="^busy$"), held(path, "busy"):
        pass


def test_one_that_nobody_refers_to_is_given_back(path):
    lock = Lock(path)
    assert lock.acquire()
    assert not Lock(path).acquire()
    del lock
    assert Lock(path).acquire()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_it_goes_on_and_says_so_once(path, monkeypatch, caplog, number):
    def refuse(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    for _ in range(2):
        with held(path, "busy", log=logging.getLogger("run")), held(path, "busy", log=logging.getLogger("run")):
            pass
    (line,) = caplog.messages
    assert line.startswith(f"{path.parent}: the file system has no locks ({os.strerror(number)})")


def test_what_cannot_be_a_lock_is_said(path, monkeypatch):
    path.mkdir()
    with (
        pytest.raises(OutputError, match=r"\.lock: cannot be written: Is a directory; it is the lock"),
        held(path, "busy"),
    ):
        pass
    path.rmdir()
    path.symlink_to("elsewhere")
    with pytest.raises(OutputError, match="cannot be written"), held(path, "busy"):
        pass
    assert not (path.parent / "elsewhere").exists()
    path.unlink()

    def fail(handle, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OutputError, match="Input/output error"), held(path, "busy"):
        pass


def test_a_full_disk_costs_the_name_of_the_holder_only(path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "ftruncate", full)
    with held(path, "busy"):
        assert path.read_text() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_colleagues_file_can_be_locked():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, ".lock")
        path.touch(0o644)
        os.chmod(folder, 0o777)
        code = HOLD.replace("with held", "import os; os.setuid(65534)\nwith held")
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], input="", capture_output=True, text=True, check=False
        )
        assert done.stdout == "held\n", done.stderr
