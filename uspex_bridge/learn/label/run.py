"""Labels computed on this machine, one after the other; several of these share the work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from uspex_bridge.backends import Backend, load
from uspex_bridge.config import Config
from uspex_bridge.errors import ConfigError
from uspex_bridge.learn.label import computed
from uspex_bridge.learn.label.collect import EXIT, LOCK, LOG, Job, inspect
from uspex_bridge.learn.label.settings import read_settings
from uspex_bridge.learn.label.tasks import RESULT, SETTINGS, folders, read_task
from uspex_bridge.learn.models import settings_for


def run(labels: Path, config: Config, *, command: str | None = None, again: bool = False) -> Iterator[Job]:
    """Compute what is not computed yet.

    Args:
        labels: folder of the labels.
        config: settings of calculators, for labels by a model.
        command: run in each structure's folder instead of the settings' own.
        again: also what failed.

    Yields:
        each structure's outcome as it is there.

    Raises:
        ConfigError, ModelError: the model or command cannot be used.
        InputError: there are no labels.
        OutputError: a result cannot be written.
    """
    settings = read_settings(labels / SETTINGS, None)
    wanted = {"prepared", "failed"} if again else {"prepared"}
    backend: Backend | None = None
    try:
        for folder in folders(labels):
            if inspect(folder).state not in wanted:
                continue
            try:
                with FileLock(folder / LOCK, timeout=0):
                    (folder / RESULT).unlink(missing_ok=True)
                    if settings.code == "model":
                        backend = backend or load(settings.functional, settings_for(settings.functional, config))
                        _by_model(folder, backend)
                    else:
                        _by_command(folder, command or settings.job.command)
            except Timeout:
                continue  # another run is at it
            yield inspect(folder, stale=0.0)
    finally:
        if backend is not None:
            backend.close()


def _by_model(folder: Path, backend: Backend) -> None:
    task = read_task(folder)
    computed.compute(folder, task, backend)


def _by_command(folder: Path, command: str) -> None:
    """Run a command in a structure's folder; what it prints goes to ``run.log``.

    Raises:
        ConfigError: there is no such command.
    """
    with (folder / LOG).open("w", encoding="utf-8") as log:
        done = subprocess.run(["bash", "-c", command], cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
        log.write(f"{EXIT} {done.returncode}\n")
    if done.returncode in (126, 127):
        said = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[0]
        (folder / LOG).unlink()
        raise ConfigError(f"'{command}' cannot be run ({said}); name another with --command")
