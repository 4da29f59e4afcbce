"""Run a model in a worker process, of this interpreter or another one, and talk to it in JSON lines.

The worker (:mod:`uspex_bridge.models.worker_main`) imports the light modules of this very package from its
folder; the other interpreter needs ASE, NumPy and the model's package, not uspex_bridge. Numbers cross as
shortest decimal strings, which give back the same float64.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import uspex_bridge
from uspex_bridge.base import errors
from uspex_bridge.base.lines import LineSocket, MessageError
from uspex_bridge.base.words import ending
from uspex_bridge.models import messages
from uspex_bridge.models.cards import CalculatorSettings

#: Seconds that a worker may take to start, and to import and load its model: a package that imports in half a minute
#: takes a quarter of an hour on a machine with thirty times as many processes as cores.
START_TIMEOUT = 1800.0
#: Seconds that it may take to end once its stdin is closed.
END_TIMEOUT = 5.0
#: Imports the package from its folder argv[1] alone, so that no other package of ours becomes importable, and runs
#: ``main()`` of its module argv[2].
_BOOT = """
import importlib, importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.spec_from_file_location(
    "uspex_bridge", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
package = sys.modules["uspex_bridge"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
importlib.import_module(sys.argv[2]).main()
"""


def command_in(python: str | None, module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs ``main()`` of one of this package's modules in an interpreter, and its environment.

    Args:
        python: another interpreter, None for this one.
        module: full name; it may import only what that interpreter has.

    Raises:
        ModelError: there is no such interpreter.
    """
    environment = dict(os.environ)
    if python is not None:  # what makes our environment work would break the other one
        for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__"):
            environment.pop(name, None)
    return [_interpreter(python), "-c", _BOOT, str(Path(uspex_bridge.__file__).parent), module], environment


class WorkerDied(errors.CalculationError):
    """The worker process ended during a request."""


class ModelProcess:
    """A running worker process and the messages to and from it.

    Attributes:
        python: the other interpreter, None for this one.
    """

    def __init__(self, python: str | None = None) -> None:
        self.python = python
        self._tail: deque[str] = deque(maxlen=20)
        command, environment = command_in(python, "uspex_bridge.models.worker_main")
        ours, theirs = socket.socketpair()
        self._line = LineSocket(ours)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE, env=environment
                )
        except OSError as error:
            ours.close()
            raise errors.ModelError(f"python = '{python}' cannot be run: {error.strerror or error}") from None
        self._drain = threading.Thread(target=self._read_stderr, args=(self._process.stderr,), daemon=True)
        self._drain.start()
        self._greet()

    def request(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            WorkerDied: it did.
            CalculationError: the worker took longer than ``timeout`` seconds, or answered what is not an answer; it is
                ended then.
            InputError, ConfigError, ModelError, CalculationError: what it answered.
        """
        try:
            self._line.send(message)
            answer = self._line.receive(timeout)
        except TimeoutError:
            self.close(kill=True)
            raise errors.CalculationError(f"{self} gave no answer within {timeout:g} s and was ended") from None
        except (OSError, EOFError):
            raise WorkerDied(self._how_it_ended()) from None
        except MessageError as error:
            self.close(kill=True)
            raise errors.CalculationError(f"{self}: not an answer: {error}") from None
        return messages.checked(answer)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self, *, kill: bool = False) -> None:
        """End the worker: politely, after END_TIMEOUT or with ``kill`` by force."""
        if kill:
            self._process.kill()
        self._line.close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain.join(END_TIMEOUT)

    def __str__(self) -> str:
        return f"worker ({self.python or sys.executable})"

    def _greet(self) -> None:
        try:
            hello = self._line.receive(START_TIMEOUT)
            if hello.get("protocol") != messages.PROTOCOL:
                raise MessageError(f"it speaks protocol {hello.get('protocol')}, not {messages.PROTOCOL}")
        except TimeoutError:
            self.close(kill=True)
            raise errors.ModelError(f"{self} did not start within {START_TIMEOUT:g} s") from None
        except (OSError, EOFError, MessageError) as error:
            self.close(kill=True)
            reason = self._tail[-1] if self._tail else str(error) or "it ended"
            raise errors.ModelError(
                f"{self} did not start: {reason}; is it a Python of version 3.10 or newer?"
            ) from None

    def _read_stderr(self, stream: Any) -> None:
        with stream:
            for line in stream:
                if text := line.decode(errors="replace").strip():
                    self._tail.append(text)

    def _how_it_ended(self) -> str:
        """Say how it died, with the last lines it printed."""
        self.close()
        code = self._process.returncode
        how = ending(code)
        said = f"; its last output: {' | '.join(list(self._tail)[-3:])}" if self._tail else ""
        return f"{self} {how} during a request{said}"


class ProcessModel:
    """A model in a worker process: started at once, started again when it is needed after a death.

    Attributes:
        identity, elements, energy_zero: as in :class:`uspex_bridge.models.backends.Backend`.
        cutoffs: the model's ``cutoff`` and ``angle_cutoff`` where it evaluates structures together, else None.
    """

    def __init__(self, name: str, settings: CalculatorSettings) -> None:
        self._name, self._settings = name, settings
        self._worker: ModelProcess | None = None
        self._start()

    def evaluate(self, atoms: Any) -> dict[str, Any]:
        """Evaluate a structure, as :func:`uspex_bridge.models.evaluate.evaluate` does; once more if its worker dies.

        Raises:
            CalculationError: the model failed, or its worker died twice or took too long.
        """
        try:
            return self._evaluate(atoms)
        except WorkerDied:
            pass
        try:
            return self._evaluate(atoms)
        except WorkerDied as error:
            raise errors.CalculationError(f"{error}, for the second time with this structure") from None

    def _evaluate(self, atoms: Any) -> dict[str, Any]:
        return messages.results_of(self._ask(messages.question(atoms), self._settings.timeout))

    def _ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        if self._worker is None or not self._worker.alive:
            self._start()
        assert self._worker is not None
        return self._worker.request(message, timeout)

    def evaluate_many(self, structures: Sequence[Any]) -> list[dict[str, Any] | errors.CalculationError]:
        """Evaluate structures together, as :meth:`uspex_bridge.models.backends.Backend.evaluate_many` does.

        A batch that the worker dies of, or takes too long for, is taken apart; one alone is as :meth:`evaluate`.

        Raises:
            OutOfMemoryError: they do not fit the memory together.
            ModelError: the worker cannot be started again.
        """
        try:
            if len(structures) == 1:
                return [self.evaluate(structures[0])]
            limit = self._settings.timeout * len(structures)
            return messages.results_of_many(self._ask(messages.question_of_many(structures), limit))
        except errors.OutOfMemoryError:
            raise
        except errors.CalculationError as error:
            if len(structures) == 1:
                return [error]
        return [self.evaluate_many([atoms])[0] for atoms in structures]

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _start(self) -> None:
        self.close()
        self._worker = ModelProcess(self._settings.python)
        try:
            answer = self._worker.request(message("load", self._name, self._settings), START_TIMEOUT)
        except errors.ConfigError:
            self.close()
            raise
        except errors.BridgeError as error:
            where = f" in {self._settings.python}" if self._settings.python else ""
            self.close()
            raise errors.ModelError(f"{self._name}{where}: {error}") from None
        self.identity: dict[str, Any] = {**answer["identity"], "worker": self._settings.python or "isolated"}
        self.elements = None if answer["elements"] is None else frozenset(answer["elements"])
        self.energy_zero: str = answer["energy_zero"]
        self.cutoffs: dict[str, float] | None = answer["batch"]


def message(action: str, name: str, settings: CalculatorSettings) -> dict[str, Any]:
    """Return the request to do ``action`` for a calculator, in the worker itself."""
    return {"do": action, "name": name, "settings": asdict(replace(settings, python=None, isolate=False))}


def _interpreter(python: str | None) -> str:
    """Return the path of an interpreter given as a path, a name on PATH or the folder of its environment.

    Raises:
        ModelError: there is no such program.
    """
    if python is None:
        return sys.executable
    path = Path(python).expanduser()
    found = shutil.which(path / "bin" / "python" if path.is_dir() else path)
    if found is None:
        raise errors.ModelError(
            f"python = '{python}': no such interpreter; give the path of an environment's bin/python"
        )
    return found
