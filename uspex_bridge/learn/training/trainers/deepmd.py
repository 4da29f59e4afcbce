"""DeePMD-kit's PyTorch trainer: DPA-3, and the local se_a descriptor that disagrees with it where data is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.learn.data.exports import write_deepmd
from uspex_bridge.learn.training.trainers.base import Trainer, Training, log_of, overlay, whole
from uspex_bridge.learn.training.watch import CurvePoint, Run

#: Descriptors that need one system per composition.
_BY_COMPOSITION = ("se_e2_a", "se_a", "se_e2_r", "se_r", "se_e3", "se_at", "se_a_3be")
#: Points of the curve and checkpoints that even a short training leaves.
_POINTS, _CHECKPOINTS = 20, 5
#: Column of lcurve.out -> what the bridge calls it.
_NAMES = {"rmse": "loss", "rmse_e": "energy", "rmse_f": "forces", "rmse_v": "virial"}


class DeepmdTrainer(Trainer):
    """``dp --pt train``."""

    kind = "deepmd"
    title = "DeePMD-kit"
    packages = ("deepmd-kit", "torch", "e3nn", "numpy")
    unit = "steps"
    suffix = ".pth"

    def input(self, job: Training) -> dict[str, Any]:
        """See the base class: the settings with type map, data, length and seeds filled in."""
        given = job.settings.input
        model, training = given.get("model", {}), given.get("training", {})
        data = [table for name in ("training_data", "validation_data") if (table := training.get(name))]
        if "type_map" in model or any("systems" in table for table in data):
            raise ConfigError("settings: 'type_map' and 'systems' follow from the dataset; leave them out")
        if job.parent is None and not model.get("descriptor"):
            raise ConfigError("settings: [input.model.descriptor] is needed where there is no --from")
        if "model_dict" in model:
            raise ConfigError("settings: several tasks at once are not supported; run dp by hand")
        if model.get("descriptor", {}).get("type") in ("se_a_ebd_v2", "se_a_tpe_v2"):
            raise ConfigError(
                "settings: se_a_ebd_v2 exists in DeePMD-kit's TensorFlow backend only; deepmd-sea's template is its "
                "PyTorch counterpart (se_atten without attention, tebd_input_mode = 'strip')"
            )
        steps = self.length(job)
        filled: dict[str, Any] = {
            "model": {"type_map": list(job.elements)},
            "training": {
                "training_data": {"systems": "data/train"},
                "numb_steps": steps,
                "disp_freq": min(int(training.get("disp_freq", 1000)), max(1, steps // _POINTS)),
                "save_freq": min(int(training.get("save_freq", 1000)), max(1, steps // _CHECKPOINTS)),
                "seed": job.seed,
            },
        }
        if job.valid:
            filled["training"]["validation_data"] = {"systems": "data/valid"}
        table = overlay(given, filled)
        if not job.valid:
            table["training"].pop("validation_data", None)
        if job.parent is None:
            for part in ("descriptor", "fitting_net"):
                table["model"][part] = {"seed": job.seed, **table["model"].get(part, {})}
        else:  # --use-pretrain-script takes both from the checkpoint
            table["model"] |= {"descriptor": {}, "fitting_net": {}}
        return table

    def write_data(self, job: Training) -> None:
        """See the base class."""
        for split, frames in (("train", job.train), ("valid", job.valid)):
            if frames:
                write_deepmd(frames, job.work / "data" / split, mixed=_mixed(job))

    def length(self, job: Training) -> int:
        """See the base class."""
        return job.length or int(job.settings.input.get("training", {}).get("numb_steps", 0)) or 200_000

    def upstream(self, job: Training) -> list[str]:
        """See the base class."""
        return ["dp", *self._arguments(job, "input.json")]

    def _arguments(self, job: Training, file: str) -> list[str]:
        command = ["--pt", "train", file]
        if job.parent is not None:
            command += ["--finetune", str(job.parent.path), "--use-pretrain-script"]
            if job.parent.branch:
                command += ["--model-branch", job.parent.branch]
        return command

    def task(self, job: Training, *, resume: bool) -> Run:
        """See the base class. What goes on takes the complete input that DeePMD-kit wrote when it began."""
        latest = self.checkpoint(job.work) if resume else None
        if latest is not None and (job.work / "out.json").is_file():
            arguments = ["--pt", "train", "out.json", "--restart", latest.name, "--skip-neighbor-stat"]
            arguments += ["--output", "out-restart.json"]
        else:
            arguments = self._arguments(job, "input.json")
        return job.run(self.title, "deepmd", [job.kind_of_device, *arguments])

    def curve(self, work: Path) -> list[CurvePoint]:
        """Read lcurve.out; after a restart it repeats steps, of which the last count."""
        path = work / "lcurve.out"
        if not path.is_file():
            return []
        columns: list[str] = []
        points: dict[int, CurvePoint] = {}
        for line in path.read_text(errors="replace").splitlines(keepends=True):
            words = line.lstrip("#").split()
            if line.startswith("#"):
                columns = words if words[:1] == ["step"] else columns
            elif line.endswith("\n") and len(words) == len(columns) > 0:
                step = int(words[0])
                points = {k: p for k, p in points.items() if k < step}
                points[step] = CurvePoint(step, _values(columns[1:], words[1:]))
        return list(points.values())

    def check(self, points: Sequence[CurvePoint]) -> None:
        """Check that virials were trained on: without them pressures are a guess, and DeePMD-kit says nothing."""
        if points and points[-1].error("virial") is None:
            raise CalculationError(
                "DeePMD-kit does not train on virials (lcurve.out has no rmse_v); start_pref_v and limit_pref_v must "
                "not be 0. Nothing is published"
            )

    def checkpoint(self, work: Path) -> Path | None:
        """Return the checkpoint that DeePMD-kit names in the file ``checkpoint``, written when it was whole."""
        pointer = work / "checkpoint"
        named = [work / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
        others = sorted(work.glob("model.ckpt-*.pt"), key=_step_of, reverse=True)
        return next((path for path in (*named, *others) if whole(path)), None)

    def finish(self, job: Training) -> dict[str, Path]:
        """Freeze the last checkpoint."""
        latest = self.checkpoint(job.work)
        if latest is None:
            raise CalculationError(f"{job.work}: DeePMD-kit left no checkpoint; see {job.work / 'train.log'}")
        arguments = ["--pt", "freeze", "-c", latest.name, "-o", "frozen.pth"]
        job.run(f"{self.title} (freezing)", "deepmd", [job.kind_of_device, *arguments], "freeze.log").finish()
        return {"model": job.work / "frozen.pth", "checkpoint": latest}

    def facts(self, job: Training) -> dict[str, Any]:
        """Return the refit of the output bias: by how much each element's energy was moved to the new labels."""
        found = re.findall(r"Change output bias of (\[.*?\]) from (\[.*?\]) to (\[.*?\])\.?\s", log_of(job), re.DOTALL)
        if not found:
            return {}
        elements, old, new = found[-1]
        names = re.findall(r"[A-Z][a-z]?", elements)
        values = [[float(word) for word in re.findall(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?", text)] for text in (old, new)]
        return {
            "output_bias_ev": {name: list(pair) for name, pair in zip(names, zip(*values, strict=True), strict=False)}
        }


class Dpa3(DeepmdTrainer):
    """DPA-3, from a pretrained checkpoint and branch."""

    name = "deepmd-dpa3"


class Sea(DeepmdTrainer):
    """The se_a descriptor with type embedding."""

    name = "deepmd-sea"


def _mixed(job: Training) -> bool:
    return job.settings.input.get("model", {}).get("descriptor", {}).get("type") not in _BY_COMPOSITION


def _step_of(path: Path) -> int:
    found = re.search(r"-(\d+)\.pt$", path.name)
    return int(found[1]) if found else -1


def _values(columns: Sequence[str], words: Sequence[str]) -> dict[str, float]:
    values = {}
    for column, word in zip(columns, words, strict=True):
        stem, _, split = column.rpartition("_")
        name = (
            "rate"
            if column == "lr"
            else f"{_NAMES[stem]}_{'valid' if split == 'val' else 'train'}"
            if stem in _NAMES
            else ""
        )
        if name:
            values[name] = float(word)
    return values
