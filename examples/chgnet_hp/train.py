"""Train chgnet-hp: CHGNet 0.3.0 on public DFT calculations and equations of state at high pressure.

    uspex-bridge dataset fetch
    python train.py --equations FOLDER -o work --epochs 10

``work/last.pt`` is written every few minutes and gone on from; ``work/best.pt`` is what export.py takes.

The loss adds up, each as Huber's:
- energies, in units of 0.03 eV/atom + 0.003 eV/atom per GPa of the label; one constant per element is learnt beside;
- forces, in units of 0.1 eV/Å + a tenth of the cell's own, averaged over each cell's atoms;
- stresses, in units of 2 GPa + 5 %, so that 1 GPa and 300 GPa count alike;
- pressures of crystals on all-electron equations of state, in units of their error;
and a penalty where a crystal that is pressed gets softer: its bulk modulus must stay above 1.7 P + 8 GPa.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ase import Atoms
from data import SCATTERED, Squeezed, composition, equations_of_state, frames, network, pressed

from uspex_bridge.base.neighbours import size
from uspex_bridge.base.units import ev_a3_to_gpa, pressure_of

GPA = ev_a3_to_gpa(1.0)
BATCH, RATE, WARM, SMOOTHED = 8, 3e-3, 100, 0.995
#: Cells with more atoms, pairs and angles than this are taken a quarter as often.
LARGE = 4000
#: Pressures that errors are listed for, GPa.
WINDOWS = (0.0, 5.0, 50.0, 120.0, 300.0, 600.0)


def huber(errors: Any) -> Any:
    """Return Huber's loss of errors in units of their scale, element by element."""
    return torch.nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")


def loss_of(model: Any, constants: Any, batch: Sequence[Atoms]) -> Any:
    """Return the loss on labelled structures."""
    energies, forces, stresses = network(model, batch)
    shares = torch.tensor(np.array([composition(atoms) for atoms in batch]), dtype=torch.float32)
    pressure = torch.tensor([abs(pressure_of(atoms.get_stress())) for atoms in batch], dtype=torch.float32)
    wanted = torch.tensor([atoms.get_potential_energy() / len(atoms) for atoms in batch], dtype=torch.float32)
    loss = huber((energies + shares @ constants - wanted) / (0.03 + 0.003 * pressure)).mean()
    for atoms, own in zip(batch, forces.split([len(atoms) for atoms in batch]), strict=True):
        given = torch.tensor(atoms.get_forces(), dtype=torch.float32)
        loss = loss + huber((own - given) / (0.1 + 0.1 * given.norm() / len(atoms) ** 0.5)).mean() / len(batch)
    given = torch.tensor(np.array([atoms.get_stress(voigt=False) for atoms in batch]), dtype=torch.float32)
    return loss + huber(GPA * (stresses - given) / (2.0 + 0.05 * pressure)[:, None, None]).mean()


def state_loss(model: Any, batch: Sequence[Squeezed]) -> Any:
    """Return the loss on pressures of equations of state, whose crystals are under no shear."""
    stresses = network(model, [one.atoms for one in batch])[2]
    pressure, error = (torch.tensor([getattr(one, n) for one in batch]).float() for n in ("pressure", "error"))
    return huber((GPA * stresses + pressure[:, None, None] * torch.eye(3)) / error[:, None, None]).mean()


def hole_penalty(model: Any, batch: Sequence[Atoms], rng: np.random.Generator) -> Any:
    """Return the penalty on crystals whose pressure does not grow as it must when their lengths shrink by 0.4-2 %."""
    shrink = 1.0 - rng.uniform(0.004, 0.02, len(batch))
    smaller = [atoms.copy() for atoms in batch]
    for atoms, by in zip(smaller, shrink, strict=True):
        atoms.set_cell(atoms.cell * by, scale_atoms=True)
    stresses = network(model, [*batch, *smaller])[2]
    before, after = (-GPA * stresses.diagonal(dim1=1, dim2=2).mean(1)).split(len(batch))
    modulus = (after - before) / torch.tensor(-3 * np.log(shrink), dtype=torch.float32)
    at = before.detach().abs().clamp(max=500.0)
    return (torch.relu(1.7 * at + 8.0 - modulus) / (20.0 + 2.0 * at)).clamp(max=20.0).mean()


@dataclass
class Training:
    """The network, what is learnt beside it, their smoothed copies, and how far it has got."""

    model: Any
    constants: Any
    steps: int
    step: int = 0
    best: float = math.inf
    smooth: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        network_own = [p for name, p in self.model.named_parameters() if not name.startswith("composition_model")]
        self.parameters = [*network_own, self.constants]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.0, betas=(0.9, 0.99))
        self.smooth = [p.detach().clone() for p in self.parameters]

    def update(self, loss: Any) -> None:
        """Take one step."""
        rate = min(1.0, (self.step + 1) / WARM)
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        self.optimizer.param_groups[0]["lr"] = RATE * rate
        self.optimizer.zero_grad()
        loss.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(self.parameters, 20.0)):
            self.optimizer.step()
        decay = min(SMOOTHED, (1 + self.step) / (10 + self.step))
        for smooth, now in zip(self.smooth, self.parameters, strict=True):
            smooth.lerp_(now.detach(), 1 - decay)
        self.step += 1

    def swap(self) -> None:
        """Exchange the parameters for their smoothed ones, or back."""
        for smooth, now in zip(self.smooth, self.parameters, strict=True):
            kept = now.detach().clone()
            now.data.copy_(smooth)
            smooth.copy_(kept)

    def state(self) -> dict[str, Any]:
        """Return what a later run goes on from."""
        parameters = [p.detach() for p in self.parameters]
        return {"step": self.step, "best": self.best, "parameters": parameters, "smooth": self.smooth} | {
            "optimizer": self.optimizer.state_dict()
        }

    def load(self, path: Path) -> None:
        """Go on from a state."""
        state = torch.load(path, weights_only=False)
        self.step, self.best = state["step"], state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("parameters", "smooth"):
            for now, then in zip(getattr(self, name), state[name], strict=True):
                now.data.copy_(then)


def errors_of(training: Training, valid: Sequence[Atoms]) -> list[dict[str, float]]:
    """Return mean absolute errors per window of pressure: energy eV/atom, forces eV/Å, pressure GPa."""
    rows = []
    for low, high in pairwise(WINDOWS):
        inside = [atoms for atoms in valid if low <= pressure_of(atoms.get_stress()) < high]
        found = []
        for atoms in inside:
            energies, forces, stresses = (x.detach().numpy() for x in network(training.model, [atoms]))
            constant = composition(atoms) @ training.constants.detach().numpy()
            pressure = -GPA * float(np.trace(stresses[0])) / 3
            found.append(
                (
                    abs(float(energies[0]) + constant - atoms.get_potential_energy() / len(atoms)),
                    np.abs(forces - atoms.get_forces()).mean(),
                    abs(pressure - pressure_of(atoms.get_stress())),
                )
            )
        means = np.mean(found, axis=0).tolist() if found else [math.nan] * 3
        rows.append(
            {"from_gpa": low, "to_gpa": high, **dict(zip(("energy", "forces", "pressure"), means, strict=True))}
        )
    return rows


def learnable(atoms: Atoms, model: Any) -> bool:
    """Tell whether a label of the set from MPtrj is to be believed: some stresses there are of runs that failed."""
    given = pressure_of(atoms.get_stress())
    if not atoms.info["name"].startswith("mptrj") or given < 50.0:
        return True
    return -GPA * float(np.trace(network(model, [atoms])[2][0].detach().numpy())) / 3 > 0.25 * given


def _write(value: Any, path: Path) -> None:
    torch.save(value, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


@click.command()
@click.option("--equations", type=click.Path(exists=True, path_type=Path), required=True, help="See data.py.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("work"), show_default=True)
@click.option("--epochs", type=float, default=10.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(equations: Path, out: Path, epochs: float, seed: int) -> None:
    """Train; go on where an earlier run ended."""
    from chgnet.model.model import CHGNet

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    train = [atoms for atoms in frames(("train",)) if learnable(atoms, model)]
    valid = [atoms for atoms in frames(("valid",), tests_only=True) if not SCATTERED & set(atoms.symbols)]
    states, crystals = equations_of_state(equations), pressed(frames(("train",), tests_only=True))
    often = np.array([0.25 if size(atoms, 6.0, 3.0) > LARGE else 1.0 for atoms in train])
    per_epoch = int(often.sum() // BATCH)
    calm = [atoms for atoms in train if pressure_of(atoms.get_stress()) < 30.0]
    shares = np.array([composition(atoms) for atoms in calm])
    left = [
        atoms.get_potential_energy() / len(atoms) - float(network(model, [atoms], derive=False)[0]) for atoms in calm
    ]
    middle = float(np.median(left))
    fitted = np.linalg.solve(shares.T @ shares + 1e-3 * np.eye(94), shares.T @ (np.array(left) - middle))
    constants = torch.nn.Parameter(torch.tensor(middle + fitted, dtype=torch.float32))
    training = Training(model, constants, int(epochs * per_epoch))
    if (out / "last.pt").is_file():
        training.load(out / "last.pt")
    click.echo(
        f"{len(train)} structures, {len(states)} on equations of state, {len(crystals)} pressed; {per_epoch} steps"
    )
    kept = time.monotonic()
    while training.step < training.steps:
        rng = np.random.default_rng((seed, training.step))
        batch = [train[k] for k in rng.choice(len(train), BATCH, replace=False, p=often / often.sum())]
        loss = loss_of(model, constants, batch)
        loss = loss + state_loss(model, [states[k] for k in rng.integers(len(states), size=2)])
        loss = loss + 0.3 * hole_penalty(model, [crystals[k] for k in rng.integers(len(crystals), size=2)], rng)
        training.update(loss)
        ended = training.step % per_epoch == 0 or training.step == training.steps
        if ended:
            training.swap()
            rows = errors_of(training, valid)
            score = float(
                np.nanmean([math.log(row[name]) for row in rows for name in ("energy", "forces", "pressure")])
            )
            if score < training.best:
                training.best = score
                _write({"model": model.state_dict()}, out / "best.pt")
            training.swap()
            with (out / "curve.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": training.step, "score": score, "errors": rows}) + "\n")
        if ended or time.monotonic() - kept > 240:
            _write(training.state(), out / "last.pt")
            kept = time.monotonic()


if __name__ == "__main__":
    main()
