"""Labels computed on this machine, one after the other; several of these share the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from uspex_bridge.base.errors import BusyError, ConfigError, ModelError
from uspex_bridge.base.locks import held
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import settings_for
from uspex_bridge.learn.label import computed
from uspex_bridge.learn.label.collect import EXIT, LOCK, LOG, MOMENT, LabelState, inspect
from uspex_bridge.learn.label.settings import read_prepared_settings
from uspex_bridge.learn.label.tasks import RESULT, RUN_VASP, SETTINGS, folders, read_task
from uspex_bridge.models.backends import Backend, load

#: What a command that computes labels with GPAW calls, from a structure's folder.
SCRIPT = "../run_gpaw.py"


def run(labels: Path, config: Config, *, command: str | None = None, retry: bool = False) -> Iterator[LabelState]:
    """Compute what is not computed yet.

    Args:
        labels: folder of the labels.
        config: settings of calculators, for labels by a model.
        command: run in each structure's folder instead of the settings' own.
        retry: also what failed.

    Yields:
        each structure's outcome as it is there.

    Raises:
        ConfigError, ModelError: the model or command cannot be used, or its Python has no gpaw.
        InputError: there are no labels.
        OutputError: a result cannot be written.
    """
    settings = read_prepared_settings(labels / SETTINGS)
    wanted = {"prepared", "failed"} if retry else {"prepared"}
    command = command or settings.job.command
    backend: Backend | None = None
    checked = settings.code != "gpaw"
    try:
        for folder in folders(labels):
            found = inspect(folder)
            if found.task is None:
                yield found
                continue
            if found.state not in wanted:
                continue
            if not checked:
                refuse_without_gpaw(command)
                checked = True
            try:
                with held(folder / LOCK, "another run computes it", MOMENT):
                    (folder / RESULT).unlink(missing_ok=True)
                    if settings.code == "model":
                        backend = backend or load(settings.functional, settings_for(settings.functional, config))
                        _by_model(folder, backend)
                    else:
                        _by_command(folder, command, vasp=settings.code == "vasp")
            except BusyError:
                continue  # another run is at it
            yield inspect(folder, stale=0.0)
    finally:
        if backend is not None:
            backend.close()


def refuse_without_gpaw(command: str) -> None:
    """Look whether the Python of a command that runs ``run_gpaw.py`` has gpaw.

    Raises:
        ModelError: it has not.
    """
    if SCRIPT not in command:
        return
    asked = ["bash", "-c", command.replace(SCRIPT, "-c 'import gpaw'")]
    done = subprocess.run(asked, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"'{command}' cannot compute labels: {said}; name a Python that has gpaw with --python, or a command that "
            "does it with --command, under [job] in the settings, or in a loop under [label] in cycle.toml"
        )


def _by_model(folder: Path, backend: Backend) -> None:
    task = read_task(folder)
    computed.compute(folder, task, backend)


def _by_command(folder: Path, command: str, *, vasp: bool) -> None:
    """Run a command in a structure's folder; what it prints goes to ``run.log``.

    Args:
        folder: of the structure.
        command: runs the code.
        vasp: let ``run_vasp.sh`` call it, which relaxes first where that is asked for, and tries twice.

    Raises:
        ConfigError: there is no such command.
    """
    scripted = vasp and (folder.parent / RUN_VASP).is_file()
    words = ["bash", f"../{RUN_VASP}"] if scripted else ["bash", "-c", command]
    around = {**os.environ, "LABEL_COMMAND": command}
    with (folder / LOG).open("w", encoding="utf-8") as log:
        done = subprocess.run(words, cwd=folder, env=around, stdout=log, stderr=subprocess.STDOUT, check=False)
        log.write(f"{EXIT} {done.returncode}\n")
    if done.returncode in (126, 127):
        said = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[0]
        (folder / LOG).unlink()
        raise ConfigError(f"'{command}' cannot be run ({said}); name another with --command")
