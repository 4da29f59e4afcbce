"""mace_run_train: multi-head replay fine-tuning, fine-tuning on the new labels alone, or from random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.base.units import ev_a3_to_gpa
from uspex_bridge.learn.data.exports import write_extxyz
from uspex_bridge.learn.training.trainers.base import Trainer, Training, log_of, refuse_own, whole
from uspex_bridge.learn.training.watch import CurvePoint, Run

_NAME = "model"
#: Head of the new labels.
HEAD = "Default"
_OURS = ("name", "train_file", "valid_file", "pt_train_file", "foundation_model", "multiheads_finetuning", "work_dir")
_MADE = ("energy_key", "forces_key", "stress_key", "device", "seed", "foundation_head", "heads", "config")


class Mace(Trainer):
    """``mace_run_train``."""

    name = "mace"
    kind = "mace"
    title = "MACE"
    packages = ("mace-torch", "torch", "e3nn", "numpy")
    unit = "epochs"
    suffix = ".model"

    def input(self, job: Training) -> dict[str, Any]:
        """See the base class."""
        given = dict(job.settings.input)
        refuse_own(given, (*_OURS, *_MADE))
        if not given.get("compute_stress"):
            raise ConfigError("settings: compute_stress must be true: without stresses there is no PV")
        if job.replay and job.parent is None:
            raise ConfigError("--replay is for foundation models; it needs --from")
        samples = int(given.pop("num_samples_pt", 10_000))
        table = given | {
            "name": _NAME,
            "train_file": "data/train.xyz",
            "work_dir": ".",
            "seed": job.seed,
            "device": job.kind_of_device,
            "error_table": "PerAtomRMSEstressvirials",
            "keep_checkpoints": True,
            "max_num_epochs": self.length(job),
            **{f"{quantity}_key": f"REF_{quantity}" for quantity in ("energy", "forces", "stress")},
        }
        table |= {"valid_file": "data/valid.xyz"} if job.valid else {"valid_fraction": 0.1}
        if job.parent is not None:
            table |= {"foundation_model": str(job.parent.path), "multiheads_finetuning": bool(job.replay)}
            if table.get("E0s") == "estimated":  # MACE evaluates the parent for it in the parent's own precision
                table |= job.parent.shape
            if job.parent.branch:
                table["foundation_head"] = job.parent.branch
        if job.replay:
            table |= {"pt_train_file": "data/replay.xyz", "num_samples_pt": samples}
        return table

    def write_data(self, job: Training) -> None:
        """See the base class."""
        most = int(job.settings.input.get("num_samples_pt", 10_000))
        replay = rehearsal(job.replay, job.elements, most, job.seed)
        for name, frames in (("train", job.train), ("valid", job.valid), ("replay", replay)):
            if frames:
                write_extxyz(frames, job.work / "data" / f"{name}.xyz", "mace")

    def length(self, job: Training) -> int:
        """See the base class."""
        return job.length or int(job.settings.input.get("max_num_epochs", 200))

    def upstream(self, job: Training) -> list[str]:
        """See the base class; JSON is YAML, which mace_run_train reads."""
        return ["mace_run_train", "--config", "input.json"]

    def task(self, job: Training, *, resume: bool) -> Run:
        """See the base class."""
        extra = ["--restart_latest"] if resume and self._drop_broken(job.work) else []
        return job.run(self.title, "mace", [*self.upstream(job)[1:], *extra])

    def curve(self, work: Path) -> list[CurvePoint]:
        """Read results/*_train.txt, whose lines of mode "eval" are the errors on the validation set."""
        points: dict[int, CurvePoint] = {}
        for path in sorted((work / "results").glob("*_train.txt")):
            for line in path.read_text(errors="replace").splitlines():
                if '"eval"' in line and line.endswith("}"):
                    found = json.loads(line)
                    if found["epoch"] is not None and found.get("head") in (HEAD, None):
                        step = int(found["epoch"]) + 1
                        points = {k: p for k, p in points.items() if k < step}
                        points[step] = CurvePoint(step, _values(found))
        return list(points.values())

    def check(self, points: Sequence[CurvePoint]) -> None:
        """Check that there are errors of the stress."""
        if points and points[-1].error("stress") is None and points[-1].error("virial") is None:
            raise CalculationError("MACE does not train on stresses; set compute_stress. Nothing is published")

    def checkpoint(self, work: Path) -> Path | None:
        """Return the newest whole checkpoint; MACE writes one whenever the validation loss has fallen."""
        return next((path for path in _checkpoints(work) if whole(path)), None)

    def tidy(self, work: Path) -> None:
        """Remove all checkpoints but the last two: MACE keeps all, or deletes the old one before it writes the new."""
        for path in _checkpoints(work)[2:]:
            path.unlink(missing_ok=True)

    def _drop_broken(self, work: Path) -> bool:
        """Remove checkpoints that a kill cut off, which MACE would load, and tell whether one is left."""
        for path in _checkpoints(work):
            if not whole(path):
                path.unlink()
        return bool(_checkpoints(work))

    def finish(self, job: Training) -> dict[str, Path]:
        """Return the model of the best epoch; where training was ended early, let MACE write it."""
        model = job.work / f"{_NAME}.model"
        if not whole(model):
            self._drop_broken(job.work)
            best = self.checkpoint(job.work)
            if best is None:
                raise CalculationError(f"{job.work}: MACE left no checkpoint; see {job.work / 'train.log'}")
            stop = ["--restart_latest", f"--max_num_epochs={_epoch_of(best)}"]
            job.run(f"{self.title} (writing)", "mace", [*self.upstream(job)[1:], *stop], "freeze.log").finish()
        return {"model": model}

    def facts(self, job: Training) -> dict[str, Any]:
        """Return the atoms' energies of the new head, and its name."""
        facts: dict[str, Any] = {"head": HEAD} if job.replay else {}
        found = re.findall(r"Atomic Energies used \(z: eV\) for head \w+: \{(.*?)\}", log_of(job))
        if found:
            from ase.data import chemical_symbols

            pairs = re.findall(r"(\d+): ([-+\d.eE]+)", found[0])
            facts["atom_energies_ev"] = {chemical_symbols[int(z)]: float(energy) for z, energy in pairs}
        return facts


def rehearsal(frames: Sequence[Atoms], elements: Sequence[str], most: int, seed: int) -> list[Atoms]:
    """Return the structures to rehearse: those that share at least two elements, filled up at random.

    Args:
        frames: of the foundation model's training.
        elements: of the new labels.
        most: how many to return.
        seed: of the choice.
    """
    rng, known = np.random.default_rng(seed), set(elements)
    order = [frames[k] for k in rng.permutation(len(frames))]
    near = [atoms for atoms in order if len(known & set(atoms.symbols)) >= min(2, len(known))]
    others = [atoms for atoms in order if len(known & set(atoms.symbols)) < min(2, len(known))]
    return [*near, *others][:most]


def _checkpoints(work: Path) -> list[Path]:
    return sorted((work / "checkpoints").glob("*_epoch-*.pt"), key=_epoch_of, reverse=True)


def _epoch_of(path: Path) -> int:
    found = re.search(r"_epoch-(\d+)", path.name)
    return int(found[1]) if found else -1


def _values(found: dict[str, Any]) -> dict[str, float]:
    values = {"loss_valid": float(found["loss"])} if "loss" in found else {}
    names = {"rmse_e_per_atom": "energy", "rmse_f": "forces", "rmse_virials_per_atom": "virial"}
    for key, name in names.items():
        if found.get(key) is not None:
            values[f"{name}_valid"] = float(found[key])
    if found.get("rmse_stress") is not None:
        values["stress_valid"] = ev_a3_to_gpa(float(found["rmse_stress"]))
    return values
