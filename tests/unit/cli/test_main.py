"""What goes wrong in any command is one line with an exit code."""

import errno
import os
import subprocess
import sys

import pytest

from uspex_bridge.cli import main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/there/file"),
            8,
            "/there/file: cannot be read or written",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 8, "the output: cannot be read or written: No space left"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 7, "memory ran out"),
        (RuntimeError("can't start new thread"), 7, "no thread can be started"),
        (KeyError("a\nb"), 1, "unexpected KeyError: 'a\\nb'; please report it with what USPEX_BRIDGE_TRACEBACK=1"),
    ],
)
def test_every_error_is_a_line(monkeypatch, capsys, error, code, said):
    def fail(**words):
        raise error

    monkeypatch.setattr(main.command, "main", fail)
    with pytest.raises(SystemExit) as end:
        main.main([])
    assert end.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    monkeypatch.setenv("USPEX_BRIDGE_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main.main([])


@pytest.mark.parametrize(
    ("words", "code"),
    [(["dataset", "--help"], 0), (["dataset", "summary", "nowhere-\udcff"], 3)],
)
@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_any_letter_is_printed_on_any_terminal(words, code, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "uspex_bridge.cli.main", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_a_full_device_is_a_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uspex_bridge.cli.main", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 8
    assert done.stderr.decode() == "uspex-bridge: the output: cannot be read or written: No space left on device\n"
