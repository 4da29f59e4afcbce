"""CHGNet, charge-informed graph network; its weights come with the package and it predicts magnetic moments."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

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
            note="atoms within 6 Å",
            data="MPtrj",
            functional="pbe",
        ),
        KnownModel(
            "0.2.0",
            size_mb=4.6,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",),
            note="atoms within 5 Å; not continuous where no three atoms meet",
            data="MPtrj",
            functional="pbe",
        ),
        KnownModel(
            "r2scan",
            size_mb=4.9,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",),
            note="r2SCAN energies",
            data="MP r2SCAN",
            functional="r2scan",
            energy_zero="model",
        ),
    ),
    energy_zero="mp-pbe",
    magmoms=True,
    elements="89",
    licence="BSD-3-Clause",
    citation="doi:10.1038/s42256-023-00716-3",
)


def build(request: BuildRequest) -> Any:
    """Return CHGNet's ASE calculator for a model of the package or a trained checkpoint of one's own.

    A checkpoint that was trained on energies, forces and stresses alone gives no magnetic moments: its features have
    moved away from those that moments are read from.
    """
    import torch
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    # Atoms without neighbours are the guards' business; CHGNet would warn at every step.
    own = ("model", "use_device", "stress_weight")
    options = {"on_isolated_atoms": "ignore", **constructor_options(request.options, CHGNetCalculator, *own)}
    if request.path is None:
        model, known = CHGNet.load(model_name=str(request.model), use_device=request.device, verbose=False), True
    else:
        stored = torch.load(request.path, map_location="cpu", weights_only=False)
        model = CHGNet.from_dict(stored["model"])
        known = "m" in (stored.get("trainer_args") or {}).get("targets", "m")

    class Calculator(CHGNetCalculator):
        """CHGNet's own, which leaves out moments that were not trained."""

        moments = known

        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            super().calculate(*arguments, **keywords)
            if not known:
                self.results.pop("magmoms", None)

    return Calculator(model=model, use_device=request.device, **options)


def batch(calculator: Any) -> Batch | None:
    """Return CHGNet's network for many structures, with one derivation for forces and stresses together.

    The package itself makes its graph of Python objects and derives twice, keeping a graph for further derivatives.
    Option ``on_isolated_atoms`` is its graph maker's, which then evaluates.
    """
    model = calculator.model.requires_grad_(False).eval()
    converter = model.graph_converter
    if converter.on_isolated_atoms != "ignore":
        return None
    cutoff, angle_cutoff = float(converter.atom_graph_cutoff), float(converter.bond_graph_cutoff)

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = neighbours.graph(structures, cutoff)
        meeting = np.bincount(graph.owners[graph.first[graph.angles(angle_cutoff)[0]]], minlength=len(structures)) > 0
        if meeting.all() or not meeting.any():
            return _pass(calculator, graph, angle_cutoff)
        found: list[dict[str, Any]] = [{}] * len(structures)  # CHGNet leaves out layers where it sees no angle at all
        for group in (np.flatnonzero(meeting).tolist(), np.flatnonzero(~meeting).tolist()):
            answers = evaluate([structures[index] for index in group])
            for index, answer in zip(group, answers, strict=True):
                found[index] = answer
        return found

    return Batch(evaluate, cutoff, angle_cutoff)


def _pass(calculator: Any, graph: neighbours.Graph, angle_cutoff: float) -> list[dict[str, Any]]:
    """Run the network once over a graph."""
    import torch

    model, device = calculator.model, calculator.device

    def real(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.float32, device=device)

    positions, cells, sizes = real(graph.positions), real(graph.cells), real(graph.sizes)
    positions.requires_grad_(True)
    strains = torch.zeros_like(cells, requires_grad=True)
    read = inputs(model, graph, angle_cutoff, positions, cells, strains)
    predicted = model._compute(read, compute_magmom=calculator.moments)
    scale = sizes if model.is_intensive else torch.ones_like(sizes)
    slopes = torch.autograd.grad((predicted["e"] * scale).sum(), (positions, strains), allow_unused=True)
    numbers = torch.tensor(graph.numbers, device=device).split(graph.sizes.tolist())
    if model.composition_model is not None:
        predicted["e"] = predicted["e"] + model.composition_model([SimpleNamespace(atomic_number=z) for z in numbers])
    energies = (predicted["e"] * scale).detach().cpu().numpy()
    gradients, virials = (
        np.zeros(of.shape) if slope is None else slope.cpu().numpy().astype(float)
        for slope, of in zip(slopes, (positions, strains), strict=True)
    )
    answers = [
        {"energy": energy, "forces": -gradient, "stress": virial / volume}
        for energy, gradient, virial, volume in zip(
            energies, graph.split(gradients), virials, graph.volumes, strict=True
        )
    ]
    for answer, magmoms in zip(answers, predicted["m"] if calculator.moments else (), strict=calculator.moments):
        answer["magmoms"] = magmoms.detach().cpu().numpy()
    return answers


def inputs(model: Any, graph: neighbours.Graph, angle_cutoff: float, positions: Any, cells: Any, strains: Any) -> Any:
    """Return what the network reads, CHGNet's ``BatchedGraph``, as a function of positions and strains."""
    import torch
    from chgnet.model.model import BatchedGraph

    def whole(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int32, device=positions.device)

    first, second, owners = (
        torch.tensor(v, device=positions.device) for v in (graph.first, graph.second, graph.owners)
    )
    bonds, one_way = _bonds(graph)
    one, other = graph.angles(angle_cutoff)
    moved = positions + torch.einsum("ni,nij->nj", positions, strains[owners])
    lattices = cells + cells @ strains
    images = torch.tensor(graph.images, dtype=positions.dtype, device=positions.device)
    long_basis, short_basis, directions = model.bond_basis_expansion(
        center=moved[first],
        neighbor=moved[second] + torch.einsum("mi,mij->mj", images, lattices[owners[first]]),
        undirected2directed=whole(one_way),
        image=images.new_zeros(1, 3),
        lattice=images.new_zeros(3, 3),
    )
    return BatchedGraph(
        atomic_numbers=whole(graph.numbers),
        bond_bases_ag=long_basis,
        bond_bases_bg=short_basis,
        angle_bases=model.angle_basis_expansion(directions[one], directions[other])
        if len(one)
        else images.new_zeros(0),
        batched_atom_graph=whole(np.stack((graph.first, graph.second), axis=1)),
        batched_bond_graph=whole(np.stack((graph.first[one], bonds[one], bonds[other]), axis=1)),
        atom_owners=whole(graph.owners),
        directed2undirected=whole(bonds),
        atom_positions=[],
        strains=[],
        volumes=[],
    )


def _bonds(graph: neighbours.Graph) -> tuple[Any, Any]:
    """Return the number of the bond that each pair is one direction of (M,), and one of its pairs per bond (M/2,)."""
    reach = 2 * int(np.abs(graph.images).max(initial=0)) + 1
    x, y, z = graph.images.T
    image = (x * reach + y) * reach + z  # zero only for no displacement, and negative for the reverse one
    forward = (graph.first < graph.second) | ((graph.first == graph.second) & (image > 0))
    low, high = np.minimum(graph.first, graph.second), np.maximum(graph.first, graph.second)
    key = (low * len(graph.numbers) + high) * reach**3 + np.where(forward, image, -image)
    _, one_way, bonds = np.unique(key, return_index=True, return_inverse=True)
    return bonds, one_way


def elements(calculator: Any) -> frozenset[str]:
    """Return H to Pu, the 94 elements of CHGNet's table."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : calculator.model.composition_model.max_num_elements + 1])
