"""What runs in the trainer's own interpreter: the upstream trainer, as its command line would start it.

That interpreter needs the trainer's package, not uspex_bridge (see :func:`uspex_bridge.models.worker.command_in`).
The process ends with its parent, however that ends: stdin is a pipe from it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the task named in argv[3] with the arguments that follow it."""
    task, *arguments = sys.argv[3:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    TASKS[task](arguments)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def deepmd(arguments: list[str]) -> None:
    """Run ``dp`` on a device: DEVICE --pt train ..."""
    from uspex_bridge.calculators.deepmd import import_backend

    device, *rest = arguments
    import_backend(device)
    from deepmd.main import main as dp

    dp(rest)


def mace(arguments: list[str]) -> None:
    """Run ``mace_run_train``."""
    from mace.cli.run_train import main as run

    sys.argv = ["mace_run_train", *arguments]
    run()


def mattersim(arguments: list[str]) -> None:
    """Run MatterSim's fine-tuning script in a process group of one; ``--resume FILE`` goes on with a training.

    The script imports wandb and mp_api without using them here, and has no way to go on: it always loads bare weights.
    """
    for name, parts in (("wandb", ()), ("mp_api", ("client",))):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            for part in parts:
                sys.modules[f"{name}.{part}"] = types.ModuleType(part)
                sys.modules[f"{name}.{part}"].MPRester = None  # type: ignore[attr-defined]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if arguments[0] == "--resume":
        _load_training_state(Path(arguments[1]))
        arguments = arguments[2:]
    sys.argv = ["finetune_mattersim.py", *arguments]
    runpy.run_module("mattersim.training.finetune_mattersim", run_name="__main__")


def _load_training_state(checkpoint: Path) -> None:
    """Make MatterSim load a checkpoint with its optimizer, rate and epoch, and remember its best epoch."""
    import torch
    from mattersim.forcefield.potential import Potential

    plain = Potential.from_checkpoint.__func__
    best = torch.load(checkpoint.parent / "best_model.pth", map_location="cpu", weights_only=False)

    def from_checkpoint(cls: Any, /, load_path: str | None = None, **options: Any) -> Any:
        potential = plain(cls, str(checkpoint), **options | {"load_training_state": True})
        potential.best_metric = best["validation_metrics"]["loss"]
        potential.best_metric_epoch = best["last_epoch"]
        return potential

    Potential.from_checkpoint = classmethod(from_checkpoint)


def chgnet(arguments: list[str]) -> None:
    """Run CHGNet's trainer as ``input.json`` says; ``--resume FILE`` goes on with a training."""
    from uspex_bridge.learn.training.trainers.chgnet_launch import train

    train(arguments[1] if arguments else None)


def describe(arguments: list[str]) -> None:
    """Write what a checkpoint is for, as JSON: KIND FILE OUT."""
    kind, file, out = arguments
    if kind == "mace":
        import mace.calculators  # noqa: F401 (it makes torch load what MACE keeps)
    import torch
    from ase.data import chemical_symbols

    loaded = torch.load(file, map_location="cpu", weights_only=kind == "deepmd")
    facts: dict[str, Any] = {}
    if kind == "deepmd":
        params = (loaded.get("model") or loaded)["_extra_state"]["model_params"]
        branches = params.get("model_dict")
        facts["branches"] = sorted(branches) if branches else []
        maps = {name: one["type_map"] for name, one in branches.items()} if branches else {"": params["type_map"]}
        facts["elements"] = {name: _shared(params, types_) for name, types_ in maps.items()}
    elif kind == "mace":
        facts["branches"] = list(getattr(loaded, "heads", None) or [])
        facts["elements"] = {"": [chemical_symbols[int(z)] for z in loaded.atomic_numbers]}
        facts["shape"] = {"default_dtype": str(next(loaded.parameters()).dtype).removeprefix("torch.")}
    elif kind == "chgnet":
        weights = loaded["model"]["state_dict"]["composition_model.fc.weight"]
        facts["branches"] = []
        facts["elements"] = {"": chemical_symbols[1 : weights.shape[1] + 1]}
    else:
        settings = loaded["model_args"]
        facts["branches"] = []
        facts["elements"] = {"": chemical_symbols[1 : settings.get("max_z", 94) + 1]}
        facts["shape"] = {key: settings[key] for key in ("cutoff", "threebody_cutoff") if key in settings}
    Path(out).write_text(json.dumps(facts))


def _shared(params: dict[str, Any], type_map: Any) -> list[str]:
    """Return a type map, by way of the shared dictionary where a multi-task model names it only."""
    return list(params["shared_dict"][type_map] if isinstance(type_map, str) else type_map)


def environment(arguments: list[str]) -> None:
    """Write the versions of the packages that matter and the number of GPUs, as JSON: PACKAGE... OUT."""
    import importlib.metadata
    import platform

    *packages, out = arguments
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    gpus = 0
    if found.get("torch"):
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    Path(out).write_text(json.dumps({"versions": found, "gpus": gpus}))


TASKS: dict[str, Callable[[list[str]], None]] = {
    "deepmd": deepmd,
    "mace": mace,
    "mattersim": mattersim,
    "chgnet": chgnet,
    "describe": describe,
    "environment": environment,
}
