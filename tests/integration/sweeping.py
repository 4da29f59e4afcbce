"""A command is failed or killed at each of its file operations, and what it leaves is looked at."""

from __future__ import annotations

import io
import os
import select
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from faults import FAULTS, Faults

from uspex_bridge.cli import main

#: Seconds after which a case hangs.
_PATIENCE = 300.0
#: What is tried at every operation.
_EVERYWHERE = ("KILL", "EIO", "ENOSPC", "ENOLCK")
#: Exit codes that say what went wrong; 1 is a bug of ours, or a no of some commands.
DOCUMENTED = {0, 3, 4, 5, 6, 7, 8, 9, 10, 11}


@dataclass(frozen=True)
class Case:
    """What happens, at which operation, and whether it stays."""

    what: str
    at: int
    stays: bool = False

    @property
    def kills(self) -> bool:
        return self.what in ("KILL", "TERM")


@dataclass(frozen=True)
class End:
    """How a process ended: exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str


class Sweep(ABC):
    """A command and what must hold after it, whatever happened in it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "root"
        self.template = top / "template"
        self.template.mkdir()
        self.make(self.template)
        self.prepare(Case("EIO", 0))
        os.chdir(self.root)
        with suppress(SystemExit), redirect_stdout(io.StringIO()):
            self.act()  # imports all, so that the processes need not
        os.chdir(self.top)  # the root comes and goes, and libraries do not load where there is no folder

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Make what the command finds."""

    @abstractmethod
    def act(self) -> int | None:
        """Do the command, in the folder, and return its exit code."""

    @abstractmethod
    def look(self, case: Case, end: End) -> None:
        """Look at what is left right after a case; raises AssertionError."""

    @abstractmethod
    def look_again(self, end: End) -> None:
        """Look at what is left after the command was run a second time; raises AssertionError."""

    def prepare(self, case: Case) -> None:
        """Put everything back as it was made."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)

    def run(self, case: Case | None) -> End:
        """Run the command in a process of its own and return how it ended."""
        out, err = self.top / "out", self.top / "err"
        child = os.fork()
        if child == 0:
            self._in_child(case)
        handle = os.pidfd_open(child)
        ended, *_ = select.select([handle], [], [], _PATIENCE)
        os.close(handle)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return End(code if ended else -999, out.read_text(), err.read_text())

    def _in_child(self, case: Case | None) -> None:
        code = 98
        try:
            os.setpgid(0, 0)
            os.chdir(self.root)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.top / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            faults = Faults(self.root, *((case.what, case.at, case.stays) if case else ("KILL", None)))
            faults.arm()
            try:
                code = self.act() or 0
            except SystemExit as end:
                code = int(end.code or 0)
            sys.stdout.flush()
            if case is None:
                (self.top / "seen").write_text(" ".join(faults.seen))
        except BaseException:  # noqa: BLE001 (the parent looks at it)
            import traceback

            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def cases(self) -> Iterator[Case]:
        """Yield every case: kills, and failures that pass or stay; the rarer ones not at every operation."""
        self.prepare(Case("EIO", 0))
        end = self.run(None)
        assert end.code == 0, end
        seen = (self.top / "seen").read_text().split()
        for what, kinds in FAULTS.items():
            count = sum(kind in kinds for kind in seen)
            for at in range(0, count, 1 if what in _EVERYWHERE else 3):
                yield Case(what, at)
            if what not in ("KILL", "TERM"):
                for at in range(0, count, 4):
                    yield Case(what, at, stays=True)

    def sweep(self, count: int) -> tuple[int, list[str]]:
        """Try ``count`` cases, or all with 0; return how many and what was wrong."""
        wrong: list[str] = []
        cases = list(self.cases())
        stride = max(1, len(cases) // count) if count else 1
        cases = cases[stride // 2 :: stride]
        for case in cases:
            self.prepare(case)
            end = self.run(case)
            try:
                self._judge(case, end)
                self.look(case, end)
                again = self.run(None)
                assert again.code == 0, f"the next call ends with {again}"
                self.look_again(again)
            except Exception as error:  # noqa: BLE001 (what cannot be read is as wrong)
                wrong.append(f"{case}: {error!r}; {end}")
        return len(cases), wrong

    @staticmethod
    def _judge(case: Case, end: End) -> None:
        """A killed process is killed; else the exit code is documented, and what is said are lines of ours."""
        assert end.code != -999, "it hangs"
        if case.what == "KILL":
            assert end.code in (-signal.SIGKILL, 0)
            return
        if case.what == "TERM":
            assert end.code in (-signal.SIGTERM, 0, 10), "not ended as told"
        else:
            assert end.code in DOCUMENTED, "undocumented exit code"
        assert "Traceback" not in end.err, "a traceback"
        if end.code > 0:
            said = [line for line in end.err.splitlines() if line.startswith("uspex-bridge: ")]
            assert said, "says nothing"
            assert "unexpected" not in end.err, "an unexpected error"


class Command(Sweep):
    """A command of ``uspex-bridge``."""

    words: tuple[str, ...]

    def act(self) -> int:
        main.main(list(self.words))
        return 99
