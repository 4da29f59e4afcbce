"""CHGNet's own trainer, from one of its packaged models or an earlier training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.learn.data.exports import write_extxyz
from uspex_bridge.learn.training.trainers.base import Trainer, Training, refuse_own, whole
from uspex_bridge.learn.training.trainers.chgnet_launch import BEST, CURVE, LAST, SHIFTS
from uspex_bridge.learn.training.watch import CurvePoint, Run

#: What the package's ``Trainer`` takes that follows from the command line.
_OURS = ("epochs", "use_device", "torch_seed", "data_seed", "targets", "starting_epoch")
_NAMES = {"e": "energy", "f": "forces", "s": "stress"}


class Chgnet(Trainer):
    """``chgnet.trainer.Trainer``."""

    name = "chgnet"
    kind = "chgnet"
    title = "CHGNet"
    packages = ("chgnet", "torch", "numpy")
    unit = "epochs"
    measure = "MAE"
    suffix = ".pth.tar"
    needs_parent = True

    def input(self, job: Training) -> dict[str, Any]:
        """See the base class: ``data`` for the loader, ``trainer`` for the package's Trainer."""
        given = {key: dict(value) if isinstance(value, dict) else value for key, value in job.settings.input.items()}
        options = given.setdefault("trainer", {})
        refuse_own(options, _OURS)
        if not options.get("stress_loss_ratio"):
            raise ConfigError("settings: stress_loss_ratio must not be 0: without stresses there is no PV")
        assert job.parent is not None
        return given | {
            "model": str(job.parent.path),
            "trainer": options
            | {
                "targets": "efs",
                "epochs": self.length(job),
                "use_device": job.kind_of_device,
                "torch_seed": job.seed,
                "data_seed": job.seed,
            },
        }

    def write_data(self, job: Training) -> None:
        """See the base class."""
        for name, frames in (("train", job.train), ("valid", job.valid or job.train)):
            write_extxyz(frames, job.work / "data" / f"{name}.xyz")

    def length(self, job: Training) -> int:
        """See the base class."""
        return job.length or int(job.settings.input.get("epochs", 20))

    def upstream(self, job: Training) -> list[str]:
        """See the base class; the package has no command of its own."""
        return ["python", "-c", "'from chgnet.trainer import Trainer'", "#", "with", "input.json"]

    def task(self, job: Training, *, resume: bool) -> Run:
        """See the base class."""
        latest = self.checkpoint(job.work) if resume else None
        return job.run(self.title, "chgnet", ["--resume", latest.name] if latest else [])

    def curve(self, work: Path) -> list[CurvePoint]:
        """Read the errors per epoch: energies eV/atom, forces eV/Å, stresses GPa."""
        path = work / CURVE
        points: dict[int, CurvePoint] = {}
        for line in jsonl.read(path) if path.is_file() else ():
            step = int(line["epoch"])
            points = {k: p for k, p in points.items() if k < step}
            values = {
                f"{_NAMES[key]}_{split}": float(value)
                for split in ("train", "valid")
                for key, value in line[split].items()
            }
            points[step] = CurvePoint(step, values | {"rate": float(line["rate"])})
        return list(points.values())

    def checkpoint(self, work: Path) -> Path | None:
        """Return the last epoch's checkpoint, which appears whole."""
        return work / LAST if whole(work / LAST) else None

    def finish(self, job: Training) -> dict[str, Path]:
        """Return the model of the epoch whose errors on the validation structures have fallen most."""
        if not whole(job.work / BEST):
            raise CalculationError(f"{job.work}: CHGNet left no model; see {job.work / 'train.log'}")
        return {"model": job.work / BEST}

    def check(self, points: Sequence[CurvePoint]) -> None:
        """Check that there are errors of the stress."""
        if points and points[-1].error("stress") is None:
            raise CalculationError("CHGNet does not train on stresses. Nothing is published")

    def facts(self, job: Training) -> dict[str, Any]:
        """Return how far the atoms' energies were moved before training."""
        path = job.work / SHIFTS
        return {"atom_energy_shifts_ev": json.loads(path.read_text())} if path.is_file() else {}
