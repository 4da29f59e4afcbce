"""Write a MatterSim checkpoint of random weights with mattersim itself: python make_mattersim.py OUT.pth."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
from mattersim.forcefield.potential import Potential


def main() -> None:
    torch.manual_seed(1)
    model = M3Gnet(num_blocks=2, units=16, max_l=2, max_n=2, device="cpu")
    Potential(model, device="cpu").save(str(Path(sys.argv[1]).absolute()))


if __name__ == "__main__":
    main()
