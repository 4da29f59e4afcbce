"""The errors of uspex_bridge, and the exit code that each one ends a command with.

The message of every error names what is wrong and what to do next; it is printed as one line on
stderr and written to ``bridge.log``. ``docs/exit_codes.md`` shows this table to users.
"""

from __future__ import annotations

import errno
from typing import Any

from uspex_bridge.base.words import one_line


class BridgeError(Exception):
    """Base class: an unexpected failure inside the bridge."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message; of an error with several arguments one line each."""
        return "\n".join(one_line(str(line)) for line in self.args)


class InputError(BridgeError):
    """POSCAR, INCAR, POTCAR or another input file cannot be used as it is."""

    exit_code = 3


class ConfigError(BridgeError):
    """A configuration file, a protocol or an option is wrong."""

    exit_code = 4


class ModelError(BridgeError):
    """A model, its package or the device it was asked to run on is not available."""

    exit_code = 5


class Rejected(BridgeError):
    """A guard of the protocol refused the structure.

    ``code`` is a short machine-readable reason (``overlap``, ``collapse``, ...); ``lasting`` is True where
    computing the same input again would end the same way. ``result`` is the RelaxResult that was refused, where there
    is one: no result for a search, yet training data.
    """

    exit_code = 6

    def __init__(self, code: str, message: str, *, lasting: bool = True, result: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.lasting = lasting
        self.result = result


class CalculationError(BridgeError):
    """A model failed on this structure (NaN, out of memory, an exception inside it)."""

    exit_code = 7


class OutOfMemoryError(CalculationError):
    """The device's memory does not hold these structures at once; fewer of them may fit."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that this process may have no more memory: Python, a library or a model says so."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error)
    return isinstance(error, (ImportError, OSError, RuntimeError)) and any(words in said for words in _NO_MEMORY)


def exhausted(error: BaseException) -> str:
    """Return what to say where a limit of the system ended a run, an empty string where that is not the reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and "new thread" in str(cause):
            return "no thread can be started: a limit is reached (see ulimit -u and ulimit -v)"
        if out_of_memory(cause):
            return "memory ran out: the limit of this process is reached (see ulimit -v, or the limit of the batch job)"
        cause = cause.__cause__ or cause.__context__
    return ""


#: What libraries say of memory that they do not get.
_NO_MEMORY = (
    "failed to map segment",
    "annot allocate memory",
    "bad_alloc",
    "DefaultCPUAllocator",
    "out of memory",
)


class OutputError(BridgeError):
    """A result could not be written (disk full, no permission)."""

    exit_code = 8


class BusyError(BridgeError):
    """Another bridge is at work in the same folder."""

    exit_code = 9


class Interrupted(BridgeError):
    """The time limit or a signal came before there was any valid result."""

    exit_code = 10


class ServiceError(BridgeError):
    """The service is needed and cannot be used."""

    exit_code = 11
