"""Models that stay loaded from one structure to the next, and are read anew once their weights have changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.call.config import Config
from uspex_bridge.call.run import Models
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

#: Most models that are kept at once.
MOST = 4


class Source(ABC):
    """Where a worker's models come from: its own process (:class:`Warm`) or the batcher (:mod:`.remote`)."""

    def begin(self, order: dict[str, Any]) -> None:  # noqa: B027
        """Hear that a structure begins, and of the order that it comes by."""

    def end(self) -> None:  # noqa: B027
        """Hear that it has ended."""

    @abstractmethod
    def get(self, name: str, settings: CalculatorSettings, state: Any) -> backends.Backend:
        """Return the calculator ``name`` with the weights in this state.

        Raises:
            ModelError: it cannot be loaded.
        """

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the calculators that this process holds."""


def lend(config: Config, source: Source) -> Models:
    """Return the models for one structure; which weights the configured ones have is settled now."""
    limit_threads(config.threads)
    return _Lent(config, source)


class Warm(Source):
    """The loaded models of a process, by everything that decides what they compute."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Any, backends.Backend]] = OrderedDict()

    def get(self, name: str, settings: CalculatorSettings, state: Any) -> backends.Backend:
        """Return the calculator ``name``, loading it unless it is there with the weights in this state.

        Raises:
            ModelError: it cannot be loaded.
        """
        key = repr((name, settings))
        if key in self._kept:
            loaded_as, backend = self._kept[key]
            if loaded_as == state:
                self._kept.move_to_end(key)
                return backend
            self._drop(key)
        backend = backends.load(name, settings)
        self._kept[key] = (state, backend)
        while len(self._kept) > MOST:
            self._drop(next(iter(self._kept)))
        return backend

    @property
    def names(self) -> list[str]:
        """Names of the calculators that are loaded."""
        return [backend.name for _, backend in self._kept.values()]

    def holds(self, backend: backends.Backend) -> bool:
        """Tell whether a calculator is kept."""
        return any(kept is backend for _, kept in self._kept.values())

    def _drop(self, key: str) -> None:
        self._kept.pop(key)[1].close()


class _Lent(Models):
    """The models of one structure, borrowed from those that stay."""

    def __init__(self, config: Config, source: Source) -> None:
        super().__init__(config)
        self._source = source
        self._states = {name: weights_state(name, config) for name in config.calculators}

    def __call__(self, name: str) -> backends.Backend:
        if name not in self.loaded:
            state = self._states[name] if name in self._states else weights_state(name, self.config)
            self.loaded[name] = self._source.get(name, self.config.settings_of(name), state)
        return self.loaded[name]

    def close(self) -> None:
        """Give them back."""
        self.loaded.clear()


def weights_state(name: str, config: Config) -> list[object] | None:
    """Return what tells, without reading them, which weights a calculator would load: file behind links, size, time."""
    try:
        path = backends.find_weights(name, config.settings_of(name)).path
        if path is None:
            return None
        path = path.resolve()
        state = path.stat()
    except (BridgeError, OSError):
        return None
    return [str(path), state.st_size, state.st_mtime_ns]
