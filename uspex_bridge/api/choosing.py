"""Choice of structures for labels, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.api.models import settings_of
from uspex_bridge.api.searching import open_results
from uspex_bridge.call.config import Config

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.screen import Limits
    from uspex_bridge.learn.choose.screening import Screened
    from uspex_bridge.learn.choose.selection import Selected


def screen(
    *places: str | Path,
    models: Sequence[str],
    limits: Limits | Mapping[str, Any] | None = None,
    out: str | Path = "screened",
    config: Config | str | Path | None = None,
    **options: Any,
) -> Screened:
    """Find the structures on which models disagree, as ``uspex-bridge screen`` does.

    Args:
        places: results folders or files of structures.
        models: at least two: calculators' names, ``KIND:WEIGHTS`` or folders of trainings.
        limits: thresholds (``uspex_bridge.learn.choose.screen.Limits``).
        out: folder that keeps every prediction, so that a repeated call computes only what is missing.
        config: settings, or the path of a bridge.toml.
        options: arguments of ``uspex_bridge.learn.choose.screening.screen_pool``.

    Raises:
        ConfigError: fewer than two different models.
        InputError: there is no readable structure.
        ModelError: a model cannot be loaded.
    """
    from uspex_bridge.learn.choose.screen import Limits as Thresholds
    from uspex_bridge.learn.choose.screening import screen_pool

    thresholds = limits if isinstance(limits, Thresholds) else Thresholds(**(limits or {}))
    return screen_pool(open_results(*places).pool, models, settings_of(config), Path(out), thresholds, **options)


def select(
    *places: str | Path,
    budget: int = 100,
    have: str | Path | None = None,
    references: Sequence[str | Path] = (),
    quota: Mapping[str, Any] | None = None,
    exclusions: Mapping[str, Any] | None = None,
    **options: Any,
) -> Selected:
    """Choose a few structures that stand for all, as ``uspex-bridge select`` does.

    Args:
        places: results folders or files of structures.
        budget: the largest number of structures.
        have: what is there already, a dataset's folder or a file of structures.
        references: places that only span the hull.
        quota: other fields of ``uspex_bridge.learn.choose.select.Quota``.
        exclusions: other fields of ``uspex_bridge.learn.choose.selection.Exclusions``.
        options: arguments of ``uspex_bridge.learn.choose.selection.select_pool``.

    Raises:
        ConfigError: a quota that cannot be met.
        InputError: there is no structure, or none is left to choose from.
    """
    from uspex_bridge.learn.choose.select import Quota
    from uspex_bridge.learn.choose.selection import Exclusions, select_pool

    search = open_results(*places, references=references)
    given = dict(exclusions or {}) | ({"have": Path(have)} if have is not None else {})
    return select_pool(
        search.pool,
        Quota(budget=budget, **(quota or {})),
        Exclusions(**given),
        references=[str(place) for place in references],
        **options,
    )
