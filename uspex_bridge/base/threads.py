"""CPU threads. Several relaxations side by side on a node must not each start a thread per core."""

from __future__ import annotations

import os
import sys

#: Where PyTorch, NumPy's libraries and DeePMD-kit take their number of threads from.
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "DP_INTRA_OP_PARALLELISM_THREADS",
    "DP_INTER_OP_PARALLELISM_THREADS",
)


def limit_threads(number: int) -> None:
    """Let PyTorch and NumPy's libraries use ``number`` CPU threads, in this process and in workers started by it.

    NumPy's libraries read their limit when they are loaded, so call this before numpy is imported: on a busy node
    an OpenBLAS of several threads makes the optimizers' small matrices many times slower.
    """
    for variable in VARIABLES:
        os.environ[variable] = str(number)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)
