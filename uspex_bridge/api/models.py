"""Settings and models from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.call.config import Config, load_config
from uspex_bridge.models.backends import Backend


def load_model(
    name: str,
    path: str | Path | None = None,
    *,
    device: str | None = None,
    head: str | None = None,
    dtype: str | None = None,
    python: str | None = None,
    config: Config | str | Path | None = None,
    **options: Any,
) -> Backend:
    """Load a model: ``.calculator`` is an ASE calculator, ``evaluate_many`` evaluates structures together.

    Args:
        name: name of a calculator in the settings, a kind (``chgnet``, ``mace``, ...), ``KIND:WEIGHTS``, or folder of a
            training.
        path: file of the weights; None: from the settings, or the default of the kind.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        head: head of a model with several heads.
        dtype: precision, if the kind supports a choice.
        python: interpreter of another environment in which the model runs.
        config: settings, or path of a bridge.toml; None: search for one, as the commands do.
        options: further options of the kind.

    Raises:
        ConfigError: an unknown kind, or an unknown setting of it.
        ModelError: package, weights or device are missing.
    """
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.model_names import settings_for
    from uspex_bridge.models.backends import load

    settings = settings_of(config, device=device)
    limit_threads(settings.threads)
    chosen = settings_for(name, settings)
    given: dict[str, Any] = {"model": path and str(path), "head": head, "dtype": dtype, "python": python}
    chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})
    return load(name, replace(chosen, options={**chosen.options, **options}))


def settings_of(config: Config | str | Path | None, **given: Any) -> Config:
    """Return the settings with what is given over them."""
    read = config if isinstance(config, Config) else load_config(Path.cwd(), None if config is None else Path(config))
    try:
        return replace(read, **{key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from None
