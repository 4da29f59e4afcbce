import os
import subprocess
import sys

from uspex_bridge.base.threads import limit_threads


def test_limit_holds_for_torch_loaded_before_and_for_processes_started_after(monkeypatch):
    import torch

    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "7")
    for variable in ("DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    try:
        limit_threads(2)
        assert torch.get_num_threads() == 2
        assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], capture_output=True, text=True
        )
        assert shown.stdout.strip() == "2"
    finally:
        limit_threads(1)
