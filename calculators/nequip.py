"""NequIP and Allegro (nequip): compiled models, packages and checkpoints of the NequIP framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.neighbours import split
from uspex_bridge.models.cards import Batch, BuildRequest, Card, constructor_options

#: The published models lie on nequip.net, from where ``nequip-compile nequip.net:GROUP/MODEL:VERSION FILE`` takes them.
CARD = Card(
    kind="nequip",
    title="NequIP, Allegro",
    package="nequip==0.19.1",
    module="nequip",
    install="uspex-bridge env create nequip",
    model_required=True,
    dtypes=(),
    elements="as in the weights",
    kernels="when compiling: `nequip-compile --modifiers`; `compile_mode` of a package",
    licence="MIT",
    citation="doi:10.1038/s41467-022-29939-5 (NequIP), doi:10.1038/s41467-023-36329-y (Allegro), "
    "arXiv:2607.28461 (foundation models)",
    verified="made",
)
#: Endings of what nequip-compile writes, and of what can be run as it is.
_COMPILED, _SAVED = (".nequip.pth", ".nequip.pt2"), (".nequip.zip", ".ckpt")
_OWN = ("model", "device", "transforms")
_LOADER = ("neighborlist_backend", "neighborlist_backend_kwargs", "chemical_species_to_atom_type_map")
_SAVED_ONLY = ("allow_tf32", "model_name", "compile_mode")


def build(request: BuildRequest) -> Any:
    """Return nequip's ASE calculator for a compiled model, a package or a checkpoint.

    Raises:
        ConfigError: an option that this file does not take.
        ModelError: the file's name does not end as nequip's files do, or its types are not elements.
    """
    from ase.data import chemical_symbols
    from nequip.ase import NequIPCalculator

    name = str(request.path)
    if not name.endswith(_COMPILED + _SAVED):
        raise ModelError(f"{name}: nequip's files end in {', '.join(_COMPILED + _SAVED)}; see nequip-compile")
    compiled = name.endswith(_COMPILED)
    loader = {key: value for key, value in request.options.items() if key in _LOADER + _SAVED_ONLY}
    if wrong := [key for key in loader if compiled and key in _SAVED_ONLY]:
        raise ConfigError(f"options: {', '.join(wrong)} was decided when {name} was compiled")
    rest = {key: value for key, value in request.options.items() if key not in loader}
    own = constructor_options(rest, NequIPCalculator, *_OWN)
    loader = {"chemical_species_to_atom_type_map": True, **loader, **own}
    make = NequIPCalculator.from_compiled_model if compiled else NequIPCalculator._from_saved_model
    calculator = make(name, device=request.device, **loader)
    calculator.bridge_file = name
    if strange := [type_name for type_name in elements(calculator) if type_name not in chemical_symbols]:
        raise ModelError(
            f"{name}: its types {', '.join(strange)} are not elements; set options.chemical_species_to_atom_type_map"
        )
    return calculator


def batch(calculator: Any) -> Batch | None:
    """Return the network for many structures: nequip's own data, joined by its own function.

    What AOTInductor compiled for ASE takes one structure at a time.
    """
    if calculator.bridge_file.endswith(".pt2"):
        return None
    from nequip.data import AtomicDataDict

    energy_unit, length_unit = calculator.energy_units_to_eV, calculator.length_units_to_A
    cutoff = next(t.r_max for t in calculator.transforms if hasattr(t, "r_max"))

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        data = AtomicDataDict.batched_from_list([calculator.atoms_to_data(atoms) for atoms in structures])
        found = calculator.call_model(data)
        energies, forces, stresses = (
            found[key].detach().cpu().numpy()
            for key in (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY, AtomicDataDict.STRESS_KEY)
        )
        own = split(forces, [len(atoms) for atoms in structures])
        return [
            {
                "energy": energy * energy_unit,
                "forces": force * energy_unit / length_unit,
                "stress": stress.reshape(3, 3) * energy_unit / length_unit**3,
            }
            for energy, force, stress in zip(energies, own, stresses, strict=True)
        ]

    return Batch(evaluate, float(cutoff) * length_unit)


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements that the model has types for."""
    mapper = next(t for t in calculator.transforms if hasattr(t, "model_type_names"))
    return frozenset(getattr(mapper, "chemical_species_to_atom_type_map", None) or mapper.model_type_names)
