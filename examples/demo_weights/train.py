"""Train the demo weights from scratch: labels, MACE, MatterSim, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
MACE_FILE = "mace-demo-cafeni.model"
MATTERSIM_FILE = "mattersim-demo-cafeni.pth"
#: Share of the covalent radii below which MACE learns nothing and its ZBL term repels.
ZBL_BELOW = 0.30

work_option = click.option(
    "--work", type=click.Path(path_type=Path), default=HERE / "work", help="Where labels and checkpoints go."
)
out_option = click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Where the weights go.")
seed_option = click.option("--seed", type=int, default=1, show_default=True)


@click.group()
def main() -> None:
    """Demo weights of MACE and MatterSim for Ca-Fe-Ni at 0-100 GPa, learnt from CHGNet 0.3.0."""


@main.command()
@work_option
@seed_option
@click.option("--share", type=float, default=1.0, show_default=True, help="Scale the number of structures.")
def label(work: Path, seed: int, share: float) -> None:
    """Make the structures and label them with CHGNet."""
    _one_thread()
    from dataset import build, store
    from labels import RepulsiveCHGNet

    counts = store(build(seed, share, RepulsiveCHGNet()), work, seed)
    click.echo("frames: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


@main.command()
@work_option
@out_option
@seed_option
@click.option("--epochs", type=int, default=40, show_default=True)
def mace(work: Path, out: Path, seed: int, epochs: int) -> None:
    """Train the MACE model with mace-torch's own trainer."""
    from labels import ATOM_ENERGIES

    folder = work / "mace"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("train", "valid"):
        _without_overlaps(work / f"{part}.xyz", folder / f"{part}.xyz")
    options = {
        "name": "demo",
        "work_dir": folder,
        "train_file": folder / "train.xyz",
        "valid_file": folder / "valid.xyz",
        "E0s": str(ATOM_ENERGIES),
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "stress_key": "REF_stress",
        "model": "ScaleShiftMACE",
        "r_max": 5.0,
        "num_radial_basis": 8,
        "radial_MLP": "[32, 32]",
        "hidden_irreps": "16x0e",
        "MLP_irreps": "16x0e",
        "num_interactions": 2,
        "max_ell": 2,
        "correlation": 2,
        "interaction_first": "RealAgnosticDensityInteractionBlock",
        "interaction": "RealAgnosticDensityResidualInteractionBlock",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "loss": "universal",
        "energy_weight": 10,
        "forces_weight": 10,
        "stress_weight": 50,
        "compute_stress": True,
        "error_table": "PerAtomMAEstressvirials",
        "batch_size": 16,
        "valid_batch_size": 32,
        "lr": 0.01,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.02 ** (1 / epochs),
        "ema": True,
        "ema_decay": 0.995,
        "max_num_epochs": epochs,
        "eval_interval": 2,
        "default_dtype": "float32",
        "device": "cpu",
        "seed": seed,
        "plot": False,
    }
    flags = {"pair_repulsion", "ema"}
    arguments = [f"--{key}" if key in flags else f"--{key}={value}" for key, value in options.items()]
    _run("mace.cli.run_train", arguments, {})
    _slim_mace(folder / "demo.model", out / MACE_FILE)


def _without_overlaps(source: Path, target: Path) -> None:
    """Leave out the frames where MACE's built-in ZBL repulsion, far above the labels' own, does the work."""
    from ase.io import write
    from dataset import load

    write(target, [frame for frame in load(source) if frame.info["closest"] > ZBL_BELOW], format="extxyz")


def _slim_mace(source: Path, target: Path) -> None:
    """Save the trained model without gradients, on the CPU, as float32."""
    import torch

    model = torch.load(source, map_location="cpu", weights_only=False).float().eval()
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model, target)
    click.echo(f"{target} {target.stat().st_size / 1e6:.2f} MB")


@main.command()
@work_option
@out_option
@seed_option
@click.option("--epochs", type=int, default=32, show_default=True)
def mattersim(work: Path, out: Path, seed: int, epochs: int) -> None:
    """Train the MatterSim model with mattersim's own fine-tuning script, from a random small M3GNet."""
    folder = work / "mattersim"
    shutil.rmtree(folder, ignore_errors=True)
    shape = {"cutoff": 5.0, "threebody_cutoff": 3.5}
    _random_m3gnet(folder / "random.pth", seed, shape)
    options = {
        "load_model_path": folder / "random.pth",
        "train_data_path": work / "train.xyz",
        "valid_data_path": work / "valid.xyz",
        "save_path": folder,
        "device": "cpu",
        **shape,
        "batch_size": 16,
        "epochs": epochs,
        "lr": 5e-3,
        "step_size": 1,  # the rate falls by 5 % at each step, in mattersim's code
        "early_stop_patience": epochs,
        "force_loss_ratio": 1.0,
        "stress_loss_ratio": 0.05,
        "ckpt_interval": epochs + 1,
        "seed": seed,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    arguments += ["--include_forces", "--include_stresses", "--save_checkpoint"]
    alone = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    with tempfile.TemporaryDirectory() as stubs:
        _stand_ins(Path(stubs))
        _run("mattersim.training.finetune_mattersim", arguments, alone | {"PYTHONPATH": stubs})
    _slim_mattersim(folder / "best_model.pth", out / MATTERSIM_FILE)


def _stand_ins(folder: Path) -> None:
    """Put empty modules where mattersim imports wandb and mp_api, of which it uses nothing here."""
    from importlib.util import find_spec

    if find_spec("wandb") is None:
        (folder / "wandb.py").write_text("")
    if find_spec("mp_api") is None:
        (folder / "mp_api").mkdir()
        (folder / "mp_api" / "__init__.py").write_text("")
        (folder / "mp_api" / "client.py").write_text("MPRester = None\n")


def _random_m3gnet(target: Path, seed: int, shape: dict[str, float]) -> None:
    """Save a small M3GNet with random weights and the atoms' energies as its zero."""
    import torch
    from labels import ATOM_ENERGIES
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattersim.forcefield.m3gnet.scaling import AtomScaling
    from mattersim.forcefield.potential import Potential

    torch.manual_seed(seed)
    model = M3Gnet(num_blocks=2, units=32, max_l=3, max_n=4, device="cpu", **shape)
    zero = torch.zeros(model.max_z + 1)
    for number, energy in ATOM_ENERGIES.items():
        zero[number] = energy
    model.set_normalizer(AtomScaling(max_z=model.max_z, init_scale=2.0, init_shift=zero, device="cpu"))
    Potential(model, device="cpu").save(str(target))


def _slim_mattersim(source: Path, target: Path) -> None:
    """Save the trained model without the optimizer's state."""
    from mattersim.forcefield.potential import Potential

    trained = Potential.from_checkpoint(str(source), device="cpu", load_training_state=False)
    trained.set_description("Demo weights for Ca-Fe-Ni at 0-100 GPa; not for science.")
    trained.save(str(target.resolve()))
    click.echo(f"{target} {target.stat().st_size / 1e6:.2f} MB")


@main.command()
@work_option
@out_option
@click.option("--relax", "count", type=int, default=16, show_default=True, help="Random structures per pressure.")
@click.option("--judge/--no-judge", default=True, help="Compare volumes with those of the labelling calculator.")
@click.option("--seed", type=int, default=7, show_default=True)
def evaluate(work: Path, out: Path, count: int, judge: bool, seed: int) -> None:
    """Measure errors on the held-out frames, relax random structures, write errors.json."""
    _one_thread()
    from dataset import load
    from evaluate import calculators, errors, relaxations, summary
    from labels import RepulsiveCHGNet

    calcs = calculators(out / MACE_FILE, out / MATTERSIM_FILE)
    frames = load(work / "test.xyz")
    report = {"units": {"energy": "eV/atom", "force": "eV/Å", "stress": "GPa"}, "mean_absolute_errors": {}}
    for name, calculator in calcs.items():
        report["mean_absolute_errors"][name] = errors(frames, calculator)
    records = relaxations(calcs, count, seed, RepulsiveCHGNet() if judge else None)
    report["relaxations"] = summary(records)
    (work / "relaxations.json").write_text(json.dumps(records, indent=1))
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / "errors.json").write_text(text + "\n")
    click.echo(text)


@main.command("all")
@work_option
@out_option
@seed_option
@click.pass_context
def everything(context: click.Context, work: Path, out: Path, seed: int) -> None:
    """Do it all: label, mace, mattersim, evaluate."""
    context.invoke(label, work=work, seed=seed)
    context.invoke(mace, work=work, out=out, seed=seed)
    context.invoke(mattersim, work=work, out=out, seed=seed)
    context.invoke(evaluate, work=work, out=out)


def _one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _run(module: str, arguments: list[str], variables: dict[str, str]) -> None:
    """Run a trainer's module in this interpreter's environment, on one thread; stop with its exit status."""
    _one_thread()
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=os.environ | variables, check=False)
    if done.returncode:
        raise click.ClickException(f"{module} ended with status {done.returncode}; its output stands above")


if __name__ == "__main__":
    main()
