"""What tests of trainings share."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import learning
import numpy as np

from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings


def settings(folder: Path, text: str) -> tuple[Path, ...]:
    path = folder / "tiny.toml"
    path.write_text(text)
    return (path,)


def computes(card: dict, folder: Path) -> float:
    """Load a finished model as a search would and return its energy of a structure, eV."""
    chosen = CalculatorSettings(
        kind=card["kind"], model=str(folder / card["model"]), sha256=card["sha256"], head=card["head"], device="cpu"
    )
    with backends.load("model", replace(chosen, isolate=True)) as model:
        model.check_elements(card["elements"])
        atoms = learning.structures(1, 9)[0]
        model.calculator.calculate(atoms)
        assert np.isfinite(model.calculator.results["forces"]).all()
        assert np.abs(model.calculator.results["stress"]).max() > 0
        return model.calculator.results["energy"]


def killed_and_resumed(arguments: list[str], out: Path, begun: Path) -> str:
    """Kill a training with SIGKILL once the file ``begun`` is there, let it go on to its end, and return its log."""
    command = [sys.executable, "-m", "uspex_bridge.cli.main", "train", *arguments, "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read().decode()[-3000:]
    process.kill()
    process.wait()
    assert not (out / "model.json").exists()
    end = time.monotonic() + 30
    while (alive := trainers_in(out)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive, "the trainer outlives the command"
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    return (out / "work" / "train.log").read_text()


def trainers_in(out: Path) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if (
                place.resolve() == (out / "work").resolve()
                and "Z" not in (place.parent / "stat").read_text().split()[2]
            ):
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found
