"""Write a NEP4 of random weights in GPUMD's text format: python make_nep.py OUT.txt."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ELEMENTS = ["Ca", "Fe", "Ni"]
NEURONS, ORDERS, SIZES = 8, (4, 4), (6, 6)
ANGULAR = 4  # l of three-body terms; four- and five-body terms are left out


def main() -> None:
    kinds = len(ELEMENTS)
    length = ORDERS[0] + 1 + (ORDERS[1] + 1) * ANGULAR
    network = kinds * (length + 2) * NEURONS + 1
    descriptor = kinds**2 * sum((order + 1) * (size + 1) for order, size in zip(ORDERS, SIZES, strict=True))
    rng = np.random.default_rng(3)
    header = [
        f"nep4 {kinds} {' '.join(ELEMENTS)}",
        "cutoff 4.5 4.0 200 150",
        f"n_max {ORDERS[0]} {ORDERS[1]}",
        f"basis_size {SIZES[0]} {SIZES[1]}",
        f"l_max {ANGULAR} 0 0",
        f"ANN {NEURONS} 0",
    ]
    weights = rng.normal(0, 0.5, network + descriptor)
    scales = np.full(length, 0.3)
    numbers = "\n".join(f"{value:15.7e}" for value in (*weights, *scales))
    Path(sys.argv[1]).write_text("\n".join(header) + "\n" + numbers + "\n")


if __name__ == "__main__":
    main()
