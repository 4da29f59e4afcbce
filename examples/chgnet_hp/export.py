"""Write a training of train.py as a checkpoint of CHGNet, its energies on the scale of the Materials Project.

    python export.py work/best.pt -o ../../calculators/weights/chgnet-hp.pth.tar

The network is taken as it is. Its energies are those of the training data up to one constant per element, and so are
all differences between structures of one composition, formation energies and hulls. The constants are chosen so that
energies agree with CHGNet 0.3.0 on structures near 0 GPa, where that is at home: what goes by the Materials Project's
scale then goes by this one too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from data import composition, frames, network

from uspex_bridge.base.units import pressure_of

#: Below this pressure CHGNet 0.3.0 is asked for the scale, GPa.
CALM = 5.0


def constants(model: Any, reference: Any) -> np.ndarray:
    """Return an energy per element (94,), eV, that brings ``model`` to the scale of ``reference``."""
    calm = [
        atoms for atoms in frames(("train", "valid"), tests_only=True) if abs(pressure_of(atoms.get_stress())) < CALM
    ]
    shares = np.array([composition(atoms) for atoms in calm])
    given = np.array([energy(reference, atoms) for atoms in calm])
    own = np.array([energy(model, atoms) for atoms in calm])
    given += shares @ (old := reference.composition_model.fc.weight.detach().numpy()[0])
    # A little of the old constant for every element, so that one that is rare or missing stays near it.
    weight = 0.03
    left = np.vstack([shares, weight * np.eye(94)])
    return np.linalg.lstsq(left, np.concatenate([given - own, weight * old]), rcond=None)[0]


def energy(model: Any, atoms: Any) -> float:
    """Return the network's energy without the elements' constants, eV/atom."""
    return float(network(model, [atoms], derive=False)[0])


@click.command()
@click.argument("trained", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The checkpoint.")
def main(trained: Path, out: Path) -> None:
    """Write the training TRAINED as a checkpoint of CHGNet."""
    import torch
    from chgnet.model.model import CHGNet

    reference = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    model.load_state_dict(torch.load(trained, map_location="cpu", weights_only=False)["model"])
    found = constants(model, reference)
    with torch.no_grad():
        model.composition_model.fc.weight[0] = torch.tensor(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    # as CHGNet's own trainer says that moments were not trained
    torch.save({"model": model.as_dict(), "trainer_args": {"targets": "efs"}}, out)
    again = CHGNet.from_file(str(out))
    atoms = frames(("valid",), tests_only=True)[0]
    apart = energy(again, atoms) - energy(model, atoms)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB; read again, an energy differs by {abs(apart):.1e} eV/atom")


if __name__ == "__main__":
    main()
