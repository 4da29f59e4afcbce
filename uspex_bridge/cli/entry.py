"""Where calls of uspex-bridge-vasp and uspex-bridge-external begin: in the service if there is one, else here.

Nothing of ASE, NumPy or a model is loaded, and little of the standard library, before it is clear that the run
happens in this process.
"""

from __future__ import annotations

import os
import sys

from uspex_bridge.service import client, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: What a call does about services (docs/service.md).
MODES = ("auto", "off", "start", "require")
#: Seconds in which a service that ended may come back.
COMES_BACK = 10.0
#: Where launchers of parallel programs say how many processes they started: Open MPI, MPICH and Intel MPI, MVAPICH,
#: srun. The executables and :mod:`uspex_bridge.call.ranks` look at the same.
_SIZES = frozenset(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))


def enter(kind: str, argv: list[str]) -> NoReturn:
    """Do a call of uspex-bridge-vasp (``kind`` is ``vasp``) or uspex-bridge-external (``external``), and end with it.

    The executables in ``launchers/`` start this.
    """
    call = read(argv)
    if call and not _SIZES.isdisjoint(os.environ):
        from uspex_bridge.call.ranks import one_of_many

        def work() -> int:
            code = _in_service(kind, argv, *call)
            return _here(kind, argv) if code is None else code

        sys.exit(one_of_many(kind, call[0], argv, work))
    code = _in_service(kind, argv, *call) if call else None
    if code is not None:
        os._exit(code)  # all is said and written; taking an interpreter down properly costs a third of its start
    sys.exit(_here(kind, argv))


def _in_service(kind: str, argv: list[str], folder: str, options: dict[str, str]) -> int | None:
    return _Call(kind, argv, folder, options).in_service()


def _here(kind: str, argv: list[str]) -> int:
    """Let the run happen in this process and return its exit code."""
    try:
        if kind == "vasp":
            from uspex_bridge.cli.vasp import main
        else:
            from uspex_bridge.cli.external import main
        main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:  # noqa: BLE001 (errors of the run itself do not come here)
        if isinstance(error, FileNotFoundError) and _nowhere():
            print("uspex-bridge: the working folder was removed", file=sys.stderr)
            return 8
        what = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        print(f"uspex-bridge: the installation is broken: {what}; `uspex-bridge doctor` shows more", file=sys.stderr)
        return 5
    return 0


def _nowhere() -> bool:
    """Tell whether the working folder is gone."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def read(argv: list[str]) -> tuple[str, dict[str, str]] | None:
    """Return folder and options of a call, as far as they decide where it runs.

    None means that it is for the command itself: help, or an error in the arguments.
    """
    folders: list[str] = []
    options: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if word == "--":
            folders += words
        elif word in ("-h", "--help", "--version"):
            return None
        elif word.startswith("--"):
            name, given, value = word.partition("=")
            following = value if given else next(words, None)
            if following is None:
                return None
            options[name] = following
        elif word.startswith("-"):
            return None
        else:
            folders.append(word)
    if len(folders) > 1 or options.get("--server", "auto") not in MODES:
        return None
    return (folders[0] if folders else "."), options


class _Call:
    """One call, and what becomes of it with and without a service."""

    def __init__(self, kind: str, argv: list[str], folder: str, options: dict[str, str]) -> None:
        self.kind, self.argv, self.folder, self.options = kind, argv, folder, options
        self.mode = options.get("--server") or os.environ.get(wire.MODE) or None
        self.place = wire.address()
        self.caller = client.Caller()

    def in_service(self) -> int | None:
        """Return the exit code of the run in a service, None if it is to be here."""
        if self.mode == "off":
            return None
        if self.mode not in (None, *MODES):
            return self._fail("ConfigError", f"{wire.MODE}={self.mode} is not one of {', '.join(MODES)}")
        try:
            job = client.request(self.kind, self.folder, self.argv, self.mode)
        except OSError:
            return None  # there is no such folder; the run says so
        try:
            return self._submit(job)
        except client.Failed as error:
            return self._fail(error.error, str(error))

    def _submit(self, job: dict[str, object]) -> int | None:
        try:
            return self.caller.submit(self.place, job)
        except client.Absent:
            return self._without(job)
        except client.Unusable as error:
            return self._here(f"the service at {self.place} cannot be used: {error}")
        except client.Lost:
            if self.caller.halted:
                return self._here("")
        try:
            return self.caller.resubmit(self.place, job, COMES_BACK)
        except (client.Absent, client.Unusable, client.Lost):
            from pathlib import Path

            from uspex_bridge.service import local

            local.wait_for(Path(self.folder))
            return self._here(f"the service at {self.place} ended during this run")

    def _without(self, job: dict[str, object]) -> int | None:
        """Do what the settings say where there is no service."""
        from pathlib import Path

        from uspex_bridge.base.errors import ServiceError
        from uspex_bridge.service import local

        settings, source = local.service_settings(Path(self.folder), self.options.get("--config"))
        self.mode = self.mode or settings.mode
        if self.mode == "require":
            return self._here(f"there is no service at {self.place}")
        if self.mode != "start":
            return self._here("")
        try:
            local.start(self.place, local.inherited_options(source))
            return self.caller.submit(self.place, job)
        except (ServiceError, client.Absent, client.Unusable, client.Lost) as error:
            return self._here(str(error))

    def _here(self, reason: str) -> int | None:
        """Let the run happen in this process, saying why, unless a service is required."""
        if self.caller.halted:
            return self._fail("Interrupted", "stopped before the start of the run; nothing was written")
        if self.mode == "require":
            return self._fail("ServiceError", f"{reason}; --server require allows no other way")
        if reason:
            print(f"uspex-bridge: {reason}; running here instead", file=sys.stderr)
        return None

    def _fail(self, error: str, message: str) -> int:
        from pathlib import Path

        from uspex_bridge.base.files import named
        from uspex_bridge.service import local

        return local.fail(self.kind, named(Path(self.folder)), local.error_of(error, message))
