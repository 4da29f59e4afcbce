"""The shape of a service: how many processes relax, and whether batchers evaluate for them or each does itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from uspex_bridge.call.config import Config

#: Processes that relax for one batcher: what one of them does between two evaluations must not hold up a GPU.
PER_BATCHER = 32
#: Seconds for PyTorch to load and tell how many GPUs it can use.
_ASKING = 45.0
#: Where drivers of NVIDIA's and AMD's GPUs show, WSL's too; without any there is no need to load PyTorch.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True)
class Shape:
    """How a service works.

    Attributes:
        workers: most processes that relax, each one structure at a time.
        devices: of the batchers; ``""`` leaves the choice to the models, no batcher: every worker holds its own.
        why: in words, for ``status``.
    """

    workers: int
    devices: tuple[str, ...]
    why: str


def choose_shape(config: Config) -> Shape:
    """Return the shape for this machine and these settings.

    On a GPU kernels are too small for one structure, and batches are everything; on CPUs the arithmetic is the limit,
    and a single-threaded process per core, without batches, is faster (docs/service.md).
    """
    settings = config.service
    gpus = 0 if settings.batch is False or config.device == "cpu" else count_gpus()
    if settings.batch is False or (settings.batch == "auto" and not gpus):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        where = "device = 'cpu'" if config.device == "cpu" else "no GPU"
        reason = "batch = false" if settings.batch is False else f"{where}, and on CPUs that is faster than batches"
        return Shape(
            settings.workers or max(1, cores // config.threads), (), f"every worker evaluates itself: {reason}"
        )
    spread = gpus > 1 and config.device in ("auto", "cuda")
    devices = tuple(f"cuda:{index}" for index in range(gpus)) if spread else ("",)
    reason = "batch = true" if settings.batch is True else f"PyTorch finds {gpus} GPU{'s' if gpus > 1 else ''}"
    return Shape(settings.workers or PER_BATCHER * len(devices), devices, f"batches: {reason}")


def count_gpus() -> int:
    """Return how many GPUs PyTorch can use, asking it in a process of its own: this one never loads it."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=_ASKING, check=True
        )
        return int(asked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
