"""UMA and eSEN (fairchem-core): one network for several kinds of data, whose task ``head`` chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.neighbours import split
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel


def _known(name: str, **facts: Any) -> KnownModel:
    return KnownModel(
        name,
        hub="facebook/UMA",
        files=(f"checkpoints/{name}.pt", f"{name}.pt"),
        licence="FAIR Chemistry License",
        **facts,
    )


#: Names and repositories as in fairchem-core 2.24.0 (``pretrained_models.json``); eSEN's models of molecules have no
#: stress, and those of OMat24 are of the package's first version, which this one does not read.
CARD = Card(
    kind="fairchem",
    title="UMA, eSEN",
    package="fairchem-core==2.24.0",
    module="fairchem.core",
    install="uspex-bridge env create fairchem",
    models=(
        _known(
            "uma-s-1p2p1",
            note="head is omat for crystals; access on request",
            data="OMat24, OMol25, OC20, OMC25, ODAC25",
        ),
        _known("uma-s-1p2", note="as above"),
        _known("uma-s-1p1", note="as above"),
        _known("uma-m-1p1", note="as above, larger"),
        _known("uma-s-1p2p1-ft-r2scan", note="as above", functional="r2scan"),
    ),
    search=("{cache}/fairchem",),
    head="task",
    dtypes=("float32", "float64"),
    elements="all up to 100 that the tasks hold",
    kernels='inference_settings = "high-precision", "multigpu" or "nitro"',
    licence="MIT",
    citation="arXiv:2506.23971 (UMA), arXiv:2502.12147 (eSEN)",
    verified="made",
)


def build(request: BuildRequest) -> Any:
    """Return fairchem's ASE calculator for an inference checkpoint (.pt).

    Raises:
        ConfigError: an option that there is not.
        ModelError: the task is missing, not one of the model's, or predicts no stress.
    """
    from fairchem.core.calculate.ase_calculator import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import load_predict_unit
    from fairchem.core.units.mlip_unit.api.inference import NAME_TO_INFERENCE_SETTING, InferenceSettings

    options = dict(request.options)
    chosen = options.pop("inference_settings", None)
    if options:
        raise ConfigError(f"options: fairchem takes inference_settings only, not {', '.join(options)}")
    if chosen is not None and chosen not in NAME_TO_INFERENCE_SETTING:
        raise ConfigError(f"inference_settings = '{chosen}' is not one of {', '.join(NAME_TO_INFERENCE_SETTING)}")
    # what mixes structures and stays in full precision; the package's own default does neither on a GPU
    settings = chosen or InferenceSettings(activation_checkpointing=False, base_precision_dtype=request.dtype)
    unit = load_predict_unit(str(request.path), settings, device=request.device.partition(":")[0])
    tasks = list(unit.dataset_to_tasks)
    if request.head not in tasks and (request.head or len(tasks) > 1):
        asked = f"no head '{request.head}'" if request.head else "head is not set"
        raise ModelError(f"{request.path}: {asked}; this model's tasks: {', '.join(tasks)}")
    calculator = FAIRChemCalculator(unit, task_name=request.head)
    if missing := {"energy", "forces", "stress"} - set(calculator.implemented_properties):
        raise ModelError(f"{request.path}: task {calculator.task_name} predicts no {', '.join(sorted(missing))}")
    calculator.bridge_batches = chosen in (None, "batch")
    return calculator


def batch(calculator: Any) -> Batch | None:
    """Return the network for many structures: fairchem's own data, joined by its own function.

    Settings that merge the experts of UMA for one composition take one structure at a time.
    """
    if not calculator.bridge_batches:
        return None
    from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        for atoms in structures:
            calculator.predictor.validate_atoms_data(atoms, calculator.task_name)
        found = calculator.predictor.predict(atomicdata_list_to_batch([calculator.a2g(atoms) for atoms in structures]))
        energies, forces, stresses = (
            found[name].detach().cpu().double().numpy() for name in ("energy", "forces", "stress")
        )
        own = split(forces, [len(atoms) for atoms in structures])
        return [
            {"energy": energy, "forces": force, "stress": stress}
            for energy, force, stress in zip(energies.reshape(-1), own, stresses.reshape(-1, 3, 3), strict=True)
        ]

    return Batch(evaluate, float(_backbone(calculator).cutoff))


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements of the network's table; the file does not say which of them its weights saw."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : int(_backbone(calculator).max_num_elements) + 1])


def _backbone(calculator: Any) -> Any:
    model = calculator.predictor.model
    return getattr(model, "module", model).backbone
