"""CHGNet, charge-informed graph network; its weights come with the package and it predicts magnetic moments."""

from __future__ import annotations

from typing import Any

from uspex_bridge.cards import BuildRequest, Card, KnownModel, constructor_options

#: Weights as in the chgnet 0.4.2 wheel (``chgnet/pretrained``).
CARD = Card(
    kind="chgnet",
    title="CHGNet",
    package="chgnet==0.4.2",
    module="chgnet",
    install="pip install chgnet==0.4.2",
    models=(
        KnownModel(
            "0.3.0",
            size_mb=4.9,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",),
            note="MPtrj, atoms within 6 Å",
        ),
        KnownModel(
            "0.2.0",
            size_mb=4.6,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",),
            note="MPtrj, atoms within 5 Å; not continuous where no three atoms meet",
        ),
        KnownModel(
            "r2scan",
            size_mb=4.9,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",),
            note="r2SCAN energies",
            energy_zero="model",
        ),
    ),
    energy_zero="mp-pbe",
    magmoms=True,
    licence="BSD-3-Clause",
    citation="doi:10.1038/s42256-023-00716-3",
)


def build(request: BuildRequest) -> Any:
    """Return CHGNet's ASE calculator for a model of the package or a trained checkpoint of one's own."""
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    if request.path is None:
        model = CHGNet.load(model_name=str(request.model), use_device=request.device, verbose=False)
    else:
        model = CHGNet.from_file(str(request.path))
    # Atoms without neighbours are the guards' business; CHGNet would warn at every step.
    own = ("model", "use_device", "stress_weight")
    options = {"on_isolated_atoms": "ignore", **constructor_options(request, CHGNetCalculator, *own)}
    return CHGNetCalculator(model=model, use_device=request.device, **options)


def elements(calculator: Any) -> frozenset[str]:
    """Return H to Pu, the 94 elements of CHGNet's table."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : calculator.model.composition_model.max_num_elements + 1])
