"""MatterSim's own fine-tuning script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.learn.data.exports import write_extxyz
from uspex_bridge.learn.training.trainers.base import Trainer, Training, log_of, refuse_own, whole
from uspex_bridge.learn.training.watch import CurvePoint, Run

_NUMBER = r"([-+\d.einfNaA]+)"
_LINE = re.compile(
    rf"(train|val): Loss: {_NUMBER}, MAE\(e\): {_NUMBER}, MAE\(f\): {_NUMBER}, MAE\(s\): {_NUMBER}, .*lr: {_NUMBER}"
)
_OURS = ("load_model_path", "train_data_path", "valid_data_path", "save_path", "save_checkpoint", "device", "seed")


class MatterSim(Trainer):
    """``mattersim.training.finetune_mattersim``."""

    name = "mattersim"
    kind = "mattersim"
    title = "MatterSim"
    packages = ("mattersim", "torch", "e3nn", "numpy")
    unit = "epochs"
    measure = "MAE"
    suffix = ".pth"
    needs_parent = True

    def input(self, job: Training) -> dict[str, Any]:
        """See the base class."""
        given = dict(job.settings.input)
        refuse_own(given, (*_OURS, "cutoff", "threebody_cutoff"))
        if not given.get("include_stresses"):
            raise ConfigError("settings: include_stresses must be true: without stresses there is no PV")
        assert job.parent is not None
        data = {"train_data_path": "data/train.xyz"} | ({"valid_data_path": "data/valid.xyz"} if job.valid else {})
        epochs = self.length(job)
        return given | {
            "load_model_path": str(job.parent.path),
            **data,
            **job.parent.shape,
            "save_path": ".",
            "save_checkpoint": True,
            "device": job.kind_of_device,
            "seed": job.seed,
            "epochs": epochs,
            "early_stop_patience": given.get("early_stop_patience", epochs),  # the bridge's own [watch] decides
        }

    def write_data(self, job: Training) -> None:
        """See the base class."""
        for name, frames in (("train", job.train), ("valid", job.valid)):
            if frames:
                write_extxyz(frames, job.work / "data" / f"{name}.xyz")

    def length(self, job: Training) -> int:
        """See the base class."""
        return job.length or int(job.settings.input.get("epochs", 200))

    def upstream(self, job: Training) -> list[str]:
        """See the base class."""
        return ["torchrun", "--nproc_per_node=1", "-m", "mattersim.training.finetune_mattersim", *self._options(job)]

    def _options(self, job: Training) -> list[str]:
        options = []
        for key, value in self.input(job).items():
            if isinstance(value, bool):
                options.append(f"--{key}" if value else f"--no-{key}")
            else:
                options.append(f"--{key}={value}")
        return options

    def task(self, job: Training, *, resume: bool) -> Run:
        """See the base class."""
        latest = self.checkpoint(job.work) if resume else None
        extra = ["--resume", str(latest)] if latest else []
        return job.run(self.title, "mattersim", [*extra, *self._options(job)])

    def curve(self, work: Path) -> list[CurvePoint]:
        """Read the log: errors per epoch, of energies eV/atom, forces eV/Å, stresses GPa."""
        path = work / "train.log"
        points: dict[int, dict[str, float]] = {}
        epoch = 0
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            if begun := re.search(r"Epoch: (\d+) / \d+", line):
                epoch = int(begun[1]) + 1
                points = {k: p for k, p in points.items() if k < epoch}
            elif found := _LINE.search(line):
                split = "valid" if found[1] == "val" else "train"
                numbers = [float(word) for word in found.groups()[1:]]
                names = [f"{name}_{split}" for name in ("loss", "energy", "forces", "stress")]
                points.setdefault(epoch, {}).update(zip([*names, "rate"], numbers, strict=True))
        return [CurvePoint(step, values) for step, values in points.items()]

    def checkpoint(self, work: Path) -> Path | None:
        """Return the last epoch's checkpoint; the best epoch's where a kill cut that one off."""
        best, last = work / "best_model.pth", work / "last_model.pth"
        return next((path for path in (last, best) if whole(path) and whole(best)), None)

    def finish(self, job: Training) -> dict[str, Path]:
        """Return the best epoch's model."""
        best = job.work / "best_model.pth"
        if not whole(best):
            raise CalculationError(f"{job.work}: MatterSim left no model; see {job.work / 'train.log'}")
        return {"model": best}

    def check(self, points: Sequence[CurvePoint]) -> None:
        """Check that there are errors of the stress."""
        if points and not points[-1].error("stress"):
            raise CalculationError("MatterSim does not train on stresses; set include_stresses. Nothing is published")

    def facts(self, job: Training) -> dict[str, Any]:
        """Return the number of parameters that were trained."""
        found = re.search(r"Number of trainable parameters: ([\d,]+)", log_of(job))
        return {"parameters": int(found[1].replace(",", ""))} if found else {}
