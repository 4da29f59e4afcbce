"""Watching a trainer: its loss curve as it grows, when to stop it, and what its death means."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from uspex_bridge.base.errors import CalculationError, ModelError, OutputError
from uspex_bridge.base.halt import Halter

#: Seconds between looks at the trainer, and that it may take to end when asked.
PACE, END_TIMEOUT = 0.5, 20.0
#: Lines of its log that a message about a trainer's death shows.
TAIL = 12
#: What of a point is followed: errors on the validation set, else on the training set.
FOLLOWED = ("energy", "forces", "virial", "stress")

#: What trainers, and the libraries below them, say when they cannot write; PyTorch's words are followed by many lines.
_FULL = re.compile(
    r"No space left on device|\[Errno 28\]|Disk quota exceeded|file write failed|enforce fail at inline_container"
)
#: Bytes on a disk below which it is full: a log's last words may not have found their place either.
_ROOM = 1 << 16

Ending = Literal["finished", "early", "time", "signal"]


@dataclass(frozen=True)
class WatchSettings:
    """The table ``[watch]`` of a training's settings.

    Attributes:
        patience: points of the curve without progress after which the training is ended; 0 is never.
        progress: by which fraction energy, force or virial error must fall below its best so far to be progress.
        diverged: times the first error of energy, force, virial or stress; above that, twice in a row, the training
            has diverged.
    """

    patience: int = 0
    progress: float = 0.01
    diverged: float = 100.0

    def __post_init__(self) -> None:
        if self.patience < 0 or not 0 <= self.progress < 1 or self.diverged <= 1:
            raise ValueError("patience >= 0, 0 <= progress < 1 and diverged > 1 are needed")


@dataclass(frozen=True)
class CurvePoint:
    """One point of a loss curve.

    Attributes:
        step: steps or epochs done.
        values: ``energy`` (eV/atom), ``forces`` (eV/Å), ``virial`` (eV/atom) and ``stress`` (GPa), each with
            ``_train`` or ``_valid`` after it, ``loss`` and ``rate`` (the learning rate); what the trainer gives.
    """

    step: int
    values: Mapping[str, float]

    def error(self, quantity: str) -> float | None:
        """Return the error of a quantity on the validation set, else on the training set."""
        return self.values.get(f"{quantity}_valid", self.values.get(f"{quantity}_train"))

    @property
    def errors(self) -> dict[str, float]:
        """The errors of all quantities that it has."""
        return {name: value for name in FOLLOWED if (value := self.error(name)) is not None}


@dataclass
class Run:
    """One process of a trainer.

    Attributes:
        command: with arguments.
        environment: all of it.
        folder: where it runs.
        log: file that its output is appended to.
        title: of the trainer, for messages.
    """

    command: Sequence[str]
    environment: dict[str, str]
    folder: Path
    log: Path
    title: str
    began: int = field(default=0, init=False)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; it ends when this process does.

        Raises:
            ModelError: it cannot be started.
            OutputError: the log cannot be written.
        """
        try:
            with self.log.open("ab") as log:
                self.began = log.tell()
                return subprocess.Popen(
                    self.command,
                    env=self.environment,
                    cwd=self.folder,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            if error.filename == str(self.log):
                raise OutputError(f"{self.log}: cannot be written: {error.strerror}") from None
            raise ModelError(f"{self.title} cannot be started: {error.strerror}: {self.command[0]}") from None

    def finish(self, limit: float = 3600.0) -> None:
        """Start it, wait for its end, and demand success; for short tasks such as freezing.

        Raises:
            CalculationError, OutputError, ModelError: see :meth:`death`; or it took longer than ``limit`` seconds.
        """
        process = self.start()
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise CalculationError(f"{self.title} took longer than {limit:g} s and was ended") from None
        finally:
            end(process)
        if status:
            raise self.death(status)

    def death(self, status: int) -> CalculationError | OutputError | ModelError:
        """Return the error that an end with this status is, with the last lines of the log."""
        with self.log.open("rb") as log:
            log.seek(self.began)
            whole = log.read().decode(errors="replace")
        tail = [line.rstrip() for line in whole[-8000:].splitlines() if line.strip()][-TAIL:]
        lines = [f"    {line}" for line in tail] or ["    (it said nothing)"]
        text = "\n".join(lines)
        how = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
        said = f"the end of its log, {self.log}, is:"
        if _FULL.search(whole) or shutil.disk_usage(self.folder).free < _ROOM:
            return OutputError(
                f"{self.title} ended with {how}: the disk or its quota is full; free disk space, then --resume. {said}",
                *lines,
            )
        if "ModuleNotFoundError" in text:
            return ModelError(f"{self.title} ended with {how}: its environment lacks a package; {said}", *lines)
        if re.search(r"[Nn]on-?finite|\bNaN\b", text):
            return CalculationError(
                f"{self.title} diverged (NaN) and ended with {how}; lower the learning rate and begin again. {said}",
                *lines,
            )
        hint = "; it ran out of memory or was killed" if status == -signal.SIGKILL else ""
        return CalculationError(f"{self.title} ended with {how}{hint}; {said}", *lines)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)
    with suppress(ProcessLookupError):  # what it started and left behind
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


def watch(
    run: Run,
    curve: Callable[[], list[CurvePoint]],
    settings: WatchSettings,
    halter: Halter,
    tell: Callable[[list[CurvePoint]], None] = lambda points: None,
) -> Ending:
    """Run a trainer to its end, or to the end that it needs.

    Args:
        run: the process.
        curve: reads the points so far, by step.
        settings: when to end it.
        halter: says when time is up or a signal came.
        tell: is called with all points whenever there are new ones.

    Returns:
        how it ended: ``finished`` by itself, ``early`` for lack of progress, or as ``halter`` said.

    Raises:
        CalculationError: it died or diverged.
        OutputError: the disk is full.
        ModelError: it cannot be started, or its environment lacks something.
    """
    before: CurvePoint | None = None
    process = run.start()
    try:
        while True:
            status = process.poll()
            if status is None and (reason := halter()):
                return reason
            points = curve()
            if points and points[-1] != before:
                before = points[-1]
                tell(points)
                check_divergence(points, settings, run.title)
                if status is None and stalled(points, settings):
                    return "early"
            if status == 0:
                return "finished"
            if status is not None:
                raise run.death(status)
            time.sleep(PACE)
    finally:
        end(process)


def check_divergence(points: Sequence[CurvePoint], settings: WatchSettings, title: str) -> None:
    """Check that errors are numbers, and not far above what they have been.

    Raises:
        CalculationError: they are not.
    """
    last = points[-1]
    advice = "nothing is published; lower the learning rate, look at the labels, and begin again"
    broken = [name for name, value in last.values.items() if not math.isfinite(value)]
    if broken:
        raise CalculationError(f"{title} diverged: {', '.join(broken)} is not a number at step {last.step}; {advice}")
    for name, first in points[0].errors.items():
        values = [value for point in points[-2:] if (value := point.error(name)) is not None]
        if len(points) > 2 and min(values) > settings.diverged * first:
            raise CalculationError(
                f"{title} diverged: the {name} error at step {last.step} is {values[-1]:.3g}, it began with "
                f"{first:.3g}; {advice}"
            )


def check_outcome(
    points: Sequence[CurvePoint], trivial: Mapping[str, float], settings: WatchSettings, title: str
) -> None:
    """Check that a training that has ended well is not far worse than no model at all.

    Args:
        points: of its curve.
        trivial: quantity -> error of a model that knows nothing, in the curve's units.
        settings: how far is far.
        title: of the trainer.

    Raises:
        CalculationError: it is.
    """
    for name, error in points[-1].errors.items() if points else ():
        if error > settings.diverged * max(trivial.get(name, error), 0.01):
            raise CalculationError(
                f"{title} diverged: it ends with an error of the {name} of {error:.3g}, a constant model gives "
                f"{trivial[name]:.3g}; nothing is published; lower the learning rate and begin again"
            )


def stalled(points: Sequence[CurvePoint], settings: WatchSettings) -> bool:
    """Tell whether no error has fallen below its best for ``patience`` points."""
    if not settings.patience or len(points) <= settings.patience:
        return False
    old, new = points[: -settings.patience], points[-settings.patience :]
    for name in FOLLOWED:
        best = min((value for point in old if (value := point.error(name)) is not None), default=None)
        now = min((value for point in new if (value := point.error(name)) is not None), default=None)
        if best is not None and now is not None and now < best * (1.0 - settings.progress):
            return False
    return True
