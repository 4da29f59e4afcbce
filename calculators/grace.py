"""GRACE, graph atomic cluster expansion (tensorpotential, TensorFlow)."""

from __future__ import annotations

from typing import Any

from uspex_bridge.models.cards import BuildRequest, Card, KnownModel, constructor_options

#: What stands for a folder that TensorFlow saved a model in: its numbers, which tell two models apart.
_NUMBERS = "variables/variables.data-00000-of-00001"


def _known(name: str, data: str, **facts: Any) -> KnownModel:
    return KnownModel(
        name,
        files=(f"{name}/{_NUMBERS}",),
        get=f"grace_models download {name} (in the environment of grace)",
        licence="Academic Software License",
        data=data,
        functional="pbe",
        **facts,
    )


#: Names as in tensorpotential 0.6.2.1 (``tensorpotential.calculator.foundation_models``), whose own command fetches
#: and unpacks them.
CARD = Card(
    kind="grace",
    title="GRACE",
    package="tensorpotential==0.6.2.1",
    module="tensorpotential",
    install="uspex-bridge env create grace",
    models=(
        *(_known(f"GRACE-{size}-OAM", "OMat24, sAlex, MPtrj") for size in ("2L", "1L", "FS")),
        *(_known(f"GRACE-{size}-OMAT", "OMat24") for size in ("2L", "1L", "FS")),
        *(
            _known(f"GRACE-{layers}-OMAT-{size}-ft-AM", "OMat24, sAlex, MPtrj")
            for layers, size in (("3L", "large"), ("2L", "large"), ("2L", "medium"))
        ),
    ),
    search=("{cache}/grace",),
    folder_file=_NUMBERS,
    pickled=False,
    dtypes=(),
    elements="89",
    licence="Academic Software License",
    citation="doi:10.1103/PhysRevX.14.021036 (method), doi:10.1038/s41524-026-01979-1 (foundation models)",
    verified="made",
)
_OWN = ("model", "extra_properties", "truncate_extras_by_natoms", "debug_padding", "directory")


def build(request: BuildRequest) -> Any:
    """Return tensorpotential's ASE calculator for a folder that TensorFlow saved a model in."""
    import tensorflow as tf
    from tensorpotential.calculator import TPCalculator

    assert request.path is not None
    if request.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    options = {"enable_uq_if_available": False, **constructor_options(request.options, TPCalculator, *_OWN)}
    return TPCalculator(str(request.path.parents[1]), **options)


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements that the model has types for."""
    return frozenset(calculator.element_map)
