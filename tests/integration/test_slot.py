"""A slot never holds another structure's result, and a finished relaxation is not thrown away."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calling import INCAR, OUTPUTS, POSCAR, TOY, call, leave_stale_outputs, make_folder, record
from serving import assert_no_result, has_result, held_until, wait_until

from uspex_bridge.base.files import VASP_OUTPUTS

BIN = Path(sys.executable).parent
STATIC = INCAR.replace("NSW = 400", "NSW = 0")
#: Runs the executable in this very process after what stands before it.
MAIN = "\nfrom uspex_bridge.cli.vasp import main\nmain([])\n"


def start(fold: Path) -> subprocess.Popen:
    """Start a run and wait until it is at work."""
    process = subprocess.Popen(
        [BIN / "uspex-bridge-vasp", "--server", "off"],
        cwd=fold,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = fold / "bridge.log"
    wait_until(lambda: log.exists() and "robust " in log.read_text())
    return process


def assert_orphan_says_so(process: subprocess.Popen, *words: str) -> None:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 8, err
    assert out == ""
    for word in words:
        assert word in err


def change(fold: Path) -> None:
    """Write another structure into a folder."""
    (fold / "POSCAR").write_text(POSCAR.replace("0.520000", "0.530000"))


class TestOrphans:
    """Runs that go on after the search that started them was restarted."""

    def test_the_folder_was_removed_and_made_again(self, tmp_path):
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        orphan = start(fold)
        shutil.rmtree(fold)
        make_folder(tmp_path / "run", settings=None)
        change(fold)
        before = sorted(fold.iterdir())
        go.touch()
        assert_orphan_says_so(orphan, "removed or replaced during this run")
        assert sorted(fold.iterdir()) == before

    def test_another_structure_was_written_while_a_second_call_said_busy(self, tmp_path):
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        orphan = start(fold)
        change(fold)
        busy = call(fold)
        assert busy.returncode == 9
        assert f"process {orphan.pid} on" in busy.stderr
        go.touch()
        assert_orphan_says_so(orphan, "POSCAR changed during this run")
        assert_no_result(fold)
        assert "POSCAR changed" in (fold / "bridge.log").read_text()
        assert record(fold)[-1]["code"] == "OutputError"
        assert call(fold).returncode == 0

    @pytest.mark.parametrize(("name", "text"), [("INCAR", STATIC), ("POTCAR", None)])
    def test_another_input_changed(self, tmp_path, name, text):
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        orphan = start(fold)
        (fold / name).unlink() if text is None else (fold / name).write_text(text)
        go.touch()
        assert_orphan_says_so(orphan, f"{name} changed")
        assert_no_result(fold)

    def test_the_lock_was_removed_and_another_run_is_at_work(self, tmp_path):
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        orphan = start(fold)
        (fold / ".bridge.lock").unlink()
        (tmp_path / "run" / "bridge.toml").write_text('protocol = "single"\n' + TOY)
        change(fold)
        assert call(fold).returncode == 0
        texts = {name: (fold / name).read_text() for name in OUTPUTS}
        go.touch()
        assert_orphan_says_so(orphan, "removed or replaced")
        assert {name: (fold / name).read_text() for name in OUTPUTS} == texts

    def test_in_a_service(self, own, tmp_path):
        service = own()
        go = tmp_path / "go"
        folds = [
            make_folder(tmp_path / "run", settings=held_until(go) if k == 1 else None, name=f"CalcFold{k}")
            for k in (1, 2)
        ]
        orphans = [service.start(fold) for fold in folds]
        service.running(2)
        change(folds[0])
        shutil.rmtree(folds[1])
        make_folder(tmp_path / "run", settings=None, name="CalcFold2")
        go.touch()
        assert_orphan_says_so(orphans[0], "POSCAR changed")
        assert_orphan_says_so(orphans[1], "removed or replaced")
        for fold in folds:
            assert_no_result(fold)
        assert service.call(folds[0]).returncode == 0

    def test_the_same_inputs_written_again_are_the_same(self, tmp_path):
        go = tmp_path / "go"
        fold = make_folder(tmp_path / "run", settings=held_until(go))
        run = start(fold)
        for name in ("POSCAR", "INCAR", "POTCAR"):
            text = (fold / name).read_text()
            (fold / name).unlink()
            (fold / name).write_text(text)
        go.touch()
        assert run.wait(120) == 0
        run.communicate()
        assert has_result(fold)


def run_after(fold: Path, preamble: str, **popen) -> subprocess.CompletedProcess:
    """Run the executable in a process that did something before."""
    return subprocess.run(
        [sys.executable, "-c", preamble + MAIN],
        cwd=fold,
        stdin=subprocess.DEVNULL,
        capture_output="stdout" not in popen,
        timeout=240,
        check=False,
        **popen,
    )


class TestOldResults:
    """Whatever fails after a call has begun, the results of the structure before are gone."""

    @pytest.mark.parametrize("kind", ["folder", "link", "dangling link"])
    def test_something_else_stands_where_the_lock_must(self, tmp_path, kind):
        fold = make_folder(tmp_path)
        leave_stale_outputs(fold)
        lock = fold / ".bridge.lock"
        lock.mkdir() if kind == "folder" else lock.symlink_to("POSCAR" if kind == "link" else "../elsewhere")
        done = call(fold)
        assert done.returncode == 8
        assert ".bridge.lock: cannot be written" in done.stderr
        assert_no_result(fold)
        assert not (tmp_path / "elsewhere").exists()
        assert (fold / "POSCAR").read_text() == POSCAR

    @pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT", "EROFS", "ESTALE"])
    def test_the_lock_cannot_be_had(self, tmp_path, name):
        fold = make_folder(tmp_path)
        leave_stale_outputs(fold)
        done = run_after(
            fold, f"import fcntl\ndef flock(*a): raise OSError({getattr(errno, name)}, {name!r})\nfcntl.flock = flock"
        )
        assert done.returncode == 8, done.stderr
        assert f"cannot be written: {name}".encode() in done.stderr
        assert_no_result(fold)

    @pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
    def test_the_file_system_has_no_locks(self, tmp_path, name):
        fold = make_folder(tmp_path)
        leave_stale_outputs(fold)
        done = run_after(
            fold, f"import fcntl\ndef flock(*a): raise OSError({getattr(errno, name)}, {name!r})\nfcntl.flock = flock"
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(b"the file system has no locks") <= 2  # the folder's, and the record's beside it
        assert b"Traceback" not in done.stderr
        assert has_result(fold)
        assert "stale" not in (fold / "OSZICAR").read_text()
        assert "no locks" in (fold / "bridge.log").read_text()

    def test_no_pipe_is_waited_for(self, tmp_path):
        fold = make_folder(tmp_path, incar=STATIC)
        for name in (".bridge.lock", "bridge.log", "STOPCAR"):
            os.mkfifo(fold / name)
        leave_stale_outputs(fold)
        assert call(fold).returncode == 0
        assert has_result(fold)
        (fold / "POSCAR").unlink()
        os.mkfifo(fold / "POSCAR")
        refused = call(fold)
        assert (refused.returncode, "a pipe or a device, not a file" in refused.stderr) == (3, True)
        assert_no_result(fold)

    def test_one_that_cannot_be_removed_is_emptied(self, tmp_path):
        """As in a folder that may not be written, with files that may."""
        fold = make_folder(tmp_path)
        leave_stale_outputs(fold)
        refuse = "import os\ndef unlink(*a, **k): raise PermissionError(13, 'Permission denied')\nos.unlink = unlink"
        done = run_after(fold, refuse)
        assert done.returncode == 8
        assert b"OSZICAR: cannot be removed: Permission denied" in done.stderr
        assert [(fold / name).read_text() for name in VASP_OUTPUTS] == [""] * len(VASP_OUTPUTS)

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            ("MemoryError()", b"memory ran out: the limit of this process is reached (see ulimit -v"),
            ("ImportError('libx.so: failed to map segment from shared object')", b"memory ran out"),
            ('RuntimeError("can\'t start new thread")', b"no thread can be started"),
        ],
    )
    def test_a_limit_of_the_system_is_named(self, tmp_path, error, words):
        fold = make_folder(tmp_path)
        leave_stale_outputs(fold)
        done = run_after(
            fold, f"import uspex_bridge.call.config as c\ndef load(*a): raise {error}\nc.load_config = load"
        )
        assert done.returncode == 7, done.stderr
        assert words in done.stderr
        assert b"please report" not in done.stderr
        assert_no_result(fold)


class TestFinished:
    """A finished relaxation stands, exit 0, with its line in the record."""

    def finish(self, fold: Path, preamble: str = "", **popen) -> subprocess.CompletedProcess:
        done = run_after(fold, preamble, **popen)
        assert done.returncode == 0, done.stderr
        assert has_result(fold)
        assert record(fold)[-1]["status"] == "converged"
        return done

    @pytest.mark.parametrize("encoding", ["ascii", "gbk", "koi8-r", "utf-16"])
    def test_stdout_cannot_hold_every_letter(self, tmp_path, encoding):
        done = self.finish(make_folder(tmp_path), env={**os.environ, "PYTHONIOENCODING": encoding})
        assert "converged" in done.stdout.decode(encoding)
        assert done.stderr == b""

    def test_stdout_is_full(self, tmp_path):
        with open("/dev/full", "w") as full:
            self.finish(make_folder(tmp_path), stdout=full, stderr=full)

    def test_nobody_reads_stdout_any_more(self, tmp_path):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as pipe:
            self.finish(make_folder(tmp_path), stdout=pipe, stderr=pipe)

    def test_stdout_and_stderr_are_closed(self, tmp_path):
        fold = make_folder(tmp_path)
        command = f"exec {sys.executable} -c '{MAIN}' >&- 2>&- <&-"
        assert subprocess.run(["sh", "-c", command], cwd=fold, timeout=240, check=False).returncode == 0
        assert has_result(fold)

    @pytest.mark.parametrize("server", [False, True])
    def test_the_folders_name_is_no_utf_8(self, tmp_path, own, server):
        top = tmp_path / os.fsdecode(b"search-\xff\xfe")
        fold = make_folder(top)
        done = own().call(fold) if server else call(fold, "--server", "off")
        assert done.returncode == 0, done.stderr
        assert has_result(fold)
        entry = record(fold)[-1]
        assert entry["folder"] == str(fold)
        assert "CaFe2Ni" in (fold / "bridge.log").read_text()

    def test_no_thread_can_be_started(self, tmp_path):
        refuse = 'import threading\ndef start(self): raise RuntimeError("can\'t start new thread")\n'
        self.finish(make_folder(tmp_path), refuse + "threading.Thread.start = start")

    def test_the_lock_cannot_be_given_back(self, tmp_path):
        refuse = (
            "import os\nfrom uspex_bridge.base import locks\nclass Os:\n    def __getattr__(self, name):\n"
            "        if name in ('close', 'ftruncate'): raise OSError(5, 'Input/output error')\n"
            "        return getattr(os, name)\nlocks.os = Os()"
        )
        self.finish(make_folder(tmp_path), refuse)

    def test_links_out_of_the_search_are_not_followed(self, tmp_path):
        fold = make_folder(tmp_path / "search")
        for name in ("log", "record"):
            (tmp_path / name).write_text("mine\n")
        (fold / "bridge.log").symlink_to(tmp_path / "log")
        (fold / ".OSZICAR.part").symlink_to(tmp_path / "log")
        (fold / ".CONTCAR.part").symlink_to(tmp_path / "log")
        record_path = fold.parent / "bridge.record"
        record_path.symlink_to(tmp_path / "record")
        done = call(fold)
        assert done.returncode == 0
        assert "bridge.record: is a link to another folder" in done.stderr
        assert has_result(fold)
        for name in ("log", "record"):
            assert (tmp_path / name).read_text() == "mine\n"

    def test_the_log_is_rotated(self, tmp_path):
        fold = make_folder(tmp_path)
        (fold / "bridge.log").write_text("x" * 79 + "\n" * 1)
        (fold / "bridge.log").write_text(("x" * 79 + "\n") * 30_000)
        self.finish(fold)
        assert (fold / "bridge.log").stat().st_size < 1_000_000
        assert (fold / "bridge.log.1").stat().st_size >= 2_000_000


def test_what_a_status_tells_of_the_record_is_json(tmp_path):
    fold = make_folder(tmp_path / os.fsdecode(b"\xe9t\xe9"))
    assert call(fold).returncode == 0
    (line,) = (fold.parent / "bridge.record").read_bytes().splitlines()
    assert json.loads(line)["folder"] == str(fold)
